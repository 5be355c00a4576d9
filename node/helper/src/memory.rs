//! Watches a task's memory where control groups are those of v1: notices that
//! the limit is reached before the kernel kills, says who used what, and makes
//! a little room so that the task can end in order.
//!
//! The kernel is told to wait at the limit instead of killing
//! (`memory.oom_control`, by the agent). That wait covers page faults in user
//! mode only: inside a system call the same limit gives ENOMEM or a short read
//! and no event. So the notice at nine tenths starts a closer look, and what
//! decides is memory that can't be reclaimed: a task whose files fill the
//! cache is not out of memory.
//!
//! What can't be reclaimed is not only what the kernel's figures call so. Pages
//! of a program that runs are files, and of a large folio that is in use at one
//! end no page is given back: 5 MiB of 64 stayed so while each write to `/tmp`
//! failed, and the task went unnoticed. So charges that fail while nothing is
//! freed count as well ([`Futile`]).
//!
//! With v2 there is no watch yet; what the kernel killed is read afterwards.

use crate::description::MemoryWatch;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

/// Between two looks while nine tenths are used: a task that fills 1 GiB a
/// second is seen a few times before it is full.
pub(crate) const LOOK_MS: u64 = 20;

/// Room that is made for an orderly end: a tenth, and not less than what a
/// program needs to write its state.
const ROOM_BYTES_MIN: u64 = 32 << 20;

/// Part of the limit that files may take while charges fail for want of
/// memory: with more, it is the disk that can't take them fast enough.
const MOSTLY_FILES: u64 = 2;

/// Processes that are named in the note.
const NAMED: usize = 3;

/// Processes that are looked at for it: a fork bomb must not hold us up.
const LOOKED_AT: usize = 256;

/// Longest file of the kernel that is read here.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// What a look, or an event, means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing that matters.
    Fine,
    /// The limit is reached; room was made. Who used what.
    Reached(String),
    /// And it is reached again.
    ReachedAgain,
}

/// The watch over one task.
pub(crate) struct MemoryGuard {
    group: PathBuf,
    limit_bytes: u64,
    near: EventFd,
    full: EventFd,
    /// Kept open: the kernel forgets an event whose file is closed.
    _usage: File,
    _control: File,
    failures: u64,
    freed: u64,
    futile: Futile,
    reached: bool,
}

/// Charges that failed while next to nothing was freed.
///
/// The kernel gives a charge up after 16 rounds of reclaim that freed nothing,
/// and counts a failure for each. Where reclaim works, each failure frees at
/// least one folio: the two counters rise alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Futile {
    failures: u64,
    freed: u64,
}

impl Futile {
    /// Failures that stand for a charge that was given up, and then another:
    /// a task may live with one short write.
    const FAILURES: u64 = 32;

    /// Failures for one freed folio that still count as none freed: under
    /// pressure a page of a program goes and comes back now and then.
    const PER_FREED: u64 = 8;

    /// Takes how far the counters rose. True: charges are given up.
    fn add(&mut self, failures: u64, freed: u64) -> bool {
        self.failures += failures;
        self.freed += freed;
        if self.freed * Self::PER_FREED > self.failures {
            *self = Futile::default();
        }
        self.failures >= Self::FAILURES
    }
}

