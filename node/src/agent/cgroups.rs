//! Groups of tasks, and the certain end of all that they started.
//!
//! Answers for one group per start of a task under `potluck/<node>/` in each
//! hierarchy that the host offers. cgroups-rs makes and limits them
//! ([`library`]); what it lacks, and whether every limit is there, is
//! `potluck_helper::group`'s, which this shares with the helper. What the host
//! can't limit is said in [`Cgroups::missing`], never passed over.
//!
//! The helper moves the task into its groups; the helper itself stays out.

use super::{block_device::Disk, library};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_core::attributes::{
    LIMITS_CPU, LIMITS_CPU_BURST, LIMITS_IO, LIMITS_IO_WEIGHT, LIMITS_MEMORY, LIMITS_PIDS,
};
use potluck_helper::{
    description::MemoryWatch,
    group::{Controller, DeviceLimit, Hierarchies, Limits, PIDS_MAX, TaskGroup, Usage},
};
use potluck_specs::job::{self, Resources};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// How long a killed group may take to become empty: 500 processes took 56 ms.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// Between two looks at a group that was killed.
const EMPTY_POLL: Duration = Duration::from_millis(5);

/// Controllers without which something is missing; disks are limited only
/// where that was asked for.
const NEEDED: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

/// The host's groups of this node.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    /// `potluck/<node>`
    base: PathBuf,
    hierarchies: Hierarchies,
    /// Controllers whose limits work.
    working: Vec<Controller>,
    missing: Vec<String>,
    /// The disk that holds the node's data, if it is one.
    disk: Option<Disk>,
    /// Attributes of what can be limited.
    abilities: Vec<(&'static str, bool)>,
}

/// What a helper needs to know of its task's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    pub(super) group: TaskGroup,
    pub(super) procs: Vec<PathBuf>,
    pub(super) kill_group: Option<PathBuf>,
    pub(super) memory_peak_files: Vec<PathBuf>,
    /// How the helper watches its memory, where there is a limit to watch.
    pub(super) memory_watch: Option<MemoryWatch>,
    /// Limits that were wanted and are not there, for people.
    pub(super) missing: Vec<String>,
}

impl Cgroups {
    /// Looks at what works on this host, by trying it. `data`: a folder on the
    /// disk that tasks write to.
    pub(super) fn detect(node: &str, data: &Path) -> Cgroups {
        let mut cgroups = Cgroups {
            base: Path::new("potluck").join(node),
            hierarchies: Hierarchies::detect(),
            working: Controller::ALL.to_vec(),
            missing: Vec::new(),
            disk: Disk::of(data),
            abilities: Vec::new(),
        };
        cgroups.probe();
        cgroups
    }

    fn probe(&mut self) {
        const MIB: u64 = 1 << 20;
        const PROBE: &str = "probe";
        let limits = self.limits(&Resources::new(500, 64 * MIB), &job::Limits::default());
        let (group, missing) = self.make(PROBE, &limits);
        // A host without a controller of disks is none the worse for it.
        let matters = |why: &String| !why.starts_with(Controller::Io.name());
        self.missing = missing.into_iter().filter(matters).collect();
        self.working
            .retain(|controller| group.place(*controller).is_some());
        for controller in NEEDED {
            let told = group.set_one(controller, &limits);
            if !told.is_empty() {
                self.working.retain(|working| *working != controller);
            }
            let said = |why: &String| self.missing.iter().any(|said| same(said, why));
            let new: Vec<String> = told.into_iter().filter(|why| !said(why)).collect();
            self.missing.extend(new);
        }
        self.abilities = self.probe_abilities(&group);
        for folder in group.folders() {
            if !remove_group(&folder) {
                tracing::debug!(folder = %folder.display(), "probe of control groups stays");
            }
        }
    }

    /// Tries each limit that only some hosts can set.
    fn probe_abilities(&self, group: &TaskGroup) -> Vec<(&'static str, bool)> {
        let takes = |controller, more: job::Limits| {
            let limits = self.limits(&Resources::default(), &more);
            let there = group.place(controller).is_some();
            there && group.set_one(controller, &limits).is_empty()
        };
        let none = job::Limits::default;
        let burst = job::Limits {
            cpu_millis: Some(500),
            cpu_burst_millis: Some(100),
            ..none()
        };
        let rates = job::Limits {
            io_read_bytes_per_s: Some(1 << 30),
            io_write_bytes_per_s: Some(1 << 30),
            io_read_ops_per_s: Some(1 << 20),
            io_write_ops_per_s: Some(1 << 20),
            ..none()
        };
        let weight = job::Limits {
            io_weight: Some(200),
            ..none()
        };
        let disk = self.disk.as_ref();
        let works = |controller| self.working.contains(&controller);
        vec![
            (LIMITS_CPU, works(Controller::Cpu)),
            (LIMITS_MEMORY, works(Controller::Memory)),
            (LIMITS_PIDS, works(Controller::Pids)),
            (LIMITS_CPU_BURST, takes(Controller::Cpu, burst)),
            (LIMITS_IO, disk.is_some() && takes(Controller::Io, rates)),
            (
                LIMITS_IO_WEIGHT,
                disk.is_some_and(Disk::is_shared_by_weight) && takes(Controller::Io, weight),
            ),
        ]
    }

