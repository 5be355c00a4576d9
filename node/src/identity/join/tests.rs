//! The joiner's side against a member that plays many parts.

use std::sync::Mutex;

use super::*;
use crate::identity::{Issuer, create_token};
use potluck_specs::trust::{Context, IssuerCertificate, IssuerKind, NodeRole, SecretKey, Signed};
use proptest::prelude::*;

const NOW: Millis = Millis(1_800_000_000_000);

fn address() -> SocketAddr {
    ([127, 0, 1, 1], 7_000).into()
}

fn issuer(seed: u8) -> Issuer {
    let root = SecretKey::from_seed([seed; 32]);
    let key = SecretKey::from_seed([seed ^ 0x80; 32]);
    let certificate = IssuerCertificate {
        fleet: root.public().fleet(),
        kind: IssuerKind::Admission,
        key: key.public(),
    };
    let certificate = Signed::new(&root, Context::Issuer, codec::encode(&certificate));
    Issuer::new(root.public(), certificate, key)
}

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn certify(fleet: u8, number: u8, cluster: &str, from: Millis) -> NodeCredential {
    issuer(fleet).issue(
        key(number).node(),
        NodeName(format!("node-{number}")),
        Topology::in_rack(cluster, "rack-1"),
        &[NodeRole::Agent],
        from,
        number.into(),
    )
}

fn admission(fleet: u8, number: u8, cluster: &str, from: Millis) -> Admission {
    Admission {
        credential: certify(fleet, number, cluster, from),
        cluster: cluster.into(),
        ring: KeyRing::new([7; 32]),
        members: vec![KnownMember {
            node: key(1).node(),
            network: vec![address()],
            gossip: None,
        }],
        epoch: Epoch(1),
    }
}

fn token() -> Token {
    let fleet = issuer(1).fleet();
    create_token(fleet, "main", vec![NodeRole::Agent], None, 1, NOW)
}

fn joiner() -> Joiner {
    Joiner {
        node: key(2).node(),
        name: NodeName("node-2".into()),
        topology: Topology::in_rack("main", "rack-1"),
        addresses: vec![([127, 0, 1, 2], 7_000).into()],
    }
}

/// A member by number, with what it shows and says; keeps what it was asked.
struct Member {
    authenticated: NodeId,
    hello: JoinReply,
    answer: JoinReply,
    asked: Mutex<Vec<(Option<NodeId>, JoinRequest)>>,
}

impl Member {
    fn new(credential: NodeCredential, answer: JoinReply) -> Member {
        Member {
            authenticated: key(1).node(),
            hello: JoinReply::Hello { credential },
            answer,
            asked: Mutex::default(),
        }
    }

    fn good() -> Member {
        let admission = Box::new(admission(1, 2, "main", NOW));
        Member::new(certify(1, 1, "main", NOW), JoinReply::Admitted(admission))
    }

    fn saw_the_secret(&self) -> bool {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .any(|(_, request)| matches!(request, JoinRequest::Redeem(_)))
    }

    async fn join(&self) -> Result<Admission, JoinError> {
        join(self, address(), &token(), &joiner(), NOW).await
    }
}

#[async_trait]
impl JoinTransport for Member {
    async fn exchange(
        &self,
        address: SocketAddr,
        peer: Option<NodeId>,
        request: JoinRequest,
    ) -> Result<(NodeId, JoinReply), TransportError> {
        if peer.is_some_and(|peer| peer != self.authenticated) {
            return Err(TransportError::OtherPeer { address });
        }
        // Everything passes through its bytes.
        let request = JoinRequest::decode(&request.encode()).unwrap();
        let reply = match &request {
            JoinRequest::Hello => &self.hello,
            JoinRequest::Redeem(_) | JoinRequest::Renew { .. } => &self.answer,
        };
        let reply = JoinReply::decode(&reply.encode()).unwrap();
        self.asked.lock().unwrap().push((peer, request));
        Ok((self.authenticated, reply))
    }
}

