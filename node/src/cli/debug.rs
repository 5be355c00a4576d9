//! `potluck debug record` and `debug replay`: what the scheduler or a host
//! decided, and why, decided again from a file.

mod host;

use super::{
    args::{Global, Recorded},
    connect::{Session, connect},
    exit::chain,
    output,
};
use crate::api::{
    client::unexpected,
    error::{ApiError, ErrorCode},
    protocol::{ApiFrame, ApiRequest},
};
use potluck_core::{
    auction::Award,
    cluster::{Cluster, Command},
    record::{Decided, Decision, Records, Replay},
    scheduler::{Effect, Event, Scheduler},
};
use potluck_specs::{Millis, NodeId, SlotId};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
};

/// Largest recording that is read: what a node writes, and room for several
/// put together.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// Slots of one award that are explained: the others of a batch are alike.
const EXPLAINED_MAX: usize = 2;

/// `potluck debug record`.
pub(super) async fn record(
    of: Recorded,
    (seconds, bytes_max): (u64, u64),
    path: &Path,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let mut file = create(path)?;
    let request = match of {
        Recorded::Scheduler => ApiRequest::Record { seconds, bytes_max },
        Recorded::Host => ApiRequest::RecordHost { seconds, bytes_max },
    };
    let mut bytes = 0;
    let written = take(
        &mut session,
        &request,
        &mut file,
        (path, global),
        &mut bytes,
    )
    .await;
    if written.is_err() && bytes == 0 {
        // Refused: nothing to look at stays behind.
        let _ = std::fs::remove_file(path);
    }
    written?;
    let done = serde_json::json!({ "file": path, "bytes": bytes });
    output::print(global.output, &done, |_| {
        format!(
            "{bytes} bytes in {}\nlook at them with: potluck debug replay {}",
            path.display(),
            path.display()
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// Writes what the node sends until the recording ends.
async fn take(
    session: &mut Session,
    request: &ApiRequest,
    file: &mut File,
    (path, global): (&Path, &Global),
    bytes: &mut u64,
) -> Result<(), ApiError> {
    session.client.send(request).await?;
    loop {
        match session.client.next().await? {
            ApiFrame::Recorded(part) => {
                file.write_all(&part)
                    .map_err(|error| failed(path, &error))?;
                *bytes += part.len() as u64;
            }
            ApiFrame::End => return Ok(()),
            ApiFrame::Progress(text) => output::note(global.output, "progress", &text),
            other => return Err(unexpected(&other)),
        }
    }
}

/// A new file that only its owner reads: it tells much about the cluster.
fn create(path: &Path) -> Result<File, ApiError> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => ApiError::new(
            ErrorCode::BadRequest,
            format!("{} exists already", path.display()),
        )
        .hint("name another file with --file"),
        _ => failed(path, &error),
    })
}

fn failed(path: &Path, error: &std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Failed, format!("{}: {error}", path.display()))
}

/// One decision, for people and programs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Shown {
    /// Milliseconds after the recording's begin.
    at_ms: u64,
    /// What happened.
    event: String,
    /// What was decided.
    effects: Vec<String>,
    /// Why: host by host for what was placed; of a host what it had free when
    /// it refused.
    reasons: Vec<String>,
    /// The recorded decision was the same.
    same: bool,
}

/// A recording, decided again.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    steps: u64,
    /// Steps whose effects differ from the recorded ones.
    differ: u64,
    decisions: Vec<Shown>,
}

