//! Control groups of a task: one interface over cgroup v1 and v2.
//!
//! Answers for where a task's groups are, for making, filling and freezing
//! them; `limit` sets what they allow and reads it back, `usage` reads what
//! was used. Each controller is taken from the hierarchy that has it, v1 or
//! v2; a group of the unified hierarchy is made in any case, since
//! `cgroup.kill`, `cgroup.freeze`, pressure and CPU time work there also while
//! v1 owns the controllers.
//!
//! Files are opened for writing only, never made: a file that is absent is
//! "not found" and not "permission denied".

mod limit;
mod usage;

pub use limit::{DeviceLimit, Limits, PIDS_MAX};
pub use usage::{Pressure, Usage};

use crate::description::MemoryWatch;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Longest file of the kernel that is read here: `io.stat` of a host with some
/// hundred disks.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What limits a kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Time of processors.
    Cpu,
    /// Memory, files in memory included.
    Memory,
    /// Processes and threads.
    Pids,
    /// Block devices.
    Io,
}

impl Controller {
    /// All that are used.
    pub const ALL: [Controller; 4] = [
        Controller::Cpu,
        Controller::Memory,
        Controller::Pids,
        Controller::Io,
    ];

    /// As the unified hierarchy calls it.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Io => "io",
        }
    }

    fn name_in_v1(self) -> &'static str {
        match self {
            Controller::Io => "blkio",
            other => other.name(),
        }
    }
}

