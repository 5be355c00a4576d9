//! What a task can see and do: its root, its capabilities, its system calls.
//!
//! Everything is prepared here before the clone, as steps and programs that
//! [`crate::init`] then only executes. Namespaces are [`crate::launch`]'s.
//!
//! | profile | root | network | capabilities | system calls | landlock |
//! |---|---|---|---|---|---|
//! | `default` | own, the host's programs read-only | the host's | the usual few | listed | abstract sockets |
//! | `strict` | own, and itself read-only | loopback | none | listed, without debuggers | files too |
//! | `none` | the host's | the host's | as the helper | all | none |

mod bpf;
pub(crate) mod caps;
pub(crate) mod landlock;
pub(crate) mod root;
pub(crate) mod seccomp;
pub(crate) mod sys;

use crate::{
    description::{MountedFrom, Profile, TaskDescription},
    inner::Part,
};
use caps::Capabilities;
use landlock::Landlock;
use nix::{errno::Errno, libc};
use root::{Action, RootPlan, Step, Target, option};
use std::{
    ffi::{CString, NulError},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
};
use sys::{NODEV, NOEXEC, NOSUID, RDONLY};

/// Where a task finds its package, read-only.
pub const PACKAGE_AT: &str = "/package";

/// Where a task finds its own folder, in which it starts.
pub const TASK_FOLDER_AT: &str = "/task";

/// What of the host a dynamic program needs, read-only. Where the host has a
/// link (`/bin` to `usr/bin`) there is a link.
const SYSTEM_FOLDERS: [&str; 8] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
];

/// The public part of the host's `/etc`: names of users and hosts, time zone,
/// certificates, the dynamic linker's table. No keys, no configuration of
/// services.
const ETC: [&str; 32] = [
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "java",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Of `/proc`: what tells about the host's kernel, memory and keys.
const PROC_HIDDEN: [&str; 22] = [
    "acpi",
    "asound",
    "config.gz",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "keys",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "mtrr",
    "pagetypeinfo",
    "sched_debug",
    "scsi",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
];

/// Of `/proc`: what may be read and changes the host when written to.
const PROC_READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

/// Of `/sys`: what programs look up about processors, memory and devices. Not
/// control groups, firmware, modules, debugging, power.
const SYS: [&str; 5] = ["block", "bus", "class", "devices", "kernel/mm"];

/// Of `/sys`: a way to listen to the processor's work.
const SYS_HIDDEN: [&str; 1] = ["/sys/devices/virtual/powercap"];

/// Packages over each other: their descriptors go to the kernel in one text
/// of at most 255 bytes.
const LAYERS_MAX: usize = 8;

/// `gid` of terminals.
const TTY_GROUP: u32 = 5;

/// Restricts a process as far as its profile says.
#[derive(Debug)]
pub(crate) struct Confinement {
    pub(crate) capabilities: Capabilities,
    pub(crate) landlock: Option<Landlock>,
    pub(crate) filter: seccomp::Filter,
}

impl Confinement {
    /// The same with or without the kernel's path rules.
    pub(crate) fn with_landlock(mut self, with: bool) -> Confinement {
        self.landlock.take_if(|_| !with);
        self
    }
}

/// A sandbox that can't be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// A path that no program can be given.
    #[error("a zero byte in a path of the sandbox")]
    ZeroByte(#[from] NulError),
    /// A place in the task that is not one.
    #[error("{0:?} is no absolute path without \"..\"")]
    Place(String),
    /// What is to be mounted is not there.
    #[error("{path} can't be mounted at {at}")]
    Source {
        path: String,
        at: String,
        source: std::io::Error,
    },
    /// More packages over each other than can be mounted.
    #[error("{0} packages are laid over each other, at most {LAYERS_MAX} can be")]
    Layers(usize),
}

/// The restrictions of a task's processes; `None` for [`Profile::None`].
pub(crate) fn confinement(
    description: &TaskDescription,
    flags: libc::c_int,
) -> Result<Option<Confinement>, SandboxError> {
    let profile = description.profile;
    let strict = match profile {
        Profile::None => return Ok(None),
        Profile::Default => false,
        Profile::Strict => true,
    };
    let own_root = flags & libc::CLONE_NEWNS != 0;
    let writable = (strict && own_root).then(|| writable_folders(description));
    Ok(Some(Confinement {
        capabilities: match strict {
            true => Capabilities::NONE,
            false => Capabilities::usual(),
        },
        landlock: Some(Landlock {
            writable: writable.transpose()?,
            hosts_network: flags & libc::CLONE_NEWNET == 0,
        }),
        filter: seccomp::Filter::new(profile, flags & libc::CLONE_NEWPID != 0),
    }))
}

fn writable_folders(description: &TaskDescription) -> Result<Vec<CString>, NulError> {
    let fixed = [TASK_FOLDER_AT, "/tmp", "/run", "/dev", "/proc"];
    let mounts = description.mounts.iter().filter(|one| !one.read_only);
    let all = fixed.into_iter().chain(mounts.map(|one| one.at.as_str()));
    all.map(CString::new).collect()
}

/// The root of a task; `None` if it is to see the host's.
pub(crate) fn root_plan(
    description: &TaskDescription,
    base: &Path,
    flags: libc::c_int,
) -> Result<Option<RootPlan>, SandboxError> {
    if description.profile == Profile::None || flags & libc::CLONE_NEWNS == 0 {
        return Ok(None);
    }
    let mut plan = Builder {
        plan: RootPlan {
            base: CString::new(base.to_string_lossy().as_bytes())?,
            options: Vec::new(),
            steps: Vec::new(),
        },
        description,
        flags,
    };
    plan.root()?;
    plan.system()?;
    plan.etc()?;
    plan.memory_folders()?;
    plan.dev()?;
    plan.proc()?;
    plan.sys()?;
    plan.own_folders()?;
    plan.mounts()?;
    plan.files()?;
    plan.seal()?;
    Ok(Some(plan.plan))
}

struct Builder<'a> {
    plan: RootPlan,
    description: &'a TaskDescription,
    flags: libc::c_int,
}

