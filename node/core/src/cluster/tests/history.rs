//! What is kept of versions, and that what was kept before is still read.

use super::*;

/// The job's version `version` with a text that makes it this long.
fn submit_of_size(name: &str, version: u64, bytes: usize) -> Command {
    let mut command = submit(0, name, version, None);
    if let Command::SubmitJob { change, job, .. } = &mut command {
        change.0[..8].copy_from_slice(&version.to_be_bytes());
        change.0[8..12].copy_from_slice(&name.as_bytes()[..4]);
        let mut decoded = job.decode_unchecked().unwrap();
        decoded.task.args = vec!["x".repeat(bytes)];
        job.job.bytes = decoded.encode();
    }
    command
}

fn record<'a>(cluster: &'a Cluster, name: &str) -> &'a JobRecord {
    &cluster.jobs()[&JobName::in_default(name)]
}

#[test]
fn a_version_remembers_where_it_came_from() {
    let mut cluster = begun();
    let mut command = submit(1, "web", 1, None);
    let told = Origin {
        spec: Some("services/web.star".into()),
        commit: Some(Commit {
            id: "f".repeat(200),
            dirty: true,
        }),
        back_to: Some(7),
    };
    if let Command::SubmitJob { origin, .. } = &mut command {
        *origin = told.clone();
    }
    cluster.apply(2, &command);
    let kept = record(&cluster, "web").current();
    assert_eq!((kept.author.as_str(), kept.accepted_at), ("ada", Millis(5)));
    assert_eq!(kept.origin.spec, told.spec);
    assert_eq!(kept.origin.back_to, Some(7));
    let commit = kept.origin.commit.clone().unwrap();
    assert_eq!((commit.id.len(), commit.dirty), (64, true), "bounded");
}

#[test]
fn texts_are_cut_between_characters() {
    let mut cluster = begun();
    let mut command = submit(1, "web", 1, None);
    if let Command::SubmitJob { message, .. } = &mut command {
        *message = format!("{}é", "x".repeat(TEXT_BYTES_MAX - 1));
    }
    cluster.apply(2, &command);
    let kept = &record(&cluster, "web").current().message;
    assert_eq!(kept.len(), TEXT_BYTES_MAX - 1);
}

#[test]
fn large_versions_crowd_out_the_oldest_but_not_the_one_before() {
    let mut cluster = begun();
    for version in 1..=12 {
        let reply = cluster.apply(version + 1, &submit_of_size("webs", version, 200 << 10));
        assert_eq!(reply, Reply::Accepted { version });
        let kept = record(&cluster, "webs").versions.len();
        assert_eq!(
            kept,
            (version as usize).min(5),
            "five of 200 KiB fit in one MiB"
        );
    }
    assert_eq!(cluster.packages().len(), 5, "packages go with versions");
}

#[test]
fn jobs_are_bounded_in_bytes_too() {
    let mut cluster = begun();
    let mut refused = None;
    for k in 0..JOBS_BYTES_MAX / (200 << 10) + 1 {
        let name = format!("{k:04}");
        let reply = cluster.apply(k as u64 + 2, &submit_of_size(&name, 1, 200 << 10));
        if let Reply::Refused { why } = reply {
            refused = Some(why);
            break;
        }
    }
    assert!(
        matches!(refused, Some(Refused::TooMany { .. })),
        "{refused:?}"
    );
    // Small changes of what is there still pass.
    let reply = cluster.apply(9_000, &submit_of_size("0000", 2, 0));
    assert_eq!(reply, Reply::Accepted { version: 2 });
}

#[test]
fn who_stopped_a_job_is_known_until_it_runs_again() {
    let mut cluster = begun();
    cluster.apply(2, &submit(1, "web", 1, None));
    let stop = Command::StopJob {
        change: ChangeId([9; 16]),
        job: JobName::in_default("web"),
        author: "bob".into(),
        now: Millis(8),
    };
    cluster.apply(3, &stop);
    let by = Stopped {
        author: "bob".into(),
        at: Millis(8),
    };
    assert_eq!(record(&cluster, "web").stopped_by, Some(by));
    cluster.apply(4, &submit(2, "web", 2, None));
    assert_eq!(record(&cluster, "web").stopped_by, None);
}

/// Written by the first version of the program that kept state.
const STATE_1: &[u8] = include_bytes!("../samples/state-1.cbor");
/// The commands that came to it, after genesis.
const COMMANDS_1: &[u8] = include_bytes!("../samples/commands-1.cbor");

#[test]
fn what_older_versions_wrote_is_read() {
    let state: Cluster = codec::decode("cluster", STATE_1, 1 << 20).unwrap();
    let web = record(&state, "web");
    assert_eq!(web.current().version, 2);
    assert_eq!(web.current().message, "because");
    assert_eq!(web.current().origin, Origin::default());
    assert!(record(&state, "db").stopped);
    assert_eq!(record(&state, "db").stopped_by, None);
    let commands: Vec<Command> = codec::decode("commands", COMMANDS_1, 1 << 20).unwrap();
    let mut replayed = begun();
    for (index, command) in commands.iter().enumerate() {
        replayed.apply(index as u64 + 2, command);
    }
    // What is kept since then is not in the old snapshot.
    let job = JobName::in_default("db");
    assert!(replayed.jobs()[&job].stopped_by.is_some());
    let versions = |cluster: &Cluster| {
        let mut versions = cluster.jobs()[&job].versions.clone();
        // What was not kept then is read from their bytes when it is needed, or
        // is none.
        for version in &mut versions {
            version.demand = None;
            version.accepted_under = Default::default();
        }
        versions
    };
    assert_eq!(versions(&replayed), versions(&state));
    assert_eq!(replayed.namespaces(), state.namespaces());
    assert_eq!(replayed.members(), state.members());
    // And both go on alike.
    let next = submit(8, "web", 3, Some(2));
    let (mut old, mut new) = (state, replayed);
    assert_eq!(old.apply(20, &next), Reply::Accepted { version: 3 });
    assert_eq!(new.apply(20, &next), Reply::Accepted { version: 3 });
}

proptest! {
    /// Whatever was submitted, the newest versions stay without a gap, the
    /// bounds hold, and exactly their packages are pinned.
    #[test]
    fn the_newest_versions_stay(sizes in proptest::collection::vec(0usize..250_000, 1..40)) {
        let mut cluster = begun();
        for (k, bytes) in sizes.iter().enumerate() {
            let version = k as u64 + 1;
            let command = submit_of_size("webs", version, *bytes);
            prop_assert_eq!(cluster.apply(version + 1, &command), Reply::Accepted { version });
        }
        let record = record(&cluster, "webs");
        prop_assert!(record.versions.len() <= VERSIONS_KEPT);
        prop_assert!(record.versions.len() <= VERSIONS_KEPT_MIN || record.bytes() <= VERSIONS_BYTES_MAX);
        let last = record.current().version;
        let first = last + 1 - record.versions.len() as u64;
        let numbers: Vec<u64> = record.versions.iter().map(|v| v.version).collect();
        prop_assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
        prop_assert_eq!(cluster.packages().len(), record.versions.len());
    }
}
