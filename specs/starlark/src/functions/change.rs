//! How a job changes and is disturbed.

use super::param;
use crate::define::{
    Default::{Absent, Is, Required},
    Function, Group, Kind, Param,
};

/// Places that a stage may end at.
const STAGE_PLACES: Kind = Kind::Word(&["rack", "cluster", "datacenter", "region", "all"]);

const STAGE_SIZE: Kind = Kind::Either(&[Kind::Count, Kind::Percent, STAGE_PLACES]);

pub(super) static CHANGE: Group = Group {
    title: "How it changes",
    params: &[
        param(
            "depends_on",
            Kind::List(&Kind::Either(&[Kind::Text, Kind::Made(&[&DEPENDS])])),
            Is("[]"),
            "Jobs that must be healthy before its tasks start: \"db\" of its own namespace, \"shop/db\" of another, or depends(...).",
        ),
        param(
            "budget",
            Kind::Either(&[Kind::Count, Kind::Percent]),
            Absent("none: see `update`"),
            "Most tasks that may be down at once for reasons of our own (updates, drains, moves): 1 or \"25%\".",
        ),
        param(
            "update",
            Kind::Made(&[&UPDATE]),
            Is("update()"),
            "How a new version comes.",
        ),
        param(
            "maintenance",
            Kind::Either(&[Kind::Word(&["migrate"]), Kind::Made(&[&RIDE_OUT, &ASK])]),
            Is("\"migrate\""),
            "What happens when its node is to be worked on: it moves away before, or ride_out(...), or ask(...).",
        ),
        param(
            "exclusive",
            Kind::Either(&[Kind::Flag, Kind::Made(&[&EXCLUSIVE])]),
            Is("False"),
            "A slot is never filled twice at once, at the price of waiting.",
        ),
    ],
};

pub(super) static DEPENDS: Function = Function {
    name: "depends",
    doc: "Another job that must be there first.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "job",
                Kind::Text,
                Required,
                "\"db\" of the job's own namespace, or \"shop/db\".",
            ),
            param(
                "state",
                Kind::Word(&["started", "healthy"]),
                Is("\"healthy\""),
                "What its tasks must be.",
            ),
            param("at_least", Kind::Count, Absent("all"), "How many of them."),
        ],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[("condition", "state"), ("name", "job")],
    example: "depends(\"db\", at_least = 2)",
};

pub(super) static UPDATE: Function = Function {
    name: "update",
    doc: "How a new version comes: in stages, each waiting for the one before.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "stages",
                Kind::List(&Kind::Either(&[
                    Kind::Count,
                    Kind::Percent,
                    STAGE_PLACES,
                    Kind::Made(&[&STAGE]),
                ])),
                Is("[]"),
                "How far the new version has come at the end of each: 1, 100, \"10%\", \"rack\", \"cluster\", \"datacenter\", \"region\", \"all\", or stage(...). A place means place after place, in order of their names: the tasks in one of them, then those in the next. Without any: one stage, all.",
            ),
            BAKE,
            param(
                "health_deadline",
                Kind::Duration,
                Is("\"5m\""),
                "A task of the new version must be healthy this long after its award, or the stage has failed.",
            ),
            param(
                "rollback",
                Kind::Flag,
                Is("False"),
                "A stage that failed brings the version of before back.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[
        ("auto_revert", "rollback"),
        ("min_healthy_time", "bake"),
        ("healthy_deadline", "health_deadline"),
        ("progress_deadline", "health_deadline"),
    ],
    example: "update(stages = [1, \"25%\", \"all\"], bake = \"2m\", rollback = True)",
};

const BAKE: Param = param(
    "bake",
    Kind::Duration,
    Is("\"0s\""),
    "All must stay healthy this long before the next stage; a stage(...) may say otherwise.",
);

pub(super) static STAGE: Function = Function {
    name: "stage",
    doc: "A step of an update.",
    groups: &[&Group {
        title: "",
        params: &[
            param("size", STAGE_SIZE, Required, "As in update(stages = ...)."),
            param(
                "bake",
                Kind::Duration,
                Absent("that of the update"),
                "All must stay healthy this long before the next stage.",
            ),
        ],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "stage(\"rack\", bake = \"10m\")",
};

const UP_TO: Param = param("up_to", Kind::Duration, Required, "The longest time.");

pub(super) static RIDE_OUT: Function = Function {
    name: "ride_out",
    doc: "Maintenance: the task is stopped and starts again on the same node, if the work takes no longer; else it moves.",
    groups: &[&Group {
        title: "",
        params: &[UP_TO],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "ride_out(\"30m\")",
};

pub(super) static ASK: Function = Function {
    name: "ask",
    doc: "Maintenance: the task is asked first, by `GET` on its port; 200 lets it move, 503 puts it off.",
    groups: &[&Group {
        title: "",
        params: &[
            param("port", Kind::Text, Required, "The port, by its name."),
            param("path", Kind::Text, Required, "Begins with '/'."),
            param(
                "up_to",
                Kind::Duration,
                Required,
                "How long it may put it off.",
            ),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[("url", "path")],
    example: "ask(\"http\", \"/may-i-move\", up_to = \"2h\")",
};

pub(super) static EXCLUSIVE: Function = Function {
    name: "exclusive",
    doc: "A slot that is filled at most once at any time.",
    groups: &[&Group {
        title: "",
        params: &[param(
            "lease",
            Kind::Duration,
            Is("\"15s\""),
            "A node that hears nothing from the scheduler this long stops the task; another may start it soon after.",
        )],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "exclusive(lease = \"30s\")",
};