impl MemoryGuard {
    /// Begins to watch. Fails where the host has no such events.
    pub(crate) fn begin(watch: &MemoryWatch) -> io::Result<MemoryGuard> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let group = watch.group.clone();
        let usage = File::open(group.join("memory.usage_in_bytes"))?;
        let control = File::open(group.join("memory.oom_control"))?;
        let near = EventFd::from_flags(flags)?;
        let full = EventFd::from_flags(flags)?;
        let wanted = [
            format!(
                "{} {} {}",
                near.as_fd().as_raw_fd(),
                usage.as_raw_fd(),
                watch.limit_bytes / 10 * 9
            ),
            format!("{} {}", full.as_fd().as_raw_fd(), control.as_raw_fd()),
        ];
        for line in wanted {
            let mut events = OpenOptions::new()
                .write(true)
                .open(group.join("cgroup.event_control"))?;
            events.write_all(line.as_bytes())?;
        }
        Ok(MemoryGuard {
            failures: read_number(&group.join("memory.failcnt"))?,
            freed: 0,
            futile: Futile::default(),
            group,
            limit_bytes: watch.limit_bytes,
            near,
            full,
            _usage: usage,
            _control: control,
            reached: false,
        })
    }

    /// Readable when nine tenths are used, and each time it gets more again.
    pub(crate) fn near(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }

    /// Readable when the task waits for memory.
    pub(crate) fn full(&self) -> BorrowedFd<'_> {
        self.full.as_fd()
    }

    /// Takes what the descriptors say.
    pub(crate) fn take_events(&mut self) -> Finding {
        let _ = self.near.read();
        if self.full.read().is_ok() {
            return self.reach();
        }
        self.look()
    }

    /// Is a closer look worth it?
    pub(crate) fn is_near(&self) -> bool {
        let usage = read_number(&self.group.join("memory.usage_in_bytes"));
        usage.is_ok_and(|usage| usage >= self.limit_bytes / 10 * 9)
    }

    /// Looks for what gives no event.
    pub(crate) fn look(&mut self) -> Finding {
        let read = |name: &str| read_text(&self.group.join(name)).unwrap_or_default();
        if read("memory.oom_control")
            .lines()
            .any(|line| line == "under_oom 1")
        {
            return self.reach();
        }
        let failures = read("memory.failcnt").trim().parse().unwrap_or(0);
        let failures = failures - std::mem::replace(&mut self.failures, failures).min(failures);
        let stat = read("memory.stat");
        let freed = stat_of(&stat, "total_pgpgout").unwrap_or(0);
        let freed = freed - std::mem::replace(&mut self.freed, freed).min(freed);
        let futile = self.futile.add(failures, freed);
        if failures == 0 {
            return Finding::Fine;
        }
        let usage = read("memory.usage_in_bytes").trim().parse().unwrap_or(0);
        let left = reclaimable(&stat);
        if is_full(usage, left, self.limit()) || futile && left < self.limit() / MOSTLY_FILES {
            return self.reach();
        }
        Finding::Fine
    }

    fn limit(&self) -> u64 {
        match self.reached {
            false => self.limit_bytes,
            true => self.limit_bytes + self.room(),
        }
    }

    fn room(&self) -> u64 {
        (self.limit_bytes / 10).max(ROOM_BYTES_MIN)
    }

    fn reach(&mut self) -> Finding {
        if self.reached {
            return Finding::ReachedAgain;
        }
        let note = self.note();
        self.reached = true;
        self.futile = Futile::default();
        // SIGTERM is not delivered to a task that waits for memory.
        let limit = self.limit().to_string();
        let _ = fs::write(self.group.join("memory.limit_in_bytes"), limit);
        Finding::Reached(note)
    }

    fn note(&self) -> String {
        let pids = read_text(&self.group.join("cgroup.procs")).unwrap_or_default();
        let pids = pids.lines().filter_map(|line| line.parse().ok());
        let mut users: Vec<(u64, String)> = pids.take(LOOKED_AT).filter_map(user).collect();
        users.sort_by(|a, b| b.cmp(a));
        users.truncate(NAMED);
        let users = users.iter();
        let users: Vec<String> = users
            .map(|(bytes, name)| format!("{name} {} MiB", bytes >> 20))
            .collect();
        let stat = read_text(&self.group.join("memory.stat")).unwrap_or_default();
        let files = stat_of(&stat, "total_shmem").unwrap_or(0) >> 20;
        format!(
            "limit {} MiB; {}; files in memory {files} MiB",
            self.limit_bytes >> 20,
            users.join(", ")
        )
    }
}

