//! The program `potluck`: one per host, and what people type.

use std::process::ExitCode;

fn main() -> ExitCode {
    potluck_node::cli::main()
}
