//! The language described: for people as Markdown, for programs as data. Both
//! are made of the definitions by which calls are read.

use crate::{
    call,
    define::{Default, Function, Group, Param},
    forms::{self, ValueType},
    functions,
    param::PARAM,
};
use serde::Serialize;
use std::fmt::Write;

/// A function of the language.
#[derive(Clone, Debug, Serialize)]
pub struct FunctionDescription {
    /// What it is called.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// One call.
    pub example: &'static str,
    /// Its parameters; the first `positional` may be given without names.
    pub params: Vec<ParamDescription>,
    /// How many may be given without names.
    pub positional: usize,
}

/// A parameter of a function.
#[derive(Clone, Debug, Serialize)]
pub struct ParamDescription {
    /// What it is called.
    pub name: &'static str,
    /// The form of its value, for programs.
    #[serde(rename = "type")]
    pub kind: ValueType,
    /// The same in the words of the reference.
    pub form: String,
    /// Must it be given?
    pub required: bool,
    /// Its value when it is left away, as it would be written; none if nothing
    /// is set then.
    pub default: Option<&'static str>,
    /// The same as data: quantities in the unit of the type.
    pub default_value: Option<serde_json::Value>,
    /// What it means that nothing is set.
    pub absent: Option<&'static str>,
    /// What it is about; empty for functions with few parameters.
    pub group: &'static str,
    /// What it means.
    pub doc: &'static str,
}

fn all() -> impl Iterator<Item = &'static Function> {
    functions::ALL.iter().copied().chain([&PARAM])
}

/// Every function of the language.
pub fn describe_functions() -> Vec<FunctionDescription> {
    let described = all().map(|function| {
        let params = function.groups.iter().flat_map(|group| {
            let describe = |param| describe(param, group);
            group.params.iter().map(describe)
        });
        FunctionDescription {
            name: function.name,
            doc: function.doc,
            example: function.example,
            params: params.collect(),
            positional: function.positional,
        }
    });
    described.collect()
}

fn describe(param: &Param, group: &Group) -> ParamDescription {
    ParamDescription {
        name: param.name,
        kind: ValueType::of(&param.kind),
        form: param.kind.name(),
        required: matches!(param.default, Default::Required),
        default: match param.default {
            Default::Is(text) => Some(text),
            _ => None,
        },
        default_value: call::default(param).map(|data| forms::value(&data)),
        absent: match param.default {
            Default::Absent(meaning) => Some(meaning),
            _ => None,
        },
        group: group.title,
        doc: param.doc,
    }
}

/// What stands before the functions.
const HEAD: &str = "\
# The language of specs

This page is made of the definitions by which specs are evaluated; a test compares them. \
`POTLUCK_BLESS=1 cargo test -p potluck-starlark --test reference` writes it anew.

A spec is a file of [Starlark](https://github.com/bazelbuild/starlark), a small dialect of Python: functions, \
loops, comprehensions, formatted strings, `struct`, `json`, and types at parameters, which are checked at each call. \
It is evaluated without clock, network, environment or files, so the same file gives the same bytes everywhere.

- `load(\"//lib/web.star\", \"web_service\")` takes names from another file below the root folder, the nearest one above \
the spec with a file `potluck.root`, else the nearest with a `.git`, else the spec's own; `load(\":web.star\", ...)` from \
one in the same folder. A name that begins with `_` stays private. Links out of the root folder are not followed. A line in \
`potluck.root` is the tree's name; without one it is known by its repository. By that `plan` tells jobs that left the file \
from those of another tree. A package lies in the root folder, too; `--allow-outside` takes others. A loaded \
file declares no jobs by itself: its functions do, when the spec calls them.
- `None` means \"not given\", so that a function can hand on what it did not get.
- Names that are not known are errors; so are values that make no sense. All of them are told at once; an error of syntax, or of an operation that can't be done, ends its file.
- What nothing carries out yet is evaluated and shown, and refused by `potluck run`.

## Forms of values

| form | examples |
|---|---|
| cores | `0.5`, `2`, `\"500m\"` |
| size | `\"64MiB\"`, `\"1GB\"`, `\"512KiB\"`, or a number of bytes |
| duration | `\"250ms\"`, `\"10s\"`, `\"5m\"`, `\"1h\"`, `\"7d\"` |
| rate | `\"100Mbit/s\"`, `\"1Gbit/s\"` |
| percent | `\"25%\"` |
| signal | `\"SIGTERM\"`, `\"TERM\"`, `15` |
| mode | `\"0644\"`, `0o644` |
| port | `8080`, or `0` for one that the node chooses |

";

/// The reference of the language, as Markdown.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for function in all() {
        write_function(&mut text, function);
    }
    text.trim_end().to_owned() + "\n"
}

fn write_function(text: &mut String, function: &Function) {
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "## {}\n\n{}\n\n```python\n{}\n```\n\n",
        function.name, function.doc, function.example
    );
    let unnamed: Vec<&str> = function
        .params()
        .take(function.positional)
        .map(|param| param.name)
        .collect();
    if !unnamed.is_empty() {
        let _ = write!(
            text,
            "May be given without its name, in this order: {}.\n\n",
            unnamed.join(", ")
        );
    }
    for group in function.groups {
        if !group.title.is_empty() {
            let _ = write!(text, "### {}\n\n", group.title);
        }
        *text += "| argument | form | default | |\n|---|---|---|---|\n";
        for param in group.params {
            let default = match param.default {
                Default::Required => "required".into(),
                Default::Absent(meaning) => meaning.to_owned(),
                Default::Is(value) => format!("`{value}`"),
            };
            let form = param.kind.name().replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{}` | {form} | {default} | {} |",
                param.name, param.doc
            );
        }
        text.push('\n');
    }
}
