//! Limits of tasks, and the certain end of all that they started.
//!
//! Answers for one group per start of a task under `potluck/<node>/` in each
//! hierarchy that the host offers: memory, cpu and pids for limits (cgroup v1
//! or v2, through cgroups-rs), and a group of the unified hierarchy for
//! `cgroup.kill`, also where v1 owns the controllers. Every limit is read back,
//! since a refused one may look like success. What the host can't limit is
//! said in [`Cgroups::missing`], never passed over.
//!
//! The helper moves the task into its groups; the helper itself stays out.

use cgroups_rs::fs::{
    Cgroup, Hierarchy, MaxValue, Subsystem,
    cpu::CpuController,
    hierarchies::{V1, V2, is_cgroup2_unified_mode},
    memory::MemController,
    pid::PidController,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_helper::description::MemoryWatch;
use potluck_specs::{cause::root, job::Resources};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Processes and threads of one task: a fork bomb ends here, a large Java
/// server does not.
const PIDS_MAX: i64 = 4_096;

/// How long a killed group may take to become empty: 500 processes took 56 ms.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at a group that was killed.
const EMPTY_POLL: Duration = Duration::from_millis(5);

const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The host's groups of this node.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    /// `potluck/<node>`
    base: PathBuf,
    /// Controllers whose limits work.
    working: Vec<String>,
    /// Where the unified hierarchy is mounted, if groups can be made there.
    unified: Option<PathBuf>,
    v2: bool,
    missing: Vec<String>,
}

/// What a helper needs to know of its task's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskGroup {
    pub(super) procs: Vec<PathBuf>,
    pub(super) kill_group: Option<PathBuf>,
    pub(super) memory_peak_files: Vec<PathBuf>,
    /// How the helper watches its memory, where there is a limit to watch.
    pub(super) memory_watch: Option<MemoryWatch>,
    /// Limits that were wanted and are not there, for people.
    pub(super) missing: Vec<String>,
}

impl Cgroups {
    /// Looks at what works on this host, by trying it.
    pub(super) fn detect(node: &str) -> Cgroups {
        let v2 = is_cgroup2_unified_mode();
        let mut cgroups = Cgroups {
            base: Path::new("potluck").join(node),
            working: CONTROLLERS.map(String::from).to_vec(),
            unified: unified_mount(v2),
            v2,
            missing: Vec::new(),
        };
        if let Some(unified) = &cgroups.unified
            && let Err(error) = fs::create_dir_all(unified.join(&cgroups.base))
        {
            cgroups.unified = None;
            let why = format!("kill by control group: {error}");
            cgroups.missing.push(why);
        }
        cgroups.probe();
        cgroups
    }

    fn probe(&mut self) {
        const MIB: u64 = 1 << 20;
        let need = Resources::new(500, 64 * MIB);
        let mut working = Vec::new();
        for controller in CONTROLLERS {
            let name = format!("probe-{controller}");
            let group = self.load(&name, controller);
            match self.limit(&group, controller, &need) {
                Ok(_) => working.push(controller.to_string()),
                Err(why) => self.missing.push(format!("{controller} limit: {why}")),
            }
            if let Err(error) = group.delete() {
                tracing::debug!(%error, controller, "probe of control groups stays");
            }
        }
        self.working = working;
    }

