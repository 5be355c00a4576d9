//! Evaluates spec files (`*.star`) to job drafts.
//!
//! This crate answers for the language of specs and is the only user of the
//! Starlark crate. [`Evaluator`] is the work itself: hermetic and
//! deterministic, but a hostile file can make it use any amount of memory.
//! [`Sandbox`] therefore runs it in a child process with limits. What a valid
//! job is says `potluck_specs::validate`.
//!
//! The functions of the language are defined in tables (`functions`), from
//! which calls are read, values are shown and the reference is written.

mod build;
mod call;
mod child;
mod collect;
mod define;
mod evaluate;
mod fields;
mod finding;
mod forms;
mod functions;
mod label;
mod language;
mod param;
mod place;
mod protocol;
mod read;
mod reference;
mod render;
mod root;
mod sandbox;
mod scan;
mod show;
mod starting;
mod together;
mod units;
mod unknown;

pub use child::child_main;
pub use evaluate::{Evaluated, EvaluatedJob, Evaluator, Files, Text, Wanted};
pub use fields::written;
pub use finding::{Finding, FindingKind, Severity, Spot};
pub use forms::ValueType;
pub use label::{Label, LabelError};
pub use param::{Parameter, Settings};
pub use reference::{FunctionDescription, ParamDescription, describe_functions, reference};
pub use render::{Look, render};
pub use root::{Root, RootError};
pub use sandbox::{EvalError, Limit, Outcome, Sandbox};
pub use show::Shown;
pub use starting::{Starting, starting_file};
