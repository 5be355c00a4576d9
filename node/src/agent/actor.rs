//! The agent's one actor: it owns the host's decisions and the journal, and
//! carries effects out in their order.
//!
//! In: requests of the node's handle, and reports of fetches, helpers, checks
//! and timers. Out: the journal, actors for all that takes time, answers. It
//! waits only for the journal; while the disk refuses, it tries again and
//! answers nobody, and helpers keep their lease since their connections answer
//! pings themselves. When its token is cancelled it ends and leaves tasks
//! running for the next start; when all handles are gone it goes on.

use super::{
    cgroups::Cgroups,
    disk,
    folders::{self, Folders},
    health,
    journal::{Journal, Write},
    launch::{Launch, Launched},
    leases::Leases,
    link::Link,
    moved, ports,
    process::{Process, helpers_of},
    program,
    recording::Recorder,
    sessions::{self, EnterError},
    trees::Trees,
    upgrades::Upgrades,
    usage::Usages,
};
use crate::{agent::PackageProvider, clock, recording::Wish, spawn::spawn, wire::HeldJob};
use nix::fcntl::Flock;
use potluck_core::{
    attributes::Facts,
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder},
    host::{Answer, Effect, End, Event, Host, Run, Start},
    session::{Heartbeat, HeartbeatAnswer, SlotReport},
};
use potluck_helper::{
    AgentMessage, EndRecord, HelperMessage, TaskEnd, TaskExit,
    end::ExitReason,
    protocol::{Hello, LogState, MissingIsolation, Phase},
};
use potluck_specs::{
    Generation, Job, JobName, Millis, NodeId, PackageId, SlotId,
    job::{HealthCheck, PortSpec},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Commands that wait: requests of a scheduler that awards to a whole rack and
/// the greetings of all helpers after a restart; senders wait beyond that.
pub(super) const COMMANDS_WAITING: usize = 1_024;

/// Between tries to write the journal while the disk refuses.
const JOURNAL_AGAIN: Duration = Duration::from_secs(1);

/// Time for a helper to kill its task and write the record, before both are
/// killed from outside.
const KILL_PATIENCE: Duration = Duration::from_millis(1_500);

/// How long the processes of a lost run may take to die. All are killed by
/// then, and one that is still there waits inside the kernel, for a disk that
/// does not answer: it runs no instruction of the task any more, and its slot
/// is not kept waiting for it.
const LOST_LIMIT: Duration = Duration::from_secs(10);

/// Longest sleep towards a timer: timers run on the boot-time clock and
/// tokio's stops in suspend.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// To the actor.
#[derive(Debug)]
pub(super) enum Command {
    Call(Call, u64, oneshot::Sender<CallAnswer>),
    Award(
        Award,
        Result<Arc<Job>, String>,
        oneshot::Sender<AwardAnswer>,
    ),
    Cancel(Authority, u64, oneshot::Sender<Result<(), Refusal>>),
    Stop(StopOrder, oneshot::Sender<Result<(), Refusal>>),
    Greet(Authority, oneshot::Sender<Result<Heartbeat, Refusal>>),
    Heartbeat(oneshot::Sender<Heartbeat>),
    HeartbeatAnswered(HeartbeatAnswer),
    SetDraining(bool),
    SetPressure(u8),
    Leave,
    Slots(oneshot::Sender<Vec<SlotReport>>),
    /// The helper of a task that could be entered.
    Entrance(SlotId, oneshot::Sender<Result<(Run, Link), EnterError>>),
    Held(JobName, oneshot::Sender<Option<HeldJob>>),
    Highest(oneshot::Sender<Authority>),
    /// Begins a recording.
    Record(Wish),
    /// The trees of a task's packages, or why one is missing.
    Fetched {
        slot: SlotId,
        origin: Generation,
        trees: Result<Trees, String>,
    },
    /// A helper was started, or could not be.
    Launched {
        run: Run,
        launched: Result<Launched, String>,
    },
    /// A helper dialled.
    Hello {
        hello: Hello,
        pid: i32,
        link: Link,
    },
    /// A helper dialled that this agent can't work with; why, for people.
    Refused {
        run: Run,
        why: &'static str,
    },
    /// A helper has said nothing for longer than its lease.
    Silent(Run),
    /// A helper's connection ended.
    LinkLost {
        run: Run,
        id: u64,
    },
    /// A helper says something.
    Helper {
        run: Run,
        message: HelperMessage,
    },
    /// A helper's process is gone.
    HelperGone(Run),
    /// Nothing of a run is left; its helper may leave.
    Gone {
        run: Run,
        end: End,
    },
    /// Nothing of a slot's lost run is left, but for helpers that have dialled
    /// since the search began, when only those known were there.
    LostGone {
        run: Run,
        end: End,
        known: BTreeSet<Run>,
    },
    /// A task has more on disk than it asked for; how much where, for people.
    DiskFull {
        run: Run,
        note: String,
    },
    /// A health check changed its opinion.
    Health {
        run: Run,
        healthy: bool,
    },
}

/// What is known of a run's helper.
#[derive(Debug, Default)]
struct Helper {
    process: Option<Process>,
    link: Option<Link>,
    /// Its end has been reported, or is being cleaned up after.
    ended: bool,
    /// To be killed as soon as its process is known.
    doomed: bool,
}

/// The actor.
pub(super) struct Actor {
    pub(super) host: Host,
    pub(super) journal: Option<Journal>,
    pub(super) folders: Folders,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) launch: Arc<Launch>,
    pub(super) packages: Arc<dyn PackageProvider>,
    pub(super) address: IpAddr,
    /// Ports that the node itself listens on.
    pub(super) node_ports: BTreeSet<u16>,
    pub(super) leases: Leases,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) missing: Arc<Mutex<BTreeSet<String>>>,
    pub(super) usages: Usages,
    pub(super) upgrades: Upgrades,
    /// Held while the actor lives.
    pub(super) lock: Flock<File>,
    /// Writes down what the host decides, while a person wants it.
    pub(super) recorder: Option<Recorder>,
    pub(super) running: Running,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Running {
    helpers: BTreeMap<Run, Helper>,
    fetches: BTreeMap<(SlotId, Generation), JoinHandle<()>>,
    trees: BTreeMap<(SlotId, Generation), Trees>,
    checks: BTreeMap<Run, JoinHandle<()>>,
    disks: BTreeMap<Run, JoinHandle<()>>,
    /// Runs that are being cleaned up after; once is enough.
    cleaning: BTreeSet<Run>,
    /// Why the helper of a slot that was not found again was sent away.
    refused: BTreeMap<SlotId, &'static str>,
    /// Leftovers of former lives have been looked for.
    swept: bool,
}

