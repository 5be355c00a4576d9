//! Tries to get out of a sandbox in many ways: with the usual profile, with
//! the strict one, as root and as an ordinary user.
//!
//! This program is also the one that tries: in a task it is run with the name
//! of a case in its environment, and with "all" it runs itself for each.

mod cases;
#[path = "../support/mod.rs"]
mod support;

use cases::{Bites, CASES, Case};
use nix::libc;
use potluck_helper::{
    TaskEnd,
    description::{Isolation, Mounted, MountedFrom, Profile, WrittenFile},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, chown, symlink},
            net::{SocketAddr, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};
use support::{Agent, Task, is_root, skip, users_may_have_namespaces, wait_for};

/// The variable that names the case.
const ATTEMPT: &str = "POTLUCK_ATTEMPT";
/// Run all cases, one process each.
const ALL: &str = "all";
/// Not a case: what a set-uid program is asked.
const AM_I_ROOT: &str = "am_i_root";
/// How this program is told to be the one that tries.
const ARGUMENTS: [&str; 4] = ["attempt", "--exact", "--nocapture", "--test-threads=1"];
/// Descriptors that a careless agent leaves open, above what programs open.
const LEAKED_FILE: i32 = 200;
const LEAKED_FOLDER: i32 = 201;

/// Exit codes of a case.
const ESCAPED: i32 = 42;
const HELD: i32 = 43;

const NOBODY: u32 = 65_534;

/// Not a test: what runs in the sandbox.
#[test]
fn attempt() {
    let Ok(name) = std::env::var(ATTEMPT) else {
        return;
    };
    if name == AM_I_ROOT {
        std::process::exit(i32::from(cases::am_i_root().is_err()));
    }
    if name == ALL {
        CASES
            .iter()
            .for_each(|case| println!("{}", in_own_process(case)));
        std::process::exit(0);
    }
    let case = CASES.iter().find(|case| case.name == name).unwrap();
    let attempt = (case.attempt)();
    println!("{attempt:?}");
    std::process::exit(if attempt.is_ok() { ESCAPED } else { HELD });
}

fn in_own_process(case: &Case) -> String {
    let output = Command::new("/proc/self/exe")
        .args(ARGUMENTS)
        .env(ATTEMPT, case.name)
        .output();
    match output.map(|output| (output.status.code(), output.stdout)) {
        Ok((Some(HELD), _)) => format!("{} held", case.name),
        Ok((Some(ESCAPED), _)) => format!("{} escaped", case.name),
        Ok((code, text)) => format!(
            "{} broke with {code:?}: {}",
            case.name,
            String::from_utf8_lossy(&text).replace('\n', " ")
        ),
        Err(error) => format!("{} broke: {error}", case.name),
    }
}

/// What there is outside, for a task to reach for.
struct World {
    folder: tempfile::TempDir,
    told: BTreeMap<String, String>,
    sleeper: Child,
    _abstract: UnixListener,
    _socket: UnixListener,
    shared: (i32, String),
}

