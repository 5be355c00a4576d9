//! Hosts that die: what ran there runs elsewhere, what ran elsewhere is left
//! alone.

use super::exec::skip;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{signal::Signal, statvfs::statvfs},
};
use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::{Task, all_answer, await_healthy, await_resolved, healthy, pids},
};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The nodes of `tasks` without `lost`.
fn survivors<'a>(tasks: &'a [Task], lost: &str) -> Vec<&'a str> {
    let nodes = tasks.iter().map(|task| task.node.as_str());
    nodes.filter(|node| *node != lost).collect()
}

/// Tasks that were not on the lost host are the same as before.
fn assert_others_untouched(before: &[Task], after: &[Task], lost: &str) {
    for task in before.iter().filter(|task| task.node != lost) {
        assert!(after.contains(task), "{task:?} is not in {after:?}");
    }
}

#[test]
fn a_lost_host_is_replaced_and_no_longer_resolved() {
    let fleet = Fleet::up(6, 3);
    fleet.run("r1h1", &fleet.hello("web", 4));
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let tasks = await_healthy(&client, "web", &[]);
    await_resolved(&client, "web", &tasks);
    let lost = survivors(&tasks, &leader)[0];
    let others = survivors(&tasks, lost);
    let before = pids(&fleet, &others);
    fleet.kill(lost).unwrap();

    let after = await_healthy(&client, "web", &[lost]);
    assert_others_untouched(&tasks, &after, lost);
    all_answer(&after);
    // The replacement may stand on a host that had a task already.
    let now = pids(&fleet, &others);
    for (name, (helpers, processes)) in &before {
        assert!(helpers.is_subset(&now[name].0), "{before:?} {now:?}");
        assert!(processes.is_subset(&now[name].1), "{before:?} {now:?}");
    }
    for name in fleet.names().iter().filter(|name| *name != lost) {
        await_resolved(&fleet.client(name), "web", &after);
    }
    fleet.await_state(lost, "dead");

    // The host comes back, with nothing of what was taken from it.
    fleet.start(lost).unwrap();
    fleet.await_up(lost);
    assert_eq!(await_healthy(&client, "web", &[]), after);
}

#[test]
fn another_node_leads_when_the_schedulers_host_dies() {
    let fleet = Fleet::up(5, 3);
    let leader = fleet.leader().unwrap();
    fleet.voters(3, &[]);
    fleet.run(&leader, &fleet.hello("web", 3));
    let asker = fleet.other(&[&leader]);
    let client = fleet.client(&asker);
    let tasks = await_healthy(&client, "web", &[]);
    let others = survivors(&tasks, &leader);
    let before = pids(&fleet, &others);
    fleet.kill(&leader).unwrap();

    let done = fleet.run(&asker, &fleet.hello("further", 1));
    assert_eq!(done["accepted"][0]["version"], 1);
    assert_ne!(fleet.leader().unwrap(), leader);
    let after = await_healthy(&client, "web", &[&leader]);
    assert_others_untouched(&tasks, &after, &leader);
    let now = pids(&fleet, &others);
    for (name, (_, processes)) in &before {
        assert!(processes.is_subset(&now[name].1), "{before:?} {now:?}");
    }
    await_resolved(&client, "web", &after);
}

#[test]
fn a_host_that_was_only_paused_leaves_no_second_copy() {
    let fleet = Fleet::up(4, 4);
    fleet.run("r1h1", &fleet.hello("web", 3));
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let tasks = await_healthy(&client, "web", &[]);
    let paused = survivors(&tasks, &leader)[0];
    fleet.signal(paused, Signal::SIGSTOP).unwrap();
    let after = await_healthy(&client, "web", &[paused]);
    assert_others_untouched(&tasks, &after, paused);
    assert!(!fleet.processes(paused).tasks.is_empty());

    // It wakes up and believes that all is as it was. One of both copies goes,
    // and it is not for the test to say which.
    fleet.signal(paused, Signal::SIGCONT).unwrap();
    fleet.await_up(paused);
    until("one copy of each replica", WAIT, || {
        let names = fleet.names();
        let helpers = names.iter().map(|name| fleet.processes(name).helpers.len());
        match helpers.sum::<usize>() {
            3 => Ok(()),
            more => Err(format!("{more} helpers")),
        }
    })
    .unwrap();
    let kept = await_healthy(&client, "web", &[]);
    assert_others_untouched(&tasks, &kept, paused);
    all_answer(&kept);
    await_resolved(&client, "web", &kept);
}