impl Actor {
    /// The loop.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        token: CancellationToken,
    ) {
        self.step(Event::Tick).await;
        loop {
            let wake = self.host.wake_at();
            tokio::select! {
                () = token.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
                () = until(wake) => {
                    self.step(Event::Tick).await;
                }
            }
        }
        for actor in self
            .running
            .fetches
            .values()
            .chain(self.running.checks.values())
            .chain(self.running.disks.values())
        {
            actor.abort();
        }
        self.cgroups.leave();
        drop(self.lock);
    }

    /// Has the host know which of the ports that it would give are used by
    /// others.
    async fn look_at_ports(&mut self, specs: &[PortSpec], tasks: u32) {
        if specs.is_empty() {
            return;
        }
        let mut in_use = ports::own(&self.node_ports);
        for _ in 0..ports::LOOKS_MAX {
            self.step(Event::PortsInUse(in_use.clone())).await;
            let candidates = self.host.port_candidates(specs, tasks);
            let found = ports::in_use(self.address, &candidates);
            if found.is_empty() {
                return;
            }
            in_use.extend(found);
        }
        self.step(Event::PortsInUse(in_use)).await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Call(call, missing_bytes, reply) => {
                // How many more could have theirs is found when they are given.
                self.look_at_ports(&call.ports, 1).await;
                let event = Event::Call {
                    call,
                    missing_bytes,
                };
                if let Some(Answer::Call(answer)) = self.step(event).await {
                    let _ = reply.send(answer);
                }
            }
            Command::Award(award, job, reply) => {
                if let Ok(job) = &job {
                    let tasks = u32::try_from(award.slots.len()).unwrap_or(u32::MAX);
                    self.look_at_ports(&job.task.ports, tasks).await;
                }
                if let Some(Answer::Award(answer)) = self.step(Event::Award { award, job }).await {
                    let _ = reply.send(answer);
                }
            }
            Command::Cancel(authority, call, reply) => {
                let event = Event::Cancel { authority, call };
                if let Some(Answer::Cancel(answer)) = self.step(event).await {
                    let _ = reply.send(answer);
                }
            }
            Command::Stop(order, reply) => {
                if let Some(Answer::Stop(answer)) = self.step(Event::Stop(order)).await {
                    let _ = reply.send(answer);
                }
            }
            Command::Greet(authority, reply) => {
                if let Some(Answer::Greet(answer)) = self.step(Event::Greet(authority)).await {
                    let _ = reply.send(answer);
                }
            }
            Command::Heartbeat(reply) => {
                if let Some(Answer::Heartbeat(answer)) = self.step(Event::Heartbeat).await {
                    let _ = reply.send(answer);
                }
            }
            Command::HeartbeatAnswered(answer) => {
                self.step(Event::HeartbeatAnswered(answer)).await;
            }
            Command::SetDraining(draining) => {
                self.step(Event::SetDraining(draining)).await;
            }
            Command::SetPressure(pressure) => {
                self.step(Event::SetPressure(pressure)).await;
            }
            Command::Leave => {
                self.step(Event::Leave).await;
            }
            Command::Slots(reply) => {
                let _ = reply.send(self.host.slots());
            }
            Command::Entrance(slot, reply) => {
                let _ = reply.send(self.entrance(slot));
            }
            Command::Held(job, reply) => {
                let held = self.host.held(&job).map(|entry| HeldJob {
                    job: (*entry.signed).clone(),
                    package_bytes: entry.package_bytes,
                });
                let _ = reply.send(held);
            }
            Command::Highest(reply) => {
                let _ = reply.send(self.host.highest());
            }
            Command::Record(wish) => {
                self.recorder = Recorder::begin(wish, &self.host, clock::boot_now());
            }
            report => self.hear(report).await,
        }
    }

    /// Reports of what the agent started.
    async fn hear(&mut self, report: Command) {
        match report {
            Command::Fetched {
                slot,
                origin,
                trees,
            } => self.fetched(slot, origin, trees).await,
            Command::Launched { run, launched } => self.launched(run, launched).await,
            Command::Hello { hello, pid, link } => self.greeted(hello, pid, link).await,
            Command::Refused { run, why } => self.refused(run, why),
            Command::Silent(run) => {
                tracing::warn!(%run, "helper is silent beyond its lease and is given up");
                self.kill(run);
            }
            Command::LinkLost { run, id } => {
                if let Some(helper) = self.running.helpers.get_mut(&run) {
                    helper.link.take_if(|link| link.id == id);
                }
            }
            Command::Helper { run, message } => self.helper_says(run, message).await,
            Command::HelperGone(run) => self.helper_gone(run),
            Command::Gone { run, end } => self.gone(run, end).await,
            Command::LostGone { run, end, known } => self.lost_gone(run, end, &known).await,
            Command::DiskFull { run, note } => self.stop_at_disk_limit(&run, note),
            Command::Health { run, healthy } => {
                self.step(Event::HealthChanged { run, healthy }).await;
            }
            _ => unreachable!("requests are answered in obey"),
        }
    }

    fn entrance(&self, slot: SlotId) -> Result<(Run, Link), EnterError> {
        let live = |(run, helper): &(&Run, &Helper)| run.slot == slot && !helper.ended;
        let helpers = self.running.helpers.iter().filter(live);
        let mut links =
            helpers.filter_map(|(run, helper)| Some((run.clone(), helper.link.clone()?)));
        // Runs are in order: the last is the present one.
        let link = links.next_back();
        let mut reports = self.host.slots().into_iter();
        let state = reports.find(|report| report.slot == slot);
        sessions::found(slot, link, state.map(|report| report.state))
    }

    /// Tells the host's decisions what the host is; before anything else.
    pub(super) async fn introduce(&mut self, facts: Facts) {
        self.step(Event::SetFacts(facts)).await;
    }

    /// Decides, and carries out what follows; the answer, if there is one, is
    /// durable.
    async fn step(&mut self, event: Event) -> Option<Answer> {
        let effects = self.decide(event);
        let mut writes = Vec::new();
        let mut durable = false;
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::PersistAuthority(authority) => {
                    writes.push(Write::Highest(authority));
                    durable = true;
                }
                Effect::JournalPut {
                    entry,
                    durable: must,
                } => {
                    writes.push(Write::Put(entry));
                    durable |= must;
                }
                Effect::JournalRemove(slot) => {
                    writes.push(Write::Remove(slot));
                    durable = true;
                }
                other => {
                    self.write(std::mem::take(&mut writes), durable).await;
                    durable = false;
                    self.carry_out(other, &mut answer);
                }
            }
        }
        self.write(writes, durable).await;
        self.sweep_once();
        answer
    }

    /// What follows from an event; written down first, while that is wanted.
    fn decide(&mut self, event: Event) -> Vec<Effect> {
        let now = clock::boot_now();
        let Some(recorder) = &mut self.recorder else {
            return self.host.step(event, now);
        };
        let redacted = event.redacted();
        let effects = self.host.step(event, now);
        if !recorder.step(redacted, &effects, now) {
            self.recorder = None;
        }
        effects
    }

    /// Writes until the disk takes it: nothing may be done or said before.
    async fn write(&mut self, writes: Vec<Write>, durable: bool) {
        if writes.is_empty() {
            return;
        }
        let writes = Arc::new(writes);
        loop {
            let mut journal = self.journal.take().expect("the journal was put back");
            let batch = writes.clone();
            let (journal, written) = spawn_blocking(move || {
                let written = journal.write(&batch, durable);
                (journal, written)
            })
            .await
            .expect("the journal does not panic");
            self.journal = Some(journal);
            let Err(error) = written else {
                return;
            };
            tracing::error!(%error, cause = %super::causes(&error), "journal refuses, trying again");
            sleep(JOURNAL_AGAIN).await;
        }
    }

    fn carry_out(&mut self, effect: Effect, answer: &mut Option<Answer>) {
        match effect {
            Effect::Answer(given) => *answer = Some(given),
            Effect::Fetch {
                slot,
                origin,
                packages,
                holders,
            } => self.fetch(slot, origin, packages, holders),
            Effect::CancelFetch { slot, origin } => {
                if let Some(fetch) = self.running.fetches.remove(&(slot, origin)) {
                    fetch.abort();
                }
            }
            Effect::StartHelper(start) => self.start(start),
            Effect::SignalStop {
                run,
                signal,
                grace_ms,
            } => {
                let helper = self.running.helpers.get(&run);
                if let Some(link) = helper.and_then(|helper| helper.link.as_ref()) {
                    link.send(AgentMessage::Stop { signal, grace_ms });
                }
            }
            Effect::Kill(run) => self.kill(run),
            Effect::KillLost(run) => self.kill_lost(run),
            Effect::WatchHealth { run, checks } => self.watch_health(run, checks),
            Effect::UnwatchHealth(run) => {
                if let Some(check) = self.running.checks.remove(&run) {
                    check.abort();
                }
            }
            Effect::WatchDisk { run, bytes_max } => self.watch_disk(run, bytes_max),
            Effect::SetLimits { run, job } => self.set_limits(&run, &job),
            Effect::ReportChanged => self.changed.send_modify(|count| *count += 1),
            Effect::Lease { slot, until } => self.leases.set(slot, until),
            Effect::Forgotten(slot) => {
                self.leases.forget(&slot);
                self.running.refused.remove(&slot);
                self.running.trees.retain(|(other, _), _| *other != slot);
                self.tidy();
            }
            Effect::PersistAuthority(_) | Effect::JournalPut { .. } | Effect::JournalRemove(_) => {
                unreachable!("writes are gathered in step")
            }
        }
    }

    fn fetch(
        &mut self,
        slot: SlotId,
        origin: Generation,
        wanted: Vec<PackageId>,
        holders: Vec<NodeId>,
    ) {
        let key = (slot.clone(), origin);
        let packages = self.packages.clone();
        let commands = self.commands.clone();
        let fetch = spawn("package fetch", async move {
            let trees = Trees::fetch(&*packages, wanted, holders).await;
            let report = Command::Fetched {
                slot,
                origin,
                trees,
            };
            let _ = commands.send(report).await;
        });
        if let Some(before) = self.running.fetches.insert(key, fetch) {
            before.abort();
        }
    }

    async fn fetched(&mut self, slot: SlotId, origin: Generation, fetched: Result<Trees, String>) {
        self.running.fetches.remove(&(slot.clone(), origin));
        let event = match fetched {
            Ok(fetched) => {
                let trees = &mut self.running.trees;
                // Of a fetch that was overtaken the report may come late.
                trees.retain(|(other, newer), _| *other != slot || *newer > origin);
                trees.insert((slot.clone(), origin), fetched);
                Event::Fetched { slot, origin }
            }
            Err(why) => Event::FetchFailed { slot, origin, why },
        };
        self.step(event).await;
    }

    fn start(&mut self, start: Start) {
        let run = start.run.clone();
        let trees = self.running.trees.get(&(run.slot.clone(), run.origin));
        let trees = trees.cloned().expect("a start follows its fetch");
        self.running.helpers.insert(run.clone(), Helper::default());
        let launch = self.launch.clone();
        let commands = self.commands.clone();
        let usages = self.usages.clone();
        spawn("helper start", async move {
            let launched = spawn_blocking(move || {
                let launched = launch.start(&start, &trees)?;
                usages.begin(&start.run, &launch.cgroups, &launch.folders);
                Ok(launched)
            });
            let launched = launched.await.expect("starting a helper does not panic");
            let _ = commands.send(Command::Launched { run, launched }).await;
        });
    }

    async fn launched(&mut self, run: Run, launched: Result<Launched, String>) {
        match launched {
            Ok(Launched {
                process,
                mut child,
                missing,
            }) => {
                self.note_missing(missing);
                let watched = process.clone();
                self.watch_process(run.clone(), watched, move || {
                    if let Err(error) = child.wait() {
                        tracing::warn!(%error, "helper can't be reaped");
                    }
                });
                let Some(helper) = self.running.helpers.get_mut(&run) else {
                    return;
                };
                helper.process.get_or_insert(process);
                if helper.doomed {
                    self.kill(run);
                }
            }
            Err(why) => {
                self.running.helpers.remove(&run);
                self.clean_up(run, End::NotStarted(why));
            }
        }
    }

    /// Tells when a helper's process is gone.
    fn watch_process(&self, run: Run, process: Process, reap: impl FnOnce() + Send + 'static) {
        let commands = self.commands.clone();
        spawn("helper watch", async move {
            if let Err(error) = process.ended().await {
                tracing::warn!(%run, %error, "helper can't be watched");
                return;
            }
            reap();
            let _ = commands.send(Command::HelperGone(run)).await;
        });
    }

    async fn greeted(&mut self, hello: Hello, pid: i32, link: Link) {
        let run = super::run_of(&hello.key);
        if hello.boot_id != self.launch.boot_id {
            tracing::warn!(%run, "helper is of another boot");
            return;
        }
        let known = self.running.helpers.contains_key(&run);
        if !known {
            // Of the agent's former life: not our child, nothing to reap.
            let Ok(process) = Process::open(pid) else {
                return;
            };
            self.watch_process(run.clone(), process.clone(), || {});
            let helper = Helper {
                process: Some(process),
                ..Helper::default()
            };
            self.running.helpers.insert(run.clone(), helper);
        }
        self.running.refused.remove(&run.slot);
        self.upgrades.greeted(&run, pid, &link, hello.hands_on);
        let helper = self.running.helpers.entry(run.clone()).or_default();
        helper.link = Some(link);
        self.isolation_missing(&hello.isolation_missing);
        match hello.phase {
            Phase::Starting => {}
            Phase::Running { .. } => {
                self.step(Event::Running(run.clone())).await;
                // If something still is amiss, the helper says so next.
                let trouble = None;
                let well = Event::Troubled {
                    run: run.clone(),
                    trouble,
                };
                self.step(well).await;
                self.stop_if_moved(&run);
            }
            Phase::Ended(end) => self.ended(run, end_of(&end)).await,
        }
    }

    /// It ends its task and leaves; the slot is filled anew, and says why.
    fn refused(&mut self, run: Run, why: &'static str) {
        let mut helpers = self.running.helpers.keys();
        let missed = !helpers.any(|other| other.slot == run.slot);
        // At most one for each slot that is held.
        if missed && self.held().contains(&run.slot) {
            self.running.refused.insert(run.slot, why);
        }
    }

    /// Its slot is filled anew when it has ended.
    fn stop_if_moved(&self, run: &Run) {
        let start = self.folders.start(run);
        if let Some(stop) = moved::must_stop(&start, self.address)
            && let Some(helper) = self.running.helpers.get(run)
            && let Some(link) = &helper.link
        {
            tracing::info!(%run, address = %self.address, "task was told another address, it is started anew");
            let (signal, grace_ms) = (stop.signal, stop.grace_ms);
            link.send(AgentMessage::Stop { signal, grace_ms });
        }
    }

    async fn helper_says(&mut self, run: Run, message: HelperMessage) {
        match message {
            HelperMessage::Started {
                isolation_missing, ..
            } => {
                self.isolation_missing(&isolation_missing);
                self.step(Event::Running(run)).await;
            }
            HelperMessage::StartFailed { why } => self.ended(run, End::NotStarted(why)).await,
            HelperMessage::Exited(exit) => self.ended(run, end_of_exit(&exit)).await,
            HelperMessage::LimitsSet { refused } => self.limits_are_set(run, refused).await,
            HelperMessage::Log(state) => self.log_is(run, state).await,
            HelperMessage::Upgraded { .. } => self.upgrades.answered(run, Ok(())),
            HelperMessage::UpgradeRefused { why } => self.upgrades.answered(run, Err(why)),
            // The connection answers pings, and a second greeting is nothing.
            HelperMessage::Ping { .. } | HelperMessage::Hello(_) => {}
        }
    }

    /// A helper whose connection is down is told when it has dialled anew.
    fn set_limits(&self, run: &Run, job: &Job) {
        let helper = self.running.helpers.get(run);
        if let Some(link) = helper.and_then(|helper| helper.link.as_ref()) {
            let task = &job.task;
            let limits = self.cgroups.limits(&task.resources, &task.limits);
            link.send(AgentMessage::SetLimits(limits));
        }
    }

    /// What this host can't limit at all is known, and told of the node.
    async fn limits_are_set(&mut self, run: Run, mut refused: Vec<String>) {
        refused.retain(|why| !self.cgroups.is_missing(why));
        match refused.is_empty() {
            true => tracing::info!(slot = %run.slot, "limits changed while the task runs"),
            false => tracing::warn!(slot = %run.slot, ?refused, "limits not as wanted"),
        }
        self.step(Event::LimitsSet { run, refused }).await;
    }

    /// A task's log gets to the disk, or does not: people are told, here and
    /// in the job's status.
    async fn log_is(&mut self, run: Run, state: LogState) {
        let trouble = match state {
            LogState::Written => None,
            LogState::Waits(why) => Some(format!("it waits to print: {why}")),
            LogState::Drops(why) => Some(format!("its log is dropped: {why}")),
        };
        match &trouble {
            Some(trouble) => tracing::warn!(slot = %run.slot, trouble, "log not written"),
            None => tracing::info!(slot = %run.slot, "log written again"),
        }
        self.step(Event::Troubled { run, trouble }).await;
    }

    /// A helper reports the end, the first time or again: an acknowledgement
    /// may be lost with its connection.
    async fn ended(&mut self, run: Run, end: End) {
        let Some(helper) = self.running.helpers.get_mut(&run) else {
            return;
        };
        if !std::mem::replace(&mut helper.ended, true) {
            self.clean_up(run, end);
        } else if !self.running.cleaning.contains(&run) {
            self.acknowledge(&run);
        }
    }

    /// The end is in the journal: the helper may leave.
    fn acknowledge(&self, run: &Run) {
        let helper = self.running.helpers.get(run);
        if let Some(link) = helper.and_then(|helper| helper.link.as_ref()) {
            link.send(AgentMessage::Ack);
        }
    }

    /// Kills what escaped, removes the groups, then says that nothing is left.
    fn clean_up(&mut self, run: Run, end: End) {
        if !self.running.cleaning.insert(run.clone()) {
            return;
        }
        let cgroups = self.cgroups.clone();
        let commands = self.commands.clone();
        let (usages, folders) = (self.usages.clone(), self.folders.clone());
        spawn("clean-up", async move {
            let (ended, groups) = (run.clone(), cgroups.clone());
            let last = spawn_blocking(move || usages.end(&ended, &groups, &folders));
            last.await.expect("sampling does not panic");
            while !cgroups.destroy(&group_name(&run)).await {}
            let _ = commands.send(Command::Gone { run, end }).await;
        });
    }

    async fn gone(&mut self, run: Run, end: End) {
        tracing::info!(%run, %end, "task ended");
        self.running.cleaning.remove(&run);
        if let Some(watch) = self.running.disks.remove(&run) {
            watch.abort();
        }
        let event = Event::Exited {
            run: run.clone(),
            end,
        };
        self.step(event).await;
        self.acknowledge(&run);
    }

    /// A helper's process is gone: after its task's end, or for no good reason.
    fn helper_gone(&mut self, run: Run) {
        self.upgrades.gone(&run);
        let Some(helper) = self.running.helpers.remove(&run) else {
            return;
        };
        if !helper.ended {
            let end = self.recorded_end(&run).unwrap_or_else(|| {
                let words = program::last_words(&self.folders.start(&run));
                words.map_or(End::HelperLost, |words| {
                    End::Other(format!("helper lost: {words}"))
                })
            });
            self.clean_up(run, end);
        }
    }

    fn recorded_end(&self, run: &Run) -> Option<End> {
        match EndRecord::read(&self.folders.start(run)) {
            Ok(record) => record.map(|record| end_of(&record.end)),
            Err(error) => {
                tracing::warn!(%run, %error, "record of an end can't be read");
                None
            }
        }
    }

    /// Has a helper kill its task; kills both if it does not.
    fn kill(&mut self, run: Run) {
        let Some(helper) = self.running.helpers.get_mut(&run) else {
            self.clean_up(run, End::HelperLost);
            return;
        };
        let Some(process) = helper.process.clone() else {
            helper.doomed = true;
            return;
        };
        let linked = helper.link.is_some();
        if let Some(link) = &helper.link {
            link.send(AgentMessage::Kill);
        }
        spawn("kill", async move {
            let patience = if linked {
                KILL_PATIENCE
            } else {
                Duration::ZERO
            };
            let ended = timeout(patience, process.ended()).await;
            if !matches!(ended, Ok(Ok(()))) {
                process.kill();
            }
        });
    }

    /// Kills all of a slot that has no helper here. The search ends when
    /// nothing is found.
    fn kill_lost(&mut self, run: Run) {
        if !self.running.cleaning.insert(run.clone()) {
            return;
        }
        let known: BTreeSet<Run> = self.running.helpers.keys().cloned().collect();
        let prefix = format!("{}@", folders::slot_name(&run.slot));
        let cgroups = self.cgroups.clone();
        let commands = self.commands.clone();
        let latest = self.latest_start(&run);
        let refused = self.running.refused.remove(&run.slot);
        let refused = refused.map(|why| End::Other(format!("helper refused: {why}")));
        let end = refused.or_else(|| self.recorded_end(&latest));
        let end = end.unwrap_or(End::HelperLost);
        let folders = self.folders.clone();
        spawn("kill lost", async move {
            let until = Instant::now() + LOST_LIMIT;
            let (mut left, mut groups) = (Vec::new(), Vec::new());
            for other in folders.runs(&run.slot) {
                if known.contains(&other) {
                    continue;
                }
                for helper in helpers_of(&folders.start(&other)) {
                    helper.kill();
                    if timeout_at(until, helper.ended()).await.is_err() {
                        left.push(format!("helper of {other}"));
                    }
                }
            }
            let spared: BTreeSet<String> = known.iter().map(group_name).collect();
            for name in cgroups.names() {
                if name.starts_with(&prefix) && !spared.contains(&name) {
                    let mut is_gone = cgroups.destroy(&name).await;
                    while !is_gone && Instant::now() < until {
                        is_gone = cgroups.destroy(&name).await;
                    }
                    if !is_gone {
                        left.push(format!("control group {name}"));
                        groups.push(name);
                    }
                }
            }
            let end = match left.is_empty() {
                true => end,
                false => {
                    let left = left.join(", ");
                    tracing::error!(%run, left, "killed and does not die, left behind");
                    End::Other(format!(
                        "helper lost; killed and does not die (a disk that hangs?): {left}"
                    ))
                }
            };
            let _ = commands.send(Command::LostGone { run, end, known }).await;
            // Nobody waits for these any more.
            for name in groups {
                while !cgroups.destroy(&name).await {}
                tracing::info!(group = name, "left behind, and gone at last");
            }
        });
    }

    /// The search for a lost run has ended. A helper that dialled meanwhile
    /// goes first; the host has the search repeated.
    async fn lost_gone(&mut self, run: Run, end: End, known: &BTreeSet<Run>) {
        let late = |other: &&Run| other.slot == run.slot && !known.contains(other);
        let late: Vec<Run> = self.running.helpers.keys().filter(late).cloned().collect();
        if late.is_empty() {
            self.gone(run, end).await;
            return;
        }
        self.running.cleaning.remove(&run);
        for other in late {
            self.kill(other);
        }
    }

    /// The journal may lag behind in counting starts; folders don't.
    fn latest_start(&self, run: &Run) -> Run {
        let starts = self.folders.starts(&run.slot, run.origin);
        Run {
            start: starts.last().copied().unwrap_or(run.start).max(run.start),
            ..run.clone()
        }
    }

    /// After the adoption: ends what former lives left behind that no slot of
    /// the journal claims.
    fn sweep_once(&mut self) {
        if self.running.swept || self.host.adopting() {
            return;
        }
        self.running.swept = true;
        self.tidy();
        let held = self.held();
        let strays = self.running.helpers.keys().map(group_name);
        let strays: BTreeSet<String> = strays.collect();
        let of_held = move |name: &str| {
            let slot = name.split('@').next().unwrap_or_default();
            held.iter().any(|id| folders::slot_name(id) == slot)
        };
        let cgroups = self.cgroups.clone();
        spawn("sweep", async move {
            for name in cgroups.names() {
                if !of_held(&name) && !strays.contains(&name) {
                    tracing::warn!(group = name, "left behind by an earlier agent");
                    cgroups.destroy(&name).await;
                }
            }
        });
    }

    fn held(&self) -> BTreeSet<SlotId> {
        let reports = self.host.slots().into_iter();
        reports.map(|report| report.slot).collect()
    }

    /// Removes the folders of slots that were here long ago.
    fn tidy(&self) {
        let old = self.folders.set_aside(&self.held());
        if !old.is_empty() {
            spawn("tidy", async move {
                let remove = move || old.iter().for_each(|folder| folders::remove(folder));
                spawn_blocking(remove)
                    .await
                    .expect("removing does not panic");
            });
        }
    }

    fn watch_health(&mut self, run: Run, checks: Vec<(HealthCheck, u16)>) {
        let at = |(check, port)| (check, SocketAddr::new(self.address, port));
        let checks = checks.into_iter().map(at).collect();
        let commands = self.commands.clone();
        let of = run.clone();
        let tell = move |healthy| {
            let commands = commands.clone();
            let run = of.clone();
            async move {
                commands
                    .send(Command::Health { run, healthy })
                    .await
                    .is_ok()
            }
        };
        let check = spawn("health check", health::watch(checks, tell));
        if let Some(before) = self.running.checks.insert(run, check) {
            before.abort();
        }
    }

    fn watch_disk(&mut self, run: Run, bytes_max: u64) {
        let commands = self.commands.clone();
        let of = run.clone();
        let tell = move |note| {
            let command = Command::DiskFull {
                run: of.clone(),
                note,
            };
            let commands = commands.clone();
            async move { commands.send(command).await.is_ok() }
        };
        let watch = disk::watch(self.folders.on_disk(&run), bytes_max, tell);
        let watch = spawn("disk watch", watch);
        if let Some(before) = self.running.disks.insert(run, watch) {
            before.abort();
        }
    }

    /// Told again with each look until it has ended: a helper without a
    /// connection hears nothing.
    fn stop_at_disk_limit(&self, run: &Run, note: String) {
        let helper = self.running.helpers.get(run);
        let link = helper.and_then(|helper| helper.link.as_ref());
        let (Some(link), Some(stop)) = (link, self.host.stop_policy(run)) else {
            return;
        };
        tracing::info!(%run, note, "task is over its disk limit");
        link.send(AgentMessage::StopAtDiskLimit {
            signal: stop.signal,
            grace_ms: stop.grace_ms,
            note,
        });
    }

    fn isolation_missing(&self, missing: &[MissingIsolation]) {
        let kind = |one: &MissingIsolation| format!("{}: {}", one.kind, one.why);
        self.note_missing(missing.iter().map(kind).collect());
    }

    fn note_missing(&self, missing: Vec<String>) {
        /// Kinds of isolation times reasons; a helper can't fill the memory.
        const MISSING_MAX: usize = 64;
        let mut all = self.missing.lock().expect("no one panics with this lock");
        for one in missing {
            if all.len() < MISSING_MAX && all.insert(one.clone()) {
                tracing::warn!(missing = one, "isolation that this host does not give");
            }
        }
    }
}

