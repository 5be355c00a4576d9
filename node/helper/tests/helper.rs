//! The real helper under a small agent: what it does with a task, an agent
//! that comes and goes, and a lease that runs out.

mod support;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use potluck_helper::{
    AgentMessage, ExitReason, HelperMessage, TaskEnd, description::IfMissing, log::Stream,
    protocol::Phase,
};
use potluck_specs::Millis;
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
};
use support::{
    Agent, Task, find_processes, is_alive, is_root, skip, users_may_have_namespaces, wait_dead,
    wait_for,
};

/// A word that no other process has among its arguments.
fn unique_seconds() -> String {
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    format!("9{nanos:09}.{}", std::process::id())
}

#[test]
fn runs_a_program_keeps_its_output_and_reports_its_code() {
    let mut task = Task::script("echo one; echo two >&2; printf 'no end'; exit 7");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let hello = agent.accept();
    assert_eq!(hello.key, task.description.key);
    assert_eq!(hello.helper_pid, task.helper_pid());
    agent.welcome();
    let exit = loop {
        match agent.next() {
            HelperMessage::Started { .. } => {}
            HelperMessage::Exited(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(exit.reason, ExitReason::Exited);
    assert_eq!(task.recorded_exit(), exit, "on disk before it is told");
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));

    let lines = task.lines();
    let of = |stream| {
        let lines = lines.iter().filter(move |line| line.stream == stream);
        lines
            .map(|line| {
                (
                    String::from_utf8_lossy(&line.text).into_owned(),
                    line.partial,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(Stream::Out),
        [("one".into(), false), ("no end".into(), true)]
    );
    assert_eq!(of(Stream::Err), [("two".into(), false)]);
}

#[test]
fn a_task_sees_only_what_it_should() {
    let script = r#"
        echo "pid $$"
        echo "cwd $(pwd)"
        echo "package $POTLUCK_PACKAGE"
        echo "host $(hostname)"
        echo "env $GREETING $(env | grep -c CARGO)"
        echo "arg $1"
        grep -E '^(NoNewPrivs|SigBlk|SigIgn):' /proc/$$/status | tr '\t' ' '
        echo "stdin $(readlink /proc/$$/fd/0)"
        echo "processes" $(ls /proc | grep -c '^[0-9]')
    "#;
    let mut task = Task::script(script);
    task.description.args = vec!["first".into()];
    let env = &mut task.description.env;
    env.insert("GREETING".into(), "hello world".into());
    let mut agent = Agent::listen(&task, 1);
    // An agent that ignores signals.
    task.start_by(|command| {
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                Ok(())
            })
        };
    });
    let hello = agent.accept();
    let end = wait_for("the end", || task.record());
    assert_eq!(hello.isolation_missing, []);
    assert!(matches!(end.end, TaskEnd::Exited(exit) if exit.code == Some(0)));
    let texts = task.texts();
    assert_eq!(
        texts[..9],
        [
            "pid 2".to_owned(),
            "cwd /task".into(),
            "package /package".into(),
            "host web-3".into(),
            "env hello world 0".into(),
            "arg first".into(),
            "SigBlk: 0000000000000000".into(),
            "SigIgn: 0000000000000000".into(),
            "NoNewPrivs: 1".into(),
        ],
        "{texts:?}"
    );
    assert_eq!(texts[9], "stdin /dev/null");
    let processes = texts[10].strip_prefix("processes ").unwrap();
    assert!(
        processes.parse::<u32>().unwrap() < 8,
        "{processes}: the host's /proc"
    );
}

#[test]
fn no_descriptor_of_agent_or_helper_reaches_a_task() {
    let mut task = Task::script("exec sleep 1000");
    let mut agent = Agent::listen(&task, 1);
    task.start_by(|command| {
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(|| {
                libc::dup2(1, 17);
                Ok(())
            })
        };
    });
    let (pid, _) = agent.running();
    let open = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut numbers: Vec<u32> = entries
            .map(|entry| entry.file_name().to_string_lossy().parse().unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    // The shell holds its script open until it becomes `sleep`.
    wait_for("a program with nothing but its streams", || {
        (open(pid) == [0, 1, 2]).then_some(())
    });
    assert!(!open(task.helper_pid()).contains(&17));
    for number in 0..3 {
        let ours = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
        let link = fs::read_link(format!("/proc/{}/fd/{number}", task.helper_pid())).unwrap();
        assert_eq!(link, Path::new("/dev/null"), "not {}", ours.display());
    }
}

#[test]
fn a_stop_gives_the_task_time_to_end() {
    let mut task = Task::script("trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    task.wait_line("ready");
    agent.send(&AgentMessage::Stop {
        signal: 15,
        grace_ms: 60_000,
    });
    let exit = agent.next_exit();
    assert_eq!((exit.code, exit.reason), (Some(3), ExitReason::Stopped));
}

#[test]
fn who_ignores_a_stop_is_killed() {
    let mut task = Task::script("trap '' TERM; echo ready; while :; do sleep 0.02; done");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    task.wait_line("ready");
    agent.send(&AgentMessage::Stop {
        signal: 15,
        grace_ms: 50,
    });
    let exit = agent.next_exit();
    assert_eq!(
        (exit.signal, exit.reason),
        (Some(9), ExitReason::StoppedByKill)
    );
    assert!(!is_alive(pid));
}

#[test]
fn a_kill_is_at_once_and_the_end_is_repeated_until_acknowledged() {
    let mut task = Task::script("exec sleep 1000");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    agent.send(&AgentMessage::Kill);
    let exit = agent.next_exit();
    assert_eq!(exit.reason, ExitReason::Killed);
    assert_eq!(agent.next_exit(), exit);
    // The agent is replaced before it has acknowledged.
    drop(agent);
    let mut agent = Agent::listen(&task, 2);
    let hello = agent.accept();
    assert_eq!(hello.phase, Phase::Ended(TaskEnd::Exited(exit.clone())));
    agent.welcome();
    assert_eq!(agent.next_exit(), exit);
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));
}

