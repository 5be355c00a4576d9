//! `param(...)`: what a person may set from outside, by `--set name=value`.

use crate::{
    call::{Call, Data, Origin, steps},
    collect::{Collector, TooMany},
    define::{
        Default::{Absent, Is, Required},
        Function, Group, Kind, Param, or,
    },
    finding::{Finding, FindingKind, Spot},
    language,
};
use potluck_specs::suggestion::nearest;
use serde::{Deserialize, Serialize};
use starlark::values::{Heap, Value};
use std::collections::BTreeMap;

const fn argument(
    name: &'static str,
    kind: Kind,
    default: crate::define::Default,
    doc: &'static str,
) -> Param {
    Param {
        name,
        kind,
        default,
        doc,
    }
}

pub(crate) static PARAM: Function = Function {
    name: "param",
    doc: "A value that a person may set from outside: `potluck run --set name=value`. It stands in the spec file itself, not in a loaded one.",
    groups: &[&Group {
        title: "",
        params: &[
            argument("name", Kind::Text, Required, "What it is called."),
            argument(
                "type",
                Kind::Word(&["string", "int", "bool", "list"]),
                Absent("that of the default, else \"string\""),
                "Its type. A list is set as `a,b,c`.",
            ),
            argument(
                "default",
                Kind::Either(&[
                    Kind::Text,
                    Kind::Flag,
                    Kind::Integer,
                    Kind::List(&Kind::Text),
                ]),
                Absent("it must be set"),
                "Its value when nobody sets it.",
            ),
            argument("doc", Kind::Text, Is("\"\""), "What it is for."),
        ],
    }],
    positional: 3,
    gathers: false,
    elsewhere: &[
        ("help", "doc"),
        ("description", "doc"),
        ("value", "default"),
    ],
    example: "param(\"replicas\", \"int\", 3, doc = \"How many.\")",
};

/// What a person set, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// As they were written: `replicas` and `3`.
    pub values: BTreeMap<String, String>,
}

/// A parameter that a spec declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// What it is called.
    pub name: String,
    /// `string`, `int`, `bool` or `list`.
    pub kind: String,
    /// As it would be written in a spec; none if it must be set.
    pub default: Option<String>,
    /// What it is for.
    pub doc: String,
    /// The value that it has.
    pub value: Option<String>,
    /// Where it is declared.
    pub at: Spot,
}

impl Settings {
    /// Reads `NAME=VALUE`, as often as it is given.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Settings, String> {
        let mut values = BTreeMap::new();
        for text in texts {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| format!("--set {text}: a value is set as NAME=VALUE"))?;
            if values.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("--set {name} is given twice"));
            }
        }
        Ok(Settings { values })
    }

    /// What is wrong with them, given all the parameters that were declared.
    pub(crate) fn unknown(&self, declared: &[Parameter]) -> Vec<Finding> {
        let known = || declared.iter().map(|param| param.name.as_str());
        let unknown = self
            .values
            .keys()
            .filter(|name| !known().any(|k| k == *name));
        let tell = |name: &String| {
            let hint = match nearest(name, known()) {
                Some(near) => format!("did you mean --set {near}=...?"),
                None if declared.is_empty() => format!("declare it: {name} = param({name:?})"),
                None => {
                    let names: Vec<String> = known().map(str::to_owned).collect();
                    format!("the spec declares {}", names.join(", "))
                }
            };
            let message = format!("--set {name}: the spec declares no such param");
            Finding::error(Spot::nowhere(), FindingKind::UnknownName, message).hint(hint)
        };
        unknown.map(tell).collect()
    }
}

/// Carries out a call of `param`: its value, which is `None` if there is none
/// to go on with.
pub(crate) fn declare<'v>(
    call: &Call,
    collector: &Collector,
    heap: Heap<'v>,
) -> Result<Value<'v>, TooMany> {
    let name = call.text("name");
    let default = call.get("default");
    let kind = call.text_if("type").unwrap_or_else(|| {
        let kind = match default {
            Some(Data::Flag(_)) => "bool",
            Some(Data::Whole(_)) => "int",
            Some(Data::List(_)) => "list",
            _ => "string",
        };
        kind.into()
    });
    let tell = |field: &str, message: String, hint: Option<String>| {
        let mut finding = language::at(call, &steps(field), FindingKind::Invalid, message);
        finding.hint = hint;
        collector.tell(finding)
    };
    if let Some(default) = default
        && !fits(&kind, default)
    {
        let message = format!("the default of a param of type {kind:?} can't be {default}");
        tell("default", message, None)?;
    }
    let mut value = default.cloned();
    match collector.settings.values.get(&name) {
        Some(text) => match parse(&kind, text) {
            Some(set) => value = Some(set),
            None => {
                let message = format!("--set {name}={text}: {name} must be {}", wanted(&kind));
                tell("name", message, None)?;
            }
        },
        None if default.is_none() && !call.wrong.contains("default") && !name.is_empty() => {
            let hint = format!("--set {name}=..., or give it a default");
            tell("name", format!("{name} has no value"), Some(hint))?;
        }
        None => {}
    }
    let at = match call.origin(&steps("name")) {
        Origin::Written(place) => place.at,
        Origin::Default => Spot::nowhere(),
    };
    let is_new = collector.add_param(Parameter {
        name: name.clone(),
        default: default.map(Data::to_string),
        doc: call.text("doc"),
        value: value.as_ref().map(Data::to_string),
        at,
        kind: kind.clone(),
    });
    if !is_new && !name.is_empty() && !call.wrong.contains("name") {
        let message = format!("param {name} is declared twice");
        let hint = "declare it once, and use the variable in both places";
        tell("name", message, Some(hint.into()))?;
    }
    // Something of the right type, so that the rest is looked at as well.
    let value = value.unwrap_or(match kind.as_str() {
        "int" => Data::Whole(1),
        "bool" => Data::Flag(false),
        "list" => Data::List(Vec::new()),
        _ => Data::Text(call.text("name")),
    });
    Ok(to_value(&value, heap))
}

fn fits(kind: &str, data: &Data) -> bool {
    matches!(
        (kind, data),
        ("string", Data::Text(_))
            | ("int", Data::Whole(_))
            | ("bool", Data::Flag(_))
            | ("list", Data::List(_))
    )
}

fn wanted(kind: &str) -> String {
    match kind {
        "int" => "a whole number".into(),
        "bool" => or(&["true".into(), "false".into()]),
        other => format!("a {other}"),
    }
}

fn parse(kind: &str, text: &str) -> Option<Data> {
    Some(match kind {
        "int" => Data::Whole(text.parse().ok()?),
        "bool" => Data::Flag(match text {
            "true" | "True" => true,
            "false" | "False" => false,
            _ => return None,
        }),
        "list" => {
            let items = text.split(',').filter(|item| !item.is_empty());
            Data::List(items.map(|item| Data::Text(item.into())).collect())
        }
        _ => Data::Text(text.into()),
    })
}

fn to_value<'v>(data: &Data, heap: Heap<'v>) -> Value<'v> {
    match data {
        Data::Flag(flag) => Value::new_bool(*flag),
        Data::Whole(number) => heap.alloc(*number),
        Data::List(items) => {
            let items: Vec<Value> = items.iter().map(|item| to_value(item, heap)).collect();
            heap.alloc(items)
        }
        other => heap.alloc(other.text().unwrap_or_default()),
    }
}
