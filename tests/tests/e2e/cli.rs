//! What the command line says: exit codes, hints and JSON.

use potluck_testnet::{
    client::{Client, Failed},
    wait::until,
};
use potluck_tests::fleet::{Fleet, WAIT, failure, hello, programs};
use serde_json::Value;

fn assert_failed(failed: &Failed, code: i32, words: &[&str]) {
    assert_eq!(failed.code, Some(code), "{failed}");
    for word in words {
        assert!(failed.stderr.contains(word), "{word:?} is not in {failed}");
    }
}

#[test]
fn errors_have_their_codes_and_hints() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    fleet.run("r1h1", &fleet.hello("known", 1));

    assert_failed(
        &failure(&client, &["status", "nothing"]),
        3,
        &["nothing", "hint: ", "known"],
    );
    assert_failed(&failure(&client, &["stop", "nothing"]), 3, &["nothing"]);
    assert_failed(&failure(&client, &["logs", "nothing[0]"]), 3, &["nothing"]);
    assert_failed(&failure(&client, &["logs", "known[7]"]), 3, &["known[7]"]);
    assert_failed(&failure(&client, &["resolve", "nothing"]), 3, &["nothing"]);
    assert_failed(
        &failure(&client, &["drain", "nowhere"]),
        3,
        &["nowhere", "hint: ", "r1h1"],
    );
    assert_failed(
        &failure(&client, &["no-such-command"]),
        2,
        &["no-such-command"],
    );

    let nobody = fleet.client("r1h1").at("127.0.0.1:1");
    assert_failed(&failure(&nobody, &["info"]), 5, &["127.0.0.1:1", "hint: "]);
    let absent = fleet.client("r1h1").at("./no/such.sock");
    assert_failed(&failure(&absent, &["info"]), 3, &["such.sock", "hint: "]);
    let nonsense = fleet.client("r1h1").at("nonsense");
    assert_failed(&failure(&nonsense, &["info"]), 2, &["nonsense", "hint: "]);
}

#[test]
fn bad_specs_are_refused_with_their_place() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    let text = hello("typo", 1, "potluck-hello", "potluck-hello").replace("replicas", "replicsa");
    let spec = fleet.spec("typo", &text);
    assert_failed(
        &failure(&client, &["run", &spec]),
        2,
        &["replicsa", "typo.star:2:"],
    );
    let text = hello("later", 1, "potluck-hello", "potluck-hello").replace(
        "package = \"potluck-hello\"",
        "package = oci(\"example.org/later:1\")",
    );
    let spec = fleet.spec("later", &text);
    assert_failed(
        &failure(&client, &["run", &spec]),
        2,
        &["from a registry", "not yet supported", "later.star:"],
    );
    let spec = fleet.spec("lost", &hello("lost", 1, "no-such-file", "x"));
    assert_failed(
        &failure(&client, &["run", &spec]),
        2,
        &["no-such-file", "help: "],
    );
    for command in [&["run"][..], &["spec", "check"], &["spec", "show"]] {
        let failed = failure(&client, &[command, &["no-such.star"]].concat());
        assert_failed(&failed, 3, &["no-such.star"]);
    }
    let jobs = client.json(&["status"]).unwrap();
    assert_eq!(jobs, Value::Array(Vec::new()), "nothing was accepted");
}

#[test]
fn errors_are_json_where_json_is_read() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    let nobody = client.at("127.0.0.1:1");
    let spec = fleet.spec("lost", &hello("lost", 1, "no-such-file", "x"));
    for (client, args, code, name, retry) in [
        (&client, vec!["status", "nothing"], 3, "not_found", false),
        (&client, vec!["run", &spec], 2, "bad_request", false),
        (
            &client,
            vec!["status", "--no-such"],
            2,
            "bad_request",
            false,
        ),
        (&client, vec!["plan", "--no-such"], 1, "bad_request", false),
        (&client, vec!["plan", "no-such.star"], 1, "not_found", false),
        (&nobody, vec!["info"], 5, "unavailable", true),
    ] {
        let args = [args, vec!["-o", "json"]].concat();
        let failed = failure(client, &args);
        assert_eq!(failed.code, Some(code), "{failed}");
        let last = failed.stderr.lines().last().unwrap_or_default();
        let said: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {failed}"));
        assert_eq!(said["error"]["code"], name, "{failed}");
        assert_eq!(said["error"]["exit_code"], code, "{failed}");
        assert_eq!(said["error"]["retry"], retry, "{failed}");
        assert!(said["error"]["message"].is_string(), "{failed}");
    }
}

