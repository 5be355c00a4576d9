//! An agent in a process of its own, which can be killed or stopped: this
//! program again, as `agent_main`. It takes one task through its life and
//! says on its way how far it is.

use super::*;
use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
};

/// The run of the tests that it belongs to.
const RUN: &str = "POTLUCK_TEST_RUN";
const DATA: &str = "POTLUCK_TEST_DATA";
const PACKAGE: &str = "POTLUCK_TEST_PACKAGE";
const SEED: &str = "POTLUCK_TEST_SEED";
/// How far it is to go: [`FAR`], or until the task runs.
const UNTIL: &str = "POTLUCK_TEST_UNTIL";
/// Its lease in milliseconds, if it is not the usual one.
const LEASE_MS: &str = "POTLUCK_TEST_LEASE_MS";

/// To the end of the task, and forgetting it.
pub(super) const FAR: &str = "forgotten";

/// What it says on its way, each in a line of its own.
pub(super) const BEGUN: &str = "said: begun";
pub(super) const AWARDED: &str = "said: awarded";
pub(super) const RUNNING: &str = "said: running";
pub(super) const ORDERED: &str = "said: ordered to stop";
pub(super) const STOPPED: &str = "said: stopped";
pub(super) const FORGOTTEN: &str = "said: forgotten";

/// This run of the tests; of an agent in a process of its own, the run that it
/// belongs to.
pub(super) fn this_run() -> u32 {
    let of_parent = std::env::var(RUN).ok();
    let of_parent = of_parent.and_then(|run| run.parse().ok());
    of_parent.unwrap_or_else(std::process::id)
}

/// The lease of agents in this process.
pub(super) fn lease() -> Millis {
    let other = std::env::var(LEASE_MS).ok();
    let other = other.and_then(|lease| lease.parse().ok());
    other.map_or(agent::LEASE, Millis)
}

/// Not a test: the agent's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_main() {
    let Some(data) = std::env::var_os(DATA) else {
        return;
    };
    let text = |name| std::env::var(name).expect("the one who starts it says so");
    let seed = text(SEED).parse().expect("a number");
    let token = CancellationToken::new();
    let package = PathBuf::from(text(PACKAGE));
    let agent = launch(Path::new(&data), &package, seed, &(helper(), false), &token).await;
    let agent = agent.expect("the agent starts");
    say(BEGUN);
    let job = job(1);
    award(&agent, &job).await;
    say(AWARDED);
    until_state(&agent, |report| report.is_some_and(is_running)).await;
    say(RUNNING);
    if text(UNTIL) != FAR {
        return tell_changes(&agent).await;
    }
    order_stop(&agent, &job).await;
    say(ORDERED);
    let over = |report: Option<&SlotReport>| {
        report.is_some_and(|report| report.state == TaskState::Stopped)
    };
    until_state(&agent, over).await;
    say(STOPPED);
    forget(&agent, &job).await;
    say(FORGOTTEN);
    token.cancel();
    agent.stopped().await;
}

/// Says each report that differs from the one before, without end.
async fn tell_changes(agent: &Agent) {
    let mut changed = agent.changed();
    let mut last = None;
    loop {
        let report = agent.slots().await.expect("the agent answers").pop();
        if report != last {
            say(&format!("said: {report:?}"));
            last = report;
        }
        changed.changed().await.expect("the agent lives");
    }
}

fn say(text: &str) {
    use std::io::Write;
    // One write: the tracer looks for it.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes())
        .expect("a file");
    out.flush().expect("a file");
}

pub(super) fn is_running(report: &SlotReport) -> bool {
    report.state == TaskState::Running && report.healthy
}

async fn award(agent: &Agent, job: &Job) {
    let award = Award {
        authority: authority(),
        call: 1,
        slots: vec![(slot(job, 0), generation(1))],
        job: signed(job).into(),
        package_bytes: 1,
        holders: vec![],
    };
    let answer = agent.award(award).await.expect("the agent answers");
    assert_eq!(answer.slots, [(slot(job, 0), Ok(()))]);
}

async fn order_stop(agent: &Agent, job: &Job) {
    let order = StopOrder {
        authority: authority(),
        slot: slot(job, 0),
        generation: generation(1),
        reason: StopReason::JobStopped,
    };
    agent.stop(order).await.expect("the agent obeys");
}

async fn forget(agent: &Agent, job: &Job) {
    let beat = agent.heartbeat().await.expect("a heartbeat");
    let answer = HeartbeatAnswer {
        authority: authority(),
        confirmed: Some(beat.inventory.number),
        forget: vec![(slot(job, 0), generation(1))],
        renewals: None,
    };
    agent.heartbeat_answered(answer).await.expect("an agent");
    until_state(agent, |report| report.is_none()).await;
}

