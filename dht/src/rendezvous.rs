//! Which two members keep track of a package: rendezvous hashing, so that
//! everybody with the same view agrees without asking, and a member that
//! leaves moves only what it held.

use potluck_specs::{NodeId, PackageId};

/// How many trackers a package has: one may be slow or just gone.
pub const TRACKERS: usize = 2;

/// The trackers of `id` among `live` members, best first; fewer than
/// [`TRACKERS`] only if fewer are alive.
pub fn trackers(id: PackageId, live: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ranked: Vec<([u8; 32], NodeId)> = live
        .into_iter()
        .map(|node| (rank(id, node), node))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(TRACKERS)
        .map(|(_, node)| node)
        .collect()
}

fn rank(id: PackageId, node: NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("potluck 2026-11 package tracker");
    hasher.update(&id.0).update(&node.0);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u8) -> Vec<NodeId> {
        (0..count).map(|n| NodeId([n; 32])).collect()
    }

    #[test]
    fn order_and_repeats_of_the_view_do_not_matter() {
        let id = PackageId([9; 32]);
        let forward = trackers(id, nodes(20));
        let backward = trackers(id, nodes(20).into_iter().rev().chain(nodes(20)));
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), TRACKERS);
        assert_ne!(forward[0], forward[1]);
    }

    #[test]
    fn who_leaves_moves_only_its_own_packages() {
        let all = nodes(20);
        for n in 0..100 {
            let id = PackageId([n; 32]);
            let before = trackers(id, all.clone());
            let gone = before[0];
            let after = trackers(id, all.iter().copied().filter(|node| *node != gone));
            assert_eq!(after[0], before[1]);
        }
    }

    #[test]
    fn few_members_are_no_error() {
        assert_eq!(trackers(PackageId([1; 32]), []), []);
        assert_eq!(trackers(PackageId([1; 32]), nodes(1)), nodes(1));
    }
}
