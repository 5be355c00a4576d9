//! What the scheduler and a host decided, recorded and decided again.

use potluck_testnet::wait::until;
use potluck_tests::{
    fleet::{Fleet, WAIT, failure},
    status::await_healthy,
};
use std::{fs, process::Child};

/// In the environment of a task.
const SECRET: &str = "hunter2-and-nobody-else";

/// `potluck debug record`, ended with the test.
struct Recording(Child);

impl Recording {
    /// As with Ctrl-C: what was written so far stays.
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn a_run_and_a_drain_are_decided_again_the_same() {
    // Two nodes have one voter: its leadership does not change.
    let fleet = Fleet::up(2, 2);
    let (leader, other) = ("r1h1", "r2h1");
    let client = fleet.client(leader);
    let file = fleet.root().join("recording");
    let path = file.to_string_lossy().into_owned();
    // Names come by gossip, a moment after the nodes themselves.
    until("the right node to be named", WAIT, || {
        let args = ["debug", "record", "--file", &path];
        let elsewhere = failure(&fleet.client(other), &args);
        match elsewhere.code == Some(2) && elsewhere.stderr.contains(leader) {
            true => Ok(()),
            false => Err(elsewhere.to_string()),
        }
    })
    .unwrap();
    assert!(!file.exists(), "nothing stays behind");

    let args = ["debug", "record", "--seconds", "600", "--file", &path];
    let mut recording = Recording(client.start(&args).unwrap());
    until("the recording's begin", WAIT, || {
        match fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            true => Ok(()),
            false => Err("an empty file"),
        }
    })
    .unwrap();
    let text = format!(
        "job(name = \"seen\", package = \"potluck-hello\", command = \"potluck-hello\",\n\
         replicas = 2, cpu = 0.05, memory = \"32MiB\", ports = {{\"http\": 0}},\n\
         env = {{\"PASSWORD\": {SECRET:?}}}, health = http(\"http\", \"/healthz\"))\n"
    );
    fleet.run(leader, &fleet.spec("seen", &text));
    await_healthy(&client, "seen", &[]);
    client.json(&["drain", other, "--wait"]).unwrap();
    let tasks = await_healthy(&client, "seen", &[other]);
    let length = fs::metadata(&file).expect("the recording").len();
    until(
        "what happened to be written",
        WAIT,
        || match fs::metadata(&file).is_ok_and(|file| file.len() > length) {
            true => Ok(()),
            false => Err("not longer yet"),
        },
    )
    .unwrap();
    recording.end();

    // Without any node, even.
    for name in [leader, other] {
        fleet.kill(name).unwrap();
    }
    let report = client.json(&["debug", "replay", &path]).unwrap();
    assert_eq!(report["differ"], 0, "{report}");
    let decisions = report["decisions"].as_array().expect("decisions");
    let lines = |key: &str| -> Vec<String> {
        let lists = decisions.iter().filter_map(|one| one[key].as_array());
        let lines = lists.flatten().filter_map(|line| line.as_str());
        lines.map(str::to_owned).collect()
    };
    let (effects, reasons) = (lines("effects"), lines("reasons"));
    let has = |begin: &str, end: &str| {
        effects
            .iter()
            .any(|line| line.starts_with(begin) && line.contains(end))
    };
    assert!(has("award ", "seen[0]"), "{effects:?}");
    assert!(has("award ", "seen[1]"), "{effects:?}");
    assert!(has("stop ", "on r2h1: Drained"), "{effects:?}");
    assert!(
        reasons.iter().any(|line| line.contains("price")),
        "{reasons:?}"
    );
    assert!(tasks.iter().all(|task| task.node == leader), "{tasks:?}");

    // A person may hand it around.
    let bytes = fs::read(&file).expect("the recording");
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(holds(b"PASSWORD") && !holds(SECRET.as_bytes()));

    // Half of it is a recording too.
    fs::write(&file, &bytes[..bytes.len() / 2]).expect("the recording, cut");
    let cut = client.json(&["debug", "replay", &path]).unwrap();
    assert_eq!(cut["differ"], 0, "a torn end is no difference: {cut}");
    assert!(cut["steps"].as_u64() < report["steps"].as_u64(), "{cut}");
}

#[test]
fn what_a_host_refuses_is_recorded_with_what_it_had() {
    // Room for two tasks, and a port for one: only the host itself knows that.
    let fleet = Fleet::up_with(1, 1, &["--ports", "29481-29481"]);
    let client = fleet.client("r1h1");
    let file = fleet.root().join("host");
    let path = file.to_string_lossy().into_owned();
    let args = [
        "debug",
        "record",
        "--of",
        "host",
        "--seconds",
        "600",
        "--file",
        &path,
    ];
    let mut recording = Recording(client.start(&args).unwrap());
    let longer_than = |length: u64| match fs::metadata(&file).is_ok_and(|f| f.len() > length) {
        true => Ok(()),
        false => Err("not longer yet"),
    };
    until("the recording's begin", WAIT, || longer_than(0)).unwrap();
    let text = format!(
        "job(name = \"tight\", package = \"potluck-hello\", command = \"potluck-hello\",\n\
         replicas = 2, cpu = 0.05, memory = \"32MiB\", ports = {{\"http\": 0}},\n\
         env = {{\"PASSWORD\": {SECRET:?}}}, health = http(\"http\", \"/healthz\"))\n"
    );
    client
        .json(&["run", "--no-wait", &fleet.spec("tight", &text)])
        .unwrap();
    let report = until("a refusal on the record", WAIT, || {
        let report = client.json(&["debug", "replay", &path]);
        let report = report.map_err(|error| error.to_string())?;
        match report.to_string().contains("refuse the call: port") {
            true => Ok(report),
            false => Err(report.to_string()),
        }
    })
    .unwrap();
    recording.end();
    assert_eq!(report["differ"], 0, "{report}");
    let decisions = report["decisions"].as_array().expect("decisions");
    let has = |key: &str, begin: &str, part: &str| {
        let lists = decisions.iter().filter_map(|one| one[key].as_array());
        let mut lines = lists.flatten().filter_map(|line| line.as_str());
        lines.any(|line| line.starts_with(begin) && line.contains(part))
    };
    assert!(has("effects", "bid for 1", "ms"), "{report}");
    assert!(has("effects", "take tight[", "]"), "{report}");
    assert!(has("effects", "start tight[", "#1"), "{report}");
    assert!(
        has("effects", "refuse the call: ", "29481 is taken"),
        "{report}"
    );
    assert!(has("reasons", "its tasks have: ", "0.05 cores"), "{report}");
    let bytes = fs::read(&file).expect("the recording");
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(holds(b"PASSWORD") && !holds(SECRET.as_bytes()));
}
