//! The part of potluck that runs tasks on a node.
//!
//! Answers for carrying out what `potluck_core::host` decides: the journal,
//! helpers, cgroups, health checks, logs. Which slots should be filled where
//! is the scheduler's; getting packages is the [`PackageProvider`]'s.

mod actor;
mod block_device;
mod cgroups;
pub mod disk;
pub mod facts;
mod folders;
mod health;
mod journal;
mod launch;
mod leases;
mod library;
mod link;
mod logs;
mod moved;
mod places;
mod ports;
mod pressure;
mod process;
mod program;
mod recording;
mod retention;
mod sessions;
mod texts;
mod token;
mod tools;
mod trees;
mod upgrades;
mod usage;

pub use journal::JournalError;
pub use logs::{LogBatch, LogPlace, LogQuery, LogsError, ReadLine, TAIL_LINES_MAX};
pub use potluck_helper::log::Line;
pub use retention::LogRetention;
pub use sessions::{EnterError, Entrance, Pipe, SessionWish, TaskSession};
pub use upgrades::HelperBuild;

use crate::{clock, recording::Wish, spawn::spawn, wire::HeldJob};
use actor::{Actor, COMMANDS_WAITING, Command, Running};
use async_trait::async_trait;
use cgroups::Cgroups;
use folders::Folders;
use journal::Journal;
use launch::Launch;
use link::Links;
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{User, geteuid},
};
use potluck_core::{
    attributes::{Facts, NO, USERS, YES},
    auction::{Authority, Award, AwardAnswer, Call, CallAnswer, Refusal, StopOrder},
    host::{ADOPTION_LIMIT, Host, HostConfig, Run},
    session::{Heartbeat, HeartbeatAnswer, SlotReport},
    usage::TaskUsage,
};
use potluck_helper::{Listener, TaskKey};
use potluck_specs::{
    Generation, Job, JobName, Millis, NodeId, NodeName, PackageId, SlotId, Topology,
    job::{Resources, SignedJob},
};
use std::{
    collections::BTreeSet,
    error::Error,
    fmt, fs, io,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use upgrades::{Builds, Upgrades};
use usage::Usages;

/// Gets packages.
#[async_trait]
pub trait PackageProvider: Send + Sync + 'static {
    /// The package's unpacked tree, not to be written to. Called again for a
    /// package that is here; called together for the same package.
    ///
    /// # Errors
    /// Why it can't be had, for people.
    async fn ensure(&self, id: PackageId, holders: Vec<NodeId>) -> Result<PathBuf, String>;

    /// Bytes of the package that are not here yet; asked for each bid, so it
    /// must not take long.
    async fn missing_bytes(&self, id: PackageId, package_bytes: u64) -> u64;
}

/// Checks a job's signature and author: the job, or why it is refused.
pub type Verify = Arc<dyn Fn(&SignedJob) -> Result<Job, String> + Send + Sync>;

/// What an agent is started with.
#[derive(Clone)]
pub struct AgentConfig {
    /// The node.
    pub node: NodeId,
    /// Its name, for tasks that ask.
    pub name: NodeName,
    /// Where it stands, for tasks that ask.
    pub topology: Topology,
    /// The agent's own folder; locked while it runs.
    pub data_dir: PathBuf,
    /// The node's address: tasks are told it, health checks dial it.
    pub address: IpAddr,
    /// All that the node has for tasks.
    pub total: Resources,
    /// What the node says of itself.
    pub facts: Facts,
    /// Ports that may be chosen for tasks.
    pub ports: RangeInclusive<u16>,
    /// Ports that the node itself listens on: no task is given these.
    pub node_ports: BTreeSet<u16>,
    /// The helper program; copied into the data folder by content.
    pub helper: PathBuf,
    /// Whether helpers of other builds, which an agent finds when it starts, are
    /// brought to this one.
    pub upgrade_helpers: bool,
    /// How long a task outlives its last contact with the agent.
    pub lease: Millis,
    /// What is kept of all tasks' logs.
    pub logs: LogRetention,
    /// Checks a job before it is run.
    pub verify: Verify,
}

/// The attribute of nodes that says which isolation they can give.
const ISOLATION: &str = "isolation";

/// The agent lease, unless a testnet wants to see it expire.
pub const LEASE: Millis = Millis(60_000);