#[test]
fn what_stays_broken_is_not_worth_another_try() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("config"), folder.path().join("data"));
    let client = Client::new(&programs().join("potluck"), &config, &data);
    client.json(&["init", "--name", "first"]).unwrap();
    std::fs::write(config.join("profile.json"), "{").unwrap();
    assert_failed(&failure(&client, &["status"]), 1, &["profile.json"]);
    // A file where a folder should be.
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "").unwrap();
    let nowhere = Client::new(
        &programs().join("potluck"),
        &taken.join("c"),
        &taken.join("d"),
    );
    assert_failed(&failure(&nowhere, &["init", "--name", "x"]), 1, &["hint: "]);
}

#[test]
fn a_person_without_keys_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("config"), folder.path().join("data"));
    let client = Client::new(&programs().join("potluck"), &config, &data);
    assert_failed(&failure(&client, &["status"]), 77, &["hint: "]);
}

#[test]
fn a_fleet_is_begun_once() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("config"), folder.path().join("data"));
    let client = Client::new(&programs().join("potluck"), &config, &data);
    let born = client.json(&["init", "--name", "first"]).unwrap();
    assert!(born["fleet"].is_string(), "{born}");
    // Where to ask, from other hosts.
    let profile = std::fs::read_to_string(config.join("profile.json")).unwrap();
    let profile: Value = serde_json::from_str(&profile).unwrap();
    assert_eq!(
        profile["nodes"][0]["addresses"][0], born["address"],
        "{profile}"
    );
    let key = std::fs::read(data.join("node.key")).unwrap();
    assert_failed(&failure(&client, &["init"]), 4, &["hint: "]);
    assert_eq!(std::fs::read(data.join("node.key")).unwrap(), key);
    // Without a node that runs there is nobody to ask.
    let failed = failure(&client, &["status"]);
    assert!(failed.code == Some(3) || failed.code == Some(5), "{failed}");
    assert!(failed.stderr.contains("hint: "), "{failed}");
}

#[test]
fn a_data_folder_has_one_node() {
    let fleet = Fleet::found(1, 1);
    let (code, said) = fleet.node_ends("r1h1", &[]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("hint: ") && said.contains("r1h1"), "{said}");
    fleet
        .client("r1h1")
        .json(&["info"])
        .expect("the first one goes on");
}

#[test]
fn a_host_without_a_cluster_is_told_what_to_do() {
    let fleet = Fleet::found(2, 1);
    let (code, said) = fleet.node_ends("r1h2", &[]);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("potluck init") && said.contains("--join"),
        "{said}"
    );
}

#[test]
fn every_command_speaks_json() {
    let fleet = Fleet::up(2, 2);
    let client = fleet.client("r1h1");
    let spec = fleet.hello("web", 2);
    let done = client.json(&["run", &spec]).unwrap();
    assert_eq!(done["jobs"][0]["healthy"], 2, "{done}");
    for (args, what) in [
        (vec!["info"], "/name"),
        (vec!["nodes"], "/0/name"),
        (vec!["status"], "/0/name/name"),
        (vec!["status", "web"], "/0/tasks/0/node"),
        (vec!["explain", "web[0]"], "/hosts/0/verdict"),
        (vec!["packages"], "/0/package"),
        (vec!["history", "web"], "/0/author"),
        (vec!["diff", "web", "1", "1"], "/changes"),
        (vec!["token", "create"], "/token"),
        (vec!["drain", "r2h1"], "/draining"),
        (vec!["drain", "--undo", "r2h1"], "/draining"),
    ] {
        let answer = client.json(&args).unwrap_or_else(|error| panic!("{error}"));
        assert!(answer.pointer(what).is_some(), "{args:?}: {answer}");
    }
    // Lines are written to disk a moment after the task wrote them.
    until("the last line of a log", WAIT, || {
        let tail = client.text(&["logs", "web[0]", "--tail", "1"]);
        let tail = tail.map_err(|error| error.to_string())?;
        match tail.lines().count() {
            1 => Ok(()),
            lines => Err(format!("{lines} lines: {tail}")),
        }
    })
    .unwrap();
    let lines = client.text(&["logs", "web[0]", "-o", "json"]).unwrap();
    assert!(lines.lines().count() > 0);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["sequence"].is_u64(), "{line}");
    }
    potluck_tests::status::await_healthy(&client, "web", &[]);
    let resolved = client.json(&["resolve", "web"]).unwrap();
    assert!(resolved["endpoints"].is_array(), "{resolved}");
    let dated = client.text(&["logs", "web[0]", "--tail", "1", "--timestamps"]);
    let dated = dated.unwrap();
    let stamp = dated.split(' ').next().unwrap();
    assert!(
        stamp.len() == 24 && stamp.ends_with('Z') && &stamp[10..11] == "T",
        "{dated}"
    );
    let stopped = client.json(&["stop", "web"]).unwrap();
    assert_eq!(stopped["stopped"], true);
    let jobs = client.json(&["status"]).unwrap();
    assert_eq!(jobs, Value::Array(Vec::new()), "stopped jobs are not shown");
    let jobs = client.json(&["status", "--all"]).unwrap();
    assert_eq!(jobs[0]["stopped_by"]["author"], "admin", "{jobs}");
    for args in [
        vec!["--help"],
        vec!["run", "--help"],
        vec!["node", "--help"],
    ] {
        let text = client.text(&args).unwrap();
        assert!(text.contains("Usage: "), "{text}");
    }
}

