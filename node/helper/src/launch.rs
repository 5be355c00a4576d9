//! From a description to a running init: everything that may allocate or fail
//! for an ordinary reason happens here, before the clone, so that only system
//! calls follow it.
//!
//! It answers for namespaces too: which of the wanted ones the host grants,
//! and which are missing. The steps inside the sandbox are in
//! [`crate::init`].

use crate::{
    description::{Hook, IfMissing, Profile, TaskDescription, UserIds},
    init,
    inner::Inner,
    protocol::MissingIsolation,
    sandbox::{self, Confinement, PACKAGE_AT, SandboxError, TASK_FOLDER_AT, root::RootPlan},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt::PassCred},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, getegid, geteuid, pipe2},
};
use potluck_specs::Millis;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ffi::{CString, NulError, c_char, c_int},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Component, Path, PathBuf},
    ptr,
};

/// Name of the variable that tells a task where its package is.
pub const PACKAGE_VARIABLE: &str = "POTLUCK_PACKAGE";

/// Name of the variable that tells a task where its own folder is.
pub const TASK_FOLDER_VARIABLE: &str = "POTLUCK_TASK_DIR";

/// Wanted size of the pipes for a task's output: a task that prints in bursts
/// does not wait for the disk. The kernel gives 64 KiB where the user has
/// used up what all pipes may take.
pub(crate) const PIPE_BYTES: c_int = 1 << 20;

/// Longest host name (`HOST_NAME_MAX`).
const HOST_NAME_BYTES_MAX: usize = 64;

/// Time by which init's own lease is longer than the helper's: it is the
/// second watcher, for a helper that is stopped.
pub(crate) const INIT_LEASE_EXTRA_MS: u64 = 2_000;

/// A task that can't be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// A text that no program can be given.
    #[error("a zero byte in the {what}")]
    ZeroByte {
        what: &'static str,
        source: NulError,
    },
    /// The command leaves the package.
    #[error("command {command:?} has \"..\" in it")]
    CommandOutside { command: String },
    /// Paths are relative to nothing here.
    #[error("{what} {path} is not absolute")]
    Relative { what: &'static str, path: PathBuf },
    /// A file that the start needs.
    #[error("{path} can't be opened")]
    Open { path: PathBuf, source: io::Error },
    /// Only root may run tasks as others.
    #[error("not running as root, so the task can't run as user {uid}")]
    User { uid: u32 },
    /// A number that is no user.
    #[error("{0}:{1} is no user and group: 4294967295 means nobody in particular")]
    NoSuchUser(u32, u32),
    /// A pipe, a socket, or a process.
    #[error("{what} can't be made")]
    Kernel { what: &'static str, source: Errno },
    /// What the task would see and be able to do.
    #[error("its sandbox can't be prepared")]
    Sandbox(#[from] SandboxError),
    /// Its folder can't be given to its user.
    #[error("{path} can't be given to the task's user")]
    Give { path: PathBuf, source: io::Error },
    /// Its mounts and files have no place to be.
    #[error(
        "its mounts, files and further packages need a root of its own, which it can't have here"
    )]
    NoRoot,
    /// The host forbids what the description insists on.
    #[error("this host forbids a {kind} namespace: {why}")]
    Forbidden { kind: String, why: String },
}

/// A sandbox with its init.
pub(crate) struct Launched {
    pub(crate) pidfd: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) out: OwnedFd,
    pub(crate) err: OwnedFd,
    /// `cgroup.kill` of the task's group.
    pub(crate) kill_group: Option<File>,
    pub(crate) missing: Vec<MissingIsolation>,
    /// Steps of the task's root, by their numbers.
    pub(crate) root_labels: Vec<String>,
    /// It was to get a root of its own.
    pub(crate) has_root: bool,
    /// Those that were made for the task, for sessions to join.
    pub(crate) namespaces: Result<Vec<Namespace>, Errno>,
}