/// Whose file names a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// Where the host's hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    v1: BTreeMap<Controller, PathBuf>,
    unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads what is mounted.
    pub fn detect() -> Hierarchies {
        Hierarchies::of_mounts(&fs::read_to_string("/proc/self/mounts").unwrap_or_default())
    }

    fn of_mounts(mounts: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mounts.lines() {
            let [_, at, kind, options, ..] = line.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            match kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(at.into()),
                "cgroup" => {
                    for controller in Controller::ALL {
                        let name = controller.name_in_v1();
                        if options.split(',').any(|option| option == name) {
                            found.v1.entry(controller).or_insert_with(|| at.into());
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where the unified hierarchy is mounted.
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The folders of a group, whether they exist or not.
    pub fn group(&self, name: &Path) -> TaskGroup {
        let places = Controller::ALL.into_iter().filter_map(|controller| {
            let (version, root) = match self.v1.get(&controller) {
                Some(root) => (Version::V1, root),
                None => (Version::V2, self.offered(controller)?),
            };
            Some(Place {
                controller,
                version,
                folder: root.join(name),
            })
        });
        TaskGroup {
            places: places.collect(),
            unified: self.unified.as_ref().map(|root| root.join(name)),
        }
    }

    /// The unified hierarchy, if it has this controller.
    fn offered(&self, controller: Controller) -> Option<&PathBuf> {
        let unified = self.unified.as_ref()?;
        let offered = read_text(&unified.join("cgroup.controllers")).ok()?;
        let mut offered = offered.split_whitespace();
        offered
            .any(|name| name == controller.name())
            .then_some(unified)
    }

    /// Makes the folders of a group; what can't be made is left out of it and
    /// said.
    pub fn create(&self, name: &Path) -> (TaskGroup, Vec<String>) {
        let mut group = self.group(name);
        let mut missing = Vec::new();
        if let (Some(folder), Some(root)) = (&group.unified, &self.unified)
            && let Err(error) = make_unified(root, folder, &group.places)
        {
            missing.push(format!("kill by control group: {error}"));
            group.unified = None;
        }
        group.places.retain(|place| {
            let made = fs::create_dir_all(&place.folder).and_then(|()| place.check());
            if let Err(error) = &made {
                missing.push(format!("{} limit: {error}", place.controller.name()));
            }
            made.is_ok()
        });
        (group, missing)
    }
}

/// Makes a folder of the unified hierarchy and hands the wanted controllers
/// down to it. A controller that a parent refuses shows when its files are
/// looked for.
fn make_unified(root: &Path, folder: &Path, places: &[Place]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let parents = folder.ancestors().skip(1);
    let parents = parents.take_while(|parent| parent.starts_with(root));
    let mut parents: Vec<&Path> = parents.collect();
    parents.reverse();
    for parent in parents {
        for place in places.iter().filter(|place| place.version == Version::V2) {
            let text = format!("+{}", place.controller.name());
            let _ = write_file(&parent.join("cgroup.subtree_control"), &text);
        }
    }
    Ok(())
}

/// A group of one controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which one.
    pub controller: Controller,
    /// Whose file names it has.
    pub version: Version,
    /// Where.
    pub folder: PathBuf,
}

impl Place {
    fn check(&self) -> io::Result<()> {
        let file = match (self.controller, self.version) {
            (Controller::Cpu, Version::V1) => "cpu.shares",
            (Controller::Cpu, Version::V2) => "cpu.weight",
            (Controller::Memory, Version::V1) => "memory.limit_in_bytes",
            (Controller::Memory, Version::V2) => "memory.max",
            (Controller::Pids, _) => "pids.max",
            (Controller::Io, Version::V1) => "blkio.throttle.io_service_bytes",
            // Its limits are there or not by the host's devices.
            (Controller::Io, Version::V2) => "io.stat",
        };
        fs::metadata(self.folder.join(file)).map(drop)
    }
}

/// The groups of one start of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskGroup {
    /// Groups with limits.
    pub places: Vec<Place>,
    /// The group by which all of it is killed and frozen.
    pub unified: Option<PathBuf>,
}

impl TaskGroup {
    /// The group of a controller.
    pub fn place(&self, controller: Controller) -> Option<&Place> {
        let mut places = self.places.iter();
        places.find(|place| place.controller == controller)
    }

    /// Each folder once.
    pub fn folders(&self) -> Vec<PathBuf> {
        let limits = self.places.iter().map(|place| &place.folder);
        let mut all: Vec<PathBuf> = limits.chain(&self.unified).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// The files through which a process joins all of them.
    pub fn procs(&self) -> Vec<PathBuf> {
        let folders = self.folders().into_iter();
        folders.map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// How its memory is watched under these limits.
    pub fn memory_watch(&self, limits: &Limits) -> Option<MemoryWatch> {
        let place = self.place(Controller::Memory)?;
        Some(MemoryWatch {
            group: place.folder.clone(),
            limit_bytes: limits.memory_bytes?,
        })
    }

    /// Stops all of it where it stands, or lets it go on. Not to be used
    /// before a kill with v1 alone: frozen tasks ignore it there.
    ///
    /// # Errors
    /// What the kernel says; `Unsupported` without the unified hierarchy.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        let unified = self.unified.as_ref();
        let unified = unified.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        write_file(
            &unified.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )
    }

    /// Has all of it stopped?
    pub fn is_frozen(&self) -> bool {
        let events = self.unified.as_ref().map(|at| at.join("cgroup.events"));
        let events = events.and_then(|path| read_text(&path).ok());
        events.is_some_and(|text| number_of(&text, "frozen") == Some(1))
    }
}

/// Writes a file of the kernel in one call.
pub(crate) fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// Reads a file of the kernel.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a file with one number.
pub(crate) fn read_number(path: &Path) -> io::Result<u64> {
    let text = read_text(path)?;
    let number = text.trim().parse();
    number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The number behind a word, in a file of such lines.
pub(crate) fn number_of(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_is_taken_from_the_hierarchy_that_has_it() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let group = Hierarchies::of_mounts(hybrid).group(Path::new("potluck/n/t"));
        let at = |controller| group.place(controller).map(|place| place.folder.clone());
        let wanted = "/sys/fs/cgroup/cpu,cpuacct/potluck/n/t";
        assert_eq!(at(Controller::Cpu), Some(wanted.into()));
        let wanted = "/sys/fs/cgroup/memory/potluck/n/t";
        assert_eq!(at(Controller::Memory), Some(wanted.into()));
        assert_eq!(at(Controller::Io), None);
        let wanted = "/sys/fs/cgroup/unified/potluck/n/t";
        assert_eq!(group.unified, Some(wanted.into()));
        assert_eq!(group.folders().len(), 3);

        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory io\n").unwrap();
        let pure = format!("cgroup2 {} cgroup2 rw 0 0\n", folder.path().display());
        let group = Hierarchies::of_mounts(&pure).group(Path::new("t"));
        let found: Vec<_> = group.places.iter().map(|place| place.controller).collect();
        assert_eq!(found, [Controller::Cpu, Controller::Memory, Controller::Io]);
        assert!(
            group
                .places
                .iter()
                .all(|place| place.version == Version::V2)
        );
        assert_eq!(group.folders(), [folder.path().join("t")]);

        let none = Hierarchies::of_mounts("").group(Path::new("t"));
        assert_eq!(none, TaskGroup::default());
    }
}
