//! Tests of the network, over real connections on the loopback.
//!
//! `Fleet` signs credentials, `Raw` is a peer that keeps no rules: it speaks
//! multistream by hand over Noise and yamux, so what a test sees refused was
//! refused by the other side.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Instant,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Transport,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    noise, tcp, yamux,
};
use potluck_specs::{
    NodeName, Topology, codec,
    trust::{Context, GRACE_WITHOUT_LEADER, IssuerCertificate, IssuerKind, NodeRole, Role, Signed},
};

use super::*;
use crate::{clock, spawn::spawn};

/// Longer than anything here takes on a machine that is busy with builds.
const LIMIT: Duration = Duration::from_secs(20);

const DAY: u64 = 86_400_000;

struct Fleet {
    root: SecretKey,
    admission: SecretKey,
    people: SecretKey,
}

impl Fleet {
    fn new(seed: u8) -> Fleet {
        let key = |n| SecretKey::from_seed([seed.wrapping_mul(7).wrapping_add(n); 32]);
        Fleet {
            root: key(1),
            admission: key(2),
            people: key(3),
        }
    }

    fn id(&self) -> FleetId {
        self.root.public().fleet()
    }

    fn issuer(&self, kind: IssuerKind, key: &SecretKey) -> Signed {
        let certificate = IssuerCertificate {
            fleet: self.id(),
            kind,
            key: key.public(),
        };
        Signed::new(&self.root, Context::Issuer, codec::encode(&certificate))
    }

    fn node(&self, key: &SecretKey, edit: impl FnOnce(&mut NodeCertificate)) -> Credential {
        let now = clock::unix_now().0;
        let mut certificate = NodeCertificate {
            fleet: self.id(),
            node: key.node(),
            name: NodeName(format!("node-{}", key.node())),
            topology: topology("main"),
            roles: vec![NodeRole::Agent],
            serial: 1,
            not_before: Millis(now - 40 * DAY),
            not_after: Millis(now + DAY),
        };
        edit(&mut certificate);
        Credential::Node(NodeCredential::issue(
            self.root.public(),
            self.issuer(IssuerKind::Admission, &self.admission),
            &self.admission,
            &certificate,
        ))
    }

    fn user(&self, key: &SecretKey) -> Credential {
        let now = clock::unix_now().0;
        let certificate = UserCertificate {
            fleet: self.id(),
            user: "ada".into(),
            key: key.public(),
            roles: vec![Role::Admin],
            not_before: Millis(now - DAY),
            not_after: Millis(now + DAY),
        };
        Credential::User(UserCredential::issue(
            self.root.public(),
            self.issuer(IssuerKind::People, &self.people),
            &self.people,
            &certificate,
        ))
    }

    fn config(&self, key: SecretKey, credential: Credential) -> NetworkConfig {
        NetworkConfig {
            key,
            fleet: self.id(),
            cluster: "main".into(),
            credential,
            listen: Some("127.0.0.1:0".parse().unwrap()),
            grace: Arc::new(|| Millis(0)),
        }
    }

    async fn start(&self, n: u8) -> Host {
        let key = key(n);
        let credential = self.node(&key, |_| {});
        Host::start(self.config(key, credential)).await
    }
}

