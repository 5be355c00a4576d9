//! A plan of 1,000 jobs of which 10 change, as the leader makes it but for
//! the forecast: both versions decoded, checked and compared. Beside it what
//! can't be left out: the same bytes hashed, and decoded.
//!
//! `cargo bench -p potluck-starlark --profile dev --bench plan`

#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

mod measure;

use measure::{ROUNDS, measure};
use potluck_specs::{
    Job, JobName, PackageId,
    diff::JobChange,
    job::{HealthCheck, JobKind, PortSpec, Requirement, ServiceSpec, TaskTemplate},
    plan::{JobPlan, Plan},
    validate,
};

const JOBS: usize = 1_000;
const CHANGES: usize = 10;

fn main() {
    let old: Vec<Vec<u8>> = (0..JOBS).map(|k| job(k).encode()).collect();
    let new: Vec<Vec<u8>> = (0..JOBS).map(|k| changed(k).encode()).collect();
    let bytes: usize = old.iter().map(Vec::len).sum();
    println!(
        "{JOBS} jobs, {bytes} bytes, {CHANGES} of them changed; median of {ROUNDS} (least to most)"
    );
    let decode = |bytes: &Vec<u8>| Job::decode(bytes).expect("our own job");
    measure("planned", || {
        let jobs = old.iter().zip(&new).filter_map(|(old, new)| {
            let (old, new) = (decode(old), decode(new));
            let mut plan = JobPlan::of(Some(&old), Some(&new))?;
            plan.findings = validate::check_job(&new);
            Some(plan)
        });
        check(&Plan {
            jobs: jobs.collect(),
        });
    });
    measure("bound: the same jobs decoded", || {
        let all = old.iter().chain(&new).map(decode);
        assert_eq!(all.filter(|job| job.version == 7).count(), 2 * JOBS);
    });
    measure("bound: the same bytes hashed", || {
        let mut hasher = blake3::Hasher::new();
        for job in old.iter().chain(&new) {
            hasher.update(job);
        }
        assert_ne!(hasher.finalize().as_bytes(), &[0; 32]);
    });
}

/// Half of the changes restart nothing.
fn check(plan: &Plan) {
    let count = |change| plan.jobs.iter().filter(|job| job.change == change).count();
    assert_eq!(count(JobChange::Unchanged), JOBS - CHANGES);
    assert_eq!(count(JobChange::ChangedInPlace), CHANGES / 2);
    assert_eq!(count(JobChange::RollingRestart), CHANGES / 2);
}

/// A service as most are.
fn job(k: usize) -> Job {
    let text = |text: &str| text.to_owned();
    let requirement: Requirement = "kernel >= 6.1".parse().expect("a requirement");
    let mut job = Job {
        cluster: text("main"),
        name: JobName::in_default(&format!("service-{k}")),
        version: 7,
        kind: JobKind::service(k as u32 % 7 + 1),
        package: PackageId([k as u8; 32]),
        task: TaskTemplate {
            args: vec![text("--port"), text("${port.http}")],
            env: [
                ("MODE", "live"),
                ("SERVICE", "x"),
                ("SHARD", "${slot.index}"),
            ]
            .map(|(name, value)| (text(name), text(value)))
            .into(),
            ports: vec![PortSpec {
                name: text("http"),
                number: None,
            }],
            services: vec![ServiceSpec::new(&format!("service-{k}"), "http")],
            health: vec![HealthCheck::http("http", "/healthz")],
            ..TaskTemplate::new("bin/web")
        },
        owner: text("team@example.org"),
        annotations: [(text("team"), text("web"))].into(),
        ..Job::default()
    };
    job.placement.requirements.push(requirement);
    job
}

fn changed(k: usize) -> Job {
    let mut job = job(k);
    if k.is_multiple_of(JOBS / CHANGES) {
        match k / (JOBS / CHANGES) % 2 {
            0 => job.kind = JobKind::service(9),
            _ => job.task.args.push("--verbose".into()),
        }
    }
    job
}
