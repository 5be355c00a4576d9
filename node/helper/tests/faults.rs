//! Helpers and inits that are killed at each of their steps: whatever was
//! begun, nothing of the task is left, and the end that is told is the true
//! one.

mod support;
#[path = "support/tracer.rs"]
mod tracer;

use nix::poll::{PollFd, PollFlags, poll};
use potluck_helper::{
    AgentMessage, Channel, EndRecord, HelperMessage, Listener, TaskEnd, protocol::ReceiveError,
};
use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};
use support::{Task, find_processes, is_root, skip, wait_for};
use tracer::{Aim, Outcome, Whose, run};

/// Lives that are cut short side by side: each waits more than it works.
const AT_ONCE: usize = 6;

/// The code that the task ends with by itself.
const CODE: i32 = 7;

static LIVES: AtomicU32 = AtomicU32::new(1);

/// A helper with a task that leaves its session, writes, and ends by itself.
struct Life {
    task: Task,
    /// An argument of no other process.
    word: String,
    group: PathBuf,
    /// The program that its helper is told to become.
    next: Option<Next>,
}

/// A program that takes the helper's place, and the file that lets the task end
/// when it has.
struct Next {
    program: PathBuf,
    go: PathBuf,
}

impl Life {
    fn new(is_upgraded: bool) -> Life {
        let number = LIVES.fetch_add(1, Ordering::Relaxed);
        let word = format!("9{number:06}.{}", std::process::id());
        let wait = match is_upgraded {
            true => "while [ ! -e go ]; do sleep 0.02; done;",
            false => "",
        };
        let script = format!("(setsid sleep {word} &) ; echo hi; {wait} exit {CODE}");
        let mut task = Task::script(&script);
        let next = is_upgraded.then(|| {
            let program = task.folder.path().join("next/potluck-helper");
            fs::create_dir(program.parent().unwrap()).unwrap();
            fs::copy(env!("CARGO_BIN_EXE_potluck-helper"), &program).unwrap();
            let go = task.description.task_folder.join("go");
            Next { program, go }
        });
        let group = group_folder(&word);
        fs::create_dir(&group).unwrap();
        task.description.cgroup_procs = vec![group.join("cgroup.procs")];
        task.description.kill_group = Some(group.clone());
        Life {
            task,
            word,
            group,
            next,
        }
    }

    /// To its end, or until it is killed; and the ends that its agent heard of.
    fn live(&mut self, whose: Whose, aim: Option<&Aim>) -> (Outcome, Vec<Option<TaskEnd>>) {
        let file = self.file();
        self.task.description.write(&file).unwrap();
        let this = &*self;
        let mut command = Command::new(env!("CARGO_BIN_EXE_potluck-helper"));
        command.arg(&file);
        let listener = Listener::bind(&self.task.description.agent_socket).unwrap();
        let folder = self.task.folder.path().to_string_lossy().into_owned();
        let words = [(folder, "")];
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let agent = scope.spawn(|| serve(&listener, this.next.as_ref(), &over));
            let outcome = run(&mut command, whose, None, &words, aim);
            over.store(true, Ordering::Relaxed);
            (outcome, agent.join().unwrap())
        })
    }

    fn file(&self) -> PathBuf {
        self.task.start_folder().join("task")
    }

    /// No process, group or mount of this life, soon.
    fn assert_nothing_left(&self, aim: &Aim) {
        wait_for(&format!("the end of all after {aim:?}"), || {
            let file = self.file().to_string_lossy().into_owned();
            let processes = [find_processes(&self.word), find_processes(&file)].concat();
            processes.is_empty().then_some(())
        });
        wait_for(&format!("an empty group after {aim:?}"), || {
            fs::remove_dir(&self.group).ok()
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.task.folder.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&folder), "{aim:?}: {mounts}");
    }

    fn record(&self) -> Option<TaskEnd> {
        EndRecord::read(&self.task.start_folder())
            .unwrap()
            .map(|record| record.end)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // After a failed test.
        let _ = fs::write(self.group.join("cgroup.kill"), "1");
        if self.group.exists() {
            wait_for("an empty group", || fs::remove_dir(&self.group).ok());
        }
    }
}

fn group_folder(word: &str) -> PathBuf {
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let root = unified
        .iter()
        .find(|root| root.join("cgroup.procs").exists());
    root.unwrap().join(format!("potluck-faults-{word}"))
}

