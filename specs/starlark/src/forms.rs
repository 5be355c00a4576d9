//! The forms of values described for programs: an editor, a generator, a
//! linter. Made of the definitions by which calls are read.

use crate::{
    call::Data,
    define::Kind,
    units::{self, Units},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The form of a value, as JSON with its name in `is`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ValueType {
    /// Any text.
    String,
    /// Text of this form (a regular expression of ECMA-262).
    Pattern {
        /// Matches all of it.
        pattern: &'static str,
    },
    /// One of these words.
    Enum {
        /// All there are.
        values: Vec<&'static str>,
    },
    /// `True` or `False`.
    Bool,
    /// A whole number.
    Int {
        /// Least.
        minimum: i64,
        /// Greatest.
        maximum: i64,
    },
    /// A number, also with a fraction.
    Number {
        /// What it counts.
        unit: &'static str,
    },
    /// Text: a whole number and a suffix, such as `"10s"`.
    Quantity {
        /// What is measured.
        of: &'static str,
        /// What defaults, and the job as it is evaluated, count it in.
        unit: &'static str,
        /// Each suffix, and how many of `unit` it is.
        suffixes: BTreeMap<&'static str, u64>,
    },
    /// `[...]`
    List {
        /// The form of each element.
        items: Box<ValueType>,
    },
    /// `{...}` with texts as keys.
    Dict {
        /// The form of each value.
        values: Box<ValueType>,
    },
    /// What one of these functions gives back.
    Call {
        /// Their names.
        functions: Vec<&'static str>,
    },
    /// Any of several forms.
    OneOf {
        /// The first that fits counts.
        types: Vec<ValueType>,
    },
}

impl ValueType {
    pub(crate) fn of(kind: &Kind) -> ValueType {
        let int = |minimum, maximum| ValueType::Int { minimum, maximum };
        match kind {
            Kind::Text => ValueType::String,
            Kind::Word(words) => ValueType::Enum {
                values: words.to_vec(),
            },
            Kind::Flag => ValueType::Bool,
            Kind::Count => int(0, u32::MAX.into()),
            Kind::Integer => int(i64::MIN, i64::MAX),
            Kind::Port => int(0, u16::MAX.into()),
            Kind::Cpu => one_of([
                ValueType::Number { unit: "cores" },
                quantity("cpu", "millicores", &[("m", 1)]),
            ]),
            Kind::Bytes => one_of([
                int(0, i64::MAX),
                quantity("size", "bytes", units::MEMORY_UNITS),
            ]),
            Kind::Rate => quantity("rate", "bits_per_s", units::RATE_UNITS),
            Kind::Mode => one_of([
                int(0, u32::MAX.into()),
                ValueType::Pattern {
                    pattern: "^[0-7]{1,5}$",
                },
            ]),
            Kind::Duration => quantity("duration", "ms", units::TIME_UNITS),
            Kind::Signal => one_of([
                int(i32::MIN.into(), i32::MAX.into()),
                ValueType::Enum {
                    values: units::signal_names(),
                },
            ]),
            Kind::Percent => quantity("share", "percent", &[("%", 1)]),
            Kind::List(inner) => ValueType::List {
                items: Box::new(ValueType::of(inner)),
            },
            Kind::Map(inner) => ValueType::Dict {
                values: Box::new(ValueType::of(inner)),
            },
            Kind::Made(functions) => ValueType::Call {
                functions: functions.iter().map(|function| function.name).collect(),
            },
            Kind::Either(kinds) => one_of(kinds.iter().map(ValueType::of)),
        }
    }
}

fn one_of(types: impl IntoIterator<Item = ValueType>) -> ValueType {
    ValueType::OneOf {
        types: types.into_iter().collect(),
    }
}

fn quantity(of: &'static str, unit: &'static str, suffixes: Units) -> ValueType {
    ValueType::Quantity {
        of,
        unit,
        suffixes: suffixes.iter().copied().collect(),
    }
}

/// A value as data, in the unit of its type; a call by the name of its
/// function and its arguments.
pub(crate) fn value(data: &Data) -> Value {
    match data {
        Data::Text(text) => json!(text),
        Data::Flag(flag) => json!(flag),
        Data::Whole(number) => json!(number),
        Data::Cpu(millis) => json!(millis),
        Data::Bytes(number) | Data::Rate(number) | Data::Ms(number) => json!(number),
        Data::Mode(mode) => json!(mode),
        Data::Signal(signal) => json!(signal),
        Data::Percent(percent) => json!(percent),
        Data::List(items) => items.iter().map(value).collect(),
        Data::Map(entries) => {
            let entries = entries.iter().map(|(key, data)| (key.clone(), value(data)));
            Value::Object(entries.collect())
        }
        Data::Made(made) => {
            let written = made.0.values.iter().filter(|(_, item)| item.written);
            let written = written.map(|(name, item)| ((*name).to_owned(), value(&item.data)));
            let arguments: serde_json::Map<String, Value> = written.collect();
            json!({"call": made.0.function.name, "arguments": arguments})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call, define::Default, functions};

    /// Is the value, as data, one of the type?
    fn fits(kind: &ValueType, value: &Value) -> bool {
        match kind {
            ValueType::String => value.is_string(),
            ValueType::Pattern { .. } => value.is_u64(),
            ValueType::Enum { values } => values.iter().any(|word| value == word),
            ValueType::Bool => value.is_boolean(),
            ValueType::Int { minimum, maximum } => value
                .as_i64()
                .is_some_and(|number| (*minimum..=*maximum).contains(&number)),
            ValueType::Number { .. } | ValueType::Quantity { .. } => value.is_u64(),
            ValueType::List { items } => value
                .as_array()
                .is_some_and(|list| list.iter().all(|item| fits(items, item))),
            ValueType::Dict { values } => value
                .as_object()
                .is_some_and(|fields| fields.values().all(|value| fits(values, value))),
            ValueType::Call { functions } => functions.iter().any(|name| value["call"] == *name),
            ValueType::OneOf { types } => types.iter().any(|kind| fits(kind, value)),
        }
    }

    #[test]
    fn every_default_is_of_its_type() {
        let mut seen = 0;
        for function in functions::ALL {
            for param in function.params() {
                let Some(data) = call::default(param) else {
                    continue;
                };
                let value = value(&data);
                let kind = ValueType::of(&param.kind);
                let what = format!("{}({})", function.name, param.name);
                assert!(fits(&kind, &value), "{what}: {value} is no {kind:?}");
                seen += 1;
            }
        }
        assert!(seen > 60, "{seen}");
    }

    /// Whoever multiplies number and factor gets what we read.
    #[test]
    fn suffixes_mean_what_is_read() {
        let kinds = [Kind::Bytes, Kind::Rate, Kind::Duration, Kind::Percent];
        for kind in kinds.iter().chain([&Kind::Cpu]) {
            let types = match ValueType::of(kind) {
                ValueType::OneOf { types } => types,
                one => vec![one],
            };
            for one in types {
                let ValueType::Quantity { suffixes, .. } = one else {
                    continue;
                };
                assert!(!suffixes.is_empty());
                for (suffix, factor) in suffixes {
                    let data = call::literal(kind, &format!("\"3{suffix}\""));
                    let read = value(&data.expect(suffix));
                    assert_eq!(read, json!(3 * factor), "3{suffix}");
                }
            }
        }
    }

    #[test]
    fn what_programs_are_told() {
        let told = |kind| serde_json::to_value(ValueType::of(kind)).unwrap();
        assert_eq!(told(&Kind::Text), json!({"is": "string"}));
        assert_eq!(
            told(&Kind::List(&Kind::Duration)),
            json!({"is": "list", "items": {
                "is": "quantity", "of": "duration", "unit": "ms",
                "suffixes": {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000},
            }})
        );
        let health = functions::ALL.iter().find(|one| one.name == "job");
        let health = health.and_then(|job| job.param("health")).unwrap();
        assert!(matches!(health.default, Default::Absent(_)));
        assert_eq!(
            told(&health.kind)["types"][0],
            json!({"is": "call", "functions": ["http", "tcp", "exec", "grpc"]})
        );
    }
}
