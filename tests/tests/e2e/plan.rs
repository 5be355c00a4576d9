//! `plan` says what `run` then does, and changes nothing.

use potluck_testnet::client::Client;
use potluck_tests::{
    fleet::{Fleet, failure, hello},
    status::{await_healthy, by_rack, pids},
};
use serde_json::Value;
use std::{collections::BTreeMap, process::Output};

/// The exit code of a plan and what it says.
fn plan(client: &Client, args: &[&str]) -> (i32, Value) {
    let args = [&["plan"], args, &["-o", "json"]].concat();
    let Output { status, stdout, .. } = client.command(&args).output().unwrap();
    let said = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    (status.code().unwrap(), said)
}

/// Tasks that would start, by node.
fn rows(said: &Value) -> BTreeMap<&str, u64> {
    let rows = said["jobs"][0]["forecast"]["rows"].as_array();
    rows.into_iter()
        .flatten()
        .map(|row| {
            (
                row["place"].as_str().unwrap(),
                row["tasks"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_plan_has_three_exit_codes_and_changes_nothing() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r2h1");
    let spec = fleet.hello("web", 3);

    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(said["changes"], true);
    assert_eq!(said["jobs"][0]["change"], "created");
    assert_eq!(
        rows(&said),
        BTreeMap::from([("r1h1", 1), ("r2h1", 1), ("r3h1", 1)])
    );
    let jobs = client.json(&["status", "--all"]).unwrap();
    assert_eq!(jobs, Value::Array(Vec::new()), "nothing was accepted");

    fleet.run("r1h1", &spec);
    let tasks = await_healthy(&client, "web", &[]);
    assert_eq!(
        by_rack(&tasks),
        BTreeMap::from([("r1", 1), ("r2", 1), ("r3", 1)])
    );
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let before = pids(&fleet, &names);
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["jobs"][0]["change"], "unchanged");

    let changed = hello("web", 3, "potluck-hello", "potluck-hello").replace("32MiB", "48MiB");
    let spec = fleet.spec("web", &changed);
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(said["jobs"][0]["version"], 1);
    assert_eq!(said["jobs"][0]["change"], "rolling_restart", "{said}");
    let change = &said["jobs"][0]["fields"][0];
    assert_eq!(change["field"], "task.resources.memory_bytes", "{said}");
    assert!(change["old"].as_str().unwrap().contains("32"), "{said}");
    assert!(change["new"].as_str().unwrap().contains("48"), "{said}");
    assert_eq!(rows(&said).values().sum::<u64>(), 3, "{said}");
    let text = client.command(&["plan", &spec]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("task.resources.memory_bytes"), "{text}");

    let (code, said) = plan(&client, &[&spec, "--replicas", "3000"]);
    assert_eq!(code, 2, "{said}");
    let unplaced = &said["jobs"][0]["forecast"]["unplaced"][0];
    assert!(unplaced["tasks"].as_u64() > Some(0), "{said}");
    assert!(unplaced["why"].as_str().unwrap().contains("free"), "{said}");

    assert_eq!(plan(&client, &["no-such.star"]).0, 1);
    let nobody = client.at("127.0.0.1:1");
    assert_eq!(plan(&nobody, &[&spec]).0, 1);
    assert_eq!(pids(&fleet, &names), before, "nothing was restarted");
    let status = client.json(&["status", "web"]).unwrap();
    assert_eq!(status[0]["version"], 1);
}

#[test]
fn a_plan_shows_jobs_that_are_gone_from_the_file() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let (one, two) = (
        hello("one", 1, "potluck-hello", "potluck-hello"),
        hello("two", 1, "potluck-hello", "potluck-hello"),
    );
    let spec = fleet.spec("both", &format!("{one}{two}"));
    fleet.run("r1h1", &spec);
    let other = fleet.hello("three", 1);
    fleet.run("r1h1", &other);
    let spec = fleet.spec("both", &one);
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(code, 2, "{said}");
    assert_eq!(said["jobs"][0]["change"], "unchanged");
    let jobs = said["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2, "{said}");
    assert_eq!(jobs[1]["job"]["name"], "two", "{said}");
    assert_eq!(jobs[1]["change"], "removed", "{said}");
    client.json(&["stop", "two"]).unwrap();
    assert_eq!(plan(&client, &[&spec]).0, 0, "a stopped job is gone");

    // Refused where it moved on since the plan, and only there.
    let expect = |version: &str| format!("one={version}");
    let failed = failure(&client, &["run", &spec, "--expect-version", &expect("2")]);
    assert_eq!(failed.code, Some(4), "{failed}");
    assert!(
        failed.stderr.contains("at version 1") && failed.stderr.contains("at version 2"),
        "{failed}"
    );
    let failed = failure(&client, &["run", &spec, "--expect-version", "0"]);
    assert_eq!(failed.code, Some(4), "{failed}");
    assert!(failed.stderr.contains("not there"), "{failed}");
    let same = client.json(&["run", &spec, "--expect-version", "1"]);
    assert_eq!(same.unwrap()["accepted"][0]["unchanged"], true);
}
