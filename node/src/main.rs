//! The program `potluck`: one per host.

fn main() {}
