//! The job as a whole: name, kind, packages, priority, owner, notes; and the
//! names that its texts use.

use super::{findings::Findings, limits::*};
use crate::{
    job::{Batch, GANG_MAX, JobKind, PRIORITY_MAX, PackageSource, interpolation, wish::Wish},
    path::FieldPath,
};

pub(super) fn check(wish: &Wish, findings: &mut Findings) {
    let name = FieldPath::of("name");
    findings.label(&name.field("namespace"), "namespace", &wish.name.namespace);
    findings.label(&name.field("name"), "job", &wish.name.name);
    check_kind(wish, findings);
    check_packages(wish, findings);
    check_notes(wish, findings);
    check_names(wish, findings);
}

fn check_kind(wish: &Wish, findings: &mut Findings) {
    let path = FieldPath::of("kind");
    match wish.kind {
        JobKind::Service { replicas } => {
            let path = path.field("service.replicas");
            if *replicas == 0 {
                findings
                    .error(&path, "a job has at least 1 replica")
                    .hint(format!("to stop a job, use `potluck stop {}`", wish.name));
            }
            at_most_slots(&path, "replicas", *replicas, findings);
        }
        JobKind::PerNode => {}
        JobKind::Batch(batch) => check_batch(&path.field("batch"), batch, findings),
    }
}

fn at_most_slots(path: &FieldPath, what: &str, count: u32, findings: &mut Findings) {
    if count > REPLICAS_MAX {
        findings
            .error(
                path,
                format!("{count} {what} are more than the {REPLICAS_MAX} that a job may have"),
            )
            .why("that is ten on each node of a full cluster");
    }
}

fn check_batch(path: &FieldPath, batch: &Batch, findings: &mut Findings) {
    let completions = path.field("completions");
    let parallelism = path.field("parallelism");
    if batch.completions == 0 {
        findings.error(&completions, "a batch has at least 1 completion");
    }
    at_most_slots(&completions, "completions", batch.completions, findings);
    if batch.parallelism == 0 {
        findings.error(&parallelism, "nothing would run: at least 1 runs at once");
    }
    if batch.gang && batch.parallelism < batch.completions {
        let message = format!(
            "a gang starts together, but only {} of {} may run at once",
            batch.parallelism, batch.completions
        );
        findings
            .error(&parallelism, message)
            .hint(format!("set parallelism to {}", batch.completions));
    }
    if batch.gang && batch.completions > GANG_MAX {
        let message = format!(
            "a gang has at most {GANG_MAX} tasks, not {}",
            batch.completions
        );
        findings
            .error(&completions, message)
            .why("all of them are placed in one go");
    }
    if batch.completions > 0 && batch.parallelism > batch.completions {
        let message = format!(
            "{} at once are more than the {} that are to be done",
            batch.parallelism, batch.completions
        );
        findings.warning(&parallelism, message);
    }
    if batch.retries > ANSWERS_MAX {
        findings.error(
            &path.field("retries"),
            format!("at most {ANSWERS_MAX} retries are allowed"),
        );
    }
    if let Some(deadline) = batch.deadline_ms {
        let path = path.field("deadline_ms");
        findings.time(
            &path,
            "the deadline",
            deadline,
            DEADLINE_MS_MIN,
            WAIT_MS_MAX,
        );
    }
}

fn check_packages(wish: &Wish, findings: &mut Findings) {
    if let Some(source) = wish.package {
        check_source(&FieldPath::of("package"), source, findings);
    }
    let list = FieldPath::of("packages");
    let packages = wish.packages();
    findings.at_most(&list, "packages", packages.len(), ENTRIES_MAX);
    for (index, (_, source)) in packages.iter().enumerate() {
        if let Some(source) = source {
            check_source(&list.index(index).field("source"), source, findings);
        }
    }
}

fn check_source(path: &FieldPath, source: &PackageSource, findings: &mut Findings) {
    match source {
        PackageSource::Path(file) if file.as_os_str().is_empty() => {
            findings
                .error(path, "the package's path is empty")
                .hint("name a file or folder beside the spec");
        }
        PackageSource::Path(file) => {
            let text = file.to_string_lossy();
            findings.text(path, "the package's path", &text, PATH_BYTES_MAX);
        }
        PackageSource::Oci(reference) => {
            findings.text(path, "the reference", reference, PATH_BYTES_MAX);
            if reference.is_empty() || reference.contains(char::is_whitespace) {
                findings
                    .error(
                        path,
                        format!("{reference:?} is not a reference of an image"),
                    )
                    .hint("write registry.example/name@sha256:… or registry.example/name:tag");
            }
        }
        PackageSource::Id(_) => {}
    }
}

fn check_notes(wish: &Wish, findings: &mut Findings) {
    if wish.priority > PRIORITY_MAX {
        let message = format!("priorities go from 0 to {PRIORITY_MAX}");
        findings.error(&FieldPath::of("priority"), message);
    }
    findings.text(
        &FieldPath::of("owner"),
        "the owner",
        wish.owner,
        WORD_BYTES_MAX,
    );
    let notes = FieldPath::of("annotations");
    findings.at_most(
        &notes,
        "annotations",
        wish.annotations.len(),
        ANNOTATIONS_MAX,
    );
    for (name, text) in wish.annotations {
        let path = notes.key(name);
        if name.is_empty() {
            findings.error(&path, "an annotation needs a name");
        }
        findings.text(&path, "the annotation's name", name, WORD_BYTES_MAX);
        findings.text(&path, "the annotation", text, ANNOTATION_BYTES_MAX);
    }
}

/// Names in texts that stand for nothing.
fn check_names(wish: &Wish, findings: &mut Findings) {
    let ports: Vec<&str> = wish
        .task
        .ports
        .iter()
        .map(|port| port.name.as_str())
        .collect();
    for (path, text) in wish.texts() {
        for near in interpolation::near_names(text) {
            findings
                .warning(&path, format!("{near} is left as it is"))
                .why("ours is ${group.name} in small letters, digits and hyphens")
                .hint(format!(
                    "known are {}, port.NAME; a variable of a shell has no dot",
                    interpolation::NAMES.join(", ")
                ));
        }
        for name in interpolation::names(text) {
            if interpolation::is_known(name, &ports) {
                continue;
            }
            let message = format!("${{{name}}} stands for nothing");
            let meant = interpolation::meant(name, &ports);
            let hint = match name.strip_prefix("port.") {
                Some(port) => format!("declare the port: ports = {{{port:?}: 0}}"),
                None => format!("known are {}, port.NAME", interpolation::NAMES.join(", ")),
            };
            findings
                .error(&path, message)
                .why("it would be left empty when the task starts")
                .hint(format!(
                    "{hint}; to write it as it is, put another $ in front"
                ))
                .meant(meant);
        }
    }
}
