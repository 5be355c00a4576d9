//! Nodes over loopback.

use super::*;
use crate::{
    DropCause,
    pool::Now,
    testing::{Fleet, node_key, unix_now},
};
use chitchat::Serializable;
use potluck_specs::job::Resources;
use std::time::Instant;

const INTERVAL: Duration = Duration::from_millis(100);

/// Longest wait for a condition: generous, since all tests share two cores.
const LIMIT: Duration = Duration::from_secs(30);

fn config(number: u8, seeds: &[SocketAddr]) -> GossipConfig {
    let fleet = Fleet::new(1);
    let key = node_key(number);
    GossipConfig {
        fleet: fleet.id(),
        cluster: "main".into(),
        credential: fleet.admit(&key, "main", unix_now()),
        key,
        ring: KeyRing::new([7; 32]),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: ([127, 0, 0, 1], 0).into(),
        seeds: seeds.to_vec(),
        boot_epoch: 1,
        network: vec![([127, 0, 0, number], 7_000).into()],
        version: "0.1.0".into(),
        interval: INTERVAL,
        clock: unix_now,
    }
}

fn start_all(count: u8) -> Vec<Gossip> {
    let mut seeds = Vec::new();
    let mut nodes = Vec::new();
    for number in 1..=count {
        let node = start(config(number, &seeds)).unwrap();
        seeds = vec![nodes.first().map_or(node.address(), Gossip::address)];
        nodes.push(node);
    }
    nodes
}

/// Waits until the members that a node sees are as wished.
async fn until(node: &Gossip, what: &str, wished: impl Fn(&[Member]) -> bool) {
    let mut members = node.members();
    let found = time::timeout(LIMIT, members.wait_for(|members| wished(members))).await;
    if found.is_err() {
        panic!(
            "{what}: not within {LIMIT:?}; members {:#?}, {:#?}",
            *node.members().borrow(),
            node.counters()
        );
    }
}

fn all_alive(count: usize) -> impl Fn(&[Member]) -> bool {
    move |members| members.len() == count && members.iter().all(|member| member.alive)
}

fn find(members: &[Member], number: u8) -> Option<&Member> {
    let node = node_key(number).node();
    members.iter().find(|member| member.node == node)
}

