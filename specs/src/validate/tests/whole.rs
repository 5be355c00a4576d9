//! The job as a whole: name, kind, packages, notes, size.

use super::*;

pub(super) const BROKEN: &[Row] = &[
    (|d| d.name.name = "Web".into(), "name.name", "only a-z", ""),
    (
        |d| d.name.namespace = String::new(),
        "name.namespace",
        "is empty",
        "",
    ),
    (
        |d| d.kind = JobKind::service(0),
        "kind.service.replicas",
        "at least 1",
        "`potluck stop web`",
    ),
    (
        |d| d.kind = JobKind::service(10_001),
        "kind.service.replicas",
        "more than the 10000",
        "",
    ),
    (
        |d| batch(d, |b| b.completions = 0),
        "kind.batch.completions",
        "at least 1",
        "",
    ),
    (
        |d| batch(d, |b| b.completions = 10_001),
        "kind.batch.completions",
        "more than the 10000",
        "",
    ),
    (
        |d| batch(d, |b| b.parallelism = 0),
        "kind.batch.parallelism",
        "nothing would run",
        "",
    ),
    (
        |d| {
            batch(d, |b| {
                b.gang = true;
                b.completions = 257;
                b.parallelism = 257;
            })
        },
        "kind.batch.completions",
        "at most 256 tasks",
        "",
    ),
    (
        |d| batch(d, |b| b.gang = true),
        "kind.batch.parallelism",
        "starts together",
        "to 5",
    ),
    (
        |d| batch(d, |b| b.retries = 5_000),
        "kind.batch.retries",
        "at most 1000",
        "",
    ),
    (
        |d| batch(d, |b| b.deadline_ms = Some(9)),
        "kind.batch.deadline_ms",
        "shorter than 1s",
        "",
    ),
    (
        |d| d.packages = vec![package("/a"); 2],
        "packages[1].at",
        "already",
        "",
    ),
    (
        |d| d.packages = vec![package("/a/../b")],
        "packages[0].at",
        "'..'",
        "",
    ),
    (|d| d.priority = 101, "priority", "from 0 to 100", ""),
    (
        |d| d.owner = "x".repeat(257),
        "owner",
        "longer than 256",
        "",
    ),
    (
        |d| drop(d.annotations.insert("".into(), "".into())),
        "annotations[\"\"]",
        "needs a name",
        "",
    ),
    (
        |d| drop(d.annotations.insert("a".into(), "x".repeat(5_000))),
        "annotations[\"a\"]",
        "longer than 4096",
        "",
    ),
    (
        |d| d.annotations = (0..65).map(|k| (k.to_string(), String::new())).collect(),
        "annotations",
        "65 annotations are more than the 64",
        "",
    ),
    (
        |d| d.task.args = vec!["x".repeat(100_000); 3],
        "job",
        "262144 are allowed",
        "files of the package",
    ),
];
