//! The life of tasks: how a slot's state follows from what helpers, fetches
//! and timers report. The states are drawn in [`super::slot`].

use super::{
    Effects, Host,
    ends::{After, after},
    lease::is_exclusive,
    limits,
    message::{Effect, End, Entry, Run, Start},
    slot::{Before, Slot, State},
};
use crate::auction::StopReason;
use potluck_specs::{Generation, Millis, SlotId, job::RestartPolicy};

/// How long a helper may take from its start to its task's: building a sandbox
/// takes milliseconds, a host short of everything some seconds.
const START_LIMIT: Millis = Millis(30_000);

/// Added to the task's grace before the host kills what its helper should
/// have killed.
const KILL_MARGIN: Millis = Millis(3_000);

/// How often a kill is repeated while its end is not reported.
const KILL_AGAIN: Millis = Millis(2_000);

/// Shortest pause between two starts: a job that asks for none would keep the
/// host busy with forks.
const BACKOFF_MIN: Millis = Millis(50);

impl Host {
    /// Fills a slot: the last thing that an award decides.
    pub(super) fn fill(&mut self, entry: Entry, now: Millis, effects: &mut Effects) {
        let id = entry.slot.clone();
        let before = self
            .slots
            .remove(&id)
            .and_then(|old| self.replace(old, now, effects));
        effects.durable.push(Effect::JournalPut {
            entry: Box::new(entry.clone()),
            durable: true,
        });
        effects.then.push(fetch(&entry));
        self.reports.filled(&id);
        let mut slot = Slot::new(entry, State::Fetching, now);
        slot.before = before;
        self.slots.insert(id.clone(), slot);
        self.touch(&id, effects);
    }

    /// Ends what filled a slot until now; what is to be waited for.
    fn replace(&mut self, old: Slot, now: Millis, effects: &mut Effects) -> Option<Before> {
        if matches!(old.state, State::Fetching | State::Waiting) {
            effects.then.push(cancel_fetch(&old.entry));
        }
        if !old.has_process() {
            // A predecessor that still runs outlives the one between.
            return old.before;
        }
        let run = old.run();
        let stop = old.entry.job.task.stop;
        let kill_at = match old.state {
            State::Stopping { kill_at, .. } | State::Lost { kill_at } => kill_at,
            _ => {
                effects.then.push(Effect::UnwatchHealth(run.clone()));
                effects.then.push(signal(&run, stop.signal, stop.grace_ms));
                now + Millis(stop.grace_ms) + KILL_MARGIN
            }
        };
        Some(Before {
            run,
            signal: stop.signal,
            grace_ms: stop.grace_ms,
            entry: old.entry,
            kill_at,
        })
    }

    pub(super) fn fetched(
        &mut self,
        id: &SlotId,
        origin: Generation,
        now: Millis,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.fetching(id, origin) else {
            return;
        };
        slot.state = State::Waiting;
        self.start_if_ready(id, now, effects);
    }

    pub(super) fn fetch_failed(
        &mut self,
        id: &SlotId,
        origin: Generation,
        why: String,
        now: Millis,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.fetching(id, origin) else {
            return;
        };
        back_off(slot, format!("no package: {why}"), now);
        self.touch(id, effects);
    }

    /// Starts what waits for nothing any more: no predecessor, and of an
    /// exclusive slot no lease.
    pub(super) fn start_if_ready(&mut self, id: &SlotId, now: Millis, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.state != State::Waiting || slot.before.is_some() {
            return;
        }
        let lease_until = match is_exclusive(&slot.entry) {
            true => match self.leases.lasting(&slot.entry, now) {
                Some(until) => Some(until),
                None => return,
            },
            false => None,
        };
        start(slot, lease_until, now, effects);
        self.touch(id, effects);
    }

