//! Whole nodes in this process, without helpers: what concerns their
//! certificates and their place in the cluster over weeks, which no test with
//! real programs can wait for. They begin in the past instead.

use super::*;
use crate::{
    clock,
    identity::{self, DataFolder, InitOptions, needs_renewal},
    runtime::certificates::grace,
};
use potluck_core::{
    attributes::Facts,
    cluster::{Cluster, Command},
};
use potluck_specs::{
    ChangeId, Millis, NodeId, NodeName, Topology,
    job::Resources,
    trust::{NODE_CERTIFICATE_LIFE, NodeCertificate, NodeRole},
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{interval, timeout};

/// Far above what anything here takes, on a machine that does other things.
const LIMIT: Duration = Duration::from_secs(60);

static HOSTS: AtomicU8 = AtomicU8::new(1);

/// A host: its folder and its address, whether a node runs on it or not.
struct Host {
    folder: TempDir,
    address: SocketAddr,
    name: String,
}

impl Host {
    fn new() -> Host {
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let run = std::process::id().to_be_bytes()[3];
        Host {
            folder: tempfile::tempdir().expect("a folder"),
            address: (Ipv4Addr::new(127, 210, run, number), 7400).into(),
            name: format!("n{number}"),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Begins a fleet here, so long ago.
    fn init(&self, ago: Millis) {
        let options = InitOptions {
            data: self.data(),
            config: self.folder.path().join("config"),
            name: NodeName(self.name.clone()),
            topology: Topology::in_rack("main", "r1"),
            user: "ann".into(),
            addresses: vec![self.address],
            gossip: Some(self.address),
            now: Millis(clock::unix_now().0 - ago.0),
        };
        identity::init(&options).expect("a fleet begins");
    }

    fn settings(&self, join: Option<JoinWish>) -> NodeSettings {
        NodeSettings {
            data: self.data(),
            join,
            name: self.name.clone(),
            rack: Some("r1".into()),
            listen: self.address,
            advertise: self.address,
            total: Resources::new(1_000, 1 << 30),
            facts: Facts::default(),
            ports: 20_000..=20_010,
            upgrade_helpers: true,
            ssh: false,
            agent_lease: Millis(60_000),
            logs: crate::agent::LogRetention::DEFAULT,
            replace_voter_after: Duration::from_secs(300),
        }
    }

    async fn start(&self, join: Option<JoinWish>) -> Node {
        let started = Node::start_with(self.settings(join), helper()).await;
        started.unwrap_or_else(|error| panic!("{}", crate::cli::chain(&error)))
    }
}

/// The helper that was built beside this test.
fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a program");
    let helper = test
        .ancestors()
        .map(|folder| folder.join("potluck-helper"))
        .find(|path| path.is_file());
    helper.expect("potluck-helper was built: `cargo build --workspace --bins`")
}

/// The certificate in a node's folder, however old.
fn stored(node: &Node) -> NodeCertificate {
    let credential = node._folder.credential().expect("a folder");
    let whenever = Millis(u64::MAX / 2);
    let verified = credential.expect("a certificate").verify(
        node.shared.me.fleet,
        clock::unix_now(),
        whenever,
    );
    verified.expect("one of ours")
}

/// Waits until `look` gives something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        let mut looks = interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    };
    timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("{what} does not come about"))
}

/// The newest certificate of a node by the log.
fn logged(node: &Node, of: NodeId) -> Option<NodeCertificate> {
    let credential = node.shared.control.read(|state: &Cluster| {
        let member = state.members().get(&of);
        member.map(|member| member.credential.clone())
    })?;
    let fleet = node.shared.me.fleet;
    credential.verify(fleet, clock::unix_now(), Millis(0)).ok()
}

