//! A small agent, and tasks to run under it. Everything waits for conditions,
//! with a limit; everything is killed and removed on drop.

#![allow(dead_code, reason = "each test program uses its part")]

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_helper::{
    AgentMessage, Channel, EndRecord, HelperMessage, Listener, TaskDescription, TaskEnd, TaskExit,
    TaskKey,
    description::{DESCRIPTION_VERSION, Isolation, Profile},
    log::{Line, LogReader},
    protocol::{Hello, MissingIsolation, Phase, ReceiveError},
};
use potluck_specs::{Generation, SlotId, job::StopPolicy};
use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

/// Far above what anything here takes, on a machine that is busy; more where
/// the machine is emulated.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_EMULATED: Duration = Duration::from_secs(120);

fn limit() -> Duration {
    match std::env::var_os("POTLUCK_MICROVM") {
        Some(_) => LIMIT_EMULATED,
        None => LIMIT,
    }
}

/// Polls a condition until it gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begin.elapsed() < limit(), "waited in vain for {what}");
        poll(&mut [], 2_u8).unwrap();
    }
}

/// Waits until a descriptor is readable.
fn wait_readable(what: &str, fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit()).unwrap();
    assert!(
        poll(&mut fds, limit).unwrap() > 0,
        "waited in vain for {what}"
    );
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie is dead; its parent in these tests is not always there.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with(['Z', 'X']))
}

pub(crate) fn wait_dead(pid: i32) {
    wait_for(&format!("the end of process {pid}"), || {
        (!is_alive(pid)).then_some(())
    });
}

