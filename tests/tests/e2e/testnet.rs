//! A testnet that can't come up says which node ended, and why.

use potluck_testnet::net::{NetError, Testnet, TestnetOptions};
use potluck_tests::fleet::{Block, Turn, programs};
use std::net::{Ipv4Addr, TcpListener};

#[test]
fn a_taken_address_ends_the_start_with_its_reason() {
    let _turn = Turn::take();
    let block = Block::take();
    let root = tempfile::tempdir().unwrap();
    // The first host of the second rack: it is to join, and can't listen.
    let taken = Ipv4Addr::new(127, block.number, 2, 1);
    let _listener = TcpListener::bind((taken, 7400)).unwrap();
    let options = TestnetOptions {
        nodes: 2,
        racks: 2,
        block: block.number,
        programs: programs(),
        ..TestnetOptions::new(root.path())
    };
    let outcome = Testnet::up(&options);
    let net = Testnet::open(root.path()).unwrap();
    net.down().unwrap();

    let error = outcome.expect_err("a node of it can't listen");
    let NetError::Ended { name, said } = &error else {
        panic!("{error}");
    };
    assert_eq!(name, "r2h1");
    assert!(
        said.contains(&format!("can't listen on {taken}:7400")),
        "{said}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("--block")));
}