#[test]
fn a_task_outlives_its_agent_and_an_older_agent_is_refused() {
    let mut task = Task::script("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    let mut generation = 1;
    for _ in 0..5 {
        drop(agent);
        generation += 1;
        agent = Agent::listen(&task, generation);
        let hello = agent.accept();
        assert_eq!(hello.phase, Phase::Running { pid });
        assert_eq!(hello.helper_pid, task.helper_pid());
        assert_eq!(hello.agent_generation, generation - 1);
        agent.welcome();
        let pings = agent.pings;
        // It is really welcomed: pings come.
        agent.answers_pings = false;
        wait_for_ping(&mut agent, pings);
    }
    drop(agent);

    let mut old = Agent::listen(&task, 1);
    for _ in 0..3 {
        old.accept();
        old.welcome();
        assert_eq!(old.try_next(), None, "it hangs up, and dials again");
    }
    assert!(is_alive(pid));
    drop(old);

    let mut agent = Agent::listen(&task, generation);
    agent.accept();
    agent.welcome();
    agent.send(&AgentMessage::Kill);
    agent.next_exit();
    let numbers: Vec<u64> = task
        .texts()
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
    assert_eq!(gap, None, "the log has no gap");
}

/// The first ping follows a welcome at once.
fn wait_for_ping(agent: &mut Agent, pings: u32) {
    wait_for("a ping", || {
        agent.take_ping();
        (agent.pings > pings).then_some(())
    });
}

#[test]
fn a_lease_that_runs_out_kills_the_task() {
    let mut task = Task::script("exec sleep 1000");
    task.description.lease_ms = 400;
    let mut agent = Agent::listen(&task, 1);
    agent.answers_pings = false;
    task.start();
    let (pid, _) = agent.running();
    let exit = agent.next_exit();
    assert_eq!(
        (exit.signal, exit.reason),
        (Some(9), ExitReason::LeaseExpired)
    );
    assert!(!is_alive(pid));
}

/// What leases are measured in.
fn boot_now() -> Millis {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the boot clock");
    Millis(time.tv_sec() as u64 * 1_000 + time.tv_nsec() as u64 / 1_000_000)
}

/// Of an exclusive slot: the agent lives and answers, and passes on only what
/// the scheduler granted it.
#[test]
fn the_schedulers_lease_ends_an_exclusive_task_though_its_agent_answers() {
    let mut task = Task::script("exec sleep 1000");
    task.description.scheduler_lease_until = Some(boot_now() + Millis(1_500));
    let mut agent = Agent::listen(&task, 1);
    agent.scheduler_lease_ms = Some(0);
    task.start();
    let (pid, _) = agent.running();
    let exit = agent.next_exit();
    assert_eq!(
        (exit.signal, exit.reason),
        (Some(9), ExitReason::LeaseExpired)
    );
    assert!(!is_alive(pid));
    assert!(agent.pings > 0);
}

#[test]
fn a_renewed_schedulers_lease_keeps_an_exclusive_task_alive() {
    let mut task = Task::script("sleep 2.5; exit 4");
    task.description.scheduler_lease_until = Some(boot_now() + Millis(1_500));
    let mut agent = Agent::listen(&task, 1);
    agent.scheduler_lease_ms = Some(10_000);
    task.start();
    agent.running();
    assert_eq!(agent.next_exit().code, Some(4));
}

#[test]
fn answered_pings_keep_a_task_alive_past_its_first_lease() {
    let mut task = Task::script("sleep 2.5; exit 4");
    task.description.lease_ms = 1_500;
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    assert_eq!(agent.next_exit().code, Some(4));
}

#[test]
fn a_stopped_helper_loses_its_task_to_the_second_watcher() {
    let mut task = Task::script("exec sleep 1000");
    task.description.lease_ms = 300;
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    task.signal_helper(Signal::SIGSTOP);
    wait_dead(pid);
    assert_eq!(task.record(), None);
    task.signal_helper(Signal::SIGCONT);
    assert_eq!(task.recorded_exit().reason, ExitReason::LeaseExpired);
}

#[test]
fn a_killed_helper_takes_everything_with_it() {
    let word = unique_seconds();
    let script = format!("(setsid sleep {word} &) ; echo ready; exec sleep 1000");
    let mut task = Task::script(&script);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    let escaped = wait_for("the one that escapes", || find_processes(&word).pop());
    task.signal_helper(Signal::SIGKILL);
    wait_dead(pid);
    wait_dead(escaped);
}

#[test]
fn who_forks_twice_and_leaves_the_session_dies_with_the_task() {
    let word = unique_seconds();
    let script = format!("(setsid sleep {word} > /dev/null 2>&1 &) ; read line < go; exit 5");
    let mut task = Task::script(&script);
    let go = task.folder.path().join("work/go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let escaped = wait_for("the one that escapes", || find_processes(&word).pop());
    fs::write(go, "now\n").unwrap();
    assert_eq!(agent.next_exit().code, Some(5));
    assert!(!is_alive(escaped));
}

#[test]
fn what_can_not_be_started_is_told_and_recorded() {
    let mut task = Task::script("");
    task.description.command = "bin/nothing".into();
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let hello = agent.accept();
    agent.welcome();
    let HelperMessage::StartFailed { why } = agent.next() else {
        panic!("started: {hello:?}");
    };
    assert_eq!(
        why,
        "command \"bin/nothing\" can't be run: No such file or directory"
    );
    assert!(matches!(
        task.record().unwrap().end,
        TaskEnd::NotStarted { .. }
    ));
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));

    for (command, wanted) in [
        ("../bin/run", "has \"..\" in it"),
        ("bin\0run", "a zero byte in the command"),
    ] {
        let mut task = Task::script("");
        task.description.command = command.into();
        task.start();
        let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
            panic!("{command:?} ran");
        };
        assert!(why.contains(wanted), "{why}");
    }
}

