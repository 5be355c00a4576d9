//! The agent with real helpers and tasks, without a network: a scheduler's
//! requests go straight to its handle.
//!
//! Needs the helper's program: `cargo build -p potluck-helper`.

#[path = "agent/apart.rs"]
mod apart;
#[path = "agent/daemon.rs"]
mod daemon;
#[path = "agent/disk.rs"]
mod disk;
#[path = "agent/faults.rs"]
mod faults;
#[path = "agent/greeting.rs"]
mod greeting;
#[path = "agent/journal.rs"]
mod journal;
#[path = "agent/killed.rs"]
mod killed;
#[path = "agent/lost.rs"]
mod lost;
#[path = "agent/upgrade.rs"]
mod upgrade;

use async_trait::async_trait;
use potluck_core::{
    attributes::Facts,
    auction::{Authority, Award, Call, CallAnswer, PortUser, Refusal, StopOrder, StopReason},
    session::{HeartbeatAnswer, SlotReport, TaskState},
};
use potluck_node::agent::{self, Agent, AgentConfig, AgentError, LogQuery, PackageProvider};
use potluck_specs::{
    Epoch, FleetId, Generation, Job, JobName, Millis, NodeId, NodeName, PackageId, Reign, SlotId,
    Topology,
    job::{
        HealthCheck, Hook, Mount, MountSource, PortSpec, RenderedFile, Resources, ServiceSpec,
        SignedJob, StopPolicy, TaskTemplate,
    },
    trust::{Context, PublicKey, SecretKey, Signed, UserCredential},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Far above what anything here takes, on a machine that does other things.
const LIMIT: Duration = Duration::from_secs(30);

fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a program");
    let helper = test
        .ancestors()
        .map(|folder| folder.join("potluck-helper"))
        .find(|path| path.is_file());
    helper.unwrap_or_else(|| {
        panic!(
            "no potluck-helper beside {}: run `cargo build -p potluck-helper` first",
            test.display()
        )
    })
}

static NODES: AtomicU8 = AtomicU8::new(1);

/// Control groups are named by node: none may be that of another test, or of
/// another run of this one.
fn node_id(seed: u8) -> NodeId {
    let mut id = [seed; 32];
    id[..4].copy_from_slice(&apart::this_run().to_be_bytes());
    NodeId(id)
}

/// Tests run side by side, each on its own address.
fn address(seed: u8) -> IpAddr {
    let run = apart::this_run().to_be_bytes()[3];
    Ipv4Addr::new(127, 200, run, seed).into()
}

/// What the nodes of these tests claim to listen on: one that tasks would be
/// given otherwise.
const NODE_PORT: u16 = 20_002;

/// A folder that stands for every package.
struct Folder(PathBuf);

#[async_trait]
impl PackageProvider for Folder {
    async fn ensure(&self, _: PackageId, _: Vec<NodeId>) -> Result<PathBuf, String> {
        Ok(self.0.clone())
    }

    async fn missing_bytes(&self, _: PackageId, _: u64) -> u64 {
        0
    }
}

/// A node's folders, and the agent that uses them.
struct Node {
    data: TempDir,
    package: TempDir,
    /// Tells the nodes of this process apart.
    seed: u8,
    /// The helper's program, and whether helpers of others are left alone.
    helper: (PathBuf, bool),
    token: CancellationToken,
    agent: Agent,
}

impl Node {
    async fn start(script: &str) -> Node {
        let data = tempfile::tempdir().expect("a folder for data");
        Node::start_on(data, script).await
    }

    async fn start_on(data: TempDir, script: &str) -> Node {
        let (package, seed) = ground(script);
        Node::on(data, package, seed).await
    }

    /// An agent on folders that another may have left.
    async fn on(data: TempDir, package: TempDir, seed: u8) -> Node {
        let token = CancellationToken::new();
        let helper = (helper(), false);
        let agent = launch(data.path(), package.path(), seed, &helper, &token)
            .await
            .expect("the agent starts");
        Node {
            data,
            package,
            seed,
            helper,
            token,
            agent,
        }
    }

