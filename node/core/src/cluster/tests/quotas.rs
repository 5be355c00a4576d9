//! Quotas of namespaces: what counts, who is refused, and what is told.

use super::*;
use potluck_specs::job::Batch;

/// A quota as it was written when there first were some.
const QUOTA_1: &[u8] = include_bytes!("../samples/quota-1.cbor");

fn set(change: u8, namespace: &str, quota: Option<Quota>) -> Command {
    Command::SetQuota {
        change: ChangeId([change; 16]),
        namespace: namespace.into(),
        quota,
    }
}

fn job(name: &str, version: u64, kind: JobKind, cpu_millis: u32) -> Job {
    Job {
        name: name.parse().unwrap(),
        version,
        kind,
        task: TaskTemplate {
            command: "bin/x".into(),
            resources: Resources::new(cpu_millis, 64 << 20),
            ..TaskTemplate::default()
        },
        ..Job::default()
    }
}

fn service(name: &str, version: u64, replicas: u32, cpu_millis: u32) -> Job {
    job(name, version, JobKind::service(replicas), cpu_millis)
}

/// Submits it as change `change`.
fn submit_job(cluster: &mut Cluster, change: u8, job: &Job) -> Reply {
    let mut command = submit(change, "x", 1, None);
    if let Command::SubmitJob {
        job: signed_job, ..
    } = &mut command
    {
        signed_job.job = signed(job.encode());
    }
    cluster.apply(u64::from(change) + 100, &command)
}

fn excess(reply: &Reply) -> Vec<(Countable, u64, u64, u64)> {
    match reply {
        Reply::Refused {
            why: Refused::OverQuota { excess, .. },
        } => excess
            .iter()
            .map(|e| (e.what, e.others, e.asked, e.limit))
            .collect(),
        _ => Vec::new(),
    }
}

/// A cluster whose namespace `team` may use four cores.
fn four_cores() -> Cluster {
    let mut cluster = begun();
    let quota = Quota {
        cpu_millis: Some(4_000),
        ..Quota::default()
    };
    assert_eq!(cluster.apply(2, &set(1, "team", Some(quota))), Reply::Done);
    cluster
}

#[test]
fn a_job_beyond_the_quota_is_refused_with_what_is_left() {
    let mut cluster = four_cores();
    let first = submit_job(&mut cluster, 2, &service("team/a", 1, 3, 1_000));
    assert_eq!(first, Reply::Accepted { version: 1 });
    let second = submit_job(&mut cluster, 3, &service("team/b", 1, 2, 750));
    assert_eq!(excess(&second), [(Countable::Cpu, 3_000, 1_500, 4_000)]);
    let Reply::Refused { why } = second else {
        unreachable!()
    };
    assert_eq!(
        why.to_string(),
        "the quota of namespace \"team\" has no room: 1.5 cores asked for, 1 core left of 4 cores"
    );
    assert!(!cluster.jobs().contains_key(&"team/b".parse().unwrap()));
    // What fits exactly fits, and other namespaces are not held to it.
    let exact = submit_job(&mut cluster, 4, &service("team/b", 1, 1, 1_000));
    assert_eq!(exact, Reply::Accepted { version: 1 });
    let other = submit_job(&mut cluster, 5, &service("other/b", 1, 9, 1_000));
    assert_eq!(other, Reply::Accepted { version: 1 });
}

#[test]
fn everything_that_is_exceeded_is_told_at_once() {
    let mut cluster = begun();
    let quota = Quota {
        jobs: Some(0),
        tasks: Some(2),
        cpu_millis: Some(100),
        memory_bytes: Some(1 << 20),
        disk_bytes: Some(1 << 40),
    };
    cluster.apply(2, &set(1, "team", Some(quota)));
    let reply = submit_job(&mut cluster, 2, &service("team/a", 1, 3, 100));
    assert_eq!(
        excess(&reply),
        [
            (Countable::Jobs, 0, 1, 0),
            (Countable::Tasks, 0, 3, 2),
            (Countable::Cpu, 0, 300, 100),
            (Countable::Memory, 0, 3 * (64 << 20), 1 << 20),
        ]
    );
}

#[test]
fn a_version_counts_instead_of_the_one_before_it() {
    let mut cluster = four_cores();
    submit_job(&mut cluster, 2, &service("team/a", 1, 3, 1_000));
    let grown = submit_job(&mut cluster, 3, &service("team/a", 2, 4, 1_000));
    assert_eq!(grown, Reply::Accepted { version: 2 });
    let beyond = submit_job(&mut cluster, 4, &service("team/a", 3, 5, 1_000));
    assert_eq!(excess(&beyond), [(Countable::Cpu, 0, 5_000, 4_000)]);
}

#[test]
fn above_a_lowered_quota_one_may_shrink_and_not_grow() {
    let mut cluster = four_cores();
    submit_job(&mut cluster, 2, &service("team/a", 1, 4, 1_000));
    let low = Quota {
        cpu_millis: Some(1_000),
        ..Quota::default()
    };
    cluster.apply(50, &set(3, "team", Some(low)));
    let same = submit_job(&mut cluster, 4, &service("team/a", 2, 8, 500));
    assert_eq!(same, Reply::Accepted { version: 2 });
    let less = submit_job(&mut cluster, 5, &service("team/a", 3, 3, 1_000));
    assert_eq!(less, Reply::Accepted { version: 3 });
    let more = submit_job(&mut cluster, 6, &service("team/a", 4, 4, 1_000));
    assert_eq!(excess(&more).len(), 1);
    // Without the quota it is one's own again.
    cluster.apply(60, &set(7, "team", None));
    let free = submit_job(&mut cluster, 8, &service("team/a", 4, 40, 1_000));
    assert_eq!(free, Reply::Accepted { version: 4 });
}

