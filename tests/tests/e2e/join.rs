//! Who is let in, who is not, and what a refused host is told.

use potluck_specs::{Millis, trust::Token};
use potluck_testnet::{client::Client, wait::until};
use potluck_tests::fleet::{Fleet, WAIT, exit_code, failure, programs};
use serde_json::Value;
use std::{
    fs::File,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Child,
    time::Duration,
};

/// For the end of the shortest token that can be made, of a minute.
const TOKEN_WAIT: Duration = Duration::from_secs(120);

/// Exit code of a refusal that stays one.
const DENIED: i32 = 77;

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

fn altered(token: &str, change: impl FnOnce(&mut Token)) -> String {
    let mut token: Token = token.parse().expect("a token of ours");
    change(&mut token);
    token.to_string()
}

#[test]
fn a_good_token_lets_a_host_in() {
    let fleet = Fleet::found(2, 2);
    let token = fleet.token(1).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
    let info = fleet.await_answer("r2h1").unwrap();
    let first = fleet.await_answer("r1h1").unwrap();
    assert_eq!(info["name"], "r2h1");
    assert_eq!(info["topology"]["rack"], "r2");
    assert_eq!(info["fleet"], first["fleet"]);
}

#[test]
fn a_damaged_or_wrong_token_is_refused() {
    let fleet = Fleet::found(2, 2);
    let token = fleet.token(1).unwrap();

    let cut = &token[..token.len() - 3];
    let (code, said) = fleet.refused("r2h1", cut);
    assert_eq!(code, 2, "{said}");
    assert_says(&said, &["damaged", "hint: ", "potluck token create"]);

    let guessed = altered(&token, |token| token.secret[0] ^= 1);
    let (code, said) = fleet.refused("r2h1", &guessed);
    assert_eq!(code, DENIED, "{said}");
    assert_says(&said, &["refuses", "hint: ", "potluck token create"]);

    let unknown = altered(&token, |token| token.id = "nobody".into());
    let (code, said) = fleet.refused("r2h1", &unknown);
    assert_eq!(code, DENIED, "{said}");

    // A wrong guess takes nothing from the right one.
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
}

#[test]
fn a_used_token_is_refused() {
    let fleet = Fleet::found(3, 3);
    let token = fleet.token(1).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
    let (code, said) = fleet.refused("r3h1", &token);
    assert_eq!(code, DENIED, "{said}");
    assert_says(
        &said,
        &["refuses", "used", "hint: ", "potluck token create"],
    );
}

#[test]
fn an_expired_token_is_refused() {
    let fleet = Fleet::found(2, 2);
    let client = fleet.client("r1h1");
    let made = client.json(&["token", "create", "--ttl", "1"]).unwrap();
    until("the token's end", TOKEN_WAIT, || {
        let tokens = client.text(&["token", "list"]);
        let tokens = tokens.map_err(|error| error.to_string())?;
        match tokens.contains(" ended ") {
            true => Ok(()),
            false => Err(tokens),
        }
    })
    .unwrap();
    let token = made["token"].as_str().unwrap();
    let (code, said) = fleet.refused("r2h1", token);
    assert_eq!(code, DENIED, "{said}");
    assert_says(&said, &["token", "hint: ", "potluck token create"]);

    // A host that believes it to be valid still is told by the cluster.
    let stretched = altered(token, |token| token.expires = Millis(u64::MAX / 2));
    let (code, said) = fleet.refused("r2h1", &stretched);
    assert_eq!(code, DENIED, "{said}");
    assert_says(&said, &["refuses", "hint: ", "potluck token create"]);
}

#[test]
fn a_token_of_another_fleet_is_refused() {
    let fleet = Fleet::found(2, 2);
    let token = fleet.token(1).unwrap();
    let foreign = altered(&token, |token| token.fleet.0[0] ^= 1);
    let (code, said) = fleet.refused("r2h1", &foreign);
    assert_eq!(code, DENIED, "{said}");
    assert_says(&said, &["another fleet", "hint: "]);
    // The token's secret was not sent: it is unused.
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
}

