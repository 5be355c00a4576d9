//! The watch with cgroup v1.
//!
//! The kernel is told to wait at the limit instead of killing
//! (`memory.oom_control`). That wait covers page faults in user mode only:
//! inside a system call the same limit gives ENOMEM or a short read and no
//! event. So the notice at nine tenths starts a closer look, and what decides
//! is memory that can't be reclaimed: a task whose files fill the cache is not
//! out of memory.
//!
//! What can't be reclaimed is not only what the kernel's figures call so: of a
//! program's pages that are files some stay although nothing maps them, 3 MiB
//! of 64 when it had just been read from disk. So charges that fail while
//! nothing is freed count as well ([`Futile`]).

use super::{Futile, Names, is_full, reclaimable};
use crate::group::{number_of, read_number, read_text};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

/// Between two looks while charges fail: a task that fills 1 GiB a second is
/// seen a few times before it is full.
const LOOK_MS: u64 = 20;

/// Between two looks while nine tenths are used and nothing fails. Many tasks
/// live there, their limit full of files.
const LOOK_CALM_MS: u64 = 200;

/// Between two looks otherwise. The kernel says once that nine tenths are
/// passed, and not again after a dip that it did not see: it looks only every
/// 128 pages for each processor, and gives back what it had charged in advance
/// at any time. Whoever went by its word alone waited for ever.
const LOOK_FAR_MS: u64 = 1_000;

/// Part of the limit that files may take while charges fail for want of
/// memory: with more, it is the disk that can't take them fast enough.
const MOSTLY_FILES: u64 = 2;

const NAMES: Names = Names {
    inactive: "total_inactive_file",
    active: "total_active_file",
    mapped: "total_mapped_file",
};

pub(super) struct Watch {
    near: EventFd,
    full: EventFd,
    /// Kept open: the kernel forgets an event whose file is closed.
    _usage: File,
    _control: File,
    failures: u64,
    freed: u64,
    futile: Futile,
    failed: bool,
}

impl Watch {
    /// Begins to watch. Fails where the host has no such events.
    pub(super) fn begin(group: &Path, limit_bytes: u64) -> io::Result<Watch> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let usage = File::open(group.join("memory.usage_in_bytes"))?;
        let control = File::open(group.join("memory.oom_control"))?;
        let near = EventFd::from_flags(flags)?;
        let full = EventFd::from_flags(flags)?;
        let wanted = [
            format!(
                "{} {} {}",
                near.as_fd().as_raw_fd(),
                usage.as_raw_fd(),
                limit_bytes / 10 * 9
            ),
            format!("{} {}", full.as_fd().as_raw_fd(), control.as_raw_fd()),
        ];
        for line in wanted {
            let mut events = OpenOptions::new()
                .write(true)
                .open(group.join("cgroup.event_control"))?;
            events.write_all(line.as_bytes())?;
        }
        Ok(Watch {
            failures: read_number(&group.join("memory.failcnt"))?,
            freed: 0,
            futile: Futile::default(),
            near,
            full,
            _usage: usage,
            _control: control,
            failed: false,
        })
    }

    /// Readable when nine tenths are used, and each time it gets more again.
    pub(super) fn near(&self) -> BorrowedFd<'_> {
        self.near.as_fd()
    }

    /// Readable when the task waits for memory.
    pub(super) fn full(&self) -> BorrowedFd<'_> {
        self.full.as_fd()
    }

    /// Takes what the descriptors say. True: the limit is reached.
    pub(super) fn take_events(&mut self) -> bool {
        let _ = self.near.read();
        self.full.read().is_ok()
    }

    /// Until the next look.
    pub(super) fn look_in_ms(&self, group: &Path, limit: u64) -> u64 {
        let usage = read_number(&group.join("memory.usage_in_bytes"));
        let near = usage.is_ok_and(|usage| usage >= limit / 10 * 9);
        match (self.failed, near) {
            (true, _) => LOOK_MS,
            (false, true) => LOOK_CALM_MS,
            (false, false) => LOOK_FAR_MS,
        }
    }

    /// Looks for what gives no event. True: the limit is reached.
    pub(super) fn look(&mut self, group: &Path, limit: u64) -> bool {
        let read = |name: &str| read_text(&group.join(name)).unwrap_or_default();
        let control = read("memory.oom_control");
        if number_of(&control, "under_oom") == Some(1) {
            return true;
        }
        let failures = read("memory.failcnt").trim().parse().unwrap_or(0);
        let failures = rise(&mut self.failures, failures);
        self.failed = failures > 0;
        if !self.failed {
            return false;
        }
        let stat = read("memory.stat");
        let freed = number_of(&stat, "total_pgpgout").unwrap_or(0);
        let futile = self.futile.add(failures, rise(&mut self.freed, freed));
        let usage = read("memory.usage_in_bytes").trim().parse().unwrap_or(0);
        let left = reclaimable(&stat, NAMES);
        is_full(usage, left, limit) || futile && left < limit / MOSTLY_FILES
    }

    /// Moves the limit, so that a task that waits for memory goes on: SIGTERM
    /// is not delivered to one that does.
    pub(super) fn raise(&mut self, group: &Path, limit: u64) {
        self.futile = Futile::default();
        let _ = fs::write(group.join("memory.limit_in_bytes"), limit.to_string());
    }
}

/// How far a counter rose.
pub(super) fn rise(before: &mut u64, now: u64) -> u64 {
    now.saturating_sub(std::mem::replace(before, now))
}
