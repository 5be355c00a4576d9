//! What a group allows: set, and read back. A limit that can't be set or that
//! the kernel changed is said, never passed over.

use super::{Controller, Place, TaskGroup, Version, read_text, write_file};
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

/// Processes and threads of one task: a fork bomb ends here, a large Java
/// server does not.
pub const PIDS_MAX: u64 = 4_096;

/// Length of a period of a CPU quota: the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Least room between the limit, at which a task of v2 is slowed down and then
/// told to end, and the wall at which the kernel kills.
const WALL_BYTES_MIN: u64 = 64 << 20;

/// What a task may use. Nothing set is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Thousandths of a core that it asked for: its share while the node is
    /// busy.
    pub cpu_request_millis: u32,
    /// Thousandths of a core that it never passes.
    pub cpu_quota_millis: Option<u32>,
    /// What of an unused quota may be used later, in thousandths of a core
    /// within one period; at most the quota. Only with one.
    pub cpu_burst_millis: Option<u32>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Share of the disks, 1 to 1,000; 100 is what everybody has.
    pub io_weight: Option<u16>,
    /// Limits of single disks.
    pub devices: Vec<DeviceLimit>,
}

/// What a task may do to one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceLimit {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Bytes read a second.
    pub read_bytes_per_s: Option<u64>,
    /// Bytes written a second.
    pub write_bytes_per_s: Option<u64>,
    /// Reads a second.
    pub read_ops_per_s: Option<u64>,
    /// Writes a second.
    pub write_ops_per_s: Option<u64>,
}

impl Limits {
    /// The memory at which the kernel of v2 kills: a quarter above the limit.
    pub(crate) fn wall(bytes: u64) -> u64 {
        bytes.saturating_add((bytes / 4).max(WALL_BYTES_MIN))
    }
}

impl TaskGroup {
    /// Sets all limits, those that are not wanted included. What is wanted and
    /// not there, for people.
    pub fn set(&self, limits: &Limits) -> Vec<String> {
        let kinds = Controller::ALL.map(|controller| self.set_one(controller, limits));
        kinds.into_iter().flatten().collect()
    }

    /// Sets the limits of one kind.
    pub fn set_one(&self, controller: Controller, limits: &Limits) -> Vec<String> {
        let mut refused = Refused(Vec::new());
        match self.place(controller) {
            Some(place) => match controller {
                Controller::Cpu => set_cpu(place, limits, &mut refused),
                Controller::Memory => set_memory(place, limits, &mut refused),
                Controller::Pids => set_pids(place, limits, &mut refused),
                Controller::Io => set_io(place, limits, &mut refused),
            },
            None if limits.wants(controller) => {
                refused.say(controller, "the host has no such controller");
            }
            None => {}
        }
        refused.0
    }
}

impl Limits {
    fn wants(&self, controller: Controller) -> bool {
        match controller {
            Controller::Cpu => self.cpu_request_millis > 0 || self.cpu_quota_millis.is_some(),
            Controller::Memory => self.memory_bytes.is_some(),
            Controller::Pids => self.pids.is_some(),
            Controller::Io => self.io_weight.is_some() || !self.devices.is_empty(),
        }
    }
}

/// What could not be set, for people.
struct Refused(Vec<String>);

impl Refused {
    fn say(&mut self, controller: Controller, why: impl std::fmt::Display) {
        self.0.push(format!("{} limit: {why}", controller.name()));
    }

    /// Takes the outcome of one file.
    fn take(&mut self, controller: Controller, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.say(controller, why);
        }
    }
}

