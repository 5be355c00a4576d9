//! `potluck-helper` as another build of it would be: the same, but for a word
//! in the file. The test of an upgrade puts it into the place of the first
//! (`tests/tests/e2e/upgrade.rs`).

use std::process::ExitCode;

/// Kept in the file, so that its hash is another.
#[used]
static BUILD: &str = "potluck-helper, second build";

fn main() -> ExitCode {
    potluck_helper::supervise::main(std::env::args_os())
}
