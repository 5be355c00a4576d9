//! Parts of jobs as trees, compared, and written as people read them.

use super::{Effect, FieldChange};
use crate::{
    job::{Requirement, Stage, StageSize},
    path::{FieldPath, PathStep},
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A part of a job with all its fields.
pub(super) fn of(part: &impl Serialize) -> Value {
    serde_json::to_value(part).expect("our own types have names for all fields")
}

/// Maps whose keys people choose; any other object is a record or a choice.
const MAPS: &[&str] = &["annotations", "devices", "env", "labels"];

/// Lists of things that have names, and the field that names them.
const NAMED: &[(&str, &str)] = &[
    ("files", "path"),
    ("mounts", "at"),
    ("packages", "at"),
    ("ports", "name"),
    ("services", "name"),
];

/// Longest text of a value: a file's content would fill the screen.
const TEXT_CHARS_MAX: usize = 200;

pub(super) fn compare(path: &FieldPath, old: Value, new: Value, changes: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) if is_map(path) => {
            compare_maps(path, old, new, changes);
        }
        (Value::Object(old), Value::Object(new)) if old.keys().eq(new.keys()) => {
            for (name, old) in old {
                let new = new.get(&name).cloned().unwrap_or_default();
                compare(&path.field(&name), old, new, changes);
            }
        }
        (Value::Array(old), Value::Array(new)) => compare_lists(path, old, new, changes),
        (old, new) => changes.push(change(path, &old, &new)),
    }
}

fn compare_maps(
    path: &FieldPath,
    mut old: Map<String, Value>,
    mut new: Map<String, Value>,
    changes: &mut Vec<FieldChange>,
) {
    let keys: BTreeSet<String> = old.keys().chain(new.keys()).cloned().collect();
    for key in keys {
        let path = path.key(&key);
        let take = |map: &mut Map<String, Value>| map.remove(&key).unwrap_or_default();
        compare(&path, take(&mut old), take(&mut new), changes);
    }
}

fn compare_lists(
    path: &FieldPath,
    old: Vec<Value>,
    new: Vec<Value>,
    changes: &mut Vec<FieldChange>,
) {
    if let (Some(old), Some(new)) = (by_name(path, &old), by_name(path, &new)) {
        let before = changes.len();
        compare_maps(path, old, new, changes);
        // The same things in another order: nobody can see that.
        if changes.len() > before {
            return;
        }
    }
    let records = |list: &[Value]| list.iter().all(Value::is_object);
    if old.len() == new.len() && records(&old) && records(&new) {
        for (index, (old, new)) in old.into_iter().zip(new).enumerate() {
            compare(&path.index(index), old, new, changes);
        }
        return;
    }
    changes.push(change(path, &Value::Array(old), &Value::Array(new)));
}

/// The entries by their names, if the list's have names that differ.
fn by_name(path: &FieldPath, list: &[Value]) -> Option<Map<String, Value>> {
    let last = last_field(path)?;
    let (_, name) = NAMED.iter().find(|(field, _)| *field == last)?;
    let entries = list.iter().map(|entry| {
        let key = entry.get(name)?.as_str()?;
        Some((key.to_owned(), entry.clone()))
    });
    let map: Map<String, Value> = entries.collect::<Option<_>>()?;
    (map.len() == list.len()).then_some(map)
}

fn is_map(path: &FieldPath) -> bool {
    last_field(path).is_some_and(|name| MAPS.contains(&name))
}

/// The field that a path ends in, if it does not end in an entry.
fn last_field(path: &FieldPath) -> Option<&str> {
    match path.0.last()? {
        PathStep::Field(name) => Some(name),
        PathStep::Index(_) | PathStep::Key(_) => None,
    }
}

fn change(path: &FieldPath, old: &Value, new: &Value) -> FieldChange {
    let unit = last_field(path).unwrap_or_default();
    let shown = |value: &Value| (!value.is_null()).then(|| shorten(text(unit, value)));
    FieldChange {
        path: path.clone(),
        old: shown(old),
        new: shown(new),
        // Told by the path, when all are known.
        effect: Effect::None,
    }
}

fn shorten(text: String) -> String {
    if text.chars().count() <= TEXT_CHARS_MAX {
        return text;
    }
    let kept: String = text.chars().take(TEXT_CHARS_MAX - 1).collect();
    kept + "…"
}

/// A value as people write it; the field's name tells its unit.
fn text(field: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => format!("{text:?}"),
        Value::Number(number) => with_unit(field, number.as_u64(), number.to_string()),
        Value::Bool(is) => is.to_string(),
        Value::Array(list) => {
            let entries: Vec<String> = list.iter().map(|entry| text("", entry)).collect();
            format!("[{}]", entries.join(", "))
        }
        Value::Object(fields) => object(fields),
    }
}

fn object(fields: &Map<String, Value>) -> String {
    if let Some(text) = as_written(fields) {
        return text;
    }
    let parts = fields.iter().filter(|(_, value)| !is_empty(value));
    let parts: Vec<String> = parts
        .map(|(name, value)| match value {
            Value::Object(inner) => format!("{name}({})", object(inner)),
            value => format!("{name} = {}", text(name, value)),
        })
        .collect();
    parts.join(", ")
}

/// Things for which the language has words of its own.
fn as_written(fields: &Map<String, Value>) -> Option<String> {
    let is = |names: &[&str]| {
        fields.len() == names.len() && names.iter().all(|name| fields.contains_key(*name))
    };
    let whole = || Value::Object(fields.clone());
    if is(&["attribute", "operator", "values"]) {
        let requirement: Requirement = serde_json::from_value(whole()).ok()?;
        return Some(requirement.to_string());
    }
    if is(&["size", "bake_ms"]) {
        let stage: Stage = serde_json::from_value(whole()).ok()?;
        let size = match stage.size {
            StageSize::Count(count) => count.to_string(),
            StageSize::Percent(percent) => format!("\"{percent}%\""),
            named => text("", &serde_json::to_value(named).ok()?),
        };
        return Some(match stage.bake_ms {
            0 => size,
            ms => format!("stage({size}, bake = \"{}\")", duration(ms)),
        });
    }
    None
}

/// Says nothing that its absence would not say.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn with_unit(field: &str, number: Option<u64>, plain: String) -> String {
    let Some(number) = number else { return plain };
    let ends = |unit: &str| field.ends_with(unit) || field.contains(&format!("{unit}_m"));
    if ends("_ms") {
        duration(number)
    } else if field == "bytes" || ends("_bytes") || ends("_bytes_per_s") {
        size(number)
    } else if ends("cpu_millis") || field == "cpu_burst_millis" {
        cores(number)
    } else if field == "mode" {
        format!("{number:o}")
    } else if field == "percent" {
        format!("{number}%")
    } else {
        plain
    }
}

/// `1m30s`, `250ms`: exact.
pub(crate) fn duration(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut text = String::new();
    let mut left = ms;
    for (unit, length) in units {
        if left >= length {
            text += &format!("{}{unit}", left / length);
            left %= length;
        }
    }
    text
}

/// `64MiB`: exact, so in bytes where no unit divides it.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let divides = |shift: u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.iter().find(|(_, shift)| divides(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// `0.25` of 250 thousandths.
pub(crate) fn cores(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').into()
}
