//! The program `potluck-helper`: a task's parent.

fn main() {}
