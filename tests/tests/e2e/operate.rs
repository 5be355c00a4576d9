//! What operators do to nodes, and what they are shown: cordon, drain,
//! decommission, who holds a job's budget, and evening out.

use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, failure, hello},
    status::{all_answer, await_healthy, by_rack, healthy, pids},
};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

/// Evening out begins when no host has come or gone for a minute.
const QUIET_AND_A_MOVE: Duration = Duration::from_secs(150);

/// The node's row in `potluck nodes`, as JSON.
fn row(client: &Client, name: &str) -> Option<Value> {
    let nodes = client.json(&["nodes"]).unwrap();
    let mut nodes = nodes.as_array().unwrap().iter();
    nodes.find(|node| node["name"] == name).cloned()
}

/// The node's line in the table that people see.
fn line(client: &Client, name: &str) -> String {
    let table = client.text(&["nodes"]).unwrap();
    let mut lines = table.lines();
    let found = lines.find(|line| line.split_whitespace().next() == Some(name));
    found.unwrap_or_else(|| panic!("{table}")).to_owned()
}

/// Why a node does not get this task, in the words of `potluck explain`.
fn verdict(client: &Client, slot: &str, node: &str) -> String {
    let explained = client.json(&["explain", slot]).unwrap();
    let mut hosts = explained["hosts"].as_array().unwrap().iter();
    let host = hosts.find(|host| host["name"] == node || host["node"] == node);
    host.unwrap_or_else(|| panic!("{explained}"))["verdict"].to_string()
}

/// A service that waits for as many nodes as it has tasks. A node hears only
/// with its next heartbeat that it is drained no more, and what is submitted
/// before goes elsewhere if it may.
fn one_on_each(fleet: &Fleet, name: &str, replicas: u32) -> String {
    let text = hello(name, replicas, "potluck-hello", "potluck-hello");
    let text = text.replacen("job(", "job(at_most = {\"node\": 1}, ", 1);
    fleet.spec(name, &text)
}

/// The nodes of a job's healthy tasks.
fn nodes_of(client: &Client, job: &str) -> BTreeSet<String> {
    let tasks = await_healthy(client, job, &[]).into_iter();
    tasks.map(|task| task.node).collect()
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r1h1");
    fleet.run("r1h1", &fleet.hello("web", 3));
    assert_eq!(nodes_of(&client, "web").len(), 3);
    let before = pids(&fleet, &["r2h1"]);

    let said = client.text(&["cordon", "r2h1"]).unwrap();
    assert_eq!(said.trim(), "r2h1 keeps what it has and takes nothing new");
    assert_eq!(row(&client, "r2h1").unwrap()["cordoned"], true);
    assert!(
        line(&client, "r2h1").contains("up, cordoned"),
        "{}",
        line(&client, "r2h1")
    );
    fleet.run("r1h1", &fleet.hello("further", 4));
    let nodes = nodes_of(&client, "further");
    assert_eq!(nodes, BTreeSet::from(["r1h1".into(), "r3h1".into()]));
    let why = verdict(&client, "further[0]", "r2h1");
    assert!(why.contains("cordon"), "{why}");
    assert_eq!(pids(&fleet, &["r2h1"]), before, "what it has was touched");

    let said = client.text(&["uncordon", "r2h1"]).unwrap();
    assert_eq!(said.trim(), "r2h1 takes work again");
    assert_eq!(row(&client, "r2h1").unwrap()["cordoned"], false);
    fleet.run("r1h1", &one_on_each(&fleet, "again", 3));
    assert!(nodes_of(&client, "again").contains("r2h1"));

    let failed = failure(&client, &["cordon", "nowhere"]);
    assert_eq!(failed.code, Some(3), "{failed}");
    assert!(failed.stderr.contains("r1h1, r2h1, r3h1"), "{failed}");
}

