//! The agent of a host, its disk, its helpers: carries out what the host's
//! decisions say, as `node::agent` does in production.

use super::{
    check::Seen,
    helper::Directive,
    machine::Process,
    queue::{MS, SECOND},
    script::Action,
    session::HEARTBEAT_MIN,
    world::{Due, World},
};
use potluck_core::host::{Answer, Effect, End, Event as HostEvent, Run, Start};
use potluck_specs::{
    Generation, SlotId,
    job::{JobKind, Resources},
};

/// Between two pings of a helper.
const PING: u64 = SECOND;

/// What is due at a host's agent; nothing once it has died.
#[derive(Debug)]
pub(super) enum HostDue {
    /// A timer of the host's decisions.
    Tick,
    /// The planned heartbeat of this number.
    Beat(u64),
    /// A fetch ends.
    Fetched(SlotId, Generation, bool),
    /// A helper has set what its task may use.
    LimitsSet(Run, Resources),
    /// A check of a task's health.
    Health(Run, bool),
    /// A helper of a former life dials.
    Redial(u64),
    /// All that was lost of a slot has been killed.
    LostKilled(Run),
    /// A kill of what is not there.
    Nothing(Run),
}

impl World {
    /// Starts an agent.
    pub(super) fn start(&mut self, at: usize) {
        let now = self.queue.now();
        let machine = &self.machines[at];
        if machine.host.is_some() || !machine.admitted {
            return;
        }
        let total = self.believed_total(at);
        self.bend_journal(at);
        self.machines[at].start(now, total);
        self.trace.line(now, || format!("h{at} starts"));
        let life = self.machines[at].life;
        let helpers: Vec<u64> = self.machines[at].processes.keys().copied().collect();
        for process in helpers {
            let late = !self.healed && self.rng.chance(30);
            let longest = if late { 7_000 } else { 400 };
            let wait = self.rng.between(5, longest) * MS;
            let due = HostDue::Redial(process);
            self.queue.after(wait, Due::Host { at, life, due });
        }
        self.hold(at);
        self.see(&Seen::Started { at });
        self.step_host(at, HostEvent::Tick);
        let wait = self.rng.below(50) * MS;
        self.plan_beat(at, now + wait);
    }

    /// Ends an agent, and with the whole host its tasks.
    pub(super) fn crash(&mut self, at: usize, whole: bool) {
        let now = self.queue.now();
        if self.machines[at].host.is_none() && !whole {
            return;
        }
        let lost = self.rng.chance(500);
        self.machines[at].crash(whole, lost);
        self.hold(at);
        self.see(&Seen::Died { at });
        self.control.died(at);
        self.end_court(at);
        let what = if whole {
            "dies whole"
        } else {
            "loses its agent"
        };
        self.trace.line(now, || format!("h{at} {what}"));
    }

    pub(super) fn host_due(&mut self, at: usize, due: HostDue) {
        match due {
            HostDue::Tick => {
                self.machines[at].wake = None;
                self.step_host(at, HostEvent::Tick);
            }
            HostDue::Beat(planned) => {
                let session = &self.machines[at].session;
                if session.planned == planned && !session.waits {
                    self.beat(at);
                }
            }
            HostDue::Fetched(slot, origin, well) => {
                if self.machines[at].fetches.remove(&(slot.clone(), origin)) {
                    let why = "no peer has it".to_owned();
                    let event = match well {
                        true => HostEvent::Fetched { slot, origin },
                        false => HostEvent::FetchFailed { slot, origin, why },
                    };
                    self.step_host(at, event);
                }
            }
            HostDue::LimitsSet(run, resources) => {
                let number = self.machines[at].process_of(&run);
                let processes = &mut self.machines[at].processes;
                if let Some(process) = number.and_then(|number| processes.get_mut(&number))
                    && process.linked
                {
                    process.resources = resources;
                    let refused = Vec::new();
                    self.step_host(at, HostEvent::LimitsSet { run, refused });
                }
            }
            HostDue::Health(run, healthy) => {
                if self.machines[at].watched.contains(&run) {
                    self.step_host(at, HostEvent::HealthChanged { run, healthy });
                }
            }
            HostDue::Redial(process) => self.redial(at, process),
            HostDue::LostKilled(run) | HostDue::Nothing(run) => {
                let end = End::HelperLost;
                self.step_host(at, HostEvent::Exited { run, end });
            }
        }
    }

