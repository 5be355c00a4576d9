//! The simulator: many seeds, scripted scenarios with exact expectations, and
//! proof that the invariants bite.
//!
//! One seed again: `POTLUCK_SIM_SEED=17 cargo test -p potluck-testnet --test
//! sim seeds -- --nocapture`. More of them: `POTLUCK_SIM_SEEDS=2000`.

use potluck_testnet::sim::{self, Options};
use std::time::Instant;

/// As many as take well under 20 s on two cores, with others at work.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds_keep_all_invariants_and_heal() {
    let seeds = match number("POTLUCK_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("POTLUCK_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let began = Instant::now();
    let (mut virtual_ms, mut slowest) = (0, (0, 0));
    let mut total = sim::Stats::default();
    let mut failed = Vec::new();
    for seed in seeds {
        match sim::run(seed, &Options::drawn(seed)) {
            Ok(summary) => {
                virtual_ms += summary.virtual_ms;
                slowest = slowest.max((summary.healed_after_ms, seed));
                total.add(&summary.stats);
            }
            Err(failure) => {
                if failed.is_empty() {
                    println!("{failure}");
                }
                println!("seed {}: {}", seed, failure.violation);
                failed.push(seed);
            }
        }
    }
    let real = began.elapsed();
    println!(
        "{virtual_ms} ms virtual in {} ms real: {:.0} times; slowest to heal: {} ms (seed {})",
        real.as_millis(),
        virtual_ms as f64 / real.as_millis().max(1) as f64,
        slowest.0,
        slowest.1
    );
    println!("{total:?}");
    assert!(
        failed.is_empty(),
        "{} seeds failed: {failed:?}; one again: POTLUCK_SIM_SEED={} cargo test -p potluck-testnet --test sim seeds",
        failed.len(),
        failed[0]
    );
}
