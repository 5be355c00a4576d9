//! Who is let in, who is not, and what a refused host is told.

use potluck_specs::{Millis, trust::Token};
use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT, exit_code};
use std::process::Child;

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
    let made = fleet
        .client("r1h1")
        .json(&["token", "create", "--ttl", "0"])
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
