//! Which processes belong to a node: its agent, the helpers that it started,
//! and everything below those. Found by looking, never by a stored pid.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// The processes of one host of a testnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostProcesses {
    /// `potluck` itself.
    pub agent: Option<i32>,
    /// Helpers.
    pub helpers: BTreeSet<i32>,
    /// Inits and tasks: all that descends from a helper.
    pub tasks: BTreeSet<i32>,
}

impl HostProcesses {
    /// All of them.
    pub fn all(&self) -> BTreeSet<i32> {
        let mut all = &self.helpers | &self.tasks;
        all.extend(self.agent);
        all
    }

    /// Kills all of them at once, as a power cut would.
    pub fn kill(&self) {
        for pid in self.all() {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Makes this process the parent of all that its children leave behind, so
/// that killed hosts leave no zombies in it for good.
pub(super) fn adopt_orphans() {
    // Without it orphans go to the machine's init, which reaps them too.
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// Takes in the end of processes that were ours, if they have ended.
pub(super) fn reap(pids: &BTreeSet<i32>) {
    for pid in pids {
        // Not ours, or not ended yet, is as good.
        let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Looks at every process of this machine for those of the node whose data is
/// in `data`.
pub fn host_processes(data: &Path) -> HostProcesses {
    let processes = processes();
    let mut host = HostProcesses::default();
    for (pid, process) in &processes {
        match process.program.as_str() {
            "potluck" if process.runs_node(data) => host.agent = Some(*pid),
            "potluck-helper" if process.names(data) => {
                host.helpers.insert(*pid);
            }
            _ => {}
        }
    }
    for pid in processes.keys() {
        if !host.helpers.contains(pid) && descends(*pid, &host.helpers, &processes) {
            host.tasks.insert(*pid);
        }
    }
    // An init is a helper by its program's name and a child of one.
    let inits: Vec<i32> = host
        .helpers
        .iter()
        .copied()
        .filter(|pid| {
            processes
                .get(pid)
                .is_some_and(|p| host.helpers.contains(&p.parent))
        })
        .collect();
    for pid in inits {
        host.helpers.remove(&pid);
        host.tasks.insert(pid);
    }
    host
}

struct Process {
    parent: i32,
    program: String,
    args: Vec<String>,
}

impl Process {
    fn names(&self, data: &Path) -> bool {
        self.args.iter().any(|arg| Path::new(arg).starts_with(data))
    }

    fn runs_node(&self, data: &Path) -> bool {
        self.args.iter().any(|arg| arg == "node") && self.names(data)
    }
}

fn processes() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, process(pid)?))
        })
        .collect()
}

/// Has it not ended? One that is ending has no command line any more, so that
/// it is found by no data folder, and still holds its files and locks: also as
/// a zombie, while it has other threads.
pub(super) fn runs(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    let is_zombie = state.is_some_and(|state| state.starts_with(['Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    !is_zombie || threads > 1
}

/// Nothing for one that has just ended, and for zombies.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    let program = Path::new(args.first()?)
        .file_name()?
        .to_string_lossy()
        .into_owned();
    Some(Process {
        parent,
        program,
        args,
    })
}

fn descends(pid: i32, from: &BTreeSet<i32>, processes: &BTreeMap<i32, Process>) -> bool {
    let mut at = pid;
    // No process tree is deeper than pids are many.
    for _ in 0..processes.len() {
        let Some(process) = processes.get(&at) else {
            return false;
        };
        if from.contains(&process.parent) {
            return true;
        }
        at = process.parent;
    }
    false
}
