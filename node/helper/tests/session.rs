//! Sessions inside tasks: commands, terminals, copies, and that nothing of
//! them is left, however they end.

mod support;

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
    unistd::{Pid, pipe2, read, write},
};
use potluck_helper::{
    AgentMessage, Channel, HelperMessage, archive,
    description::{Isolation, Profile, UserIds},
    protocol::ReceiveError,
    session::{
        SESSIONS_MAX, SessionOrder, SessionReport, SessionRequest, TOOLS_AT, WindowSize, Work,
    },
};
use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use support::{
    Agent, Task, find_processes, is_alive, is_root, skip, users_may_have_namespaces, wait_dead,
    wait_for,
};

/// Far above what anything here takes, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// An ordinary user on most systems.
const NOBODY: u32 = 65_534;

/// A word that no other process has among its arguments.
fn unique_seconds() -> String {
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    format!("8{nanos:09}.{}", std::process::id())
}

/// A task that waits, with its agent.
struct Running {
    task: Task,
    agent: Agent,
    pid: i32,
}

impl Running {
    fn start(change: impl FnOnce(&mut Task)) -> Running {
        Running::start_by(change, Task::start)
    }

    fn start_by(change: impl FnOnce(&mut Task), start: impl FnOnce(&mut Task)) -> Running {
        let mut task = Task::script("trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done");
        change(&mut task);
        let mut agent = Agent::listen(&task, 1);
        start(&mut task);
        let (pid, _) = agent.running();
        task.wait_line("up");
        Running { task, agent, pid }
    }

    fn open(&self, request: SessionRequest, tools: Option<&File>) -> Session {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let [(stdin, input), (output, stdout), (errors, stderr)] =
            [(); 3].map(|()| pipe2(OFlag::O_CLOEXEC).unwrap());
        let mut descriptors = vec![theirs.as_fd()];
        let is_terminal = request.terminal.is_some();
        if !is_terminal {
            descriptors.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        }
        descriptors.extend(tools.map(AsFd::as_fd));
        self.agent
            .send_with(&AgentMessage::Session(request), &descriptors);
        for fd in [&input, &output, &errors] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        Session {
            channel: Some(Channel::from_fd(ours)),
            input: (!is_terminal).then_some(input),
            output: Some(output),
            errors: Some(errors),
            out: Vec::new(),
            err: Vec::new(),
        }
    }

    fn run(&self, command: &[&str]) -> Session {
        self.open(request(command), None)
    }

    /// Runs a shell's script to its end: code, output, errors.
    fn script(&self, script: &str) -> (u8, String, String) {
        let mut session = self.run(&["sh", "-c", script]);
        session.input = None;
        let code = session.ended();
        (code, session.text(), session.error_text())
    }

    fn terminal(&self, command: &[&str]) -> Session {
        let size = WindowSize {
            rows: 30,
            columns: 101,
        };
        let mut request = request(command);
        request.terminal = Some(size);
        request.term = Some("xterm".into());
        let mut session = self.open(request, None);
        session.take_terminal();
        session
    }
}

fn request(command: &[&str]) -> SessionRequest {
    work(Work::Command(
        command.iter().map(|word| (*word).into()).collect(),
    ))
}

fn work(work: Work) -> SessionRequest {
    SessionRequest {
        work,
        terminal: None,
        term: None,
        tools: None,
        debug: false,
        env: Vec::new(),
    }
}

