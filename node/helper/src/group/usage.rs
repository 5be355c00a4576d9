//! What a group used, read from the kernel's files of either version.

use super::{Controller, Place, TaskGroup, Version, number_of, read_number, read_text};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a task has used so far, and uses now. `None`: the host does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time on processors since the start, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time for which a quota held it up, in microseconds.
    pub throttled_us: Option<u64>,
    /// Memory that it needs: all but files that were not used for long.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from disks since the start.
    pub read_bytes: Option<u64>,
    /// Bytes written to disks since the start.
    pub written_bytes: Option<u64>,
    /// Time that it waited, where the host counts it.
    pub pressure: Option<Pressure>,
}

/// Time since the start in which some of the task waited, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a processor.
    pub cpu_us: u64,
    /// For memory.
    pub memory_us: u64,
    /// For disks.
    pub io_us: u64,
}

impl TaskGroup {
    /// Reads it all: a handful of short files.
    pub fn usage(&self) -> Usage {
        let unified = |name: &str| {
            let folder = self.unified.as_ref()?;
            read_text(&folder.join(name)).ok()
        };
        let (read_bytes, written_bytes) = self.io().unzip();
        let stat = unified("cpu.stat").unwrap_or_default();
        Usage {
            cpu_us: number_of(&stat, "usage_usec"),
            throttled_us: self.throttled(),
            memory_bytes: self.place(Controller::Memory).and_then(memory),
            pids: self
                .place(Controller::Pids)
                .and_then(|place| read_number(&place.folder.join("pids.current")).ok()),
            read_bytes,
            written_bytes,
            pressure: pressure(|kind| unified(&format!("{kind}.pressure"))),
        }
    }

    fn throttled(&self) -> Option<u64> {
        let place = self.place(Controller::Cpu)?;
        let stat = read_text(&place.folder.join("cpu.stat")).ok()?;
        match place.version {
            Version::V1 => Some(number_of(&stat, "throttled_time")? / 1_000),
            Version::V2 => number_of(&stat, "throttled_usec"),
        }
    }

    fn io(&self) -> Option<(u64, u64)> {
        let place = self.place(Controller::Io)?;
        let read = |name: &str| read_text(&place.folder.join(name)).ok();
        match place.version {
            Version::V1 => Some(io_v1(&read("blkio.throttle.io_service_bytes")?)),
            Version::V2 => Some(io_v2(&read("io.stat")?)),
        }
    }
}

fn memory(place: &Place) -> Option<u64> {
    let (file, unused) = match place.version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.current", "inactive_file"),
    };
    let at = |name: &str| place.folder.join(name);
    let used = read_number(&at(file)).ok()?;
    let stat = read_text(at("memory.stat").as_path() as &Path).ok()?;
    Some(used.saturating_sub(number_of(&stat, unused).unwrap_or(0)))
}

/// Lines such as `8:0 Read 4096`, and a total.
fn io_v1(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let lines = text.lines().filter_map(|line| {
            let [_, found, bytes] = line.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            (found == kind).then(|| bytes.parse::<u64>().ok())?
        });
        lines.sum()
    };
    (sum("Read"), sum("Write"))
}

/// Lines such as `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
fn io_v2(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        let words = text.split_whitespace();
        let values = words.filter_map(|word| word.strip_prefix(kind)?.parse::<u64>().ok());
        values.sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`.
fn pressure(read: impl Fn(&str) -> Option<String>) -> Option<Pressure> {
    let total = |kind: &str| -> Option<u64> {
        let text = read(kind)?;
        let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let mut words = some.split(' ');
        words
            .find_map(|word| word.strip_prefix("total="))?
            .parse()
            .ok()
    };
    Some(Pressure {
        cpu_us: total("cpu")?,
        memory_us: total("memory")?,
        io_us: total("io")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_both_versions_are_summed() {
        let v1 = "8:0 Read 4096\n8:0 Write 10\n8:0 Sync 1\n8:0 Total 4106\n7:1 Read 4\nTotal 9\n";
        assert_eq!(io_v1(v1), (4_100, 10));
        assert_eq!(io_v1("Total 0\n"), (0, 0));
        let v2 = "8:0 rbytes=4096 wbytes=7 rios=1 wios=1\n7:1 rbytes=1 wbytes=0 rios=1 wios=0\n";
        assert_eq!(io_v2(v2), (4_097, 7));
        assert_eq!(io_v2(""), (0, 0));
    }

    #[test]
    fn pressure_is_told_where_all_of_it_is() {
        let line = |total: u64| {
            format!(
                "some avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
            )
        };
        let all = pressure(|kind| Some(line(kind.len() as u64)));
        let wanted = Pressure {
            cpu_us: 3,
            memory_us: 6,
            io_us: 2,
        };
        assert_eq!(all, Some(wanted));
        assert_eq!(pressure(|kind| (kind != "io").then(|| line(1))), None);
    }
}
