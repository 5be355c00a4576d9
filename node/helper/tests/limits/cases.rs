//! The cases. Each makes the groups of its task as the agent does.

use crate::{
    HOG, HOG_ARGUMENTS, skip,
    support::{Agent, Task, wait_for},
};
use potluck_helper::{
    AgentMessage, ExitReason, HelperMessage, TaskExit,
    group::{Controller, DeviceLimit, Hierarchies, Limits, TaskGroup, Version},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

const MIB: u64 = 1 << 20;

/// Groups that end with all in them.
struct Groups(TaskGroup);

impl Groups {
    /// With these limits; nothing where the host has no such groups.
    fn make(needed: &[Controller], limits: &Limits) -> Option<Groups> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("potluck-test/{}-{count}", std::process::id());
        let (group, _) = Hierarchies::detect().create(Path::new(&name));
        let groups = Groups(group);
        for controller in needed {
            if groups.0.place(*controller).is_none() {
                skip(&format!("needs the controller {}", controller.name()));
                return None;
            }
            assert_eq!(groups.0.set_one(*controller, limits), [""; 0]);
        }
        Some(groups)
    }

    fn file(&self, controller: Controller, v1: &str, v2: &str) -> PathBuf {
        let place = self.0.place(controller).unwrap();
        place.folder.join(match place.version {
            Version::V1 => v1,
            Version::V2 => v2,
        })
    }

    fn read(&self, controller: Controller, v1: &str, v2: &str) -> String {
        let path = self.file(controller, v1, v2);
        let text = fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn number(&self, controller: Controller, v1: &str, v2: &str, word: &str) -> u64 {
        let text = self.read(controller, v1, v2);
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let line = lines.find(|(found, _)| *found == word);
        line.unwrap_or_else(|| panic!("{word} in {text}"))
            .1
            .parse()
            .unwrap()
    }

    fn processes(&self) -> usize {
        let lists = self.0.procs().into_iter();
        let counts = lists.map(|path| fs::read_to_string(path).unwrap().lines().count());
        counts.max().unwrap_or(0)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for folder in self.0.folders() {
            wait_for("an empty control group", || match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => None,
                _ => Some(()),
            });
            // Goes with the last test of this program.
            let _ = fs::remove_dir(folder.parent().unwrap());
        }
    }
}

/// This program in a sandbox, using up something.
fn hog(what: &str, groups: &Groups, limits: &Limits) -> Task {
    let mut task = Task::script("true");
    let program = task.folder.path().join("package/bin/hog");
    let own = std::env::current_exe().unwrap();
    fs::hard_link(&own, &program)
        .or_else(|_| fs::copy(&own, &program).map(drop))
        .unwrap();
    let description = &mut task.description;
    description.command = "bin/hog".into();
    description.args = HOG_ARGUMENTS.map(String::from).to_vec();
    description.env.insert(HOG.into(), what.into());
    description.cgroup_procs = groups.0.procs();
    description.kill_group = groups.0.unified.clone();
    description.group = groups.0.clone();
    description.memory_bytes = limits.memory_bytes;
    description.memory_watch = groups.0.memory_watch(limits);
    description.stop.grace_ms = 10_000;
    task
}

fn says(task: &Task, line: &str) -> bool {
    task.texts().iter().any(|text| text.ends_with(line))
}

fn memory(bytes: u64) -> Limits {
    Limits {
        memory_bytes: Some(bytes),
        ..Limits::default()
    }
}