/// A namespace of a task. Held as a descriptor, so that it is joined whatever
/// becomes of its processes' ids.
pub(crate) struct Namespace {
    pub(crate) flag: c_int,
    pub(crate) file: File,
}

/// A sandbox between two programs of its helper ([`crate::resume`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedLaunched {
    pidfd: RawFd,
    control: RawFd,
    out: RawFd,
    err: RawFd,
    kill_group: Option<RawFd>,
    root_labels: Vec<String>,
    has_root: bool,
    /// Kinds, as the kernel's flags, and descriptors; or the kernel's word.
    namespaces: Result<Vec<(c_int, RawFd)>, i32>,
}

impl SavedLaunched {
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let namespaces = self.namespaces.iter().flatten().map(|(_, fd)| *fd);
        let all = [self.pidfd, self.control, self.out, self.err];
        all.into_iter()
            .chain(self.kill_group)
            .chain(namespaces)
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn sample() -> SavedLaunched {
        SavedLaunched {
            pidfd: 10,
            control: 11,
            out: 12,
            err: 13,
            kill_group: Some(14),
            root_labels: vec!["/usr".into()],
            has_root: true,
            namespaces: Ok(vec![(libc::CLONE_NEWPID, 15), (libc::CLONE_NEWNS, 16)]),
        }
    }
}

impl Launched {
    /// What another program needs to go on with it.
    pub(crate) fn save(&self) -> SavedLaunched {
        let namespaces = self.namespaces.as_ref().map(|all| {
            let pair = |one: &Namespace| (one.flag, one.file.as_raw_fd());
            all.iter().map(pair).collect()
        });
        SavedLaunched {
            pidfd: self.pidfd.as_raw_fd(),
            control: self.control.as_raw_fd(),
            out: self.out.as_raw_fd(),
            err: self.err.as_raw_fd(),
            kill_group: self.kill_group.as_ref().map(File::as_raw_fd),
            root_labels: self.root_labels.clone(),
            has_root: self.has_root,
            namespaces: namespaces.map_err(|errno| *errno as i32),
        }
    }

    /// Goes on with it.
    ///
    /// # Safety
    /// The descriptors are open and nobody else's.
    pub(crate) unsafe fn resume(saved: SavedLaunched) -> Launched {
        // SAFETY: as the caller says.
        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let namespace = |(flag, fd)| Namespace {
            flag,
            file: owned(fd).into(),
        };
        let namespaces = saved.namespaces.map_err(Errno::from_raw);
        Launched {
            pidfd: owned(saved.pidfd),
            control: owned(saved.control),
            out: owned(saved.out),
            err: owned(saved.err),
            kill_group: saved.kill_group.map(|fd| owned(fd).into()),
            missing: Vec::new(),
            root_labels: saved.root_labels,
            has_root: saved.has_root,
            namespaces: namespaces.map(|all| all.into_iter().map(namespace).collect()),
        }
    }
}

/// What init needs; made before the clone.
pub(crate) struct Plan {
    pub(crate) flags: c_int,
    /// With the host's paths, for a task that has no root of its own.
    pub(crate) outside: View,
    /// With those of its own root.
    pub(crate) inside: View,
    pub(crate) root: Option<RootPlan>,
    pub(crate) confinement: Option<Confinement>,
    /// Without a root something that was asked for would not be there.
    pub(crate) needs_root: bool,
    /// Whatever can't be had ends the start.
    pub(crate) refuse_missing: bool,
    /// Not even the usual is taken from it.
    pub(crate) unconfined: bool,
    /// Its view of control groups begins at its own.
    pub(crate) own_cgroups: bool,
    pub(crate) host_name: CString,
    pub(crate) user: Option<UserIds>,
    pub(crate) cgroups: Vec<File>,
    pub(crate) kill_group: Option<File>,
    pub(crate) null: File,
    pub(crate) lease_until: Millis,
    pub(crate) helper_control: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) helper_out: OwnedFd,
    pub(crate) out: OwnedFd,
    pub(crate) helper_err: OwnedFd,
    pub(crate) err: OwnedFd,
}

