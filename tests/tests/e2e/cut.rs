//! Nodes that don't reach each other, each in a network of its own: a session
//! that another member carries.

use super::exec::skip;
use potluck_testnet::{net::Wires, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, hello},
    status::{Task, await_healthy, healthy, pids},
};
use serde_json::Value;

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

#[test]
fn a_node_that_the_scheduler_does_not_reach_is_carried_by_another() {
    if let Some(why) = Wires::missing() {
        return skip("cut", &format!("no networks with wires: {why}"));
    }
    let fleet = Fleet::wired(4, 4);
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
    assert!(table.contains(&format!("up, relayed by {by}")), "{table}");
    assert!(fleet.log(cut).contains(CARRIED), "{}", fleet.log(cut));

    // Orders go the same way: an award, a start, health, and a stop. Meanwhile
    // a host whose session were out would have been given up twice over.
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
    assert_eq!(pids(&fleet, &[cut])[cut].0.len(), 2, "web and afterwards");
    assert_eq!(await_way(&fleet, &leader, cut, false), None);
}
