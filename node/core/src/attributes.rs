//! What nodes say of themselves, and whether that meets a requirement.
//!
//! Answers for comparing attributes: versions part by part, as numbers where
//! they are. Leaves to the node what its attributes are, and to the scheduler
//! the place of a node, which the log knows.

use potluck_specs::{
    Job,
    job::{Operator, Requirement},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, collections::BTreeMap};

/// Most attributes of a node that are read: a task can't ask for more.
pub const ATTRIBUTES_MAX: usize = 128;

/// What a node says of itself; changes rarely.
///
/// `os`, `kernel`, `arch`, `isolation` (the strongest that it offers),
/// `limits.NAME` and `users` (what it can hold a task to, and run it as),
/// `label.NAME` as its owner set them, `attribute.NAME` as it found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Facts {
    /// Values by name.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// Counted devices by kind, all that the node has.
    #[serde(default)]
    pub devices: BTreeMap<String, u32>,
}

impl Facts {
    /// From pairs of name and value.
    pub fn of(pairs: &[(&str, &str)]) -> Facts {
        let attributes = pairs.iter();
        Facts {
            attributes: attributes
                .take(ATTRIBUTES_MAX)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            devices: BTreeMap::new(),
        }
    }

    /// The value of an attribute.
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute).map(String::as_str)
    }
}

/// A host can hold a task to a quota of CPU.
pub const LIMITS_CPU: &str = "limits.cpu";

/// A host can hold a task to an amount of memory.
pub const LIMITS_MEMORY: &str = "limits.memory";

/// A host can hold processes and threads to a number.
pub const LIMITS_PIDS: &str = "limits.pids";

/// A host can let a quota of CPU be used later.
pub const LIMITS_CPU_BURST: &str = "limits.cpu-burst";

/// A host can hold a task to rates of the disk that holds its data.
pub const LIMITS_IO: &str = "limits.io";

/// A host can share its disks by weight.
pub const LIMITS_IO_WEIGHT: &str = "limits.io-weight";

/// A host can run tasks as any user; else the name of the only one.
pub const USERS: &str = "users";

/// A host can do what the attribute says.
pub const YES: &str = "yes";

/// It can't.
pub const NO: &str = "no";

/// What the job asks for by name and the host lacks: it is there or refused,
/// never left out. A host that says nothing of what was there before these
/// attributes is taken at its word when it gets the task.
pub fn ability_lacks(job: &Job, facts: &Facts) -> Option<&'static str> {
    let task = &job.task;
    let limits = &task.limits;
    let of_old = [
        (limits.cpu_millis.is_some(), LIMITS_CPU),
        (limits.memory_bytes.is_some(), LIMITS_MEMORY),
    ];
    let other_user = |user: &String| {
        let only = facts.get(USERS).filter(|only| *only != YES);
        only.is_some_and(|only| only != user)
    };
    let user = (task.user.as_ref().is_some_and(other_user), USERS);
    let of_late = [
        (limits.pids.is_some(), LIMITS_PIDS),
        (limits.cpu_burst_millis.is_some(), LIMITS_CPU_BURST),
        (limits.bounds_io(), LIMITS_IO),
        (limits.io_weight.is_some(), LIMITS_IO_WEIGHT),
    ];
    let of_old = of_old.map(|(asked, name)| (asked && facts.get(name) == Some(NO), name));
    let of_late = of_late.map(|(asked, name)| (asked && facts.get(name) != Some(YES), name));
    let mut all = of_old.into_iter().chain([user]).chain(of_late);
    all.find(|(lacks, _)| *lacks).map(|(_, name)| name)
}

/// Does an attribute of this value, or none, meet the requirement?
pub fn meets(requirement: &Requirement, has: Option<&str>) -> bool {
    let Some(has) = has else {
        return requirement.operator == Operator::NotEqual;
    };
    let first = requirement.values.first().map(String::as_str);
    let compared = first.map(|value| compare(has, value));
    match requirement.operator {
        Operator::Exists => true,
        Operator::In => requirement.values.iter().any(|value| value == has),
        Operator::Equal => first == Some(has),
        Operator::NotEqual => first != Some(has),
        Operator::Less => compared == Some(Ordering::Less),
        Operator::LessOrEqual => compared.is_some_and(Ordering::is_le),
        Operator::Greater => compared == Some(Ordering::Greater),
        Operator::GreaterOrEqual => compared.is_some_and(Ordering::is_ge),
    }
}