/// What a `potluck spec` command prints as JSON; it asks no node.
fn spec_json(args: &[&str]) -> Value {
    let mut command = std::process::Command::new(programs().join("potluck"));
    let output = command.arg("spec").args(args).args(["-o", "json"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What is shown of a job is what the schema says that a job has.
#[test]
fn the_schema_describes_the_jobs_that_are_shown() {
    let whole = spec_json(&["schema"]);
    let schema = spec_json(&["schema", "job"]);
    assert_eq!(whole["job"], schema);
    assert_eq!(whole["functions"], spec_json(&["schema", "functions"]));
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../specs/examples");
    let mut jobs = 0;
    for file in std::fs::read_dir(examples).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|ext| ext != "star") {
            continue;
        }
        let shown = spec_json(&["show", file.to_str().unwrap()]);
        for job in shown["jobs"].as_array().unwrap() {
            jobs += 1;
            let job = &job["draft"];
            for (part, described) in [
                ("", ""),
                ("/task", "/$defs/TaskTemplate"),
                ("/task/resources", "/$defs/Resources"),
                ("/task/stop", "/$defs/StopPolicy"),
                ("/placement", "/$defs/Placement"),
                ("/change", "/$defs/Change"),
                ("/change/update", "/$defs/Update"),
            ] {
                let shown = job.pointer(part).and_then(Value::as_object).unwrap();
                let described = schema.pointer(described).unwrap();
                let known = described["properties"].as_object().unwrap();
                let names = |map: &serde_json::Map<String, Value>| -> Vec<String> {
                    let mut names: Vec<String> = map.keys().cloned().collect();
                    names.sort();
                    names
                };
                assert_eq!(names(shown), names(known), "{file:?} {part}");
            }
        }
    }
    assert!(jobs >= 10, "{jobs}");
}

#[test]
fn jobs_and_tokens_are_looked_at_as_one_expects() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    fleet.run("r1h1", &fleet.hello("one", 1));
    fleet.run("r1h1", &fleet.hello("two", 2));

    let both = client.json(&["status", "one", "two"]).unwrap();
    let names: Vec<&Value> = both
        .as_array()
        .unwrap()
        .iter()
        .map(|j| &j["name"])
        .collect();
    assert_eq!(names.len(), 2, "{both}");
    let text = client.text(&["status", "one", "two"]).unwrap();
    assert!(text.contains("one[0]") && text.contains("two[1]"), "{text}");

    let text = client.text(&["explain", "two"]).unwrap();
    assert!(
        text.contains("two[0]:") && text.contains("two[1]:"),
        "{text}"
    );
    let one = client.json(&["explain", "two[1]"]).unwrap();
    assert!(one["hosts"].is_array(), "{one}");
    let all = client.json(&["explain", "two"]).unwrap();
    assert_eq!(all[1]["explained"]["hosts"][0]["node"], "r1h1", "{all}");
    assert_failed(
        &failure(&client, &["explain", "nothing"]),
        3,
        &["one", "two"],
    );

    assert_failed(
        &failure(&client, &["token", "create", "--ttl", "0"]),
        2,
        &["--ttl"],
    );
    let made = client.json(&["token", "create", "--uses", "3"]).unwrap();
    let id = made["id"].as_str().expect("an id");
    let find = || {
        let tokens = client.json(&["token", "list"]).unwrap();
        let tokens = tokens.as_array().expect("tokens").clone();
        tokens.into_iter().find(|token| token["id"] == id)
    };
    assert_eq!(find().expect("it is listed")["uses_left"], 3);
    let text = client.text(&["token", "list"]).unwrap();
    assert!(text.contains(id) && text.contains("3 more"), "{text}");
    client.json(&["token", "revoke", id]).unwrap();
    assert_eq!(find(), None);
    assert_failed(&failure(&client, &["token", "revoke", id]), 3, &[id]);

    let nowhere = client.at("host.invalid:7400");
    assert_failed(
        &failure(&nowhere, &["info"]),
        2,
        &["there is no host", "host.invalid"],
    );
    let without = client.at("127.0.0.1");
    assert_failed(
        &failure(&without, &["info"]),
        2,
        &["port", "127.0.0.1:7400"],
    );
}
