//! The file that the agent writes before it starts a helper: everything that
//! the helper needs to know, so that it never has to ask.
//!
//! It lies in the folder of one start of a task; the record of the end
//! ([`crate::end`]) is written beside it.

use crate::{group::TaskGroup, protocol::TaskKey};
use potluck_specs::{
    Millis,
    codec::{self, CodecError},
    job::{LogPolicy, StopPolicy},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::PathBuf};
use std::{io::Read, path::Path};

/// What this version writes; a helper refuses a higher one.
pub const DESCRIPTION_VERSION: u32 = 2;

/// Name of the file in the folder of a start.
pub const DESCRIPTION_FILE: &str = "task";

/// Longest file: a job of at most 256 KiB with its environment twice over.
pub const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

/// One start of a task, as the agent wants it. Paths must be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDescription {
    /// [`DESCRIPTION_VERSION`].
    pub version: u32,
    /// Which start of which task.
    pub key: TaskKey,
    /// Absolute on the host, or relative to `package`.
    pub command: String,
    /// After the command.
    pub args: Vec<String>,
    /// The whole environment; the helper adds only `POTLUCK_PACKAGE`.
    pub env: BTreeMap<String, String>,
    /// The unpacked package, not to be written to. Told to the task as
    /// `POTLUCK_PACKAGE`.
    pub package: PathBuf,
    /// Further packages that are laid over it, the lowest first.
    #[serde(default)]
    pub layers: Vec<PathBuf>,
    /// The task's own folder: its working directory.
    pub task_folder: PathBuf,
    /// Where the log's segments go; shared by all starts of the slot here.
    pub log_folder: PathBuf,
    /// Where the agent listens. May be longer than a socket address holds.
    pub agent_socket: PathBuf,
    /// The agent that wrote this; an older one is refused.
    pub agent_generation: u64,
    /// The host's short node id, for `ps` and for people.
    pub node: String,
    /// The task is killed this long after the last answered ping was sent.
    pub lease_ms: u64,
    /// Of an exclusive slot: it is killed then, on the boot-time clock, unless
    /// an answered ping says later.
    #[serde(default)]
    pub scheduler_lease_until: Option<Millis>,
    /// How it is told to stop, unless the agent's message says otherwise.
    pub stop: StopPolicy,
    /// Who the task runs as. `None`: as the helper does.
    pub user: Option<UserIds>,
    /// `cgroup.procs` files that the task joins before it runs (each
    /// hierarchy of cgroup v1, or the one of v2). The helper joins none.
    pub cgroup_procs: Vec<PathBuf>,
    /// A folder of the unified hierarchy that holds the task and nothing else
    /// (its `cgroup.procs` is among `cgroup_procs`): its `cgroup.kill` ends
    /// what a missing pid namespace would let escape.
    pub kill_group: Option<PathBuf>,
    /// Files with the peak of memory use in bytes (`memory.peak`,
    /// `memory.max_usage_in_bytes`), read at the end; the first readable one
    /// counts.
    pub memory_peak_files: Vec<PathBuf>,
    /// The namespaces that it gets.
    pub isolation: Isolation,
    /// What it may see and do.
    pub profile: Profile,
    /// The task's limit, which is also that of its folders in memory.
    pub memory_bytes: Option<u64>,
    /// Further places in its file system.
    pub mounts: Vec<Mounted>,
    /// Files that are written before it starts.
    pub files: Vec<WrittenFile>,
    /// Run one after the other before it; if one fails, it does not start.
    pub setup: Vec<Hook>,
    /// Run one after the other when it has ended, unless it was killed.
    pub teardown: Vec<Hook>,
    /// How its memory is watched, where the host tells.
    pub memory_watch: Option<MemoryWatch>,
    /// Its control groups, for limits that change while it runs.
    #[serde(default)]
    pub group: TaskGroup,
    /// What it may use of the disk, its log included, if that is bounded. The
    /// agent looks at it; the helper keeps the log to its part.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// What is kept of what it prints.
    #[serde(default)]
    pub logs: LogPolicy,
}

/// How well a task is kept apart from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// For tasks of people who trust each other: all but the network is its
    /// own.
    Default,
    /// All that can be had: nothing but its own folder can be written to.
    Strict,
    /// A daemon of the host.
    None,
}

impl Profile {
    /// As specs and node attributes have it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Default => "default",
            Profile::Strict => "strict",
            Profile::None => "none",
        }
    }
}

/// A further place in a task's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Absolute, in the task.
    pub at: String,
    /// What stands there.
    pub from: MountedFrom,
    /// May the task only read?
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountedFrom {
    /// A file or folder of the host.
    Host(PathBuf),
    /// Memory, gone with the task.
    Memory {
        /// Its size; 0 for what the kernel gives.
        bytes: u64,
    },
}

/// A file that is written before a start, and anew at the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// In the task's folder, or absolute in the task.
    pub path: String,
    /// All of it.
    pub contents: String,
    /// Permission bits.
    pub mode: u32,
}

/// A command before or after the task's own, in the same sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// As the task's own command.
    pub command: String,
    /// After the command.
    pub args: Vec<String>,
    /// It is killed, and has failed, after this long.
    pub timeout_ms: u64,
}

