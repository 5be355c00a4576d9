//! The watch with cgroup v2.
//!
//! `memory.high` is the limit: above it the kernel slows the task down and does
//! not kill. Left alone there a task crawls for ever, so this is the other half
//! of it: who stays above for three seconds with nothing to reclaim is told to
//! end, and who is half-way to `memory.max`, the kernel's own wall, is told at
//! once (the slowing holds one large populate for two seconds, then the kernel
//! kills it).

use super::{Futile, Names, is_full, reclaimable, v1::rise};
use crate::group::{Limits, number_of, read_number, read_text, write_file};
use potluck_specs::Millis;
use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

/// How long a task may be above its limit before it is told to end: what is
/// freed a moment later was no reason.
const HELD_MS: u64 = 3_000;

/// Between two looks while it is above.
const LOOK_MS: u64 = 100;

/// Longest `memory.events`: six short lines today.
const EVENTS_BYTES_MAX: u64 = 4 << 10;

const NAMES: Names = Names {
    inactive: "inactive_file",
    active: "active_file",
    mapped: "file_mapped",
};

pub(super) struct Watch {
    /// Kept open: its poll answers for what changed since it was read.
    events: File,
    exceeded: u64,
    freed: u64,
    futile: Futile,
    above_since: Option<Millis>,
}

impl Watch {
    /// Begins to watch. Fails where the host has no such file.
    pub(super) fn begin(group: &Path) -> io::Result<Watch> {
        let mut watch = Watch {
            events: File::open(group.join("memory.events"))?,
            exceeded: 0,
            freed: 0,
            futile: Futile::default(),
            above_since: None,
        };
        watch.exceeded = watch.take_events()?;
        Ok(watch)
    }

    /// Urgent when the limit was passed.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Times that the limit or the wall was met. Reading takes the event.
    fn take_events(&mut self) -> io::Result<u64> {
        let mut text = String::new();
        self.events.rewind()?;
        (&mut self.events)
            .take(EVENTS_BYTES_MAX)
            .read_to_string(&mut text)?;
        let of = |name| number_of(&text, name).unwrap_or(0);
        Ok(of("high") + of("max"))
    }

    /// Until the next look, while it is above.
    pub(super) fn look_in_ms(&self) -> Option<u64> {
        self.above_since.map(|_| LOOK_MS)
    }

    /// True: the limit is reached.
    pub(super) fn look(&mut self, group: &Path, limit: u64, now: Millis) -> bool {
        let exceeded = self.take_events().unwrap_or(self.exceeded);
        let exceeded = rise(&mut self.exceeded, exceeded);
        let current = read_number(&group.join("memory.current")).unwrap_or(0);
        if current <= limit {
            self.above_since = None;
            return false;
        }
        let stat = read_text(&group.join("memory.stat")).unwrap_or_default();
        let left = reclaimable(&stat, NAMES);
        let freed = number_of(&stat, "pgsteal").unwrap_or(0);
        let futile = self.futile.add(exceeded, rise(&mut self.freed, freed));
        if current.saturating_sub(left) >= halfway(limit) {
            return true;
        }
        if !is_full(current, left, limit) && !futile {
            self.above_since = None;
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        now.0.saturating_sub(since.0) >= HELD_MS
    }

    /// Moves limit and wall.
    pub(super) fn raise(&mut self, group: &Path, limit: u64) {
        self.futile = Futile::default();
        self.above_since = None;
        let wall = Limits::wall(limit).to_string();
        // The wall first: between the two it must not come closer.
        let _ = write_file(&group.join("memory.max"), &wall);
        let _ = write_file(&group.join("memory.high"), &limit.to_string());
    }
}

/// Half-way from the limit to the wall.
fn halfway(limit: u64) -> u64 {
    limit + (Limits::wall(limit) - limit) / 2
}
