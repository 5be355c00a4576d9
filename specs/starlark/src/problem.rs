//! What is wrong with a spec file and where: said to a person in the form that
//! compilers use.

use serde::{Deserialize, Serialize};
use std::{fmt, ops::Range};

/// Longest line that is quoted: a longer one helps nobody on a terminal.
const QUOTED_CHARS_MAX: usize = 240;

/// Longest message: what `fail()` or an unknown name puts into it has no bound
/// of its own.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProblemKind {
    /// The file is no Starlark.
    Syntax,
    /// Evaluation failed: an unknown name, a wrong operand, `fail()`.
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
#[serde(deny_unknown_fields)]
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
    /// The first line that it is about, for the underlined quotation; empty if
    /// there is none to quote.
    pub source_line: String,
    /// What kind of thing is wrong.
    pub kind: ProblemKind,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(crate) fn of_file(file: &str, kind: ProblemKind, mut message: String) -> Problem {
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message += "...";
        }
        Problem {
            file: file.into(),
            line: 0,
            column: 0,
            end_line: 0,
            end_column: 0,
            source_line: String::new(),
            kind,
            message,
            hint: None,
        }
    }

    /// A problem with some bytes of the file.
    pub(crate) fn at(
        file: &str,
        source: &str,
        bytes: Range<usize>,
        kind: ProblemKind,
        message: String,
    ) -> Problem {
        let (line, column) = position(source, bytes.start);
        let (end_line, end_column) = position(source, bytes.end.max(bytes.start));
        let quoted = source
            .split('\n')
            .nth(line as usize - 1)
            .unwrap_or_default();
        let quoted = quoted.trim_end();
        let quotable = quoted.chars().take(QUOTED_CHARS_MAX + 1).count() <= QUOTED_CHARS_MAX;
        Problem {
            line,
            column,
            end_line,
            end_column,
            source_line: if quotable {
                quoted.into()
            } else {
                String::new()
            },
            ..Problem::of_file(file, kind, message)
        }
    }

    pub(crate) fn with_hint(self, hint: Option<String>) -> Problem {
        Problem { hint, ..self }
    }

    fn carets(&self) -> usize {
        let line_end = self.source_line.chars().count() as u32 + 1;
        let end = if self.end_line == self.line {
            self.end_column.min(line_end)
        } else {
            line_end
        };
        end.saturating_sub(self.column).max(1) as usize
    }
}

/// Line and column of a byte, from 1. Bytes past the end or inside a character
/// count as the next place that there is.
fn position(source: &str, byte: usize) -> (u32, u32) {
    let byte = source.ceil_char_boundary(byte.min(source.len()));
    let before = &source[..byte];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    // A spec has at most 1 MiB.
    (line as u32, column as u32)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if self.line == 0 {
            write!(f, "\n --> {}", self.file)?;
        } else {
            let number = self.line.to_string();
            let gutter = " ".repeat(number.len());
            write!(
                f,
                "\n{gutter}--> {}:{}:{}",
                self.file, self.line, self.column
            )?;
            if !self.source_line.is_empty() {
                let blank: String = self
                    .source_line
                    .chars()
                    .take(self.column.saturating_sub(1) as usize)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                let carets = "^".repeat(self.carets());
                write!(f, "\n{gutter} |\n{number} | {}", self.source_line)?;
                write!(f, "\n{gutter} | {blank}{carets}")?;
            }
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, bytes: Range<usize>) -> String {
        Problem::at(
            "a.star",
            source,
            bytes,
            ProblemKind::Invalid,
            "wrong".into(),
        )
        .to_string()
    }

    #[test]
    fn is_drawn_under_its_line() {
        assert_eq!(
            at("a = 1\nbé = f(2)\n", 11..15),
            "error: wrong\n --> a.star:2:5\n  |\n2 | bé = f(2)\n  |     ^^^^"
        );
        assert_eq!(
            at("\tf(\n1)", 1..6),
            "error: wrong\n --> a.star:1:2\n  |\n1 | \tf(\n  | \t^^"
        );
    }

    #[test]
    fn any_place_can_be_drawn() {
        let source = "é\n\n(";
        for start in 0..8 {
            for end in 0..8 {
                assert!(at(source, start..end).contains('^') || start > 1);
            }
        }
        let long = "x".repeat(1_000);
        assert_eq!(at(&long, 5..6), "error: wrong\n --> a.star:1:6");
    }

    #[test]
    fn the_file_as_a_whole_and_a_hint() {
        let problem = Problem::of_file("a.star", ProblemKind::Limit, "too long".into())
            .with_hint(Some("split it".into()));
        assert_eq!(
            problem.to_string(),
            "error: too long\n --> a.star\n  hint: split it"
        );
    }
}
