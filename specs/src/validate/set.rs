//! Jobs together: names that stand twice, and jobs that wait for each other.

use super::Finding;
use crate::{
    JobName,
    job::{JobDraft, JobKind},
    path::FieldPath,
    suggestion::nearest,
};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be said about jobs that are submitted together, each with the
/// index of the draft that it is about. What is to be said about each alone is
/// told by [`check`](super::check). A job that is not among them may be in the
/// cluster, so waiting for it is no error.
pub fn check_set(drafts: &[JobDraft]) -> Vec<(usize, Finding)> {
    let mut findings = Vec::new();
    let mut places: BTreeMap<&JobName, usize> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if places.contains_key(&draft.name) {
            let message = format!("job {} stands twice", draft.name);
            findings.push((index, Finding::error(FieldPath::of("name"), message)));
        } else {
            places.insert(&draft.name, index);
        }
    }
    check_strangers(drafts, &places, &mut findings);
    check_counts(drafts, &places, &mut findings);
    check_fixed_ports(drafts, &mut findings);
    check_cycles(drafts, &places, &mut findings);
    findings
}

/// Dependencies on more tasks than the other job has.
fn check_counts(
    drafts: &[JobDraft],
    places: &BTreeMap<&JobName, usize>,
    findings: &mut Vec<(usize, Finding)>,
) {
    for (index, draft) in drafts.iter().enumerate() {
        for (position, dependency) in draft.change.depends_on.iter().enumerate() {
            let other = places.get(&dependency.job).map(|place| &drafts[*place]);
            let slots = other.and_then(|other| other.kind.slots());
            let (Some(wanted), Some(slots)) = (dependency.at_least, slots) else {
                continue;
            };
            if wanted > slots {
                let path = FieldPath::of("change.depends_on")
                    .index(position)
                    .field("at_least");
                let message = format!("{} never has {wanted} tasks, but {slots}", dependency.job);
                let mut finding = Finding::error(path, message);
                finding.why("so the job would never start");
                findings.push((index, finding));
            }
        }
    }
}

/// Two jobs that are on each node and want the same port there.
fn check_fixed_ports(drafts: &[JobDraft], findings: &mut Vec<(usize, Finding)>) {
    let mut taken: BTreeMap<u16, &JobName> = BTreeMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if draft.kind != JobKind::PerNode {
            continue;
        }
        for (position, port) in draft.task.ports.iter().enumerate() {
            let Some(number) = port.number else { continue };
            let first = *taken.entry(number).or_insert(&draft.name);
            if *first != draft.name {
                let path = FieldPath::of("task.ports").index(position).field("number");
                let message = format!("{first} has port {number} on each node, too");
                let mut finding = Finding::warning(path, message);
                finding.why("on a node that both go to, only one of them starts");
                findings.push((index, finding));
            }
        }
    }
}

/// How a job that is waited for and that is not among these is told.
const STRANGER: &str = "is not among these";

/// Is it about a job that may be in the cluster, or in another file?
pub fn is_stranger(finding: &Finding) -> bool {
    finding.message.ends_with(STRANGER)
}

/// Dependencies on jobs whose name is almost that of one of these.
fn check_strangers(
    drafts: &[JobDraft],
    places: &BTreeMap<&JobName, usize>,
    findings: &mut Vec<(usize, Finding)>,
) {
    let names: Vec<String> = places.keys().map(ToString::to_string).collect();
    for (index, draft) in drafts.iter().enumerate() {
        for (position, dependency) in draft.change.depends_on.iter().enumerate() {
            if places.contains_key(&dependency.job) {
                continue;
            }
            let name = dependency.job.to_string();
            let own = draft.name.to_string();
            let others = names.iter().map(String::as_str).filter(|name| *name != own);
            if let Some(near) = nearest(&name, others) {
                let path = FieldPath::of("change.depends_on")
                    .index(position)
                    .field("job");
                let message = format!("job {name} {STRANGER}");
                let mut finding = Finding::warning(path, message);
                finding
                    .why("it has to be in the cluster already")
                    .meant(Some(near));
                findings.push((index, finding));
            }
        }
    }
}

/// Each circle once, told at the job of it that is written last before the
/// circle closes.
fn check_cycles(
    drafts: &[JobDraft],
    places: &BTreeMap<&JobName, usize>,
    findings: &mut Vec<(usize, Finding)>,
) {
    let mut done = BTreeSet::new();
    let mut told = BTreeSet::new();
    for start in 0..drafts.len() {
        // The way from `start`, each with how many of its dependencies were
        // looked at. No recursion: people may have thousands of jobs in a row.
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            let Some(dependency) = drafts[at].change.depends_on.get(*next) else {
                done.insert(at);
                way.pop();
                continue;
            };
            let position = *next;
            *next += 1;
            let Some(&to) = places.get(&dependency.job) else {
                continue;
            };
            if let Some(begin) = way.iter().position(|(index, _)| *index == to) {
                let circle: Vec<usize> = way[begin..].iter().map(|(index, _)| *index).collect();
                let members: BTreeSet<usize> = circle.iter().copied().collect();
                // A job that waits for itself is told by the check of it alone.
                if circle.len() > 1 && told.insert(members) {
                    findings.push((at, cycle(drafts, &circle, position)));
                }
            } else if !done.contains(&to) {
                way.push((to, 0));
            }
        }
    }
}

