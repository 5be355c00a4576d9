//! What a recovered log takes over, and what it never does.

use super::*;

fn recover(epoch: u64) -> Command {
    Command::Recover {
        recovery: Box::new(Recovery {
            epoch: Epoch(epoch),
            survivor: NodeId([1; 32]),
            author: "ada".into(),
            at: Millis(9),
            order: vec![7; 100],
        }),
    }
}

fn recover_job(name: &str, version: u64) -> Command {
    Command::RecoverJob {
        job: signed_job(name, version, 2),
        author: "ada".into(),
        holders: vec![NodeId([1; 32]), NodeId([99; 32])],
        package_bytes: 10,
        now: Millis(11),
    }
}

fn recover_member(node: u8, name: &str) -> Command {
    Command::RecoverMember {
        admission: admission(node, name, node),
        roles: vec![NodeRole::Agent],
        now: Millis(11),
    }
}

fn recovered() -> Cluster {
    let mut cluster = begun();
    assert_eq!(cluster.apply(2, &recover(2)), Reply::Done);
    cluster
}

fn stale(epoch: u64) -> Reply {
    Reply::refused(Refused::StaleEpoch {
        epoch: Epoch(epoch),
    })
}

#[test]
fn epochs_rise_and_outrank_every_reign_before() {
    let mut cluster = begun();
    let leader = NodeId([1; 32]);
    cluster.apply(90, &Command::Reign { leader });
    let before = cluster.authority();
    for epoch in [0, 1] {
        assert_eq!(cluster.apply(91, &recover(epoch)), stale(epoch));
        assert_eq!(cluster.authority(), before);
    }
    assert_eq!(cluster.apply(92, &recover(3)), Reply::Done);
    assert_eq!(cluster.apply(93, &recover(3)), stale(3));
    assert_eq!(cluster.apply(94, &recover(2)), stale(2));
    cluster.apply(95, &Command::Reign { leader });
    assert!(cluster.authority() > before);
    assert_eq!(cluster.authority().epoch, Epoch(3));
    assert_eq!(cluster.recovery().map(|r| r.epoch), Some(Epoch(3)));
}

#[test]
fn ids_of_the_control_group_before_are_gone_for_ever() {
    let mut cluster = begun();
    cluster.apply(2, &create_token(1, "t", 5, 10_000, 0));
    cluster.apply(3, &redeem("t", 2, "b", 2, 5));
    let record = |node: u8, raft_id| Command::RecordMember {
        node: NodeId([node; 32]),
        addresses: None,
        capacity: None,
        raft_id: Some(raft_id),
        feature_level: None,
    };
    assert_eq!(cluster.apply(4, &record(1, 11)), Reply::Done);
    assert_eq!(cluster.apply(5, &record(2, 22)), Reply::Done);
    assert_eq!(cluster.apply(6, &recover(2)), Reply::Done);
    let id = |cluster: &Cluster, node: u8| cluster.members()[&NodeId([node; 32])].raft_id;
    assert_eq!((id(&cluster, 1), id(&cluster, 2)), (Some(11), None));
    let taken = Reply::refused(Refused::RaftIdTaken { raft_id: 22 });
    assert_eq!(cluster.apply(7, &record(2, 22)), taken);
    assert_eq!(cluster.apply(8, &record(2, 23)), Reply::Done);
    assert_eq!(id(&cluster, 2), Some(23));
}

#[test]
fn only_what_is_newer_than_the_log_is_taken() {
    let mut cluster = recovered();
    assert_eq!(
        cluster.apply(3, &recover_job("web", 4)),
        Reply::Accepted { version: 4 }
    );
    let name = JobName::in_default("web");
    let record = cluster.jobs()[&name].clone();
    assert_eq!(record.current().version, 4);
    assert_eq!(record.recovered_at, Some(Millis(11)));
    assert!(cluster.packages().contains_key(&PackageId([4; 32])));
    for version in [1, 3, 4] {
        assert_eq!(cluster.apply(4, &recover_job("web", version)), Reply::Done);
        assert_eq!(cluster.jobs()[&name], record, "version {version}");
    }
    assert_eq!(
        cluster.apply(5, &recover_job("web", 6)),
        Reply::Accepted { version: 6 }
    );
    // A person's next version follows it, and it is as usual again.
    assert_eq!(
        cluster.apply(6, &submit(1, "web", 7, Some(6))),
        Reply::Accepted { version: 7 }
    );
    assert_eq!(cluster.jobs()[&name].recovered_at, None);
}

#[test]
fn a_stop_that_the_log_has_outlives_older_versions_only() {
    let mut cluster = recovered();
    cluster.apply(3, &submit(1, "web", 1, None));
    let name = JobName::in_default("web");
    let stop = Command::StopJob {
        change: ChangeId([9; 16]),
        job: name.clone(),
        author: "ada".into(),
        now: Millis(1),
    };
    cluster.apply(4, &stop);
    cluster.apply(5, &recover_job("web", 1));
    assert!(
        cluster.jobs()[&name].stopped,
        "the same version stays stopped"
    );
    cluster.apply(6, &recover_job("web", 2));
    assert!(!cluster.jobs()[&name].stopped, "somebody ran it again");
}

#[test]
fn nodes_of_the_lost_end_are_members_again() {
    let mut cluster = recovered();
    assert_eq!(cluster.apply(3, &recover_member(5, "e")), Reply::Done);
    let node = NodeId([5; 32]);
    assert_eq!(cluster.members()[&node].roles, [NodeRole::Agent]);
    // Its name is another's: a person has to say who is who.
    let taken = cluster.apply(4, &recover_member(6, "e"));
    assert!(matches!(taken, Reply::TokenRefused { .. }), "{taken:?}");
    assert_eq!(cluster.members().len(), 2);
}

#[test]
fn nothing_is_taken_from_hosts_without_a_recovery() {
    let mut cluster = begun();
    let before = cluster.clone();
    for command in [recover_job("web", 1), recover_member(5, "e")] {
        let reply = cluster.apply(2, &command);
        assert_eq!(reply, Reply::refused(Refused::NotRecovered));
    }
    assert_eq!(cluster.jobs(), before.jobs());
    assert_eq!(cluster.members(), before.members());
}