#[test]
fn a_refused_helper_ends_its_task_and_leaves() {
    let mut task = Task::script("exec sleep 1000");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.accept();
    agent.send(&AgentMessage::Refused {
        agent_generation: 1,
        why: "no such slot".into(),
    });
    assert_eq!(task.helper_code(), Some(0));
    assert_eq!(task.recorded_exit().reason, ExitReason::Killed);
}

#[test]
fn output_in_bulk_arrives_whole() {
    let mut task = Task::script("seq 1 200000; seq 1 1000 >&2");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.accept();
    agent.welcome();
    wait_for("the record", || task.record());
    let lines = task.lines();
    let count = |stream| lines.iter().filter(|line| line.stream == stream).count();
    assert_eq!((count(Stream::Out), count(Stream::Err)), (200_000, 1_000));
    let out = lines.iter().filter(|line| line.stream == Stream::Out);
    for (index, line) in out.enumerate() {
        assert_eq!(line.text, (index + 1).to_string().as_bytes());
    }
}

const NOBODY: u32 = 65_534;

#[test]
fn a_helper_that_is_not_root_isolates_by_a_user_namespace() {
    let word = unique_seconds();
    let script = format!("(setsid sleep {word} &) ; echo $$ $(id -u); read line < go");
    let mut task = Task::script(&script);
    let go = task.folder.path().join("work/go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut agent = Agent::listen(&task, 1);
    match is_root() {
        true => task.start_as(NOBODY, |_| ()),
        false => task.start(),
    }
    let (pid, missing) = agent.running();
    let escaped = wait_for("the one that escapes", || find_processes(&word).pop());
    if users_may_have_namespaces() {
        assert_eq!(missing, []);
        let uid = if is_root() {
            NOBODY
        } else {
            nix::unistd::geteuid().as_raw()
        };
        task.wait_line(&format!("2 {uid}"));
        let namespace = |pid: &str, kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        for kind in ["user", "pid", "mnt", "ipc", "uts"] {
            assert_ne!(namespace(&pid.to_string(), kind), namespace("self", kind));
        }
    } else {
        assert_eq!(missing[0].kind, "user");
    }
    fs::write(go, "now\n").unwrap();
    assert_eq!(agent.next_exit().code, Some(0));
    assert!(!is_alive(escaped));
}

/// Starts a helper where pid and uts namespaces are used up.
fn start_without_namespaces(task: &mut Task) {
    start_without(task, &["pid", "uts"]);
}

/// Starts a helper where these kinds of namespaces are used up.
fn start_without(task: &mut Task, kinds: &'static [&'static str]) {
    task.start_by(move |command| {
        // SAFETY: after the fork only this thread exists; the few allocations
        // are those that the standard library makes there itself.
        unsafe {
            command.pre_exec(move || {
                let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
                let flags = nix::sched::CloneFlags::CLONE_NEWUSER;
                nix::sched::unshare(flags)?;
                fs::write("/proc/self/setgroups", "deny")?;
                fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
                fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
                for kind in kinds {
                    fs::write(format!("/proc/sys/user/max_{kind}_namespaces"), "0")?;
                }
                Ok(())
            })
        };
    });
}

