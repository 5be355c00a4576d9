//! Two pools and what may come between them.

use super::*;
use crate::testing::{Fleet, node_key, unix_now};
use proptest::prelude::*;

fn now() -> Now {
    Now {
        unix: unix_now(),
        uptime: Millis(0),
    }
}

fn later(now: Now, by: Millis) -> Now {
    Now {
        unix: now.unix + by,
        uptime: now.uptime + by,
    }
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn pool(number: u8) -> Pool {
    Fleet::new(1).pool(number, "main", 7, 1)
}

/// Delivers a message whole and tells what came out at the end.
fn deliver(datagrams: &[Vec<u8>], from: u16, to: &mut Pool, now: Now) -> Opened {
    let mut last = Opened::Nothing;
    for datagram in datagrams {
        assert_eq!(last, Opened::Nothing);
        last = to.open(address(from), datagram, now);
    }
    last
}

fn payload(opened: Opened) -> Vec<u8> {
    match opened {
        Opened::Message { payload, .. } => payload,
        other => panic!("no message but {other:?}"),
    }
}

fn dropped(pool: &Pool, cause: DropCause) -> u64 {
    pool.counting.look().dropped(cause)
}

#[test]
fn certificates_travel_until_they_are_acknowledged() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let first = a.seal(address(2), b"one", now).unwrap();
    assert_eq!(payload(deliver(&first, 1, &mut b, now)), b"one");
    let again = a.seal(address(2), b"one", now).unwrap();
    assert_eq!(again[0].len(), first[0].len(), "not acknowledged yet");
    let answer = b.seal(address(1), b"two", now).unwrap();
    assert_eq!(payload(deliver(&answer, 2, &mut a, now)), b"two");
    let bare = a.seal(address(2), b"one", now).unwrap();
    assert!(bare[0].len() + 300 < first[0].len());
    assert_eq!(payload(deliver(&bare, 1, &mut b, now)), b"one");
}

#[test]
fn a_restarted_member_asks_for_certificates() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let one = a.seal(address(2), b"one", now).unwrap();
    deliver(&one, 1, &mut b, now);
    let two = b.seal(address(1), b"two", now).unwrap();
    deliver(&two, 2, &mut a, now);

    let mut b = Fleet::new(1).pool(2, "main", 7, 2);
    let bare = a.seal(address(2), b"three", now).unwrap();
    let Opened::Answer(hello) = deliver(&bare, 1, &mut b, now) else {
        panic!("no hello");
    };
    assert_eq!(dropped(&b, DropCause::UnknownSender), 1);
    let bare = a.seal(address(2), b"three", now).unwrap();
    assert_eq!(
        deliver(&bare, 1, &mut b, now),
        Opened::Nothing,
        "hellos are rare"
    );
    assert_eq!(deliver(&hello, 2, &mut a, now), Opened::Nothing);
    let full = a.seal(address(2), b"four", now).unwrap();
    assert_eq!(payload(deliver(&full, 1, &mut b, now)), b"four");
}

#[test]
fn a_renewed_certificate_is_attached_again() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let one = a.seal(address(2), b"one", now).unwrap();
    deliver(&one, 1, &mut b, now);
    let two = b.seal(address(1), b"two", now).unwrap();
    deliver(&two, 2, &mut a, now);
    let renewed = Fleet::new(1).admit(&node_key(1), "main", now.unix + Millis(9));
    a.set_credential(&renewed);
    let full = a.seal(address(2), b"three", now).unwrap();
    assert!(full[0].len() > 600);
    assert_eq!(payload(deliver(&full, 1, &mut b, now)), b"three");
    assert_eq!(b.senders[&node_key(1).node()].hash, a.credential_hash);
}

#[test]
fn long_messages_come_in_parts_and_in_any_order() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let long: Vec<u8> = (0..65_507).map(|at| at as u8).collect();
    let mut parts = a.seal(address(2), &long, now).unwrap();
    assert!(parts.len() > 40);
    assert!(parts.iter().all(|part| part.len() <= 1_400));
    parts.reverse();
    assert_eq!(payload(deliver(&parts, 1, &mut b, now)), long);
    assert!(a.seal(address(2), &[0; 70_000], now).is_err());
}

#[test]
fn a_message_that_lost_a_part_is_given_up() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let parts = a.seal(address(2), &[1; 5_000], now).unwrap();
    deliver(&parts[1..], 1, &mut b, now);
    let later = later(now, Millis(3_000));
    let parts = a.seal(address(2), &[1; 5_000], later).unwrap();
    assert_eq!(payload(deliver(&parts, 1, &mut b, later)), [1; 5_000]);
    assert_eq!(dropped(&b, DropCause::Reassembly), 1);
}

