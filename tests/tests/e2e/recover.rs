//! Most voters lost for good, and what a survivor makes of it.

use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, failure},
    status::{all_answer, await_healthy, pids},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The host is gone, its disk too: at least from where it was.
fn destroy(fleet: &Fleet, name: &str) -> PathBuf {
    fleet.kill(name).unwrap();
    let away = fleet.root().join(format!("lost-{name}"));
    fs::rename(fleet.data(name), &away).expect("a folder that nobody uses");
    away
}

/// Waits until a node, of the epoch that it should be in by now, sees a leader.
fn await_epoch(fleet: &Fleet, name: &str, epoch: u64) {
    let client = fleet.client(name);
    let come = until(&format!("{name} in epoch {epoch}"), WAIT, || {
        let info = client.json(&["info"]).map_err(|error| error.to_string())?;
        let led = !info["leader"].is_null();
        // A node without a log knows no authority.
        let of = info["authority"][0].as_u64();
        match led && (of == Some(epoch) || of == Some(0)) {
            true => Ok(()),
            false => Err(info.to_string()),
        }
    });
    come.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until nothing but the lack of a majority is seen from this node.
fn await_lost(client: &Client) -> Value {
    let args = &["cluster", "recover", "--dry-run"];
    let come = until("the loss of most voters to be seen", WAIT, || {
        let view = client.json(args).map_err(|error| error.to_string())?;
        let objections = view["objections"].as_array().ok_or("no objections")?;
        match objections.is_empty() {
            true => Ok(view),
            false => Err(view.to_string()),
        }
    });
    come.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until so many nodes have a copy of the log beside the asked one, all
/// up to where its own ends.
fn await_copies(client: &Client, count: usize) -> Value {
    let args = &["cluster", "recover", "--dry-run"];
    let come = until(&format!("{count} copies of the log"), WAIT, || {
        let view = client.json(args).map_err(|error| error.to_string())?;
        let copies = view["copies"].as_array().ok_or("no list of copies")?;
        let whole = copies
            .iter()
            .filter(|copy| copy["log_index"] == view["log_index"]);
        match whole.count() >= count {
            true => Ok(view),
            false => Err(view.to_string()),
        }
    });
    come.unwrap_or_else(|error| panic!("{error}"))
}

fn has_file(folder: &Path, begin: &str) -> bool {
    let files = fs::read_dir(folder).expect("a folder");
    let mut names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    names.any(|name| name.starts_with(begin))
}

#[test]
fn two_of_three_voters_are_lost_and_the_third_goes_on() {
    let fleet = Fleet::up(5, 5);
    fleet.run("r1h1", &fleet.hello("kept", 5));
    let voters = fleet.voters(3, &[]);
    let survivor = voters[0].as_str();
    let client = fleet.client(survivor);
    await_copies(&client, 4);

    // Not while a majority is there.
    let refused = failure(&client, &["cluster", "recover", "--yes"]);
    assert_eq!(refused.code, Some(4), "{refused}");
    assert!(
        refused.stderr.contains("voters can be reached"),
        "{refused}"
    );

    let (first, second) = (voters[1].as_str(), voters[2].as_str());
    let left: Vec<String> = fleet
        .names()
        .into_iter()
        .filter(|name| name != first && name != second)
        .collect();
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    let before = pids(&fleet, &left);
    let kept = destroy(&fleet, first);
    destroy(&fleet, second);
    let view = await_lost(&client);

    // Not without a word of the person, and not from afar.
    let refused = failure(&client, &["cluster", "recover"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    let address = fleet.place(survivor).unwrap().address.to_string();
    let afar = failure(&client.at(&address), &["cluster", "recover", "--yes"]);
    assert_eq!(afar.code, Some(2), "{afar}");
    assert_eq!(view["next_epoch"], 2, "{view}");
    assert_eq!(view["role"], "voter", "{view}");
    assert_eq!(view["jobs"], 1, "{view}");

    let agent = fleet.processes(survivor).agent;
    client.json(&["cluster", "recover", "--yes"]).unwrap();
    assert_eq!(fleet.processes(survivor).agent, agent, "the same process");
    for name in &left {
        await_epoch(&fleet, name, 2);
        fleet.await_up(name);
    }
    assert_eq!(pids(&fleet, &left), before, "no task was touched");
    fleet.run(survivor, &fleet.hello("after", 2));
    fleet.voters(3, &[first, second]);
    let tasks = await_healthy(&client, "kept", &[first, second]);
    all_answer(&tasks);
    for (name, (_, tasks)) in &before {
        let now = fleet.processes(name).tasks;
        assert!(tasks.is_subset(&now), "{name} runs what it ran");
    }

    // The folder of an old voter is found again: it follows, and does no harm.
    fs::rename(&kept, fleet.data(first)).expect("the folder");
    fleet.start(first).unwrap();
    fleet.await_up(first);
    await_epoch(&fleet, first, 2);
    assert!(has_file(&fleet.data(first).join("raft"), "log.epoch-past"));
    assert!(fleet.log(first).contains("puts its log aside and follows"));
    let tasks = await_healthy(&client, "kept", &[second]);
    all_answer(&tasks);
    await_healthy(&client, "after", &[second]);
    fleet.run(first, &fleet.hello("again", 2));
}

#[test]
fn a_learner_that_lags_behind_goes_on_and_recovers_a_job_from_its_host() {
    let fleet = Fleet::up(5, 5);
    let voters = fleet.voters(3, &[]);
    let voters: Vec<&str> = voters.iter().map(String::as_str).collect();
    let learners: Vec<String> = fleet
        .names()
        .into_iter()
        .filter(|name| !voters.contains(&name.as_str()))
        .collect();
    let [lagging, host] = &learners[..] else {
        panic!("two learners, not {learners:?}");
    };
    await_copies(&fleet.client(lagging), 4);
    fleet.kill_agent(lagging).unwrap();

    // Accepted, and one of its tasks is on the other learner's host.
    fleet.run(voters[0], &fleet.hello("late", 4));
    let late = await_healthy(&fleet.client(voters[0]), "late", &[lagging]);
    assert!(late.iter().any(|task| task.node == *host), "{late:?}");
    let before = pids(&fleet, &[host]);
    await_copies(&fleet.client(host), 3);

    for voter in &voters {
        destroy(&fleet, voter);
    }
    fleet.start(lagging).unwrap();
    fleet.await_answer(lagging).unwrap();
    let client = fleet.client(lagging);
    until("the other learner's copy", WAIT, || {
        let failed = failure(&client, &["cluster", "recover", "--yes"]);
        let told = failed.code == Some(4) && failed.stderr.contains("has a longer copy");
        match told && failed.stderr.contains(host.as_str()) {
            true => Ok(()),
            false => Err(failed.to_string()),
        }
    })
    .unwrap();

    // The operator knows better: say, that host is to be thrown away.
    client
        .json(&["cluster", "recover", "--yes", "--force"])
        .unwrap();
    let recovered = until("the job of the lost log", WAIT, || {
        let jobs = client.json(&["status", "late"]);
        let jobs = jobs.map_err(|error| error.to_string())?;
        match jobs[0]["recovered_at"].is_u64() {
            true => Ok(jobs),
            false => Err(jobs.to_string()),
        }
    })
    .unwrap();
    assert_eq!(recovered[0]["version"], 1, "{recovered}");
    let info = client.json(&["info"]).unwrap();
    let warnings = info["warnings"].to_string();
    assert!(warnings.contains("recovered from hosts"), "{info}");
    fleet.await_up(host);
    assert_eq!(pids(&fleet, &[host]), before, "its task was not touched");
    fleet.run(lagging, &fleet.hello("fresh", 1));

    // A person runs it again: it is a job like others, at its next version.
    let spec = fleet.spec(
        "late2",
        &potluck_tests::fleet::hello("late", 1, "potluck-hello", "potluck-hello"),
    );
    client.json(&["run", "--no-wait", &spec]).unwrap();
    let jobs = client.json(&["status", "late"]).unwrap();
    assert_eq!(jobs[0]["version"], 2, "{jobs}");
    assert!(jobs[0]["recovered_at"].is_null(), "{jobs}");
}
