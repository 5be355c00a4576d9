//! Spread is as good as it can be: no placement of a job's tasks over racks,
//! and within them over hosts, is more even than ours. Judged on small worlds
//! that are empty but for one job, against all placements there are.
//!
//! Source: "spread over region, datacenter, cluster, rack, node: default even
//! over the widest level with more than one member". The measure: the counts
//! by rack, largest first, compared as words are; then the same by host.

use super::World;
use potluck_specs::JobName;
use std::collections::BTreeMap;

/// Counts by rack and by host, each largest first: less is more even.
pub type Evenness = (Vec<u32>, Vec<u32>);

/// How even a job's tasks are spread in truth.
pub fn of(world: &World, job: &JobName) -> Evenness {
    let counts = world.machines.iter().map(|machine| {
        let tasks = machine
            .live()
            .filter(|process| process.run.slot.job == *job);
        (machine.rack.as_str(), tasks.count() as u32)
    });
    evenness(&counts.collect::<Vec<_>>())
}

/// The best that any placement of so many tasks reaches: `rooms` has each
/// host's rack and how many tasks it could take. `None`: they don't fit.
pub fn best(rooms: &[(&str, u32)], tasks: u32) -> Option<Evenness> {
    let mut placed: Vec<(&str, u32)> = rooms.iter().map(|(rack, _)| (*rack, 0)).collect();
    let mut best = None;
    search(rooms, tasks, 0, &mut placed, &mut best);
    best
}

fn search<'a>(
    rooms: &[(&'a str, u32)],
    left: u32,
    from: usize,
    placed: &mut Vec<(&'a str, u32)>,
    best: &mut Option<Evenness>,
) {
    if from == rooms.len() {
        if left == 0 {
            let found = evenness(placed);
            if best.as_ref().is_none_or(|best| found < *best) {
                *best = Some(found);
            }
        }
        return;
    }
    for count in 0..=rooms[from].1.min(left) {
        placed[from].1 = count;
        search(rooms, left - count, from + 1, placed, best);
    }
    placed[from].1 = 0;
}

fn evenness(counts: &[(&str, u32)]) -> Evenness {
    let mut racks: BTreeMap<&str, u32> = BTreeMap::new();
    for (rack, count) in counts {
        *racks.entry(rack).or_default() += count;
    }
    let down = |mut counts: Vec<u32>| {
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    };
    let by_host = counts.iter().map(|(_, count)| *count).collect();
    (down(racks.into_values().collect()), down(by_host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_even_as_far_as_there_is_room() {
        let rooms = [("a", 4), ("a", 4), ("b", 1), ("c", 4)];
        assert_eq!(best(&rooms, 3), Some((vec![1, 1, 1], vec![1, 1, 1, 0])));
        assert_eq!(best(&rooms, 7), Some((vec![3, 3, 1], vec![3, 2, 1, 1])));
        assert_eq!(best(&rooms, 14), None);
    }
}
