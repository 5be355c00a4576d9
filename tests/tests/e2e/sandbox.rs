//! What a spec asks of its host, and gets: disk, no isolation.

use super::exec::person;
use potluck_specs::trust::Role;
use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT, failure};
use std::path::Path;

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

/// A folder beside a spec.
fn folder(spec: &str, name: &str, files: &[(&str, &str)]) {
    let folder = Path::new(spec).with_file_name(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (file, text) in files {
        std::fs::write(folder.join(file), text).unwrap();
    }
}

#[test]
fn further_packages_are_kept_fetched_and_laid_over_the_first() {
    let fleet = Fleet::up(2, 2);
    let client = fleet.client("r1h1");
    let text = "job(name = \"layers\", package = \"potluck-hello\", command = \"/bin/sh\", \
                cpu = 0.05, memory = \"32MiB\", replicas = 2, \
                packages = {\"/package\": \"over\", \"/opt/data\": \"data\"}, \
                args = [\"-c\", \
                \"ls /package; cat /package/extra /opt/data/table; exec sleep 1000\"])";
    let spec = fleet.spec("layers", text);
    folder(&spec, "over", &[("extra", "laid over\n")]);
    folder(&spec, "data", &[("table", "far away\n")]);
    client.json(&["run", &spec]).unwrap();
    until("lines of both", WAIT, || {
        let logs = client
            .text(&["logs", "layers"])
            .map_err(|e| e.to_string())?;
        let all = ["potluck-hello", "laid over", "far away"];
        match all.iter().all(|word| logs.matches(word).count() >= 2) {
            true => Ok(()),
            false => Err(logs),
        }
    })
    .unwrap();
    // All three are on both nodes, by the log as well.
    for name in ["r1h1", "r2h1"] {
        let packages = fleet.client(name).json(&["packages"]).unwrap();
        assert_eq!(packages.as_array().unwrap().len(), 3, "{packages}");
    }

    // A file in the place of the program.
    let wrong = Path::new(&spec).with_file_name("wrong/potluck-hello");
    std::fs::create_dir_all(wrong).unwrap();
    let text = text
        .replace("\"over\"", "\"wrong\"")
        .replace("\"layers\"", "\"torn\"");
    let other = Path::new(&spec).with_file_name("torn.star");
    std::fs::write(&other, text).unwrap();
    let other = other.to_string_lossy();
    client.text(&["run", &other, "--no-wait"]).unwrap();
    until("a start that says what does not fit", WAIT, || {
        let status = client
            .json(&["status", "torn"])
            .map_err(|e| e.to_string())?;
        let end = status[0]["tasks"][0]["last_end"].as_str().unwrap_or("");
        let said = "potluck-hello is a file in package";
        match end.contains(said) && end.contains("and a folder in package") {
            true => Ok(()),
            false => Err(status.to_string()),
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
