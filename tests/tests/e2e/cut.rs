//! Nodes that don't reach each other, each in a network of its own: a session
//! that another member carries, and a host that is cut off from all.

use super::exec::skip;
use potluck_testnet::{net::Wires, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, hello},
    status::{Task, await_healthy, healthy, pids},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a node writes when it has no way to the scheduler and found another.
const CARRIED: &str = "a member carries the session";

/// Waits until the scheduler hears a node straight, or by another member; says
/// by whom.
fn await_way(fleet: &Fleet, asker: &str, node: &str, carried: bool) -> Option<String> {
    let what = match carried {
        true => format!("{node} heard through a member"),
        false => format!("{node} heard straight"),
    };
    until(&what, WAIT, || {
        let nodes = fleet.client(asker).json(&["nodes"]);
        let nodes = nodes.map_err(|error| error.to_string())?;
        let mut rows = nodes.as_array().into_iter().flatten();
        let row = rows.find(|row| row["name"] == node).unwrap_or(&Value::Null);
        let by = row["relayed_by"].as_str().map(str::to_owned);
        match row["state"] == "up" && by.is_some() == carried {
            true => Ok(by),
            false => Err(row.to_string()),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// A job with a task on each of so many nodes.
fn one_on_each(fleet: &Fleet, name: &str, nodes: u32) -> String {
    let text = hello(name, nodes, "potluck-hello", "potluck-hello");
    let text = text.replacen("job(", "job(at_most = {\"node\": 1}, ", 1);
    fleet.spec(name, &text)
}

fn nodes_of(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.node.as_str()).collect()
}

/// A fleet whose wires can be cut, if this host can have one.
pub(super) fn wired(nodes: u8, racks: u8) -> Option<Fleet> {
    match Wires::missing() {
        None => Some(Fleet::wired(nodes, racks)),
        Some(why) => {
            skip("cut", &format!("no networks with wires: {why}"));
            None
        }
    }
}

/// Who leads, and the reign.
fn authority(fleet: &Fleet, asker: &str) -> [Value; 2] {
    let info = fleet.client(asker).json(&["info"]).unwrap();
    [info["leader"].clone(), info["authority"].clone()]
}

#[test]
fn a_node_that_the_scheduler_does_not_reach_is_carried_by_another() {
    let Some(fleet) = wired(4, 4) else { return };
    let voters = fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let names = fleet.names();
    let cut = names.iter().find(|name| !voters.contains(name)).unwrap();
    let client = fleet.client(&leader);
    fleet.run(&leader, &one_on_each(&fleet, "web", 4));
    let before = await_healthy(&client, "web", &[]);
    let processes = pids(&fleet, &[cut]);
    assert_eq!(await_way(&fleet, &leader, cut, false), None);

    fleet.wires().cut(&leader, cut).unwrap();
    let by = await_way(&fleet, &leader, cut, true).unwrap();
    assert!(by != leader && by != *cut && names.contains(&by), "{by}");
    let table = client.text(&["nodes"]).unwrap();
    assert!(table.contains("up, relayed by "), "{table}");
    assert!(fleet.log(cut).contains(CARRIED), "{}", fleet.log(cut));

    // Orders go the same way: awards, starts, health, and stops.
    for round in 0..3 {
        let name = format!("further-{round}");
        fleet.run(&leader, &one_on_each(&fleet, &name, 4));
        let tasks = await_healthy(&client, &name, &[]);
        assert!(nodes_of(&tasks).contains(&cut.as_str()), "{tasks:?}");
        client.text(&["stop", &name]).unwrap();
        until("the processes of web alone", WAIT, || {
            let now = pids(&fleet, &[cut]);
            match now == processes {
                true => Ok(()),
                false => Err(format!("{now:?}, not {processes:?}")),
            }
        })
        .unwrap();
        assert_eq!(healthy(&client, "web").unwrap(), before);
    }
    assert!(await_way(&fleet, &leader, cut, true).is_some());

    fleet.wires().mend(&leader, cut).unwrap();
    assert_eq!(await_way(&fleet, &leader, cut, false), None);
    fleet.run(cut, &one_on_each(&fleet, "afterwards", 4));
    assert_eq!(await_healthy(&client, "web", &[]), before);
    let helpers = |pids: &BTreeMap<String, (BTreeSet<i32>, BTreeSet<i32>)>| pids[cut].0.clone();
    let now = helpers(&pids(&fleet, &[cut]));
    assert!(
        now.is_superset(&helpers(&processes)),
        "web was started anew"
    );
}

#[test]
fn a_voter_that_the_leader_does_not_reach_is_carried_and_the_leader_stays() {
    let Some(fleet) = wired(3, 3) else { return };
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let cut = fleet.other(&[&leader]);
    let client = fleet.client(&leader);
    fleet.run(&leader, &one_on_each(&fleet, "web", 3));
    let before = await_healthy(&client, "web", &[]);
    let reign = authority(&fleet, &leader);

    fleet.wires().cut(&leader, &cut).unwrap();
    let by = await_way(&fleet, &leader, &cut, true).unwrap();
    assert!(by != leader && by != cut, "{by}");
    fleet.run(&leader, &one_on_each(&fleet, "further", 3));
    assert_eq!(authority(&fleet, &leader), reign);

    fleet.wires().mend(&leader, &cut).unwrap();
    assert_eq!(await_way(&fleet, &leader, &cut, false), None);
    assert_eq!(authority(&fleet, &leader), reign);
    assert_eq!(await_healthy(&client, "web", &[]), before);
    // It follows the log again, and so answers for itself.
    fleet.run(&cut, &one_on_each(&fleet, "afterwards", 3));
}

#[test]
fn a_host_that_is_cut_off_is_replaced_and_keeps_nothing_when_it_is_back() {
    let Some(fleet) = wired(4, 4) else { return };
    fleet.voters(3, &[]);
    fleet.run("r1h1", &fleet.hello("web", 4));
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let before = await_healthy(&client, "web", &[]);
    let cut = fleet.other(&[&leader]);
    let processes = pids(&fleet, &[&cut]);

    fleet.wires().cut_off(&cut).unwrap();
    let after = await_healthy(&client, "web", &[&cut]);
    for task in before.iter().filter(|task| task.node != cut) {
        assert!(after.contains(task), "{task:?} is not in {after:?}");
    }
    // It does not know, and goes on.
    assert_eq!(pids(&fleet, &[&cut]), processes);

    fleet.wires().join(&cut).unwrap();
    until("the host up again", WAIT, || {
        let nodes = client.json(&["nodes"]).map_err(|error| error.to_string())?;
        let mut rows = nodes.as_array().into_iter().flatten();
        match rows.any(|row| row["name"] == *cut && row["state"] == "up") {
            true => Ok(()),
            false => Err(nodes.to_string()),
        }
    })
    .unwrap();
    // Which of both copies goes is not for the test to say.
    until("one copy of each replica", WAIT, || {
        let names = fleet.names();
        let helpers = names.iter().map(|name| fleet.processes(name).helpers.len());
        match helpers.sum::<usize>() {
            4 => Ok(()),
            more => Err(format!("{more} helpers")),
        }
    })
    .unwrap();
    let kept = await_healthy(&client, "web", &[]);
    for task in before.iter().filter(|task| task.node != cut) {
        assert!(kept.contains(task), "{task:?} is not in {kept:?}");
    }
}
