//! What a host decided, in words: bids and refusals with amounts, starts,
//! stops, leases.

use super::Shown;
use potluck_core::{
    auction::{CallAnswer, Refusal, bytes},
    host::{Answer, Effect, Event, Host},
    record::Decided,
};
use potluck_specs::{Millis, NodeId, SlotId, job::Resources};

/// One decision; `host` as it was after it.
pub(super) fn shown(decision: &Decided<Event, Effect>, began: Millis, host: &Host) -> Shown {
    let effects = decision.effects.iter();
    let effects = effects.flat_map(|effect| told(effect, decision.now));
    Shown {
        at_ms: decision.now.since(began).0,
        event: event(&decision.event),
        effects: effects.collect(),
        reasons: reasons(&decision.effects, host),
        same: decision.same,
    }
}

/// What there was when it said no.
fn reasons(effects: &[Effect], host: &Host) -> Vec<String> {
    let refuses = effects.iter().any(|effect| match effect {
        Effect::Answer(Answer::Call(answer)) => matches!(answer, CallAnswer::Refusal(_)),
        Effect::Answer(Answer::Award(answer)) => answer.slots.iter().any(|(_, one)| one.is_err()),
        _ => false,
    });
    let line = |(what, amount): (&str, Resources)| format!("{what}: {}", resources(&amount));
    let state = [
        ("free", host.free()),
        ("its tasks have", host.committed()),
        ("open bids have", host.reserved()),
    ];
    match refuses {
        true => state.into_iter().map(line).collect(),
        false => Vec::new(),
    }
}

fn resources(amount: &Resources) -> String {
    let mut parts = vec![
        format!("{:.2} cores", f64::from(amount.cpu_millis) / 1_000.0),
        format!("{} of memory", bytes(amount.memory_bytes)),
    ];
    if amount.disk_bytes > 0 {
        parts.push(format!("{} of disk", bytes(amount.disk_bytes)));
    }
    parts.join(", ")
}

fn event(event: &Event) -> String {
    match event {
        Event::Call { call, .. } => format!(
            "call {} of reign {} for {} of {}, each {}",
            call.call,
            call.authority.reign.0,
            call.wanted,
            call.job,
            resources(&call.resources)
        ),
        Event::Award { award, .. } => {
            let slots: Vec<String> = award.slots.iter().map(|(id, _)| id.to_string()).collect();
            format!("award of {}", slots.join(", "))
        }
        Event::Cancel { call, .. } => format!("call {call} is cancelled"),
        Event::Stop(order) => format!("{} is to stop: {:?}", order.slot, order.reason),
        Event::Greet(authority) => format!("reign {} begins and asks", authority.reign.0),
        Event::Heartbeat => "a heartbeat is due".into(),
        Event::HeartbeatAnswered(_) => "the scheduler answers a heartbeat".into(),
        Event::SetDraining(draining) => match draining {
            true => "it is to take no new work".into(),
            false => "it may take work again".into(),
        },
        Event::SetFacts(_) => "what the node says of itself changes".into(),
        Event::SetPressure(pressure) => format!("the host's pressure is {pressure}/100"),
        Event::Leave => "the node leaves".into(),
        Event::Fetched { slot, .. } => format!("the packages of {slot} are here"),
        Event::FetchFailed { slot, why, .. } => {
            format!("the packages of {slot} can't be had: {why}")
        }
        Event::Running(run) => format!("{run} runs"),
        Event::Exited { run, end } => format!("{run} {end}"),
        Event::Troubled { run, trouble } => match trouble {
            Some(trouble) => format!("{run} is troubled: {trouble}"),
            None => format!("{run} is troubled no more"),
        },
        Event::HealthChanged { run, healthy } => match healthy {
            true => format!("{run} is healthy"),
            false => format!("{run} is not healthy"),
        },
        Event::Tick => "time passes".into(),
    }
}

/// What follows, in words; nothing for what only keeps the books.
fn told(effect: &Effect, now: Millis) -> Vec<String> {
    let line = match effect {
        Effect::Answer(answer) => return answered(answer),
        Effect::PersistAuthority(authority) => {
            format!(
                "obey reign {} of epoch {}",
                authority.reign.0, authority.epoch.0
            )
        }
        Effect::Fetch {
            slot,
            packages,
            holders,
            ..
        } => format!(
            "fetch {} packages for {slot} from {}",
            packages.len(),
            nodes(holders)
        ),
        Effect::CancelFetch { slot, .. } => format!("fetch no more for {slot}"),
        Effect::StartHelper(start) => match start.lease_until {
            None => format!("start {}", start.run),
            Some(until) => format!("start {}, with a lease {}", start.run, left(until, now)),
        },
        Effect::SignalStop {
            run,
            signal,
            grace_ms,
        } => format!("signal {signal} to {run}, killed after {grace_ms} ms"),
        Effect::Kill(run) => format!("kill {run}"),
        Effect::KillLost(run) => format!("kill what is left of {run}, whose helper is lost"),
        Effect::Lease { slot, until } => format!("the lease of {slot} lasts {}", left(*until, now)),
        Effect::Forgotten(slot) => format!("forget {slot}"),
        Effect::JournalPut { .. }
        | Effect::JournalRemove(_)
        | Effect::WatchHealth { .. }
        | Effect::UnwatchHealth(_)
        | Effect::WatchDisk { .. }
        | Effect::ReportChanged => return Vec::new(),
    };
    vec![line]
}

fn left(until: Millis, now: Millis) -> String {
    format!("{} ms more", until.since(now).0)
}

fn nodes(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(|node| node.short()).collect();
    match names.is_empty() {
        true => "nobody known".into(),
        false => names.join(", "),
    }
}

/// Inventories are told all the time: they are no decision.
fn answered(answer: &Answer) -> Vec<String> {
    let heard = |what: &str, heard: &Result<(), Refusal>| match heard {
        Ok(()) => Vec::new(),
        Err(refusal) => vec![format!("refuse {what}: {refusal}")],
    };
    match answer {
        Answer::Call(CallAnswer::Bid(bid)) => vec![format!(
            "bid for {}, held for {} ms, with {} to fetch, {} failures lately, pressure {}/100",
            bid.slots,
            bid.holds.0,
            bytes(bid.missing_bytes),
            bid.failures,
            bid.pressure
        )],
        Answer::Call(CallAnswer::Refusal(refusal)) => vec![format!("refuse the call: {refusal}")],
        Answer::Award(answer) => answer.slots.iter().map(awarded).collect(),
        Answer::Cancel(answer) => heard("to cancel", answer),
        Answer::Stop(answer) => heard("the stop", answer),
        Answer::Greet(Err(refusal)) => vec![format!("refuse the reign: {refusal}")],
        Answer::Greet(Ok(_)) | Answer::Heartbeat(_) => Vec::new(),
    }
}

fn awarded((slot, answer): &(SlotId, Result<(), Refusal>)) -> String {
    match answer {
        Ok(()) => format!("take {slot}"),
        Err(refusal) => format!("refuse {slot}: {refusal}"),
    }
}