/// Waits for a time on the boot-time clock.
async fn until(at: Option<Millis>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    loop {
        let left = at.since(clock::boot_now());
        if left == Millis(0) {
            return;
        }
        sleep(Duration::from_millis(left.0).min(SLEEP_MAX)).await;
    }
}

/// Names a run's control groups.
pub(super) fn group_name(run: &Run) -> String {
    let slot = folders::slot_name(&run.slot);
    format!("{slot}@{}#{}", run.origin, run.start)
}

/// What [`group_name`] made.
pub(super) fn read_group_name(name: &str) -> Option<Run> {
    let (rest, start) = name.rsplit_once('#')?;
    let (slot, origin) = rest.split_once('@')?;
    Some(Run {
        slot: folders::read_slot(slot)?,
        origin: folders::read_generation(origin)?,
        start: start.parse().ok()?,
    })
}

fn end_of(end: &TaskEnd) -> End {
    match end {
        TaskEnd::Exited(exit) => end_of_exit(exit),
        TaskEnd::NotStarted { why, .. } => End::NotStarted(why.clone()),
    }
}

fn end_of_exit(exit: &TaskExit) -> End {
    match (exit.reason, exit.code, exit.signal) {
        (ExitReason::LeaseExpired, ..) => End::LeaseExpired,
        (ExitReason::MemoryLimit, ..) => End::MemoryLimit(exit.note.clone().unwrap_or_default()),
        (ExitReason::DiskLimit, ..) => End::DiskLimit(exit.note.clone().unwrap_or_default()),
        (ExitReason::InitLost, ..) => End::Other("killed from outside".into()),
        (_, Some(code), _) => End::Code(code),
        (_, None, Some(signal)) => End::Signal(signal),
        (reason, None, None) => End::Other(format!("{reason:?}")),
    }
}
