//! The brake: when many hosts fall silent at once it is more likely the
//! network, and replacing all of them would do more harm than waiting.
//!
//! ```text
//! Off --3 hosts, and > 20 % or a whole rack, within 30 s--> Held
//! Held --60 s--> Releasing: one host each 10 s
//! Held, Releasing --nobody is held any more--> Off
//! ```

use potluck_specs::{Millis, NodeId};
use std::collections::BTreeMap;

/// Fewer silent hosts never brake, so that small clusters heal one or two
/// hosts at once; a rack smaller than this is no rack.
const HOSTS_MIN: usize = 3;

/// More than a fifth of the cluster: disks and boards don't fail so.
const SHARE_DIVISOR: usize = 5;

/// Failures of one cause are noticed within this.
const WINDOW: Millis = Millis(30_000);

/// Switches restart and people replug cables within this.
const HOLD: Millis = Millis(60_000);

/// Between two releases: replacements of one host are healthy by then.
const RELEASE_EVERY: Millis = Millis(10_000);

/// A host that is missed.
#[derive(Clone, Debug)]
pub(super) struct Suspect<'a> {
    pub(super) node: NodeId,
    pub(super) rack: &'a str,
    pub(super) since: Millis,
    /// Declared gone, waiting to be let go.
    pub(super) waits: bool,
    /// Let go already.
    pub(super) lost: bool,
}

/// What the brake says now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Hosts whose slots may be replaced.
    pub(super) release: Vec<NodeId>,
    /// It came on just now, for so many.
    pub(super) came_on: Option<u32>,
    /// It went off just now.
    pub(super) went_off: bool,
}

#[derive(Debug, Default)]
pub(super) struct Brake {
    on_since: Option<Millis>,
    released_at: Option<Millis>,
}

impl Brake {
    pub(super) fn is_on(&self) -> bool {
        self.on_since.is_some()
    }

