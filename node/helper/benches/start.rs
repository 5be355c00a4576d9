//! How long it takes to start `true` and see its end: bare, in the usual
//! sandbox and in the strict one with a network of its own. In turns, so that
//! a busy moment of the machine meets all of them.

use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, execv, fork},
};
use potluck_helper::{description::Profile, probe::run_true};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(timed(bare));
        for (index, profile) in [(1, Profile::Default), (2, Profile::Strict)] {
            times[index].push(timed(|| run_true(profile, folder.path()).unwrap()));
        }
    }
    for (name, times) in ["bare fork and exec", "default", "strict"]
        .iter()
        .zip(&mut times)
    {
        times.sort();
        let at = |hundredth: usize| times[ROUNDS * hundredth / 100].as_secs_f64() * 1_000.0;
        println!(
            "{name:20} n={ROUNDS} p50 {:.2} ms, p90 {:.2} ms",
            at(50),
            at(90)
        );
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

fn bare() {
    // SAFETY: one thread; the child executes or panics.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            execv(c"/bin/true", &[c"true"]).unwrap();
        }
        ForkResult::Parent { child } => {
            waitpid(child, None).unwrap();
        }
    }
}