    /// Attributes of what this host can limit, and whether it can.
    pub(super) fn abilities(&self) -> &[(&'static str, bool)] {
        &self.abilities
    }

    /// What this host can't limit, for people.
    pub(super) fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Is it about a limit that this host can't set at all?
    pub(super) fn is_missing(&self, why: &str) -> bool {
        self.missing.iter().any(|said| same(said, why))
    }

    /// A share in proportion to the cores that were asked for; a cap only where
    /// one is wanted, so that what nobody else needs may be used. Memory ends
    /// at what was asked for, unless the spec allows more.
    pub(super) fn limits(&self, need: &Resources, more: &job::Limits) -> Limits {
        let rates = |disk: &Disk| DeviceLimit {
            major: disk.major,
            minor: disk.minor,
            read_bytes_per_s: more.io_read_bytes_per_s,
            write_bytes_per_s: more.io_write_bytes_per_s,
            read_ops_per_s: more.io_read_ops_per_s,
            write_ops_per_s: more.io_write_ops_per_s,
        };
        let disk = self.disk.as_ref().filter(|_| more.bounds_io());
        Limits {
            cpu_request_millis: need.cpu_millis,
            cpu_quota_millis: more.cpu_millis,
            cpu_burst_millis: more.cpu_burst_millis,
            memory_bytes: memory_limit(need, more),
            pids: Some(more.pids.map_or(PIDS_MAX, u64::from)),
            io_weight: more.io_weight,
            devices: disk.map(rates).into_iter().collect(),
        }
    }

    /// The groups of a start, whether they exist or not.
    pub(super) fn group(&self, name: &str) -> TaskGroup {
        let mut group = self.hierarchies.group(&self.base.join(name));
        let works = |controller| self.working.contains(&controller);
        group.places.retain(|place| works(place.controller));
        group
    }

    /// What a start has used so far.
    pub(super) fn usage(&self, name: &str) -> Usage {
        self.group(name).usage()
    }

    /// Makes groups with the library, and what it left out.
    fn make(&self, name: &str, limits: &Limits) -> (TaskGroup, Vec<String>) {
        let path = self.base.join(name);
        library::make(&self.hierarchies.group(&path), &path, limits);
        self.hierarchies.create(&path)
    }

    /// Makes the groups of a start and sets their limits.
    pub(super) fn create(&self, name: &str, need: &Resources, more: &job::Limits) -> Made {
        let limits = self.limits(need, more);
        let (mut group, mut missing) = self.make(name, &limits);
        let works = |controller| self.working.contains(&controller);
        group.places.retain(|place| works(place.controller));
        missing.retain(|why| !self.is_missing(why));
        for place in &group.places {
            missing.extend(group.set_one(place.controller, &limits));
        }
        Made {
            procs: group.procs(),
            kill_group: group.unified.clone(),
            memory_peak_files: peak_files(&group),
            memory_watch: group.memory_watch(&limits),
            missing,
            group,
        }
    }

    /// Folders of a start's groups, in every hierarchy.
    fn folders(&self, name: &str) -> Vec<PathBuf> {
        self.hierarchies.group(&self.base.join(name)).folders()
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

/// Never below the request, which is what the node has set aside.
pub(super) fn memory_limit(need: &Resources, more: &job::Limits) -> Option<u64> {
    let asked = Some(need.memory_bytes).filter(|bytes| *bytes > 0);
    let more = more.memory_bytes.map(|bytes| bytes.max(need.memory_bytes));
    more.or(asked)
}

/// The first that there is has the peak.
fn peak_files(group: &TaskGroup) -> Vec<PathBuf> {
    let files = ["memory.peak", "memory.max_usage_in_bytes"];
    let place = group.place(Controller::Memory);
    let paths = place.map(|place| files.map(|file| place.folder.join(file)).to_vec());
    paths.unwrap_or_default()
}

/// Are two sentences about the same limit?
fn same(one: &str, other: &str) -> bool {
    let kind = |text: &str| text.split(':').next().map(str::to_owned);
    kind(one) == kind(other)
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
        let data = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::detect(&node, data.path());
        for controller in NEEDED {
            let works = cgroups.working.contains(&controller);
            let mut missing = cgroups.missing.iter();
            let said = missing.any(|one| one.starts_with(controller.name()));
            assert!(works != said, "{controller:?}: {cgroups:?}");
        }
        let name = "default.web.0@1.2.3#1";
        let more = job::Limits {
            cpu_millis: Some(1_500),
            memory_bytes: Some(96 << 20),
            pids: Some(77),
            ..job::Limits::default()
        };
        let group = cgroups.create(name, &NEED, &more);
        assert_eq!(group.missing, Vec::<String>::new());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        for procs in &group.procs {
            fs::write(procs, child.id().to_string()).unwrap();
        }
        let read = |controller, file: &str| {
            let folder = group.group.place(controller)?.folder.join(file);
            fs::read_to_string(folder).ok()
        };
        let limits = ["memory.limit_in_bytes", "memory.high"];
        if group.group.place(Controller::Memory).is_some() {
            let mut found = limits
                .iter()
                .filter_map(|file| read(Controller::Memory, file));
            assert_eq!(found.next().unwrap().trim(), (96 << 20).to_string());
            assert_eq!(group.memory_watch.unwrap().limit_bytes, 96 << 20);
        }
        let quotas = ["cpu.cfs_quota_us", "cpu.max"];
        if group.group.place(Controller::Cpu).is_some() {
            let mut found = quotas.iter().filter_map(|file| read(Controller::Cpu, file));
            assert!(found.next().unwrap().starts_with("150000"));
        }
        if group.group.place(Controller::Pids).is_some() {
            let most = read(Controller::Pids, "pids.max").unwrap();
            assert_eq!(most.trim(), "77");
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
    fn the_limit_of_memory_is_what_was_asked_for_or_more() {
        let limit = |need, memory_bytes| {
            let more = job::Limits {
                memory_bytes,
                ..job::Limits::default()
            };
            memory_limit(&need, &more)
        };
        let need = Resources::new(250, 100);
        assert_eq!(limit(need, None), Some(100));
        assert_eq!(limit(need, Some(300)), Some(300));
        assert_eq!(limit(need, Some(30)), Some(100));
        let none = Resources::new(250, 0);
        assert_eq!(limit(none, None), None);
        assert_eq!(limit(none, Some(30)), Some(30));
    }

    /// What a host says that it can limit is set and read back, and nothing
    /// else is set unasked.
    #[tokio::test]
    async fn abilities_are_what_can_be_set() {
        let node = format!("test-abilities-{}", std::process::id());
        let data = tempfile::tempdir_in("/var/tmp").unwrap();
        let cgroups = Cgroups::detect(&node, data.path());
        let can = |ability| cgroups.abilities().contains(&(ability, true));
        let all = job::Limits {
            cpu_millis: Some(500),
            cpu_burst_millis: can(LIMITS_CPU_BURST).then_some(250),
            pids: can(LIMITS_PIDS).then_some(50),
            io_weight: can(LIMITS_IO_WEIGHT).then_some(300),
            io_write_bytes_per_s: can(LIMITS_IO).then_some(1 << 20),
            io_read_ops_per_s: can(LIMITS_IO).then_some(99),
            ..job::Limits::default()
        };
        let made = cgroups.create("all", &NEED, &all);
        assert_eq!(made.missing, Vec::<String>::new());
        let read = |controller, files: [&str; 2]| {
            let folder = &made.group.place(controller).unwrap().folder;
            let mut texts = files
                .iter()
                .map(|file| fs::read_to_string(folder.join(file)));
            texts.find_map(Result::ok).unwrap()
        };
        if can(LIMITS_CPU_BURST) {
            let burst = read(Controller::Cpu, ["cpu.cfs_burst_us", "cpu.max.burst"]);
            assert_eq!(burst.trim(), "25000");
        }
        if can(LIMITS_IO) {
            let disk = cgroups.disk.as_ref().unwrap();
            let device = format!("{}:{}", disk.major, disk.minor);
            let file = ["blkio.throttle.write_bps_device", "io.max"];
            let found = read(Controller::Io, file);
            let line = found.lines().find(|line| line.starts_with(&device));
            assert!(line.unwrap().contains("1048576"), "{found}");
        } else {
            assert_eq!(cgroups.limits(&NEED, &all).devices, []);
        }
        // The former limits are gone with the next ones.
        let none = cgroups.limits(&NEED, &job::Limits::default());
        assert_eq!(none.cpu_burst_millis, None);
        assert_eq!(made.group.set(&none), Vec::<String>::new());
        if can(LIMITS_IO) {
            let file = ["blkio.throttle.write_bps_device", "io.max"];
            assert!(!read(Controller::Io, file).contains("1048576"));
        }
        assert!(cgroups.destroy("all").await);
        cgroups.leave();
    }
}