#[test]
fn a_host_with_another_address_serves_under_it() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("web", 3));
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let before = await_healthy(&client, "web", &[]);
    let moved = fleet.other(&[&leader]);
    fleet.stop_agent(&moved).unwrap();

    let old = fleet.place(&moved).unwrap().address;
    let SocketAddr::V4(old) = old else {
        panic!("{old} is of another family");
    };
    let [a, b, c, d] = old.ip().octets();
    let new = Ipv4Addr::new(a, b, c, d + 100);
    let listen = SocketAddr::from((new, old.port()));
    let other = [("--listen", listen.to_string())];
    let mut child = fleet.altered_command(&moved, &other).spawn().unwrap();

    let after = until("every task healthy where it is looked for", WAIT, || {
        let tasks = healthy(&client, "web")?;
        let there = tasks.iter().find(|task| task.node == moved);
        match there.is_some_and(|task| task.address.ip() == new) {
            true => Ok(tasks),
            false => Err(format!("{tasks:?}")),
        }
    })
    .unwrap();
    all_answer(&after);
    assert_others_untouched(&before, &after, &moved);
    for name in fleet.names() {
        await_resolved(&fleet.client(&name), "web", &after);
    }
    fleet.kill(&moved).unwrap();
    // The testnet may have taken its end in.
    let _ = child.wait();
}

/// Memory in the place of a node's disk, gone again with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Nothing where it can't be mounted.
    fn mount(at: &Path, bytes: u64) -> Option<SmallDisk> {
        fs::create_dir_all(at).expect("a folder of the testnet");
        let options = format!("size={bytes}");
        let (none, flags): (Option<&str>, _) = (None, MsFlags::empty());
        let mounted = mount(none, at, Some("tmpfs"), flags, Some(options.as_str()));
        mounted.is_ok().then(|| SmallDisk(at.into()))
    }

    /// Leaves so much free.
    fn fill(&self, left: u64) -> PathBuf {
        let free = statvfs(&self.0).expect("a file system");
        let free = free.blocks_available() * free.fragment_size();
        let path = self.0.join("ballast");
        let ballast = vec![7; free.saturating_sub(left) as usize];
        fs::write(&path, ballast).expect("as much as is free");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node may still write to it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_disk_that_is_nearly_full_is_told_of_by_every_node() {
    const MIB: u64 = 1 << 20;
    let fleet = Fleet::found(2, 2);
    let Some(disk) = SmallDisk::mount(&fleet.data("r2h1"), 256 * MIB) else {
        return skip("hosts", "mounting a small disk needs root");
    };
    let token = fleet.token(1).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
    let client = fleet.client("r1h1");
    let until_told = |wanted: bool| {
        until("the other host's disk to be told of", WAIT, || {
            let info = client.json(&["info"]).map_err(|error| error.to_string())?;
            let told = info["warnings"].as_array().is_some_and(|warnings| {
                let mut texts = warnings.iter().filter_map(|text| text.as_str());
                texts.any(|text| text.starts_with("r2h1: ") && text.contains("are left"))
            });
            match told == wanted {
                true => Ok(()),
                false => Err(info["warnings"].to_string()),
            }
        })
        .unwrap();
    };
    until_told(false);
    let ballast = disk.fill(4 * MIB);
    until_told(true);
    // With every question, and by the node itself once.
    let shown = client.command(&["nodes"]).output().expect("potluck runs");
    let warned = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(
        warned.contains("r2h1: ") && warned.contains("of 256 MiB are left"),
        "{warned}"
    );
    let own = fleet.client("r2h1").json(&["info"]).unwrap();
    let texts = own["warnings"].to_string();
    assert_eq!(texts.matches("are left").count(), 1, "{texts}");
    fs::remove_file(ballast).unwrap();
    until_told(false);
}
