//! A helper that becomes another program while its task runs: the process, the
//! task, the log, the lease and the end stay what they were.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use potluck_helper::{AgentMessage, ExitReason, HelperMessage, TaskEnd, resume::HANDS_ON};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};
use support::{Agent, Task, is_alive, is_root, skip, wait_dead, wait_for};

const HELPER: &str = env!("CARGO_BIN_EXE_potluck-helper");

/// Another build of the helper: the same, but for its bytes.
fn build(task: &Task, number: u32) -> PathBuf {
    let mut bytes = fs::read(HELPER).unwrap();
    bytes.extend(number.to_be_bytes());
    install(task, &format!("build-{number}"), &bytes)
}

/// A build that can be started and can't read what other builds hand on: what
/// stands before that is another text for it.
fn build_that_reads_nothing(task: &Task) -> PathBuf {
    const MAGIC: &[u8] = b"state of a potluck-helper, handed on";
    let mut bytes = fs::read(HELPER).unwrap();
    let starts: Vec<usize> = bytes
        .windows(MAGIC.len())
        .enumerate()
        .filter_map(|(at, part)| (part == MAGIC).then_some(at))
        .collect();
    assert!(!starts.is_empty(), "the text is in the program");
    for at in starts {
        bytes[at] = b'S';
    }
    install(task, "reads-nothing", &bytes)
}

fn install(task: &Task, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = task.folder.path().join(name);
    fs::create_dir(&folder).unwrap();
    let path = folder.join("potluck-helper");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

fn order(agent: &Agent, program: &Path) {
    agent.send(&AgentMessage::Upgrade {
        program: program.into(),
    });
}

/// Has it become this program, which must work.
fn upgrade(task: &Task, agent: &mut Agent, program: &Path) {
    order(agent, program);
    match agent.next() {
        HelperMessage::Upgraded {
            helper_version,
            hands_on,
        } => {
            assert_eq!(helper_version, env!("CARGO_PKG_VERSION"));
            assert_eq!(hands_on, HANDS_ON);
        }
        other => panic!("not upgraded: {other:?}"),
    }
    assert_eq!(program_of(task.helper_pid()), program);
}

fn refusal(agent: &mut Agent, program: &Path) -> String {
    order(agent, program);
    match agent.next() {
        HelperMessage::UpgradeRefused { why } => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Prints numbers without an end until told to stop, then one line in two
/// halves, and ends with code 7.
const NUMBERS: &str = r#"
    trap 'stop=1' TERM
    n=0
    while [ -z "$stop" ]; do n=$((n+1)); echo "$n"; done
    echo "last $n"
    printf 'first half, ' >&2
    touch halved
    while [ ! -e go ]; do sleep 0.02; done
    echo 'second half' >&2
    exit 7
"#;

/// All numbers from 1 to the last are there, once and in order.
fn assert_exact(texts: &[String]) {
    let last = texts.iter().find_map(|text| text.strip_prefix("last "));
    let last: u64 = last.expect("a last number").parse().unwrap();
    let numbers: Vec<u64> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    assert_eq!(numbers.len() as u64, last);
    let wrong = numbers.iter().zip(1..).find(|(is, should)| **is != *should);
    assert_eq!(wrong, None);
}

fn await_lines(task: &Task, more_than: usize) -> usize {
    wait_for("more lines", || {
        let count = task.lines().len();
        (count > more_than).then_some(count)
    })
}

#[test]
fn process_task_log_and_end_stay_over_several_programs() {
    let mut task = Task::script(NUMBERS);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, missing) = agent.running();
    let name = || fs::read_to_string(format!("/proc/{}/comm", task.helper_pid())).unwrap();
    let before = name();
    let mut lines = 0;
    for number in 1..=3 {
        lines = await_lines(&task, lines);
        upgrade(&task, &mut agent, &build(&task, number));
        assert!(is_alive(pid));
        assert_eq!(name(), before);
    }
    await_lines(&task, lines);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let work = task.description.task_folder.clone();
    wait_for("half a line", || work.join("halved").exists().then_some(()));
    // Half a line is handed on as well.
    upgrade(&task, &mut agent, &build(&task, 4));
    fs::write(work.join("go"), "").unwrap();
    let exit = agent.next_exit();
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(exit.reason, ExitReason::Exited);
    assert_eq!(task.recorded_exit(), exit);
    assert_exact(&task.texts());
    let lines = task.lines();
    let whole = lines.iter().find(|line| line.text.ends_with(b"half"));
    let whole = whole.expect("the line of two halves");
    assert_eq!(whole.text, b"first half, second half");
    assert!(!whole.partial);
    let numbered = lines.iter().map(|line| line.seq).eq(0..lines.len() as u64);
    assert!(numbered, "a jump in the lines' numbers");

    // The next agent meets the same helper.
    drop(agent);
    let mut agent = Agent::listen(&task, 2);
    let hello = agent.accept();
    assert_eq!(hello.helper_pid, task.helper_pid());
    assert_eq!(hello.isolation_missing, missing);
    assert_eq!(hello.hands_on, Some(HANDS_ON));
    agent.welcome();
    agent.next_exit();
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));
}

