//! `plan` says what `run` then does, and changes nothing.

use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, failure, hello},
    status::{await_healthy, by_rack, pids},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, process::Output};

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
    // Amounts change while tasks run.
    assert_eq!(said["jobs"][0]["change"], "changed_in_place", "{said}");
    let change = &said["jobs"][0]["fields"][0];
    assert_eq!(change["effect"], "live", "{said}");
    assert_eq!(change["field"], "task.resources.memory_bytes", "{said}");
    assert!(change["old"].as_str().unwrap().contains("32"), "{said}");
    assert!(change["new"].as_str().unwrap().contains("48"), "{said}");
    assert_eq!(said["jobs"][0]["forecast"]["kept"], 3, "{said}");
    let text = client.command(&["plan", &spec]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\n   memory "), "as it is typed: {text}");

    let (code, said) = plan(&client, &[&spec, "--replicas", "3000"]);
    assert_eq!(code, 2, "{said}");
    let left_out = said["jobs"][0]["forecast"]["not_looked_at"].as_u64();
    assert!(left_out > Some(0), "{said}");
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
    // By this name the tree is told from all others.
    let root = Path::new(&spec).with_file_name("potluck.root");
    std::fs::write(&root, "tests/both\n").unwrap();
    fleet.run("r1h1", &spec);
    let other = fleet.hello("three", 1);
    fleet.run("r1h1", &other);
    let spec = fleet.spec("both", &one);
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(code, 0, "run would change nothing: {said}");
    assert_eq!(said["jobs"][0]["change"], "unchanged");
    let jobs = said["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2, "{said}");
    assert_eq!(jobs[1]["job"]["name"], "two", "{said}");
    assert_eq!(jobs[1]["change"], "removed", "{said}");
    // The same file of another tree, and of one that nobody knows.
    std::fs::write(&root, "tests/other\n").unwrap();
    let (_, said) = plan(&client, &[&spec]);
    assert_eq!(said["jobs"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["removals_known"], true);
    std::fs::write(&root, "").unwrap();
    let (_, said) = plan(&client, &[&spec]);
    assert_eq!(said["jobs"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(said["removals_known"], false);
    // All may have left it.
    std::fs::write(&root, "tests/both\n").unwrap();
    std::fs::write(&spec, "# nothing any more\n").unwrap();
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(
        (code, said["jobs"].as_array().unwrap().len()),
        (0, 2),
        "{said}"
    );
    std::fs::write(&spec, &one).unwrap();
    client.json(&["stop", "two"]).unwrap();
    let (code, said) = plan(&client, &[&spec]);
    assert_eq!(
        (code, said["jobs"].as_array().unwrap().len()),
        (0, 1),
        "a stopped job is gone"
    );

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

#[test]
fn nothing_of_a_file_is_submitted_if_a_job_of_it_is_refused() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let text = |names: &[&str]| -> String {
        let jobs = names.iter();
        jobs.map(|name| hello(name, 1, "potluck-hello", "potluck-hello"))
            .collect()
    };
    let spec = fleet.spec("two", &text(&["web", "api"]));
    fleet.run("r1h1", &spec);
    let changed = text(&["web", "api"]).replace("32MiB", "48MiB");
    std::fs::write(&spec, changed).unwrap();
    let args = [
        "run",
        &spec,
        "--expect-version",
        "web=1",
        "--expect-version",
        "api=9",
    ];
    let failed = failure(&client, &args);
    assert_eq!(failed.code, Some(4), "{failed}");
    assert!(failed.stderr.contains("nothing was changed"), "{failed}");
    for job in ["web", "api"] {
        let status = client.json(&["status", job]).unwrap();
        assert_eq!(status[0]["version"], 1, "{status}");
    }
}

#[test]
fn a_circle_through_the_cluster_is_refused_with_its_path() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let waiting = |name: &str, on: &str| {
        let text = hello(name, 1, "potluck-hello", "potluck-hello");
        let on = format!("depends_on = [{on:?}], replicas");
        fleet.spec(name, &text.replacen("replicas", &on, 1))
    };
    let (ca, cb) = (waiting("ca", "cb"), waiting("cb", "ca"));
    let done = client.json(&["run", &ca, "--no-wait"]).unwrap();
    assert_eq!(done["findings"][0]["kind"], "unknown-job", "{done}");
    let told = until("the job that is missing is named", WAIT, || {
        let status = client
            .json(&["status", "ca"])
            .map_err(|error| error.to_string())?;
        let waits = status[0]["tasks"][0]["waits_for"].as_str();
        match waits.filter(|waits| waits.contains("job cb")) {
            Some(waits) => Ok(waits.to_owned()),
            None => Err(status.to_string()),
        }
    });
    assert_eq!(told.unwrap(), "job cb, which does not exist");
    let explained = client.text(&["explain", "ca[0]"]).unwrap();
    assert!(explained.contains("waits first for job cb"), "{explained}");
    let failed = failure(&client, &["run", &cb, "--no-wait"]);
    assert_eq!(failed.code, Some(2), "{failed}");
    assert!(failed.stderr.contains("cb -> ca -> cb"), "{failed}");
    let (code, said) = plan(&client, &[&cb]);
    assert_eq!((code, &said["refused"]), (1, &Value::Bool(true)), "{said}");
}

#[test]
fn one_per_node_is_waited_for_on_each_node() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r1h1");
    let text = hello("each", 1, "potluck-hello", "potluck-hello");
    let spec = fleet.spec("each", &text.replacen("replicas = 1", "per_node = True", 1));
    let done = fleet.run("r1h1", &spec);
    assert_eq!(done["jobs"][0]["replicas"], 3, "{done}");
    assert_eq!(done["jobs"][0]["healthy"], 3, "{done}");
    let status = client.text(&["status"]).unwrap();
    assert!(
        status.contains("healthy") && status.contains("3/3"),
        "{status}"
    );
    let history = client.text(&["history", "each"]).unwrap();
    assert!(history.contains("1 per node"), "{history}");
}

#[test]
fn what_a_spec_may_not_take_is_refused_before_anything_is_sent() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let job = |name: &str, package: &str| hello(name, 1, package, "potluck-hello");
    let text = job("a", "miss1") + &job("b", "miss2") + &job("c", "/etc/passwd");
    let spec = fleet.spec("outside", &text);
    let failed = failure(&client, &["run", &spec]);
    assert_eq!(failed.code, Some(2), "{failed}");
    for words in [
        "miss1",
        "miss2",
        "outside of the root folder",
        "--allow-outside",
    ] {
        assert!(failed.stderr.contains(words), "{words}: {failed}");
    }
}