/// Waits until a node uses a young certificate: in its folder, on its
/// connections, and known to the log of `leader`.
async fn await_renewed(node: &Node, leader: &Node) -> NodeCertificate {
    let me = node.shared.me.node;
    until("a renewed certificate", || {
        let now = clock::unix_now();
        let in_log = logged(leader, me)?;
        let in_folder = stored(node);
        let shown = node.shared.admission.credential();
        let shown = shown.verify(node.shared.me.fleet, now, Millis(0)).ok()?;
        let young = !needs_renewal(&in_folder, now);
        (young && in_log == in_folder && shown == in_folder).then_some(in_folder)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_renews_its_own_certificate() {
    let host = Host::new();
    host.init(Millis(NODE_CERTIFICATE_LIFE.0 / 3 + 60_000));
    let node = host.start(None).await;
    let before = stored(&node);
    let after = await_renewed(&node, &node).await;
    assert_ne!(after.serial, before.serial);
    assert_eq!((after.node, after.roles), (before.node, before.roles));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_only_certificate_has_ended_comes_back() {
    let host = Host::new();
    host.init(NODE_CERTIFICATE_LIFE + Millis::DAY);
    let node = host.start(None).await;
    await_renewed(&node, &node).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_off_for_too_long_is_told_so() {
    let host = Host::new();
    host.init(NODE_CERTIFICATE_LIFE + grace(false) + Millis::DAY);
    let helper = std::env::current_exe().expect("a test has a program");
    let started = Node::start_with(host.settings(None), helper).await;
    let Err(error) = started else {
        panic!("a node without any certificate runs");
    };
    let text = crate::cli::chain(&error);
    assert!(text.contains("ended"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_asks_the_leader_for_its_next_certificate() {
    let (first, second) = (Host::new(), Host::new());
    first.init(Millis(0));
    let leader = first.start(None).await;
    let joined = second.start(Some(wish(&leader).await)).await;
    let me = joined.shared.me.node;
    let certificate = stored(&joined);
    joined.stop().await;

    // As if it had been let in twelve days ago, and the log said so.
    let issuer = leader.shared.admission.issuer(&leader.shared).unwrap();
    let then = Millis(clock::unix_now().0 - 12 * Millis::DAY.0);
    let old = issuer.renew(&certificate, then, certificate.serial + 1);
    let command = Command::RenewCertificate {
        node: me,
        credential: Box::new(old.clone()),
        serial: certificate.serial + 1,
    };
    leader.shared.control.propose(command).await.unwrap();
    let folder = DataFolder::open(&second.data()).unwrap();
    folder.set_credential(&old).unwrap();
    drop(folder);

    let node = second.start(None).await;
    let renewed = await_renewed(&node, &leader).await;
    assert!(renewed.not_before.since(then) > Millis::DAY, "{renewed:?}");
    node.stop().await;
    leader.stop().await;
}

/// A token of a node that leads.
async fn wish(leader: &Node) -> JoinWish {
    let me = &leader.shared.me;
    until("a leader", || leader.shared.we_lead().then_some(())).await;
    until("the first entries of the log", || {
        leader.shared.control.read(Cluster::has_begun).then_some(())
    })
    .await;
    let now = clock::unix_now();
    let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
    let expires = now + Millis::DAY;
    let token = identity::create_token(me.fleet, &me.cluster, roles.clone(), None, 1, expires);
    let command = Command::CreateToken {
        change: ChangeId(identity::random()),
        id: token.id.clone(),
        secret_hash: token.secret_hash(),
        roles,
        rack: None,
        uses: 1,
        expires,
        now,
    };
    leader.shared.control.propose(command).await.unwrap();
    JoinWish {
        address: me.address,
        token,
    }
}

/// A fleet of two hosts, the first of which leads.
async fn two() -> [(Host, Node); 2] {
    let (first, second) = (Host::new(), Host::new());
    first.init(Millis(0));
    let leader = first.start(None).await;
    let other = second.start(Some(wish(&leader).await)).await;
    [(first, leader), (second, other)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_follow_the_log_learns_of_revocations() {
    let [(_first, leader), (_second, node)] = two().await;
    let (serial, now) = (4_711, clock::unix_now());
    let revoke = Command::Revoke { serial, now };
    leader.shared.control.propose(revoke).await.unwrap();
    // By the answer to its heartbeat, whatever its own log says.
    let told = || node.shared.revocations.told().contains(&serial);
    let learnt = until("the list of the scheduler", || {
        let logged = node
            .shared
            .control
            .read(|state: &Cluster| state.is_revoked(serial));
        (told() || logged).then_some(())
    });
    learnt.await;
    let leads = leader.shared.me.node;
    let wanted = leader.shared.revocations.revision();
    node.shared.revocations.forget();
    revocations::catch_up(
        &node.shared,
        potluck_core::relay::Way::Straight,
        leads,
        wanted,
    )
    .await;
    assert!(told());
    node.stop().await;
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_that_no_job_pins_go_and_others_stay() {
    let [(_first, leader), (host, node)] = two().await;
    let pack = |text: &str| {
        let file = host.folder.path().join(text);
        std::fs::write(&file, text).unwrap();
        node.shared.packages.pack(&file)
    };
    let (pinned, loose) = (pack("pinned"), pack("loose"));
    let submit = Command::SubmitJob {
        change: ChangeId(identity::random()),
        job: Box::new(crate::testing::signed_job_of(pinned)),
        author: "ann".into(),
        message: String::new(),
        holders: vec![node.shared.me.node],
        package_bytes: 6,
        further: Vec::new(),
        now: clock::unix_now(),
        expected_version: None,
        origin: Default::default(),
    };
    leader.shared.control.propose(submit).await.unwrap();
    until("a leader for the other", || node.shared.leader()).await;

    keeping::drop_unpinned(&node.shared, u64::MAX).await;
    assert_eq!(node.shared.packages.ids().len(), 2, "there is room for all");
    let gone = async {
        let mut looks = interval(Duration::from_millis(50));
        while node.shared.packages.ids().contains(&loose) {
            looks.tick().await;
            keeping::drop_unpinned(&node.shared, 0).await;
        }
    };
    timeout(LIMIT, gone).await.expect("it is dropped");
    assert_eq!(
        node.shared.packages.ids().into_iter().collect::<Vec<_>>(),
        [pinned]
    );

    // Nobody to ask: nothing is dropped.
    let kept = pack("kept");
    leader.stop().await;
    keeping::drop_unpinned(&node.shared, 0).await;
    assert!(node.shared.packages.ids().contains(&kept));
    node.stop().await;
}