fn set_cpu(place: &Place, limits: &Limits, refused: &mut Refused) {
    let v2 = place.version == Version::V2;
    let shares = (u64::from(limits.cpu_request_millis) * 1_024 / 1_000).clamp(2, 262_144);
    let weight = match v2 {
        // The kernel's own conversion of the old scale to the new.
        true => put_number(place, "cpu.weight", 1 + (shares - 2) * 9_999 / 262_142),
        false => put_number(place, "cpu.shares", shares),
    };
    refused.take(place.controller, weight);
    let outcome = match v2 {
        true => set_quota(place, limits, "cpu.max.burst", |quota| {
            let text = quota.map_or("max".into(), |quota| quota.to_string());
            put(place, "cpu.max", &format!("{text} {PERIOD_US}"))
        }),
        false => set_quota(place, limits, "cpu.cfs_burst_us", |quota| {
            put_number(place, "cpu.cfs_period_us", PERIOD_US)?;
            let text = quota.map_or("-1".into(), |quota| quota.to_string());
            put(place, "cpu.cfs_quota_us", &text)
        }),
    };
    let wanted = limits.cpu_quota_millis.is_some();
    if let Err(why) = outcome
        && wanted
    {
        refused.say(place.controller, why);
    }
}

/// A burst is never above the quota, also between two writes: it goes first and
/// comes last. Kernels without bursts have no such file.
fn set_quota(
    place: &Place,
    limits: &Limits,
    burst_file: &str,
    put_quota: impl Fn(Option<u64>) -> Result<(), String>,
) -> Result<(), String> {
    let period = |millis: u32| u64::from(millis) * PERIOD_US / 1_000;
    let quota = limits.cpu_quota_millis.map(period);
    if place.folder.join(burst_file).exists() {
        put_number(place, burst_file, 0)?;
    }
    put_quota(quota)?;
    match (quota, limits.cpu_burst_millis.map(period)) {
        (Some(quota), Some(burst)) => put_number(place, burst_file, burst.min(quota)),
        _ => Ok(()),
    }
}

fn set_memory(place: &Place, limits: &Limits, refused: &mut Refused) {
    let bytes = limits.memory_bytes;
    let result = match place.version {
        Version::V1 => set_memory_v1(place, bytes),
        Version::V2 => set_memory_v2(place, bytes),
    };
    refused.take(place.controller, result);
}

/// The kernel waits at the limit instead of killing, so that the helper
/// decides what follows. Where it refuses that, it kills as ever, and the
/// helper says so afterwards.
fn set_memory_v1(place: &Place, bytes: Option<u64>) -> Result<(), String> {
    let _ = write_file(&place.folder.join("memory.swappiness"), "0");
    let wait = if bytes.is_some() { "1" } else { "0" };
    let _ = write_file(&place.folder.join("memory.oom_control"), wait);
    match bytes {
        Some(bytes) => put_number(place, "memory.limit_in_bytes", bytes),
        None => written(place, "memory.limit_in_bytes", "-1"),
    }
}

/// The limit slows down; the wall above it is the kernel's, and takes the whole
/// task at once. A wall below what is used would be a kill: on the way down the
/// limit goes first.
fn set_memory_v2(place: &Place, bytes: Option<u64>) -> Result<(), String> {
    // Absent without swap.
    let _ = write_file(&place.folder.join("memory.swap.max"), "0");
    put(place, "memory.oom.group", "1")?;
    // Frees what it can on the way down.
    put_bytes(place, "memory.high", bytes)?;
    let wall = bytes.map(Limits::wall);
    let used = read(place, "memory.current").unwrap_or_default();
    if used
        .trim()
        .parse()
        .is_ok_and(|used: u64| wall.is_some_and(|wall| used > wall))
    {
        return Err(format!("memory.max: {} bytes are in use", used.trim()));
    }
    put_bytes(place, "memory.max", wall)
}

fn put_bytes(place: &Place, file: &str, bytes: Option<u64>) -> Result<(), String> {
    match bytes {
        Some(bytes) => put_number(place, file, bytes),
        None => put(place, file, "max"),
    }
}

fn set_pids(place: &Place, limits: &Limits, refused: &mut Refused) {
    let text = limits.pids.map_or("max".into(), |pids| pids.to_string());
    refused.take(place.controller, put(place, "pids.max", &text));
}

