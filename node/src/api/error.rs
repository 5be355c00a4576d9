//! Errors that reach a person: what happened, and what to do about it.

use serde::{Deserialize, Serialize};

/// What kind of failure it is; decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The request is wrong and will stay wrong.
    BadRequest,
    /// What it names does not exist.
    NotFound,
    /// The state has moved on since the caller looked.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// Not now: no leader, no quorum, no capacity. Worth another try.
    Unavailable,
    /// It took longer than the caller or a bound allows.
    Timeout,
    /// It can't be done, and the same request will fail again: a damaged
    /// file, a full disk, a path that can't be used.
    Failed,
    /// A fault of ours.
    Internal,
    /// A kind that a newer version knows.
    #[serde(other)]
    Other,
}

/// An answer that is a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its kind.
    pub code: ErrorCode,
    /// What happened, with names and numbers, the causes included.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What is wrong one by one, for programs; never sent.
    #[serde(skip)]
    pub findings: Option<Box<serde_json::Value>>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            hint: None,
            findings: None,
        }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with all that is wrong, for programs.
    #[must_use]
    pub fn findings(mut self, findings: serde_json::Value) -> ApiError {
        self.findings = Some(Box::new(findings));
        self
    }

    /// Whether a repeat of the same request may succeed.
    pub fn is_worth_a_retry(&self) -> bool {
        matches!(self.code, ErrorCode::Unavailable | ErrorCode::Timeout)
    }
}