#[test]
fn replayed_datagrams_are_dropped() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let one = a.seal(address(2), b"one", now).unwrap();
    let two = a.seal(address(2), b"two", now).unwrap();
    assert_eq!(payload(deliver(&two, 1, &mut b, now)), b"two");
    assert_eq!(
        payload(deliver(&one, 1, &mut b, now)),
        b"one",
        "UDP reorders"
    );
    for again in [&one, &two] {
        assert_eq!(deliver(again, 1, &mut b, now), Opened::Nothing);
    }
    assert_eq!(deliver(&one, 9, &mut b, now), Opened::Nothing);
    assert_eq!(dropped(&b, DropCause::Replayed), 3);
    assert_eq!(deliver(&one, 9, &mut a, now), Opened::Nothing);
    assert_eq!(dropped(&a, DropCause::Own), 1);
}

#[test]
fn an_earlier_start_is_dropped_and_a_later_one_begins_anew() {
    let (mut b, now) = (pool(2), now());
    let mut before = pool(1);
    let mut after = Fleet::new(1).pool(1, "main", 7, 2);
    let old = before.seal(address(2), b"old", now).unwrap();
    let new = after.seal(address(2), b"new", now).unwrap();
    assert_eq!(payload(deliver(&new, 1, &mut b, now)), b"new");
    assert_eq!(deliver(&old, 1, &mut b, now), Opened::Nothing);
    assert_eq!(dropped(&b, DropCause::OldEpoch), 1);
}

#[test]
fn a_recording_does_not_revive_the_dead() {
    // The receiver has restarted, so its window is empty: time decides.
    let (mut a, now) = (pool(1), now());
    let recorded = a.seal(address(2), b"old", now).unwrap();
    for by in [Millis(6 * 60_000), Millis(3_600_000)] {
        let mut b = pool(2);
        assert_eq!(
            deliver(&recorded, 1, &mut b, later(now, by)),
            Opened::Nothing
        );
        assert_eq!(dropped(&b, DropCause::Stale), 1);
    }
    let mut b = pool(2);
    let soon = later(now, Millis(4 * 60_000));
    assert_eq!(payload(deliver(&recorded, 1, &mut b, soon)), b"old");
}

#[test]
fn other_keys_fleets_and_clusters_are_dropped() {
    let (mut b, now) = (pool(2), now());
    let mut send = |mut sender: Pool| {
        let datagrams = sender.seal(address(2), b"hello", now).unwrap();
        assert_eq!(deliver(&datagrams, 1, &mut b, now), Opened::Nothing);
    };
    send(Fleet::new(1).pool(1, "main", 8, 1));
    send(Fleet::new(2).pool(1, "main", 7, 1));
    send(Fleet::new(1).pool(1, "other", 7, 1));
    // The key and the scope are right, the certificate is another cluster's.
    let mut stranger = pool(1);
    stranger.set_credential(&Fleet::new(1).admit(&node_key(1), "other", now.unix));
    send(stranger);
    let mut stranger = pool(1);
    stranger.set_credential(&Fleet::new(2).admit(&node_key(1), "main", now.unix));
    send(stranger);
    let mut stranger = pool(1);
    stranger.set_credential(&Fleet::new(1).admit(&node_key(3), "main", now.unix));
    send(stranger);
    assert_eq!(dropped(&b, DropCause::UnknownKey), 1);
    assert_eq!(dropped(&b, DropCause::NotSealed), 2);
    assert_eq!(dropped(&b, DropCause::Credential), 3);
    assert!(b.senders.is_empty());
}

#[test]
fn nobody_speaks_in_anothers_name() {
    // A member has the gossip key, so it can seal in any name; but not sign.
    let (mut b, now) = (pool(2), now());
    let mut rogue = pool(3);
    rogue.node = node_key(1).node();
    rogue.set_credential(&Fleet::new(1).admit(&node_key(1), "main", now.unix));
    let datagrams = rogue.seal(address(2), b"I am node 1", now).unwrap();
    assert_eq!(deliver(&datagrams, 3, &mut b, now), Opened::Nothing);
    assert_eq!(dropped(&b, DropCause::Signature), 1);
}

