//! Two hosts that lose sight of each other while all others see both. In a
//! network namespace of the test's thread, whose packet filter drops what they
//! send each other: needs root and `iptables`.

use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::{await_healthy, pids},
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
};

/// Says that a test can't run here, and why; `make test` counts them.
fn skip(why: &str) {
    let line = format!("skipped: e2e::partition: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("POTLUCK_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // A lost line only makes the count smaller.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Moves this thread and what it starts into a network of its own, which ends
/// with the last of them; says why if it can't.
fn network_of_our_own() -> Result<(), &'static str> {
    if !Uid::effective().is_root() {
        return Err("needs root for a network namespace");
    }
    if !runs("iptables", &["--version"]) || !runs("ip", &["-V"]) {
        return Err("needs iptables and ip (Debian: iptables, iproute2)");
    }
    unshare(CloneFlags::CLONE_NEWNET).map_err(|_| "this host gives no network namespace")?;
    assert!(runs("ip", &["link", "set", "lo", "up"]), "lo comes up");
    match runs("iptables", &["-L", "-n"]) {
        true => Ok(()),
        false => Err("this kernel has no packet filter"),
    }
}

/// Nothing passes from one address to the other any more.
fn cut(from: IpAddr, to: IpAddr) {
    let (from, to) = (from.to_string(), to.to_string());
    let rule = ["-A", "INPUT", "-s", &from, "-d", &to, "-j", "DROP"];
    assert!(runs("iptables", &rule), "{rule:?}");
}

/// What `potluck nodes` says of a node, once it says so.
fn await_node(client: &Client, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    let seen = until(what, WAIT, || {
        let nodes = client.json(&["nodes"]).map_err(|error| error.to_string())?;
        let mut nodes = nodes.as_array().into_iter().flatten();
        let node = nodes.find(|node| node["name"] == name).cloned();
        match node {
            Some(node) if good(&node) => Ok(node),
            other => Err(format!("{other:?}")),
        }
    });
    seen.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_host_that_loses_sight_of_the_scheduler_is_reached_through_another() {
    if let Err(why) = network_of_our_own() {
        return skip(why);
    }
    let fleet = Fleet::up(4, 2);
    fleet.voters(3, &[]);
    fleet.run("r1h1", &fleet.hello("web", 4));
    let leader = fleet.leader().unwrap();
    let host = {
        let info = fleet.client(&leader).json(&["info"]).unwrap();
        let voters = info["voters"].as_array().unwrap().clone();
        let names = fleet.names();
        let mut others = names
            .into_iter()
            .filter(|name| !voters.contains(&Value::from(name.as_str())));
        others.next().expect("one does not vote")
    };
    let asker = fleet.other(&[&leader, &host]);
    let client = fleet.client(&asker);
    let tasks = await_healthy(&client, "web", &[]);
    assert!(tasks.iter().any(|task| task.node == host), "{tasks:?}");
    let before = pids(&fleet, &[&host]);
    let address = |name: &str| fleet.place(name).unwrap().address.ip();
    cut(address(&leader), address(&host));
    cut(address(&host), address(&leader));

    let node = await_node(&client, &host, "a carried session", |node| {
        node["relayed_by"].is_string() && node["state"] == "up"
    });
    let by = node["relayed_by"].as_str().unwrap().to_owned();
    assert!(by != leader && by != host, "{node}");
    assert_eq!(await_healthy(&client, "web", &[]), tasks);
    assert_eq!(pids(&fleet, &[&host]), before);

    // Orders go the same way: what is asked for next gets there and ends.
    fleet.run(&asker, &fleet.hello("further", 4));
    let further = await_healthy(&client, "further", &[]);
    assert!(further.iter().any(|task| task.node == host), "{further:?}");
    client.text(&["stop", "further"]).unwrap();
    client.text(&["stop", "web"]).unwrap();
    let ended = until("the end of the host's tasks", WAIT, || {
        let there = fleet.processes(&host).tasks;
        match there.is_empty() {
            true => Ok(()),
            false => Err(format!("{there:?}")),
        }
    });
    ended.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fleet.leader().unwrap(), leader);

    assert!(runs("iptables", &["-F", "INPUT"]), "the cut ends");
    await_node(&client, &host, "a session of its own", |node| {
        node["relayed_by"].is_null() && node["state"] == "up"
    });
}
