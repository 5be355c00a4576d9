//! Where a job's tasks may go.

use super::param;
use crate::define::{
    Default::{Is, Required},
    Function, Group, Kind,
};

/// Levels of the topology, widest first.
const LEVEL: Kind = Kind::Word(&["region", "datacenter", "cluster", "rack", "node"]);

pub(super) static PLACEMENT: Group = Group {
    title: "Where it goes",
    params: &[
        param(
            "require",
            Kind::List(&Kind::Text),
            Is("[]"),
            "Conditions that a node must all meet: \"kernel >= 6.1\", \"arch = arm64\", \"rack in [a, b]\", \"label.ssd exists\". Compared with =, !=, <, <=, >, >=, in or exists. Names are os, kernel, arch, node, region, datacenter, cluster, rack, label.NAME and attribute.NAME.",
        ),
        param(
            "prefer",
            Kind::List(&Kind::Either(&[Kind::Text, Kind::Made(&[&PREFER])])),
            Is("[]"),
            "Conditions that make a node better, or with prefer(...) worse.",
        ),
        param(
            "spread",
            Kind::Either(&[LEVEL, Kind::List(&LEVEL)]),
            Is("[]"),
            "Tasks are spread evenly over these levels, the first counts most. Without any, over racks.",
        ),
        param(
            "at_most",
            Kind::Map(&Kind::Count),
            Is("{}"),
            "Most tasks of this job in one place: {\"rack\": 2, \"node\": 1}.",
        ),
        param(
            "apart_from",
            Kind::Either(&[Kind::Map(&LEVEL), Kind::List(&Kind::Text)]),
            Is("{}"),
            "Never in one place with tasks of these jobs: {\"batch\": \"rack\"}; a list means on one node.",
        ),
        param(
            "together_with",
            Kind::Either(&[Kind::Map(&LEVEL), Kind::List(&Kind::Text)]),
            Is("{}"),
            "Only in one place with a task of these jobs.",
        ),
        param(
            "bandwidth_heavy",
            Kind::Flag,
            Is("False"),
            "Its traffic would fill a rack's uplink: such tasks are kept in different racks.",
        ),
    ],
};

pub(super) static PREFER: Function = Function {
    name: "prefer",
    doc: "A wish about nodes, with its weight.",
    groups: &[&Group {
        title: "",
        params: &[
            param("condition", Kind::Text, Required, "As in `require`."),
            param(
                "weight",
                Kind::Integer,
                Is("50"),
                "From -100 (rather not) to 100.",
            ),
        ],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "prefer(\"label.ssd exists\", weight = 80)",
};