    /// Who may be let go now. `racks`: hosts in each rack.
    pub(super) fn judge(
        &mut self,
        suspects: &[Suspect<'_>],
        racks: &BTreeMap<String, usize>,
        now: Millis,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        if self.on_since.is_some() && suspects.iter().all(|s| s.lost) {
            *self = Brake::default();
            verdict.went_off = true;
        }
        if self.on_since.is_none()
            && let Some(count) = many(suspects, racks, now)
        {
            self.on_since = Some(now);
            verdict.came_on = Some(count);
        }
        let mut waiting = suspects.iter().filter(|s| s.waits && !s.lost);
        match self.on_since {
            None => verdict.release = waiting.map(|s| s.node).collect(),
            Some(since) => {
                let rested = self
                    .released_at
                    .is_none_or(|at| now.since(at) >= RELEASE_EVERY);
                if now.since(since) >= HOLD
                    && rested
                    && let Some(next) = waiting.next()
                {
                    verdict.release.push(next.node);
                    self.released_at = Some(now);
                }
            }
        }
        verdict
    }
}

/// So many are missed at once that it looks like a partition. Those that were
/// let go still count while the window lasts, but cannot alone put it on.
/// Hosts that were missed before the window are not there to fall silent: of
/// their rack, and of the cluster, only the others are counted.
fn many(suspects: &[Suspect<'_>], racks: &BTreeMap<String, usize>, now: Millis) -> Option<u32> {
    let (recent, before): (Vec<_>, Vec<_>) = suspects
        .iter()
        .partition(|suspect| now.since(suspect.since) <= WINDOW);
    if recent.len() < HOSTS_MIN || recent.iter().all(|s| s.lost) {
        return None;
    }
    let hosts = racks.values().sum::<usize>().saturating_sub(before.len());
    let large_share = recent.len() * SHARE_DIVISOR > hosts;
    let whole_rack = racks.iter().any(|(rack, size)| {
        let of_it = |some: &[&Suspect<'_>]| some.iter().filter(|s| s.rack == *rack).count();
        let there = size.saturating_sub(of_it(&before));
        there >= HOSTS_MIN && of_it(&recent) == there
    });
    (large_share || whole_rack).then_some(recent.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspects(count: u8, rack: &'static str, since: u64) -> Vec<Suspect<'static>> {
        (0..count)
            .map(|k| Suspect {
                node: NodeId([k; 32]),
                rack,
                since: Millis(since),
                waits: true,
                lost: false,
            })
            .collect()
    }

    fn sized<const N: usize>(racks: [(&str, usize); N]) -> BTreeMap<String, usize> {
        racks
            .map(|(rack, size)| (rack.to_owned(), size))
            .into_iter()
            .collect()
    }

    #[test]
    fn comes_on_by_the_rule() {
        // hosts per rack (3 racks), silent hosts of the first rack, brakes?
        let table = [
            (1, 1, false),
            (2, 2, false),  // 2 of 6: too few
            (3, 2, false),  // 2 of 9
            (3, 3, true),   // a whole rack
            (10, 3, false), // 3 of 30: a tenth
            (10, 6, false), // exactly a fifth
            (10, 7, true),  // more than a fifth
            (10, 10, true),
        ];
        for (size, silent, brakes) in table {
            let racks = sized([("a", size), ("b", size), ("c", size)]);
            let mut brake = Brake::default();
            let verdict = brake.judge(&suspects(silent, "a", 1_000), &racks, Millis(2_000));
            assert_eq!(verdict.came_on.is_some(), brakes, "{silent} of {size}");
            assert_eq!(verdict.release.is_empty(), brakes, "{silent} of {size}");
        }
    }

    #[test]
    fn hosts_lost_before_are_not_counted() {
        // Of a rack of so many, this many were lost an hour ago; the others
        // fall silent now. Brakes?
        for (size, lost, brakes) in [(4, 1, true), (9, 6, true), (3, 1, false), (4, 2, false)] {
            // Large enough that no share of it counts.
            let racks = sized([("a", size), ("b", 60)]);
            let mut all = suspects(size as u8, "a", 4_000_000);
            for suspect in &mut all[..lost] {
                (suspect.since, suspect.lost) = (Millis(400_000), true);
            }
            let verdict = Brake::default().judge(&all, &racks, Millis(4_000_000));
            assert_eq!(verdict.came_on.is_some(), brakes, "{lost} of {size}");
        }
        // Nor of the cluster: 3 of the 14 that are left are more than a fifth.
        let racks = sized([("a", 6), ("b", 6), ("c", 6)]);
        let mut all = suspects(7, "a", 4_000_000);
        for suspect in &mut all[..4] {
            (suspect.since, suspect.lost) = (Millis(400_000), true);
        }
        all[4].rack = "b";
        let verdict = Brake::default().judge(&all, &racks, Millis(4_000_000));
        assert_eq!(verdict.came_on, Some(3));
    }

    #[test]
    fn failures_far_apart_do_not_add_up() {
        let racks = sized([("a", 9)]);
        let mut all = suspects(3, "a", 1_000);
        all[2].since = Millis(40_000);
        let verdict = Brake::default().judge(&all, &racks, Millis(40_000));
        assert_eq!(verdict.release.len(), 3);
    }

    #[test]
    fn lets_go_one_by_one_after_a_minute() {
        let racks = sized([("a", 3), ("b", 3)]);
        let mut all = suspects(3, "a", 0);
        let mut brake = Brake::default();
        let mut released = Vec::new();
        for second in 0..100u64 {
            for node in brake.judge(&all, &racks, Millis(second * 1_000)).release {
                released.push(second);
                all.iter_mut().find(|s| s.node == node).unwrap().lost = true;
            }
        }
        assert_eq!(released, [60, 70, 80]);
        assert!(!brake.is_on());
    }

    #[test]
    fn goes_off_when_they_return() {
        let racks = sized([("a", 3), ("b", 3)]);
        let mut brake = Brake::default();
        brake.judge(&suspects(3, "a", 0), &racks, Millis(0));
        assert!(brake.is_on());
        assert!(brake.judge(&[], &racks, Millis(5_000)).went_off);
        assert!(!brake.is_on());
    }
}