    /// Ends the agent, as SIGTERM would, and starts the next.
    async fn restart(&mut self) {
        self.token.cancel();
        self.agent.stopped().await;
        self.token = CancellationToken::new();
        self.agent = launch(
            self.data.path(),
            self.package.path(),
            self.seed,
            &self.helper,
            &self.token,
        )
        .await
        .expect("the agent starts again");
    }

    async fn award(&self, job: &Job, slots: &[(u32, u64)]) {
        let answers = self.try_award(job, slots).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    async fn try_award(&self, job: &Job, slots: &[(u32, u64)]) -> Vec<Result<(), Refusal>> {
        let award = Award {
            authority: authority(),
            call: 1,
            slots: slots
                .iter()
                .map(|(index, sequence)| (slot(job, *index), generation(*sequence)))
                .collect(),
            job: signed(job).into(),
            package_bytes: 1,
            holders: vec![],
        };
        let answer = self.agent.award(award).await.expect("the agent answers");
        let answers = answer.slots.into_iter().map(|(_, result)| result);
        answers.collect()
    }

    async fn stop(&self, job: &Job, index: u32, sequence: u64) {
        let order = StopOrder {
            authority: authority(),
            slot: slot(job, index),
            generation: generation(sequence),
            reason: StopReason::JobStopped,
        };
        self.agent.stop(order).await.expect("the agent obeys");
    }

    /// Waits until a slot's report is as wanted.
    async fn until(
        &self,
        job: &Job,
        index: u32,
        wanted: impl Fn(&SlotReport) -> bool,
    ) -> SlotReport {
        let id = slot(job, index);
        let mut changed = self.agent.changed();
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let slots = self.agent.slots().await.expect("the agent answers");
            let report = slots.into_iter().find(|report| report.slot == id);
            if let Some(report) = report.clone().filter(&wanted) {
                return report;
            }
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            assert!(waited.is_ok(), "waited too long: {report:?}");
        }
    }

    async fn until_running(&self, job: &Job, index: u32) -> SlotReport {
        let running = |report: &SlotReport| report.state == TaskState::Running && report.healthy;
        self.until(job, index, running).await
    }

    async fn until_stopped(&self, job: &Job, index: u32) -> SlotReport {
        let stopped = |report: &SlotReport| report.state == TaskState::Stopped;
        self.until(job, index, stopped).await
    }

    /// The process that wrote its name into the task's folder.
    fn pid_file(&self, job: &Job, index: u32, sequence: u64) -> PathBuf {
        let JobName { namespace, name } = &job.name;
        let tasks = self.data.path().join("tasks");
        tasks
            .join(format!("{namespace}.{name}.{index}"))
            .join(generation(sequence).to_string())
            .join("work/token")
    }

    /// Helpers and tasks of this node.
    fn processes(&self) -> Vec<i32> {
        processes_of(self.data.path())
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let roots = group_roots(self.seed);
        let groups = roots.iter().filter_map(|root| fs::read_dir(root).ok());
        let folders = groups.flatten().filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.path())
        });
        folders.collect()
    }

    /// Nothing of any task is left, soon.
    async fn assert_nothing_left(&self) {
        poll("processes or control groups are left", || {
            self.processes().is_empty() && self.cgroups().is_empty()
        })
        .await;
    }

    async fn end(self) {
        self.agent.leave().await.expect("the agent leaves");
        poll_tasks_over(&self.agent).await;
        self.assert_nothing_left().await;
        self.token.cancel();
        self.agent.stopped().await;
        poll("a descriptor is left", || {
            open_files("self", self.data.path()).is_empty()
        })
        .await;
        let left = group_roots(self.seed);
        poll("the node's own control group is left", || {
            left.iter().all(|root| !root.exists())
        })
        .await;
    }
}