/// A requirement as people write it: `kernel >= "6.1"`.
pub fn text(requirement: &Requirement) -> String {
    let sign = match requirement.operator {
        Operator::Equal => "=",
        Operator::NotEqual => "!=",
        Operator::Less => "<",
        Operator::LessOrEqual => "<=",
        Operator::Greater => ">",
        Operator::GreaterOrEqual => ">=",
        Operator::In => "in",
        Operator::Exists => return format!("{} exists", requirement.attribute),
    };
    let values: Vec<String> = requirement
        .values
        .iter()
        .map(|v| format!("{v:?}"))
        .collect();
    format!("{} {sign} {}", requirement.attribute, values.join(", "))
}

/// Compares as versions: `6.18.4-cloud` is after `6.2`.
fn compare(a: &str, b: &str) -> Ordering {
    let mut left = parts(a);
    let mut right = parts(b);
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(operator: Operator, values: &[&str]) -> Requirement {
        Requirement {
            attribute: "x".into(),
            operator,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_asked_for_by_name_is_there_or_named() {
        type Edit = fn(&mut potluck_specs::job::TaskTemplate);
        let says = |pairs: &[(&str, &str)]| Facts::of(pairs);
        let table: &[(Edit, Facts, Option<&str>)] = &[
            (|_| (), says(&[(LIMITS_CPU, NO), (USERS, "ann")]), None),
            // Hosts of before say nothing, and know these.
            (|t| t.limits.cpu_millis = Some(500), says(&[]), None),
            (|t| t.user = Some("bob".into()), says(&[]), None),
            (
                |t| t.limits.cpu_millis = Some(500),
                says(&[(LIMITS_CPU, NO)]),
                Some(LIMITS_CPU),
            ),
            (
                |t| t.limits.memory_bytes = Some(1 << 30),
                says(&[(LIMITS_CPU, YES), (LIMITS_MEMORY, NO)]),
                Some(LIMITS_MEMORY),
            ),
            (
                |t| t.user = Some("bob".into()),
                says(&[(USERS, "ann")]),
                Some(USERS),
            ),
            (
                |t| t.user = Some("ann".into()),
                says(&[(USERS, "ann")]),
                None,
            ),
            (|t| t.user = Some("bob".into()), says(&[(USERS, YES)]), None),
            // And not these.
            (|t| t.limits.pids = Some(9), says(&[]), Some(LIMITS_PIDS)),
            (
                |t| t.limits.pids = Some(9),
                says(&[(LIMITS_PIDS, YES)]),
                None,
            ),
            (
                |t| t.limits.cpu_burst_millis = Some(9),
                says(&[(LIMITS_CPU_BURST, NO)]),
                Some(LIMITS_CPU_BURST),
            ),
            (
                |t| t.limits.io_read_ops_per_s = Some(9),
                says(&[]),
                Some(LIMITS_IO),
            ),
            (
                |t| t.limits.io_weight = Some(9),
                says(&[(LIMITS_IO, YES)]),
                Some(LIMITS_IO_WEIGHT),
            ),
        ];
        for (edit, facts, lacks) in table {
            let mut job = Job::default();
            edit(&mut job.task);
            assert_eq!(ability_lacks(&job, facts), *lacks, "{:?}", job.task.limits);
        }
    }

    #[test]
    fn compares_by_the_table() {
        use Operator::*;
        let table: &[(Option<&str>, Operator, &[&str], bool)] = &[
            (Some("6.18.44-cloud"), GreaterOrEqual, &["6.1"], true),
            (Some("6.18.44-cloud"), GreaterOrEqual, &["6.18"], true),
            (Some("6.1"), GreaterOrEqual, &["6.18"], false),
            (Some("6.1"), Less, &["6.18"], true),
            (Some("6.1"), LessOrEqual, &["6.1"], true),
            (Some("6.1"), Less, &["6.1"], false),
            (Some("6.2"), Greater, &["6.10"], false),
            (Some("x86_64"), Equal, &["x86_64"], true),
            (Some("aarch64"), Equal, &["x86_64"], false),
            (Some("aarch64"), NotEqual, &["x86_64"], true),
            (Some("b"), In, &["a", "b"], true),
            (Some("c"), In, &["a", "b"], false),
            (Some(""), Exists, &[], true),
            (None, Exists, &[], false),
            (None, Equal, &["a"], false),
            (None, NotEqual, &["a"], true),
            (None, Less, &["1"], false),
            (Some("1"), Less, &[], false),
        ];
        for (has, operator, values, met) in table {
            let requirement = asks(*operator, values);
            assert_eq!(meets(&requirement, *has), *met, "{has:?} {requirement:?}");
        }
    }
}