    fn fetching(&mut self, id: &SlotId, origin: Generation) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id)?;
        (slot.entry.origin == origin && slot.state == State::Fetching).then_some(slot)
    }

    /// A helper with a running process is there: one that was started, one
    /// that was found again, or one that nobody wants.
    pub(super) fn running(&mut self, run: Run, now: Millis, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&run.slot) else {
            effects.then.push(Effect::Kill(run));
            return;
        };
        if let Some(before) = &slot.before
            && before.run == run
        {
            let again = signal(&run, before.signal, before.grace_ms);
            effects.then.push(again);
            return;
        }
        match slot.state {
            // A lost one is being killed already: see the last arm.
            State::Adopting if slot.entry.origin == run.origin => {
                slot.start = run.start;
                slot.entry.starts = slot.entry.starts.max(run.start);
                if slot.entry.stop.is_some() {
                    tell_to_stop(slot, now, effects);
                } else {
                    goes_on(slot, now, effects);
                }
            }
            State::Adopting if slot.before.is_none() => {
                // Its successor was in the journal before it had ended.
                let stop = slot.entry.job.task.stop;
                effects.then.push(signal(&run, stop.signal, stop.grace_ms));
                slot.before = Some(Before {
                    run,
                    signal: stop.signal,
                    grace_ms: stop.grace_ms,
                    entry: slot.entry.clone(),
                    kill_at: now + Millis(stop.grace_ms) + KILL_MARGIN,
                });
                return;
            }
            State::Starting { .. } if slot.is(&run) => goes_on(slot, now, effects),
            State::Running { .. } if slot.is(&run) => {
                limits::tell_again(slot, effects);
                return;
            }
            State::Stopping { process: true, .. } if slot.is(&run) => {
                let stop = slot.entry.job.task.stop;
                effects.then.push(signal(&run, stop.signal, stop.grace_ms));
                return;
            }
            _ => {
                effects.then.push(Effect::Kill(run));
                return;
            }
        }
        self.touch(&run.slot, effects);
    }

    /// A process is gone.
    pub(super) fn exited(&mut self, run: &Run, end: End, now: Millis, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&run.slot) else {
            return;
        };
        if let Some(before) = slot.before.take_if(|before| before.run == *run) {
            self.ports.give_back(&before.entry.ports, now);
            match slot.state {
                State::Waiting => self.start_if_ready(&run.slot, now, effects),
                State::Stopping { process: false, .. } => self.stopped(&run.slot, now, effects),
                _ => {}
            }
            self.touch(&run.slot, effects);
            return;
        }
        if !slot.is(run) || !slot.has_process() {
            return;
        }
        effects.then.push(Effect::UnwatchHealth(run.clone()));
        slot.start = run.start.max(slot.start);
        slot.entry.starts = slot.entry.starts.max(run.start);
        if matches!(slot.state, State::Stopping { .. }) || slot.entry.stop.is_some() {
            slot.last_end = Some(end.to_string());
            self.stopped(&run.slot, now, effects);
            return;
        }
        let never_ran = matches!(slot.state, State::Lost { .. }) && slot.entry.starts == 0;
        let leaseless = end == End::LeaseExpired && is_exclusive(&slot.entry);
        if never_ran || leaseless {
            // The agent went away between the award and the first start, or the
            // scheduler was: no fault of the task's, which waits for its lease.
            slot.last_end = leaseless.then(|| end.to_string());
            slot.healthy = false;
            slot.state = State::Fetching;
            slot.since = now;
            effects.then.push(fetch(&slot.entry));
        } else {
            match after(&slot.entry.job, &end) {
                After::Again => {
                    let job = slot.entry.slot.job.clone();
                    back_off(slot, end.to_string(), now);
                    self.failures.record(&job, now);
                }
                After::Gone => {
                    slot.last_end = Some(end.to_string());
                    return self.stopped(&run.slot, now, effects);
                }
                After::Ended(outcome) => {
                    slot.last_end = Some(end.to_string());
                    return self.finish(&run.slot, outcome, now, effects);
                }
            }
        }
        self.touch(&run.slot, effects);
    }

    pub(super) fn health_changed(&mut self, run: &Run, healthy: bool, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&run.slot) else {
            return;
        };
        let runs = matches!(slot.state, State::Running { .. }) && slot.is(run);
        if runs && slot.healthy != healthy {
            slot.healthy = healthy;
            self.touch(&run.slot, effects);
        }
    }

    /// Trouble of a start is told until the slot has another.
    pub(super) fn troubled(&mut self, run: &Run, trouble: Option<String>, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&run.slot) else {
            return;
        };
        if slot.is(run) && slot.trouble != trouble {
            slot.trouble = trouble;
            self.touch(&run.slot, effects);
        }
    }

    /// Tells a slot to stop; nothing if it was told before.
    pub(super) fn begin_stop(
        &mut self,
        id: &SlotId,
        reason: StopReason,
        now: Millis,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if slot.entry.stop.is_some() || slot.state == State::Stopped {
            return;
        }
        slot.entry.stop = Some(reason);
        match slot.state {
            State::Fetching | State::Waiting | State::Backoff { .. } => {
                effects.then.push(cancel_fetch(&slot.entry));
                if slot.before.is_none() {
                    self.stopped(id, now, effects);
                    return;
                }
                set(
                    slot,
                    State::Stopping {
                        process: false,
                        kill_at: now,
                    },
                    now,
                );
            }
            State::Starting { .. } | State::Running { .. } => {
                effects.then.push(Effect::UnwatchHealth(slot.run()));
                tell_to_stop(slot, now, effects);
            }
            // Told once it is found, or killed already.
            State::Adopting | State::Lost { .. } => {}
            // Nothing runs, and whoever is to hear of its end does not wait.
            State::Ended => return self.stopped(id, now, effects),
            State::Stopping { .. } | State::Stopped => {}
        }
        effects.durable.push(put(slot, true));
        self.touch(id, effects);
    }

    pub(super) fn leave(&mut self, now: Millis, effects: &mut Effects) {
        self.draining = true;
        effects.changed = true;
        let all: Vec<SlotId> = self.slots.keys().cloned().collect();
        for id in all {
            self.begin_stop(&id, StopReason::Drained, now, effects);
        }
    }

    /// Nothing of the slot runs any more.
    pub(super) fn stopped(&mut self, id: &SlotId, now: Millis, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        set(slot, State::Stopped, now);
        slot.entry.ended = None;
        self.ports.give_back(&slot.entry.ports, now);
        self.ended.record(id, slot.entry.generation);
        effects.durable.push(Effect::JournalRemove(id.clone()));
        self.touch(id, effects);
    }

    /// Everything that is due.
    pub(super) fn tick(&mut self, now: Millis, effects: &mut Effects) {
        self.end_adoption(now, effects);
        let due: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.wake_at().is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.slot_due(&id, now, effects);
        }
    }

    fn slot_due(&mut self, id: &SlotId, now: Millis, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(id) else {
            return;
        };
        if let Some(before) = &mut slot.before
            && before.kill_at <= now
        {
            before.kill_at = now + KILL_AGAIN;
            effects.then.push(Effect::Kill(before.run.clone()));
        }
        let run = slot.run();
        match &mut slot.state {
            State::Lost { kill_at } if *kill_at <= now => {
                *kill_at = now + KILL_AGAIN;
                effects.then.push(Effect::KillLost(run));
            }
            State::Starting { kill_at }
            | State::Stopping {
                process: true,
                kill_at,
            } if *kill_at <= now => {
                *kill_at = now + KILL_AGAIN;
                effects.then.push(Effect::Kill(run));
            }
            State::Backoff { until } if *until <= now => {
                set(slot, State::Fetching, now);
                effects.then.push(fetch(&slot.entry));
                self.touch(id, effects);
            }
            _ => {}
        }
    }

    /// Gives up those whose helpers did not come, once their time is over.
    fn end_adoption(&mut self, now: Millis, effects: &mut Effects) {
        let Some(until) = self.adopt_until else {
            return;
        };
        let adopting = |slot: &Slot| slot.state == State::Adopting;
        if self.slots.values().any(adopting) && now < until {
            return;
        }
        self.adopt_until = None;
        for slot in self.slots.values_mut().filter(|slot| adopting(slot)) {
            slot.state = State::Lost {
                kill_at: now + KILL_AGAIN,
            };
            effects.then.push(Effect::KillLost(slot.run()));
        }
        effects.changed = true;
    }
}