/// The host's pids of processes with this word among their arguments.
pub(crate) fn find_processes(word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if words
            .split(|byte| *byte == 0)
            .any(|one| one == word.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// A task that can be started once.
pub(crate) struct Task {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) description: TaskDescription,
    pub(crate) helper: Option<Child>,
}

impl Task {
    /// A task that runs `script` with `/bin/sh`, from a package.
    pub(crate) fn script(script: &str) -> Task {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["package/bin", "work", "start"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let program = at("package/bin/run");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let description = TaskDescription {
            version: DESCRIPTION_VERSION,
            key: TaskKey {
                slot: "web[3]".parse::<SlotId>().unwrap(),
                generation: Generation::default(),
                start: 1,
            },
            command: "bin/run".into(),
            args: Vec::new(),
            env: BTreeMap::from([("PATH".into(), path.into())]),
            package: at("package"),
            layers: Vec::new(),
            task_folder: at("work"),
            log_folder: at("log"),
            logs: Default::default(),
            agent_socket: at("agent.sock"),
            agent_generation: 1,
            node: "testnode".into(),
            lease_ms: 60_000,
            scheduler_lease_until: None,
            stop: StopPolicy::default(),
            user: None,
            cgroup_procs: Vec::new(),
            kill_group: None,
            memory_peak_files: Vec::new(),
            isolation: Isolation::default(),
            profile: Profile::Default,
            memory_bytes: None,
            mounts: Vec::new(),
            files: Vec::new(),
            setup: Vec::new(),
            teardown: Vec::new(),
            memory_watch: None,
            group: potluck_helper::group::TaskGroup::default(),
            disk_bytes: None,
        };
        Task {
            folder,
            description,
            helper: None,
        }
    }

    pub(crate) fn start(&mut self) {
        self.start_by(|_| ());
    }

    /// Starts the helper by a command that the caller has changed.
    pub(crate) fn start_by(&mut self, change: impl FnOnce(&mut Command)) {
        let file = self.start_folder().join("task");
        self.description.write(&file).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_potluck-helper"));
        command.arg(&file);
        change(&mut command);
        self.helper = Some(command.spawn().unwrap());
    }

    /// As [`Self::start_by`], with a helper that runs as an ordinary user. For
    /// root only.
    pub(crate) fn start_as(&mut self, uid: u32, change: impl FnOnce(&mut Command)) {
        // The binary may lie where others can't reach it.
        let binary = self.folder.path().join("potluck-helper");
        fs::copy(env!("CARGO_BIN_EXE_potluck-helper"), &binary).unwrap();
        let file = self.start_folder().join("task");
        self.description.write(&file).unwrap();
        self.give_to(uid);
        let mut command = Command::new(&binary);
        command.arg(&file).uid(uid).gid(uid);
        change(&mut command);
        self.helper = Some(command.spawn().unwrap());
    }

    pub(crate) fn start_folder(&self) -> PathBuf {
        self.folder.path().join("start")
    }

    pub(crate) fn helper_pid(&self) -> i32 {
        self.helper.as_ref().unwrap().id() as i32
    }

    pub(crate) fn signal_helper(&self, signal: Signal) {
        kill(Pid::from_raw(self.helper_pid()), signal).unwrap();
    }

    /// Waits for the helper's own end.
    pub(crate) fn helper_code(&mut self) -> Option<i32> {
        let helper = self.helper.as_mut().unwrap();
        wait_for("the helper's end", || helper.try_wait().unwrap()).code()
    }

    pub(crate) fn record(&self) -> Option<EndRecord> {
        EndRecord::read(&self.start_folder()).unwrap()
    }

    pub(crate) fn recorded_exit(&self) -> TaskExit {
        match wait_for("the record", || self.record()).end {
            TaskEnd::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut reader = LogReader::new(&self.description.log_folder, 0);
        std::iter::from_fn(|| reader.next_line().unwrap()).collect()
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |line: Line| String::from_utf8(line.text).unwrap();
        self.lines().into_iter().map(text).collect()
    }

    /// Waits until a line of the log is this.
    pub(crate) fn wait_line(&self, wanted: &str) {
        wait_for(&format!("the line {wanted:?}"), || {
            self.texts().iter().any(|text| text == wanted).then_some(())
        });
    }

    /// Gives all files to a user.
    pub(crate) fn give_to(&self, uid: u32) {
        fn give(path: &Path, uid: u32) {
            std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
            if path.is_symlink() {
                return;
            }
            for entry in fs::read_dir(path).into_iter().flatten() {
                give(&entry.unwrap().path(), uid);
            }
        }
        give(self.folder.path(), uid);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // The task's init sees the helper's end and ends too.
        if let Some(mut helper) = self.helper.take() {
            let _ = helper.kill();
            let _ = helper.wait();
        }
    }
}

/// An agent with one task.
pub(crate) struct Agent {
    listener: Listener,
    pub(crate) generation: u64,
    pub(crate) lease_ms: u64,
    pub(crate) scheduler_lease_ms: Option<u64>,
    pub(crate) answers_pings: bool,
    channel: Option<Channel>,
    pub(crate) pings: u32,
}

impl Agent {
    pub(crate) fn listen(task: &Task, generation: u64) -> Agent {
        Agent {
            listener: Listener::bind(&task.description.agent_socket).unwrap(),
            generation,
            lease_ms: task.description.lease_ms,
            scheduler_lease_ms: None,
            answers_pings: true,
            channel: None,
            pings: 0,
        }
    }

    /// Takes the next connection and its greeting.
    pub(crate) fn accept(&mut self) -> Hello {
        wait_readable("a helper", self.listener.as_fd());
        self.channel = Some(self.listener.accept().unwrap());
        match self.next() {
            HelperMessage::Hello(hello) => hello,
            other => panic!("not a greeting: {other:?}"),
        }
    }

    pub(crate) fn send(&self, message: &AgentMessage) {
        self.channel.as_ref().unwrap().send(message).unwrap();
    }

    pub(crate) fn send_with(&self, message: &AgentMessage, descriptors: &[BorrowedFd<'_>]) {
        let channel = self.channel.as_ref().unwrap();
        channel.send_with(message, descriptors).unwrap();
    }

    pub(crate) fn welcome(&self) {
        self.send(&AgentMessage::Welcome {
            agent_generation: self.generation,
            lease_ms: self.lease_ms,
        });
    }

    /// The next message; `None` when the helper has hung up.
    pub(crate) fn try_next(&mut self) -> Option<HelperMessage> {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < limit(), "nothing but pings");
            let channel = self.channel.as_ref().unwrap();
            wait_readable("a message", channel.as_fd());
            match channel.receive::<HelperMessage>() {
                Ok(HelperMessage::Ping { sent_at }) => {
                    self.pings += 1;
                    if self.answers_pings {
                        let lease_ms = self.lease_ms;
                        let scheduler_lease_ms = self.scheduler_lease_ms;
                        self.send(&AgentMessage::Pong {
                            sent_at,
                            lease_ms,
                            scheduler_lease_ms,
                        });
                    }
                }
                Ok(message) => return Some(message),
                Err(ReceiveError::Closed) => return None,
                Err(ReceiveError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Waits for a message, which must be a ping, and answers it.
    pub(crate) fn answer_ping(&mut self) {
        let channel = self.channel.as_ref().unwrap();
        wait_readable("a ping", channel.as_fd());
        match channel.receive::<HelperMessage>() {
            Ok(HelperMessage::Ping { sent_at }) => {
                self.pings += 1;
                let lease_ms = self.lease_ms;
                let scheduler_lease_ms = self.scheduler_lease_ms;
                self.send(&AgentMessage::Pong {
                    sent_at,
                    lease_ms,
                    scheduler_lease_ms,
                });
            }
            other => panic!("not a ping: {other:?}"),
        }
    }

    /// Takes one message if there is one, which must be a ping.
    pub(crate) fn take_ping(&mut self) {
        match self.channel.as_ref().unwrap().receive::<HelperMessage>() {
            Ok(HelperMessage::Ping { .. }) => self.pings += 1,
            Err(ReceiveError::WouldBlock) => {}
            other => panic!("not a ping: {other:?}"),
        }
    }

    pub(crate) fn next(&mut self) -> HelperMessage {
        self.try_next().expect("the helper has hung up")
    }

    pub(crate) fn next_exit(&mut self) -> TaskExit {
        match self.next() {
            HelperMessage::Exited(exit) => exit,
            other => panic!("not an exit: {other:?}"),
        }
    }

    /// Accepts and welcomes; waits until the task's program runs. Its pid on
    /// the host, and what its sandbox lacks.
    pub(crate) fn running(&mut self) -> (i32, Vec<MissingIsolation>) {
        let hello = self.accept();
        self.welcome();
        match hello.phase {
            Phase::Running { pid } => (pid, hello.isolation_missing),
            Phase::Starting => match self.next() {
                HelperMessage::Started {
                    pid,
                    isolation_missing,
                } => (pid, isolation_missing),
                other => panic!("not a start: {other:?}"),
            },
            Phase::Ended(end) => panic!("{end:?}"),
        }
    }
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Does this host let an ordinary user make user namespaces?
pub(crate) fn users_may_have_namespaces() -> bool {
    /// An ordinary user on most systems.
    const NOBODY: u32 = 65_534;
    let mut command = Command::new("/bin/true");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(|| {
            let flags = nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWNS;
            Ok(nix::sched::unshare(flags)?)
        })
    };
    command.status().is_ok_and(|status| status.success())
}

/// Says that a test can't run here, and why: on standard error past the test
/// runner's capture, and in the file that `make test` counts.
pub(super) fn skip(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    // A lost line only makes the count smaller.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("POTLUCK_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