fn topology(cluster: &str) -> Topology {
    Topology {
        region: "r".into(),
        datacenter: "d".into(),
        cluster: cluster.into(),
        rack: "k".into(),
    }
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// A network that runs until dropped.
struct Host {
    network: Network,
    inbound: Inbound,
    token: CancellationToken,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Host {
    async fn start(config: NetworkConfig) -> Host {
        let token = CancellationToken::new();
        let (network, inbound) = start(config, token.clone()).await.unwrap();
        Host {
            network,
            inbound,
            token,
        }
    }

    fn address(&self) -> SocketAddr {
        self.network.local_address().unwrap()
    }

    fn id(&self) -> NodeId {
        self.network.id()
    }

    fn knows(&self, other: &Host) {
        self.network.learn(other.id(), vec![other.address()]);
    }

    /// Answers each request with who sent it under which serial number.
    fn answer(&mut self) {
        let (_, empty) = mpsc::channel(1);
        let mut requests = std::mem::replace(&mut self.inbound.requests, empty);
        spawn("test answers", async move {
            while let Some(inbound) = requests.recv().await {
                assert_eq!(inbound.from, inbound.certificate.node);
                let text = format!("{} {}", inbound.from, inbound.certificate.serial);
                let _ = inbound.answer.send(Response::Refused(text));
            }
        });
    }

    async fn ask(&self, to: NodeId) -> Result<String, RequestError> {
        let probe = Request::Probe(to);
        match self.network.request(to, probe, LIMIT).await? {
            Response::Refused(text) => Ok(text),
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
}

fn refusal(error: RequestError) -> RefusalCode {
    match error {
        ExchangeError::Link(LinkError::NotAdmitted(refusal)) => refusal.code,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// A peer without rules.
struct Raw(mpsc::Sender<oneshot::Sender<SubstreamBox>>);

impl Raw {
    async fn dial(fleet: FleetId, key: &SecretKey, to: SocketAddr) -> Raw {
        let noise = noise::Config::new(&peer::keypair(key))
            .unwrap()
            .with_prologue(fleet.0.to_vec());
        let mut transport = tcp::tokio::Transport::new(tcp::Config::default())
            .upgrade(Version::V1)
            .authenticate(noise)
            .multiplex(yamux::Config::default())
            .boxed();
        let opts = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let dialled = transport.dial(peer::multiaddr(to), opts).unwrap();
        let (_, muxer) = dialled.await.unwrap();
        let (opens, wanted) = mpsc::channel(1);
        spawn("raw peer", Raw::run(muxer, wanted));
        Raw(opens)
    }

    async fn run(
        mut muxer: StreamMuxerBox,
        mut wanted: mpsc::Receiver<oneshot::Sender<SubstreamBox>>,
    ) {
        let mut waiting: Option<oneshot::Sender<SubstreamBox>> = None;
        poll_fn(|cx| {
            loop {
                if waiting.is_none() {
                    match wanted.poll_recv(cx) {
                        Poll::Ready(Some(sender)) => waiting = Some(sender),
                        Poll::Ready(None) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                }
                if waiting.is_some() {
                    match muxer.poll_outbound_unpin(cx) {
                        Poll::Ready(Ok(stream)) => {
                            let _ = waiting.take().unwrap().send(stream);
                            continue;
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => {}
                    }
                }
                match muxer.poll_inbound_unpin(cx) {
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
                match muxer.poll_unpin(cx) {
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }

    /// A substream on which the other side agreed to `protocol`, if it did.
    async fn open(&self, protocol: &str) -> Option<SubstreamBox> {
        let (answer, opened) = oneshot::channel();
        self.0.send(answer).await.ok()?;
        let mut stream = opened.await.ok()?;
        let line = |text: &str| [&[text.len() as u8 + 1], text.as_bytes(), b"\n"].concat();
        let hello = [line("/multistream/1.0.0"), line(protocol)].concat();
        // A connection that was one too many may be closed by now.
        stream.write_all(&hello).await.ok()?;
        stream.flush().await.ok()?;
        let mut lines = Vec::new();
        for _ in 0..2 {
            let mut length = [0];
            stream.read_exact(&mut length).await.ok()?;
            let mut text = vec![0; length[0].into()];
            stream.read_exact(&mut text).await.ok()?;
            lines.push(String::from_utf8(text).unwrap());
        }
        assert_eq!(lines[0], "/multistream/1.0.0\n");
        if lines[1] == "na\n" {
            return None;
        }
        assert_eq!(lines[1], format!("{protocol}\n"));
        Some(stream)
    }

    async fn is_served(&self, protocol: &str) -> bool {
        let opened = tokio::time::timeout(LIMIT, self.open(protocol));
        opened.await.unwrap().is_some()
    }

    async fn show(&self, credential: Credential) -> admission::Verdict {
        #[derive(Serialize)]
        struct Hello {
            credential: Credential,
        }
        let mut stream = self.open("/potluck/admit/1").await.unwrap();
        let hello = codec::encode(&Hello { credential });
        exchange::write_frame(&mut stream, &hello).await.unwrap();
        let verdict = exchange::read_frame(&mut stream, 4_096).await.unwrap();
        codec::decode("verdict", &verdict, 4_096).unwrap()
    }
}

#[tokio::test]
async fn nodes_ask_each_other() {
    let fleet = Fleet::new(1);
    let (mut a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.answer();
    b.answer();
    assert!(matches!(
        a.ask(b.id()).await,
        Err(ExchangeError::Link(LinkError::NoAddress(node))) if node == b.id()
    ));
    a.knows(&b);
    assert_eq!(a.ask(b.id()).await.unwrap(), format!("{} 1", a.id()));
    // The other way over the same connection: b knows no address of a.
    assert_eq!(b.ask(a.id()).await.unwrap(), format!("{} 1", b.id()));
    assert_eq!(a.network.counters().connections, 1);
    assert_eq!(b.network.peers()[0].id, a.id());
}

#[tokio::test]
async fn dials_both_ways_at_once_break_nothing() {
    let fleet = Fleet::new(2);
    for round in 0..10 {
        let mut a = fleet.start(10 + 2 * round).await;
        let mut b = fleet.start(11 + 2 * round).await;
        a.answer();
        b.answer();
        a.knows(&b);
        b.knows(&a);
        let (to_b, to_a) = tokio::join!(a.ask(b.id()), b.ask(a.id()));
        to_b.unwrap();
        to_a.unwrap();
    }
}

#[tokio::test]
async fn a_request_to_oneself_takes_the_same_queue() {
    let fleet = Fleet::new(3);
    let mut a = fleet.start(1).await;
    a.answer();
    assert_eq!(a.ask(a.id()).await.unwrap(), format!("{} 1", a.id()));
    let opened = a.network.open_stream(a.id(), Purpose::Logs, LIMIT).await;
    assert!(matches!(opened, Err(OpenError::ToSelf)));
}

#[tokio::test]
async fn another_fleet_fails_the_handshake() {
    let (ours, theirs) = (Fleet::new(4), Fleet::new(5));
    let (a, b) = (ours.start(1).await, theirs.start(2).await);
    let error = a.network.dial(b.address(), LIMIT).await.unwrap_err();
    assert_eq!(error, LinkError::OtherFleet);
    assert_eq!(b.network.counters().connections, 0);
}

#[tokio::test]
async fn expired_certificates_are_refused_unless_there_is_grace() {
    let fleet = Fleet::new(6);
    let strict = fleet.start(1).await;
    let credential = fleet.node(&key(2), |c| c.not_after = Millis(c.not_after.0 - 2 * DAY));
    let late = Host::start(fleet.config(key(2), credential)).await;
    late.knows(&strict);
    assert_eq!(
        refusal(late.ask(strict.id()).await.unwrap_err()),
        RefusalCode::Expired
    );
    // From the other side it is we who refuse, and say so.
    strict.knows(&late);
    let error = strict.ask(late.id()).await.unwrap_err();
    assert!(
        matches!(&error, ExchangeError::Link(LinkError::Untrusted(r)) if r.code == RefusalCode::Expired),
        "{error:?}"
    );

    let own = fleet.node(&key(3), |_| {});
    let mut config = fleet.config(key(3), own);
    config.grace = Arc::new(|| GRACE_WITHOUT_LEADER);
    let mut lenient = Host::start(config).await;
    lenient.answer();
    late.knows(&lenient);
    late.ask(lenient.id()).await.unwrap();
}

#[tokio::test]
async fn certificates_of_others_are_refused() {
    let fleet = Fleet::new(7);
    let host = fleet.start(1).await;
    let fake = Fleet::new(8);
    let mut forged = fleet.node(&key(2), |_| {});
    let Credential::Node(credential) = &mut forged else {
        unreachable!()
    };
    credential.certificate.bytes[10] ^= 1;
    let cases = [
        (
            fleet.node(&key(2), |c| c.topology = topology("other")),
            RefusalCode::OtherCluster,
        ),
        (fleet.node(&key(3), |_| {}), RefusalCode::OtherHolder),
        (fleet.user(&key(3)), RefusalCode::OtherHolder),
        (fake.node(&key(2), |_| {}), RefusalCode::OtherFleet),
        (forged, RefusalCode::Invalid),
        (
            fleet.node(&key(2), |c| c.not_before = c.not_after),
            RefusalCode::NotYetValid,
        ),
        (Credential::None, RefusalCode::Stranger),
    ];
    for (credential, code) in cases {
        let raw = Raw::dial(fleet.id(), &key(2), host.address()).await;
        match raw.show(credential).await {
            admission::Verdict::Refused(refusal) => assert_eq!(refusal.code, code),
            other => panic!("{code:?}: {other:?}"),
        }
        assert!(!raw.is_served("/potluck/rpc/1").await, "{code:?}");
    }
}

#[tokio::test]
async fn before_admission_nothing_else_is_served() {
    let fleet = Fleet::new(9);
    let host = fleet.start(1).await;
    let kad = format!("/potluck/kad/1/{}", fleet.id().to_hex());
    let inner = [
        "/potluck/rpc/1",
        "/potluck/stream/1",
        &kad,
        "/ipfs/ping/1.0.0",
    ];
    let raw = Raw::dial(fleet.id(), &key(2), host.address()).await;
    for protocol in inner {
        assert!(!raw.is_served(protocol).await, "{protocol}");
    }
    for protocol in ["/potluck/admit/1", "/potluck/join/1"] {
        assert!(raw.is_served(protocol).await, "{protocol}");
    }
    // The same questions after admission: the test can tell.
    let verdict = raw.show(fleet.node(&key(2), |_| {})).await;
    assert_eq!(verdict, admission::Verdict::Admitted);
    for protocol in inner {
        assert!(raw.is_served(protocol).await, "{protocol}");
    }
    // And a user gets streams alone.
    let raw = Raw::dial(fleet.id(), &key(3), host.address()).await;
    let verdict = raw.show(fleet.user(&key(3))).await;
    assert_eq!(verdict, admission::Verdict::Admitted);
    for protocol in inner {
        let served = raw.is_served(protocol).await;
        assert_eq!(served, protocol == "/potluck/stream/1", "{protocol}");
    }
}

#[tokio::test]
async fn strangers_may_join_and_nothing_else() {
    let fleet = Fleet::new(10);
    let mut host = fleet.start(1).await;
    let mut config = fleet.config(key(2), Credential::None);
    config.listen = None;
    let stranger = Host::start(config).await;
    let address = host.address();

    let error = stranger.network.dial(address, LIMIT).await.unwrap_err();
    assert!(
        matches!(&error, LinkError::NotAdmitted(r) if r.code == RefusalCode::Stranger),
        "{error:?}"
    );

    let exchange = stranger
        .network
        .join_exchange(address, b"token".to_vec(), LIMIT);
    let answer = async {
        let join = host.inbound.joins.recv().await.unwrap();
        assert_eq!(join.from, stranger.id());
        assert_eq!(join.payload, b"token");
        join.answer.send(b"welcome".to_vec()).unwrap();
    };
    let (exchanged, ()) = tokio::join!(exchange, answer);
    assert_eq!(exchanged.unwrap(), (host.id(), b"welcome".to_vec()));

    let large = vec![0; JOIN_BYTES_MAX as usize + 1];
    let error = stranger.network.join_exchange(address, large, LIMIT).await;
    assert!(matches!(error, Err(ExchangeError::TooLarge { .. })));

    // Joined: the same connections serve it now.
    stranger.network.set_credential(fleet.node(&key(2), |_| {}));
    host.answer();
    stranger.knows(&host);
    stranger.ask(host.id()).await.unwrap();
}

/// The payload holds the token's secret.
#[tokio::test]
async fn a_join_leaves_only_for_a_node_of_the_fleet() {
    let fleet = Fleet::new(11);
    let impostor = Host::start(fleet.config(key(1), Credential::None)).await;
    let joiner = Host::start(fleet.config(key(2), Credential::None)).await;
    let exchange = joiner
        .network
        .join_exchange(impostor.address(), b"secret".to_vec(), LIMIT);
    let error = exchange.await.unwrap_err();
    assert!(
        matches!(error, ExchangeError::Link(LinkError::Untrusted(_))),
        "{error:?}"
    );
    assert!(impostor.inbound.joins.is_empty());
}

#[tokio::test]
async fn users_open_api_streams_only() {
    let fleet = Fleet::new(12);
    let mut host = fleet.start(1).await;
    let mut config = fleet.config(key(2), fleet.user(&key(2)));
    config.listen = None;
    let client = Host::start(config).await;
    let node = client.network.dial(host.address(), LIMIT).await.unwrap();
    assert_eq!(node, host.id());

    let open = client.network.open_stream(node, Purpose::Api, LIMIT);
    let mut stream = open.await.unwrap().into_tokio();
    let accepted = host.inbound.streams.recv().await.unwrap();
    assert_eq!(accepted.purpose, Purpose::Api);
    assert!(matches!(&accepted.from, Holder::User(user) if user.user == "ada"));
    let mut theirs = accepted.stream.into_tokio();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello")
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut stream)
        .await
        .unwrap();
    let mut heard = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut heard)
        .await
        .unwrap();
    assert_eq!(heard, "hello");

    for purpose in [
        Purpose::Chunks,
        Purpose::Logs,
        Purpose::Snapshot,
        Purpose::Exec,
    ] {
        let opened = client.network.open_stream(node, purpose, LIMIT).await;
        assert!(matches!(opened, Err(OpenError::NotAllowed)), "{opened:?}");
    }
    assert_eq!(
        refusal(client.ask(node).await.unwrap_err()),
        RefusalCode::NotAllowed
    );
}

#[tokio::test]
async fn a_person_has_many_connections_and_hears_when_they_are_enough() {
    let fleet = Fleet::new(31);
    let host = fleet.start(1).await;
    let mut open = Vec::new();
    for _ in 0..shared::CONNECTIONS_PER_PERSON_MAX {
        let one = Raw::dial(fleet.id(), &key(2), host.address()).await;
        let verdict = one.show(fleet.user(&key(2))).await;
        assert_eq!(verdict, admission::Verdict::Admitted, "{}", open.len());
        open.push(one);
    }
    let more = Raw::dial(fleet.id(), &key(2), host.address()).await;
    let admission::Verdict::Refused(refusal) = more.show(fleet.user(&key(2))).await else {
        panic!("one too many is admitted");
    };
    assert_eq!(refusal.code, RefusalCode::TooMany);
    assert!(refusal.text.contains("\"ada\" has 64"), "{refusal}");
    // Another person is not in the way, and a command that ends makes room.
    let other = Raw::dial(fleet.id(), &key(3), host.address()).await;
    let verdict = other.show(fleet.user(&key(3))).await;
    assert_eq!(verdict, admission::Verdict::Admitted);
    drop((open.pop(), more));
    let connections = || host.network.peers().len();
    let left = shared::CONNECTIONS_PER_PERSON_MAX;
    eventually("the ends are noticed", || connections() == left).await;
    let next = Raw::dial(fleet.id(), &key(2), host.address()).await;
    let verdict = next.show(fleet.user(&key(2))).await;
    assert_eq!(verdict, admission::Verdict::Admitted);
}

#[tokio::test]
async fn a_node_has_a_few_connections() {
    let fleet = Fleet::new(32);
    let host = fleet.start(1).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        let one = Raw::dial(fleet.id(), &key(2), host.address()).await;
        let verdict = one.show(fleet.node(&key(2), |_| {})).await;
        assert_eq!(verdict, admission::Verdict::Admitted);
        open.push(one);
    }
    let more = Raw::dial(fleet.id(), &key(2), host.address()).await;
    assert!(!more.is_served("/potluck/admit/1").await);
}

#[tokio::test]
async fn sixty_four_streams_at_once_all_arrive() {
    let fleet = Fleet::new(13);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let to = b.id();
    let opened = futures::future::join_all((0..64_u8).map(|n| {
        let network = a.network.clone();
        async move {
            let open = network.open_stream(to, Purpose::Chunks, LIMIT);
            let mut stream = open.await.unwrap();
            stream.write_all(&[n]).await.unwrap();
            stream.flush().await.unwrap();
            let mut echo = [0];
            stream.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo[0], n);
        }
    }));
    let accept = async {
        for _ in 0..64 {
            let mut stream = b.inbound.streams.recv().await.unwrap().stream;
            spawn("test echo", async move {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                stream.write_all(&byte).await.unwrap();
                stream.close().await.unwrap();
            });
        }
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(opened, accept) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_full_queue_of_streams_says_busy_and_loses_none() {
    let fleet = Fleet::new(14);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let to = b.id();
    let opened = futures::future::join_all((0..100).map(|_| {
        let network = a.network.clone();
        async move { network.open_stream(to, Purpose::Chunks, LIMIT).await }
    }));
    let (accepted, refused): (Vec<_>, Vec<_>) = opened.await.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), 64, "what the queue holds");
    assert!(refused.iter().all(|r| matches!(r, Err(OpenError::Busy))));
    assert_eq!(b.network.counters().busy, 36);
    for _ in 0..64 {
        assert!(b.inbound.streams.try_recv().is_ok());
    }
    // Room again.
    let opened = a.network.open_stream(to, Purpose::Chunks, LIMIT).await;
    assert!(opened.is_ok());
}

#[tokio::test]
async fn one_peer_holds_so_many_streams_and_no_more() {
    let fleet = Fleet::new(15);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let mut held = Vec::new();
    let error = loop {
        let open = a.network.open_stream(b.id(), Purpose::Logs, LIMIT);
        match open.await {
            Ok(stream) => held.push((stream, b.inbound.streams.recv().await.unwrap())),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, OpenError::Busy), "{error:?}");
    assert_eq!(held.len(), 128);
    // Dropped at the accepting end, the place is free at once.
    held.pop();
    let opened = a.network.open_stream(b.id(), Purpose::Logs, LIMIT).await;
    assert!(opened.is_ok(), "{opened:?}");
}

#[tokio::test]
async fn requests_that_nobody_answers_are_bounded() {
    let fleet = Fleet::new(16);
    let (a, b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let to = b.id();
    let busy = Arc::new(AtomicU64::new(0));
    for _ in 0..200 {
        let (network, busy) = (a.network.clone(), busy.clone());
        spawn("test request", async move {
            let request = network.request(to, Request::Probe(to), LIMIT);
            if matches!(request.await, Err(ExchangeError::Busy)) {
                busy.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("72 are refused", || busy.load(Ordering::Relaxed) == 72).await;
    eventually("128 wait", || b.inbound.requests.len() == 128).await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_said_at_once() {
    let fleet = Fleet::new(17);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let to = b.id();
    let probe = || Request::Probe(to);
    let asked = a.network.request(to, probe(), LIMIT);
    let drop_it = async { drop(b.inbound.requests.recv().await.unwrap().answer) };
    let (asked, ()) = tokio::join!(asked, drop_it);
    assert!(matches!(asked, Err(ExchangeError::NoAnswer)), "{asked:?}");
    b.inbound.requests.close();
    let asked = a.network.request(to, probe(), LIMIT).await;
    assert!(matches!(asked, Err(ExchangeError::NotServed)), "{asked:?}");
}

#[tokio::test]
async fn oversize_messages_are_refused() {
    let fleet = Fleet::new(18);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    b.answer();
    a.knows(&b);
    let request = |bytes: usize| Request::Raft(vec![0; bytes]);
    let send = |bytes| a.network.request(b.id(), request(bytes), LIMIT);
    let max = crate::wire::REQUEST_BYTES_MAX as usize;
    assert!(send(max - 64).await.is_ok());
    assert!(matches!(
        send(max).await,
        Err(ExchangeError::TooLarge { .. })
    ));

    // A peer that does not check is told before anything is read.
    let raw = Raw::dial(fleet.id(), &key(3), b.address()).await;
    raw.show(fleet.node(&key(3), |_| {})).await;
    let mut stream = raw.open("/potluck/rpc/1").await.unwrap();
    stream.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut status = [0];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(status[0], exchange::Status::TooLarge as u8);

    // Likewise what is no request at all.
    let mut stream = raw.open("/potluck/rpc/1").await.unwrap();
    exchange::write_frame(&mut stream, b"\xffnonsense")
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let response = codec::decode("response", &answer[5..], 64).unwrap();
    assert!(matches!(response, Response::Unsupported), "{response:?}");
}

#[tokio::test]
async fn a_substream_carries_one_request_after_the_other() {
    let fleet = Fleet::new(40);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    b.answer();
    a.knows(&b);
    for _ in 0..20 {
        a.ask(b.id()).await.unwrap();
    }
    let counters = a.network.counters();
    assert_eq!(
        (counters.requests_out, counters.request_substreams),
        (20, 1)
    );

    // Many at once need more; afterwards only a few are kept.
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (network, to) = (a.network.clone(), b.id());
        asks.spawn(async move { network.request(to, Request::Probe(to), LIMIT).await });
    }
    while let Some(answer) = asks.join_next().await {
        assert!(answer.unwrap().is_ok());
    }
    let opened = a.network.counters().request_substreams;
    for _ in 0..20 {
        a.ask(b.id()).await.unwrap();
    }
    assert_eq!(a.network.counters().request_substreams, opened);
}

#[tokio::test]
async fn a_kept_substream_is_of_no_use_to_a_revoked_node() {
    let fleet = Fleet::new(41);
    let mut b = fleet.start(2).await;
    b.answer();
    let raw = Raw::dial(fleet.id(), &key(3), b.address()).await;
    raw.show(fleet.node(&key(3), |certificate| certificate.serial = 7))
        .await;
    let mut stream = raw.open("/potluck/rpc/1").await.unwrap();
    let request = codec::encode(&Request::Probe(b.id()));
    for _ in 0..2 {
        exchange::write_frame(&mut stream, &request).await.unwrap();
        let mut status = [0];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(status[0], exchange::Status::Answer as u8);
        exchange::read_frame(&mut stream, 4_096).await.unwrap();
    }
    b.network.set_revoked([7].into());
    let _ = exchange::write_frame(&mut stream, &request).await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the substream stays open");
    assert!(rest.is_empty(), "answered after the revocation");
}

#[tokio::test]
async fn the_hash_table_finds_closest_nodes_and_providers() {
    let fleet = Fleet::new(19);
    let mut hosts = Vec::new();
    for n in 0..6 {
        hosts.push(fleet.start(20 + n).await);
    }
    for a in &hosts {
        for b in &hosts {
            a.knows(b);
        }
    }
    let key = [9; 32];
    let first = hosts[0].network.closest(key).await;
    assert_eq!(first.len(), 6);
    for host in &hosts {
        assert_eq!(host.network.closest(key).await, first, "all agree");
    }
    hosts[2].network.provide(key).await.unwrap();
    hosts[4].network.provide(key).await.unwrap();
    let expected = BTreeSet::from([hosts[2].id(), hosts[4].id()]);
    for host in &hosts {
        let found: BTreeSet<_> = host.network.providers(key).await.into_iter().collect();
        assert_eq!(found, expected);
    }
    assert_eq!(hosts[1].network.providers([8; 32]).await, []);
}

#[tokio::test]
async fn alone_a_node_is_closest_to_everything() {
    let fleet = Fleet::new(20);
    let host = fleet.start(1).await;
    assert_eq!(host.network.closest([1; 32]).await, [host.id()]);
    host.network.provide([1; 32]).await.unwrap();
    assert_eq!(host.network.providers([1; 32]).await, [host.id()]);
}

#[tokio::test]
async fn a_restarted_peer_is_reached_at_once() {
    let fleet = Fleet::new(21);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    b.answer();
    a.knows(&b);
    let (to, address) = (b.id(), b.address());
    for _ in 0..5 {
        a.ask(to).await.unwrap();
        b.token.cancel();
        b.network.stopped().await;
        // Down: said at once, whether or not the old link's end was noticed.
        let start = Instant::now();
        let error = a.ask(to).await.unwrap_err();
        assert!(
            matches!(error, ExchangeError::Link(_) | ExchangeError::Lost(_)),
            "{error:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(5), "{error:?}");
        eventually("unreachable", || a.network.counters().connections == 0).await;
        let error = a.ask(to).await.unwrap_err();
        assert!(
            matches!(error, ExchangeError::Link(LinkError::Unreachable(_))),
            "{error:?}"
        );
        let mut config = fleet.config(key(2), fleet.node(&key(2), |_| {}));
        config.listen = Some(address);
        b = Host::start(config).await;
        b.answer();
        a.ask(to).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_in_flight_ends_with_its_peer() {
    let fleet = Fleet::new(22);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let asked = a.ask(b.id());
    let kill = async {
        let _held = b.inbound.requests.recv().await.unwrap();
        b.token.cancel();
        b.network.stopped().await;
        _held
    };
    let (asked, _held) = tokio::join!(asked, kill);
    assert!(matches!(asked, Err(ExchangeError::Lost(_))), "{asked:?}");
    assert!(!asked.unwrap_err().surely_not_done());
}

#[tokio::test]
async fn a_limit_holds_for_a_peer_that_says_nothing() {
    let fleet = Fleet::new(23);
    let (a, b) = (fleet.start(1).await, fleet.start(2).await);
    a.knows(&b);
    let limit = Duration::from_millis(300);
    let asked = a.network.request(b.id(), Request::Probe(b.id()), limit);
    let asked = asked.await;
    assert!(matches!(asked, Err(ExchangeError::Timeout)), "{asked:?}");
    // A host that accepts connections and never speaks.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let node = key(9).node();
    a.network.learn(node, vec![silent.local_addr().unwrap()]);
    let asked = a.network.request(node, Request::Probe(node), limit).await;
    assert!(matches!(asked, Err(ExchangeError::Timeout)), "{asked:?}");
}

#[tokio::test]
async fn revocation_ends_links_and_says_why() {
    let fleet = Fleet::new(24);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    b.answer();
    a.knows(&b);
    a.ask(b.id()).await.unwrap();
    b.network.set_revoked(BTreeSet::from([1]));
    eventually("the link ends", || a.network.counters().connections == 0).await;
    assert_eq!(
        refusal(a.ask(b.id()).await.unwrap_err()),
        RefusalCode::Revoked
    );
    // A new certificate helps.
    a.network
        .set_credential(fleet.node(&key(1), |c| c.serial = 2));
    assert_eq!(a.ask(b.id()).await.unwrap(), format!("{} 2", a.id()));
}

#[tokio::test]
async fn a_new_certificate_is_shown_on_old_links() {
    let fleet = Fleet::new(25);
    let (a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    b.answer();
    a.knows(&b);
    assert_eq!(a.ask(b.id()).await.unwrap(), format!("{} 1", a.id()));
    a.network
        .set_credential(fleet.node(&key(1), |c| c.serial = 7));
    let shown = || {
        let peers = b.network.peers();
        peers.len() == 1
            && matches!(&peers[0].holder, Some(Holder::Node(certificate)) if certificate.serial == 7)
    };
    eventually("b sees serial 7 on the one link", shown).await;
    assert_eq!(a.ask(b.id()).await.unwrap(), format!("{} 7", a.id()));
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused() {
    let fleet = Fleet::new(26);
    let a = fleet.start(1).await;
    let mut config = fleet.config(key(2), fleet.node(&key(2), |_| {}));
    config.listen = Some(a.address());
    let started = start(config, CancellationToken::new()).await;
    assert!(matches!(started, Err(StartError::Listen { .. })));
}

#[tokio::test]
async fn another_node_at_the_address_is_noticed() {
    let fleet = Fleet::new(27);
    let (a, b) = (fleet.start(1).await, fleet.start(2).await);
    let other = key(3).node();
    a.network.learn(other, vec![b.address()]);
    let error = a.ask(other).await.unwrap_err();
    assert!(
        matches!(&error, ExchangeError::Link(LinkError::Unreachable(why)) if why.contains("another node")),
        "{error:?}"
    );
}

#[tokio::test]
async fn bulk_has_a_connection_of_its_own() {
    let fleet = Fleet::new(28);
    let (mut a, mut b) = (fleet.start(1).await, fleet.start(2).await);
    a.answer();
    b.answer();
    a.knows(&b);
    let mut held = Vec::new();
    for (purpose, connections) in [
        (Purpose::Chunks, 1),
        (Purpose::Snapshot, 1),
        (Purpose::Logs, 2),
        (Purpose::Api, 2),
    ] {
        let open = a.network.open_stream(b.id(), purpose, LIMIT);
        held.push((open.await.unwrap(), b.inbound.streams.recv().await));
        assert_eq!(a.network.counters().connections, connections, "{purpose:?}");
    }
    a.ask(b.id()).await.unwrap();
    // The other side sorts them alike, or it would have to dial, and it knows
    // no address.
    b.ask(a.id()).await.unwrap();
    let open = b.network.open_stream(a.id(), Purpose::Chunks, LIMIT);
    held.push((open.await.unwrap(), a.inbound.streams.recv().await));
    assert_eq!(a.network.counters().connections, 2);
}
