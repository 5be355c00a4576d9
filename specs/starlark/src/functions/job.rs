//! `job`: what runs, how many of it, and for whom; and where packages come
//! from.

use super::{
    change::CHANGE,
    param,
    placement::PLACEMENT,
    task::{CHECKS, FILES, LIFE, PROGRAM, RESOURCES, SERVICES, TASK},
};
use crate::define::{
    Default::{Absent, Is, Required},
    Function, Group, Kind,
};

pub(crate) static JOB: Function = Function {
    name: "job",
    doc: "Declares a job: a named wish of what to run. A file may declare several, also from loops and functions. Each gives what it knows and leaves the rest to defaults; name, package and command are enough.",
    groups: &[
        &WHAT, &PROGRAM, &HOW_MANY, &RESOURCES, &SERVICES, &CHECKS, &LIFE, &FILES, &PLACEMENT,
        &CHANGE, &WHOSE,
    ],
    positional: 0,
    gathers: false,
    elsewhere: &[
        ("affinity", "prefer"),
        ("affinities", "prefer"),
        ("anti_affinity", "apart_from"),
        ("artifact", "package"),
        ("cmd", "command"),
        ("constraint", "require"),
        ("constraints", "require"),
        ("count", "replicas"),
        ("daemon", "per_node"),
        ("dependencies", "depends_on"),
        ("entrypoint", "command"),
        ("environment", "env"),
        ("healthcheck", "health"),
        ("image", "package"),
        ("instances", "replicas"),
        ("labels", "annotations"),
        ("liveness", "health"),
        ("max_unavailable", "budget"),
        ("mem", "memory"),
        ("network", "ports"),
        ("node_selector", "require"),
        ("preferences", "prefer"),
        ("readiness", "health"),
        ("requirements", "require"),
        ("strategy", "update"),
        ("templates", "files"),
        ("volumes", "mounts"),
    ],
    example: "job(name = \"web\", package = \"build/web\", command = \"bin/web\")",
};

/// What the first users of a scheduler name first.
static WHAT: Group = Group {
    title: "What it is",
    params: &[
        param(
            "name",
            Kind::Text,
            Required,
            "The job's name, unique in its namespace: a-z, 0-9 and '-'.",
        ),
        param(
            "namespace",
            Kind::Text,
            Is("\"default\""),
            "Whose jobs it stands among. Rights are given by namespace.",
        ),
        param(
            "package",
            Kind::Either(&[Kind::Text, Kind::Made(&[&BUILT, &OCI])]),
            Required,
            "The program's files: a file or folder, relative to the spec; or built(...) or oci(...).",
        ),
        param(
            "packages",
            Kind::Map(&Kind::Either(&[Kind::Text, Kind::Made(&[&BUILT, &OCI])])),
            Is("{}"),
            "Further packages, read-only: absolute path in the task, and where the package comes from. At /package it is laid over the program's own.",
        ),
    ],
};

static HOW_MANY: Group = Group {
    title: "How many",
    params: &[
        param(
            "replicas",
            Kind::Count,
            Is("1"),
            "How many tasks of a service.",
        ),
        param(
            "per_node",
            Kind::Flag,
            Is("False"),
            "One task on each node that meets `require`, also on nodes that come later. Stands instead of `replicas`.",
        ),
        param(
            "batch",
            Kind::Made(&[&BATCH]),
            Absent("a service, which runs until it is stopped"),
            "Work that ends. Stands instead of `replicas`.",
        ),
    ],
};

static WHOSE: Group = Group {
    title: "Whose it is",
    params: &[
        param(
            "priority",
            Kind::Count,
            Is("50"),
            "0 to 100. When there is not room for all, higher goes first.",
        ),
        param("owner", Kind::Text, Is("\"\""), "Whom to ask about it."),
        param(
            "annotations",
            Kind::Map(&Kind::Text),
            Is("{}"),
            "Notes that potluck keeps and does not read.",
        ),
        param(
            "task",
            Kind::Made(&[&TASK]),
            Absent("nothing"),
            "Arguments that several jobs share, gathered by task(...). What is written in the job itself counts more.",
        ),
    ],
};

pub(super) static BUILT: Function = Function {
    name: "built",
    doc: "A package that the cluster has already.",
    groups: &[&Group {
        title: "",
        params: &[param(
            "id",
            Kind::Text,
            Required,
            "The package's id, 64 hexadecimal digits, as `potluck packages` shows it.",
        )],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "built(\"6f1e…\")",
};

pub(super) static OCI: Function = Function {
    name: "oci",
    doc: "An image of a registry.",
    groups: &[&Group {
        title: "",
        params: &[param(
            "reference",
            Kind::Text,
            Required,
            "As in `docker pull`, best with its digest.",
        )],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[("image", "reference"), ("name", "reference")],
    example: "oci(\"registry.example.org/shop/web:1.2\")",
};

pub(super) static BATCH: Function = Function {
    name: "batch",
    doc: "Work that ends.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "completions",
                Kind::Count,
                Is("1"),
                "How many tasks must succeed: exit with code 0.",
            ),
            param(
                "parallelism",
                Kind::Count,
                Is("1"),
                "How many run at once, at most.",
            ),
            param(
                "retries",
                Kind::Count,
                Is("0"),
                "How often a task that failed is tried again, after the pauses of `restart`.",
            ),
            param(
                "deadline",
                Kind::Duration,
                Absent("none"),
                "The whole job fails if it is not done this long after it was accepted.",
            ),
            param(
                "array",
                Kind::Flag,
                Is("False"),
                "Each completion is a piece of its own, told as `${slot.index}`; the others go on when one has failed for good. Otherwise the job fails with the first.",
            ),
            param(
                "gang",
                Kind::Flag,
                Is("False"),
                "All tasks start together or none does.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[("backoff_limit", "retries"), ("timeout", "deadline")],
    example: "batch(completions = 100, parallelism = 10, array = True)",
};
