//! The one place that turns outcomes into exit codes and errors into words.

use super::args::Format;
use crate::api::error::{ApiError, ErrorCode};
pub use potluck_specs::cause::chain;
use std::process::ExitCode;

/// Exit code of an error.
fn code(error: &ApiError) -> u8 {
    match error.code {
        ErrorCode::BadRequest => 2,
        ErrorCode::NotFound => 3,
        ErrorCode::Conflict => 4,
        ErrorCode::Unavailable | ErrorCode::Timeout => 5,
        ErrorCode::Internal => 70,
        ErrorCode::Denied => 77,
        ErrorCode::Failed | ErrorCode::Other => 1,
    }
}

/// For commands that answer whether something differs: 0 no, 2 yes; their
/// errors are 1, see [`fail_as`].
pub(super) fn changes(any: bool) -> ExitCode {
    ExitCode::from(if any { 2 } else { 0 })
}

/// What a program is told of the kind.
fn name(error: &ApiError) -> &'static str {
    match error.code {
        ErrorCode::BadRequest => "bad_request",
        ErrorCode::NotFound => "not_found",
        ErrorCode::Conflict => "conflict",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::Timeout => "timeout",
        ErrorCode::Internal => "internal",
        ErrorCode::Denied => "denied",
        ErrorCode::Failed => "failed",
        ErrorCode::Other => "other",
    }
}

/// Prints an error with its hint, and gives the exit code.
pub(super) fn fail(error: &ApiError, format: Format) -> ExitCode {
    fail_as(error, code(error), format)
}

/// Prints an error, and gives this exit code.
pub(super) fn fail_as(error: &ApiError, code: u8, format: Format) -> ExitCode {
    match format {
        Format::Table => {
            eprintln!("error: {}", error.message);
            if let Some(hint) = &error.hint {
                eprintln!("\nhint: {hint}");
            }
        }
        Format::Json => eprintln!("{}", document(error, code)),
    }
    ExitCode::from(code)
}

/// One line.
fn document(error: &ApiError, code: u8) -> serde_json::Value {
    let mut document = serde_json::json!({
        "error": {
            "code": name(error),
            "exit_code": code,
            "message": error.message,
            "hint": error.hint,
            "retry": error.is_worth_a_retry(),
        }
    });
    if let Some(findings) = &error.findings {
        document["error"]["findings"] = (**findings).clone();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_request_a_failure_and_a_bug_differ() {
        let codes = [
            ErrorCode::BadRequest,
            ErrorCode::Unavailable,
            ErrorCode::Internal,
            ErrorCode::Failed,
        ]
        .map(|kind| code(&ApiError::new(kind, "x")));
        assert_eq!(codes, [2, 5, 70, 1]);
    }

    #[test]
    fn a_program_reads_the_kind_and_whether_to_try_again() {
        let error = ApiError::new(ErrorCode::Unavailable, "no leader").hint("wait");
        let read = document(&error, 5);
        assert_eq!(read["error"]["code"], "unavailable");
        assert_eq!(read["error"]["exit_code"], 5);
        assert_eq!(read["error"]["retry"], true);
        assert_eq!(read["error"]["hint"], "wait");
        assert!(!read.to_string().contains('\n'));
        assert!(read["error"].get("findings").is_none());
        let wrong = serde_json::json!([{ "message": "x" }]);
        let read = document(&error.findings(wrong.clone()), 2);
        assert_eq!(read["error"]["findings"], wrong);
    }
}