#[test]
fn of_two_hosts_with_one_token_exactly_one_is_in() {
    let fleet = Fleet::found(4, 2);
    let second = fleet.token(1).unwrap();
    fleet.start_joining("r2h1", &second).unwrap();
    fleet.await_up("r2h1");

    let token = fleet.token(1).unwrap();
    let join = |name: &str, seed: &str| {
        let seed = fleet.place(seed).unwrap().address.to_string();
        let args = ["--join", &seed, "--token", &token];
        fleet.node_command(name, &args).unwrap().spawn().unwrap()
    };
    // At the same moment, through two peers.
    let mut hosts: [(&str, Option<Child>); 2] = [
        ("r1h2", Some(join("r1h2", "r1h1"))),
        ("r2h2", Some(join("r2h2", "r2h1"))),
    ];
    let loser = until("the refusal of one of both", WAIT, || {
        for (name, child) in &mut hosts {
            let ended = child
                .as_mut()
                .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended {
                return Ok((*name, child.take().expect("it was there just now")));
            }
        }
        Err("both go on")
    });
    let (loser, child) = loser.unwrap();
    let winner = if loser == "r1h2" { "r2h2" } else { "r1h2" };
    assert_eq!(exit_code(child), DENIED, "{}", fleet.log(loser));
    assert_says(&fleet.log(loser), &["refuses", "used"]);
    fleet.await_up(winner);
    let states = fleet.node_states().unwrap();
    assert!(states.iter().all(|(name, _)| name != loser), "{states:?}");
    fleet.kill(winner).unwrap();
}

#[test]
fn a_lost_reply_can_be_asked_for_again() {
    let fleet = Fleet::found(2, 2);
    let token = fleet.token(1).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_up("r2h1");
    fleet.kill("r2h1").unwrap();
    // As if the answer had never come: the key is there, the certificate not.
    std::fs::remove_file(fleet.data("r2h1").join("credential.cbor")).unwrap();
    fleet.start_joining("r2h1", &token).unwrap();
    fleet.await_answer("r2h1").unwrap();
    fleet.await_up("r2h1");
    assert!(fleet.data("r2h1").join("credential.cbor").exists());
}

#[test]
fn a_port_that_is_taken_costs_no_token() {
    let fleet = Fleet::found(3, 3);
    let token = fleet.token(1).unwrap();
    let address = fleet.place("r2h1").unwrap().address;
    // Either of both that a node listens on; each is tried before anybody is
    // asked to be let in.
    let tcp = TcpListener::bind(address).unwrap();
    let (code, said) = fleet.refused("r2h1", &token);
    assert_eq!(code, 5, "{said}");
    assert_says(
        &said,
        &["can't listen on", &address.to_string(), "--listen"],
    );
    drop(tcp);
    let udp = UdpSocket::bind(address).unwrap();
    let (code, said) = fleet.refused("r2h1", &token);
    assert_eq!(code, 5, "{said}");
    assert_says(
        &said,
        &["can't listen on", &address.to_string(), "--listen"],
    );
    drop(udp);
    // Another host, since the same one would get the same answer again.
    fleet.start_joining("r3h1", &token).unwrap();
    fleet.await_up("r3h1");
}

#[test]
fn two_fleets_don_t_mix() {
    let fleet = Fleet::found(4, 2);
    let ours = fleet.token(1).unwrap();
    // A second fleet, with keys and people of its own, on a host of the net.
    let config = fleet.root().join("others");
    let others = Client::new(&programs().join("potluck"), &config, &fleet.data("r2h1"));
    others
        .text(&["init", "--name", "r2h1", "--rack", "r2"])
        .unwrap();
    fleet.start("r2h1").unwrap();
    let info = until("the other fleet", WAIT, || others.json(&["info"])).unwrap();
    let first = fleet.await_answer("r1h1").unwrap();
    assert_ne!(info["fleet"], first["fleet"]);
    let theirs = others.json(&["token", "create"]).unwrap();
    let theirs = theirs["token"].as_str().unwrap();

    // Each token at the other fleet's door.
    let their_door = fleet.place("r2h1").unwrap().address.to_string();
    let mixed = [
        fleet.refused("r1h2", theirs),
        fleet.node_ends("r1h2", &["--join", &their_door, "--token", &ours]),
    ];
    for (code, said) in mixed {
        assert_eq!(code, DENIED, "{said}");
        assert_says(&said, &["another fleet", "hint: "]);
    }
    // Neither was spent.
    fleet.start_joining("r1h2", &ours).unwrap();
    fleet.await_up("r1h2");
    fleet.start_joining_through("r2h2", "r2h1", theirs).unwrap();
    until("a second node of the other fleet", WAIT, || {
        let nodes = others.json(&["nodes"]).map_err(|error| error.to_string())?;
        let is_up = |node: &Value| node["name"] == "r2h2" && node["state"] == "up";
        match nodes
            .as_array()
            .is_some_and(|nodes| nodes.iter().any(is_up))
        {
            true => Ok(()),
            false => Err(nodes.to_string()),
        }
    })
    .unwrap();
    let states = fleet.node_states().unwrap();
    let names: Vec<&str> = states.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["r1h1", "r1h2"]);
    // Nor does either's person rule in the other.
    let refused = failure(
        &others.at(&fleet.place("r1h1").unwrap().address.to_string()),
        &["nodes"],
    );
    assert!(refused.stderr.contains("fleet"), "{refused}");
}