pub(super) fn set(slot: &mut Slot, state: State, now: Millis) {
    slot.state = state;
    slot.since = now;
    slot.healthy = false;
}

fn start(slot: &mut Slot, lease_until: Option<Millis>, now: Millis, effects: &mut Effects) {
    slot.entry.starts += 1;
    slot.start = slot.entry.starts;
    slot.trouble = None;
    limits::begin(slot);
    let kill_at = now + START_LIMIT;
    set(slot, State::Starting { kill_at }, now);
    effects.then.push(put(slot, false));
    effects.then.push(Effect::StartHelper(Start {
        run: slot.run(),
        generation: slot.entry.generation,
        job: slot.entry.job.clone(),
        ports: slot.entry.ports.clone(),
        lease_until,
    }));
}

/// The process runs, newly or still.
fn goes_on(slot: &mut Slot, now: Millis, effects: &mut Effects) {
    set(slot, State::Running { since: now }, now);
    let run = slot.run();
    let checks = slot.health_checks();
    match checks.is_empty() {
        true => slot.healthy = true,
        false => effects.then.push(Effect::WatchHealth {
            run: run.clone(),
            checks,
        }),
    }
    let bytes_max = slot.entry.job.task.resources.disk_bytes;
    if bytes_max > 0 {
        effects.then.push(Effect::WatchDisk { run, bytes_max });
    }
    limits::tell_again(slot, effects);
}

