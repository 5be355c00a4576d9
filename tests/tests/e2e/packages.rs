//! Packages that come from several peers, one of which has bad bytes.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT, hello},
    status::{all_answer, await_healthy},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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

/// The chunk files of a node by name.
fn chunks(fleet: &Fleet, node: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let store = fleet.data(node).join("packages/chunks");
    let mut found = BTreeMap::new();
    for folder in std::fs::read_dir(&store).unwrap().flatten() {
        for chunk in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let path = chunk.path();
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path.strip_prefix(&store).unwrap().to_owned(), bytes);
        }
    }
    found
}

/// Gives every chunk the bytes of another: they can be read well, and are wrong.
fn swap_chunks(fleet: &Fleet, node: &str) {
    let store = fleet.data(node).join("packages/chunks");
    let good = chunks(fleet, node);
    let others = good.values().cycle().skip(1);
    for (name, other) in good.keys().zip(others) {
        replace(&store.join(name), other);
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Takes every second chunk from a node, and returns them.
fn take_chunks(fleet: &Fleet, node: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let store = fleet.data(node).join("packages/chunks");
    let taken: BTreeMap<_, _> = chunks(fleet, node).into_iter().step_by(2).collect();
    for name in taken.keys() {
        std::fs::remove_file(store.join(name)).unwrap();
    }
    taken
}

/// Gives chunks back to the node that they were taken from.
fn give_chunks(fleet: &Fleet, node: &str, taken: &BTreeMap<PathBuf, Vec<u8>>) {
    let store = fleet.data(node).join("packages/chunks");
    for (name, bytes) in taken {
        let whole = fleet.root().join("given");
        std::fs::write(&whole, bytes).unwrap();
        std::fs::rename(whole, store.join(name)).unwrap();
    }
}

/// Waits until a node has found chunks to be damaged when it was asked for them.
fn await_damage(fleet: &Fleet, node: &str) {
    until("the bad one is asked", WAIT, || {
        let log = fleet.log(node);
        match log.contains("damaged chunk removed") {
            true => Ok(()),
            false => Err("nobody asked it".to_owned()),
        }
    })
    .unwrap();
}

/// A spec whose package has many chunks.
fn big(fleet: &Fleet) -> String {
    let spec = fleet.spec("big", &hello("big", 1, ".", "potluck-hello"));
    let folder = Path::new(&spec).parent().unwrap();
    std::fs::write(folder.join("ballast"), ballast()).unwrap();
    spec
}

#[test]
fn a_peer_with_bad_chunks_does_not_stop_a_fetch() {
    let fleet = Fleet::up(6, 6);
    let spec = big(&fleet);
    let done = fleet.run("r1h1", &spec);
    let holders: Vec<&str> = done["accepted"][0]["holders"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|holder| holder.as_str())
        .collect();
    assert_eq!(holders.len(), 3, "{done}");
    let running = done["jobs"][0]["tasks"][0]["node"].as_str().unwrap();
    // Whoever has none of it by now fetches it later.
    let mut late = fleet.names();
    late.retain(|name| fleet.client(name).json(&["packages"]).unwrap()[0].is_null());

    // Two of the three have bad bytes only; one good holder is left.
    let bad = holders.iter().filter(|holder| **holder != running);
    let bad: Vec<&str> = bad.copied().take(2).collect();
    let good = chunks(&fleet, bad[0]);
    assert!(good.len() > 10);
    for name in &bad {
        swap_chunks(&fleet, name);
        assert!(chunks(&fleet, name) != good, "{name} was not harmed");
    }

    // Now every node needs it: the late ones fetch it whole, with the bad ones among
    // their sources, and the bad ones have nothing good of their own.
    let client = fleet.client("r1h1");
    client.json(&["run", "--replicas", "6", &spec]).unwrap();
    let tasks = await_healthy(&client, "big", &[]);
    assert_eq!(tasks.len(), 6);
    all_answer(&tasks);
    assert!(!late.is_empty());
    for name in &late {
        let packages = fleet.client(name).json(&["packages"]).unwrap();
        assert_eq!(packages[0]["complete"], true, "{name}: {packages}");
        // A bad one that has healed itself may be among the sources, so that
        // the bytes count, not where they came from.
        assert!(chunks(&fleet, name) == good, "{name} holds wrong bytes");
    }
}

#[test]
fn a_fetch_goes_on_when_the_only_other_holder_is_bad() {
    let fleet = Fleet::up(4, 4);
    let spec = big(&fleet);
    let done = fleet.run("r1h1", &spec);
    let holders = done["accepted"][0]["holders"].as_array().unwrap();
    let holders: Vec<&str> = holders.iter().filter_map(|name| name.as_str()).collect();
    let good = done["jobs"][0]["tasks"][0]["node"].as_str().unwrap();
    let leader = fleet.leader().unwrap();
    fleet.voters(3, &[]);
    // One has bad bytes only, one is away, and the good one lacks half at first:
    // that half must be asked of the bad one.
    let mut others: Vec<&str> = holders.into_iter().filter(|name| *name != good).collect();
    others.sort_by_key(|name| *name == leader);
    let [away, bad] = others[..] else {
        panic!("three holders: {done}");
    };
    let late = fleet.other(&[good, away, bad]);
    let client = fleet.client(good);
    client.json(&["drain", bad]).unwrap();
    let right = chunks(&fleet, good);
    assert!(right.len() > 10);
    swap_chunks(&fleet, bad);
    let taken = take_chunks(&fleet, good);
    // Its death makes the scheduler look for another holder.
    fleet.kill(away).unwrap();
    await_damage(&fleet, bad);
    give_chunks(&fleet, good, &taken);

    client.json(&["run", "--replicas", "2", &spec]).unwrap();
    let tasks = await_healthy(&client, "big", &[away, bad]);
    all_answer(&tasks);
    assert!(tasks.iter().any(|task| task.node == late), "{tasks:?}");
    assert!(chunks(&fleet, &late) == right, "{late} holds wrong bytes");
    // What was found to be damaged is mended from the good one, and may be given
    // on then: wrong bytes would be seen above, wherever they came from.
    let packages = fleet.client(&late).json(&["packages"]).unwrap();
    let sources = &packages[0]["bytes_by_source"];
    assert!(sources[good].as_u64() > Some(0), "{packages}");
}

#[test]
fn a_lost_holder_of_a_package_is_replaced() {
    let fleet = Fleet::up(4, 4);
    let done = fleet.run("r1h1", &fleet.hello("kept", 1));
    let holders = done["accepted"][0]["holders"].as_array().unwrap();
    let holders: Vec<&str> = holders.iter().filter_map(|name| name.as_str()).collect();
    let running = done["jobs"][0]["tasks"][0]["node"].as_str().unwrap();
    let leader = fleet.leader().unwrap();
    fleet.voters(3, &[]);
    let lost = holders
        .iter()
        .find(|name| **name != running && **name != leader);
    let lost = *lost.expect("three nodes hold it");
    let mut late = fleet.names();
    late.retain(|name| !holders.contains(&name.as_str()));
    let [late] = &late[..] else {
        panic!("one of four has none: {done}");
    };
    fleet.kill(lost).unwrap();
    // It runs nothing of the job: nothing but the package's safety brings it.
    until("another holder", WAIT, || {
        let packages = fleet.client(late).json(&["packages"]);
        let packages = packages.map_err(|error| error.to_string())?;
        match packages[0]["complete"] == true {
            true => Ok(()),
            false => Err(packages.to_string()),
        }
    })
    .unwrap();
    let tasks = await_healthy(&fleet.client(&leader), "kept", &[]);
    assert!(tasks.iter().all(|task| task.node == running), "{tasks:?}");
}
