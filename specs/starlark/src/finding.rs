//! What is wrong with a spec, and where: as data that goes from the child to
//! its parent and, as JSON, to programs. How it is drawn says `render`.

use crate::place::ValuePlace;
use serde::{Deserialize, Serialize};
use starlark::codemap::FileSpan;
use std::fmt;

/// Longest line that is quoted whole: a longer one helps nobody on a terminal.
const QUOTED_CHARS_MAX: usize = 240;

/// Of a longer line: what is quoted before the place, and in all.
const BEFORE_CHARS: usize = 30;
const CUT_CHARS: usize = 90;

/// Longest message: what `fail()` or an unknown name puts into it has no bound
/// of its own.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The file is no Starlark.
    Syntax,
    /// A name that stands for nothing.
    UnknownName,
    /// Evaluation failed: a wrong operand, `fail()`.
    Evaluation,
    /// An argument that no version of potluck knows.
    UnknownArgument,
    /// Something that this version does not carry out yet.
    NotYetSupported,
    /// A value that a job can't have.
    Invalid,
    /// A file that can't be loaded.
    Load,
    /// More than a spec may use.
    Limit,
    /// A job that is waited for and stands in none of the files.
    UnknownJob,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Evaluated, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

/// A place in a file. Lines and columns count from 1; columns are in
/// characters; the end is exclusive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spot {
    /// The file, as a person would name it.
    pub file: String,
    /// Where it begins; 0 if it is about the file as a whole.
    pub line: u32,
    /// Where it begins.
    pub column: u32,
    /// Where it ends.
    pub end_line: u32,
    /// Where it ends.
    pub end_column: u32,
    /// The line in which it begins, for the quotation; empty if there is none
    /// to quote.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub quoted: String,
    /// Characters of that line that are left away before what is quoted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quoted_skips: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is.
    pub kind: FindingKind,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Why that is wrong, or more about it.
    pub why: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// Where.
    pub at: Spot,
    /// The calls that led there, or that handed the value on.
    pub through: Vec<Spot>,
}

impl Spot {
    /// The place of a span.
    pub(crate) fn new(span: &FileSpan) -> Spot {
        let written = span.file.source().trim_end();
        if span.span.begin().get() as usize > written.len() {
            return Spot::end_of(span.filename(), written);
        }
        let resolved = span.resolve_span();
        let source = span.file.source();
        let line = source.split('\n').nth(resolved.begin.line);
        let (quoted, quoted_skips) = quote(line.unwrap_or_default(), resolved.begin.column);
        // A file has at most 1 MiB.
        let count = |number: usize| number as u32 + 1;
        Spot {
            file: span.filename().into(),
            line: count(resolved.begin.line),
            column: count(resolved.begin.column),
            end_line: count(resolved.end.line),
            end_column: count(resolved.end.column),
            quoted,
            quoted_skips,
        }
    }

    /// Where the text of a file ends: something is missing there, and the empty
    /// lines behind it show nothing.
    fn end_of(file: &str, written: &str) -> Spot {
        let last = written.rsplit('\n').next().unwrap_or_default();
        let length = last.chars().count();
        let (quoted, quoted_skips) = quote(last, length);
        // A file has at most 1 MiB.
        let line = written.matches('\n').count() as u32 + 1;
        let column = length as u32 + 1;
        Spot {
            file: file.into(),
            line,
            column,
            end_line: line,
            end_column: column,
            quoted,
            quoted_skips,
        }
    }

    /// A file as a whole.
    pub(crate) fn file(file: &str) -> Spot {
        Spot {
            file: file.into(),
            line: 0,
            column: 0,
            end_line: 0,
            end_column: 0,
            quoted: String::new(),
            quoted_skips: 0,
        }
    }

    /// For what has no place in a file, such as a flag of the command.
    pub(crate) fn nowhere() -> Spot {
        Spot::file("")
    }
}

/// A line, or of a long one what is around a place in it (a column from 0),
/// with how many characters that leaves away before it.
fn quote(line: &str, column: usize) -> (String, u32) {
    let line = line.trim_end();
    if line.chars().nth(QUOTED_CHARS_MAX).is_none() {
        return (line.into(), 0);
    }
    let start = column.saturating_sub(BEFORE_CHARS);
    let mut rest = line.chars().skip(start);
    let mut quoted: String = rest.by_ref().take(CUT_CHARS).collect();
    if rest.next().is_some() {
        quoted.push('…');
    }
    if start == 0 {
        return (quoted, 0);
    }
    // A file has at most 1 MiB. The mark stands for the character before.
    (format!("…{quoted}"), start as u32 - 1)
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

impl Finding {
    /// An error.
    pub fn error(at: Spot, kind: FindingKind, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Error,
            kind,
            message: cut(message.into()),
            why: None,
            hint: None,
            at,
            through: Vec::new(),
        }
    }

    /// An error at a value that a function of the language was given.
    pub(crate) fn at_value(
        place: ValuePlace,
        function: &str,
        kind: FindingKind,
        message: impl Into<String>,
    ) -> Finding {
        let mut finding = Finding::error(place.at, kind, message);
        finding.through = place.through;
        let handed_on = place.goes_to;
        finding.why = handed_on.map(|spot| format!("goes to {function}() at {spot}"));
        finding
    }

    /// With how to mend it.
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(cut(hint.into()));
        self
    }

    /// With the reason.
    pub fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = Some(cut(why.into()));
        self
    }

    /// Is the job refused for it?
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_CHARS_MAX) {
        text.truncate(end);
        text += "...";
    }
    text
}

/// As a person reads the files, and once each: a call in a loop says the same
/// every time.
pub(crate) fn in_order(mut findings: Vec<Finding>) -> Vec<Finding> {
    let key = |f: &Finding| {
        let at = &f.at;
        (at.line == 0, at.file.clone(), at.line, at.column)
    };
    findings.sort_by_key(key);
    let mut told = std::collections::BTreeSet::new();
    findings.retain(|f| told.insert((f.at.clone(), f.message.clone())));
    findings
}
