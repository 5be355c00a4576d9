//! Where tasks go, and how they change.

use super::*;

pub(super) const BROKEN: &[Row] = &[
    (
        |d| require(d, "kernl >= 6.1"),
        "placement.requirements[0].attribute",
        "no attribute \"kernl\"",
        "kernel",
    ),
    (
        |d| require(d, "label. = x"),
        "placement.requirements[0].attribute",
        "no attribute",
        "label.NAME",
    ),
    (
        |d| require(d, "os >= linux"),
        "placement.requirements[0].values[0]",
        "neither a version",
        "in",
    ),
    (
        |d| {
            require(d, "os = linux");
            d.placement.requirements[0].values.clear();
        },
        "placement.requirements[0].values",
        "= takes one value",
        "",
    ),
    (
        |d| {
            require(d, "rack in [a]");
            d.placement.requirements[0].values.clear();
        },
        "placement.requirements[0].values",
        "at least one",
        "",
    ),
    (
        |d| {
            require(d, "rack = a");
            d.placement.requirements[0].operator = Operator::Exists;
        },
        "placement.requirements[0].values",
        "takes no value",
        "",
    ),
    (
        |d| {
            require(d, "arch = x86_64");
            require(d, "arch = arm64");
        },
        "placement.requirements[1]",
        "no node has both",
        "use in",
    ),
    (
        |d| d.placement.preferences = vec![preference(101)],
        "placement.preferences[0].weight",
        "from -100 to 100",
        "",
    ),
    (
        |d| d.placement.spread = vec![Level::Rack; 2],
        "placement.spread[1]",
        "rack stands twice",
        "",
    ),
    (
        |d| at_most(d, Level::Rack, 0),
        "placement.at_most[0].count",
        "no rack could",
        "at least 1",
    ),
    (
        |d| {
            at_most(d, Level::Rack, 1);
            at_most(d, Level::Rack, 2);
        },
        "placement.at_most[1].level",
        "twice",
        "",
    ),
    (
        |d| at_most(d, Level::Datacenter, 2),
        "placement.at_most[0].count",
        "2 of 3 tasks",
        "one cluster",
    ),
    (
        |d| d.placement.apart_from = vec![neighbour("web", Level::Node)],
        "placement.apart_from[0].job",
        "itself",
        "at most 1",
    ),
    (
        |d| d.placement.apart_from = vec![neighbour("db", Level::Node); 2],
        "placement.apart_from[1].job",
        "twice",
        "",
    ),
    (
        |d| d.placement.together_with = vec![neighbour("D", Level::Node)],
        "placement.together_with[0].job",
        "only a-z",
        "",
    ),
    (
        |d| {
            d.placement.apart_from = vec![neighbour("db", Level::Rack)];
            d.placement.together_with = vec![neighbour("db", Level::Node)];
        },
        "placement.together_with[0]",
        "on one node with db and apart from its rack",
        "",
    ),
    (
        |d| depend(d, "web", None),
        "change.depends_on[0].job",
        "cycle: web -> web",
        "itself",
    ),
    (
        |d| depend(d, "db", Some(0)),
        "change.depends_on[0].at_least",
        "always true",
        "",
    ),
    (
        |d| {
            depend(d, "db", None);
            depend(d, "db", Some(1));
        },
        "change.depends_on[1].job",
        "twice",
        "",
    ),
    (
        |d| d.change.budget = Some(Amount::Count(0)),
        "change.budget",
        "budget of 0",
        "at least 1",
    ),
    (
        |d| d.change.budget = Some(Amount::Percent(33)),
        "change.budget",
        "33% of 3 tasks is less than one",
        "at least 1",
    ),
    (
        |d| d.change.budget = Some(Amount::Percent(101)),
        "change.budget",
        "from 1 to 100",
        "",
    ),
    (
        |d| stages(d, &[StageSize::Count(0)]),
        "change.update.stages[0].size",
        "at least 1 task",
        "",
    ),
    (
        |d| stages(d, &[StageSize::Percent(0)]),
        "change.update.stages[0].size",
        "from 1 to 100",
        "",
    ),
    (
        |d| {
            stages(d, &[StageSize::All]);
            d.change.update.stages[0].bake_ms = u64::MAX;
        },
        "change.update.stages[0].bake_ms",
        "longer than 30d",
        "",
    ),
    (
        |d| {
            d.task.health[0].start_period_ms = 0;
            d.change.update.health_deadline_ms = 1;
        },
        "change.update.health_deadline_ms",
        "shorter than 1s",
        "",
    ),
    (
        |d| {
            d.change.maintenance = Maintenance::Ask {
                port: "x".into(),
                path: "/".into(),
                up_to_ms: 60_000,
            }
        },
        "change.maintenance.ask.port",
        "no port",
        "",
    ),
    (
        |d| {
            d.task.stop.grace_ms = 0;
            d.change.exclusive = Some(Exclusive { lease_ms: 1 });
        },
        "change.exclusive.lease_ms",
        "shorter than 2s",
        "",
    ),
    (
        |d| {
            d.kind = JobKind::PerNode;
            d.change.exclusive = Some(Exclusive::default());
        },
        "change.exclusive",
        "needs no lease",
        "",
    ),
];