/// What is run, as one sees it from inside or outside of a root.
pub(crate) struct View {
    pub(crate) setup: Vec<Program>,
    pub(crate) task: Program,
    pub(crate) teardown: Vec<Program>,
    pub(crate) env: CStrings,
    pub(crate) folder: CString,
}

/// A command with its arguments.
pub(crate) struct Program {
    pub(crate) command: CString,
    pub(crate) args: CStrings,
    /// 0: as long as it likes.
    pub(crate) timeout_ms: u64,
}

/// Strings as `execve` wants them.
pub(crate) struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    pub(crate) fn new(strings: Vec<CString>) -> CStrings {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect();
        CStrings { strings, pointers }
    }

    /// The first, for people.
    pub(crate) fn first(&self) -> String {
        let first = self.strings.first();
        first.map_or_else(String::new, |one| one.to_string_lossy().into_owned())
    }

    /// An array that ends with a null pointer, valid as long as `self`.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// The kinds of namespaces, with their names for people, in the order in
/// which they are tried one by one.
const KINDS: [(c_int, &str); 6] = [
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWNS, "mount"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWNET, "network"),
];

/// Makes the sandbox and its init. `base` is a folder that nothing of the task
/// is in: its new root covers it while it is made.
pub(crate) fn launch(
    description: &TaskDescription,
    base: &Path,
    lease_until: Millis,
) -> Result<Launched, LaunchError> {
    let mut missing = Vec::new();
    let mut plan = prepare(description, lease_until, &mut missing)?;
    let (pid, pidfd) = clone_init(description, base, &mut plan, &mut missing)?;
    // Before `Go`: afterwards init lets nobody look at it.
    let namespaces = open_namespaces(pid, plan.flags);
    Inner::Go.send(plan.helper_control.as_raw_fd());
    let steps = plan.root.iter().flat_map(|root| &root.steps);
    Ok(Launched {
        pidfd,
        control: plan.helper_control,
        out: plan.helper_out,
        err: plan.helper_err,
        kill_group: plan.kill_group,
        missing,
        root_labels: steps.map(|step| step.label.clone()).collect(),
        has_root: plan.root.is_some(),
        namespaces,
    })
}

fn open_namespaces(pid: Pid, flags: c_int) -> Result<Vec<Namespace>, Errno> {
    let made = KINDS.iter().filter(|(flag, _)| flags & flag != 0);
    made.map(|(flag, kind)| {
        let name = match *kind {
            "mount" => "mnt",
            "network" => "net",
            kind => kind,
        };
        let file = File::open(format!("/proc/{pid}/ns/{name}"));
        let file = file.map_err(|error| Errno::try_from(error).unwrap_or(Errno::EIO))?;
        Ok(Namespace { flag: *flag, file })
    })
    .collect()
}

fn prepare(
    description: &TaskDescription,
    lease_until: Millis,
    missing: &mut Vec<MissingIsolation>,
) -> Result<Plan, LaunchError> {
    absolute("the task's folder", &description.task_folder)?;
    absolute("the package", &description.package)?;
    for layer in &description.layers {
        absolute("a further package", layer)?;
    }
    let user = user(description)?;
    if geteuid().is_root() {
        sandbox::give_folder(description).map_err(|source| LaunchError::Give {
            path: description.task_folder.clone(),
            source,
        })?;
    }
    let (helper_control, control) = control_sockets()?;
    let (helper_out, out) = output_pipe()?;
    let (helper_err, err) = output_pipe()?;
    let inside = (Path::new(PACKAGE_AT), Path::new(TASK_FOLDER_AT));
    Ok(Plan {
        flags: 0,
        outside: view(description, &description.package, &description.task_folder)?,
        inside: view(description, inside.0, inside.1)?,
        root: None,
        confinement: None,
        needs_root: !description.mounts.is_empty()
            || !description.files.is_empty()
            || !description.layers.is_empty(),
        refuse_missing: description.isolation.if_missing == IfMissing::Refuse,
        unconfined: description.profile == Profile::None,
        own_cgroups: description.isolation.cgroup,
        host_name: text("name", &host_name(description))?,
        user,
        cgroups: open_cgroups(description)?,
        kill_group: open_kill_group(description, missing),
        null: open_for_writing(Path::new("/dev/null"))?,
        lease_until: lease_until + Millis(INIT_LEASE_EXTRA_MS),
        helper_control,
        control,
        helper_out,
        out,
        helper_err,
        err,
    })
}