#[tokio::test]
async fn a_good_token_is_redeemed_with_the_peer_that_was_checked() {
    let member = Member::good();
    let admitted = member.join().await.unwrap();
    assert_eq!(admitted, admission(1, 2, "main", NOW));
    let asked = member.asked.lock().unwrap();
    let [
        (None, JoinRequest::Hello),
        (Some(peer), JoinRequest::Redeem(redemption)),
    ] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(*peer, key(1).node());
    assert_eq!(redemption.name, joiner().name);
    assert_eq!(redemption.check("main"), Ok(()));
    assert!(redemption.check("other").is_err());
    let token = Token {
        secret: redemption.secret,
        ..token()
    };
    assert_eq!(redemption.secret_hash(), token.secret_hash());
}

#[tokio::test]
async fn the_secret_goes_to_nobody_else() {
    let expired = Millis(NOW.0 - 40 * 86_400_000);
    let strangers = [
        ("another fleet", certify(2, 1, "main", NOW)),
        ("another node's certificate", certify(1, 3, "main", NOW)),
        ("another cluster", certify(1, 1, "other", NOW)),
        ("long expired", certify(1, 1, "main", expired)),
    ];
    for (what, credential) in strangers {
        let member = Member::new(credential, Member::good().answer);
        let error = member.join().await.unwrap_err();
        assert!(
            matches!(error, JoinError::NotTheFleet { .. }),
            "{what}: {error}"
        );
        assert!(!error.is_temporary() && error.hint().is_some());
        assert!(!member.saw_the_secret(), "{what}");
    }
    // In its grace a member may still pass a joiner on.
    let lately = Millis(NOW.0 - 33 * 86_400_000);
    let member = Member::new(certify(1, 1, "main", lately), Member::good().answer);
    member.join().await.unwrap();
}

