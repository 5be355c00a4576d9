//! The program `potluck`: one per host, and what people type.

use std::process::ExitCode;

/// What `--version` says; whoever builds it may give another name, so that two
/// builds can be told apart.
const VERSION: &str = match option_env!("POTLUCK_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    potluck_node::cli::main(VERSION)
}