/// An agent that welcomes, answers pings and acknowledges, and notes the ends
/// that it is told; `None` is a start that failed.
fn serve(listener: &Listener, next: Option<&Next>, over: &AtomicBool) -> Vec<Option<TaskEnd>> {
    const LOOK_MS: u8 = 20;
    let mut told = Vec::new();
    let mut channel: Option<Channel> = None;
    loop {
        let fd = match &channel {
            Some(channel) => channel.as_fd(),
            None => listener.as_fd(),
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        if poll(&mut fds, LOOK_MS).unwrap() == 0 {
            if over.load(Ordering::Relaxed) {
                return told;
            }
            continue;
        }
        let Some(open) = &channel else {
            channel = listener.accept().ok();
            continue;
        };
        let answer = match open.receive::<HelperMessage>() {
            Ok(HelperMessage::Hello(_)) => AgentMessage::Welcome {
                agent_generation: 1,
                lease_ms: 60_000,
            },
            Ok(HelperMessage::Ping { sent_at }) => AgentMessage::Pong {
                sent_at,
                lease_ms: 60_000,
                scheduler_lease_ms: None,
            },
            Ok(HelperMessage::Exited(exit)) => {
                told.push(Some(TaskEnd::Exited(exit)));
                AgentMessage::Ack
            }
            Ok(HelperMessage::StartFailed { .. }) => {
                told.push(None);
                AgentMessage::Ack
            }
            Ok(HelperMessage::Started { .. }) if next.is_some() => AgentMessage::Upgrade {
                program: next.unwrap().program.clone(),
            },
            Ok(HelperMessage::Upgraded { .. }) => {
                fs::write(&next.unwrap().go, "").unwrap();
                continue;
            }
            Ok(_) | Err(ReceiveError::WouldBlock) => continue,
            Err(_) => {
                channel = None;
                continue;
            }
        };
        // It may be dead by now.
        let _ = open.send(&answer);
    }
}

/// Where each step can be told apart: root, and a group for each life.
fn may_run() -> bool {
    // The thread, too: the tests of this program ask at the same time.
    let probe = group_folder(&format!(
        "probe.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let may = is_root() && fs::create_dir(&probe).is_ok();
    let _ = fs::remove_dir(&probe);
    may
}

/// Kills at every step of a life that was watched first, and has each outcome
/// judged. Of a life with an upgrade only those of it, and what follows.
fn at_every_step(
    whose: Whose,
    is_upgraded: bool,
    judge: impl Fn(&Life, &Aim, &[Option<TaskEnd>]) + Sync,
) {
    let mut whole = Life::new(is_upgraded);
    let (outcome, told) = whole.live(whose, None);
    assert!(!outcome.hit);
    assert!(
        matches!(&told[..], [Some(TaskEnd::Exited(exit)), ..] if exit.code == Some(CODE)),
        "{told:?}"
    );
    whole.assert_nothing_left(&("nothing".into(), 0));
    let mut steps = outcome.steps;
    if is_upgraded {
        // The log comes to rest shortly before its state is in memory.
        const BEFORE: usize = 4;
        let is_state = |(name, _): &Aim| name.contains("memfd");
        let at = steps.iter().position(is_state).expect("a state in memory");
        steps.drain(..at - BEFORE);
        let is_exec = |(name, _): &Aim| name.starts_with("exec");
        assert!(steps.iter().any(is_exec), "{steps:?}");
    }
    assert!(steps.len() > 20, "only {steps:?}");
    let (next, missed) = (Mutex::new(steps.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(aim) = next.lock().unwrap().next() else {
                        return;
                    };
                    let mut life = Life::new(is_upgraded);
                    let (outcome, told) = life.live(whose, Some(aim));
                    if !outcome.hit {
                        missed.lock().unwrap().push(aim);
                    }
                    life.assert_nothing_left(aim);
                    let recorded = life.record();
                    for end in told.iter().flatten() {
                        let on_disk = recorded.as_ref();
                        assert_eq!(Some(end), on_disk, "{aim:?}: told, but not recorded");
                    }
                    judge(&life, aim, &told);
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    println!(
        "killed at {} of {} steps",
        steps.len() - missed.len(),
        steps.len()
    );
    // How many messages go to and fro is a matter of timing, and so is when the
    // log's own thread syncs; all else is not.
    let by_timing = |(name, _): &&Aim| {
        matches!(&name[..], "send" | "receive" | "wait") || name.starts_with("sync /log/")
    };
    let others: Vec<_> = missed.into_iter().filter(|aim| !by_timing(aim)).collect();
    assert!(others.is_empty(), "never came to {others:?}");
}

#[test]
fn a_helper_killed_at_any_step_leaves_nothing_and_tells_no_lie() {
    if !may_run() {
        return skip("needs root and a cgroup v2 hierarchy that it may write to");
    }
    at_every_step(Whose::Program, false, |life, aim, _| match life.record() {
        // It was not there any more to write one.
        None => {}
        Some(TaskEnd::Exited(exit)) => assert_eq!(exit.code, Some(CODE), "{aim:?}"),
        Some(other) => panic!("{aim:?}: {other:?}"),
    });
}

#[test]
fn an_init_killed_at_any_step_leaves_nothing_and_is_told() {
    if !may_run() {
        return skip("needs root and a cgroup v2 hierarchy that it may write to");
    }
    at_every_step(Whose::Child, false, |life, aim, told| {
        assert!(!told.is_empty(), "{aim:?}: nothing was told");
        match life.record() {
            Some(TaskEnd::Exited(exit)) => {
                let by_itself = exit.code == Some(CODE);
                let lost = exit.reason == potluck_helper::ExitReason::InitLost;
                assert!(by_itself != lost, "{aim:?}: {exit:?}");
            }
            Some(TaskEnd::NotStarted { .. }) => {}
            None => panic!("{aim:?}: told {told:?}, and not recorded"),
        }
    });
}

#[test]
fn a_helper_killed_at_any_step_of_an_upgrade_leaves_nothing_and_tells_no_lie() {
    if !may_run() {
        return skip("needs root and a cgroup v2 hierarchy that it may write to");
    }
    at_every_step(Whose::Program, true, |life, aim, _| match life.record() {
        None => {}
        Some(TaskEnd::Exited(exit)) => assert_eq!(exit.code, Some(CODE), "{aim:?}"),
        Some(other) => panic!("{aim:?}: {other:?}"),
    });
}
