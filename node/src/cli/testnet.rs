//! `potluck testnet`: handed to the program `potluck-testnet` beside this one,
//! as git does with commands that are programs of their own. So the node does
//! not depend on its own test bed.

use super::{args::Format, exit};
use crate::api::error::{ApiError, ErrorCode};
use std::{os::unix::process::CommandExt, process::Command, process::ExitCode};

/// Becomes `potluck-testnet`.
pub(super) fn exec(args: &[String], format: Format) -> ExitCode {
    let beside = std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name("potluck-testnet"));
    let program = beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| "potluck-testnet".into());
    let error = Command::new(&program).args(args).exec();
    let message = format!("can't run {}: {error}", program.display());
    exit::fail(
        &ApiError::new(ErrorCode::NotFound, message)
            .hint("potluck-testnet is built and shipped beside potluck: cargo build --workspace"),
        format,
    )
}
