//! Which values of a job are judged together: where one of them is wrong, what
//! stands in for it must not make the other look wrong, too.

use crate::{call::steps, place::Step};
use potluck_specs::{
    finding::Finding,
    job::{Batch, JobDraft, JobKind},
    path::PathStep,
    validate,
};

/// What says how many tasks there are.
const COUNTS: &[&str] = &["replicas", "per_node", "batch"];

/// What is wrong with a draft, however many tasks it has and of which kind:
/// for one of which that is not known.
pub(crate) fn whatever_its_count(draft: &JobDraft) -> Vec<Finding> {
    let kinds = [
        JobKind::service(1),
        JobKind::service(1_000),
        JobKind::PerNode,
        JobKind::Batch(Batch::default()),
    ];
    let check = |kind| {
        validate::check(&JobDraft {
            kind,
            ..draft.clone()
        })
    };
    let mut findings = validate::check(draft);
    for kind in kinds {
        let other = check(kind);
        findings.retain(|found| other.contains(found));
    }
    findings
}

/// Is one of the arguments that say how many tasks there are told as wrong?
pub(crate) fn is_count_unknown(told: impl Fn(&[Step]) -> bool) -> bool {
    COUNTS.iter().any(|argument| told(&steps(argument)))
}

/// An argument, and what it is judged together with. Of a list of calls the
/// others are those of the same call.
const TOGETHER: &[(&str, &[&str])] = &[
    ("adaptive.cpu_max", &["cpu", "adaptive.cpu_min"]),
    ("adaptive.cpu_min", &["cpu", "adaptive.cpu_max"]),
    ("adaptive.memory_max", &["memory", "adaptive.memory_min"]),
    ("adaptive.memory_min", &["memory", "adaptive.memory_max"]),
    ("batch.completions", &["batch.gang"]),
    ("batch.parallelism", &["batch.completions", "batch.gang"]),
    ("exclusive.lease", &["maintenance"]),
    ("files", &["isolation"]),
    (
        "health.interval",
        &["health.healthy_after", "update.health_deadline"],
    ),
    ("health.start_period", &["update.health_deadline"]),
    ("health.timeout", &["health.interval"]),
    ("limits.cpu", &["cpu"]),
    ("limits.memory", &["memory"]),
    ("metrics.during", &["metrics.interval"]),
    ("mounts", &["isolation"]),
    ("mounts.size", &["memory", "limits"]),
    ("packages", &["isolation"]),
    ("restart.backoff_max", &["restart.backoff"]),
    ("stop.grace", &["maintenance", "exclusive"]),
];

/// The fields that a field is judged together with.
pub(crate) fn with(field: &[Step]) -> Vec<Vec<Step>> {
    let names: Vec<&str> = field
        .iter()
        .filter_map(|step| match step {
            Step::Entry(name) => Some(name.as_str()),
            Step::Element(_) => None,
        })
        .collect();
    let applies = |argument: &str| {
        argument
            .split('.')
            .eq(names.iter().take(argument.split('.').count()).copied())
    };
    let rows = TOGETHER.iter().filter(|(argument, _)| applies(argument));
    let others = rows.flat_map(|(_, others)| others.iter());
    others.map(|other| beside(field, other)).collect()
}

/// `health.interval`, of the same check as `field`.
fn beside(field: &[Step], other: &str) -> Vec<Step> {
    let mut other = steps(other);
    if let [first, element @ Step::Element(_), ..] = field
        && other.first() == Some(first)
    {
        other.insert(1, element.clone());
    }
    other
}

/// Is it that there is no port of some name?
pub(crate) fn is_about_ports(found: &Finding) -> bool {
    let names_port = matches!(found.path.0.last(), Some(PathStep::Field(name)) if name == "port");
    names_port || found.message.starts_with("${port.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions;

    #[test]
    fn every_argument_is_one() {
        let job = functions::ALL.iter().find(|one| one.name == "job").unwrap();
        for (argument, others) in TOGETHER {
            for path in [argument].into_iter().chain(others.iter()) {
                let first = path.split('.').next().unwrap();
                assert!(job.param(first).is_some(), "{path}");
                if let Some((_, inner)) = path.split_once('.') {
                    let known = functions::ALL.iter().any(|one| one.param(inner).is_some());
                    assert!(known, "{path}");
                }
            }
        }
    }

    #[test]
    fn those_of_the_same_call() {
        let field = [
            Step::Entry("health".into()),
            Step::Element(1),
            Step::Entry("timeout".into()),
        ];
        let other = [
            Step::Entry("health".into()),
            Step::Element(1),
            Step::Entry("interval".into()),
        ];
        assert_eq!(with(&field), [other.to_vec()]);
        assert_eq!(with(&steps("stop.grace")).len(), 2);
        assert_eq!(with(&steps("env.A")), Vec::<Vec<Step>>::new());
    }
}
