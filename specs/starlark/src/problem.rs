//! What is wrong with a spec file and where: said to a person in the form that
//! compilers use.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// The file is no Starlark.
    Syntax,
    /// Evaluation failed: an unknown name, a wrong type, `fail()`.
    Evaluation,
    /// An argument that no version of potluck knows.
    UnknownArgument,
    /// Something planned that this version does not do yet.
    NotYetSupported,
    /// A value that a job can't have.
    Invalid,
    /// The file asks for more than a spec may use.
    Limit,
}

/// One thing that is wrong. Lines and columns count from 1; columns are in
/// characters; the end is exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The spec file, as the caller named it.
    pub file: String,
    /// Where it begins; 0 if it is about the file as a whole.
    pub line: u32,
    /// Where it begins.
    pub column: u32,
    /// Where it ends.
    pub end_line: u32,
    /// Where it ends.
    pub end_column: u32,
    /// The first line that it is about, for the underlined quotation.
    pub source_line: String,
    /// What kind of thing is wrong.
    pub kind: ProblemKind,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)
    }
}