/// Why an agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent uses the data folder.
    #[error("another agent runs on data folder {0}")]
    Locked(PathBuf),
    /// A file or folder can't be used.
    #[error("{path} can't be used")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal can't be used.
    #[error("the agent's memory is gone")]
    Journal(#[from] JournalError),
}

/// A request that is not fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The node says no.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// The agent has stopped.
    #[error(transparent)]
    Stopped(#[from] AgentStopped),
}

/// The agent is gone, since its node is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent has stopped")]
pub struct AgentStopped;

/// A handle to the agent's actor.
#[derive(Clone)]
pub struct Agent {
    commands: mpsc::Sender<Command>,
    changed: watch::Receiver<u64>,
    missing: Arc<Mutex<BTreeSet<String>>>,
    packages: Arc<dyn PackageProvider>,
    verify: Verify,
    folders: Folders,
    usages: Usages,
    builds: Builds,
    token: CancellationToken,
    stopped: CancellationToken,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

/// Starts an agent on its data folder; tasks of its former life are found
/// again. It ends when `token` is cancelled, and leaves its tasks running.
///
/// # Errors
/// Any [`AgentError`].
pub async fn start(
    config: AgentConfig,
    packages: Arc<dyn PackageProvider>,
    token: CancellationToken,
) -> Result<Agent, AgentError> {
    let (commands, inbox) = mpsc::channel(COMMANDS_WAITING);
    let (changed, changes) = watch::channel(0);
    let prepare = {
        let (config, packages, commands) = (config.clone(), packages.clone(), commands.clone());
        let token = token.clone();
        move || prepare(&config, packages, commands, changed, token)
    };
    let prepared = spawn_blocking(prepare)
        .await
        .expect("preparing an agent does not panic")?;
    let (mut actor, listener, isolation) = prepared;
    let builds = actor.upgrades.builds();
    let links = Links {
        commands: commands.clone(),
        agent_generation: actor.launch.agent_generation,
        lease: config.lease,
        leases: actor.leases.clone(),
        token: token.clone(),
    };
    spawn("helper listener", links.listen(listener));
    let stopped = CancellationToken::new();
    let usages = actor.usages.clone();
    retention::watch(actor.folders.clone(), config.logs, token.clone());
    let sampler = usages.sample(actor.cgroups.clone(), actor.folders.clone(), token.clone());
    pressure::watch(commands.clone(), token.clone());
    let agent = Agent {
        commands,
        changed: changes,
        missing: actor.missing.clone(),
        packages,
        verify: config.verify,
        folders: actor.folders.clone(),
        usages,
        builds,
        token: token.clone(),
        stopped: stopped.clone(),
    };
    let mut facts = config.facts;
    facts.attributes.insert(ISOLATION.into(), isolation);
    for (name, can) in actor.cgroups.abilities() {
        let value = if *can { YES } else { NO };
        facts.attributes.insert((*name).into(), value.into());
    }
    facts.attributes.insert(USERS.into(), users());
    spawn("agent", async move {
        actor.introduce(facts).await;
        actor.run(inbox, token).await;
        // The next agent reads what this one has written.
        let _ = sampler.await;
        stopped.cancel();
    });
    Ok(agent)
}

/// As whom tasks can run: anybody, or only as the node does.
fn users() -> String {
    let own = geteuid();
    match own.is_root() {
        true => YES.into(),
        false => {
            let found = User::from_uid(own).ok().flatten();
            found.map_or_else(|| own.to_string(), |user| user.name)
        }
    }
}

/// All of a start that blocks.
fn prepare(
    config: &AgentConfig,
    packages: Arc<dyn PackageProvider>,
    commands: mpsc::Sender<Command>,
    changed: watch::Sender<u64>,
    token: CancellationToken,
) -> Result<(Actor, Listener, String), AgentError> {
    let at = |path: PathBuf| move |source| AgentError::Io { path, source };
    fs::create_dir_all(&config.data_dir).map_err(at(config.data_dir.clone()))?;
    // Helpers run in another folder.
    let data = config.data_dir.canonicalize();
    let folders = Folders::new(&data.map_err(at(config.data_dir.clone()))?);
    let lock = lock(&folders, &config.data_dir)?;
    let program = program::install(&folders, &config.helper).map_err(at(config.helper.clone()))?;
    let boot_id = "/proc/sys/kernel/random/boot_id";
    let boot_id = fs::read_to_string(boot_id).map_err(at(boot_id.into()))?;
    let (journal, restored) = Journal::open(&folders.journal(), boot_id.trim())?;
    let listener = Listener::bind(&folders.socket()).map_err(at(folders.socket()))?;

    let node = config.node.short();
    let cgroups = Arc::new(Cgroups::detect(&node, &config.data_dir));
    for missing in cgroups.missing() {
        tracing::warn!(missing, "isolation that this host does not give");
    }
    let tried = program::isolation(&folders, &program);
    let (isolation, why) = tried.map_err(at(config.helper.clone()))?;
    let why = why.into_iter().map(|why| format!("full isolation: {why}"));
    let missing = cgroups.missing().iter().cloned().chain(why).collect();
    let builds = Builds::new(&program);
    let upgrades = Upgrades::start(builds, config.upgrade_helpers, token);
    let launch = Arc::new(Launch {
        program,
        folders: folders.clone(),
        cgroups: cgroups.clone(),
        node: config.node,
        name: config.name.clone(),
        topology: config.topology.clone(),
        address: config.address,
        agent_generation: restored.agent_generation,
        lease: config.lease,
        boot_id: boot_id.trim().into(),
    });
    let now = clock::boot_now();
    let host_config = HostConfig {
        node: config.node,
        incarnation: restored.agent_generation,
        total: config.total,
        port_first: *config.ports.start(),
        port_last: *config.ports.end(),
        unix_offset: clock::unix_now().since(now),
        adoption_limit: match restored.same_boot {
            true => ADOPTION_LIMIT,
            false => Millis(0),
        },
    };
    let actor = Actor {
        host: Host::new(host_config, restored.highest, restored.entries, now),
        journal: Some(journal),
        folders,
        cgroups,
        launch,
        packages,
        address: config.address,
        node_ports: config.node_ports.clone(),
        leases: leases::Leases::default(),
        commands,
        changed,
        missing: Arc::new(Mutex::new(missing)),
        usages: Usages::default(),
        upgrades,
        lock,
        recorder: None,
        running: Running::default(),
    };
    Ok((actor, listener, isolation))
}

/// Keeps a second agent off the folder for as long as the lock is held.
fn lock(folders: &Folders, data_dir: &Path) -> Result<Flock<fs::File>, AgentError> {
    let path = folders.lock();
    let fail = |source| AgentError::Io {
        path: path.clone(),
        source,
    };
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(fail)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(AgentError::Locked(data_dir.into())),
        Err((_, errno)) => Err(fail(errno.into())),
    }
}

