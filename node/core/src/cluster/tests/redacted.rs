//! What a recording must not hold.

use super::*;
use potluck_specs::job::RenderedFile;

const SECRET: &str = "hunter2";

fn with_secrets() -> SignedJob {
    let signed = signed_job("web", 1, 2);
    let mut job = signed.decode_unchecked().expect("a job");
    job.task.env.insert("PASSWORD".into(), SECRET.into());
    job.task.args.push(format!("--password={SECRET}"));
    job.task.files.push(RenderedFile {
        path: "secret.txt".into(),
        content: SECRET.into(),
        ..RenderedFile::default()
    });
    job.annotations.insert("note".into(), SECRET.into());
    SignedJob {
        job: super::signed(job.encode()),
        author: signed.author.clone(),
    }
}

fn run() -> Command {
    let mut command = submit(1, "web", 1, None);
    if let Command::SubmitJob { job, .. } = &mut command {
        **job = with_secrets();
    }
    command
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|part| part == text)
}

#[test]
fn keys_and_what_tasks_are_handed_are_left_out() {
    let seal = Command::SealIssuer {
        node: NodeId([1; 32]),
        sealed: vec![0xab; 80],
    };
    let batch = Command::Batch {
        commands: vec![run(), seal.clone()],
    };
    let mut cluster = begun();
    cluster.apply(2, &seal);
    cluster.apply(3, &run());
    let key = [3; 32];
    let bare = [
        codec::encode(&cluster),
        codec::encode(&batch),
        codec::encode(&genesis()),
    ];
    let redacted = [
        codec::encode(&cluster.redacted()),
        codec::encode(&batch.redacted()),
        codec::encode(&genesis().redacted()),
    ];
    for secret in [SECRET.as_bytes(), &key, &[0xab; 80]] {
        assert!(bare.iter().any(|bytes| holds(bytes, secret)));
        assert!(!redacted.iter().any(|bytes| holds(bytes, secret)));
    }
}

#[test]
fn what_is_decided_on_stays() {
    let mut cluster = begun();
    cluster.apply(2, &run());
    let copy = cluster.redacted();
    let name = JobName::in_default("web");
    let job = |cluster: &Cluster| {
        let version = &cluster.jobs()[&name].current().job;
        version.decode_unchecked().expect("a job")
    };
    let (bare, redacted) = (job(&cluster), job(&copy));
    assert_eq!(bare.kind, redacted.kind);
    assert_eq!(bare.task.resources, redacted.task.resources);
    assert_eq!(bare.package, redacted.package);
    assert!(redacted.task.env.contains_key("PASSWORD"));
    // The log goes on the same, whether its state or its entries are a copy.
    let mut replayed = begun().redacted();
    replayed.apply(2, &run().redacted());
    assert_eq!(replayed, copy);
}
