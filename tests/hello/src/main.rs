//! A small HTTP service for the demo and the tests.

fn main() {}
