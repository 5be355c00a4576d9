//! Versions of a job: what is unchanged stays, what was is kept and comes
//! back.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT, failure, hello},
    status::{await_healthy, pids},
};
use serde_json::Value;
use std::{path::Path, process::Command};

#[test]
fn an_unchanged_run_changes_nothing() {
    let fleet = Fleet::up(3, 3);
    let spec = fleet.hello("web", 3);
    let first = fleet.run("r1h1", &spec);
    assert_eq!(first["accepted"][0]["unchanged"], false, "{first}");
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let tasks = await_healthy(&fleet.client("r1h1"), "web", &[]);
    let before = pids(&fleet, &names);
    for name in &names {
        // Through any node, also one that lacks the package.
        let again = fleet.run(name, &spec);
        assert_eq!(again["accepted"][0]["unchanged"], true, "{again}");
        assert_eq!(again["accepted"][0]["version"], 1, "{again}");
        assert_eq!(again["jobs"][0]["healthy"], 3, "{again}");
    }
    let text = fleet.client("r3h1").text(&["run", &spec]).unwrap();
    assert!(text.contains("web is unchanged, version 1"), "{text}");
    assert_eq!(pids(&fleet, &names), before);
    assert_eq!(await_healthy(&fleet.client("r2h1"), "web", &[]), tasks);

    // A stopped job is started by the same spec, as a new version.
    fleet.client("r1h1").json(&["stop", "web"]).unwrap();
    let again = fleet.run("r2h1", &spec);
    assert_eq!(again["accepted"][0]["version"], 2, "{again}");
}

/// What the tasks of a job are known by: where
/// they run, under which generation, and after how many starts.
fn known_by(status: &Value) -> Vec<String> {
    let tasks = status["tasks"].as_array().unwrap();
    let known = tasks.iter().map(|task| {
        let keys = ["slot", "node", "generation", "version", "starts"];
        keys.map(|key| task[key].to_string()).join(" ")
    });
    known.collect()
}

#[test]
fn a_change_beside_the_task_restarts_none() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r2h1");
    let text = hello("web", 3, "potluck-hello", "potluck-hello");
    let spec = fleet.spec("web", &text);
    let first = fleet.run("r1h1", &spec);
    let before = known_by(&first["jobs"][0]);
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ran = pids(&fleet, &names);

    // More of them, and more important.
    let changed = text.replace("replicas = 3", "replicas = 5, priority = 70");
    std::fs::write(&spec, &changed).unwrap();
    let output = client.command(&["plan", &spec, "-o", "json"]).output();
    let said: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let plan = &said["jobs"][0];
    assert_eq!(plan["change"], "changed_in_place", "{said}");
    assert_eq!(plan["forecast"]["kept"], 3, "{said}");
    let fields = plan["fields"].as_array().unwrap().iter();
    let fields: Vec<(&str, &str)> = fields
        .map(|f| (f["field"].as_str().unwrap(), f["effect"].as_str().unwrap()))
        .collect();
    let expected = [
        ("kind.service.replicas", "in_place"),
        ("priority", "in_place"),
    ];
    assert_eq!(fields, expected);
    let done = client.json(&["run", &spec]).unwrap();
    let now = known_by(&done["jobs"][0]);
    assert_eq!(now[..3], before, "{done}");
    let tasks = done["jobs"][0]["tasks"].as_array().unwrap();
    let versions: Vec<_> = tasks.iter().map(|t| t["version"].as_u64()).collect();
    assert_eq!(versions, [1, 1, 1, 2, 2].map(Some), "{done}");
    assert!(tasks.iter().all(|task| task["up_to_date"] == true));
    for (name, (helpers, tasks)) in &ran {
        let now = fleet.processes(name);
        assert!(helpers.is_subset(&now.helpers) && tasks.is_subset(&now.tasks));
    }
    let shown = client.text(&["status", "web"]).unwrap();
    assert!(shown.contains("2 (started as 1)"), "{shown}");
    let rollout = client.text(&["rollout", "status", "web"]).unwrap();
    assert!(rollout.contains("done"), "{rollout}");

    // Also under another scheduler, and back.
    for name in &names {
        fleet.kill_agent(name).unwrap();
        fleet.start(name).unwrap();
    }
    fleet.await_all_up().unwrap();
    let done = client.json(&["run", "--version", "1", "web"]).unwrap();
    // The two that are too many may still be ending.
    assert_eq!(known_by(&done["jobs"][0])[..3], before, "{done}");
    await_healthy(&client, "web", &[]);
    let left = until("the end of the other two", WAIT, || {
        let now = pids(&fleet, &names);
        match now == ran {
            true => Ok(()),
            false => Err(format!("{now:?}, not {ran:?}")),
        }
    });
    left.unwrap_or_else(|error| panic!("{error}"));
}