#[test]
fn without_a_pid_namespace_it_says_so_and_still_ends_everything() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    for by_kill in [false, true] {
        let word = unique_seconds();
        let script =
            format!("(setsid sh -c 'setsid sleep {word} & setsid sleep {word}' &) ; read l < go");
        let mut task = Task::script(&script);
        let go = task.folder.path().join("work/go");
        nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut agent = Agent::listen(&task, 1);
        start_without_namespaces(&mut task);
        let (pid, missing) = agent.running();
        let kinds: Vec<&str> = missing.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["pid", "uts"]);
        wait_for("the two that escape", || {
            (find_processes(&word).len() == 2).then_some(())
        });
        assert!(is_alive(pid));
        if by_kill {
            agent.send(&AgentMessage::Kill);
        } else {
            fs::write(go, "now\n").unwrap();
        }
        let exit = agent.next_exit();
        let wanted = if by_kill {
            ExitReason::Killed
        } else {
            ExitReason::Exited
        };
        assert_eq!(exit.reason, wanted);
        assert!(find_processes(&word).is_empty());
    }
}

#[test]
fn without_a_pid_namespace_a_killed_helper_still_takes_everything_with_it() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let word = unique_seconds();
    let mut task = Task::script(&format!("(setsid sleep {word} &) ; exec sleep 1000"));
    let mut agent = Agent::listen(&task, 1);
    start_without_namespaces(&mut task);
    let (pid, _) = agent.running();
    let escaped = wait_for("the one that escapes", || find_processes(&word).pop());
    task.signal_helper(Signal::SIGKILL);
    wait_dead(pid);
    wait_dead(escaped);
}

#[test]
fn without_any_namespace_all_else_is_still_taken_away() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let script = "grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapEff):' /proc/self/status | tr '\\t' ' '; \
                  unshare -U true 2>/dev/null || echo refused; pwd";
    let mut task = Task::script(script);
    let mut agent = Agent::listen(&task, 1);
    start_without(
        &mut task,
        &["pid", "uts", "mnt", "ipc", "net", "cgroup", "user"],
    );
    let (_, missing) = agent.running();
    let kinds: Vec<&str> = missing.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["pid", "mount", "ipc", "uts", "cgroup"]);
    assert_eq!(agent.next_exit().code, Some(0));
    let wanted = [
        "CapEff: 00000000200404fb",
        "CapBnd: 00000000200404fb",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "refused",
    ];
    let texts = task.texts();
    assert_eq!(texts[..5], wanted);
    assert_eq!(Path::new(&texts[5]), task.description.task_folder);
}

