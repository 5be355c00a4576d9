//! The program `potluck-helper`: a task's parent. See the `README.md` of its
//! crate for the order of its steps and for what always holds.

use std::process::ExitCode;

fn main() -> ExitCode {
    potluck_helper::supervise::main(std::env::args_os())
}