fn view(
    description: &TaskDescription,
    package: &Path,
    task_folder: &Path,
) -> Result<View, LaunchError> {
    // The agent named the task's folder as the host sees it.
    let outside = description.task_folder.to_string_lossy();
    let here = task_folder.to_string_lossy();
    let seen = |text: &String| text.replace(&*outside, &here);
    let args = |args: &[String]| -> Vec<String> { args.iter().map(seen).collect() };
    let hooks = |hooks: &[Hook]| {
        let hooks = hooks.iter();
        hooks
            .map(|hook| {
                let timeout_ms = hook.timeout_ms.max(1);
                program(package, &hook.command, &args(&hook.args), timeout_ms)
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let env = environment(description, package, task_folder)
        .iter()
        .map(|(name, value)| text("environment", &format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(View {
        setup: hooks(&description.setup)?,
        task: program(package, &description.command, &args(&description.args), 0)?,
        teardown: hooks(&description.teardown)?,
        env: CStrings::new(env),
        folder: text("task's folder", &task_folder.to_string_lossy())?,
    })
}

/// The task's environment, with where it sees its folders.
pub(crate) fn environment(
    description: &TaskDescription,
    package: &Path,
    task_folder: &Path,
) -> BTreeMap<String, String> {
    // The agent named the task's folder as the host sees it.
    let outside = description.task_folder.to_string_lossy();
    let here = task_folder.to_string_lossy();
    let env = description.env.iter();
    let mut env: BTreeMap<String, String> = env
        .map(|(name, value)| (name.clone(), value.replace(&*outside, &here)))
        .collect();
    for (name, value) in [
        (PACKAGE_VARIABLE, package),
        (TASK_FOLDER_VARIABLE, task_folder),
    ] {
        env.insert(name.into(), value.to_string_lossy().into_owned());
    }
    env
}

fn program(
    package: &Path,
    command: &str,
    args: &[String],
    timeout_ms: u64,
) -> Result<Program, LaunchError> {
    let command = resolve(package, command)?;
    let mut all = vec![command.clone()];
    for arg in args {
        all.push(text("arguments", arg)?);
    }
    Ok(Program {
        command,
        args: CStrings::new(all),
        timeout_ms,
    })
}

fn text(what: &'static str, text: &str) -> Result<CString, LaunchError> {
    CString::new(text).map_err(|source| LaunchError::ZeroByte { what, source })
}

fn absolute(what: &'static str, path: &Path) -> Result<(), LaunchError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(LaunchError::Relative {
        what,
        path: path.into(),
    })
}

/// The program: absolute on the host, or in the package and nowhere else.
fn resolve(package: &Path, command: &str) -> Result<CString, LaunchError> {
    let path = Path::new(command);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(LaunchError::CommandOutside {
            command: command.into(),
        });
    }
    // Joining an absolute path gives that path.
    text("command", &package.join(path).to_string_lossy())
}

/// `web-0`: what a task's own host name says in its logs.
pub(crate) fn host_name(description: &TaskDescription) -> String {
    let slot = &description.key.slot;
    let name = format!("{}-{}", slot.job.name, slot.index);
    name.chars()
        .filter(char::is_ascii)
        .take(HOST_NAME_BYTES_MAX)
        .collect()
}

pub(crate) fn user(description: &TaskDescription) -> Result<Option<UserIds>, LaunchError> {
    let own = geteuid();
    match description.user {
        // To setresuid(2) it means: leave it as it is.
        Some(user) if [user.uid, user.gid].contains(&u32::MAX) => {
            Err(LaunchError::NoSuchUser(user.uid, user.gid))
        }
        Some(user) if !own.is_root() && user.uid != own.as_raw() => {
            Err(LaunchError::User { uid: user.uid })
        }
        Some(user) if own.is_root() => Ok(Some(user)),
        _ => Ok(None),
    }
}

pub(crate) fn open_for_writing(path: &Path) -> Result<File, LaunchError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|source| LaunchError::Open {
        path: path.into(),
        source,
    })
}

