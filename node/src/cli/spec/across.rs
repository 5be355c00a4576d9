//! Jobs of several files together: circles, names that stand twice, and jobs
//! that are waited for and stand in none.
//!
//! Within one file the evaluation tells that itself; here is what it can't
//! see. Files that are checked together need not run in one cluster, so a name
//! that stands twice is a warning.

use potluck_specs::{JobName, job::JobDraft, path::PathStep, validate};
use potluck_starlark::{Evaluated, EvaluatedJob, Finding, FindingKind, Severity, Spot};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be said about the jobs of all files. What a file said about jobs
/// that stand in another is taken back.
pub(super) fn check<'a>(files: impl Iterator<Item = &'a mut Evaluated>) -> Vec<Finding> {
    let mut files: Vec<&mut Evaluated> = files.collect();
    let all: BTreeSet<JobName> = files
        .iter()
        .flat_map(|file| file.jobs.iter().map(|job| job.draft.name.clone()))
        .collect();
    for file in &mut files {
        let found: Vec<Spot> = file
            .jobs
            .iter()
            .flat_map(|job| {
                let needs = job.draft.change.depends_on.iter().zip(&job.depends_on_at);
                needs.filter(|(needed, _)| all.contains(&needed.job))
            })
            .map(|(_, at)| at.clone())
            .collect();
        file.findings
            .retain(|told| told.kind != FindingKind::UnknownJob || !found.contains(&told.at));
    }
    let mut by_name: BTreeMap<&JobName, Vec<&EvaluatedJob>> = BTreeMap::new();
    for job in files.iter().flat_map(|file| &file.jobs) {
        by_name.entry(&job.draft.name).or_default().push(job);
    }
    let mut findings: Vec<Finding> = by_name.values().filter_map(|jobs| twice(jobs)).collect();
    // Of a name that stands twice nobody knows which is meant.
    let single: Vec<&EvaluatedJob> = by_name
        .values()
        .filter_map(|jobs| match jobs[..] {
            [job] => Some(job),
            _ => None,
        })
        .collect();
    findings.extend(circles(&single));
    findings
}

fn twice(jobs: &[&EvaluatedJob]) -> Option<Finding> {
    let [first, second, ..] = jobs else {
        return None;
    };
    let message = format!("job {} stands in another file, too", second.draft.name);
    let mut finding = Finding::error(second.at.clone(), FindingKind::Invalid, message)
        .why(format!("it is declared at {}", first.at))
        .hint("if both are for one cluster, the later run takes the place of the other");
    finding.severity = Severity::Warning;
    Some(finding)
}

/// Circles over several files: those within one were told by it.
fn circles(jobs: &[&EvaluatedJob]) -> Vec<Finding> {
    let drafts: Vec<JobDraft> = jobs.iter().map(|job| job.draft.clone()).collect();
    let found = validate::check_set(&drafts).into_iter();
    let circles = found.filter(|(_, found)| found.message.starts_with("cycle: "));
    let tell = |(index, found): (usize, potluck_specs::finding::Finding)| {
        let position = found.path.0.iter().find_map(|step| match step {
            PathStep::Index(position) => Some(*position),
            _ => None,
        })?;
        let at = jobs[index].depends_on_at.get(position)?;
        let mut finding = Finding::error(at.clone(), FindingKind::Invalid, found.message);
        finding.why = found.why;
        finding.hint = found.hint;
        Some(finding)
    };
    circles.filter_map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::job::{Dependency, PackageSource};

    fn spot(file: &str, line: u32) -> Spot {
        Spot {
            file: file.into(),
            line,
            column: 1,
            end_line: line,
            end_column: 2,
            quoted: String::new(),
            quoted_skips: 0,
        }
    }

    fn file(name: &str, jobs: &[(&str, &[&str])]) -> Evaluated {
        let job = |(index, (job, on)): (usize, &(&str, &[&str]))| {
            let source = PackageSource::Path("p".into());
            let mut draft = JobDraft::new(JobName::in_default(job), source, "c");
            let dependency = |on: &&str| Dependency {
                job: JobName::in_default(on),
                ..Dependency::default()
            };
            draft.change.depends_on = on.iter().map(dependency).collect();
            let line = index as u32 + 1;
            EvaluatedJob {
                depends_on_at: on.iter().map(|_| spot(name, line)).collect(),
                draft,
                at: spot(name, line),
                package_at: spot(name, line),
                values: Vec::new(),
                not_yet: Vec::new(),
            }
        };
        Evaluated {
            jobs: jobs.iter().enumerate().map(job).collect(),
            ..Evaluated::default()
        }
    }

    fn told(files: &mut [Evaluated]) -> Vec<String> {
        let found = check(files.iter_mut());
        found
            .iter()
            .map(|f| format!("{}: {}", f.at, f.message))
            .collect()
    }

    #[test]
    fn a_circle_over_files_is_a_path() {
        let mut files = [
            file("a.star", &[("a", &["b"])]),
            file("b.star", &[("b", &["a"])]),
        ];
        let stranger = Finding::error(spot("a.star", 1), FindingKind::UnknownJob, "job b ...");
        files[0].findings.push(stranger);
        assert_eq!(told(&mut files), ["b.star:1:1: cycle: a -> b -> a"]);
        assert_eq!(files[0].findings, [], "b stands in another file");
    }

    #[test]
    fn a_name_in_two_files_is_a_warning_and_closes_no_circle() {
        let mut files = [
            file("a.star", &[("a", &["b"])]),
            file("b.star", &[("b", &["a"])]),
            file("c.star", &[("b", &[])]),
        ];
        assert_eq!(
            told(&mut files),
            ["c.star:1:1: job b stands in another file, too"]
        );
        let found = check(files.iter_mut());
        assert!(!found[0].is_error());
    }
}
