//! What a spec asks of its host, and gets: disk, no isolation.

use super::exec::person;
use potluck_specs::trust::Role;
use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT, failure};

#[test]
fn disk_is_counted_and_a_task_that_uses_more_says_so() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let text = "job(name = \"hungry\", package = \"potluck-hello\", command = \"/bin/sh\", \
                cpu = 0.05, memory = \"32MiB\", disk = \"8MiB\", args = [\"-c\", \
                \"dd if=/dev/zero of=big bs=1048576 count=20; exec sleep 1000\"])";
    let spec = fleet.spec("hungry", text);
    client.text(&["run", &spec, "--no-wait"]).unwrap();
    until("the end by the disk limit", WAIT, || {
        let status = client
            .json(&["status", "hungry"])
            .map_err(|e| e.to_string())?;
        let end = status[0]["tasks"][0]["last_end"].as_str().unwrap_or("");
        match end.starts_with("disk-limit: 20") && end.contains("of 8 MiB: folder 20") {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    })
    .unwrap();

    let spec = fleet.spec(
        "vast",
        &text.replace("hungry", "vast").replace("8MiB", "900TiB"),
    );
    client.text(&["run", &spec, "--no-wait"]).unwrap();
    until("a host that says what it lacks", WAIT, || {
        let said = client
            .text(&["explain", "vast[0]"])
            .map_err(|e| e.to_string())?;
        match said.contains("disk") && said.contains("900 TiB") {
            true => Ok(()),
            false => Err(said),
        }
    })
    .unwrap();
}

#[test]
fn a_daemon_of_the_host_is_an_operators_to_run() {
    let fleet = Fleet::up(1, 1);
    let text = "job(name = \"daemon\", package = \"potluck-hello\", command = \"/bin/sh\", \
                cpu = 0.05, memory = \"32MiB\", isolation = \"none\", args = [\"-c\", \
                \"readlink /proc/self/ns/pid; exec sleep 1000\"])";
    let spec = fleet.spec("daemon", text);
    let own = Role::Deployer {
        namespaces: vec!["default".into()],
    };
    let deployer = person(&fleet, "dan", vec![own.clone()], "r1h1");
    let refused = failure(&deployer, &["run", &spec]);
    assert_eq!(refused.code, Some(77), "{refused}");
    for word in ["without isolation", "operator", "dan"] {
        assert!(refused.stderr.contains(word), "{refused}");
    }
    let both = person(&fleet, "olga", vec![own, Role::Operator], "r1h1");
    both.json(&["run", &spec]).unwrap();
    let host = std::fs::read_link("/proc/self/ns/pid").unwrap();
    until("its line", WAIT, || {
        let logs = both.text(&["logs", "daemon"]).map_err(|e| e.to_string())?;
        match logs.contains(&*host.to_string_lossy()) {
            true => Ok(()),
            false => Err(logs),
        }
    })
    .unwrap();
    // It is the host itself that one would enter.
    let inside = failure(&deployer, &["exec", "daemon[0]", "--", "id"]);
    assert_eq!(inside.code, Some(77), "{inside}");
}