impl World {
    /// Owned by whoever the task runs as: no mere permission may save it.
    fn make(uid: u32) -> World {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["canary", "other-task"] {
            fs::write(at(name), "secret").unwrap();
        }
        // Tests run at the same time.
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let unique = format!("potluck-escape-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(&unique).unwrap();
        let mut sleeper = Command::new("sleep");
        sleeper
            .arg("1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if is_root() {
            sleeper.uid(uid).gid(uid);
        }
        let sleeper = sleeper.spawn().unwrap();
        fs::write(format!("/dev/shm/{unique}"), "secret").unwrap();
        cases::make_queue(&std::ffi::CString::new(unique.as_str()).unwrap());
        let key = (std::process::id() << 4 | number) as i32;
        // SAFETY: integers.
        let segment = unsafe { libc::shmget(key, 4_096, libc::IPC_CREAT | 0o666) };
        let told = [
            ("CANARY", at("canary")),
            ("OTHER_TASK", at("other-task")),
            ("SOCKET", at("socket")),
            ("ABSTRACT", unique.clone()),
            ("PROCESS_1", "1".into()),
            ("HOST_PID", sleeper.id().to_string()),
            ("SHARED_KEY", key.to_string()),
            ("SHARED_NAME", unique.clone()),
            ("DISK", cases::disk_of(folder.path()).to_string()),
        ];
        let world = World {
            told: told.map(|(name, value)| (name.into(), value)).into(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            _socket: UnixListener::bind(at("socket")).unwrap(),
            sleeper,
            shared: (segment, unique),
            folder,
        };
        if is_root() {
            for entry in fs::read_dir(world.folder.path()).unwrap() {
                chown(entry.unwrap().path(), Some(uid), Some(uid)).unwrap();
            }
        }
        world
    }

    /// Puts this program, a way out and what it is told into a task.
    fn fill(&self, task: &mut Task) {
        let program = task.folder.path().join("package/bin/attempt");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let out = task.folder.path().join("package/out");
        symlink(&self.told["CANARY"], out).unwrap();
        task.description.command = "bin/attempt".into();
        task.description.args = ARGUMENTS.map(String::from).to_vec();
        task.description.env.extend(self.told.clone());
        task.description.env.insert(ATTEMPT.into(), ALL.into());
    }

    /// Leaves descriptors open, as a careless agent would.
    fn leak(&self, command: &mut Command) {
        let file = File::open(&self.told["CANARY"]).unwrap();
        let folder = File::open(self.folder.path()).unwrap();
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(move || {
                libc::dup2(file.as_raw_fd(), LEAKED_FILE);
                libc::dup2(folder.as_raw_fd(), LEAKED_FOLDER);
                Ok(())
            })
        };
    }

    /// What a case does without any sandbox.
    fn outside(&self, case: &Case, task: &Task, uid: u32) -> Option<i32> {
        let mut command = Command::new(task.folder.path().join("package/bin/attempt"));
        command
            .args(ARGUMENTS)
            .envs(&self.told)
            .env("PROCESS_1", &self.told["HOST_PID"])
            .env(ATTEMPT, case.name)
            .env("POTLUCK_PACKAGE", &task.description.package)
            .env("POTLUCK_TASK_DIR", &task.description.task_folder)
            .stdout(Stdio::null());
        self.leak(&mut command);
        if is_root() {
            command.uid(uid).gid(uid);
        }
        command.status().unwrap().code()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.sleeper.kill();
        let _ = self.sleeper.wait();
        let (segment, name) = &self.shared;
        let _ = fs::remove_file(format!("/dev/shm/{name}"));
        let name = std::ffi::CString::new(name.as_str()).unwrap();
        // SAFETY: an identifier, and a name that ends with zero.
        unsafe {
            libc::shmctl(*segment, libc::IPC_RMID, std::ptr::null_mut());
            libc::syscall(libc::SYS_mq_unlink, name.as_ptr());
        }
    }
}

/// Runs all cases in a task and says how each ended.
fn inside(task: &mut Task, world: &World, uid: u32) -> BTreeMap<String, String> {
    let _agent = Agent::listen(task, 1);
    match is_root() && uid != 0 {
        true => task.start_as(uid, |command| world.leak(command)),
        false => task.start_by(|command| world.leak(command)),
    }
    let end = wait_for("the end of all attempts", || task.record()).end;
    let texts = task.texts();
    assert!(
        matches!(&end, TaskEnd::Exited(exit) if exit.code == Some(0)),
        "{end:?}: {texts:?}"
    );
    // The test runner begins a line of its own.
    let ended = texts
        .iter()
        .map(|line| line.strip_prefix("test attempt ... ").unwrap_or(line))
        .filter_map(|line| line.split_once(' '));
    ended
        .map(|(name, how)| (name.to_owned(), how.to_owned()))
        .collect()
}

fn all_are_held(profile: Profile, uid: u32) {
    let world = World::make(uid);
    let mut task = Task::script("");
    world.fill(&mut task);
    task.description.profile = profile;
    task.description.isolation = Isolation::of(profile, true);
    let ended = inside(&mut task, &world, uid);
    assert_held(&ended, &format!("{profile:?} as {uid}"));
}

fn assert_held(ended: &BTreeMap<String, String>, who: &str) {
    let not_held: Vec<_> = CASES
        .iter()
        .map(|case| (case.name, ended.get(case.name).map(String::as_str)))
        .filter(|(_, how)| *how != Some("held"))
        .collect();
    assert!(not_held.is_empty(), "{who}: {not_held:#?}");
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[test]
fn nothing_gets_out() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    all_are_held(Profile::Default, own_uid());
}

#[test]
fn nothing_gets_out_of_a_strict_sandbox() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    all_are_held(Profile::Strict, own_uid());
}

#[test]
fn nothing_gets_out_for_an_ordinary_user() {
    if !is_root() {
        return skip("runs as an ordinary user anyway");
    }
    if !users_may_have_namespaces() {
        return skip("needs user namespaces for an ordinary user");
    }
    all_are_held(Profile::Default, NOBODY);
    all_are_held(Profile::Strict, NOBODY);
}

#[test]
fn nothing_gets_out_when_root_runs_a_task_as_another() {
    if !is_root() {
        return skip("needs root");
    }
    let world = World::make(NOBODY);
    let mut task = Task::script("");
    world.fill(&mut task);
    let ids = potluck_helper::description::UserIds {
        uid: NOBODY,
        gid: NOBODY,
    };
    task.description.user = Some(ids);
    let ended = inside(&mut task, &world, 0);
    assert_held(&ended, "as another");
}