/// Runs into a limit of 64 MiB. How it ended, and whether in order.
fn out_of_memory(what: &str) -> Option<(TaskExit, bool)> {
    let limits = memory(64 * MIB);
    let groups = Groups::make(&[Controller::Memory], &limits)?;
    let mut task = hog(what, &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let exit = agent.next_exit();
    println!("{what}: {exit:?} {:?}", task.texts());
    assert_eq!(exit.reason, ExitReason::MemoryLimit, "{exit:?}");
    agent.send(&AgentMessage::Ack);
    task.helper_code();
    let in_order = says(&task, "in order");
    drop(task);
    Some((exit, in_order))
}

fn ends_in_order(what: &str) {
    let Some((exit, in_order)) = out_of_memory(what) else {
        return;
    };
    let note = exit.note.clone().unwrap_or_default();
    assert!(note.contains("limit 64 MiB"), "{exit:?}");
    assert_eq!((exit.code, in_order), (Some(0), true), "{exit:?}");
}

pub(crate) fn memory_anonymous() {
    ends_in_order("anonymous");
}

/// Four together may fill the room before one of them hears that it should end:
/// how it ends is open, why is not.
pub(crate) fn memory_of_threads() {
    if let Some((exit, _)) = out_of_memory("threads") {
        let note = exit.note.clone().unwrap_or_default();
        assert!(note.contains("limit 64 MiB"), "{exit:?}");
    }
}

pub(crate) fn memory_read() {
    ends_in_order("read");
}

pub(crate) fn memory_in_files() {
    ends_in_order("files");
}

pub(crate) fn memory_in_files_beside_a_program() {
    ends_in_order("files_beside_a_program");
}

/// What needs far more than there is has no room to end in.
pub(crate) fn memory_at_once() {
    if let Some((exit, _)) = out_of_memory("at_once") {
        assert!(
            exit.memory_peak_bytes.is_none_or(|peak| peak < 192 * MIB),
            "{exit:?}"
        );
    }
}

pub(crate) fn a_full_cache_is_no_reason() {
    let limits = memory(32 * MIB);
    let Some(groups) = Groups::make(&[Controller::Memory], &limits) else {
        return;
    };
    let mut task = hog("cache", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let exit = agent.next_exit();
    assert_eq!(
        (exit.code, exit.reason),
        (Some(0), ExitReason::Exited),
        "{exit:?}"
    );
    // The case is one only if the limit was met.
    let failed = match groups.0.place(Controller::Memory).unwrap().version {
        Version::V1 => groups
            .read(Controller::Memory, "memory.failcnt", "")
            .trim()
            .parse(),
        Version::V2 => Ok(groups.number(Controller::Memory, "", "memory.events", "high")),
    };
    assert!(failed.unwrap() > 0);
}

/// Two that want the same core: the one with nine times the request gets more.
pub(crate) fn cpu_shares() {
    let of = |cpu_request_millis| Limits {
        cpu_request_millis,
        ..Limits::default()
    };
    let limits = [of(900), of(100)];
    let mut running = Vec::new();
    for limits in &limits {
        let Some(groups) = Groups::make(&[Controller::Cpu], limits) else {
            return;
        };
        if groups.0.usage().cpu_us.is_none() {
            return skip("needs the unified hierarchy, for CPU time");
        }
        let mut task = hog("spin", &groups, limits);
        let mut agent = Agent::listen(&task, 1);
        task.start_by(pin);
        agent.running();
        running.push((task, groups, agent));
    }
    let used = |at: usize| running[at].1.0.usage().cpu_us.unwrap();
    let before = [used(0), used(1)];
    // Long against the time slices of the kernel.
    wait_for("CPU time", || (used(1) - before[1] > 150_000).then_some(()));
    let (more, less) = (used(0) - before[0], used(1) - before[1]);
    assert!(more > 2 * less, "{more} and {less} µs");
}

/// On one core, and what it starts too.
fn pin(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let mut set = nix::sched::CpuSet::new();
    set.set(0).unwrap();
    let pinned = move || {
        Ok(nix::sched::sched_setaffinity(
            nix::unistd::Pid::from_raw(0),
            &set,
        )?)
    };
    // SAFETY: one system call.
    unsafe { command.pre_exec(pinned) };
}

pub(crate) fn cpu_quota_holds_back() {
    let limits = Limits {
        cpu_request_millis: 100,
        cpu_quota_millis: Some(200),
        cpu_burst_millis: Some(100),
        ..Limits::default()
    };
    let Some(groups) = Groups::make(&[Controller::Cpu], &limits) else {
        return;
    };
    let found = groups.read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
    assert!(found.starts_with("20000"), "{found}");
    let found = groups.read(Controller::Cpu, "cpu.cfs_burst_us", "cpu.max.burst");
    assert_eq!(found.trim(), "10000");
    let mut task = hog("spin", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    wait_for("a quota that is used up", || {
        (groups.0.usage().throttled_us? > 0).then_some(())
    });
}

/// A disk of this host, or a part of its memory as one.
fn disk() -> Option<(u32, u32)> {
    let mut disks: Vec<_> = fs::read_dir("/sys/block").ok()?.flatten().collect();
    disks.sort_by_key(fs::DirEntry::file_name);
    let mut numbers = disks.iter().filter_map(|disk| {
        let text = fs::read_to_string(disk.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    // Seven is a loop device, which may stand for no disk.
    numbers.find(|(major, _)| *major != 7)
}

pub(crate) fn disks_are_limited() {
    let Some((major, minor)) = disk() else {
        return skip("needs a disk");
    };
    let device = DeviceLimit {
        major,
        minor,
        read_bytes_per_s: Some(8 * MIB),
        write_ops_per_s: Some(1_000),
        ..DeviceLimit::default()
    };
    let limits = Limits {
        devices: vec![device],
        ..Limits::default()
    };
    let Some(groups) = Groups::make(&[Controller::Io], &limits) else {
        return;
    };
    let found = groups.read(Controller::Io, "blkio.throttle.read_bps_device", "io.max");
    assert!(found.contains(&format!("{major}:{minor} ")), "{found}");
    assert!(found.contains(&(8 * MIB).to_string()), "{found}");
    let found = groups.read(Controller::Io, "blkio.throttle.write_iops_device", "io.max");
    assert!(found.contains("1000"), "{found}");
    // And taken back.
    assert_eq!(
        groups.0.set_one(Controller::Io, &Limits::default()),
        [""; 0]
    );
    let found = groups.read(Controller::Io, "blkio.throttle.read_bps_device", "io.max");
    assert!(!found.contains(&format!("{major}:{minor} ")), "{found}");
    // No such device: said, not passed over.
    let nowhere = Limits {
        devices: vec![DeviceLimit {
            major: 4_000,
            ..device
        }],
        ..Limits::default()
    };
    assert_eq!(groups.0.set_one(Controller::Io, &nowhere).len(), 1);
    let weighted = [
        "io.bfq.weight",
        "io.weight",
        "blkio.bfq.weight",
        "blkio.weight",
    ];
    let folder = &groups.0.place(Controller::Io).unwrap().folder;
    let has = weighted.iter().any(|file| folder.join(file).exists());
    let limits = Limits {
        io_weight: Some(250),
        ..Limits::default()
    };
    let told = groups.0.set_one(Controller::Io, &limits);
    assert_eq!(told.is_empty(), has, "{told:?}");
}

pub(crate) fn processes_are_limited() {
    let limits = Limits {
        pids: Some(40),
        ..Limits::default()
    };
    let Some(groups) = Groups::make(&[Controller::Pids], &limits) else {
        return;
    };
    let mut task = hog("processes", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    wait_for("the limit", || says(&task, "full").then_some(()));
    assert_eq!(groups.0.usage().pids, Some(40));
    agent.send(&AgentMessage::Kill);
    assert_eq!(agent.next_exit().reason, ExitReason::Killed);
    assert_eq!(groups.processes(), 0);
}

pub(crate) fn a_kill_takes_all() {
    let limits = Limits {
        pids: Some(500),
        ..Limits::default()
    };
    let Some(groups) = Groups::make(&[Controller::Pids], &limits) else {
        return;
    };
    let mut task = hog("processes", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    wait_for("500 processes", || says(&task, "full").then_some(()));
    assert!(groups.processes() > 490);
    agent.send(&AgentMessage::Kill);
    assert_eq!(agent.next_exit().reason, ExitReason::Killed);
    assert_eq!(groups.processes(), 0);
}

pub(crate) fn frozen_is_still() {
    let limits = Limits::default();
    let Some(groups) = Groups::make(&[], &limits) else {
        return;
    };
    if groups.0.unified.is_none() {
        return skip("needs the unified hierarchy, for freezing");
    }
    let mut task = hog("count", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let count = || task.texts().len();
    wait_for("a count", || (count() > 10).then_some(()));
    groups.0.freeze(true).unwrap();
    wait_for("stillness", || groups.0.is_frozen().then_some(()));
    // What it had said is taken; then there is nothing more.
    let pings = agent.pings;
    let seen = |agent: &mut Agent, more: u32| {
        let wanted = agent.pings + more;
        while agent.pings < wanted {
            agent.answer_ping();
        }
        count()
    };
    let before = seen(&mut agent, 2);
    assert_eq!(seen(&mut agent, 2), before, "since {pings} pings");
    groups.0.freeze(false).unwrap();
    wait_for("more", || (count() > before).then_some(()));
    // A kill reaches what is frozen.
    groups.0.freeze(true).unwrap();
    wait_for("stillness", || groups.0.is_frozen().then_some(()));
    agent.send(&AgentMessage::Kill);
    assert_eq!(agent.next_exit().reason, ExitReason::Killed);
}

pub(crate) fn usage_is_told() {
    let limits = Limits {
        memory_bytes: Some(64 * MIB),
        pids: Some(100),
        ..Limits::default()
    };
    let needed = [Controller::Memory, Controller::Pids];
    let Some(groups) = Groups::make(&needed, &limits) else {
        return;
    };
    let mut task = hog("spin", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    wait_for("CPU time", || {
        groups
            .0
            .usage()
            .cpu_us
            .is_none_or(|us| us > 50_000)
            .then_some(())
    });
    let usage = groups.0.usage();
    println!("{usage:?}");
    let memory = usage.memory_bytes.unwrap();
    assert!((64 << 10..64 * MIB).contains(&memory), "{usage:?}");
    assert!((1..100).contains(&usage.pids.unwrap()), "{usage:?}");
    if in_the_machine() {
        assert!(
            usage.cpu_us.is_some() && usage.pressure.is_some(),
            "{usage:?}"
        );
        assert!(usage.read_bytes.is_some(), "{usage:?}");
    }
}

fn in_the_machine() -> bool {
    std::env::var_os(crate::MACHINE).is_some()
}

pub(crate) fn limits_change_while_it_runs() {
    let limits = Limits {
        cpu_request_millis: 100,
        memory_bytes: Some(512 * MIB),
        pids: Some(500),
        ..Limits::default()
    };
    let needed = [Controller::Cpu, Controller::Memory, Controller::Pids];
    let Some(groups) = Groups::make(&needed, &limits) else {
        return;
    };
    let mut task = hog("when_let", &groups, &limits);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    let mut set = |limits: Limits| {
        agent.send(&AgentMessage::SetLimits(limits));
        match agent.next() {
            HelperMessage::LimitsSet { refused } => refused,
            other => panic!("{other:?}"),
        }
    };
    let new = Limits {
        cpu_request_millis: 1_000,
        cpu_quota_millis: Some(800),
        memory_bytes: Some(64 * MIB),
        pids: Some(90),
        ..Limits::default()
    };
    // Up and down, with the burst beside the quota.
    let burst = Limits {
        cpu_burst_millis: Some(800),
        memory_bytes: Some(256 * MIB),
        ..new.clone()
    };
    let less = Limits {
        cpu_quota_millis: Some(100),
        cpu_burst_millis: Some(50),
        ..burst.clone()
    };
    for limits in [burst, less, new] {
        assert_eq!(set(limits), [""; 0]);
    }
    let read = |controller, v1, v2| groups.read(controller, v1, v2).trim().to_owned();
    assert!(read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max").starts_with("80000"));
    assert_eq!(read(Controller::Pids, "pids.max", "pids.max"), "90");
    let found = read(Controller::Memory, "memory.limit_in_bytes", "memory.high");
    assert_eq!(found, (64 * MIB).to_string());
    // The same process, and the new limit is the one that it runs into.
    assert!(crate::support::is_alive(pid));
    fs::write(task.description.task_folder.join("go"), "").unwrap();
    let exit = agent.next_exit();
    assert_eq!(exit.reason, ExitReason::MemoryLimit, "{exit:?}");
    assert!(
        exit.note.clone().unwrap().contains("limit 64 MiB"),
        "{exit:?}"
    );
}

/// An hour forth and two back, while the lease is three seconds.
pub(crate) fn the_clock_ends_no_lease() {
    assert!(in_the_machine(), "it sets the clock");
    let limits = Limits::default();
    let groups = Groups::make(&[], &limits).unwrap();
    let mut task = hog("count", &groups, &limits);
    task.description.lease_ms = 4_000;
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    for hours in [1, -2, 1] {
        let clock = nix::time::ClockId::CLOCK_REALTIME;
        let now = nix::time::clock_gettime(clock).unwrap();
        let moved = nix::sys::time::TimeSpec::new(now.tv_sec() + hours * 3_600, now.tv_nsec());
        nix::time::clock_settime(clock, moved).unwrap();
        // More than a lease, ping by ping.
        for _ in 0..6 {
            agent.answer_ping();
        }
    }
    assert_eq!(task.record(), None, "it runs");
    // And without answers it ends, so that there was a lease.
    agent.answers_pings = false;
    let exit = task.recorded_exit();
    assert_eq!(exit.reason, ExitReason::LeaseExpired, "{exit:?}");
}