/// Processes on this host that have this data folder in their environment or
/// command line.
fn processes_of(data: &Path) -> Vec<i32> {
    let needle = data.as_os_str().as_encoded_bytes();
    let has = |path: String| {
        fs::read(path).is_ok_and(|text| text.windows(needle.len()).any(|part| part == needle))
    };
    let pids = fs::read_dir("/proc").expect("/proc is there");
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| has(format!("/proc/{pid}/environ")) || has(format!("/proc/{pid}/cmdline")))
        .collect()
}

/// Files below a folder that a process has open.
fn open_files(pid: &str, folder: &Path) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let links = descriptors.into_iter().flatten();
    let files = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    files.filter(|file| file.starts_with(folder)).collect()
}

/// Where a node's control groups are, in each hierarchy that there may be.
fn group_roots(seed: u8) -> [PathBuf; 5] {
    let node = node_id(seed).short();
    ["memory", "cpu", "pids", "unified", "."].map(|part| {
        let root = Path::new("/sys/fs/cgroup").join(part);
        root.join("potluck").join(&node)
    })
}

/// A folder for a node's package, and the node's number.
fn ground(script: &str) -> (TempDir, u8) {
    let package = tempfile::tempdir().expect("a folder for the package");
    let program = package.path().join("run");
    fs::write(&program, script).expect("the script can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::set_permissions(package.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    (package, NODES.fetch_add(1, Ordering::Relaxed))
}

impl Drop for Node {
    /// A failed test leaves no processes behind.
    fn drop(&mut self) {
        self.token.cancel();
        sweep(self.data.path(), self.seed);
    }
}

/// Kills what is left of a node's tasks, and removes their control groups.
fn sweep(data: &Path, seed: u8) {
    /// A killed process may take a moment, a group until it is empty.
    const LOOKS: u32 = 100;
    for pid in processes_of(data) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    for root in group_roots(seed) {
        for _ in 0..LOOKS {
            for group in fs::read_dir(&root).into_iter().flatten().flatten() {
                // Fails for the kernel's own files, and while someone is in it.
                let _ = fs::remove_dir(group.path());
            }
            if !root.exists() || fs::remove_dir(&root).is_ok() {
                break;
            }
            let _ = nix::poll::poll(&mut [], 10_u8);
        }
    }
}

async fn poll_tasks_over(agent: &Agent) {
    let mut changed = agent.changed();
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let slots = agent.slots().await.expect("the agent answers");
        if slots
            .iter()
            .all(|report| report.state == TaskState::Stopped)
        {
            return;
        }
        let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
        assert!(waited.is_ok(), "tasks do not end: {slots:?}");
    }
}

/// Looks again and again until it is so.
async fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        interval.tick().await;
    }
}

async fn launch(
    data: &Path,
    package: &Path,
    seed: u8,
    (helper, keep_helpers): &(PathBuf, bool),
    token: &CancellationToken,
) -> Result<Agent, AgentError> {
    let config = AgentConfig {
        node: node_id(seed),
        name: NodeName(format!("n{seed}")),
        topology: Topology::in_rack("home", "r7"),
        data_dir: data.into(),
        address: address(seed),
        total: Resources {
            disk_bytes: 1 << 30,
            ..Resources::new(4_000, 4 << 30)
        },
        facts: Facts::default(),
        ports: 20_000..=20_019,
        node_ports: BTreeSet::from([NODE_PORT]),
        helper: helper.clone(),
        upgrade_helpers: !keep_helpers,
        lease: apart::lease(),
        logs: agent::LogRetention::DEFAULT,
        verify: Arc::new(|signed: &SignedJob| {
            signed.decode_unchecked().map_err(|error| error.to_string())
        }),
    };
    agent::start(config, Arc::new(Folder(package.into())), token.clone()).await
}

fn authority() -> Authority {
    Authority {
        epoch: Epoch(1),
        reign: Reign(1),
    }
}

fn generation(sequence: u64) -> Generation {
    authority().generation(sequence)
}

fn slot(job: &Job, index: u32) -> SlotId {
    SlotId {
        job: job.name.clone(),
        index,
    }
}