    /// What this host can't limit, for people.
    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }

    fn hierarchy(&self) -> Box<dyn Hierarchy> {
        match self.v2 {
            true => Box::new(V2::new()),
            false => Box::new(V1::new()),
        }
    }

    fn load(&self, name: &str, controller: &str) -> Cgroup {
        let path = self.base.join(name);
        let controllers = vec![controller.to_string()];
        Cgroup::load_with_specified_controllers(self.hierarchy(), path, controllers)
    }

    /// Makes the groups of a start and sets their limits.
    pub(super) fn create(&self, name: &str, need: &Resources) -> TaskGroup {
        let mut made = TaskGroup::default();
        for controller in &self.working {
            let group = self.load(name, controller);
            match self.limit(&group, controller, need) {
                Ok(folder) => {
                    made.add(&folder, controller);
                    if controller == "memory" && need.memory_bytes > 0 {
                        made.memory_watch = Some(watch_memory(folder, need.memory_bytes));
                    }
                }
                Err(why) => made.missing.push(format!("{controller} limit: {why}")),
            }
        }
        if let Some(folder) = self.kill_group(name) {
            match fs::create_dir_all(&folder) {
                Ok(()) => made.add_kill(folder),
                Err(error) => made.missing.push(format!("kill by control group: {error}")),
            }
        }
        made
    }

    /// Makes one group, sets its limit and reads it back.
    fn limit(&self, group: &Cgroup, controller: &str, need: &Resources) -> Result<PathBuf, String> {
        let absent = || "the host has no such controller".to_string();
        if !group
            .subsystems()
            .iter()
            .any(|one| one.controller_name() == controller)
        {
            return Err(absent());
        }
        group.create().map_err(|error| root(&error))?;
        let subsystem = group.subsystems().first().ok_or_else(absent)?;
        let folder = subsystem.to_controller().path().to_path_buf();
        let (file, wanted) = match subsystem {
            Subsystem::Mem(memory) => self.limit_memory(memory, need)?,
            Subsystem::Cpu(cpu) => self.limit_cpu(cpu, need)?,
            Subsystem::Pid(pids) => limit_pids(pids)?,
            _ => return Err(absent()),
        };
        let Some(wanted) = wanted else {
            return Ok(folder);
        };
        let path = folder.join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        match text.trim().parse::<u64>() {
            Ok(found) if close(found, wanted) => Ok(folder),
            _ => Err(format!("{file} is {} instead of {wanted}", text.trim())),
        }
    }

    fn limit_memory(&self, memory: &MemController, need: &Resources) -> Limit {
        let file = match self.v2 {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        if need.memory_bytes == 0 {
            return Ok((file, None));
        }
        let bytes = i64::try_from(need.memory_bytes).unwrap_or(i64::MAX);
        memory.set_limit(bytes).map_err(|error| root(&error))?;
        Ok((file, Some(need.memory_bytes)))
    }

    /// A share in proportion to the cores that were asked for, no cap: what
    /// nobody else needs may be used.
    fn limit_cpu(&self, cpu: &CpuController, need: &Resources) -> Limit {
        let shares = (u64::from(need.cpu_millis) * 1_024 / 1_000).clamp(2, 262_144);
        let (file, value) = match self.v2 {
            // The kernel's own conversion of the old scale to the new.
            true => ("cpu.weight", 1 + (shares - 2) * 9_999 / 262_142),
            false => ("cpu.shares", shares),
        };
        cpu.set_shares(value).map_err(|error| root(&error))?;
        Ok((file, Some(value)))
    }

    fn kill_group(&self, name: &str) -> Option<PathBuf> {
        Some(self.unified.as_ref()?.join(&self.base).join(name))
    }

    /// Folders of a start's groups, in every hierarchy.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        let limits = self.working.iter().filter_map(|controller| {
            let group = self.load(name, controller);
            let subsystem = group.subsystems().first()?;
            Some(subsystem.to_controller().path().to_path_buf())
        });
        let mut all: Vec<PathBuf> = limits.chain(self.kill_group(name)).collect();
        all.dedup();
        all
    }

    /// Starts that have groups.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in self.folders("x").iter().filter_map(|path| path.parent()) {
            let Ok(entries) = fs::read_dir(folder) else {
                continue;
            };
            let folders = entries.filter_map(|entry| {
                let entry = entry.ok()?;
                let folder = entry.file_type().ok()?.is_dir();
                folder.then(|| entry.file_name().into_string().ok())?
            });
            names.extend(folders);
        }
        names.sort();
        names.dedup();
        names
    }

    /// Kills all that is in a start's groups and removes them. True: nothing
    /// is left.
    pub(super) async fn destroy(&self, name: &str) -> bool {
        let deadline = Instant::now() + EMPTY_LIMIT;
        let folders = self.folders(name);
        loop {
            if folders.iter().all(|folder| remove_group(folder)) {
                return true;
            }
            for folder in &folders {
                kill_all(folder);
            }
            if Instant::now() > deadline {
                tracing::warn!(group = name, "processes don't die");
                return false;
            }
            sleep(EMPTY_POLL).await;
        }
    }

    /// Removes the node's own groups if no task has any.
    pub(super) fn leave(&self) {
        for folder in self.folders("x") {
            for parent in folder.ancestors().skip(1).take(2) {
                // Fails while something is in it, which is what is wanted.
                let _ = fs::remove_dir(parent);
            }
        }
    }
}

