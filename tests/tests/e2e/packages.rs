//! Packages that come from several peers, one of which has bad bytes.

use potluck_tests::{
    fleet::{Fleet, hello},
    status::{all_answer, await_healthy},
};
use std::path::Path;

/// Enough for many chunks.
const BALLAST: usize = 3 << 20;

/// Bytes that don't compress and differ everywhere: xorshift, seed 1.
fn ballast() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BALLAST / 8).flat_map(|_| next()).collect()
}

/// Gives every chunk the bytes of another: they can be read well, and are wrong.
fn swap_chunks(store: &Path) -> usize {
    let mut chunks = Vec::new();
    for folder in std::fs::read_dir(store).unwrap().flatten() {
        for chunk in std::fs::read_dir(folder.path()).unwrap().flatten() {
            chunks.push(chunk.path());
        }
    }
    chunks.sort();
    let first = std::fs::read(&chunks[0]).unwrap();
    for pair in chunks.windows(2) {
        let other = std::fs::read(&pair[1]).unwrap();
        replace(&pair[0], &other);
    }
    replace(&chunks[chunks.len() - 1], &first);
    chunks.len()
}

fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_peer_with_bad_chunks_does_not_stop_a_fetch() {
    let fleet = Fleet::up(5, 5);
    let spec = fleet.spec("big", &hello("big", 1, ".", "potluck-hello"));
    let folder = Path::new(&spec).parent().unwrap();
    std::fs::write(folder.join("ballast"), ballast()).unwrap();
    let done = fleet.run("r1h1", &spec);
    let holders: Vec<&str> = done["accepted"][0]["holders"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|holder| holder.as_str())
        .collect();
    assert_eq!(holders.len(), 3, "{done}");
    let running = done["jobs"][0]["tasks"][0]["node"].as_str().unwrap();
    // Two of the three have bad bytes only; one good holder is left.
    let bad = holders.iter().filter(|holder| **holder != running);
    let bad: Vec<&str> = bad.copied().take(2).collect();
    for name in &bad {
        let chunks = fleet.data(name).join("packages/chunks");
        assert!(swap_chunks(&chunks) > 10);
    }

    // Now every node needs it: two fetch it whole, with the bad ones among
    // their sources, and the bad ones have nothing good of their own.
    let client = fleet.client("r1h1");
    client.json(&["run", "--replicas", "5", &spec]).unwrap();
    let tasks = await_healthy(&client, "big", &[]);
    assert_eq!(tasks.len(), 5);
    all_answer(&tasks);
    for name in fleet.names() {
        // The holders, and the first task's node, got theirs while all was well.
        if holders.contains(&name.as_str()) || name == running {
            continue;
        }
        let packages = fleet.client(&name).json(&["packages"]).unwrap();
        let sources = &packages[0]["bytes_by_source"];
        for bad in &bad {
            let none = sources[*bad].as_u64().is_none_or(|bytes| bytes == 0);
            assert!(none, "{name} took bytes from {bad}: {packages}");
        }
        let fetched = sources.as_object().into_iter().flatten();
        let bytes: u64 = fetched.filter_map(|(_, bytes)| bytes.as_u64()).sum();
        assert!(bytes as usize > BALLAST, "{packages}");
    }
}
