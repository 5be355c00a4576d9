//! What is to be said about a job: where, how bad, what, why, and how to mend
//! it.

use crate::path::FieldPath;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

/// One thing about a job that its author should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub path: FieldPath,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Why that is wrong, where it does not speak for itself.
    pub why: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// The known word that was probably meant, to stand in the place of the
    /// one that is wrong.
    pub suggestion: Option<String>,
}

impl Finding {
    /// For this the job is refused.
    pub fn error(path: FieldPath, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Error,
            path,
            message: message.into(),
            why: None,
            hint: None,
            suggestion: None,
        }
    }

    /// This may be meant.
    pub fn warning(path: FieldPath, message: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..Finding::error(path, message)
        }
    }

    /// Says why it is wrong.
    pub fn why(&mut self, why: impl Into<String>) -> &mut Finding {
        self.why = Some(why.into());
        self
    }

    /// Says how to mend it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Finding {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was probably meant.
    pub fn meant(&mut self, suggestion: Option<impl Into<String>>) -> &mut Finding {
        self.suggestion = suggestion.map(Into::into);
        self
    }
}

/// On one line, as logs and answers show it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        if let Some(word) = &self.suggestion {
            write!(f, " (did you mean {word:?}?)")?;
        }
        Ok(())
    }
}

/// Is there anything among them for which a job is refused?
pub fn refused(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Error)
}
