//! The program `potluck-helper`: a task's parent. See the `README.md` of its
//! crate for the order of its steps and for what always holds.

use std::process::ExitCode;

/// What it calls itself to the agent; whoever builds it may give another name,
/// so that two builds can be told apart.
const VERSION: &str = match option_env!("POTLUCK_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    potluck_helper::supervise::main(std::env::args_os(), VERSION)
}
