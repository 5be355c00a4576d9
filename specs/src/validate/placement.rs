//! Where tasks may go: conditions that no node could meet, or that say nothing.

use super::{findings::Findings, limits::*};
use crate::{
    job::{
        Level, Neighbour, Operator, Placement, Requirement,
        requirement::{ATTRIBUTES, PREFIXES},
        version::is_version,
        wish::Wish,
    },
    path::FieldPath,
    suggestion::nearest,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(wish: &Wish, findings: &mut Findings) {
    let path = FieldPath::of("placement");
    let placement = wish.placement;
    let list = path.field("requirements");
    findings.at_most(
        &list,
        "requirements",
        placement.requirements.len(),
        CONDITIONS_MAX,
    );
    for (index, requirement) in placement.requirements.iter().enumerate() {
        check_requirement(&list.index(index), requirement, findings);
    }
    check_together(&list, &placement.requirements, findings);
    check_preferences(&path.field("preferences"), placement, findings);
    check_spread(&path.field("spread"), &placement.spread, findings);
    check_at_most(&path.field("at_most"), wish, findings);
    check_neighbours(&path, wish, findings);
}

fn check_requirement(path: &FieldPath, requirement: &Requirement, findings: &mut Findings) {
    check_attribute(&path.field("attribute"), &requirement.attribute, findings);
    let values = path.field("values");
    let sign = requirement.operator.sign();
    let count = requirement.values.len();
    findings.at_most(&values, "values", count, CONDITIONS_MAX);
    let wrong = match requirement.operator {
        Operator::Exists if count > 0 => Some("takes no value"),
        Operator::In if count == 0 => Some("takes at least one value"),
        Operator::Exists | Operator::In => None,
        _ if count != 1 => Some("takes one value"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        findings.error(&values, format!("{sign} {wrong}"));
    }
    let ordered = matches!(
        requirement.operator,
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual
    );
    for (index, value) in requirement.values.iter().enumerate() {
        let path = values.index(index);
        findings.text(&path, "the value", value, WORD_BYTES_MAX);
        if ordered && !is_version(value) {
            findings
                .error(
                    &path,
                    format!("{value:?} is neither a version nor a number"),
                )
                .why(format!("{sign} asks which of two versions is later"))
                .hint("compare words by =, != or in");
        }
    }
}

fn check_attribute(path: &FieldPath, attribute: &str, findings: &mut Findings) {
    if ATTRIBUTES.contains(&attribute) {
        return;
    }
    let own = PREFIXES
        .iter()
        .find_map(|prefix| attribute.strip_prefix(prefix));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    match own {
        Some(name) if !name.is_empty() && name.bytes().all(allowed) => {
            findings.text(path, "the attribute", attribute, WORD_BYTES_MAX);
        }
        _ => {
            findings
                .error(path, format!("nodes have no attribute {attribute:?}"))
                .hint(format!(
                    "known are {}, label.NAME and attribute.NAME",
                    ATTRIBUTES.join(", ")
                ))
                .meant(nearest(attribute, ATTRIBUTES.iter().copied()));
        }
    }
}

/// Two requirements that no value meets together.
fn check_together(list: &FieldPath, requirements: &[Requirement], findings: &mut Findings) {
    let mut equal: BTreeMap<&str, &Requirement> = BTreeMap::new();
    for (index, requirement) in requirements.iter().enumerate() {
        let [value] = &requirement.values[..] else {
            continue;
        };
        if requirement.operator != Operator::Equal {
            continue;
        }
        match equal.insert(&requirement.attribute, requirement) {
            Some(other) if !other.met_by(Some(value)) => {
                let message = format!("no node has both {other} and {requirement}");
                findings
                    .error(&list.index(index), message)
                    .hint("to allow either, use in");
            }
            _ => {}
        }
    }
}

fn check_preferences(path: &FieldPath, placement: &Placement, findings: &mut Findings) {
    findings.at_most(
        path,
        "preferences",
        placement.preferences.len(),
        CONDITIONS_MAX,
    );
    for (index, preference) in placement.preferences.iter().enumerate() {
        let entry = path.index(index);
        check_requirement(
            &entry.field("requirement"),
            &preference.requirement,
            findings,
        );
        let weight = entry.field("weight");
        if !(-WEIGHT_MAX..=WEIGHT_MAX).contains(&preference.weight) {
            findings.error(
                &weight,
                format!("weights go from -{WEIGHT_MAX} to {WEIGHT_MAX}"),
            );
        }
        if preference.weight == 0 {
            findings.warning(&weight, "a preference of weight 0 says nothing");
        }
    }
}

fn check_spread(path: &FieldPath, spread: &[Level], findings: &mut Findings) {
    let mut known = BTreeSet::new();
    for (index, level) in spread.iter().enumerate() {
        let path = path.index(index);
        if !known.insert(level) {
            findings.error(&path, format!("{} stands twice", level.name()));
        }
        if *level <= Level::Cluster {
            findings
                .warning(
                    &path,
                    format!("there is nothing to spread over a {}", level.name()),
                )
                .why("a job runs in one cluster");
        }
    }
}

fn check_at_most(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    let mut known = BTreeSet::new();
    for (index, bound) in wish.placement.at_most.iter().enumerate() {
        let entry = path.index(index);
        let count = entry.field("count");
        let name = bound.level.name();
        if !known.insert(bound.level) {
            findings.error(&entry.field("level"), format!("{name} stands twice"));
        }
        if bound.count == 0 {
            findings
                .error(&count, format!("no {name} could take a task"))
                .hint("allow at least 1");
        }
        let slots = wish.kind.slots().unwrap_or(0);
        if bound.level <= Level::Cluster && bound.count < slots {
            let message = format!("{} of {slots} tasks have a place", bound.count);
            findings
                .error(&count, message)
                .why(format!("a job runs in one cluster, so in one {name}"));
        }
    }
}

fn check_neighbours(path: &FieldPath, wish: &Wish, findings: &mut Findings) {
    let placement = wish.placement;
    let (apart, together) = (path.field("apart_from"), path.field("together_with"));
    for (list, neighbours) in [
        (&apart, &placement.apart_from),
        (&together, &placement.together_with),
    ] {
        findings.at_most(list, "jobs", neighbours.len(), CONDITIONS_MAX);
        let mut known = BTreeSet::new();
        for (index, other) in neighbours.iter().enumerate() {
            let path = list.index(index).field("job");
            findings.label(&path, "job", &other.job.name);
            // A job's own was judged with its name.
            if other.job.namespace != wish.name.namespace {
                findings.label(&path, "namespace", &other.job.namespace);
            }
            if !known.insert(&other.job) {
                findings.error(&path, format!("job {} stands twice", other.job));
            }
            if other.job == *wish.name {
                findings
                    .error(&path, "a job is no neighbour of itself")
                    .hint("to keep its own tasks apart, say at most 1 on a node or in a rack");
            }
        }
    }
    for (index, other) in placement.together_with.iter().enumerate() {
        let against = |one: &&Neighbour| one.job == other.job && one.level <= other.level;
        if let Some(against) = placement.apart_from.iter().find(against) {
            let message = format!(
                "no place is on one {} with {} and apart from its {}",
                other.level.name(),
                other.job,
                against.level.name()
            );
            findings.error(&together.index(index), message);
        }
    }
}
