//! The control group: formed over racks, formed again, and gone for a while.

use potluck_testnet::{client::Client, wait::until};
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

/// What a command says beside its answer.
fn told_beside(client: &Client, args: &[&str]) -> String {
    let output = client.command(args).output().expect("potluck runs");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_scheduler_without_a_quorum_says_so() {
    let fleet = Fleet::up(4, 4);
    fleet.run("r1h1", &fleet.hello("silent", 2));
    let voters = fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let (client, learner) = (
        fleet.client(&leader),
        fleet.other(&voters.iter().map(String::as_str).collect::<Vec<_>>()),
    );
    let info = client.json(&["info"]).unwrap();
    assert!(!info["warnings"].to_string().contains("quorum"), "{info}");

    let away: Vec<&String> = voters.iter().filter(|name| **name != leader).collect();
    for name in &away {
        fleet.kill_agent(name).unwrap();
    }
    // On the one that still calls itself leader, and on who follows it.
    for asker in [&leader, &learner] {
        let client = fleet.client(asker);
        until(
            &format!("a word about the quorum from {asker}"),
            WAIT,
            || {
                let info = client.json(&["info"]).map_err(|error| error.to_string())?;
                let told = info["warnings"].to_string();
                let says = |words: &str| told.contains(words);
                let is_told = says("no quorum for") && says("nothing is placed");
                match is_told && away.iter().all(|name| says(name)) {
                    true => Ok(()),
                    false => Err(info.to_string()),
                }
            },
        )
        .unwrap();
        for args in [&["nodes"][..], &["status"], &["status", "silent"]] {
            let told = told_beside(&client, args);
            assert!(told.contains("warning: no quorum for"), "{args:?}: {told}");
        }
    }
    let spec = fleet.hello("never", 1);
    let failed = failure(&client, &["run", "--no-wait", &spec]);
    assert_eq!(failed.code, Some(5), "{failed}");

    // All is well again, and nothing is said any more.
    for name in &away {
        fleet.start(name).unwrap();
    }
    fleet.await_all_up().unwrap();
    until("nothing to be told", WAIT, || {
        let told = told_beside(&client, &["nodes"]);
        match told.is_empty() {
            true => Ok(()),
            false => Err(told),
        }
    })
    .unwrap();
}
