//! `potluck` as another build of it would be: the same, but for what it says
//! of its version. The test of an upgrade puts it into the place of the first
//! (`tests/tests/e2e/upgrade.rs`).

use std::process::ExitCode;

fn main() -> ExitCode {
    potluck_node::cli::main_of_build("second")
}