#[test]
fn tampered_and_oversized_datagrams_are_dropped() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let good = a.seal(address(2), b"hello", now).unwrap().remove(0);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert_eq!(b.open(address(1), &bad, now), Opened::Nothing);
    }
    assert_eq!(b.open(address(1), &[0; 1_401], now), Opened::Nothing);
    let look = b.counting.look();
    assert_eq!(
        look.dropped.values().sum::<u64>(),
        good.len() as u64 + 1,
        "{look:?}"
    );
    let causes = [
        DropCause::Malformed,
        DropCause::UnknownKey,
        DropCause::NotSealed,
    ];
    assert!(look.dropped.keys().all(|cause| causes.contains(cause)));
    assert_eq!(payload(b.open(address(1), &good, now)), b"hello");
}

#[test]
fn rings_overlap_while_they_rotate() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let mut ring = KeyRing::new([7; 32]);
    ring.install([8; 32]);
    b.set_ring(ring.clone());
    let old = a.seal(address(2), b"old", now).unwrap();
    assert_eq!(payload(deliver(&old, 1, &mut b, now)), b"old");
    a.set_ring(KeyRing::new([8; 32]));
    let new = a.seal(address(2), b"new", now).unwrap();
    assert_eq!(payload(deliver(&new, 1, &mut b, now)), b"new");
    let from_b = b.seal(address(1), b"old", now).unwrap();
    assert_eq!(deliver(&from_b, 2, &mut a, now), Opened::Nothing);
    assert_eq!(dropped(&a, DropCause::UnknownKey), 1);
}

#[test]
fn revoked_muted_and_ended_members_are_not_heard() {
    let (mut a, mut b, now) = (pool(1), pool(2), now());
    let node = node_key(1).node();
    let mut send = |b: &mut Pool, now: Now| {
        let datagrams = a.seal(address(2), b"hello", now).unwrap();
        matches!(deliver(&datagrams, 1, b, now), Opened::Message { .. })
    };
    assert!(send(&mut b, now));
    b.blame(node, now);
    assert!(send(&mut b, now), "once may be an accident");
    b.blame(node, now);
    assert!(!send(&mut b, later(now, Millis(9_999))));
    assert!(send(&mut b, later(now, Millis(10_000))));
    b.set_revoked([1].into());
    assert!(!send(&mut b, later(now, Millis(10_001))));
    b.set_revoked(BTreeSet::new());
    assert!(send(&mut b, later(now, Millis(36 * 86_400_000))));
    assert_eq!(b.counting.look().in_grace, 1);
    assert!(!send(&mut b, later(now, Millis(38 * 86_400_000))));
    assert_eq!(dropped(&b, DropCause::Muted), 1);
    assert_eq!(dropped(&b, DropCause::Revoked), 1);
}

proptest! {
    #[test]
    fn the_opener_takes_arbitrary_bytes(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1_500), 0..20),
    ) {
        let mut b = pool(2);
        for datagram in &datagrams {
            prop_assert_eq!(b.open(address(1), datagram, now()), Opened::Nothing);
        }
        prop_assert_eq!(
            b.counting.look().dropped.values().sum::<u64>(),
            datagrams.len() as u64
        );
    }

    #[test]
    fn the_opener_takes_arbitrary_sealed_bytes(
        parts in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..1_300), 0u8..4, 1u8..5, 1u64..4), 0..20,
        ),
    ) {
        let (a, mut b) = (pool(1), pool(2));
        for (part, index, count, counter) in parts {
            let header = Header {
                key: a.ring.sealing_id(),
                sender: a.node,
                epoch: 1,
                counter,
                index,
                count,
            };
            let datagram = a.scope.seal(a.ring.sealing(), &header, &part);
            prop_assert_eq!(b.open(address(1), &datagram, now()), Opened::Nothing);
        }
    }

    #[test]
    fn the_opener_takes_arbitrary_signed_bytes(
        body in prop::collection::vec(any::<u8>(), 0..600), kind in 0u8..3, fresh: bool,
    ) {
        let (a, mut b, now) = (pool(1), pool(2), now());
        let header = Header {
            key: a.ring.sealing_id(),
            sender: a.node,
            epoch: 1,
            counter: 1,
            index: 0,
            count: 1,
        };
        let mut signed = [&[kind][..], &body].concat();
        if fresh && signed.len() > 9 {
            signed[1..9].copy_from_slice(&now.unix.0.to_le_bytes());
        }
        let text = a.scope.signed_bytes(&header, &signed);
        let signature = a.key.sign(potluck_specs::trust::Context::Datagram, &text);
        let bytes = [&signature[..], &signed].concat();
        let datagram = a.scope.seal(a.ring.sealing(), &header, &bytes);
        let opened = b.open(address(1), &datagram, now);
        let is_message = matches!(opened, Opened::Message { .. });
        prop_assert!(!is_message);
        prop_assert_eq!(dropped(&b, DropCause::Signature), 0);
    }
}
