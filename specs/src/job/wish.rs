//! What a draft and a job have in common, so that both are looked at alike.

use super::{Change, Job, JobDraft, JobKind, PackageSource, Placement, TaskTemplate};
use crate::JobName;
use std::collections::BTreeMap;

/// All of a job but what binding it decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a JobName,
    pub(crate) kind: &'a JobKind,
    /// Unknown of a bound job, which has ids only.
    pub(crate) package: Option<&'a PackageSource>,
    pub(crate) task: &'a TaskTemplate,
    pub(crate) placement: &'a Placement,
    pub(crate) change: &'a Change,
    pub(crate) priority: u32,
    pub(crate) owner: &'a str,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    packages: Packages<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Packages<'a> {
    Draft(&'a JobDraft),
    Bound(&'a Job),
}

impl<'a> Wish<'a> {
    pub(crate) fn of_draft(draft: &'a JobDraft) -> Wish<'a> {
        Wish {
            name: &draft.name,
            kind: &draft.kind,
            package: Some(&draft.package),
            task: &draft.task,
            placement: &draft.placement,
            change: &draft.change,
            priority: draft.priority,
            owner: &draft.owner,
            annotations: &draft.annotations,
            packages: Packages::Draft(draft),
        }
    }

    pub(crate) fn of_job(job: &'a Job) -> Wish<'a> {
        Wish {
            name: &job.name,
            kind: &job.kind,
            package: None,
            task: &job.task,
            placement: &job.placement,
            change: &job.change,
            priority: job.priority,
            owner: &job.owner,
            annotations: &job.annotations,
            packages: Packages::Bound(job),
        }
    }

    /// The further packages: where each is mounted, and where it comes from
    /// unless that is an id.
    pub(crate) fn packages(&self) -> Vec<(&'a str, Option<&'a PackageSource>)> {
        match self.packages {
            Packages::Draft(draft) => draft
                .packages
                .iter()
                .map(|one| (one.at.as_str(), Some(&one.source)))
                .collect(),
            Packages::Bound(job) => job
                .packages
                .iter()
                .map(|one| (one.at.as_str(), None))
                .collect(),
        }
    }

    /// Texts with interpolation, each with its place.
    pub(crate) fn texts(&self) -> Vec<(crate::FieldPath, &'a str)> {
        let task = crate::FieldPath::of("task");
        let mut texts = Vec::new();
        for (index, arg) in self.task.args.iter().enumerate() {
            texts.push((task.field("args").index(index), arg.as_str()));
        }
        for (name, value) in &self.task.env {
            texts.push((task.field("env").key(name), value.as_str()));
        }
        for (index, file) in self.task.files.iter().enumerate() {
            let place = task.field("files").index(index).field("content");
            texts.push((place, file.content.as_str()));
        }
        for (field, hooks) in [
            ("setup", &self.task.setup),
            ("teardown", &self.task.teardown),
        ] {
            for (index, hook) in hooks.iter().enumerate() {
                for (position, arg) in hook.args.iter().enumerate() {
                    let place = task.field(field).index(index).field("args").index(position);
                    texts.push((place, arg.as_str()));
                }
            }
        }
        texts
    }
}
