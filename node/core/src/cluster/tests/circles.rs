//! Circles of waiting are found before they are accepted.

use super::*;
use potluck_specs::job::Dependency;

fn waiting(name: &str, on: &[&str]) -> Job {
    let mut job = signed_job(name, 1, 2).decode_unchecked().unwrap();
    let dependency = |on: &&str| Dependency {
        job: JobName::in_default(on),
        ..Dependency::default()
    };
    job.change.depends_on = on.iter().map(dependency).collect();
    job
}

fn with(jobs: &[(&str, &[&str])]) -> Cluster {
    let mut cluster = begun();
    for (index, (name, on)) in (2u64..).zip(jobs) {
        let mut command = submit(index as u8, name, 1, None);
        if let Command::SubmitJob { job, .. } = &mut command {
            job.job.bytes = waiting(name, on).encode();
        }
        cluster.apply(index, &command);
    }
    assert_eq!(cluster.jobs().len(), jobs.len());
    cluster
}

fn told(cluster: &Cluster, job: Job, others: &[Job]) -> Option<String> {
    let circle = cluster.circle(&job, others)?;
    let names: Vec<String> = circle.iter().map(ToString::to_string).collect();
    Some(names.join(" -> "))
}

#[test]
fn a_circle_through_the_cluster_is_a_path() {
    let cluster = with(&[("b", &["c"]), ("c", &["d", "a"]), ("d", &[])]);
    let circle = told(&cluster, waiting("a", &["d", "b"]), &[]);
    assert_eq!(circle.as_deref(), Some("a -> b -> c -> a"));
    assert_eq!(told(&cluster, waiting("a", &["d", "nosuch"]), &[]), None);
    // What is submitted with it counts instead of what the cluster has.
    let mended = [waiting("b", &["d"])];
    assert_eq!(told(&cluster, waiting("a", &["b"]), &mended), None);
    let closed = [waiting("d", &["a"])];
    let circle = told(&cluster, waiting("a", &["d"]), &closed);
    assert_eq!(circle.as_deref(), Some("a -> d -> a"));
}

#[test]
fn a_stopped_job_closes_no_circle() {
    let mut cluster = with(&[("b", &["a"])]);
    assert!(told(&cluster, waiting("a", &["b"]), &[]).is_some());
    cluster.apply(
        9,
        &Command::StopJob {
            change: ChangeId([9; 16]),
            job: JobName::in_default("b"),
            author: "ada".into(),
            now: Millis(6),
        },
    );
    assert_eq!(told(&cluster, waiting("a", &["b"]), &[]), None);
}