/// Opened with the helper's rights: the kernel asks for those of whoever
/// opened the file, so the task needs none.
fn open_cgroups(description: &TaskDescription) -> Result<Vec<File>, LaunchError> {
    let paths = description.cgroup_procs.iter();
    paths.map(|path| open_for_writing(path)).collect()
}

fn open_kill_group(
    description: &TaskDescription,
    missing: &mut Vec<MissingIsolation>,
) -> Option<File> {
    let path = description.kill_group.as_ref()?.join("cgroup.kill");
    match OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(&path)
    {
        Ok(file) => Some(file),
        Err(error) => {
            missing.push(MissingIsolation {
                kind: "cgroup".into(),
                why: format!("{} can't be opened: {error}", path.display()),
            });
            None
        }
    }
}

/// The helper's end learns the sender's pid with each message.
fn control_sockets() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let fail = |source| LaunchError::Kernel {
        what: "a socket pair",
        source,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(fail)?;
    setsockopt(&ours, PassCred, &true).map_err(fail)?;
    Ok((ours, theirs))
}

fn output_pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let fail = |source| LaunchError::Kernel {
        what: "a pipe",
        source,
    };
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(fail)?;
    // Only a wish: the user's pipes may have used up what is allowed.
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(fail)?;
    Ok((read, write))
}

/// Clones init into all wanted namespaces, or into those that the host
/// grants.
fn clone_init(
    description: &TaskDescription,
    base: &Path,
    plan: &mut Plan,
    missing: &mut Vec<MissingIsolation>,
) -> Result<(Pid, OwnedFd), LaunchError> {
    let fail = |source| LaunchError::Kernel {
        what: "a process",
        source,
    };
    let mut wanted = wanted_flags(description);
    fit(plan, description, base, wanted)?;
    match clone_mapped(plan, wanted) {
        Ok(child) => return Ok(child),
        // Too many processes: nothing to do with namespaces.
        Err(CloneError::Clone(Errno::EAGAIN | Errno::ENOMEM)) => {
            return Err(fail(Errno::EAGAIN));
        }
        Err(CloneError::Clone(_)) => {}
        Err(CloneError::Map(error)) => {
            wanted &= !libc::CLONE_NEWUSER;
            missing.push(MissingIsolation {
                kind: "user".into(),
                why: format!("its ids can't be mapped: {error}"),
            });
        }
    }
    let granted = probe(wanted, missing);
    let refused = missing.iter().find(|one| one.kind != "cgroup");
    if let (IfMissing::Refuse, Some(refused)) = (description.isolation.if_missing, refused) {
        return Err(LaunchError::Forbidden {
            kind: refused.kind.clone(),
            why: refused.why.clone(),
        });
    }
    fit(plan, description, base, granted)?;
    clone_mapped(plan, granted).map_err(|error| match error {
        CloneError::Clone(errno) => fail(errno),
        CloneError::Map(_) => fail(Errno::EPERM),
    })
}