fn set_io(place: &Place, limits: &Limits, refused: &mut Refused) {
    if let Some(weight) = limits.io_weight {
        refused.take(place.controller, set_io_weight(place, weight));
    }
    refused.take(place.controller, set_devices(place, &limits.devices));
}

/// Whatever scheduler the host has for it; most have none.
fn set_io_weight(place: &Place, weight: u16) -> Result<(), String> {
    let files = match place.version {
        Version::V1 => ["blkio.bfq.weight", "blkio.weight"],
        Version::V2 => ["io.bfq.weight", "io.weight"],
    };
    let file = files.iter().find(|file| place.folder.join(file).exists());
    let file = file.ok_or("the host has no scheduler of disks with weights")?;
    let weight = weight.clamp(1, 1_000);
    written(place, file, &weight.to_string())?;
    let found = read(place, file)?;
    // v2 and newer kernels of v1 say "default 100".
    match found
        .split_whitespace()
        .find_map(|word| word.parse::<u16>().ok())
    {
        Some(found) if weight == found => Ok(()),
        _ => Err(format!("{file} is {} instead of {weight}", found.trim())),
    }
}

fn set_devices(place: &Place, devices: &[DeviceLimit]) -> Result<(), String> {
    match place.version {
        Version::V1 => set_devices_v1(place, devices),
        Version::V2 => set_devices_v2(place, devices),
    }
}

fn set_devices_v1(place: &Place, devices: &[DeviceLimit]) -> Result<(), String> {
    type Of = fn(&DeviceLimit) -> Option<u64>;
    let files: [(&str, Of); 4] = [
        ("blkio.throttle.read_bps_device", |one| one.read_bytes_per_s),
        ("blkio.throttle.write_bps_device", |one| {
            one.write_bytes_per_s
        }),
        ("blkio.throttle.read_iops_device", |one| one.read_ops_per_s),
        ("blkio.throttle.write_iops_device", |one| {
            one.write_ops_per_s
        }),
    ];
    for (file, of) in files {
        let wanted = devices
            .iter()
            .filter_map(|one| Some((one.name(), of(one)?)));
        let wanted: Vec<(String, u64)> = wanted.collect();
        let Ok(before) = read(place, file) else {
            match wanted.is_empty() {
                true => continue,
                false => return Err(format!("the host has no {file}")),
            }
        };
        for (device, _) in before.lines().filter_map(|line| line.split_once(' ')) {
            if !wanted.iter().any(|(name, _)| name == device) {
                written(place, file, &format!("{device} 0"))?;
            }
        }
        for (device, value) in wanted {
            written(place, file, &format!("{device} {value}"))?;
            let line = format!("{device} {value}");
            let found = read(place, file)?;
            if !found.lines().any(|one| one == line) {
                return Err(format!("{file} has no line {line:?}"));
            }
        }
    }
    Ok(())
}

fn set_devices_v2(place: &Place, devices: &[DeviceLimit]) -> Result<(), String> {
    const FILE: &str = "io.max";
    let Ok(before) = read(place, FILE) else {
        return match devices.is_empty() {
            true => Ok(()),
            false => Err(format!("the host has no {FILE}")),
        };
    };
    let gone = DeviceLimit::default().v2_words();
    for (device, _) in before.lines().filter_map(|line| line.split_once(' ')) {
        if !devices.iter().any(|one| one.name() == device) {
            written(place, FILE, &format!("{device} {gone}"))?;
        }
    }
    for one in devices {
        let line = format!("{} {}", one.name(), one.v2_words());
        written(place, FILE, &line)?;
        let found = read(place, FILE)?;
        let unlimited = one.v2_words() == gone;
        if !unlimited && !found.lines().any(|found| found.trim() == line) {
            return Err(format!("{FILE} has no line {line:?}"));
        }
    }
    Ok(())
}

impl DeviceLimit {
    fn name(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }

