//! Watches a task's memory: notices that the limit is reached before the kernel
//! kills, says who used what, and makes a little room so that the task can end
//! in order.
//!
//! How it is noticed differs between cgroup [`v1`] and [`v2`]; what follows is
//! the same. What the kernel killed all the same is read afterwards.

mod v1;
mod v2;

use crate::{
    description::MemoryWatch,
    group::{number_of, read_text},
};
use nix::sys::epoll::EpollFlags;
use potluck_specs::Millis;
use std::{io, os::fd::BorrowedFd, path::Path};

/// Room that is made for an orderly end: a tenth, and not less than what a
/// program needs to write its state.
const ROOM_BYTES_MIN: u64 = 32 << 20;

/// Processes that are named in the note.
const NAMED: usize = 3;

/// Processes that are looked at for it: a fork bomb must not hold us up.
const LOOKED_AT: usize = 256;

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
    watch: MemoryWatch,
    kind: Kind,
    reached: bool,
}

enum Kind {
    V1(v1::Watch),
    V2(v2::Watch),
}

impl MemoryGuard {
    /// Begins to watch. Fails where the host has no such events.
    pub(crate) fn begin(watch: &MemoryWatch) -> io::Result<MemoryGuard> {
        let kind = match watch.group.join("memory.events").exists() {
            true => Kind::V2(v2::Watch::begin(&watch.group)?),
            false => Kind::V1(v1::Watch::begin(&watch.group, watch.limit_bytes)?),
        };
        Ok(MemoryGuard {
            watch: watch.clone(),
            kind,
            reached: false,
        })
    }

    /// Goes on watching a task that was, or was not, told to end already.
    pub(crate) fn resume(watch: &MemoryWatch, reached: bool) -> io::Result<MemoryGuard> {
        let guard = MemoryGuard::begin(watch)?;
        Ok(MemoryGuard { reached, ..guard })
    }

    /// What to wait for: the first tells that it gets near, the second that
    /// the task waits for memory.
    pub(crate) fn sources(&self) -> [Option<(BorrowedFd<'_>, EpollFlags)>; 2] {
        match &self.kind {
            Kind::V1(watch) => {
                [watch.near(), watch.full()].map(|fd| Some((fd, EpollFlags::EPOLLIN)))
            }
            // Always readable: what counts is that it changed.
            Kind::V2(watch) => [Some((watch.events(), EpollFlags::EPOLLPRI)), None],
        }
    }

    /// Takes what the descriptors say.
    pub(crate) fn take_events(&mut self, now: Millis) -> Finding {
        let waits = match &mut self.kind {
            Kind::V1(watch) => watch.take_events(),
            Kind::V2(_) => false,
        };
        match waits {
            true => self.reach(),
            false => self.look(now),
        }
    }

    /// Until a closer look is worth it, if it is.
    pub(crate) fn look_in_ms(&self) -> Option<u64> {
        match &self.kind {
            Kind::V1(watch) => Some(watch.look_in_ms(&self.watch.group, self.watch.limit_bytes)),
            Kind::V2(watch) => watch.look_in_ms(),
        }
    }

    /// Looks for what gives no event.
    pub(crate) fn look(&mut self, now: Millis) -> Finding {
        let (group, limit) = (&self.watch.group, self.limit());
        let reached = match &mut self.kind {
            Kind::V1(watch) => watch.look(group, limit),
            Kind::V2(watch) => watch.look(group, limit, now),
        };
        match reached {
            true => self.reach(),
            false => Finding::Fine,
        }
    }

    /// Was the task already told to end?
    pub(crate) fn is_reached(&self) -> bool {
        self.reached
    }

    fn limit(&self) -> u64 {
        match self.reached {
            false => self.watch.limit_bytes,
            true => self.watch.limit_bytes + self.room(),
        }
    }

    fn room(&self) -> u64 {
        (self.watch.limit_bytes / 10).max(ROOM_BYTES_MIN)
    }

    fn reach(&mut self) -> Finding {
        if self.reached {
            return Finding::ReachedAgain;
        }
        let note = self.note();
        self.reached = true;
        let (group, limit) = (&self.watch.group, self.limit());
        match &mut self.kind {
            Kind::V1(watch) => watch.raise(group, limit),
            Kind::V2(watch) => watch.raise(group, limit),
        }
        Finding::Reached(note)
    }

    fn note(&self) -> String {
        let group = &self.watch.group;
        let pids = read_text(&group.join("cgroup.procs")).unwrap_or_default();
        let pids = pids.lines().filter_map(|line| line.parse().ok());
        let mut users: Vec<(u64, String)> = pids.take(LOOKED_AT).filter_map(user).collect();
        users.sort_by(|a, b| b.cmp(a));
        users.truncate(NAMED);
        let users = users.iter();
        let users: Vec<String> = users
            .map(|(bytes, name)| format!("{name} {} MiB", bytes >> 20))
            .collect();
        let stat = read_text(&group.join("memory.stat")).unwrap_or_default();
        let files = number_of(&stat, "total_shmem").or_else(|| number_of(&stat, "shmem"));
        format!(
            "limit {} MiB; {}; files in memory {} MiB",
            self.watch.limit_bytes >> 20,
            users.join(", "),
            files.unwrap_or(0) >> 20
        )
    }
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

/// Is there nothing left to reclaim? A twentieth stands for files being counted
/// late, and for what the kernel charges in batches and has not given out yet.
fn is_full(usage: u64, reclaimable: u64, limit: u64) -> bool {
    usage.saturating_sub(reclaimable) >= limit - limit / 20
}

/// What the figures of `memory.stat` are called.
#[derive(Clone, Copy)]
struct Names {
    inactive: &'static str,
    active: &'static str,
    mapped: &'static str,
}

/// Files that the kernel may give back. Pages of programs and libraries that
/// are mapped count as files, and stay.
fn reclaimable(stat: &str, names: Names) -> u64 {
    let file = |name| number_of(stat, name).unwrap_or(0);
    let files = file(names.inactive) + file(names.active);
    files.saturating_sub(file(names.mapped))
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
        number_of(&text, "oom_kill").is_some_and(|kills| kills > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const MIB: u64 = 1 << 20;
    const NAMES: Names = Names {
        inactive: "total_inactive_file",
        active: "total_active_file",
        mapped: "total_mapped_file",
    };

    #[test]
    fn a_full_cache_is_not_a_full_memory() {
        let stat = |inactive: u64, active: u64| {
            format!("cache 1\ntotal_inactive_file {inactive}\ntotal_active_file {active}\n")
        };
        let full = |usage: u64, stat: &str| is_full(usage, reclaimable(stat, NAMES), 64 * MIB);
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