/// What depends on the namespaces that are made.
fn fit(
    plan: &mut Plan,
    description: &TaskDescription,
    base: &Path,
    flags: c_int,
) -> Result<(), LaunchError> {
    plan.root = sandbox::root_plan(description, base, flags)?;
    if plan.root.is_none() && plan.needs_root {
        return Err(LaunchError::NoRoot);
    }
    plan.confinement = sandbox::confinement(description, flags)?;
    Ok(())
}

enum CloneError {
    Clone(Errno),
    Map(io::Error),
}

fn clone_mapped(plan: &mut Plan, flags: c_int) -> Result<(Pid, OwnedFd), CloneError> {
    let (pid, pidfd) = clone_into(plan, flags).map_err(CloneError::Clone)?;
    if flags & libc::CLONE_NEWUSER != 0
        && let Err(error) = map_ids(pid)
    {
        // It waits for `Go` and has done nothing yet.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
        return Err(CloneError::Map(error));
    }
    Ok((pid, pidfd))
}

fn wanted_flags(description: &TaskDescription) -> c_int {
    let isolation = &description.isolation;
    let wanted = [
        isolation.user && !geteuid().is_root(),
        isolation.pid,
        isolation.mount,
        isolation.ipc,
        isolation.uts,
        isolation.network,
    ];
    KINDS
        .iter()
        .zip(wanted)
        .filter(|(_, wanted)| *wanted)
        .fold(0, |flags, ((flag, _), _)| flags | flag)
}

/// Tries the wanted kinds one after the other with processes that end at
/// once, and says which of them are not granted.
fn probe(wanted: c_int, missing: &mut Vec<MissingIsolation>) -> c_int {
    let mut granted = 0;
    for (flag, kind) in KINDS {
        if wanted & flag == 0 {
            continue;
        }
        match try_flags(granted | flag) {
            Ok(()) => granted |= flag,
            Err(errno) => missing.push(MissingIsolation {
                kind: kind.into(),
                why: errno.desc().into(),
            }),
        }
    }
    granted
}

fn try_flags(flags: c_int) -> Result<(), Errno> {
    // SAFETY: the child calls nothing but `_exit`.
    match unsafe { clone_process(flags) }? {
        // SAFETY: ends this process, as it must.
        None => unsafe { libc::_exit(0) },
        Some((pid, _)) => waitpid(pid, Some(WaitPidFlag::empty())).map(drop),
    }
}

fn clone_into(plan: &mut Plan, flags: c_int) -> Result<(Pid, OwnedFd), Errno> {
    plan.flags = flags;
    // SAFETY: one thread, and the child goes to `init::run`, which does not
    // return and makes only system calls.
    match unsafe { clone_process(flags) }? {
        Some(child) => Ok(child),
        None => init::run(plan),
    }
}

/// `fork` into namespaces; `None` in the child. The plain system call, with
/// the pid descriptor where the parent's thread id would go: `clone3` is
/// refused by the system call filters of common container runtimes.
///
/// # Safety
/// No other thread of the process holds a lock: there is none, or it is still
/// ([`crate::scribe::Still`]). The child never returns from its caller.
pub(crate) unsafe fn clone_process(flags: c_int) -> Result<Option<(Pid, OwnedFd)>, Errno> {
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    let none = ptr::null_mut::<c_int>();
    // SAFETY: without `CLONE_VM` this is a fork; the one pointer is to a live
    // integer that the kernel fills in the parent.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            none,
            &raw mut pidfd,
            none,
            none,
        )
    };
    match Errno::result(pid)? {
        0 => Ok(None),
        // SAFETY: the kernel just made the descriptor for us.
        pid => Ok(Some((Pid::from_raw(pid as i32), unsafe {
            OwnedFd::from_raw_fd(pidfd)
        }))),
    }
}

/// In its own user namespace a task keeps the one id that it has outside.
fn map_ids(init: Pid) -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    for (file, content) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        fs::write(format!("/proc/{init}/{file}"), content)?;
    }
    Ok(())
}
