//! Work that ends: each piece is done, and none is run again once it was.

use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT, failure};
use serde_json::Value;
use std::{collections::BTreeMap, fs};

/// Pieces of the array.
const PIECES: u32 = 20;

/// The one that fails twice before it succeeds.
const STUBBORN: u32 = 7;

/// Each start and each end of a piece writes a line.
fn array(fleet: &Fleet, shared: &std::path::Path) -> String {
    let script = format!(
        "k=$POTLUCK_ARRAY_INDEX; [ $k = $1 ] || exit 9; cd /shared; echo start >> $k; sleep 1; \
         if [ $k = {STUBBORN} ] && [ $(grep -c start $k) -lt 3 ]; then exit 3; fi; \
         echo done >> $k"
    );
    let text = format!(
        "job(name = \"array\", package = \".\", command = \"/bin/sh\",\n\
         args = [\"-c\", {script:?}, \"piece\", \"${{slot.index}}\"],\n\
         cpu = \"20m\", memory = \"16MiB\",\n\
         batch = batch(completions = {PIECES}, parallelism = 4, retries = 5, array = True),\n\
         restart = restart(backoff = \"200ms\", backoff_max = \"500ms\"),\n\
         mounts = [bind({:?}, at = \"/shared\", read_only = False)])\n",
        shared.display().to_string()
    );
    fleet.spec("array", &text)
}

/// Lines by piece.
fn written(shared: &std::path::Path) -> BTreeMap<u32, Vec<String>> {
    let entries = fs::read_dir(shared).expect("the folder");
    let pieces = entries.map(|entry| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        let lines = fs::read_to_string(&path).expect("a piece's lines");
        (
            name.parse().expect("an index"),
            lines.lines().map(str::to_owned).collect(),
        )
    });
    pieces.collect()
}

fn done(batch: &Value) -> u64 {
    batch["done"].as_u64().unwrap_or(0)
}

#[test]
fn each_piece_of_an_array_is_done_and_none_again_though_leader_and_nodes_die() {
    let fleet = Fleet::up(3, 3);
    fleet.voters(3, &[]);
    let shared = fleet.shared_folder();
    let spec = array(&fleet, &shared);
    fleet.run("r1h1", &spec);
    let leader = fleet.leader().unwrap();
    let asker = fleet.client(&fleet.other(&[&leader]));
    let batch = |least: u64| {
        until("pieces that are done", WAIT, || {
            let status = asker
                .json(&["status", "array"])
                .map_err(|e| e.to_string())?;
            let batch = status[0]["batch"].clone();
            match done(&batch) >= least {
                true => Ok(batch),
                false => Err(batch.to_string()),
            }
        })
        .unwrap()
    };
    batch(4);
    // What is done by now may not be run again by anyone.
    let before = written(&shared);
    let is_done = |lines: &&Vec<String>| lines.last().is_some_and(|line| line == "done");
    let finished: Vec<u32> = before
        .iter()
        .filter(|(_, lines)| is_done(lines))
        .map(|(piece, _)| *piece)
        .collect();
    assert!(finished.len() >= 4, "{before:?}");
    fleet.kill(&leader).unwrap();
    let counted = batch(8);
    assert_eq!(counted["state"], "running", "{counted}");
    fleet.start(&leader).unwrap();
    batch(u64::from(PIECES));
    let status = asker.json(&["status", "array"]).unwrap();
    let batch = &status[0]["batch"];
    assert_eq!(batch["state"], "complete", "{status}");
    assert_eq!(
        (done(batch), batch["failed"].as_u64()),
        (20, Some(0)),
        "{status}"
    );
    let text = asker.text(&["status", "array"]).unwrap();
    assert!(text.contains("complete, 20/20 done"), "{text}");

    let after = written(&shared);
    assert_eq!(
        after.keys().copied().collect::<Vec<_>>(),
        (0..PIECES).collect::<Vec<_>>()
    );
    for (piece, lines) in &after {
        assert!(is_done(&lines), "{piece}: {lines:?}");
        let times = lines.iter().filter(|line| *line == "done").count();
        let killed = !finished.contains(piece);
        // One that ran on the killed node may have ended and not been heard.
        assert!(times == 1 || (killed && times == 2), "{piece}: {lines:?}");
    }
    for piece in finished {
        assert_eq!(after[&piece], before[&piece], "{piece} was done");
    }
    let starts = |piece: u32| after[&piece].iter().filter(|line| *line == "start").count();
    assert!(starts(STUBBORN) >= 3, "{:?}", after[&STUBBORN]);

    // All go down and come up: nothing of it runs again.
    for name in fleet.names() {
        fleet.kill(&name).unwrap();
    }
    for name in fleet.names() {
        fleet.start(&name).unwrap();
    }
    fleet.await_all_up().unwrap();
    // A second job shows that the scheduler places again.
    fleet.run("r1h1", &fleet.hello("after", 3));
    assert_eq!(written(&shared), after);
    let status = fleet.client("r1h1").json(&["status", "array"]).unwrap();
    assert_eq!(status[0]["batch"]["state"], "complete", "{status}");
}