/// `run` does not wait out its time for a version that is given up.
#[test]
fn a_bad_version_is_rolled_back_and_run_says_so() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r1h1");
    let good = "job(name = \"web\", package = \"potluck-hello\", command = \"potluck-hello\", \
                replicas = 3, cpu = 0.05, memory = \"32MiB\", ports = {\"http\": 0}, \
                services = {\"web\": \"http\"}, at_most = {\"node\": 1}, \
                update = update(rollback = True, health_deadline = \"20s\"))\n";
    let spec = fleet.spec("web", good);
    fleet.run("r1h1", &spec);
    let before = await_healthy(&client, "web", &[]);

    let bad = good.replace("command = \"potluck-hello\"", "command = \"/bin/false\"");
    let bad = fleet.spec("web", &bad);
    let failed = failure(&client, &["run", &bad]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    for words in [
        "was rolled back to version 1",
        "potluck logs --previous web",
    ] {
        assert!(failed.stderr.contains(words), "{}", failed.stderr);
    }
    // One task a node: what failed there must not keep the former from it.
    let after = await_healthy(&client, "web", &[]);
    assert_eq!(after.len(), before.len());
    let status = client.json(&["status", "web"]).unwrap();
    assert_eq!(status[0]["rollout"]["phase"], "rolled back", "{status}");
    let text = client.text(&["status", "web"]).unwrap();
    assert!(text.contains("rolled back"), "{text}");
    assert!(text.contains("version 1 runs: "), "{text}");
}

fn git(folder: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(args);
    for (name, value) in [
        ("GIT_AUTHOR_NAME", "Ann"),
        ("GIT_AUTHOR_EMAIL", "ann@example.org"),
        ("GIT_COMMITTER_NAME", "Ann"),
        ("GIT_COMMITTER_EMAIL", "ann@example.org"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ] {
        command.env(name, value);
    }
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn versions_are_kept_compared_and_gone_back_to() {
    let fleet = Fleet::up(3, 3);
    let client = fleet.client("r3h1");
    let text = hello("web", 1, "potluck-hello", "potluck-hello");
    let spec = fleet.spec("web", &text);
    let folder = Path::new(&spec).parent().unwrap();
    git(folder, &["init", "-q"]);
    git(folder, &["add", "."]);
    git(folder, &["commit", "-qm", "one"]);
    let commit = git(folder, &["rev-parse", "HEAD"]);
    fleet.run("r1h1", &spec);
    let changed = text.replace("cpu = 0.05", "cpu = 0.06");
    std::fs::write(&spec, changed).unwrap();
    let done = client.json(&["run", &spec, "-m", "more room"]).unwrap();
    assert_eq!(done["accepted"][0]["version"], 2, "{done}");

    let diff = |args: &[&str]| {
        let args = [&["diff", "web"], args, &["-o", "json"]].concat();
        let output = client.command(&args).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = diff(&["1", "2"]);
    assert_eq!(code, 2, "{said}");
    let change = &said["changes"][0];
    assert_eq!(change["field"], "task.resources.cpu_millis", "{said}");
    let text = |key: &str| change[key].as_str().unwrap().to_owned();
    assert!(text("old") != text("new"), "{said}");
    assert_eq!(said["changes"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(diff(&["2"]).0, 0, "with itself");
    assert_eq!(diff(&["2", "9"]).0, 1);

    // Back to what it was, as a version of its own.
    let done = client
        .json(&["run", "--version", "1", "web", "--expect-version", "2"])
        .unwrap();
    assert_eq!(done["accepted"][0]["version"], 3, "{done}");
    assert_eq!(done["jobs"][0]["tasks"][0]["version"], 3, "{done}");
    assert_eq!(diff(&["1", "3"]).0, 0);
    let again = client.json(&["run", "--version", "1", "web"]).unwrap();
    assert_eq!(again["accepted"][0]["unchanged"], true, "{again}");
    let failed = failure(&client, &["run", "--version", "9", "web"]);
    assert_eq!(failed.code, Some(3), "{failed}");
    assert!(failed.stderr.contains("it is at 3"), "{failed}");

    // Known to every node, also after all were killed.
    for name in fleet.names() {
        fleet.kill(&name).unwrap();
        fleet.start(&name).unwrap();
    }
    fleet.await_all_up().unwrap();
    let history = fleet.client("r2h1").json(&["history", "web"]).unwrap();
    let history = history.as_array().unwrap();
    let numbers: Vec<u64> = history
        .iter()
        .map(|v| v["version"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(history[0]["origin"]["back_to"], 1);
    assert_eq!(history[1]["message"], "more room");
    for (version, dirty) in [(&history[2], false), (&history[1], true)] {
        assert_eq!(version["author"], "admin");
        let spec = version["origin"]["spec"].as_str().unwrap_or_default();
        assert!(spec.ends_with("//web.star"), "{version}");
        assert_eq!(version["origin"]["commit"]["id"], commit.as_str());
        assert_eq!(version["origin"]["commit"]["dirty"], dirty, "{version}");
        assert!(version["accepted_at"].as_u64() > Some(0));
    }
    let text = client.text(&["history", "web"]).unwrap();
    assert!(
        text.contains("more room") && text.contains(&commit[..12]),
        "{text}"
    );
}