#[test]
fn descriptors_are_those_of_before_and_none_is_left_over() {
    let mut task = Task::script("exec sleep 1000");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let kinds = |task: &Task| {
        let folder = format!("/proc/{}/fd", task.helper_pid());
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut kinds: Vec<String> = entries
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        kinds.sort();
        kinds
    };
    // The agent's answers may still be on their way to what they open.
    let before = kinds(&task);
    for number in 1..=2 {
        upgrade(&task, &mut agent, &build(&task, number));
        assert_eq!(kinds(&task), before);
    }
    agent.send(&AgentMessage::Kill);
    agent.next_exit();
}

#[test]
fn a_lease_goes_on_where_it_was() {
    let mut task = Task::script("exec sleep 1000");
    task.description.lease_ms = 3_000;
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    agent.answers_pings = false;
    upgrade(&task, &mut agent, &build(&task, 1));
    let exit = agent.next_exit();
    assert_eq!(exit.reason, ExitReason::LeaseExpired);
    assert!(!is_alive(pid));
}

#[test]
fn a_stop_that_was_begun_is_carried_through() {
    // It takes no notice of the stop.
    let mut task = Task::script("trap '' TERM; echo deaf; while :; do sleep 0.1; done");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    task.wait_line("deaf");
    agent.send(&AgentMessage::Stop {
        signal: 15,
        grace_ms: 2_000,
    });
    upgrade(&task, &mut agent, &build(&task, 1));
    assert!(is_alive(pid), "its grace is not over");
    let exit = agent.next_exit();
    assert_eq!(exit.reason, ExitReason::StoppedByKill);
}

#[test]
fn a_program_that_can_not_go_on_leaves_all_as_it_was() {
    let mut task = Task::script(NUMBERS);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    let junk = install(&task, "junk", b"\x7fELF and nothing else");
    let cases = [
        (task.folder.path().join("nowhere"), "No such file"),
        (PathBuf::from("potluck-helper"), "absolute"),
        (junk, "can't be run"),
        (build_that_reads_nothing(&task), "can't go on"),
    ];
    let first = program_of(task.helper_pid());
    let mut lines = 0;
    for (program, words) in &cases {
        lines = await_lines(&task, lines);
        let why = refusal(&mut agent, program);
        assert!(why.contains(words), "{why}");
        assert_eq!(program_of(task.helper_pid()), first);
        assert!(is_alive(pid));
    }
    // And another one can still take its place.
    upgrade(&task, &mut agent, &build(&task, 1));
    await_lines(&task, lines);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    fs::write(task.description.task_folder.join("go"), "").unwrap();
    assert_eq!(agent.next_exit().code, Some(7));
    assert_exact(&task.texts());
}

#[test]
fn whoever_has_ended_is_not_upgraded() {
    let mut task = Task::script("exit 3");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    wait_for("the end", || task.record());
    agent.accept();
    agent.welcome();
    agent.next_exit();
    order(&agent, &build(&task, 1));
    let why = loop {
        match agent.next() {
            HelperMessage::UpgradeRefused { why } => break why,
            HelperMessage::Exited(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.contains("ended"), "{why}");
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));
}

#[test]
fn a_program_says_what_it_can_go_on_with() {
    let asked = |version: &str| {
        let mut command = Command::new(HELPER);
        command.args(["--can-resume", version]);
        command.status().unwrap().success()
    };
    assert!(asked(&HANDS_ON.to_string()));
    assert!(!asked(&(HANDS_ON + 1).to_string()));
    assert!(!asked("0"));
    assert!(!asked("potluck"));
}

/// A user of whom no process runs, so that the limit is the test's own.
const NOBODYS: u32 = 58_731;

#[test]
fn a_helper_that_can_not_watch_its_task_ends_it_and_says_so() {
    if !is_root() {
        return skip("needs root, to start a helper as a user of its own");
    }
    let mut task = Task::script("exec sleep 1000");
    let agent = Agent::listen(&task, 1);
    // Helper and init are two; there is no room for the log's thread.
    task.start_as(NOBODYS, |command| {
        // SAFETY: one system call.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 2,
                    rlim_max: 2,
                };
                nix::errno::Errno::result(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit))?;
                Ok(())
            })
        };
    });
    let record = wait_for("the record", || task.record());
    let TaskEnd::NotStarted { why, .. } = record.end else {
        panic!("{record:?}");
    };
    assert!(why.contains("can't watch"), "{why}");
    task.signal_helper(Signal::SIGKILL);
    wait_dead(task.helper_pid());
    drop(agent);
}