fn cycle(drafts: &[JobDraft], circle: &[usize], position: usize) -> Finding {
    let around = circle.iter().chain(circle.first());
    let names: Vec<String> = around
        .map(|index| drafts[*index].name.to_string())
        .collect();
    let path = FieldPath::of("change.depends_on")
        .index(position)
        .field("job");
    let mut finding = Finding::error(path, format!("cycle: {}", names.join(" -> ")));
    finding
        .why("each waits for the next, so none ever starts")
        .hint("let one of them start without the other");
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Dependency, PackageSource};
    use proptest::prelude::*;

    fn jobs(edges: &[(&str, &[&str])]) -> Vec<JobDraft> {
        let draft = |(name, on): &(&str, &[&str])| {
            let source = PackageSource::Path("p".into());
            let mut draft = JobDraft::new(JobName::in_default(name), source, "c");
            let dependency = |on: &&str| Dependency {
                job: JobName::in_default(on),
                ..Dependency::default()
            };
            draft.change.depends_on = on.iter().map(dependency).collect();
            draft
        };
        edges.iter().map(draft).collect()
    }

    fn told(edges: &[(&str, &[&str])]) -> Vec<(usize, String)> {
        let findings = check_set(&jobs(edges)).into_iter();
        findings
            .map(|(index, finding)| (index, finding.to_string()))
            .collect()
    }

    #[test]
    fn circles_are_shown_as_paths() {
        assert_eq!(told(&[("a", &["b"]), ("b", &["c"]), ("c", &[])]), []);
        assert_eq!(
            told(&[("a", &["b"]), ("b", &["x-unknown", "a"])]),
            [(1, "change.depends_on[1].job: cycle: a -> b -> a".into())]
        );
        assert_eq!(
            told(&[("z", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])]),
            [(
                3,
                "change.depends_on[0].job: cycle: a -> b -> c -> a".into()
            )]
        );
        // Two circles through one job are two findings.
        assert_eq!(
            told(&[("a", &["b", "c"]), ("b", &["a"]), ("c", &["a"])]).len(),
            2
        );
        // One that waits for itself is told elsewhere.
        assert_eq!(told(&[("a", &["a"])]), []);
    }

    #[test]
    fn names_stand_once_and_are_spelt_right() {
        assert_eq!(
            told(&[("a", &[]), ("a", &[])]),
            [(1, "name: job a stands twice".into())]
        );
        let near = told(&[("database", &[]), ("web", &["datbase"])]);
        assert!(
            near[0].1.contains("(did you mean \"database\"?)"),
            "{near:?}"
        );
    }

    #[test]
    fn what_one_job_can_not_give_another_is_told() {
        let mut drafts = jobs(&[("a", &["b"]), ("b", &[])]);
        drafts[0].change.depends_on[0].at_least = Some(5);
        drafts[1].kind = JobKind::service(2);
        let few = check_set(&drafts);
        assert_eq!(few[0].0, 0);
        assert!(
            few[0].1.message.contains("never has 5 tasks, but 2"),
            "{few:?}"
        );
        drafts[0].change.depends_on[0].at_least = Some(2);
        assert_eq!(check_set(&drafts), []);
        let port = crate::job::PortSpec {
            name: "p".into(),
            number: Some(9_000),
        };
        for draft in &mut drafts {
            draft.task.ports = vec![port.clone()];
        }
        assert_eq!(check_set(&drafts), [], "a service may go elsewhere");
        for draft in &mut drafts {
            draft.kind = JobKind::PerNode;
        }
        let told = check_set(&drafts);
        assert!(
            told.iter()
                .any(|(at, f)| *at == 1 && f.message.contains("port 9000")),
            "{told:?}"
        );
        // Nobody means the job itself.
        let own = check_set(&jobs(&[("ca", &["cb"]), ("zzz", &[])]));
        assert_eq!(own, []);
    }

    #[test]
    fn a_long_row_of_jobs_is_no_trouble() {
        let names: Vec<String> = (0..20_000).map(|k| format!("j{k}")).collect();
        let mut drafts = Vec::new();
        for pair in names.windows(2) {
            drafts.extend(jobs(&[(&pair[0], &[&pair[1]])]));
        }
        let cycles = check_set(&drafts[..1_000]);
        assert!(
            cycles
                .iter()
                .all(|(_, finding)| !finding.message.starts_with("cycle"))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// A circle is told exactly if there is one, by the plain definition:
        /// what can be taken away because it waits for nobody left.
        #[test]
        fn told_if_and_only_if_there_is_one(edges in prop::collection::vec((0usize..6, 0usize..6), 0..12)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let of = |from: usize| -> Vec<&str> {
                let to = edges.iter().filter(|(a, b)| *a == from && a != b).map(|(_, b)| names[*b]);
                to.collect::<BTreeSet<_>>().into_iter().collect()
            };
            let all: Vec<Vec<&str>> = (0..6).map(of).collect();
            let list: Vec<(&str, &[&str])> = names.iter().zip(&all).map(|(n, e)| (*n, &e[..])).collect();
            let mut left: BTreeSet<&str> = names.into();
            loop {
                let free: Vec<&str> = left.iter().copied().filter(|name| {
                    let index = names.iter().position(|n| n == name).unwrap();
                    all[index].iter().all(|on| !left.contains(on))
                }).collect();
                if free.is_empty() {
                    break;
                }
                left.retain(|name| !free.contains(name));
            }
            prop_assert_eq!(told(&list).is_empty(), left.is_empty());
        }
    }
}
