//! Things that end when they are told to, and leave nothing behind.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::{all_answer, await_healthy, resolve},
};

#[test]
fn a_stopped_job_leaves_nothing_behind() {
    let fleet = Fleet::up(2, 2);
    let groups = |name: &str| fleet.control_groups(name);
    let empty: Vec<_> = fleet.names().iter().map(|name| groups(name)).collect();
    fleet.run("r1h1", &fleet.hello("brief", 4));
    let tasks = await_healthy(&fleet.client("r1h1"), "brief", &[]);
    assert_eq!(tasks.len(), 4);
    fleet.client("r2h1").json(&["stop", "brief"]).unwrap();
    until("hosts without tasks", WAIT, || {
        for (name, empty) in fleet.names().iter().zip(&empty) {
            let processes = fleet.processes(name);
            let groups = groups(name);
            let bare = processes.helpers.is_empty() && processes.tasks.is_empty();
            if !bare || groups != *empty {
                return Err(format!("{name}: {processes:?} {groups:?}"));
            }
        }
        Ok(())
    })
    .unwrap();
    let status = fleet.client("r1h1").json(&["status", "brief"]).unwrap();
    assert_eq!(status[0]["stopped"], true, "{status}");
    until("a service without endpoints", WAIT, || {
        match resolve(&fleet.client("r1h1"), "brief") {
            Ok(found) if !found.is_empty() => Err(format!("{found:?}")),
            // Empty, or not known any more.
            _ => Ok(()),
        }
    })
    .unwrap();
    // The name can be used again.
    fleet.run("r2h1", &fleet.hello("brief", 1));
}

#[test]
fn a_node_that_leaves_is_drained_first() {
    let fleet = Fleet::up(4, 2);
    fleet.run("r1h1", &fleet.hello("web", 4));
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let tasks = await_healthy(&client, "web", &[]);
    let busy = tasks.iter().find(|task| task.node != leader);
    let gone = busy.expect("a task beside the leader's").node.clone();
    fleet.client(&gone).json(&["leave"]).unwrap();
    until("the end of its process", WAIT, || {
        let processes = fleet.processes(&gone);
        match processes.all().is_empty() {
            true => Ok(()),
            false => Err(format!("{processes:?}")),
        }
    })
    .unwrap();
    let after = await_healthy(&client, "web", &[&gone]);
    all_answer(&after);
}

#[test]
fn the_scheduler_itself_can_leave() {
    let fleet = Fleet::up(4, 4);
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let asker = fleet.other(&[&leader]);
    fleet.run(&asker, &fleet.hello("web", 4));
    fleet.client(&leader).json(&["leave"]).unwrap();
    until("the end of its process", WAIT, || {
        let processes = fleet.processes(&leader);
        match processes.all().is_empty() {
            true => Ok(()),
            false => Err(format!("{processes:?}")),
        }
    })
    .unwrap();
    let after = await_healthy(&fleet.client(&asker), "web", &[&leader]);
    all_answer(&after);
    // The voters are the others now.
    let voters = fleet.voters(3, &[&leader]);
    assert_eq!(voters.len(), 3);
    fleet.run(&asker, &fleet.hello("further", 1));
}

#[test]
fn voters_that_leave_in_order_don_t_take_the_majority_with_them() {
    let fleet = Fleet::up(3, 3);
    fleet.voters(3, &[]);
    let stays = fleet.leader().unwrap();
    let leavers: Vec<String> = fleet
        .names()
        .into_iter()
        .filter(|name| *name != stays)
        .collect();
    for gone in &leavers {
        fleet.client(gone).json(&["leave"]).unwrap();
    }
    // The one that is left still commits.
    fleet.run(&stays, &fleet.hello("alone", 1));
    let alone = await_healthy(&fleet.client(&stays), "alone", &[&leavers[0], &leavers[1]]);
    all_answer(&alone);
}