fn job(version: u64) -> Job {
    Job {
        fleet: FleetId([0; 32]),
        cluster: "home".into(),
        name: JobName::in_default("web"),
        version,
        package: PackageId([1; 32]),
        task: TaskTemplate {
            command: "run".into(),
            env: BTreeMap::from([("GREETING".into(), "hello".into())]),
            ports: vec![PortSpec {
                name: "http".into(),
                number: None,
            }],
            stop: StopPolicy {
                signal: 15,
                grace_ms: 5_000,
            },
            ..TaskTemplate::default()
        },
        ..Job::default()
    }
}

fn signed(job: &Job) -> SignedJob {
    let nobody = Signed {
        bytes: vec![],
        signature: [0; 64],
    };
    let key = SecretKey::from_seed([1; 32]);
    SignedJob {
        job: Signed::new(&key, Context::Job, job.encode()),
        author: UserCredential {
            root: PublicKey([0; 32]),
            issuer: nobody.clone(),
            certificate: nobody,
        },
    }
}

/// Says who it is, then waits to be told to stop. Each start leaves another
/// token, so that a restart is seen.
const SERVER: &str = r#"#!/bin/sh
echo "$GREETING from $POTLUCK_JOB[$POTLUCK_SLOT] generation $POTLUCK_GENERATION port $PORT_HTTP"
cat /proc/sys/kernel/random/uuid > token.new
mv token.new token
trap 'echo bye; exit 0' TERM
while true; do sleep 0.05; done
"#;

async fn lines(node: &Node, job: &Job, query: LogQuery) -> Vec<String> {
    let mut batches = node
        .agent
        .logs(slot(job, 0), query)
        .await
        .expect("there is a log");
    let mut lines = Vec::new();
    while let Some(batch) = batches.recv().await {
        let texts = batch.lines.into_iter().map(|read| read.line.text);
        lines.extend(texts.map(|text| String::from_utf8_lossy(&text).into_owned()));
    }
    lines
}