struct Session {
    channel: Option<Channel>,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Session {
    fn take_terminal(&mut self) {
        let channel = self.channel.as_ref().unwrap();
        let terminal = wait_for("a terminal", || match channel.receive_with() {
            Ok((SessionReport::Terminal, mut descriptors)) => descriptors.pop(),
            Ok((other, _)) => panic!("{other:?}"),
            Err(ReceiveError::WouldBlock) => None,
            Err(error) => panic!("{error:?}"),
        });
        fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        self.input = Some(terminal.try_clone().unwrap());
        self.output = Some(terminal);
    }

    /// The next report, taking output meanwhile.
    fn report(&mut self) -> Option<SessionReport> {
        let begin = Instant::now();
        loop {
            self.take_output();
            match self.channel.as_ref().unwrap().receive() {
                Ok(report) => return Some(report),
                Err(ReceiveError::Closed) => return None,
                Err(ReceiveError::WouldBlock) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(
                begin.elapsed() < LIMIT,
                "no report; so far {:?}",
                self.text()
            );
            poll(&mut [], 2_u8).unwrap();
        }
    }

    fn started(&mut self) {
        assert_eq!(
            self.report(),
            Some(SessionReport::Started),
            "{}",
            self.error_text()
        );
    }

    fn ended(&mut self) -> u8 {
        loop {
            match self.report() {
                Some(SessionReport::Started) => {}
                Some(SessionReport::Ended { code }) => {
                    // All that it wrote is in the pipes by now.
                    self.take_output();
                    return code;
                }
                other => panic!("{other:?}; {}", self.error_text()),
            }
        }
    }

    fn failed(&mut self) -> (String, u8) {
        match self.report() {
            Some(SessionReport::Failed { why, code }) => (why, code),
            other => panic!("{other:?}"),
        }
    }

    fn take_output(&mut self) {
        for (from, to) in [(&self.output, &mut self.out), (&self.errors, &mut self.err)] {
            let Some(from) = from else { continue };
            let mut buffer = [0; 64 << 10];
            loop {
                match read(from, &mut buffer) {
                    // A terminal whose other side has closed.
                    Ok(0) | Err(Errno::EAGAIN | Errno::EIO) => break,
                    Ok(length) => to.extend(&buffer[..length]),
                    Err(errno) => panic!("{errno}"),
                }
            }
        }
    }

    /// Waits until the output has this in it.
    fn await_text(&mut self, wanted: &str) {
        let begin = Instant::now();
        while !self.text().contains(wanted) {
            assert!(
                begin.elapsed() < LIMIT,
                "no {wanted:?} in {:?} {:?}",
                self.text(),
                self.error_text()
            );
            self.take_output();
            poll(&mut [], 2_u8).unwrap();
        }
    }

    fn say(&self, bytes: &[u8]) {
        let input = self.input.as_ref().unwrap();
        assert_eq!(write(input, bytes).unwrap(), bytes.len());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

/// A control group for a task as the agent makes it, removed again.
struct KillGroup(PathBuf);

impl KillGroup {
    fn make(name: &str) -> Option<KillGroup> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let root = roots
            .iter()
            .find(|root| Path::new(root).join("cgroup.procs").exists())?;
        let path = Path::new(root).join(format!("potluck-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).ok()?;
        path.join("cgroup.kill").exists().then_some(KillGroup(path))
    }

    fn join(&self, task: &mut Task) {
        task.description.cgroup_procs = vec![self.0.join("cgroup.procs")];
        task.description.kill_group = Some(self.0.clone());
    }

    fn sessions(&self) -> usize {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    }
}

impl Drop for KillGroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        wait_for("an empty control group", || {
            for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            fs::remove_dir(&self.0).ok()
        });
    }
}

#[test]
fn a_command_has_its_streams_and_its_code() {
    let running = Running::start(|_| ());
    let (code, out, err) = running.script("echo out; echo err >&2; pwd; exit 7");
    assert_eq!((code, err.as_str()), (7, "err\n"));
    assert_eq!(out.lines().next(), Some("out"));
    assert_eq!(running.script("kill -9 $$").0, 128 + 9);
    let (why, code) = running.run(&["no-such-command"]).failed();
    assert!(why.contains("no \"no-such-command\""), "{why}");
    assert_eq!(code, 127);
    let (why, code) = running.run(&["/etc/passwd"]).failed();
    assert!(why.contains("can't be run"), "{why}");
    assert_eq!(code, 126);
    assert!(running.run(&[""]).failed().0.contains("empty"));
    assert!(is_alive(running.pid), "the task is none the wiser");
}

#[test]
fn standard_input_goes_through_byte_by_byte_to_its_end() {
    let running = Running::start(|_| ());
    let mut session = running.run(&["cat"]);
    let sent: Vec<u8> = (0..3_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut left = &sent[..];
    let begin = Instant::now();
    while !left.is_empty() {
        assert!(begin.elapsed() < LIMIT);
        match write(session.input.as_ref().unwrap(), left) {
            Ok(length) => left = &left[length..],
            Err(Errno::EAGAIN) => session.take_output(),
            Err(errno) => panic!("{errno}"),
        }
    }
    session.input = None;
    assert_eq!(session.ended(), 0);
    assert!(
        session.out == sent,
        "{} of {}",
        session.out.len(),
        sent.len()
    );
}

/// What of a process says what it may do and where it is.
const STANDING: &str = r#"
    grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|SigIgn|SigBlk):' /proc/self/status
    for ns in user mnt pid ipc uts net; do readlink /proc/self/ns/$ns; done
    pwd; hostname; cat /proc/self/cgroup; echo "$POTLUCK_PACKAGE $GREETING"; ls /
    ls -l /proc/self/fd | grep -c -- '->'
"#;

fn has_the_standing_of_its_task(running: &Running) {
    let (code, out, err) = running.script(STANDING);
    assert_eq!(code, 0, "{err}");
    let of_task = wait_for("what the task says of itself", || {
        let texts = running.task.texts();
        let end = texts.iter().position(|text| text == "up")?;
        Some(texts[..end].to_vec())
    });
    let of_session: Vec<&str> = out.lines().collect();
    assert!(of_session.len() > 15, "{out}");
    assert_eq!(of_session, of_task);
}

fn standing(task: &mut Task) {
    let program = task.folder.path().join("package/bin/run");
    let script = fs::read_to_string(&program).unwrap();
    let script = script.replacen('\n', &format!("\n{STANDING}\n"), 1);
    fs::write(&program, script).unwrap();
    let env = &mut task.description.env;
    env.insert("GREETING".into(), "hello".into());
}

#[test]
fn a_session_can_do_what_its_task_can_and_no_more() {
    has_the_standing_of_its_task(&Running::start(standing));
    if !is_root() {
        return;
    }
    let user = Some(UserIds {
        uid: NOBODY,
        gid: NOBODY,
    });
    for profile in [Profile::Default, Profile::Strict] {
        has_the_standing_of_its_task(&Running::start(|task| {
            standing(task);
            task.description.user = user;
            task.description.profile = profile;
            task.description.isolation = Isolation::of(profile, false);
            fs::set_permissions(task.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        }));
    }
    has_the_standing_of_its_task(&Running::start(|task| {
        standing(task);
        task.description.profile = Profile::None;
        task.description.isolation = Isolation::of(Profile::None, false);
    }));
}

#[test]
fn an_ordinary_users_task_can_be_entered_too() {
    if !is_root() || !users_may_have_namespaces() {
        return skip("needs root, to become an ordinary user who may have namespaces");
    }
    let running = Running::start_by(standing, |task| task.start_as(NOBODY, |_| ()));
    has_the_standing_of_its_task(&running);
    let mut session = running.terminal(&["sh", "-c", "tty; exit 4"]);
    assert_eq!(session.ended(), 4);
    assert!(session.text().contains("/dev/pts/0"), "{}", session.text());
    nothing_is_left(&running, None);
}

#[test]
fn a_terminal_is_the_tasks_own_and_behaves_as_one() {
    let running = Running::start(|task| {
        if is_root() {
            task.description.user = Some(UserIds {
                uid: NOBODY,
                gid: NOBODY,
            });
            fs::set_permissions(task.folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        }
    });
    let mut session = running.terminal(&["sh"]);
    session.started();
    session.say(b"t=$(tty); test -c $t && echo \"is $t\" && echo again > $t\r");
    session.await_text("is /dev/pts/0");
    session.await_text("again");
    session.say(b"stty size; echo $TERM\r");
    session.await_text("30 101");
    session.await_text("xterm");
    // A new size is told to what runs.
    session.say(b"trap 'stty size' WINCH\r");
    let size = WindowSize {
        rows: 44,
        columns: 133,
    };
    session
        .channel
        .as_ref()
        .unwrap()
        .send(&SessionOrder::Resize(size))
        .unwrap();
    wait_for("the new size", || {
        session.say(b"stty size\r");
        session.take_output();
        session.text().contains("44 133").then_some(())
    });
    // Ctrl-C ends what runs in the foreground, and not the shell.
    let word = unique_seconds();
    session.say(format!("sleep {word}\r").as_bytes());
    let pid = wait_for("a sleep", || find_processes(&word).first().copied());
    session.say(b"\x03");
    wait_dead(pid);
    session.say(b"echo code $?\r");
    session.await_text("code 130");
    // Ctrl-D ends input.
    session.say(b"stty -echo; cat; echo back-$?\r");
    session.say(b"a line of cat\r");
    session.await_text("a line of cat");
    session.say(b"\x04");
    session.await_text("back-0");
    session.say(b"exit 6\r");
    assert_eq!(session.ended(), 6);
    let mut other = running.terminal(&["sh", "-c", "exit 9"]);
    assert_eq!(other.ended(), 9);
    assert!(is_alive(running.pid));
}

/// Processes that try to stay: in the background, in a session of their own,
/// and without a parent; all deaf to the hang-up.
fn stayers(word: &str) -> String {
    format!(
        "trap '' HUP TERM; \
         setsid sh -c \"trap '' HUP TERM; sleep {word} & sleep {word} & wait\" & \
         (setsid sh -c \"trap '' HUP TERM; (sleep {word} &)\" &) ; \
         echo going; sleep {word}"
    )
}

fn await_stayers(session: &mut Session, word: &str) -> Vec<i32> {
    session.await_text("going");
    wait_for("all that stays", || {
        let found = find_processes(word);
        (found.len() >= 4).then_some(found)
    })
}

/// No process but the task's own, and no group.
fn nothing_is_left(running: &Running, group: Option<&KillGroup>) {
    wait_for("the end of the wardens", || {
        let children = children_of(running.task.helper_pid());
        (children.len() == 1).then_some(())
    });
    if let Some(group) = group {
        wait_for("the end of the groups", || {
            (group.sessions() == 0).then_some(())
        });
    }
    assert!(is_alive(running.pid));
}

fn children_of(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap();
    text.split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn a_lost_agent_leaves_no_process_of_a_session() {
    for (profile, grouped) in [
        (Profile::Default, true),
        (Profile::Default, false),
        (Profile::Strict, true),
        (Profile::None, true),
        (Profile::None, false),
    ] {
        let name = format!("lost-{}", profile.name());
        let group = grouped.then(|| KillGroup::make(&name)).flatten();
        if grouped && group.is_none() {
            skip("no control groups of version 2 can be made here");
        }
        if profile == Profile::Strict && !is_root() && !users_may_have_namespaces() {
            continue;
        }
        let running = Running::start(|task| {
            task.description.profile = profile;
            task.description.isolation = Isolation::of(profile, false);
            if let Some(group) = &group {
                group.join(task);
            }
        });
        for terminal in [false, true] {
            let word = unique_seconds();
            let script = stayers(&word);
            let command = ["sh", "-c", &script];
            let mut session = match terminal {
                true => running.terminal(&command),
                false => running.run(&command),
            };
            let pids = await_stayers(&mut session, &word);
            assert_eq!(group.as_ref().map_or(1, KillGroup::sessions), 1);
            drop(session);
            pids.into_iter().for_each(wait_dead);
            nothing_is_left(&running, group.as_ref());
        }
        // The end of the command is the end of what it left behind, too.
        let word = unique_seconds();
        let script = stayers(&word).replace(&format!("echo going; sleep {word}"), "read x; exit 5");
        let mut session = running.run(&["sh", "-c", &script]);
        let pids = wait_for("all that stays", || {
            let found = find_processes(&word);
            (found.len() >= 3).then_some(found)
        });
        session.say(b"\n");
        assert_eq!(session.ended(), 5);
        assert!(!pids.into_iter().any(is_alive), "before the report");
        nothing_is_left(&running, group.as_ref());
    }
}

#[test]
fn whoever_listens_to_the_hang_up_may_end_in_its_own_way() {
    let running = Running::start(|_| ());
    // In memory: a busy disk may take longer than the grace.
    // A shell tells of a child that was hung up, into a pipe that is closed.
    let script = "exec 2>/dev/null; trap 'echo bye > /tmp/bye; exit' HUP; echo going; while :; do sleep 0.02; done";
    for terminal in [false, true] {
        let command = ["sh", "-c", script];
        let mut session = match terminal {
            true => running.terminal(&command),
            false => running.run(&command),
        };
        session.await_text("going");
        drop(session);
        nothing_is_left(&running, None);
        assert_eq!(running.script("cat /tmp/bye && rm /tmp/bye").1, "bye\n");
        nothing_is_left(&running, None);
    }
}

#[test]
fn a_killed_warden_leaves_nothing_where_there_are_groups() {
    let Some(group) = KillGroup::make("warden") else {
        return skip("no control groups of version 2 can be made here");
    };
    let running = Running::start(|task| group.join(task));
    let word = unique_seconds();
    let mut session = running.run(&["sh", "-c", &stayers(&word)]);
    let pids = await_stayers(&mut session, &word);
    let init = init_of(running.task.helper_pid());
    let wardens = children_of(running.task.helper_pid());
    let warden = wardens.into_iter().find(|pid| *pid != init).unwrap();
    kill(Pid::from_raw(warden), Signal::SIGKILL).unwrap();
    session.started();
    assert_eq!(session.report(), None, "no code was made up");
    pids.into_iter().for_each(wait_dead);
    nothing_is_left(&running, Some(&group));
}

fn init_of(helper: i32) -> i32 {
    *children_of(helper).iter().min().unwrap()
}

#[test]
fn a_killed_helper_leaves_nothing() {
    for profile in [Profile::Default, Profile::None] {
        let mut running = Running::start(|task| {
            task.description.profile = profile;
            task.description.isolation = Isolation::of(profile, false);
        });
        let word = unique_seconds();
        let mut session = running.run(&["sh", "-c", &stayers(&word)]);
        let pids = await_stayers(&mut session, &word);
        running.task.signal_helper(Signal::SIGKILL);
        running.task.helper_code();
        pids.into_iter().for_each(wait_dead);
        wait_dead(running.pid);
        session.started();
        assert_eq!(session.report(), None, "no code was made up");
    }
}

#[test]
fn the_tasks_end_is_the_end_of_its_sessions() {
    for profile in [Profile::Default, Profile::None] {
        let group = KillGroup::make(&format!("end-{}", profile.name()));
        let mut running = Running::start(|task| {
            task.description.profile = profile;
            task.description.isolation = Isolation::of(profile, false);
            if let Some(group) = &group {
                group.join(task);
            }
        });
        let word = unique_seconds();
        let mut session = running.run(&["sh", "-c", &stayers(&word)]);
        let pids = await_stayers(&mut session, &word);
        running.agent.send(&AgentMessage::Stop {
            signal: 15,
            grace_ms: 20_000,
        });
        assert_eq!(running.agent.next_exit().code, Some(3), "the task's own");
        assert!(!pids.into_iter().any(is_alive), "before the task's report");
        session.started();
        assert!(!matches!(
            session.report(),
            Some(SessionReport::Ended { code: 0 })
        ));
        if let Some(group) = &group {
            assert_eq!(group.sessions(), 0);
        }
        running.agent.send(&AgentMessage::Ack);
        assert_eq!(running.task.helper_code(), Some(0));
    }
}

#[test]
fn sessions_are_counted_and_their_place_is_given_back() {
    let running = Running::start(|_| ());
    let mut all: Vec<Session> = (0..SESSIONS_MAX)
        .map(|_| {
            let mut session = running.run(&["sleep", "1000"]);
            session.started();
            session
        })
        .collect();
    let (why, code) = running.run(&["true"]).failed();
    assert!(why.contains("16 sessions"), "{why}");
    assert_eq!(code, 255);
    all.pop();
    wait_for("a free place", || {
        let mut session = running.run(&["true"]);
        match session.report() {
            Some(SessionReport::Failed { .. }) => None,
            _ => Some(()),
        }
    });
}

#[test]
fn a_request_without_its_descriptors_is_refused() {
    let running = Running::start(|_| ());
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let message = AgentMessage::Session(request(&["true"]));
    running.agent.send_with(&message, &[theirs.as_fd()]);
    drop(theirs);
    let mut fds = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(LIMIT).unwrap()).unwrap();
    let report = Channel::from_fd(ours).receive::<SessionReport>().unwrap();
    assert!(matches!(report, SessionReport::Failed { .. }), "{report:?}");
    // The helper goes on.
    assert_eq!(running.script("true").0, 0);
}

fn tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::write(root.join("sub/deep/file"), vec![7; 300_000]).unwrap();
    fs::write(root.join("program"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("program"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("program", root.join("link")).unwrap();
}

impl Running {
    /// Sends `from` as `name` to this path of the task.
    fn put(&self, from: &Path, name: &str, to: &str) -> (u8, String) {
        let mut session = self.open(work(Work::Receive(to.into())), None);
        let mut packed = Vec::new();
        archive::send(&mut packed, from, name).unwrap();
        let mut left = &packed[..];
        while !left.is_empty() {
            match write(session.input.as_ref().unwrap(), left) {
                Ok(length) => left = &left[length..],
                Err(Errno::EAGAIN) => session.take_output(),
                // It has seen enough.
                Err(Errno::EPIPE) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
        session.input = None;
        (session.ended(), session.error_text())
    }

    fn get(&self, path: &str, name: &str) -> (u8, Vec<u8>, String) {
        let name = name.into();
        let path = path.into();
        let mut session = self.open(work(Work::Send { path, name }), None);
        let code = session.ended();
        let text = session.error_text();
        (code, session.out, text)
    }
}

#[test]
fn files_and_folders_go_in_and_out_and_stay_what_they_are() {
    let running = Running::start(|_| ());
    let local = tempfile::tempdir().unwrap();
    tree(&local.path().join("tree"));
    assert_eq!(
        running.put(&local.path().join("tree"), "tree", "/task"),
        (0, String::new())
    );
    let (code, out, err) = running.script(
        "cd /task/tree && wc -c < sub/deep/file && readlink link && test -x program && echo fine",
    );
    assert_eq!(
        (code, out.as_str()),
        (0, "300000\nprogram\nfine\n"),
        "{err}"
    );
    // Under another name, relative to the task's folder.
    assert_eq!(
        running
            .put(&local.path().join("tree/program"), "program", "other")
            .0,
        0
    );
    assert_eq!(running.script("test -x /task/other").0, 0);
    // And back.
    let (code, packed, err) = running.get("/task/tree", "back");
    assert_eq!(code, 0, "{err}");
    archive::receive_named(&packed[..], local.path(), "back").unwrap();
    let back = local.path().join("back");
    assert_eq!(
        fs::read(back.join("sub/deep/file")).unwrap(),
        vec![7; 300_000]
    );
    assert_eq!(
        fs::read_link(back.join("link")).unwrap(),
        Path::new("program")
    );
    let mode = fs::metadata(back.join("program"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn paths_of_copies_are_the_tasks_and_never_the_hosts() {
    let secret = tempfile::tempdir().unwrap();
    let hidden = secret.path().join("hidden");
    fs::write(&hidden, "of the host").unwrap();
    let hidden = hidden.to_str().unwrap();
    let running = Running::start(|_| ());
    let local = tempfile::tempdir().unwrap();
    let file = local.path().join("file");
    fs::write(&file, "new").unwrap();
    // What the host has there the task does not, by any way.
    assert_eq!(
        running
            .script(&format!("ln -s {hidden} /task/link; ln -s / /task/root"))
            .0,
        0
    );
    for path in [
        hidden.to_string(),
        format!("../../../../../../../..{hidden}"),
        "/task/link".to_string(),
        format!("/task/root{hidden}"),
        format!("/proc/self/root{hidden}"),
        format!("/proc/1/root{hidden}"),
    ] {
        let (code, packed, err) = running.get(&path, "x");
        assert_eq!(code, 1, "{path}: {err}");
        assert!(err.contains("can't be read"), "{path}: {err}");
        let text = String::from_utf8_lossy(&packed);
        assert!(!text.contains("of the host"), "{path}");
    }
    // Into a folder of the host's, which is none of the task's.
    let folder = secret.path().to_str().unwrap();
    for path in [
        folder.to_string(),
        format!("{folder}/x"),
        format!("../../../..{folder}/x"),
        format!("/task/root{folder}/x"),
    ] {
        let (code, err) = running.put(&file, "file", &path);
        if path != folder {
            assert_eq!(code, 1, "{path}: {err}");
        }
        let here: Vec<_> = fs::read_dir(secret.path()).unwrap().flatten().collect();
        assert_eq!(here.len(), 1, "{path}: {here:?}");
    }
    // A link is replaced, not written through.
    assert_eq!(running.put(&file, "file", "/task/link").0, 0);
    assert_eq!(fs::read_to_string(hidden).unwrap(), "of the host");
    let (_, out, _) = running.script("cat /task/link; test -L /task/link || echo plain");
    assert_eq!(out, "newplain\n");
    // The package stays what it is, and so do the host's programs.
    for path in ["/package/bin/run", "/usr/bin/env", "/etc/passwd"] {
        assert_eq!(running.put(&file, "file", path).0, 1, "{path}");
    }
}

#[test]
fn a_strict_task_is_written_to_only_where_it_may_write() {
    let needs = "needs root, or namespaces for ordinary users, for a strict task";
    if !is_root() && !users_may_have_namespaces() {
        return skip(needs);
    }
    let running = Running::start(|task| {
        task.description.profile = Profile::Strict;
        task.description.isolation = Isolation::of(Profile::Strict, false);
    });
    let local = tempfile::tempdir().unwrap();
    tree(&local.path().join("tree"));
    let tree = local.path().join("tree");
    assert_eq!(running.put(&tree, "tree", "/task").0, 0);
    assert_eq!(running.put(&tree, "tree", "/new").0, 1);
    assert_eq!(running.script("echo x > /new").0, 2);
    let mut session = running.terminal(&["sh", "-c", "tty; stty size"]);
    assert_eq!(session.ended(), 0);
    assert_eq!(session.text(), "/dev/pts/0\r\n30 101\r\n");
    let (code, packed, _) = running.get("/task/tree", "back");
    assert_eq!(code, 0);
    archive::receive_named(&packed[..], local.path(), "back").unwrap();
    assert!(local.path().join("back/sub/deep/file").is_file());
}

#[test]
fn tools_are_seen_by_the_session_that_asked_and_by_nobody_else() {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| File::open(path).ok())
    else {
        return skip("needs a static busybox (package busybox-static)");
    };
    for profile in [Profile::Default, Profile::Strict] {
        let running = Running::start(|task| {
            task.description.profile = profile;
            task.description.isolation = Isolation::of(profile, false);
        });
        let mut with = request(&[
            &format!("{TOOLS_AT}/ash"),
            "-c",
            "ash -c 'type vi'; ls /.tools; rm /.tools/vi",
        ]);
        with.tools = Some(["ash", "vi", "../evil", ""].map(String::from).to_vec());
        let mut session = running.open(with, Some(&busybox));
        session.input = None;
        assert_ne!(session.ended(), 0, "tools can't be changed");
        assert!(
            session.text().contains("ash\nbusybox\nvi\n"),
            "{} {}",
            session.text(),
            session.error_text()
        );
        assert!(
            session.error_text().contains("Read-only"),
            "{}",
            session.error_text()
        );
        assert_eq!(running.script("ls -A /.tools").1, "");
    }
    let running = Running::start(|task| {
        task.description.profile = Profile::None;
        task.description.isolation = Isolation::of(Profile::None, false);
    });
    let mut with = request(&["true"]);
    with.tools = Some(vec!["ash".into()]);
    let (why, _) = running.open(with, Some(&busybox)).failed();
    assert!(why.contains("--tools"), "{why}");
}

#[test]
fn a_debugger_attaches_where_the_profile_allows_it() {
    if !Path::new("/usr/bin/gdb").exists() {
        return skip("needs gdb");
    }
    if !is_root() {
        return skip("needs root: the host may allow ordinary users no tracing");
    }
    let attach = "gdb -q -batch -nx -p $(pgrep -o -x run || echo 2) -ex 'info inferiors' 2>&1";
    let with_debug = |running: &Running| {
        let mut wanted = request(&["sh", "-c", attach]);
        wanted.debug = true;
        running.open(wanted, None)
    };
    let running = Running::start(|_| ());
    let mut session = with_debug(&running);
    session.input = None;
    session.ended();
    let out = session.text();
    assert!(out.contains("process 2"), "{out}");
    assert!(!out.contains("not permitted"), "{out}");
    assert!(is_alive(running.pid));
    let running = Running::start(|task| {
        task.description.profile = Profile::Strict;
        task.description.isolation = Isolation::of(Profile::Strict, false);
    });
    let (_, out, _) = running.script(attach);
    assert!(out.contains("not permitted"), "{out}");
    let (why, _) = with_debug(&running).failed();
    assert!(why.contains("strict"), "{why}");
}

#[test]
fn sessions_go_on_while_their_helper_becomes_another_program() {
    let group = KillGroup::make("upgrade");
    let mut running = Running::start(|task| {
        if let Some(group) = &group {
            group.join(task);
        }
    });
    let mut piped = running.run(&["cat"]);
    piped.started();
    let mut terminal = running.terminal(&["sh"]);
    terminal.started();
    // One that has ended, whose group may be left.
    assert_eq!(running.script("exit 5").0, 5);

    let program = running.task.folder.path().join("new/potluck-helper");
    fs::create_dir(program.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_potluck-helper"), &program).unwrap();
    running.agent.send(&AgentMessage::Upgrade { program });
    let told = running.agent.next();
    assert!(matches!(told, HelperMessage::Upgraded { .. }), "{told:?}");

    put_in(&piped, b"through\n");
    piped.await_text("through");
    piped.input = None;
    assert_eq!(piped.ended(), 0);
    terminal.say(b"echo an-$((1 + 1))-swer\r");
    terminal.await_text("an-2-swer");
    // New ones come in as before.
    assert_eq!(running.script("exit 4").0, 4);
    terminal.say(b"exit 6\r");
    assert_eq!(terminal.ended(), 6);
    nothing_is_left(&running, group.as_ref());
}

fn put_in(session: &Session, bytes: &[u8]) {
    let written = write(session.input.as_ref().unwrap(), bytes).unwrap();
    assert_eq!(written, bytes.len());
}