/// Is there nothing left to reclaim? A twentieth stands for files being counted
/// late, and for what the kernel charges in batches and has not given out yet.
fn is_full(usage: u64, reclaimable: u64, limit: u64) -> bool {
    usage.saturating_sub(reclaimable) >= limit - limit / 20
}

/// Files that the kernel may give back. Pages of programs and libraries that
/// are mapped count as files, and stay.
fn reclaimable(stat: &str) -> u64 {
    let file = |name| stat_of(stat, name).unwrap_or(0);
    let files = file("total_inactive_file") + file("total_active_file");
    files.saturating_sub(file("total_mapped_file"))
}

fn stat_of(stat: &str, name: &str) -> Option<u64> {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name)?.1.parse().ok()
}

/// A process's memory and its name, as the kernel has them.
fn user(pid: i32) -> Option<(u64, String)> {
    let status = read_text(Path::new(&format!("/proc/{pid}/status"))).ok()?;
    let of = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.trim())
    };
    let kilobytes: u64 = of("VmRSS")?.split(' ').next()?.parse().ok()?;
    Some((kilobytes << 10, format!("{} ({pid})", of("Name")?)))
}

/// Has the kernel killed one of the task's processes for want of memory?
pub(crate) fn kernel_killed(watch: &MemoryWatch) -> bool {
    // v1 and v2 have the same word in files of their own.
    ["memory.oom_control", "memory.events"].iter().any(|name| {
        let text = read_text(&watch.group.join(name)).unwrap_or_default();
        stat_of(&text, "oom_kill").is_some_and(|kills| kills > 0)
    })
}

fn read_number(path: &Path) -> io::Result<u64> {
    let text = read_text(path)?;
    let number = text.trim().parse();
    number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_full_cache_is_not_a_full_memory() {
        let stat = |inactive: u64, active: u64| {
            format!("cache 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n")
        };
        let full = |usage: u64, stat: &str| is_full(usage, reclaimable(stat), 64 * MIB);
        assert!(full(64 * MIB, &stat(0, 0)));
        assert!(full(63 * MIB, &stat(0, 0)));
        assert!(!full(60 * MIB, &stat(0, 0)));
        assert!(!full(64 * MIB, &stat(8 * MIB, 0)));
        assert!(!full(64 * MIB, &stat(0, 8 * MIB)));
        assert!(full(64 * MIB, ""));
        // The program itself: files that are in use.
        let mapped = format!("{}total_mapped_file {}\n", stat(0, 8 * MIB), 7 * MIB);
        assert!(full(64 * MIB, &mapped));
    }

    #[test]
    fn charges_that_fail_while_nothing_is_freed_are_futile() {
        let rounds = |rounds: &[(u64, u64)]| {
            let mut futile = Futile::default();
            rounds
                .iter()
                .fold(false, |_, (failures, freed)| futile.add(*failures, *freed))
        };
        // One charge that was given up, and the next.
        assert!(!rounds(&[(17, 0)]));
        assert!(rounds(&[(17, 0), (0, 0), (17, 1)]));
        // A cache that is full: what fails succeeds after reclaim.
        assert!(!rounds(&[(500, 500)]));
        assert!(!rounds(&[(500, 70)]));
        assert!(!rounds(&[(17, 0), (17, 60), (17, 0)]));
        // Memory that the task itself gave back.
        assert!(!rounds(&[(17, 0), (0, 3_000), (17, 0)]));
    }

    #[test]
    fn kills_of_the_kernel_are_read_from_either_version() {
        let folder = tempfile::tempdir().unwrap();
        let watch = MemoryWatch {
            group: folder.path().into(),
            limit_bytes: 1,
        };
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert!(!kernel_killed(&watch));
        put(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        );
        assert!(!kernel_killed(&watch));
        put(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        assert!(kernel_killed(&watch));
        put("memory.oom_control", "");
        put("memory.events", "high 3\nmax 1\noom 1\noom_kill 1\n");
        assert!(kernel_killed(&watch));
    }
}