type Built = Result<(), SandboxError>;

impl Builder<'_> {
    fn step(&mut self, at: &str, action: Action) -> Result<&mut Step, SandboxError> {
        self.plan.steps.push(Step {
            at: Target::new(at)?,
            action,
            absent_is_fine: false,
            part: None,
            label: at.into(),
        });
        let last = self.plan.steps.last_mut();
        Ok(last.expect("it was just added"))
    }

    fn bind(&mut self, from: &str, at: &str, folder: bool, attrs: u64) -> Built {
        self.bind_with(from, at, folder, attrs, true)
    }

    fn bind_with(&mut self, from: &str, at: &str, folder: bool, attrs: u64, links: bool) -> Built {
        let from = CString::new(from)?;
        let action = Action::Bind {
            from,
            folder,
            attrs,
            links,
        };
        self.step(at, action).map(drop)
    }

    /// A memory file system. Its pages count as the task's.
    fn memory(&mut self, at: &str, options: &str, attrs: u64) -> Built {
        let mut list = Vec::new();
        for text in options.split(',').filter(|text| !text.is_empty()) {
            list.push(option(text)?);
        }
        let action = Action::New {
            kind: c"tmpfs".into(),
            options: list,
            attrs,
        };
        self.step(at, action).map(drop)
    }

    /// What is written beside all mounts counts as the task's memory.
    fn root(&mut self) -> Built {
        if let Some(bytes) = self.description.memory_bytes {
            self.plan.options.push(option(&format!("size={bytes}"))?);
        }
        Ok(())
    }

    fn system(&mut self) -> Built {
        for path in SYSTEM_FOLDERS {
            let Ok(found) = fs::symlink_metadata(path) else {
                continue;
            };
            if found.is_dir() {
                self.bind(path, path, true, RDONLY | NOSUID | NODEV)?;
            } else if let Ok(to) = fs::read_link(path) {
                let to = CString::new(to.to_string_lossy().as_bytes())?;
                self.step(path, Action::Link { to })?;
            }
        }
        Ok(())
    }

    fn etc(&mut self) -> Built {
        self.step("/etc", Action::Folder { mode: 0o755 })?;
        for name in ETC {
            let path = format!("/etc/{name}");
            // What a link leads to is what is shown.
            if let Ok(found) = fs::metadata(&path) {
                let attrs = RDONLY | NOSUID | NODEV | NOEXEC;
                self.bind(&path, &path, found.is_dir(), attrs)?;
            }
        }
        let name = format!("{}\n", crate::launch::host_name(self.description));
        let action = Action::File {
            contents: name.into_bytes(),
            mode: 0o644,
            owner: None,
        };
        self.step("/etc/hostname", action).map(drop)
    }

    fn memory_folders(&mut self) -> Built {
        let size = self.size();
        let everyone = format!("mode=1777{size}");
        self.memory("/tmp", &everyone, NOSUID | NODEV)?;
        self.step("/var", Action::Folder { mode: 0o755 })?;
        let to = c"../tmp".into();
        self.step("/var/tmp", Action::Link { to })?;
        let to = c"../run".into();
        self.step("/var/run", Action::Link { to })?;
        // For the tools of sessions, which only those see.
        let tools = crate::session::TOOLS_AT;
        self.step(tools, Action::Folder { mode: 0o755 })?;
        let owner = match self.description.user {
            Some(user) => format!(",uid={},gid={}", user.uid, user.gid),
            None => String::new(),
        };
        let options = format!("mode=0755{owner}{size}");
        self.memory("/run", &options, NOSUID | NODEV)
    }

    /// Up to what the task may have in all: it counts there anyway.
    fn size(&self) -> String {
        match self.description.memory_bytes {
            Some(bytes) => format!(",size={bytes}"),
            None => String::new(),
        }
    }

    fn dev(&mut self) -> Built {
        self.memory("/dev", "mode=0755,size=65536", NOSUID | NOEXEC)?;
        for name in DEVICES {
            let path = format!("/dev/{name}");
            // The host's own inode: its mode, owner and times are not the
            // task's to change. Data goes through a device all the same.
            self.bind(&path, &path, false, RDONLY | NOSUID | NOEXEC)?;
        }
        for (name, to) in DEVICE_LINKS {
            let to = CString::new(to)?;
            self.step(&format!("/dev/{name}"), Action::Link { to })?;
        }
        self.step("/dev/pts", Action::Folder { mode: 0o755 })?;
        let mut options = vec![
            option("newinstance")?,
            option("mode=0620")?,
            option("ptmxmode=0666")?,
        ];
        // In a user namespace the group may have no number.
        if self.flags & libc::CLONE_NEWUSER == 0 && group_is_mapped(TTY_GROUP) {
            options.push(option(&format!("gid={TTY_GROUP}"))?);
        }
        let terminals = Action::New {
            kind: c"devpts".into(),
            options,
            attrs: NOSUID | NOEXEC,
        };
        self.step("/dev/pts", terminals)?.part = Some(Part::Terminals);
        let shared = format!("mode=1777{}", self.size());
        self.memory("/dev/shm", &shared, NOSUID | NODEV | NOEXEC)?;
        if self.flags & libc::CLONE_NEWIPC != 0 {
            let queues = Action::New {
                kind: c"mqueue".into(),
                options: Vec::new(),
                attrs: NOSUID | NODEV | NOEXEC,
            };
            self.step("/dev/mqueue", queues)?.part = Some(Part::Queues);
        }
        Ok(())
    }

    /// Without a pid namespace the host's own: the sweep needs it, and there
    /// is nothing that it could hide.
    fn proc(&mut self) -> Built {
        self.step("/proc", Action::Folder { mode: 0o555 })?;
        if self.flags & libc::CLONE_NEWPID == 0 {
            self.bind("/proc", "/proc", true, NOSUID | NODEV | NOEXEC)?;
        } else {
            let own = Action::New {
                kind: c"proc".into(),
                options: Vec::new(),
                attrs: NOSUID | NODEV | NOEXEC,
            };
            self.step("/proc", own)?.part = Some(Part::Proc);
        }
        for name in PROC_READ_ONLY {
            let step = self.step(&format!("/proc/{name}"), Action::ReadOnly)?;
            step.absent_is_fine = true;
        }
        for name in PROC_HIDDEN {
            let step = self.step(&format!("/proc/{name}"), Action::Hide)?;
            step.absent_is_fine = true;
        }
        Ok(())
    }

    fn sys(&mut self) -> Built {
        for name in SYS {
            let path = format!("/sys/{name}");
            if Path::new(&path).is_dir() {
                self.bind(&path, &path, true, RDONLY | NOSUID | NODEV | NOEXEC)?;
            }
        }
        for path in SYS_HIDDEN {
            self.step(path, Action::Hide)?.absent_is_fine = true;
        }
        if self.flags & libc::CLONE_NEWNET != 0 {
            for path in hosts_network_devices() {
                self.step(&path, Action::Hide)?.absent_is_fine = true;
            }
        }
        Ok(())
    }

    fn own_folders(&mut self) -> Built {
        let package = self.description.package.to_string_lossy().into_owned();
        let attrs = RDONLY | NOSUID | NODEV;
        if self.description.layers.is_empty() {
            self.bind(&package, PACKAGE_AT, true, attrs)?;
        } else {
            self.layers(&package, attrs)?;
        }
        let folder = self.description.task_folder.to_string_lossy().into_owned();
        self.bind(&folder, TASK_FOLDER_AT, true, NOSUID | NODEV)
    }

    /// The program's package below, the others above it in their order.
    fn layers(&mut self, package: &str, attrs: u64) -> Built {
        let further = self.description.layers.iter();
        let further = further.map(|path| CString::new(path.to_string_lossy().as_bytes()));
        let layers: Result<Vec<CString>, NulError> =
            [CString::new(package)].into_iter().chain(further).collect();
        let layers = layers?;
        if layers.len() > LAYERS_MAX {
            return Err(SandboxError::Layers(layers.len()));
        }
        let label = format!("{PACKAGE_AT}, {} packages over each other,", layers.len());
        let step = self.step(PACKAGE_AT, Action::Layers { layers, attrs })?;
        step.label = label;
        Ok(())
    }

    fn mounts(&mut self) -> Built {
        for mount in &self.description.mounts {
            check_place(&mount.at)?;
            let seal = if mount.read_only { RDONLY } else { 0 };
            let attrs = NOSUID | NODEV | seal;
            match &mount.from {
                MountedFrom::Host(path) => {
                    let text = path.to_string_lossy();
                    let found = fs::metadata(path).map_err(|source| SandboxError::Source {
                        path: text.clone().into_owned(),
                        at: mount.at.clone(),
                        source,
                    })?;
                    // The agent has followed the links and judged the end.
                    self.bind_with(&text, &mount.at, found.is_dir(), attrs, false)?;
                }
                MountedFrom::Memory { bytes } => {
                    let size = match bytes {
                        0 => String::new(),
                        bytes => format!(",size={bytes}"),
                    };
                    let options = format!("mode=1777{size}");
                    self.memory(&mount.at, &options, attrs)?;
                }
            }
        }
        Ok(())
    }

    fn files(&mut self) -> Built {
        for file in &self.description.files {
            let at = match file.path.starts_with('/') {
                true => file.path.clone(),
                false => format!("{TASK_FOLDER_AT}/{}", file.path),
            };
            check_place(&at)?;
            let action = Action::File {
                contents: file.contents.clone().into_bytes(),
                mode: file.mode & 0o777,
                owner: self.description.user.map(|user| (user.uid, user.gid)),
            };
            self.step(&at, action)?;
        }
        Ok(())
    }

    fn seal(&mut self) -> Built {
        if self.description.profile == Profile::Strict {
            for at in ["/dev", "/"] {
                self.step(at, Action::Seal { attrs: RDONLY })?;
            }
        }
        Ok(())
    }
}