/// Waits until the one slot's report, if there is any, is as wanted.
pub(super) async fn until_state(
    agent: &Agent,
    wanted: impl Fn(Option<&SlotReport>) -> bool,
) -> Option<SlotReport> {
    let mut changed = agent.changed();
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let report = agent.slots().await.expect("the agent answers").pop();
        if wanted(report.as_ref()) {
            return report;
        }
        let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
        assert!(waited.is_ok(), "waited too long: {report:?}");
    }
}

/// Folders and number of a node whose agent runs in a process of its own.
pub(super) struct Ground {
    data: Option<TempDir>,
    package: Option<TempDir>,
    seed: u8,
    said: PathBuf,
    _said_in: TempDir,
}

impl Drop for Ground {
    /// A failed test leaves no processes behind.
    fn drop(&mut self) {
        if let Some(data) = &self.data {
            sweep(data.path(), self.seed);
        }
    }
}

impl Ground {
    pub(super) fn new() -> Ground {
        let (package, seed) = ground(SERVER);
        let said_in = tempfile::tempdir().expect("a folder");
        Ground {
            data: Some(tempfile::tempdir().expect("a folder")),
            package: Some(package),
            seed,
            said: said_in.path().join("said"),
            _said_in: said_in,
        }
    }

    /// The next agent, in this process.
    pub(super) async fn next(mut self) -> Node {
        let taken = "it is handed over once";
        let data = self.data.take().expect(taken);
        let package = self.package.take().expect(taken);
        Node::on(data, package, self.seed).await
    }

    pub(super) fn data(&self) -> &Path {
        self.data.as_ref().expect("not handed over").path()
    }

    fn package(&self) -> &Path {
        self.package.as_ref().expect("not handed over").path()
    }

    /// The agent's process, not yet started.
    pub(super) fn command(&self, until: &str) -> Command {
        let said = fs::File::create(&self.said).expect("a file");
        let mut command = Command::new(std::env::current_exe().expect("a test has a program"));
        command
            .args(["apart::agent_main", "--exact", "--nocapture"])
            .env(RUN, this_run().to_string())
            .env(DATA, self.data())
            .env(PACKAGE, self.package())
            .env(SEED, self.seed.to_string())
            .env(UNTIL, until)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file"))
            .stderr(said);
        command
    }

    /// All that it has said.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    pub(super) fn has_said(&self, text: &str) -> bool {
        self.said().lines().any(|line| line.ends_with(text))
    }

    /// Starts the agent and waits until its task runs.
    pub(super) fn running(&self, lease: Millis) -> Killed {
        let mut command = self.command("running");
        let child = command.env(LEASE_MS, lease.0.to_string()).spawn();
        let child = Killed(child.expect("the program can be started"));
        wait(|| self.has_said(RUNNING), || self.said());
        child
    }

    /// Waits until it tells of its task in a line that has all of this.
    pub(super) fn until_told(&self, words: &[&str]) {
        let all = |line: &str| words.iter().all(|word| line.contains(word));
        wait(
            || self.said().lines().any(all),
            || format!("no line has {words:?}: {}", self.said()),
        );
    }

    /// What differs from run to run, and what stands for it.
    pub(super) fn words(&self) -> Vec<(String, &'static str)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![
            (text(self.data()), ""),
            (text(self.package()), "PACKAGE"),
            (text(&self.said), "SAID"),
            (node_id(self.seed).short(), "NODE"),
        ]
    }
}

/// Looks again and again until it is so; without a runtime.
pub(super) fn wait(mut done: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "{}", otherwise());
        nix::poll::poll(&mut [], 10_u8).expect("a look is possible");
    }
}

/// A process that is killed on drop.
pub(super) struct Killed(pub(super) Child);

impl Killed {
    pub(super) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The helpers on a data folder. Their inits are the same program, with a
/// helper for a parent.
pub(super) fn helpers(data: &Path) -> Vec<i32> {
    let pids: BTreeSet<i32> = processes_of(data).into_iter().filter(is_helper).collect();
    let has_none = |pid: &i32| parent(*pid).is_none_or(|parent| !pids.contains(&parent));
    pids.iter().copied().filter(has_none).collect()
}

fn is_helper(pid: &i32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    exe.to_string_lossy().contains("potluck-helper")
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

impl Node {
    pub(super) fn helpers(&self) -> Vec<i32> {
        helpers(self.data.path())
    }

    /// What must be so whenever an agent has come to rest: none of a task's
    /// mounts has come out of its namespace, and nobody but the agent has its
    /// journal or its lock open.
    pub(super) fn assert_nothing_leaks(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("our own mounts");
        let folder = self.data.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&folder), "{mounts}");
        for pid in self.processes() {
            let files = open_files(&pid.to_string(), self.data.path());
            let agents = |file: &&PathBuf| file.parent() == Some(self.data.path());
            let agents: Vec<_> = files.iter().filter(agents).collect();
            assert!(agents.is_empty(), "{pid} has {agents:?} open");
        }
    }
}
