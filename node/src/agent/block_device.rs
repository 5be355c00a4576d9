//! The disk that a folder is on, as the kernel numbers it, for limits of its
//! use. Leaves setting them to `cgroups`.

use nix::sys::stat::{major, minor, stat};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the kernel shows its block devices by number.
const DEVICES: &str = "/sys/dev/block";

/// A whole disk: limits of a partition are refused by the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Its folder in `/sys`.
    folder: PathBuf,
}

impl Disk {
    /// `None`: the folder is on none that the kernel shows, such as a file
    /// system in memory or one over several disks.
    pub(super) fn of(folder: &Path) -> Option<Disk> {
        let device = stat(folder).ok()?.st_dev;
        let shown = format!("{}:{}", major(device), minor(device));
        let mut found = fs::canonicalize(Path::new(DEVICES).join(shown)).ok()?;
        if found.join("partition").exists() {
            found.pop();
        }
        let number = fs::read_to_string(found.join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some(Disk {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            folder: found,
        })
    }

    /// Does anything share it by weight? The files that take weights are there
    /// on hosts where nothing looks at them.
    pub(super) fn is_shared_by_weight(&self) -> bool {
        let scheduler = fs::read_to_string(self.folder.join("queue/scheduler"));
        let costs = fs::read_to_string("/sys/fs/cgroup/io.cost.qos").unwrap_or_default();
        scheduler.is_ok_and(|text| text.contains("[bfq]")) || self.has_costs(&costs)
    }

    /// Of `io.cost.qos`: `8:0 enable=1 ctrl=auto …`.
    fn has_costs(&self, text: &str) -> bool {
        let device = format!("{}:{}", self.major, self.minor);
        let mut lines = text.lines().map(str::split_whitespace);
        lines
            .any(|mut words| words.next() == Some(&*device) && words.any(|word| word == "enable=1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_a_whole_disk_or_on_none() {
        // Files of the kernel are on no disk.
        assert_eq!(Disk::of(Path::new("/proc")), None);
        assert_eq!(Disk::of(Path::new("/no such folder")), None);
        // Of what is one, the kernel shows a queue, which partitions lack.
        if let Some(disk) = Disk::of(Path::new("/")) {
            assert!(disk.folder.join("queue").is_dir(), "{disk:?}");
        }
    }

    #[test]
    fn costs_count_where_they_are_enabled() {
        let disk = Disk {
            major: 8,
            minor: 16,
            folder: PathBuf::new(),
        };
        let text = "8:0 enable=1 ctrl=auto\n8:16 enable=0 ctrl=user\n";
        assert!(!disk.has_costs(text));
        assert!(disk.has_costs(&text.replace("16 enable=0", "16 enable=1")));
        assert!(!disk.has_costs(""));
    }
}
