//! The control group: formed over racks, formed again, and gone for a while.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT, failure},
    status::{all_answer, await_healthy, pids},
};
use std::collections::BTreeSet;

fn racks<'a>(fleet: &'a Fleet, names: &[String]) -> BTreeSet<&'a str> {
    names.iter().map(|name| fleet.rack(name)).collect()
}

#[test]
fn three_voters_form_in_three_racks_and_form_again_after_a_loss() {
    let fleet = Fleet::up(6, 3);
    let voters = fleet.voters(3, &[]);
    assert_eq!(racks(&fleet, &voters).len(), 3, "{voters:?}");
    let leader = fleet.leader().unwrap();
    let lost = voters.iter().find(|name| **name != leader).unwrap();
    fleet.kill(lost).unwrap();
    let again = fleet.voters(3, &[lost]);
    assert_eq!(racks(&fleet, &again).len(), 3, "{again:?}");
    let asker = fleet.other(&[lost]);
    fleet.run(&asker, &fleet.hello("after", 2));
}

#[test]
fn a_host_that_dies_as_the_voters_form_does_not_stop_the_cluster() {
    let fleet = Fleet::up(6, 3);
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    // Not through `Fleet::voters`, which waits until three stand.
    let first = until("the first other voter", WAIT, || {
        let info = client.json(&["info"]).map_err(|error| error.to_string())?;
        let voters = info["voters"].as_array().ok_or("no voters")?;
        let mut names = voters.iter().filter_map(|name| name.as_str());
        let other = names.find(|name| *name != leader);
        other.map(str::to_owned).ok_or_else(|| info.to_string())
    })
    .unwrap();
    fleet.kill(&first).unwrap();
    fleet.run(&leader, &fleet.hello("formed", 3));
    fleet.await_state(&first, "dead");
    fleet.voters(3, &[&first]);
}

#[test]
fn tasks_live_on_without_any_scheduler() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("alone", 3));
    let tasks = await_healthy(&fleet.client("r1h1"), "alone", &[]);
    fleet.voters(3, &[]);
    let names = fleet.names();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = pids(&fleet, &all);

    let left = "r3h1";
    fleet.kill_agent("r1h1").unwrap();
    fleet.kill_agent("r2h1").unwrap();
    let client = fleet.client(left);
    until("a node that knows no leader", WAIT, || {
        let info = client.json(&["info"]).map_err(|error| error.to_string())?;
        match info["leader"].is_null() {
            true => Ok(()),
            false => Err(info.to_string()),
        }
    })
    .unwrap();
    all_answer(&tasks);
    assert_eq!(pids(&fleet, &all), before);
    let spec = fleet.hello("never", 1);
    let failed = failure(&client, &["run", "--no-wait", &spec]);
    assert_eq!(failed.code, Some(5), "{failed}");
    // While it waited it said for what.
    assert!(
        failed.stderr.contains("-- the cluster has no scheduler"),
        "{failed}"
    );
    assert!(failed.stderr.contains("hint: "), "{failed}");

    // With two of three there is a scheduler again, and it adopts.
    fleet.start("r1h1").unwrap();
    fleet.start("r2h1").unwrap();
    fleet.await_all_up().unwrap();
    let after = await_healthy(&client, "alone", &[]);
    assert_eq!(after, tasks);
    assert_eq!(pids(&fleet, &all), before);
}