#[test]
fn a_folder_that_left_the_cluster_starts_no_node() {
    let fleet = Fleet::up(3, 3);
    let leader = fleet.leader().unwrap();
    let gone = fleet.other(&[&leader]);
    fleet.client(&gone).json(&["leave"]).unwrap();
    until("the end of its process", WAIT, || {
        match fleet.processes(&gone).agent {
            None => Ok(()),
            Some(pid) => Err(format!("process {pid} goes on")),
        }
    })
    .unwrap();
    let (code, said) = fleet.node_ends(&gone, &[]);
    assert_eq!(code, DENIED, "{said}");
    assert_says(
        &said,
        &["put out of the cluster", "hint: ", "--data", "--token"],
    );
}

#[test]
fn of_two_nodes_on_copies_of_a_folder_the_later_ends() {
    let fleet = Fleet::up(3, 2);
    let leader = fleet.leader().unwrap();
    let original = fleet.other(&[&leader]);
    // Copied while it stands still, as a clone of a host would be.
    fleet.stop_agent(&original).unwrap();
    let copy = fleet.root().join("copy");
    copy_folder(&fleet.data(&original), &copy);
    fleet.start(&original).unwrap();
    // For some seconds the others can't tell that it was away: it has to know
    // its scheduler itself, to be the first of the two that is heard.
    let own = fleet.client(&original);
    until("a scheduler for the original", WAIT, || {
        let info = own.json(&["info"]).map_err(|error| error.to_string())?;
        let leader = info["leader"].as_str().map(drop);
        leader.ok_or_else(|| info.to_string())
    })
    .unwrap();
    fleet.await_up(&original);
    let before = fleet.processes(&original).agent;

    let mut address = fleet.place(&original).unwrap().address;
    address.set_port(7500);
    let other = [
        ("--listen", address.to_string()),
        ("--data", copy.to_string_lossy().into_owned()),
    ];
    let log = fleet.root().join("copy.log");
    let mut command = fleet.altered_command(&original, &other);
    command.stderr(File::create(&log).unwrap());
    let code = exit_code(command.spawn().unwrap());
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(code, DENIED, "{said}");
    assert_says(
        &said,
        &[
            "another process runs with this node's key",
            "copied",
            "hint: ",
        ],
    );

    // The other goes on, and people are told everywhere.
    assert_eq!(fleet.processes(&original).agent, before);
    fleet.await_up(&original);
    for name in [&leader, &original] {
        let info = fleet.client(name).json(&["info"]).unwrap();
        let told = info["warnings"].to_string();
        assert_says(&told, &["two processes use the key of", &original]);
    }
    // And whatever the copy said of itself, the node is found where it is.
    let client = fleet.client(&leader);
    let own = fleet.place(&original).unwrap().address.to_string();
    until("the node's own address", WAIT, || {
        let nodes = client.json(&["nodes"]).map_err(|error| error.to_string())?;
        let nodes = nodes.as_array().ok_or("no nodes")?;
        let told = nodes.iter().find(|node| node["name"] == *original);
        let told = told.ok_or("not listed")?["address"].to_string();
        (told.contains(&own)).then_some(()).ok_or(told)
    })
    .unwrap();
}

/// Copies files and folders, and leaves out sockets.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&path, &target);
        } else if kind.is_file() {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