#[test]
fn a_description_can_insist_on_isolation() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let mut task = Task::script("exit 0");
    task.description.isolation.if_missing = IfMissing::Refuse;
    start_without_namespaces(&mut task);
    let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
        panic!("it ran");
    };
    assert!(
        why.starts_with("this host forbids a pid namespace: "),
        "{why}"
    );
}

/// A control group that is removed again.
struct Group(PathBuf);

impl Group {
    /// In the first hierarchy that lets us; `None` where there is none.
    fn make() -> Option<Group> {
        let hierarchies = [
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup",
        ];
        hierarchies.iter().find_map(|root| {
            let path = Path::new(root).join(format!("potluck-helper-test-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            path.join("cgroup.procs").exists().then_some(Group(path))
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        wait_for("an empty control group", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn the_task_and_not_the_helper_joins_the_control_group() {
    let Some(group) = Group::make() else {
        return skip("needs a control group hierarchy that it may write to");
    };
    let procs = group.0.join("cgroup.procs");
    let mut task = Task::script("exec sleep 1000");
    task.description.cgroup_procs = vec![procs.clone()];
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    assert_eq!(fs::read_to_string(procs).unwrap(), format!("{pid}\n"));
    agent.send(&AgentMessage::Kill);
    agent.next_exit();
}

#[test]
fn a_signal_to_the_helper_stops_the_task_with_its_own_grace() {
    let mut task = Task::script("trap 'exit 3' INT; echo ready; while :; do sleep 0.02; done");
    task.description.stop.signal = libc::SIGINT;
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    task.wait_line("ready");
    task.signal_helper(Signal::SIGTERM);
    let exit = agent.next_exit();
    assert_eq!((exit.code, exit.reason), (Some(3), ExitReason::Stopped));
}

#[test]
fn a_path_longer_than_a_socket_address_is_reached() {
    let mut task = Task::script("exit 0");
    let deep = task.folder.path().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    task.description.agent_socket = deep.join("agent.sock");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.accept();
}

/// Twice the target: on a host with one task nobody shares the program's pages.
const HELPER_PSS_KB_MAX: u64 = 3_000;

#[test]
fn a_helper_stays_small_however_much_a_task_prints() {
    let mut task = Task::script("seq 1 300000; echo done; exec sleep 1000");
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (_, _) = agent.running();
    let kilobytes = |pid: i32, name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let helper = task.helper_pid();
    let before = (kilobytes(helper, "Rss:"), kilobytes(helper, "Pss:"));
    task.wait_line("done");
    let after = (kilobytes(helper, "Rss:"), kilobytes(helper, "Pss:"));
    let dirty = kilobytes(helper, "Private_Dirty:");
    println!(
        "helper RSS, PSS in kB: {before:?} silent, {after:?} after 2 MB, {dirty} private dirty"
    );
    assert!(after.1 <= HELPER_PSS_KB_MAX, "{after:?}");
}

/// The parent of a task's process, on the host: its init.
fn init_of(task: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{task}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(1).unwrap().parse().unwrap()
}

fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_killed_init_takes_everything_with_it_and_is_told() {
    let word = unique_seconds();
    let mut task = Task::script(&format!("(setsid sleep {word} &) ; exec sleep 1000"));
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    let escaped = wait_for("the one that escapes", || find_processes(&word).pop());
    signal(init_of(pid), Signal::SIGKILL);
    let exit = agent.next_exit();
    assert_eq!(exit.reason, ExitReason::InitLost);
    assert!(!is_alive(pid) && !is_alive(escaped));
    assert_eq!(task.recorded_exit(), exit);
}

#[test]
fn a_stopped_init_does_not_keep_a_task_past_its_lease() {
    let mut task = Task::script("exec sleep 1000");
    task.description.lease_ms = 400;
    let mut agent = Agent::listen(&task, 1);
    agent.answers_pings = false;
    task.start();
    let (pid, _) = agent.running();
    signal(init_of(pid), Signal::SIGSTOP);
    assert_eq!(agent.next_exit().reason, ExitReason::LeaseExpired);
    assert!(!is_alive(pid));
}

#[test]
fn an_end_that_the_disk_refuses_is_still_told() {
    let mut task = Task::script("read line < go; exit 8");
    let go = task.folder.path().join("work/go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    fs::remove_dir_all(task.start_folder()).unwrap();
    fs::write(go, "now\n").unwrap();
    assert_eq!(agent.next_exit().code, Some(8));
    agent.send(&AgentMessage::Ack);
    assert_eq!(task.helper_code(), Some(0));
}