#[test]
fn a_drained_node_is_empty_at_no_cost_and_takes_work_again_when_that_is_undone() {
    let fleet = Fleet::up(3, 3);
    fleet.voters(3, &[]);
    let drained = fleet.other(&[&fleet.leader().unwrap()]);
    let client = fleet.client(&fleet.other(&[&drained]));
    fleet.run("r1h1", &fleet.hello("web", 3));
    let before = await_healthy(&client, "web", &[]);
    let mut draining = client.start(&["drain", &drained, "--wait"]).unwrap();
    until("the end of the drain", WAIT, || {
        let jobs = client.json(&["status", "web"]).unwrap();
        // Its successor serves before a task is stopped.
        assert!(jobs[0]["healthy"].as_u64() >= Some(3), "{jobs}");
        match draining.try_wait() {
            Ok(Some(status)) if status.success() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    let mut said = String::new();
    let stdout = draining.stdout.as_mut().unwrap();
    std::io::Read::read_to_string(stdout, &mut said).unwrap();
    assert_eq!(
        said.trim(),
        format!("{drained} is empty and takes no new work")
    );
    assert!(fleet.processes(&drained).helpers.is_empty());
    assert!(line(&client, &drained).contains("up, draining"));
    let after = await_healthy(&client, "web", &[&drained]);
    for task in before.iter().filter(|task| task.node != drained) {
        assert!(after.contains(task), "{task:?} is not in {after:?}");
    }
    all_answer(&after);

    fleet.run("r1h1", &fleet.hello("further", 3));
    assert!(!nodes_of(&client, "further").contains(&drained));
    client.text(&["drain", &drained, "--undo"]).unwrap();
    assert_eq!(row(&client, &drained).unwrap()["draining"], false);
    fleet.run("r1h1", &one_on_each(&fleet, "again", 3));
    assert!(nodes_of(&client, "again").contains(&drained));
}

#[test]
fn a_drain_s_deadline_stops_what_has_nowhere_to_go_and_why_blocked_says_so() {
    let fleet = Fleet::up(2, 2);
    let client = fleet.client("r1h1");
    fleet.run("r1h1", &fleet.hello("web", 2));
    await_healthy(&client, "web", &[]);
    let calm = client.text(&["why-blocked", "web"]).unwrap();
    assert_eq!(calm.trim(), "web: 0 of 2 tasks are down, 1 may be");

    client.text(&["cordon", "r1h1"]).unwrap();
    let kept = pids(&fleet, &["r1h1"]);
    // Whoever waits past it sees the node empty all the same.
    let drain = ["drain", "r2h1", "--deadline", "2", "--wait"];
    client.text(&drain).unwrap();
    assert!(fleet.processes("r2h1").helpers.is_empty());
    assert_eq!(pids(&fleet, &["r1h1"]), kept);

    let ledger = client.json(&["why-blocked", "web"]).unwrap();
    assert_eq!(ledger["wanted"], 2, "{ledger}");
    assert_eq!(ledger["budget"], 1, "{ledger}");
    let used = ledger["used"].as_array().unwrap();
    assert_eq!(used.len(), 1, "{ledger}");
    assert_eq!(used[0]["why"], "not placed yet", "{ledger}");
    let table = client.text(&["why-blocked", "web"]).unwrap();
    assert!(
        table.starts_with("web: 1 of 2 tasks are down, 1 may be\n"),
        "{table}"
    );
    let slot = format!("web[{}]", used[0]["slot"]["index"]);
    for (node, why) in [("r1h1", "cordon"), ("r2h1", "takes no new work")] {
        let verdict = verdict(&client, &slot, node);
        assert!(verdict.contains(why), "{node}: {verdict}");
    }

    // Room again: the task comes back by itself, the other one never noticed.
    client.text(&["drain", "r2h1", "--undo"]).unwrap();
    let after = await_healthy(&client, "web", &[]);
    assert_eq!(by_rack(&after).len(), 2, "{after:?}");
    assert_eq!(pids(&fleet, &["r1h1"]), kept);
    let calm = client.text(&["why-blocked", "web"]).unwrap();
    assert_eq!(calm.trim(), "web: 0 of 2 tasks are down, 1 may be");

    let failed = failure(&client, &["why-blocked", "nothing"]);
    assert_eq!(failed.code, Some(3), "{failed}");
}

#[test]
fn why_blocked_tells_how_a_task_fails() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let text = "job(name = \"broken\", package = \"potluck-hello\", command = \"/bin/sh\",\n\
         args = [\"-c\", \"exit 3\"], cpu = 0.05, memory = \"16MiB\",\n\
         restart = restart(backoff = \"200ms\", backoff_max = \"500ms\"))\n";
    let spec = fleet.spec("broken", text);
    client.text(&["run", "--no-wait", &spec]).unwrap();
    until("a task that failed twice", WAIT, || {
        let ledger = client.json(&["why-blocked", "broken"]);
        let ledger = ledger.map_err(|error| error.to_string())?;
        let used = &ledger["used"][0];
        let why = used["why"].as_str().unwrap_or_default();
        // How often depends on when one looks.
        let told = why.contains("failed") && why.contains("in a row, last: ") && why.contains('3');
        match told && used["node"] == "r1h1" {
            true => Ok(()),
            false => Err(ledger.to_string()),
        }
    })
    .unwrap();
}

#[test]
fn a_decommissioned_node_is_emptied_and_never_comes_back() {
    let fleet = Fleet::up(4, 2);
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    fleet.run("r1h1", &fleet.hello("web", 4));
    let client = fleet.client(&leader);
    assert_eq!(nodes_of(&client, "web").len(), 4);
    let gone = fleet.other(&[&leader]);
    let asker = fleet.client(&fleet.other(&[&leader, &gone]));

    let said = asker.text(&["decommission", &gone]).unwrap();
    let wanted = format!("{gone} is empty and no member any more; its process may be stopped");
    assert_eq!(said.trim(), wanted);
    assert!(fleet.processes(&gone).helpers.is_empty());
    all_answer(&await_healthy(&client, "web", &[&gone]));
    assert_eq!(row(&client, &gone), None, "it is no member any more");
    let voters = fleet.voters(3, &[&gone]);
    assert_eq!(voters.len(), 3);

    fleet.stop_agent(&gone).unwrap();
    let (code, said) = fleet.node_ends(&gone, &[]);
    assert_eq!(code, 77, "{said}");
    // Its name is free for another host.
    let failed = failure(&client, &["decommission", &gone]);
    assert_eq!(failed.code, Some(3), "{failed}");
}

#[test]
fn a_host_that_joined_gets_its_share_by_itself_and_a_dry_run_shows_it_before() {
    let fleet = Fleet::found(3, 3);
    let token = fleet.token(2).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
    let client = fleet.client("r1h1");
    fleet.run("r1h1", &fleet.hello("web", 4));
    let before = await_healthy(&client, "web", &[]);
    let dry_run = || client.text(&["rebalance", "--dry-run"]).unwrap();
    assert_eq!(dry_run().trim(), "nothing would be moved");

    fleet.start_joining("r3h1", &token).unwrap();
    fleet.await_up("r3h1");
    let moves = client.json(&["rebalance", "--dry-run"]).unwrap();
    let first = &moves[0];
    assert_eq!(first["to"], "r3h1", "{moves}");
    assert!(
        first["reason"].as_str().is_some_and(|why| !why.is_empty()),
        "{moves}"
    );
    let table = dry_run();
    assert!(table.contains("TASK") && table.contains("r3h1"), "{table}");
    let failed = failure(&client, &["rebalance"]);
    assert_eq!(failed.code, Some(2), "{failed}");
    assert!(failed.stderr.contains("--dry-run"), "{failed}");

    let after = until("a task on the new host", QUIET_AND_A_MOVE, || {
        let tasks = healthy(&client, "web")?;
        match by_rack(&tasks).len() {
            3 => Ok(tasks),
            _ => Err(format!("{tasks:?}")),
        }
    })
    .unwrap();
    all_answer(&after);
    // One was enough, and the others were left alone.
    let stayed = before.iter().filter(|task| after.contains(task));
    assert_eq!(stayed.count(), 3, "{before:?} {after:?}");
    assert_eq!(dry_run().trim(), "nothing would be moved");
}
