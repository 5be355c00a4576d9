//! Evaluates spec files (`*.star`) to job drafts.
//!
//! This crate answers for the language of specs and is the only user of the
//! Starlark crate. [`evaluate`] is the work itself: hermetic and
//! deterministic, but a hostile file can make it use any amount of memory.
//! [`sandboxed`] therefore runs it in a child process with limits. What a
//! valid job is says `potluck_specs::validate`.

mod arguments;
mod collect;
mod evaluate;
mod language;
mod problem;
mod sandbox;
mod scan;
mod units;

pub use evaluate::evaluate;
pub use problem::{Problem, ProblemKind};
pub use sandbox::{EvalError, child_main, sandboxed};