impl TaskGroup {
    fn add(&mut self, folder: &Path, controller: &str) {
        self.add_procs(folder);
        if controller == "memory" {
            let files = ["memory.peak", "memory.max_usage_in_bytes"];
            self.memory_peak_files = files.map(|file| folder.join(file)).to_vec();
        }
    }

    fn add_procs(&mut self, folder: &Path) {
        let procs = folder.join("cgroup.procs");
        if !self.procs.contains(&procs) {
            self.procs.push(procs);
        }
    }

    fn add_kill(&mut self, folder: PathBuf) {
        self.add_procs(&folder);
        self.kill_group = Some(folder);
    }
}

/// Makes the kernel of v1 wait instead of kill at the limit: the helper
/// decides what follows. Where the kernel refuses, or with v2, it kills as
/// ever, and the helper says so afterwards.
fn watch_memory(group: PathBuf, limit_bytes: u64) -> MemoryWatch {
    let control = group.join("memory.oom_control");
    if control.exists()
        && let Err(error) = fs::write(control, "1")
    {
        tracing::debug!(%error, "the kernel kills at the memory limit");
    }
    MemoryWatch { group, limit_bytes }
}

/// A file and what should stand in it.
type Limit = Result<(&'static str, Option<u64>), String>;

fn limit_pids(pids: &PidController) -> Limit {
    pids.set_pid_max(MaxValue::Value(PIDS_MAX))
        .map_err(|error| root(&error))?;
    Ok(("pids.max", Some(PIDS_MAX as u64)))
}

/// Exactly what was asked for; the kernel rounds memory to pages.
fn close(found: u64, wanted: u64) -> bool {
    const PAGE_BYTES_MAX: u64 = 64 << 10;
    let slack = if wanted > PAGE_BYTES_MAX {
        PAGE_BYTES_MAX
    } else {
        0
    };
    found.abs_diff(wanted) <= slack
}

/// `/sys/fs/cgroup` on a v2 host; wherever the tree is on a hybrid one.
fn unified_mount(v2: bool) -> Option<PathBuf> {
    if v2 {
        return Some("/sys/fs/cgroup".into());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let [_, at, kind, ..] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// True if the group is gone.
fn remove_group(folder: &Path) -> bool {
    // Groups of sessions, left by a helper that was killed.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        // Fails while somebody is in it, and for the kernel's own files.
        let _ = fs::remove_dir(entry.path());
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn kill_all(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse::<i32>().ok()) {
        // 0 stands for a process that this namespace does not see.
        if pid > 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const NEED: Resources = Resources::new(250, 32 << 20);

    /// On any host: each controller is either limited or said to be missing.
    #[tokio::test]
    async fn limits_hold_or_are_missing_and_groups_end_with_all_in_them() {
        let node = format!("test-{}", std::process::id());
        let cgroups = Cgroups::detect(&node);
        for controller in CONTROLLERS {
            let works = cgroups.working.iter().any(|one| one == controller);
            let said = cgroups
                .missing
                .iter()
                .any(|one| one.starts_with(controller));
            assert!(works != said, "{controller}: {cgroups:?}");
        }
        let name = "default.web.0@1.2.3#1";
        let group = cgroups.create(name, &NEED);
        assert_eq!(group.missing, Vec::<String>::new());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        for procs in &group.procs {
            fs::write(procs, child.id().to_string()).unwrap();
        }
        if let Some(peak) = group.memory_peak_files.iter().find(|file| file.is_file()) {
            let limit = peak.with_file_name("memory.limit_in_bytes");
            if let Ok(limit) = fs::read_to_string(limit) {
                assert_eq!(limit.trim(), NEED.memory_bytes.to_string());
            }
        }
        if !group.procs.is_empty() {
            assert_eq!(cgroups.names(), [name]);
        } else {
            child.kill().unwrap();
        }
        assert!(cgroups.destroy(name).await);
        assert!(!child.wait().unwrap().success(), "it was killed");
        assert_eq!(cgroups.names(), Vec::<String>::new());
        for folder in cgroups.folders(name) {
            assert!(!folder.exists(), "{}", folder.display());
        }
        cgroups.leave();
    }

    #[test]
    fn what_the_kernel_rounds_is_close() {
        assert!(close(64 << 20, (64 << 20) + 100));
        assert!(!close(0, 1));
        assert!(!close(u64::MAX, 64 << 20));
        assert!(!close(2, 256));
        assert!(close(256, 256));
    }
}