fn tell_to_stop(slot: &mut Slot, now: Millis, effects: &mut Effects) {
    let stop = slot.entry.job.task.stop;
    let kill_at = now + Millis(stop.grace_ms) + KILL_MARGIN;
    let process = true;
    set(slot, State::Stopping { process, kill_at }, now);
    effects
        .then
        .push(signal(&slot.run(), stop.signal, stop.grace_ms));
}

fn back_off(slot: &mut Slot, why: String, now: Millis) {
    let policy = slot.entry.job.task.restart;
    if let State::Running { since } = slot.state
        && now.since(since).0 >= policy.backoff_max_ms
    {
        slot.failures_in_row = 0;
    }
    let until = now + pause(policy, slot.failures_in_row);
    slot.failures_in_row = slot.failures_in_row.saturating_add(1);
    slot.last_end = Some(why);
    set(slot, State::Backoff { until }, now);
}

/// How long a task waits after so many failures in a row, the last one not
/// counted: doubles with each.
pub fn pause(policy: RestartPolicy, failures: u32) -> Millis {
    let doubled = policy
        .backoff_ms
        .saturating_mul(1u64.checked_shl(failures).unwrap_or(u64::MAX));
    Millis(doubled.min(policy.backoff_max_ms)).max(BACKOFF_MIN)
}

pub(super) fn put(slot: &Slot, durable: bool) -> Effect {
    Effect::JournalPut {
        entry: Box::new(slot.entry.clone()),
        durable,
    }
}

fn fetch(entry: &Entry) -> Effect {
    Effect::Fetch {
        slot: entry.slot.clone(),
        origin: entry.origin,
        packages: entry.job.all_packages(),
        holders: entry.holders.clone(),
    }
}

fn cancel_fetch(entry: &Entry) -> Effect {
    Effect::CancelFetch {
        slot: entry.slot.clone(),
        origin: entry.origin,
    }
}

fn signal(run: &Run, signal: i32, grace_ms: u64) -> Effect {
    Effect::SignalStop {
        run: run.clone(),
        signal,
        grace_ms,
    }
}