async fn stop_all(nodes: Vec<Gossip>) {
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn nodes_find_each_other_and_tell_what_they_have() {
    let nodes = start_all(7);
    let capacity = Capacity {
        free: Resources::new(500, 1 << 30),
        total: Resources::new(2_000, 4 << 30),
    };
    nodes[2].set_capacity(capacity);
    nodes[3].set_draining(true);
    for node in &nodes {
        until(node, "all are alive", all_alive(7)).await;
        until(node, "capacity is told", |members| {
            find(members, 3).is_some_and(|m| m.capacity == Some(capacity))
        })
        .await;
        until(node, "draining is told", |members| {
            find(members, 4).is_some_and(|m| m.draining)
        })
        .await;
    }
    nodes[3].set_draining(false);
    until(&nodes[0], "draining is taken back", |members| {
        find(members, 4).is_some_and(|m| !m.draining)
    })
    .await;
    let members = nodes[6].members().borrow().clone();
    let first = find(&members, 1).unwrap();
    assert_eq!(first.record.name.0, "node-1");
    assert_eq!(
        first.record.topology.to_string(),
        "default/default/main/rack-1"
    );
    assert_eq!(first.record.gossip, nodes[0].address());
    assert_eq!(first.record.network, [([127, 0, 0, 1], 7_000).into()]);
    assert_eq!(first.record.version, "0.1.0");
    assert_eq!(nodes[6].counters().dropped, Default::default());
    stop_all(nodes).await;
}

#[tokio::test]
async fn a_stopped_node_stands_still_and_then_looks_dead() {
    let nodes = start_all(4);
    for node in &nodes {
        until(node, "all are alive", all_alive(4)).await;
    }
    let heartbeat = |members: &[Member], number| find(members, number).map(|m| m.heartbeat);
    let before = heartbeat(&nodes[0].members().borrow(), 4);
    until(&nodes[0], "the heartbeat moves", |members| {
        heartbeat(members, 4) > before
    })
    .await;
    nodes[3].shutdown().await;
    assert!(nodes[3].members().has_changed().is_err(), "closed");
    until(&nodes[0], "it looks dead", |members| {
        find(members, 4).is_some_and(|m| !m.alive)
    })
    .await;
    let last = heartbeat(&nodes[0].members().borrow(), 4);
    let other = heartbeat(&nodes[0].members().borrow(), 2).unwrap();
    until(&nodes[0], "the others go on", |members| {
        heartbeat(members, 2).unwrap() > other + 10
    })
    .await;
    assert_eq!(heartbeat(&nodes[0].members().borrow(), 4), last);

    // It comes back at once under a later epoch, elsewhere.
    let mut again = config(4, &[nodes[0].address()]);
    again.boot_epoch = 2;
    let again = start(again).unwrap();
    until(&nodes[0], "it is back", |members| {
        find(members, 4).is_some_and(|m| m.alive && m.record.incarnation == 2)
    })
    .await;
    assert_eq!(nodes[0].members().borrow().len(), 4, "one entry a node");
    again.shutdown().await;
    stop_all(nodes).await;
}

/// A member with every right, and bad intentions.
struct Rogue {
    socket: UdpSocket,
    pool: Pool,
}

impl Rogue {
    fn new() -> Rogue {
        Rogue {
            socket: UdpSocket::bind("127.0.0.1:0").unwrap(),
            pool: Fleet::new(1).pool(9, "main", 7, 1),
        }
    }

    fn send(&mut self, target: SocketAddr, payload: &[u8]) {
        let now = Now {
            unix: unix_now(),
            uptime: Millis(0),
        };
        for datagram in self.pool.seal(target, payload, now).unwrap() {
            self.socket.send_to(&datagram, target).unwrap();
        }
    }
}

/// Waits until the counters of a node are as wished.
async fn until_counted(node: &Gossip, what: &str, wished: impl Fn(&Counters) -> bool) {
    let begun = Instant::now();
    let mut members = node.members();
    while !wished(&node.counters()) {
        assert!(begun.elapsed() < LIMIT, "{what}: {:#?}", node.counters());
        time::timeout(INTERVAL, members.changed()).await.ok();
    }
}

#[tokio::test]
async fn sealed_garbage_does_not_deafen() {
    let nodes = start_all(2);
    for node in &nodes {
        until(node, "both are alive", all_alive(2)).await;
    }
    let mut rogue = Rogue::new();
    for _ in 0..5 {
        rogue.send(nodes[0].address(), b"garbage");
    }
    until_counted(&nodes[0], "five are dropped", |counters| {
        counters.dropped(DropCause::Garbage) + counters.dropped(DropCause::Muted) >= 5
    })
    .await;
    let counters = nodes[0].counters();
    assert!(counters.codec_reopened >= 2);
    assert!(counters.dropped(DropCause::Muted) > 0, "{counters:?}");
    let heartbeat = find(&nodes[0].members().borrow(), 2).unwrap().heartbeat;
    until(&nodes[0], "the other is still heard", |members| {
        find(members, 2).is_some_and(|m| m.alive && m.heartbeat > heartbeat + 20)
    })
    .await;
    // One message can bring many heartbeats, so messages are waited for too.
    until_counted(&nodes[0], "more are accepted", |now| {
        now.messages_accepted > counters.messages_accepted + 10
    })
    .await;
    stop_all(nodes).await;
}

/// chitchat's last message of a round, by hand: what it says about one node.
fn ack(id: &ChitchatId, operations: &[u8]) -> Vec<u8> {
    let mut delta = vec![0];
    id.serialize(&mut delta);
    delta.extend([0; 16]);
    delta.extend(operations);
    let magic = 45_139u16.to_le_bytes();
    let length = (delta.len() as u16).to_le_bytes();
    [&magic[..], &[1, 2], &[2], &length, &delta, &[0]].concat()
}

fn set_max_version(version: u64) -> Vec<u8> {
    [&[2][..], &version.to_le_bytes()].concat()
}

#[tokio::test]
async fn a_member_that_makes_chitchat_panic_does_not_end_gossip() {
    let nodes = start_all(2);
    let victim = &nodes[0];
    for node in &nodes {
        until(node, "both are alive", all_alive(2)).await;
    }
    let mut rogue = Rogue::new();
    let id = |restarts| {
        let short = node_key(1).node().short();
        ChitchatId::new(short, generation(1, restarts), victim.address())
    };
    // A key of a later version than the highest: an assertion of chitchat's.
    let mut key = vec![1];
    "k".serialize(&mut key);
    "v".serialize(&mut key);
    key.extend(1_000u64.to_le_bytes());
    key.push(0);
    rogue.send(
        victim.address(),
        &ack(&id(0), &[key, set_max_version(100)].concat()),
    );
    until_counted(victim, "chitchat started anew", |c| c.restarts == 1).await;
    rogue.send(victim.address(), b"again");
    until_counted(victim, "the culprit is muted", |c| {
        c.dropped(DropCause::Muted) >= 1
    })
    .await;

    // The end of the numbers: our own next `set` overflows.
    let mut other = Rogue {
        pool: Fleet::new(1).pool(8, "main", 7, 1),
        ..rogue
    };
    until(&nodes[1], "it is seen again", all_alive(2)).await;
    other.send(victim.address(), &ack(&id(1), &set_max_version(u64::MAX)));
    let accepted = victim.counters().messages_accepted;
    until_counted(victim, "it was taken in", |c| {
        c.messages_accepted > accepted + 5
    })
    .await;
    victim.set_draining(true);
    until_counted(victim, "chitchat started anew", |c| c.restarts == 2).await;
    until(&nodes[1], "it is seen, and draining", |members| {
        find(members, 1).is_some_and(|m| m.alive && m.draining)
    })
    .await;
    stop_all(nodes).await;
}

#[tokio::test]
async fn strangers_see_nothing_and_are_not_seen() {
    let nodes = start_all(2);
    let seeds = [nodes[0].address()];
    let mut wrong_key = config(3, &seeds);
    wrong_key.ring = KeyRing::new([8; 32]);
    let wrong_key = start(wrong_key).unwrap();
    let other = Fleet::new(2);
    let wrong_fleet = start(GossipConfig {
        fleet: other.id(),
        credential: other.admit(&node_key(4), "main", unix_now()),
        ..config(4, &seeds)
    })
    .unwrap();
    for node in &nodes {
        until(node, "both are alive", all_alive(2)).await;
    }
    until_counted(&nodes[0], "both are dropped", |counters| {
        counters.dropped(DropCause::UnknownKey) > 3 && counters.dropped(DropCause::NotSealed) > 3
    })
    .await;
    assert_eq!(nodes[0].members().borrow().len(), 2);
    for stranger in [wrong_key, wrong_fleet] {
        assert_eq!(stranger.members().borrow().len(), 1, "itself");
        stranger.shutdown().await;
    }
    stop_all(nodes).await;
}

#[tokio::test]
async fn what_can_not_start_says_why() {
    let node = start(config(1, &[])).unwrap();
    let taken = start(GossipConfig {
        listen: node.address(),
        ..config(2, &[])
    });
    assert!(matches!(taken, Err(GossipError::Bind { .. })));
    let other_key = start(GossipConfig {
        key: node_key(3),
        ..config(2, &[])
    });
    assert!(matches!(other_key, Err(GossipError::Credential { .. })));
    let fleet = Fleet::new(1);
    let other_cluster = start(GossipConfig {
        credential: fleet.admit(&node_key(2), "other", unix_now()),
        ..config(2, &[])
    });
    assert!(matches!(other_cluster, Err(GossipError::Credential { .. })));
    let many = start(GossipConfig {
        network: vec![node.address(); 9],
        ..config(2, &[])
    });
    assert!(matches!(many, Err(GossipError::TooManyAddresses { .. })));
    node.shutdown().await;
    // The port is free again.
    std::net::UdpSocket::bind(node.address()).unwrap();
}

#[test]
fn a_node_takes_less_than_a_kilobyte() {
    let config = config(1, &[]);
    let own = own_record(&config, config.advertise).unwrap();
    let capacity = Capacity::default().to_text().len() + 40;
    let bytes = own.certificate.len() + own.addresses.len() + capacity + 20;
    assert!(bytes < 1_024, "{bytes}");
}