#[tokio::test]
async fn tokens_that_can_not_hold_are_not_sent() {
    let member = Member::good();
    let late = NOW + Millis(6 * 60_000);
    let error = join(&member, address(), &token(), &joiner(), late)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the join token ended 360 s ago");
    let racked = Token {
        rack: Some("rack-9".into()),
        ..token()
    };
    let error = join(&member, address(), &racked, &joiner(), NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::OtherRack { .. }), "{error}");
    let elsewhere = Token {
        cluster: "other".into(),
        ..token()
    };
    let error = join(&member, address(), &elsewhere, &joiner(), NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::OtherCluster { .. }), "{error}");
    assert!(member.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_reach_the_person_without_control_codes() {
    for (code, is_temporary) in [
        (RefusalCode::WrongToken, false),
        (RefusalCode::UsedToken, false),
        (RefusalCode::ExpiredToken, false),
        (RefusalCode::NameTaken, false),
        (RefusalCode::NoLeader, true),
    ] {
        let message = "no\x1b[2J\n".to_string() + &"x".repeat(9_000);
        let member = Member::new(
            certify(1, 1, "main", NOW),
            JoinReply::Refused { code, message },
        );
        let error = member.join().await.unwrap_err();
        assert_eq!(error.is_temporary(), is_temporary);
        assert!(error.hint().is_some(), "{code:?}");
        let text = error.to_string();
        assert!(text.starts_with("the cluster refuses: no[2Jxx"), "{text}");
        assert!(text.len() < 300);
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let hello = Member::good().hello;
    let nonsense = [
        hello.clone(),
        JoinReply::Admitted(Box::new(Admission {
            cluster: "other".into(),
            ..admission(1, 2, "main", NOW)
        })),
    ];
    for answer in nonsense {
        let member = Member::new(certify(1, 1, "main", NOW), answer);
        let error = member.join().await.unwrap_err();
        assert!(matches!(error, JoinError::Nonsense { .. }), "{error}");
    }
    for bad in [
        admission(1, 3, "main", NOW),
        admission(2, 2, "main", NOW),
        admission(1, 2, "other", NOW),
    ] {
        let answer = JoinReply::Admitted(Box::new(bad));
        let member = Member::new(certify(1, 1, "main", NOW), answer);
        let error = member.join().await.unwrap_err();
        assert!(matches!(error, JoinError::BadCertificate { .. }), "{error}");
    }
    let member = Member {
        hello: Member::good().answer,
        ..Member::good()
    };
    let error = member.join().await.unwrap_err();
    assert!(matches!(error, JoinError::Nonsense { .. }), "{error}");
    assert!(!member.saw_the_secret());
}

#[tokio::test]
async fn a_certificate_is_renewed_by_any_member() {
    let member = Member::good();
    let old = certify(1, 2, "main", Millis(NOW.0 - 20 * 86_400_000));
    let certificate = old.verify(issuer(1).fleet(), NOW, Millis(0)).unwrap();
    let renewed = renew(&member, address(), &old, &certificate, NOW)
        .await
        .unwrap();
    assert_eq!(renewed.credential, certify(1, 2, "main", NOW));
    assert!(!member.saw_the_secret());
}

#[test]
fn the_largest_messages_fit() {
    let long = "x".repeat(63);
    let v6: SocketAddr = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"
        .parse()
        .unwrap();
    let topology = Topology {
        region: long.clone(),
        datacenter: long.clone(),
        cluster: long.clone(),
        rack: long.clone(),
    };
    let mut admission = Admission {
        credential: issuer(1).issue(
            key(2).node(),
            NodeName(long.clone()),
            topology,
            &[NodeRole::Agent, NodeRole::VoterEligible],
            NOW,
            u64::MAX,
        ),
        cluster: long,
        ring: KeyRing::from_keys([[1; 32], [2; 32], [3; 32]]).unwrap(),
        members: (0..1_000)
            .map(|_| KnownMember {
                node: key(1).node(),
                network: vec![v6; 20],
                gossip: Some(v6),
            })
            .collect(),
        epoch: Epoch(u64::MAX),
    };
    admission.trim();
    let reply = JoinReply::Admitted(Box::new(admission));
    let bytes = reply.encode();
    assert!(
        bytes.len() < JOIN_MESSAGE_BYTES_MAX / 2 + 1,
        "{}",
        bytes.len()
    );
    assert_eq!(JoinReply::decode(&bytes).unwrap(), reply);
}

#[test]
fn unknown_codes_and_fields_of_newer_versions_are_read() {
    #[derive(Serialize)]
    enum Newer {
        Refused {
            code: &'static str,
            message: &'static str,
            since: u64,
        },
    }
    let bytes = codec::encode(&Newer::Refused {
        code: "MoonIsFull",
        message: "wait",
        since: 1,
    });
    assert_eq!(
        JoinReply::decode(&bytes).unwrap(),
        JoinReply::Refused {
            code: RefusalCode::Other,
            message: "wait".into()
        }
    );
}

#[test]
fn a_stranger_can_not_name_many_addresses() {
    let request = |count| {
        JoinRequest::Redeem(Redemption {
            token: "t".into(),
            secret: [1; 16],
            name: joiner().name,
            topology: joiner().topology,
            addresses: vec![address(); count],
        })
    };
    let good = request(ADDRESSES_MAX);
    assert_eq!(JoinRequest::decode(&good.encode()).unwrap(), good);
    assert!(JoinRequest::decode(&request(ADDRESSES_MAX + 1).encode()).is_err());
    assert!(!format!("{good:?}").contains("secret"));
}

proptest! {
    #[test]
    fn decoders_take_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = JoinRequest::decode(&bytes);
        let _ = JoinReply::decode(&bytes);
    }

    #[test]
    fn decoders_take_damaged_messages(at in 0usize..2_000, byte: u8, cut in 0usize..2_000) {
        let reply = JoinReply::Admitted(Box::new(admission(1, 2, "main", NOW)));
        let mut bytes = reply.encode();
        let length = bytes.len();
        bytes[at % length] = byte;
        let _ = JoinReply::decode(&bytes);
        let _ = JoinRequest::decode(&bytes);
        bytes.truncate(cut % length);
        prop_assert!(JoinReply::decode(&bytes).is_err());
    }
}