/// The files by which a task's memory is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryWatch {
    /// The task's group of the memory controller.
    pub group: PathBuf,
    /// Its limit.
    pub limit_bytes: u64,
}

/// A user and group of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Group id; there are no supplementary groups.
    pub gid: u32,
}

/// Which namespaces a task gets, and what follows if the host forbids one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// A user namespace: only made where the helper is not root, since the
    /// others need it there.
    pub user: bool,
    /// Own process ids, with our init as process 1: the boundary of a kill.
    pub pid: bool,
    /// Own System V and POSIX queues.
    pub ipc: bool,
    /// Own host name.
    pub uts: bool,
    /// Own mounts.
    pub mount: bool,
    /// Own view of control groups.
    pub cgroup: bool,
    /// Own network, with nothing but loopback.
    pub network: bool,
    /// What to do without one of them.
    pub if_missing: IfMissing,
}

impl Isolation {
    /// What a profile asks for; a network of its own only where the task has
    /// no ports to be reached at.
    pub fn of(profile: Profile, has_ports: bool) -> Isolation {
        let strict = profile == Profile::Strict;
        if profile == Profile::None {
            return Isolation {
                user: false,
                pid: false,
                ipc: false,
                uts: false,
                mount: false,
                cgroup: false,
                network: false,
                if_missing: IfMissing::Report,
            };
        }
        Isolation {
            network: strict && !has_ports,
            if_missing: if strict {
                IfMissing::Refuse
            } else {
                IfMissing::Report
            },
            ..Isolation::default()
        }
    }
}

impl Default for Isolation {
    fn default() -> Isolation {
        Isolation {
            user: true,
            pid: true,
            ipc: true,
            uts: true,
            mount: true,
            cgroup: true,
            network: false,
            if_missing: IfMissing::Report,
        }
    }
}

/// What follows when the host forbids a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IfMissing {
    /// Run with what is possible and say what is missing in `Hello`.
    Report,
    /// Do not run.
    Refuse,
}

/// A description that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// The file can't be read.
    #[error("task file {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a description.
    #[error("task file {path} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CodecError,
    },
    /// Written by a later potluck.
    #[error("task file {path} has version {version}, this helper knows {DESCRIPTION_VERSION}")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl TaskDescription {
    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// Any [`DescriptionError`].
    pub fn read(path: &Path) -> Result<TaskDescription, DescriptionError> {
        let bytes =
            read_limited(path, DESCRIPTION_BYTES_MAX).map_err(|source| DescriptionError::Read {
                path: path.into(),
                source,
            })?;
        let description: TaskDescription =
            codec::decode("task description", &bytes, DESCRIPTION_BYTES_MAX).map_err(|source| {
                DescriptionError::Malformed {
                    path: path.into(),
                    source,
                }
            })?;
        if description.version > DESCRIPTION_VERSION {
            return Err(DescriptionError::TooNew {
                path: path.into(),
                version: description.version,
            });
        }
        Ok(description)
    }

    /// Writes the file. It holds the task's environment: readable by its
    /// owner only. Not synced: after a crash of the host nobody reads it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        io::Write::write_all(&mut file, &codec::encode(self))
    }
}

/// At most `bytes_max + 1` bytes of a file: enough to see that it is too long.
pub(crate) fn read_limited(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) use tests::description as sample;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TaskKey;
    use std::os::unix::fs::PermissionsExt;

    pub(crate) fn description() -> TaskDescription {
        TaskDescription {
            version: DESCRIPTION_VERSION,
            key: TaskKey {
                slot: "web[0]".parse().unwrap(),
                generation: Default::default(),
                start: 1,
            },
            command: "bin/web".into(),
            args: vec!["--fast".into()],
            env: BTreeMap::from([("SECRET".into(), "x".into())]),
            package: "/package".into(),
            layers: Vec::new(),
            task_folder: "/work".into(),
            log_folder: "/log".into(),
            logs: Default::default(),
            agent_socket: "/agent.sock".into(),
            agent_generation: 1,
            node: "node".into(),
            lease_ms: 1,
            scheduler_lease_until: None,
            stop: StopPolicy::default(),
            user: Some(UserIds { uid: 1, gid: 2 }),
            cgroup_procs: vec!["/cgroup.procs".into()],
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
            group: TaskGroup::default(),
            disk_bytes: None,
        }
    }

    #[test]
    fn what_is_written_is_read_and_is_nobody_elses_business() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DESCRIPTION_FILE);
        description().write(&path).unwrap();
        assert_eq!(TaskDescription::read(&path).unwrap(), description());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_a_later_version_wrote_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DESCRIPTION_FILE);
        let later = TaskDescription {
            version: DESCRIPTION_VERSION + 1,
            ..description()
        };
        later.write(&path).unwrap();
        let error = TaskDescription::read(&path).unwrap_err();
        assert!(matches!(error, DescriptionError::TooNew { .. }));
        fs::write(&path, b"junk").unwrap();
        let error = TaskDescription::read(&path).unwrap_err();
        assert!(matches!(error, DescriptionError::Malformed { .. }));
    }
}