    fn v2_words(&self) -> String {
        let text = |value: Option<u64>| value.map_or("max".into(), |value| value.to_string());
        format!(
            "rbps={} wbps={} riops={} wiops={}",
            text(self.read_bytes_per_s),
            text(self.write_bytes_per_s),
            text(self.read_ops_per_s),
            text(self.write_ops_per_s)
        )
    }
}

/// Writes a text that the kernel gives back as it is.
fn put(place: &Place, file: &str, text: &str) -> Result<(), String> {
    written(place, file, text)?;
    let found = read(place, file)?;
    match found.trim() == text {
        true => Ok(()),
        false => Err(format!("{file} is {} instead of {text}", found.trim())),
    }
}

/// Writes a number; the kernel rounds those of memory to pages.
fn put_number(place: &Place, file: &str, wanted: u64) -> Result<(), String> {
    written(place, file, &wanted.to_string())?;
    let found = read(place, file)?;
    match found.trim().parse() {
        Ok(found) if close(found, wanted) => Ok(()),
        _ => Err(format!("{file} is {} instead of {wanted}", found.trim())),
    }
}

fn written(place: &Place, file: &str, text: &str) -> Result<(), String> {
    write_file(&place.folder.join(file), text).map_err(|error| told(file, text, &error))
}

fn told(file: &str, text: &str, error: &io::Error) -> String {
    format!("{file} = {text}: {error}")
}

fn read(place: &Place, file: &str) -> Result<String, String> {
    let path: &Path = &place.folder.join(file);
    read_text(path).map_err(|error| format!("{file}: {error}"))
}

/// Exactly what was asked for, but for the rounding of memory to pages.
fn close(found: u64, wanted: u64) -> bool {
    const PAGE_BYTES_MAX: u64 = 64 << 10;
    let slack = if wanted > 16 * PAGE_BYTES_MAX {
        PAGE_BYTES_MAX
    } else {
        0
    };
    found.abs_diff(wanted) <= slack
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_the_kernel_rounds_is_close() {
        assert!(close(64 << 20, (64 << 20) + 100));
        assert!(!close(0, 1));
        assert!(!close(u64::MAX, 64 << 20));
        assert!(!close(2, 256));
        assert!(!close(99_000, 100_000));
        assert!(close(256, 256));
    }

    fn place(controller: Controller, version: Version) -> (tempfile::TempDir, TaskGroup) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            controller,
            version,
            folder: folder.path().into(),
        };
        let group = TaskGroup {
            places: vec![place],
            unified: None,
        };
        (folder, group)
    }

    /// The kernel's files as plain ones: what is written is what is there.
    fn files(folder: &tempfile::TempDir, names: &[&str]) {
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
    }

    #[test]
    fn memory_has_a_limit_and_a_wall_above_it() {
        let (folder, group) = place(Controller::Memory, Version::V2);
        let limits = Limits {
            memory_bytes: Some(400 << 20),
            ..Limits::default()
        };
        let told = group.set_one(Controller::Memory, &limits);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("memory.oom.group"), "{told:?}");
        files(&folder, &["memory.oom.group", "memory.high", "memory.max"]);
        assert_eq!(group.set_one(Controller::Memory, &limits), [""; 0]);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("memory.high"), (400_u64 << 20).to_string());
        assert_eq!(read("memory.max"), (500_u64 << 20).to_string());
        assert_eq!(Limits::wall(64 << 20), 128 << 20);
    }

    #[test]
    fn what_is_wanted_and_not_there_is_said_and_the_rest_is_not() {
        let none = TaskGroup::default();
        assert_eq!(none.set(&Limits::default()), [""; 0]);
        let all = Limits {
            cpu_request_millis: 100,
            memory_bytes: Some(1 << 20),
            pids: Some(7),
            io_weight: Some(200),
            ..Limits::default()
        };
        let told = none.set(&all);
        let wanted = ["cpu", "memory", "pids", "io"]
            .map(|name| format!("{name} limit: the host has no such controller"));
        assert_eq!(told, wanted);
    }
}
