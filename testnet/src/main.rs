//! The program `potluck-testnet`: the cluster in a box.

fn main() {}
