//! The one place that turns outcomes into exit codes and errors into words.

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
        ErrorCode::Other => 1,
    }
}

/// Prints an error with its hint, and gives the exit code.
pub(super) fn fail(error: &ApiError) -> ExitCode {
    eprintln!("error: {}", error.message);
    if let Some(hint) = &error.hint {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::from(code(error))
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
        ]
        .map(|kind| code(&ApiError::new(kind, "x")));
        assert_eq!(codes, [2, 5, 70]);
    }
}
