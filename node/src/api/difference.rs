//! How two versions of a job differ, as people are shown it.

use super::plan::{FieldChange, PlanAction, VALUE_BYTES_MAX};
use potluck_specs::Job;
use serde_json::Value;
use std::collections::BTreeMap;

/// Is it the same job, the version aside?
pub fn is_same(old: &Job, new: &Job) -> bool {
    let mut same = old.clone();
    same.version = new.version;
    same == *new
}

/// Fields that differ, the version aside, in the order of their names.
pub fn differences(old: &Job, new: &Job) -> Vec<FieldChange> {
    let (old, new) = (leaves(old), leaves(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| *name != "version" && old.get(*name) != new.get(*name))
        .map(|name| FieldChange {
            field: name.clone(),
            old: old.get(name).map(|value| bounded(value)),
            new: new.get(name).map(|value| bounded(value)),
            effect: PlanAction::RollingRestart,
        })
        .collect()
}

fn leaves(job: &Job) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(job) {
        collect(String::new(), &value, &mut found);
    }
    found
}

fn collect(path: String, value: &Value, found: &mut BTreeMap<String, String>) {
    let below = |key: &str| match path.is_empty() {
        true => key.to_owned(),
        false => format!("{path}.{key}"),
    };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| collect(below(key), value, found)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(k, value)| collect(format!("{path}[{k}]"), value, found)),
        Value::String(text) => {
            found.insert(path, text.clone());
        }
        other => {
            found.insert(path, other.to_string());
        }
    }
}

fn bounded(value: &str) -> String {
    if value.len() <= VALUE_BYTES_MAX {
        return value.to_owned();
    }
    format!("{}…", &value[..value.floor_char_boundary(VALUE_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::job::{JobKind, PortSpec, TaskTemplate};

    fn job() -> Job {
        Job {
            version: 3,
            task: TaskTemplate::new("bin/web"),
            ..Job::default()
        }
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let old = job();
        let mut new = job();
        new.version = 9;
        assert!(is_same(&old, &new));
        assert_eq!(differences(&old, &new), []);
        new.task.env.insert("MODE".into(), "fast".into());
        new.task.args = vec!["-v".into()];
        new.kind = JobKind::service(4);
        assert!(!is_same(&old, &new));
        let changes = differences(&old, &new);
        let shown: Vec<_> = changes
            .iter()
            .map(|change| {
                (
                    change.field.as_str(),
                    change.old.as_deref(),
                    change.new.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("kind.service.replicas", Some("1"), Some("4")),
                ("task.args[0]", None, Some("-v")),
                ("task.env.MODE", None, Some("fast")),
            ]
        );
        let back = differences(&new, &old);
        assert_eq!((&back[2].old, &back[2].new), (&changes[2].new, &None));
    }

    #[test]
    fn long_values_are_cut_and_still_differ() {
        let (mut old, mut new) = (job(), job());
        old.task.command = "é".repeat(VALUE_BYTES_MAX);
        new.task.command = format!("{}!", old.task.command);
        let changes = differences(&old, &new);
        assert_eq!(changes.len(), 1);
        let shown = changes[0].new.as_ref().unwrap();
        assert!(shown.len() < VALUE_BYTES_MAX + 4 && shown.ends_with('…'));
    }

    #[test]
    fn no_difference_and_the_same_are_one() {
        let mut fixed = job();
        let port = PortSpec {
            name: "http".into(),
            number: None,
        };
        fixed.task.ports = vec![port];
        let mut chosen = fixed.clone();
        chosen.task.ports[0].number = Some(80);
        for (a, b) in [(job(), fixed.clone()), (fixed, chosen)] {
            assert!(!is_same(&a, &b));
            assert!(!differences(&a, &b).is_empty());
        }
    }
}