/// What is held would work without a sandbox, or it proves nothing.
#[test]
fn the_attempts_work_without_a_sandbox() {
    let root = is_root();
    if !users_may_have_namespaces() {
        return skip("needs user namespaces for an ordinary user");
    }
    let users: &[u32] = match root {
        true => &[0, NOBODY],
        false => &[own_uid()],
    };
    for uid in users {
        let world = World::make(*uid);
        let mut task = Task::script("");
        world.fill(&mut task);
        fs::set_permissions(task.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if root {
            task.give_to(*uid);
        }
        let bites = |case: &&Case| match case.bites {
            Bites::Always => true,
            Bites::AsRoot => *uid == 0,
            Bites::Perhaps | Bites::NotTried => false,
        };
        let toothless: Vec<_> = CASES
            .iter()
            .filter(bites)
            .map(|case| (case.name, world.outside(case, &task, *uid)))
            .filter(|(_, code)| *code != Some(ESCAPED))
            .collect();
        assert!(toothless.is_empty(), "as {uid}: {toothless:#?}");
    }
}

#[test]
fn there_are_many_ways_to_try() {
    assert!(CASES.len() >= 40);
    let untried = CASES.iter().filter(|case| case.bites == Bites::NotTried);
    assert!(untried.count() <= 5, "what is not shown to bite is little");
}

/// A task whose folder an earlier start has filled with links.
fn task_with_links(to: &Path) -> Task {
    let task = Task::script("exit 0");
    symlink(to, task.folder.path().join("work/data")).unwrap();
    task
}

fn end_of(task: &mut Task) -> TaskEnd {
    task.start();
    wait_for("the record", || task.record()).end
}

#[test]
fn a_mount_through_a_link_stays_in_the_task() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let outside = tempfile::tempdir().unwrap();
    for target in ["/task/data", "/task/data/new", "/task/data/a/b"] {
        let mut task = task_with_links(outside.path());
        task.description.mounts = vec![Mounted {
            at: target.into(),
            from: MountedFrom::Memory { bytes: 0 },
            read_only: false,
        }];
        task.description.files = vec![WrittenFile {
            path: format!("{target}/file"),
            contents: "x".into(),
            mode: 0o644,
        }];
        let _ = end_of(&mut task);
        let found: Vec<PathBuf> = fs::read_dir(outside.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(found.is_empty(), "{target}: {found:?}");
    }
}

#[test]
fn a_file_is_not_written_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let mut task = task_with_links(&victim);
    task.description.files = vec![WrittenFile {
        path: "data".into(),
        contents: "overwritten".into(),
        mode: 0o777,
    }];
    let _ = end_of(&mut task);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn places_outside_are_refused_by_name() {
    for at in ["/../etc", "relative", "/a/../../b", "/"] {
        let mut task = Task::script("exit 0");
        task.description.mounts = vec![Mounted {
            at: at.into(),
            from: MountedFrom::Memory { bytes: 0 },
            read_only: false,
        }];
        let TaskEnd::NotStarted { why, .. } = end_of(&mut task) else {
            panic!("{at} was mounted");
        };
        assert!(why.contains(&format!("{at:?}")), "{why}");
    }
}

#[test]
fn a_strict_task_has_no_network_but_its_own() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    if !Path::new("/usr/bin/perl").exists() {
        return skip("needs perl, to connect from a script");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "cat /proc/net/dev | grep -c :; \
         perl -e 'use IO::Socket::INET; \
                  print IO::Socket::INET->new(\"127.0.0.1:{port}\") ? \"reached\" : \"alone\", \"\\n\"'; \
         touch /anything 2>/dev/null && echo wrote; touch /task/mine && echo kept"
    );
    for (profile, wanted) in [
        (Profile::Strict, vec!["1", "alone", "kept"]),
        (Profile::Default, vec!["reached", "wrote", "kept"]),
    ] {
        let mut task = Task::script(&script);
        task.description.profile = profile;
        task.description.isolation = Isolation::of(profile, false);
        let end = end_of(&mut task);
        assert!(matches!(end, TaskEnd::Exited(_)), "{end:?}");
        let mut texts = task.texts();
        if profile == Profile::Default {
            texts.remove(0);
        }
        assert_eq!(texts, wanted, "{profile:?}");
    }
}

/// A group of the pids controller, removed again.
struct PidsGroup(PathBuf);

impl PidsGroup {
    fn make(max: u32) -> Option<PidsGroup> {
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .iter()
            .find_map(|root| {
                let path = Path::new(root).join(format!("potluck-escape-{}", std::process::id()));
                fs::create_dir(&path).ok()?;
                let group = PidsGroup(path);
                fs::write(group.0.join("pids.max"), max.to_string()).ok()?;
                Some(group)
            })
    }
}

impl Drop for PidsGroup {
    fn drop(&mut self) {
        wait_for("an empty control group", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn a_fork_bomb_ends_at_its_limit_and_dies_with_the_task() {
    const PIDS: u32 = 40;
    let Some(group) = PidsGroup::make(PIDS) else {
        return skip("needs the pids controller");
    };
    let bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null; echo armed; exec sleep 1000";
    let mut task = Task::script(bomb);
    task.description.cgroup_procs = vec![group.0.join("cgroup.procs")];
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let current = || -> u32 {
        let text = fs::read_to_string(group.0.join("pids.current")).unwrap();
        text.trim().parse().unwrap()
    };
    let refused = || {
        let text = fs::read_to_string(group.0.join("pids.events")).unwrap();
        (!text.starts_with("max 0")).then_some(())
    };
    wait_for("a refused fork", refused);
    assert!(current() <= PIDS);
    agent.send(&potluck_helper::AgentMessage::Kill);
    agent.next_exit();
    assert_eq!(current(), 0, "nobody is left");
}