#[test]
fn work_is_waited_for_and_fails_with_its_reason() {
    let fleet = Fleet::up(1, 1);
    let spec = |name: &str, script: &str, batch: &str| {
        let text = format!(
            "job(name = \"{name}\", package = \".\", command = \"/bin/sh\",\n\
             args = [\"-c\", {script:?}], cpu = \"20m\", memory = \"16MiB\",\n\
             batch = batch({batch}), restart = restart(backoff = \"100ms\"))\n"
        );
        fleet.spec(name, &text)
    };
    let client = fleet.client("r1h1");
    let good = spec("good", "exit 0", "completions = 3");
    let done = client.json(&["run", "--wait-done", &good]).unwrap();
    assert_eq!(done["jobs"][0]["batch"]["state"], "complete", "{done}");
    // It has run: the same once more is run once more.
    let again = client.json(&["run", "--wait-done", &good]).unwrap();
    assert_eq!(again["accepted"][0]["version"], 2, "{again}");
    let bad = spec("bad", "exit 4", "completions = 2, retries = 1");
    let failed = failure(&client, &["run", "--wait-done", &bad]);
    let why = "bad[0] failed 2 times, last: exited with code 4";
    assert!(failed.to_string().contains(why), "{failed}");
    let text = client.text(&["status", "bad"]).unwrap();
    assert!(text.contains("failed, 0/2 done, 1 failed"), "{text}");
    assert!(text.contains(why), "{text}");
    let late = spec("late", "sleep 600", "deadline = \"2s\"");
    let failed = failure(&client, &["run", "--wait-done", &late]);
    assert!(failed.to_string().contains("deadline exceeded"), "{failed}");
    until("a node without tasks", WAIT, || {
        let processes = fleet.processes("r1h1");
        match processes.tasks.is_empty() {
            true => Ok(()),
            false => Err(format!("{processes:?}")),
        }
    })
    .unwrap();
}

#[test]
fn the_example_of_a_batch_runs() {
    let fleet = Fleet::up(2, 2);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../specs/examples/batch.star");
    let text = fs::read_to_string(example).expect("the example");
    let spec = fleet.spec("batch", &text);
    let done = fleet
        .client("r1h1")
        .json(&["run", "--wait-done", &spec])
        .unwrap_or_else(|error| panic!("{error}"));
    let batch = &done["jobs"][0]["batch"];
    assert_eq!(batch["state"], "complete", "{done}");
    let log = fleet
        .client("r2h1")
        .text(&["logs", "thumbnails[99]"])
        .unwrap();
    assert!(log.contains("piece 99 of 100"), "{log}");
}

#[test]
fn a_service_that_is_not_to_start_again_stays_down() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let spec = |on: &str, code: u32| {
        let name = format!("{on}-{code}");
        let text = format!(
            "job(name = \"{name}\", package = \".\", command = \"/bin/sh\",\n\
             args = [\"-c\", \"exit {code}\"], cpu = \"20m\", memory = \"16MiB\",\n\
             restart = restart(on = \"{on}\", backoff = \"100ms\"))\n"
        );
        (name.clone(), fleet.spec(&name, &text))
    };
    let task = |name: &str| {
        let status = client.json(&["status", name]).map_err(|e| e.to_string())?;
        Ok::<Value, String>(status[0]["tasks"][0].clone())
    };
    let ended = |name: &str| {
        until("an end", WAIT, || match task(name)? {
            task if task["state"] == "Ended" => Ok(task),
            task => Err(task.to_string()),
        })
        .unwrap()
    };
    let (well, file) = spec("failure", 0);
    client.json(&["run", &file]).unwrap();
    assert_eq!(ended(&well)["healthy"], true, "it did what it was to do");
    let (down, file) = spec("never", 3);
    client.json(&["run", "--no-wait", &file]).unwrap();
    let task_down = ended(&down);
    assert_eq!(task_down["healthy"], false, "{task_down}");
    assert_eq!(task_down["last_end"], "exited with code 3", "{task_down}");
    let (again, file) = spec("failure", 3);
    client.json(&["run", "--no-wait", &file]).unwrap();
    until("a second start", WAIT, || match task(&again)? {
        task if task["starts"].as_u64() >= Some(2) => Ok(()),
        task => Err(task.to_string()),
    })
    .unwrap();
    // The agent's restart starts nothing.
    fleet.kill_agent("r1h1").unwrap();
    fleet.start("r1h1").unwrap();
    fleet.await_all_up().unwrap();
    assert_eq!(ended(&down)["starts"], 1);
    assert_eq!(ended(&well)["starts"], 1);
}