#[test]
fn what_counts_of_each_kind_of_job() {
    let mut cluster = begun();
    cluster.apply(2, &create_token(1, "t", 9, 99_999, 1));
    cluster.apply(3, &redeem("t", 2, "b", 2, 2));
    let batch = |completions, parallelism| {
        JobKind::Batch(Batch {
            completions,
            parallelism,
            ..Batch::default()
        })
    };
    // Both members take one of the second.
    let table = [
        (JobKind::service(3), 3),
        (JobKind::PerNode, 2),
        (batch(10, 4), 4),
        (batch(2, 4), 2),
    ];
    for (k, (kind, tasks)) in (0u8..).zip(table) {
        let name = format!("n{k}/a");
        submit_job(&mut cluster, 10 + k, &job(&name, 1, kind, 200));
        let view = &cluster.namespaces()[usize::from(k)];
        let expected = Amounts {
            jobs: 1,
            tasks,
            cpu_millis: tasks * 200,
            memory_bytes: tasks * (64 << 20),
            disk_bytes: 0,
        };
        assert_eq!(
            (view.namespace.as_str(), view.asked),
            (&*format!("n{k}"), expected)
        );
    }
}

#[test]
fn stopped_jobs_and_work_that_is_over_count_nothing() {
    let mut cluster = four_cores();
    cluster.apply(
        3,
        &Command::Reign {
            leader: NodeId([1; 32]),
        },
    );
    submit_job(&mut cluster, 2, &service("team/a", 1, 4, 1_000));
    cluster.apply(
        200,
        &Command::StopJob {
            change: ChangeId([3; 16]),
            job: "team/a".parse().unwrap(),
            author: "ada".into(),
            now: Millis(9),
        },
    );
    let kind = JobKind::Batch(Batch {
        deadline_ms: Some(10),
        ..Batch::default()
    });
    let work = submit_job(&mut cluster, 4, &job("team/work", 1, kind, 4_000));
    assert_eq!(work, Reply::Accepted { version: 1 });
    let beside = submit_job(&mut cluster, 5, &service("team/c", 1, 4, 1_000));
    assert_eq!(excess(&beside), [(Countable::Cpu, 4_000, 4_000, 4_000)]);
    cluster.apply(
        210,
        &Command::ExpireBatch {
            reign: Reign(3),
            job: "team/work".parse().unwrap(),
            began_version: 1,
            now: Millis(1_000),
        },
    );
    let after = submit_job(&mut cluster, 6, &service("team/c", 1, 4, 1_000));
    assert_eq!(after, Reply::Accepted { version: 1 });
    // Starting the first again is a submission as any other.
    let again = submit_job(&mut cluster, 7, &service("team/a", 2, 1, 1_000));
    assert_eq!(excess(&again), [(Countable::Cpu, 4_000, 1_000, 4_000)]);
}

#[test]
fn jobs_that_are_submitted_together_count_together() {
    let cluster = four_cores();
    let [a, b] = ["team/a", "team/b"].map(|name| service(name, 1, 3, 1_000));
    assert!(cluster.over_quota(&b, &[]).is_none());
    assert!(cluster.over_quota(&b, std::slice::from_ref(&a)).is_some());
    assert!(cluster.over_quota(&a, std::slice::from_ref(&a)).is_none());
}

/// Versions that were accepted before what they ask for was kept beside them.
#[test]
fn versions_of_before_are_counted_from_their_bytes() {
    let mut cluster = four_cores();
    submit_job(&mut cluster, 2, &service("team/a", 1, 4, 1_000));
    let before = cluster.namespaces();
    for record in cluster.jobs.values_mut() {
        record.versions.iter_mut().for_each(|v| v.demand = None);
    }
    assert_eq!(cluster.namespaces(), before);
}

#[test]
fn quotas_are_bounded_and_named_as_namespaces_are() {
    let mut cluster = begun();
    let quota = Quota {
        jobs: Some(1),
        ..Quota::default()
    };
    let bad = cluster.apply(2, &set(1, "No Such", Some(quota)));
    assert!(matches!(
        bad,
        Reply::Refused {
            why: Refused::BadNamespace { .. }
        }
    ));
    for k in 0..QUOTAS_MAX {
        let mut command = set(0, &format!("n{k}"), Some(quota));
        if let Command::SetQuota { change, .. } = &mut command {
            change.0[..8].copy_from_slice(&(k as u64 + 1).to_le_bytes());
        }
        assert_eq!(cluster.apply(3, &command), Reply::Done);
    }
    let full = cluster.apply(4, &set(251, "one-more", Some(quota)));
    assert_eq!(full, Reply::too_many("quotas", QUOTAS_MAX));
    // One that is there may change, and an empty one is none.
    assert_eq!(cluster.apply(5, &set(252, "n1", Some(quota))), Reply::Done);
    assert_eq!(
        cluster.apply(6, &set(253, "n1", Some(Quota::default()))),
        Reply::Done
    );
    assert_eq!(
        cluster.apply(7, &set(254, "one-more", Some(quota))),
        Reply::Done
    );
}

#[test]
fn the_first_quotas_are_still_read() {
    let quota = Quota {
        jobs: Some(1),
        tasks: Some(2),
        cpu_millis: None,
        memory_bytes: Some(3),
        disk_bytes: None,
    };
    let commands = vec![set(1, "team", Some(quota)), set(2, "team", None)];
    assert_eq!(codec::encode(&commands), QUOTA_1);
    let read: Vec<Command> = codec::decode("commands", QUOTA_1, 1 << 10).expect("a sample");
    assert_eq!(read, commands);
}