impl Agent {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, AgentStopped> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| AgentStopped)
    }

    async fn tell(&self, command: Command) -> Result<(), AgentStopped> {
        self.commands.send(command).await.map_err(|_| AgentStopped)
    }

    /// Answers a call.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn call(&self, call: Call) -> Result<CallAnswer, AgentStopped> {
        let missing = self
            .packages
            .missing_bytes(call.package, call.package_bytes);
        let missing = missing.await;
        self.ask(|reply| Command::Call(call, missing, reply)).await
    }

    /// Answers an award, once what is taken is in the journal.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn award(&self, award: Award) -> Result<AwardAnswer, AgentStopped> {
        let job = (self.verify)(&award.job).map(Arc::new);
        self.ask(|reply| Command::Award(award, job, reply)).await
    }

    /// Gives a reservation back.
    ///
    /// # Errors
    /// Any [`OrderError`].
    pub async fn cancel(&self, authority: Authority, call: u64) -> Result<(), OrderError> {
        self.ask(|reply| Command::Cancel(authority, call, reply))
            .await?
            .map_err(OrderError::Refused)
    }

    /// Stops a slot; answered once the order is in the journal, before the
    /// task has ended.
    ///
    /// # Errors
    /// Any [`OrderError`].
    pub async fn stop(&self, order: StopOrder) -> Result<(), OrderError> {
        self.ask(|reply| Command::Stop(order, reply))
            .await?
            .map_err(OrderError::Refused)
    }

    /// All that runs here, for a scheduler at the start of its reign.
    ///
    /// # Errors
    /// Any [`OrderError`].
    pub async fn greet(&self, authority: Authority) -> Result<Heartbeat, OrderError> {
        self.ask(|reply| Command::Greet(authority, reply))
            .await?
            .map_err(OrderError::Refused)
    }

    /// The next heartbeat: what changed since the one that was confirmed.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn heartbeat(&self) -> Result<Heartbeat, AgentStopped> {
        self.ask(Command::Heartbeat).await
    }

    /// The scheduler answered a heartbeat.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn heartbeat_answered(&self, answer: HeartbeatAnswer) -> Result<(), AgentStopped> {
        self.tell(Command::HeartbeatAnswered(answer)).await
    }

    /// Counts up whenever a heartbeat should be sent at once.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// All slots, in order.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn slots(&self) -> Result<Vec<SlotReport>, AgentStopped> {
        self.ask(Command::Slots).await
    }

    /// The latest version of a job that is held here, as it was signed.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn held(&self, job: JobName) -> Result<Option<HeldJob>, AgentStopped> {
        self.ask(|reply| Command::Held(job, reply)).await
    }

    /// Take no new work, or take it again.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn set_draining(&self, draining: bool) -> Result<(), AgentStopped> {
        self.tell(Command::SetDraining(draining)).await
    }

    /// No new work, and stop all that runs.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn leave(&self) -> Result<(), AgentStopped> {
        self.tell(Command::Leave).await
    }

    /// Begins a recording of what goes into the host's decisions; one that is
    /// under way ends. The wish is dropped if the agent has stopped.
    pub(crate) async fn record(&self, wish: Wish) {
        // Nobody waits for an agent that is gone.
        let _ = self.tell(Command::Record(wish)).await;
    }

    /// The highest authority heard from anyone.
    ///
    /// # Errors
    /// [`AgentStopped`].
    pub async fn highest(&self) -> Result<Authority, AgentStopped> {
        self.ask(Command::Highest).await
    }

    /// What this host can't isolate or limit, for people; sorted.
    pub fn isolation_missing(&self) -> Vec<String> {
        let missing = self.missing.lock().expect("no one panics with this lock");
        missing.iter().cloned().collect()
    }

    /// How many helpers of which builds there are, the current build first.
    pub fn helper_builds(&self) -> Vec<HelperBuild> {
        self.builds.list()
    }

    /// What is wrong with the disk of the data folder, for people. Asks the
    /// file system, which is quick unless the disk hangs.
    pub async fn disk_concern(&self) -> Option<String> {
        let folder = self.folders.tasks();
        let look = spawn_blocking(move || disk::concern(&folder));
        look.await.expect("a look does not panic")
    }

    /// What the job's tasks on this node use; nothing where the host does not
    /// tell.
    pub fn usage(&self, job: &JobName) -> Vec<TaskUsage> {
        self.usages.of(job)
    }

    /// Lines of a slot's log, in batches. Slots that are over are found as
    /// long as their logs are kept.
    ///
    /// # Errors
    /// Any [`LogsError`].
    pub async fn logs(
        &self,
        slot: SlotId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogBatch>, LogsError> {
        let folders = self.folders.clone();
        let find = move || {
            let generation = logs::generation(&folders, &slot, &query)?;
            Ok((slot, query, generation))
        };
        let found = spawn_blocking(find).await.expect("a search does not panic");
        let (slot, query, generation) = found?;
        let (to, lines) = mpsc::channel(logs::BATCHES_WAITING);
        let reading = logs::Reading {
            agent: self.clone(),
            slot,
            generation,
            query: Arc::new(query),
            to,
        };
        spawn("log reader", reading.run(self.token.clone()));
        Ok(lines)
    }

    /// The logs of a slot that are kept here, by their origins, oldest first.
    pub async fn log_origins(&self, slot: SlotId) -> Vec<Generation> {
        let folders = self.folders.clone();
        let list = spawn_blocking(move || folders.generations(&slot));
        list.await.expect("a list of folders does not panic")
    }

    /// Waits until the agent has ended and its data folder is free.
    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}

/// The helper's name for a run.
fn key_of(run: &Run) -> TaskKey {
    TaskKey {
        slot: run.slot.clone(),
        generation: run.origin,
        start: run.start,
    }
}

fn run_of(key: &TaskKey) -> Run {
    Run {
        slot: key.slot.clone(),
        origin: key.generation,
        start: key.start,
    }
}

/// What lies behind an error, outermost first.
fn causes(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}
