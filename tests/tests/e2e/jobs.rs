//! Jobs that are submitted, spread, and still there after everything stopped.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::{all_answer, await_healthy, await_resolved, by_rack},
};
use std::collections::BTreeMap;

#[test]
fn every_node_takes_a_job_and_a_change_is_a_new_version() {
    let fleet = Fleet::up(3, 3);
    for name in fleet.names() {
        let job = format!("by-{name}");
        let spec = fleet.hello(&job, 1);
        let done = fleet.run(&name, &spec);
        assert_eq!(done["accepted"][0]["version"], 1, "{done}");
        let holders = done["accepted"][0]["holders"].as_array().unwrap();
        assert_eq!(holders.len(), 3, "{done}");
        let spec = fleet.hello(&job, 2);
        let again = fleet.run(&name, &spec);
        assert_eq!(again["accepted"][0]["version"], 2, "{again}");
        assert_eq!(again["jobs"][0]["tasks"][0]["up_to_date"], true, "{again}");
        assert_eq!(again["jobs"][0]["tasks"][1]["version"], 2, "{again}");
    }
    // Over the network too, by the person's certificate alone.
    let address = fleet.place("r2h1").unwrap().address.to_string();
    let spec = fleet.hello("from-afar", 1);
    let done = fleet.client("r1h1").at(&address).json(&["run", &spec]);
    assert_eq!(done.unwrap()["accepted"][0]["version"], 1);
}

#[test]
fn replicas_are_spread_over_the_racks_and_found_by_name() {
    let fleet = Fleet::up(6, 3);
    let spec = fleet.hello("wide", 6);
    fleet.run("r2h1", &spec);
    let tasks = await_healthy(&fleet.client("r2h1"), "wide", &[]);
    assert_eq!(
        by_rack(&tasks),
        BTreeMap::from([("r1", 2), ("r2", 2), ("r3", 2)])
    );
    all_answer(&tasks);
    for name in fleet.names() {
        await_resolved(&fleet.client(&name), "wide", &tasks);
    }
}

#[test]
fn jobs_come_back_from_disk_when_all_nodes_restart() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("one", 3));
    fleet.run("r2h1", &fleet.hello("two", 1));
    fleet.run("r2h1", &fleet.hello("two", 2));
    fleet.voters(3, &[]);
    for name in fleet.names() {
        fleet.kill(&name).unwrap();
    }
    for name in fleet.names() {
        fleet.start(&name).unwrap();
    }
    fleet.await_all_up().unwrap();
    let client = fleet.client("r3h1");
    for (job, version, replicas) in [("one", 1, 3), ("two", 2, 2)] {
        let tasks = await_healthy(&client, job, &[]);
        assert_eq!(tasks.len(), replicas);
        all_answer(&tasks);
        let status = client.json(&["status", job]).unwrap();
        assert_eq!(status[0]["version"], version, "{status}");
        await_resolved(&client, job, &tasks);
    }
    // No change was lost, and the next one counts on.
    let again = fleet.run("r3h1", &fleet.hello("two", 1));
    assert_eq!(again["accepted"][0]["version"], 3);
}

#[test]
fn a_fleet_that_was_killed_right_after_joining_finds_itself_again() {
    let fleet = Fleet::up(3, 3);
    for name in fleet.names() {
        fleet.kill(&name).unwrap();
    }
    for name in fleet.names() {
        fleet.start(&name).unwrap();
    }
    fleet.await_all_up().unwrap();
    fleet.run("r3h1", &fleet.hello("after", 3));
}

#[test]
fn a_job_without_ports_runs_and_restarts_its_task() {
    let fleet = Fleet::found(1, 1);
    let text = "job(name = \"brief\", package = \".\", command = \"/bin/sh\",\n\
                args = [\"-c\", \"echo begun; exit 3\"], cpu = \"20m\", memory = \"16MiB\",\n\
                restart = restart(backoff = \"100ms\", backoff_max = \"200ms\"))\n";
    let spec = fleet.spec("brief", text);
    let client = fleet.client("r1h1");
    client.json(&["run", "--no-wait", &spec]).unwrap();
    until("three starts", WAIT, || {
        let status = client
            .json(&["status", "brief"])
            .map_err(|e| e.to_string())?;
        let task = &status[0]["tasks"][0];
        match task["starts"].as_u64() {
            Some(starts) if starts >= 3 && task["last_end"].is_string() => Ok(()),
            _ => Err(task.to_string()),
        }
    })
    .unwrap();
    until("the name for it", WAIT, || {
        let text = client
            .text(&["status", "brief"])
            .map_err(|e| e.to_string())?;
        match text.contains("crash loop (exited with code 3") {
            true => Ok(()),
            false => Err(text),
        }
    })
    .unwrap();
    let log = client.text(&["logs", "brief[0]"]).unwrap();
    assert!(log.matches("begun").count() >= 2, "{log}");
}

#[test]
fn a_task_that_leaves_its_volume_behind_is_told_of() {
    let fleet = Fleet::up(2, 2);
    let client = fleet.client("r1h1");
    let text = "job(name = \"keeper\", package = \"potluck-hello\", command = \"potluck-hello\",\n\
         cpu = 0.05, memory = \"32MiB\", ports = {\"http\": 0},\n\
         health = http(\"http\", \"/healthz\"),\n\
         mounts = [volume(\"data\", at = \"/data\")])\n";
    fleet.run("r1h1", &fleet.spec("keeper", text));
    let before = await_healthy(&client, "keeper", &[])[0].node.clone();
    let note = format!("its volumes stayed on {before}");
    let status = client.text(&["status", "keeper"]).unwrap();
    assert!(!status.contains("volumes"), "{status}");
    client.json(&["drain", &before, "--wait"]).unwrap();
    let after = await_healthy(&client, "keeper", &[&before])[0].node.clone();
    let status = client.text(&["status", "keeper"]).unwrap();
    assert!(status.contains(&note), "{status}");
    let explained = client.text(&["explain", "keeper"]).unwrap();
    assert!(explained.contains(&note), "{explained}");
    let log = fleet.log(&after);
    assert!(log.contains("volume begins empty"), "{log}");
}