    pub(super) fn redial(&mut self, at: usize, number: u64) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        process.linked = true;
        let run = process.run.clone();
        match process.ended.clone() {
            Some(end) => {
                self.machines[at].processes.remove(&number);
                self.step_host(at, HostEvent::Exited { run, end });
            }
            None if process.running => {
                self.step_host(at, HostEvent::Running(run));
            }
            None => {}
        }
    }

    pub(super) fn process_started(&mut self, at: usize, number: u64) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if process.ended.is_some() {
            return;
        }
        process.running = true;
        let run = process.run.clone();
        if process.linked && self.machines[at].host.is_some() {
            self.step_host(at, HostEvent::Running(run));
        }
    }

    /// The helper of an exclusive task asks its agent what is left of the
    /// lease, and ends the task when nothing is. It does so however its agent
    /// is.
    pub(super) fn ping(&mut self, at: usize, number: u64) {
        let now = self.queue.now();
        let machine = &mut self.machines[at];
        let clock = machine.clock(now);
        let answers = machine.is_alive(now);
        let Some(process) = machine.processes.get_mut(&number) else {
            return;
        };
        let (Some(until), None) = (process.lease_until, &process.ended) else {
            return;
        };
        let passed_on = machine.leases.get(&process.run.slot).copied();
        let passed_on = passed_on.filter(|_| answers && process.linked);
        let until = until.max(passed_on.unwrap_or_default());
        process.lease_until = Some(until);
        if until <= clock {
            let run = process.run.clone();
            self.trace
                .line(now, || format!("h{at} ends {run}: its lease is over"));
            return self.process_ended(at, number, End::LeaseExpired);
        }
        let next = machine.when(until).min(now + PING);
        let process = number;
        self.queue.at(next, Due::Ping { at, process });
    }

    pub(super) fn process_ended(&mut self, at: usize, number: u64, end: End) {
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if process.ended.is_some() {
            return;
        }
        process.ended = Some(end.clone());
        let run = process.run.clone();
        if process.linked && self.machines[at].host.is_some() {
            self.machines[at].processes.remove(&number);
            self.step_host(at, HostEvent::Exited { run, end });
        } else {
            self.hold(at);
        }
    }

    /// One step of a host and what follows from it; `None` also if it dies on
    /// the way.
    pub(super) fn step_host(&mut self, at: usize, event: HostEvent) -> Option<Answer> {
        let now = self.queue.now();
        let clock = self.machines[at].clock(now);
        let effects = self.machines[at].host.as_mut()?.step(event, clock);
        let dies_after = match effects.is_empty() {
            true => None,
            false => self.machines[at].dies_after.take(),
        };
        let changed = !effects.iter().all(is_heartbeat);
        let mut answer = None;
        for (done, effect) in effects.into_iter().enumerate() {
            if dies_after.is_some_and(|after| after <= done) {
                break;
            }
            self.host_does(at, effect, &mut answer);
        }
        if dies_after.is_some() {
            self.crash(at, false);
            let wait = self.rng.between(200, 4_000) * MS;
            let action = Action::Start { host: at };
            self.queue.after(wait, Due::Act(Box::new(action)));
            return None;
        }
        self.sweep(at);
        self.plan_tick(at);
        if changed {
            self.hold(at);
        }
        self.see(&Seen::Stepped { at, changed });
        answer
    }

    pub(super) fn plan_tick(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(wake) = machine.host.as_ref().and_then(|host| host.wake_at()) else {
            return;
        };
        if machine.wake.is_some_and(|planned| planned <= wake) {
            return;
        }
        machine.wake = Some(wake);
        let (life, time) = (machine.life, machine.when(wake));
        let due = HostDue::Tick;
        self.queue
            .at(time.max(self.queue.now() + MS), Due::Host { at, life, due });
    }

    /// What no slot claims is ended once the adoption is over.
    pub(super) fn sweep(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let Some(host) = &machine.host else { return };
        if machine.swept || host.adopting() {
            return;
        }
        machine.swept = true;
        let held: Vec<SlotId> = host.slots().into_iter().map(|report| report.slot).collect();
        machine
            .processes
            .retain(|_, process| process.linked || held.contains(&process.run.slot));
    }

    pub(super) fn host_does(&mut self, at: usize, effect: Effect, answer: &mut Option<Answer>) {
        if self.spoils(at, &effect) || self.machines[at].journal.write(&effect) {
            return;
        }
        let life = self.machines[at].life;
        match effect {
            Effect::Answer(given) => *answer = Some(given),
            Effect::Fetch { slot, origin, .. } => {
                self.machines[at].fetches.insert((slot.clone(), origin));
                let well = self.healed || !self.rng.chance(self.options.bad_fetches);
                let wait = self.rng.between(1, 300) * MS;
                let due = HostDue::Fetched(slot, origin, well);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::CancelFetch { slot, origin } => {
                self.machines[at].fetches.remove(&(slot, origin));
            }
            Effect::StartHelper(start) => self.start_process(at, &start),
            Effect::SignalStop { run, grace_ms, .. } => self.signal(at, &run, grace_ms),
            Effect::Kill(run) => match self.machines[at].process_of(&run) {
                Some(process) => {
                    let wait = self.rng.between(1, 30) * MS;
                    let end = End::Signal(9);
                    self.queue.after(wait, Due::Ended { at, process, end });
                    // Its end reaches the agent with or without a helper.
                    if let Some(process) = self.machines[at].processes.get_mut(&process) {
                        process.linked = true;
                    }
                }
                None => {
                    let due = HostDue::Nothing(run);
                    self.queue.after(MS, Due::Host { at, life, due });
                }
            },
            Effect::KillLost(run) => {
                let slot = &run.slot;
                let processes = &mut self.machines[at].processes;
                processes.retain(|_, process| process.linked || process.run.slot != *slot);
                let wait = self.rng.between(1, 30) * MS;
                let due = HostDue::LostKilled(run);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::WatchHealth { run, .. } => {
                self.machines[at].watched.insert(run.clone());
                let wait = self.rng.between(5, 300) * MS;
                let due = HostDue::Health(run, true);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            Effect::SetLimits { run, job } => {
                let wait = self.rng.between(1, 20) * MS;
                let due = HostDue::LimitsSet(run, job.task.resources);
                self.queue.after(wait, Due::Host { at, life, due });
            }
            // Virtual tasks write nothing.
            Effect::WatchDisk { .. } => {}
            Effect::UnwatchHealth(run) => {
                self.machines[at].watched.remove(&run);
            }
            Effect::Lease { slot, until } => {
                self.machines[at].leases.insert(slot, until);
            }
            Effect::ReportChanged => {
                let session = &mut self.machines[at].session;
                session.changed |= session.waits;
                if session.answered && !session.waits {
                    let soonest = session.sent_at + HEARTBEAT_MIN;
                    self.plan_beat(at, soonest);
                }
            }
            Effect::Forgotten(_) => {}
            Effect::PersistAuthority(_) | Effect::JournalPut { .. } | Effect::JournalRemove(_) => {}
        }
    }

    pub(super) fn start_process(&mut self, at: usize, start: &Start) {
        let number = self.number();
        let process = Process {
            run: start.run.clone(),
            resources: start.job.task.resources,
            devices: start.job.task.devices.values().sum(),
            ports: start.ports.values().copied().collect(),
            deaf: Directive::of(&start.job.task.args).hangs,
            running: false,
            told: false,
            ended: None,
            linked: true,
            generation: start.generation,
            lease_until: start.lease_until,
        };
        self.machines[at].processes.insert(number, process);
        if start.lease_until.is_some() {
            let process = number;
            self.queue.after(PING, Due::Ping { at, process });
        }
        let now = self.queue.now();
        self.trace
            .line(now, || format!("h{at} starts {}", start.run));
        let wait = self.rng.between(3, 150) * MS;
        let told = Directive::of(&start.job.task.args);
        let directive = match (self.healed, &start.job.kind) {
            (true, JobKind::Batch(_)) => Directive { fails: 0, ..told },
            (true, _) => Directive::default(),
            (false, _) => told,
        };
        let bad = self.options.bad_starts.max(directive.fails);
        let fails = !self.healed && self.rng.chance(bad);
        if let Some((ms, end)) = directive.end(start.job.task.resources) {
            let process = number;
            self.queue
                .after(wait + ms * MS, Due::Ended { at, process, end });
        }
        let due = match fails {
            true => Due::Ended {
                at,
                process: number,
                end: End::NotStarted("the dice said so".into()),
            },
            false => Due::Started {
                at,
                process: number,
            },
        };
        self.queue.after(wait, due);
    }

    pub(super) fn signal(&mut self, at: usize, run: &Run, grace_ms: u64) {
        let Some(number) = self.machines[at].process_of(run) else {
            return;
        };
        let Some(process) = self.machines[at].processes.get_mut(&number) else {
            return;
        };
        if !process.linked || std::mem::replace(&mut process.told, true) {
            return;
        }
        let deaf = process.deaf || self.rng.chance(50);
        let wait = if deaf {
            grace_ms
        } else {
            self.rng.between(1, 400).min(grace_ms)
        };
        let end = End::Signal(if deaf { 9 } else { 15 });
        let process = number;
        self.queue.after(wait * MS, Due::Ended { at, process, end });
    }
}

fn is_heartbeat(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer(Answer::Heartbeat(_)))
}