/// Says that a test can't run here, and why: see the helper's tests.
fn skip(why: &str) {
    use std::io::Write;
    let line = format!("skipped: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("POTLUCK_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Waits until a line of the log is as wanted.
async fn until_line(node: &Node, job: &Job, wanted: &str) {
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut batches = node.agent.logs(slot(job, 0), query).await.expect("a log");
    let read = async {
        while let Some(batch) = batches.recv().await {
            let is = |text: &[u8]| String::from_utf8_lossy(text).contains(wanted);
            if batch.lines.iter().any(|read| is(&read.line.text)) {
                return;
            }
        }
        panic!("the log ended without {wanted:?}");
    };
    let read = tokio::time::timeout(LIMIT, read).await;
    assert!(read.is_ok(), "no line has {wanted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_its_agent_and_ends_when_told() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    let call = Call {
        authority: authority(),
        call: 1,
        job: job.name.clone(),
        version: 1,
        wanted: 1,
        resources: job.task.resources,
        ports: job.task.ports.clone(),
        package: job.package,
        package_bytes: 1,
        each_most: None,
        devices: BTreeMap::new(),
    };
    let answer = node.agent.call(call).await.expect("the agent answers");
    assert!(matches!(answer, CallAnswer::Bid(bid) if bid.slots == 1));
    let begun = Instant::now();
    node.award(&job, &[(0, 1)]).await;
    let report = node.until_running(&job, 0).await;
    eprintln!("award to running: {:?}", begun.elapsed());
    assert_eq!(report.starts, 1);
    let wanted = format!(
        "hello from web[0] generation 1.1.1 port {}",
        report.ports["http"]
    );
    until_line(&node, &job, &wanted).await;
    let file = node.pid_file(&job, 0, 1);
    poll("the task has written its token", || file.is_file()).await;
    let token = fs::read(&file).expect("a token");
    let fence = file.with_file_name(".potluck-generation");
    assert_eq!(fs::read_to_string(fence).expect("a file"), "1.1.1\n");
    let before = node.processes();

    node.restart().await;
    let again = node.until_running(&job, 0).await;
    assert_eq!(again.starts, 1, "it was found, not started again");
    assert_eq!(fs::read(&file).expect("a token"), token);
    let gone: Vec<_> = before
        .iter()
        .filter(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        .collect();
    assert!(
        gone.len() <= 1,
        "only a sleep of the script may have ended: {gone:?}"
    );

    node.stop(&job, 0, 1).await;
    let report = node.until_stopped(&job, 0).await;
    assert_eq!(report.last_end.as_deref(), Some("exited with code 0"));
    node.assert_nothing_left().await;
    let lines = lines(&node, &job, LogQuery::default()).await;
    // Between them the shell may tell that its sleep was signalled too.
    assert_eq!(lines.first(), Some(&wanted));
    assert_eq!(lines.last().map(String::as_str), Some("bye"));

    let beat = node.agent.heartbeat().await.expect("a heartbeat");
    assert_eq!(beat.incarnation, 2);
    let answer = HeartbeatAnswer {
        authority: authority(),
        confirmed: Some(beat.inventory.number),
        forget: vec![(slot(&job, 0), generation(1))],
        renewals: None,
    };
    node.agent
        .heartbeat_answered(answer)
        .await
        .expect("an agent");
    assert_eq!(node.agent.slots().await.expect("slots"), []);
    node.restart().await;
    assert_eq!(
        node.agent.slots().await.expect("slots"),
        [],
        "nor in the journal"
    );
    assert_eq!(
        node.agent.highest().await,
        Ok(authority()),
        "the fence stays"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_is_started_again_and_says_why() {
    let script = r#"#!/bin/sh
if [ -e "$POTLUCK_TASK_DIR/second" ]; then
  echo "second start"
  exec sleep 1000
fi
touch "$POTLUCK_TASK_DIR/second"
echo "oh no" >&2
exit 7
"#;
    let node = Node::start(script).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    let report = node
        .until(&job, 0, |report| report.starts == 2 && report.healthy)
        .await;
    assert_eq!(report.last_end.as_deref(), Some("exited with code 7"));
    until_line(&node, &job, "second start").await;
    let all = lines(&node, &job, LogQuery::default()).await;
    assert_eq!(all, ["oh no", "second start"]);
    let last = LogQuery {
        tail: Some(1),
        ..LogQuery::default()
    };
    assert_eq!(lines(&node, &job, last).await, ["second start"]);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_said_so() {
    let node = Node::start(SERVER).await;
    let mut job = job(1);
    job.task.command = "nowhere".into();
    node.award(&job, &[(0, 1)]).await;
    let failed = |report: &SlotReport| report.last_end.is_some();
    let report = node.until(&job, 0, failed).await;
    let why = report.last_end.unwrap_or_default();
    assert!(why.starts_with("could not start: "), "{why}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_dies_takes_its_task_along_and_another_starts() {
    let node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let file = node.pid_file(&job, 0, 1);
    poll("the task has written its token", || file.is_file()).await;
    let token = fs::read(&file).expect("a token");
    let helper = *node
        .processes()
        .iter()
        .find(|pid| {
            fs::read(format!("/proc/{pid}/exe")).is_ok()
                && fs::read_link(format!("/proc/{pid}/exe"))
                    .is_ok_and(|exe| exe.ends_with("potluck-helper"))
        })
        .expect("a helper runs");
    let pid = nix::unistd::Pid::from_raw(helper);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it can be killed");
    let report = node
        .until(&job, 0, |report| report.starts == 2 && report.healthy)
        .await;
    assert_eq!(report.last_end.as_deref(), Some("helper lost"));
    poll("the second start has written its token", || {
        fs::read(&file).is_ok_and(|now| now != token)
    })
    .await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lost_while_the_agent_was_away_is_started_again() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1), (1, 2)]).await;
    node.until_running(&job, 0).await;
    node.until_running(&job, 1).await;
    node.token.cancel();
    node.agent.stopped().await;
    let doomed = node.data.path().join("tasks/default.web.0");
    let needle = doomed.as_os_str().as_encoded_bytes().to_vec();
    for pid in node.processes() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.windows(needle.len()).any(|part| part == needle) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    node.restart().await;
    let found = node.until_running(&job, 1).await;
    assert_eq!((found.starts, found.last_end), (1, None));
    let lost = node
        .until(&job, 0, |report| report.starts == 2 && report.healthy)
        .await;
    assert_eq!(lost.last_end.as_deref(), Some("helper lost"));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_starts_after_the_one_before_has_ended() {
    let script = r#"#!/bin/sh
mkdir "$LOCK" || { echo "both at once"; exit 1; }
trap 'sleep 0.2; rmdir "$LOCK"; exit 0' TERM
while true; do sleep 0.02; done
"#;
    let node = Node::start(script).await;
    // Where both find it, as does this test: a volume of the slot.
    let lock = node.data.path().join("volumes/default.web.0/shared/lock");
    let version = |version| {
        let mut job = job(version);
        job.task.env.insert("LOCK".into(), "/shared/lock".into());
        job.task.mounts.push(Mount {
            at: "/shared".into(),
            source: MountSource::Volume {
                name: "shared".into(),
            },
            read_only: false,
        });
        job
    };
    node.award(&version(1), &[(0, 1)]).await;
    node.until_running(&version(1), 0).await;
    poll("the first has the lock", || lock.is_dir()).await;
    node.award(&version(2), &[(0, 2)]).await;
    let second = |report: &SlotReport| report.version == 2 && report.healthy;
    let report = node.until(&version(2), 0, second).await;
    assert_eq!((report.starts, report.last_end), (1, None));
    poll("the second has the lock", || lock.is_dir()).await;
    let report = node.until_running(&version(2), 0).await;
    assert_eq!(report.starts, 1, "it never met the first");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_healthy_when_it_answers() {
    let node = Node::start("#!/bin/sh\nexec sleep 1000\n").await;
    let mut job = job(1);
    job.task.services = vec![ServiceSpec::new("web", "http")];
    job.task.health = vec![HealthCheck::tcp("http")];
    node.award(&job, &[(0, 1)]).await;
    let running = |report: &SlotReport| report.state == TaskState::Running;
    let report = node.until(&job, 0, running).await;
    assert!(!report.healthy, "nobody listens yet");
    // The task's part is played from outside.
    let listener = tokio::net::TcpListener::bind((address(node.seed), report.ports["http"])).await;
    let listener = listener.expect("the port is free");
    node.until_running(&job, 0).await;
    drop(listener);
    node.until(&job, 0, |report| !report.healthy).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_gets_no_port_that_another_program_or_the_node_listens_on() {
    let node = Node::start("#!/bin/sh\nexec sleep 1000\n").await;
    let at = |port| (address(node.seed), port);
    let tcp = tokio::net::TcpListener::bind(at(20_000)).await;
    let tcp = tcp.expect("the address is this test's own");
    let udp = tokio::net::UdpSocket::bind(at(20_001)).await;
    let _udp = udp.expect("the address is this test's own");
    let mut job = job(1);
    node.award(&job, &[(0, 1), (1, 2)]).await;
    let first = node.until(&job, 0, |report| report.starts > 0).await;
    let second = node.until(&job, 1, |report| report.starts > 0).await;
    assert_eq!(NODE_PORT, 20_002);
    let chosen = [first.ports["http"], second.ports["http"]];
    assert_eq!(chosen, [20_003, 20_004]);
    // One that is wanted by number is refused, until it is free.
    job.task.ports[0].number = Some(20_000);
    job.name = JobName::in_default("fixed");
    let answer = node.try_award(&job, &[(0, 3)]).await;
    let by = PortUser::Program;
    let refused = Refusal::PortTaken { port: 20_000, by };
    assert_eq!(answer, [Err(refused)]);
    drop(tcp);
    node.award(&job, &[(0, 4)]).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_same_folder_leaves() {
    let node = Node::start(SERVER).await;
    let token = CancellationToken::new();
    let second = launch(
        node.data.path(),
        node.package.path(),
        node.seed,
        &node.helper,
        &token,
    )
    .await;
    assert!(matches!(second, Err(AgentError::Locked(_))), "{second:?}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_set_or_said_to_be_missing() {
    let node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let missing = node.agent.isolation_missing();
    let limits = [
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("pids", "pids.max", "pids.max"),
        ("cpu", "cpu.shares", "cpu.weight"),
    ];
    for (controller, v1, v2) in limits {
        let said = missing.iter().any(|line| line.starts_with(controller));
        let groups = node.cgroups();
        let group = groups.iter().find(|group| {
            (group.join(v1).exists() || group.join(v2).exists())
                && !fs::read_to_string(group.join("cgroup.procs"))
                    .unwrap_or_default()
                    .is_empty()
        });
        assert!(
            said != group.is_some(),
            "{controller}: {missing:?} {groups:?}"
        );
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_a_task_outlive_its_agent() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    if node.cgroups().is_empty() {
        // Nothing to read; that limits are missing is said, as tested above.
        return node.end().await;
    }
    let first = || node.agent.usage(&job.name).pop();
    // The first sample may be older than the task's first page.
    poll("no sample of its memory", || {
        first().is_some_and(|usage| usage.at > usage.since && usage.now.memory_bytes > Some(0))
    })
    .await;
    let before = first().expect("it was there");
    assert!(before.pids.count() > 0, "{before:?}");
    node.restart().await;
    let first = || node.agent.usage(&job.name).pop();
    poll("no sample", || {
        first().is_some_and(|usage| usage.at > before.at)
    })
    .await;
    let after = first().expect("it was there");
    assert_eq!(after.since, before.since);
    assert!(after.pids.count() > before.pids.count(), "{after:?}");
    assert!(
        after.memory_peak_bytes >= before.memory_peak_bytes,
        "{after:?}"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_may_use_what_its_limits_say() {
    let node = Node::start(SERVER).await;
    let mut job = job(1);
    job.task.limits.cpu_millis = Some(700);
    job.task.limits.memory_bytes = Some(256 << 20);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let missing = node.agent.isolation_missing();
    let cases = [
        ("cpu", ["cpu.cfs_quota_us", "cpu.max"], "70000"),
        (
            "memory",
            ["memory.limit_in_bytes", "memory.high"],
            "268435456",
        ),
    ];
    for (controller, files, wanted) in cases {
        let mut groups = node.cgroups().into_iter();
        let found = groups.find_map(|group| {
            let mut paths = files.iter().map(|file| group.join(file));
            paths.find_map(|path| fs::read_to_string(path).ok())
        });
        let said = missing.iter().any(|line| line.starts_with(controller));
        let right = found.as_ref().is_some_and(|text| text.starts_with(wanted));
        assert!(right != said, "{controller}: {found:?} {missing:?}");
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_finds_what_its_spec_asks_for() {
    let script = r#"#!/bin/sh
echo "file $(cat conf/app) setup $(cat made) count $(wc -l < /var/lib/web/starts)"
stat -f -c "%T" /scratch
ls -d "$POTLUCK_TASK_DIR" "$POTLUCK_PACKAGE"
exec sleep 1000
"#;
    let node = Node::start(script).await;
    let mut job = job(1);
    let mount = |at: &str, source| Mount {
        at: at.into(),
        source,
        read_only: false,
    };
    job.task.mounts = vec![
        mount(
            "/var/lib/web",
            MountSource::Volume {
                name: "data".into(),
            },
        ),
        mount("/scratch", MountSource::Tmpfs { bytes: 1 << 20 }),
    ];
    job.task.files = vec![RenderedFile {
        path: "conf/app".into(),
        content: "rendered".into(),
        mode: 0o644,
    }];
    let setup = "echo done > made; echo start >> /var/lib/web/starts";
    job.task.setup = vec![Hook {
        command: "/bin/sh".into(),
        args: vec!["-c".into(), setup.into()],
        timeout_ms: 30_000,
    }];
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    if node
        .agent
        .isolation_missing()
        .iter()
        .any(|line| line.contains("namespace"))
    {
        // Without mounts there is nothing to see; that it is said is enough.
        return node.end().await;
    }
    until_line(&node, &job, "file rendered setup done count 1").await;
    until_line(&node, &job, "tmpfs").await;
    until_line(&node, &job, "/package").await;
    until_line(&node, &job, "/task").await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_filled_in_when_a_task_starts() {
    let script = r#"#!/bin/sh
echo "told $* and $WHERE, $(cat conf)"
[ "$DIR" = "$POTLUCK_TASK_DIR" ] && [ "$PORT" = "$PORT_HTTP" ] && echo "as potluck says"
exec sleep 1000
"#;
    let node = Node::start(script).await;
    let mut job = job(4);
    let texts = ["${slot.id}", "${job.version}", "$${slot.index}", "${HOME}"];
    job.task.args = texts.map(Into::into).into();
    for (name, text) in [
        ("WHERE", "${node.cluster}/${node.rack}"),
        ("DIR", "${task.dir}"),
        ("PORT", "${port.http}"),
    ] {
        job.task.env.insert(name.into(), text.into());
    }
    let isolated = !node
        .agent
        .isolation_missing()
        .iter()
        .any(|line| line.contains("namespace"));
    let mut conf = "no file";
    if isolated {
        conf = "slot 0 in /task";
        job.task.files = vec![RenderedFile {
            path: "conf".into(),
            content: "slot ${slot.index} in ${task.dir}".into(),
            mode: 0o644,
        }];
    } else {
        job.task.setup = vec![Hook {
            command: "/bin/sh".into(),
            args: vec!["-c".into(), "echo no file > ${task.dir}/conf".into()],
            timeout_ms: 30_000,
        }];
    }
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let line = format!("told web[0] 4 ${{slot.index}} ${{HOME}} and home/r7, {conf}");
    until_line(&node, &job, &line).await;
    until_line(&node, &job, "as potluck says").await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_stands_for_nothing_is_said_at_its_start() {
    let node = Node::start(SERVER).await;
    let mut job = job(1);
    job.task.args = vec!["${port.admin}".into()];
    node.award(&job, &[(0, 1)]).await;
    let failed = |report: &SlotReport| report.last_end.is_some();
    let report = node.until(&job, 0, failed).await;
    let why = report.last_end.unwrap_or_default();
    assert!(
        why.contains("task.args[0]: ${port.admin} stands for nothing"),
        "{why}"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_does_not_let_a_task_have_is_said_at_its_start() {
    let node = Node::start(SERVER).await;
    let mut job = job(1);
    let source = MountSource::Bind {
        path: "/etc".into(),
    };
    job.task.mounts = vec![Mount {
        at: "/host".into(),
        source,
        read_only: true,
    }];
    job.task.user = None;
    node.award(&job, &[(0, 1)]).await;
    let failed = |report: &SlotReport| report.last_end.is_some();
    let report = node.until(&job, 0, failed).await;
    let why = report.last_end.unwrap_or_default();
    assert!(why.contains("does not let tasks read"), "{why}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_uses_too_much_memory_ends_by_its_limit() {
    let script = "#!/bin/sh\nx=potluck; while :; do x=$x$x; done\n";
    let node = Node::start(script).await;
    let missing = node.agent.isolation_missing();
    if missing
        .iter()
        .any(|line| line.starts_with("memory") || line.contains("namespace"))
    {
        return node.end().await;
    }
    let mut job = job(1);
    job.task.resources.memory_bytes = 48 << 20;
    node.award(&job, &[(0, 1)]).await;
    let failed = |report: &SlotReport| report.last_end.is_some();
    let report = node.until(&job, 0, failed).await;
    let why = report.last_end.unwrap_or_default();
    assert!(why.starts_with("memory-limit"), "{why}");
    node.end().await;
}