/// `potluck debug replay FILE`.
pub(super) fn replay(path: &Path, all: bool, global: &Global) -> Result<ExitCode, ApiError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ApiError::new(
            ErrorCode::NotFound,
            format!("there is no {}", path.display()),
        ),
        _ => failed(path, &error),
    })?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(path, &error))?;
    let report = decide_again(&bytes, all).map_err(|error| {
        ApiError::new(
            ErrorCode::Failed,
            format!("{}: {}", path.display(), chain(&error)),
        )
    })?;
    output::print(global.output, &report, show);
    Ok(match report.differ {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn decide_again(bytes: &[u8], all: bool) -> Result<Report, potluck_core::record::RecordError> {
    let mut replay = Replay::default();
    let mut report = Report {
        steps: 0,
        differ: 0,
        decisions: Vec::new(),
    };
    let mut began = None;
    for record in Records::new(bytes) {
        let Some(decision) = replay.take(record?)? else {
            continue;
        };
        let (now, same) = match &decision {
            Decision::Scheduler(decided) => (decided.now, decided.same),
            Decision::Host(decided) => (decided.now, decided.same),
        };
        let at = *began.get_or_insert(now);
        let shown = match (&decision, replay.scheduler(), replay.host()) {
            (Decision::Scheduler(decided), Some((cluster, scheduler)), _) => {
                shown(decided, at, cluster, scheduler)
            }
            (Decision::Host(decided), _, Some(host)) => host::shown(decided, at, host),
            _ => continue,
        };
        report.steps += 1;
        report.differ += u64::from(!same);
        if all || !same || !shown.effects.is_empty() {
            report.decisions.push(shown);
        }
    }
    Ok(report)
}

fn show(report: &Report) -> String {
    let mut lines = Vec::new();
    for decision in &report.decisions {
        let (seconds, ms) = (decision.at_ms / 1_000, decision.at_ms % 1_000);
        let mark = if decision.same { "" } else { "  DIFFERS" };
        lines.push(format!("{seconds:>5}.{ms:03} {}{mark}", decision.event));
        let effects = decision.effects.iter();
        lines.extend(effects.map(|effect| format!("          {effect}")));
        let reasons = decision.reasons.iter();
        lines.extend(reasons.map(|reason| format!("            {reason}")));
    }
    lines.push(match report.differ {
        0 => format!("{} steps, decided again the same", report.steps),
        differ => format!(
            "{differ} of {} steps are decided differently by this program: another version, \
             or a fault",
            report.steps
        ),
    });
    lines.join("\n")
}

fn shown(
    decision: &Decided<Event, Effect>,
    began: Millis,
    cluster: &Cluster,
    scheduler: &Scheduler,
) -> Shown {
    let names = Names(cluster);
    let effects = effects(&decision.effects, &names);
    let awards = decision.effects.iter().filter_map(|effect| match effect {
        Effect::Award { award, .. } => Some(award.as_ref()),
        _ => None,
    });
    let reasons = awards.flat_map(|award| reasons(award, cluster, scheduler, decision.now));
    Shown {
        at_ms: decision.now.since(began).0,
        event: event(&decision.event, &names),
        effects,
        reasons: reasons.collect(),
        same: decision.same,
    }
}

/// Host by host, as `potluck explain` has it.
fn reasons(award: &Award, cluster: &Cluster, scheduler: &Scheduler, now: Millis) -> Vec<String> {
    let slots = award.slots.iter().take(EXPLAINED_MAX);
    let explained = slots.filter_map(|(slot, _)| scheduler.explain_slot(cluster, slot, now));
    let lines = explained.map(|explained| explained.to_string());
    lines
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// What people call nodes.
struct Names<'a>(&'a Cluster);

impl Names<'_> {
    fn of(&self, node: NodeId) -> String {
        let member = self.0.members().get(&node);
        member.map_or_else(|| node.short(), |member| member.name.0.clone())
    }
}

fn event(event: &Event, names: &Names<'_>) -> String {
    match event {
        Event::Tick => "time passes".into(),
        Event::ClusterChanged => "the log goes on".into(),
        Event::QuorumConfirmed { .. } => "most voters confirm".into(),
        Event::Heartbeat { heartbeat } => format!("{} reports", names.of(heartbeat.node)),
        Event::Greeted { heartbeat } => {
            format!("{} tells all that it runs", names.of(heartbeat.node))
        }
        Event::GreetFailed { node } => format!("{} can't be greeted", names.of(*node)),
        Event::Members { members } => format!("gossip tells of {} nodes", members.len()),
        Event::CallAnswered { node, call, answer } => match answer {
            potluck_core::auction::CallAnswer::Bid(bid) => {
                format!("{} bids for {} of call {call}", names.of(*node), bid.slots)
            }
            potluck_core::auction::CallAnswer::Refusal(why) => {
                format!("{} refuses call {call}: {why}", names.of(*node))
            }
        },
        Event::CallLost { node, call } => {
            format!("{} does not answer call {call}", names.of(*node))
        }
        Event::AwardAnswered { node, .. } => format!("{} answers an award", names.of(*node)),
        Event::AwardLost { node, .. } => {
            format!("{} does not answer an award", names.of(*node))
        }
        Event::StopAnswered { node, slot } => format!("{} stops {slot}", names.of(*node)),
        Event::StopLost { node, slot } => {
            format!("{} does not answer the stop of {slot}", names.of(*node))
        }
        Event::Probed {
            by,
            about,
            reachable,
        } => {
            let word = if *reachable { "reaches" } else { "can't reach" };
            format!("{} {word} {}", names.of(*by), names.of(*about))
        }
        Event::ProbeLost { by, about } => {
            let (by, about) = (names.of(*by), names.of(*about));
            format!("{by} does not say whether it reaches {about}")
        }
        Event::LaggedFor { lag } => format!("the scheduler itself was late by {} ms", lag.0),
    }
}

/// What others notice; calls of one number as one line. Heartbeats' answers,
/// greetings and probes are left out.
fn effects(effects: &[Effect], names: &Names<'_>) -> Vec<String> {
    let mut calls: BTreeMap<u64, (String, Vec<String>)> = BTreeMap::new();
    let mut lines = Vec::new();
    for effect in effects {
        match effect {
            Effect::Greet { .. } | Effect::AnswerHeartbeat { .. } | Effect::Probe { .. } => {}
            Effect::Call { to, call } => {
                let what = || format!("call {} for {} of {}", call.call, call.wanted, call.job);
                let entry = calls
                    .entry(call.call)
                    .or_insert_with(|| (what(), Vec::new()));
                entry.1.push(names.of(*to));
            }
            Effect::Award { to, award } => {
                lines.push(format!("award {} to {}", slots(award), names.of(*to)));
            }
            Effect::Cancel { to, call, .. } => {
                lines.push(format!("cancel call {call} on {}", names.of(*to)));
            }
            Effect::Stop { to, order } => lines.push(format!(
                "stop {} on {}: {:?}",
                order.slot,
                names.of(*to),
                order.reason
            )),
            Effect::Propose { command } => lines.extend(proposal(command)),
            Effect::Publish { service } => lines.push(format!(
                "publish {}/{} with {} endpoints",
                service.namespace,
                service.service,
                service.endpoints.len()
            )),
            Effect::Note { note } => lines.push(format!("note {note:?}")),
        }
    }
    let calls = calls.into_values();
    let calls = calls.map(|(what, to)| format!("{what} to {}", to.join(", ")));
    calls.chain(lines).collect()
}

fn slots(award: &Award) -> String {
    let slots: Vec<String> = award
        .slots
        .iter()
        .map(|(slot, _): &(SlotId, _)| slot.to_string())
        .collect();
    slots.join(", ")
}

/// Placements are written behind all the time: their record is no decision.
fn proposal(command: &Command) -> Option<String> {
    match command {
        Command::RecordPlacements { .. } => None,
        Command::AdvanceRollout { job, step, .. } => {
            Some(format!("propose for the rollout of {job}: {step:?}"))
        }
        other => {
            let text = format!("{other:?}");
            Some(format!(
                "propose {}",
                text.chars().take(80).collect::<String>()
            ))
        }
    }
}