/// Where the host's `/sys` shows its network devices, of which a task with a
/// network of its own has none. A device that is plugged in later shows.
fn hosts_network_devices() -> Vec<String> {
    let class = "/sys/class/net";
    let mut folders = vec![class.to_owned(), "/sys/devices/virtual/net".to_owned()];
    let devices = fs::read_dir(class).into_iter().flatten().flatten();
    // Each is a link to `/sys/devices/.../net/NAME`.
    let real = devices.filter_map(|device| fs::canonicalize(device.path()).ok());
    let real = real.filter_map(|path| Some(path.parent()?.to_str()?.to_owned()));
    folders.extend(real.filter(|path| path.ends_with("/net")));
    folders.sort();
    folders.dedup();
    folders
}

/// Has this group a number in our own user namespace?
fn group_is_mapped(gid: u32) -> bool {
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    map.lines().any(|line| {
        let numbers: Vec<u32> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        match numbers[..] {
            [first, _, count] => (first..first.saturating_add(count)).contains(&gid),
            _ => false,
        }
    })
}

/// A place that a person named: what is not plain is refused by name, before
/// anything else would refuse it without one.
fn check_place(at: &str) -> Built {
    let plain = at.starts_with('/') && at.split('/').all(|part| part != "..") && at != "/";
    match plain {
        true => Ok(()),
        false => Err(SandboxError::Place(at.into())),
    }
}

/// Gives the task's folder to the task's user, who may have been another
/// before.
pub(crate) fn give_folder(description: &TaskDescription) -> std::io::Result<()> {
    let Some(user) = description.user else {
        return Ok(());
    };
    let folder = fs::metadata(&description.task_folder)?;
    if (folder.uid(), folder.gid()) == (user.uid, user.gid) {
        return Ok(());
    }
    std::os::unix::fs::chown(&description.task_folder, Some(user.uid), Some(user.gid))
}

/// Loopback of a network namespace.
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    sys::raise_loopback()
}
