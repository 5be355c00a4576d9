//! How full a cluster is when the first task finds no place: ours, best fit
//! and random, of the same jobs on the same machines, in the shape of Borg's
//! cells of 2019. A share is a mean, with least and most, over the seeds.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a bench is a program that nobody uses as a library"
)]

use potluck_testnet::sim::traces::{
    borg::Cell,
    packing::{Case, Packing},
    play::Fill,
};

const MACHINES: usize = 60;
const SEEDS: u64 = 10;

fn main() {
    println!("{MACHINES} machines, {SEEDS} seeds each; cores / memory taken at the first refusal");
    for name in 'a'..='h' {
        let cell = Cell::named(name).expect("a cell of this letter");
        let packings: Vec<Packing> = (0..SEEDS)
            .map(|seed| {
                let packing = Case::drawn(cell, MACHINES, seed).pack();
                packing.unwrap_or_else(|violation| panic!("cell {name}, seed {seed}: {violation}"))
            })
            .collect();
        let tasks: usize = packings.iter().map(|one| one.tasks).sum();
        println!(
            "cell {name}, {} tasks placed by ours",
            tasks / packings.len()
        );
        show("  ours", packings.iter().map(|one| one.ours));
        show("  best fit", packings.iter().map(|one| one.best_fit));
        show("  random", packings.iter().map(|one| one.random));
    }
}

fn show(what: &str, fills: impl Iterator<Item = Fill>) {
    let (cpu, memory): (Vec<f64>, Vec<f64>) = fills.map(|fill| (fill.cpu, fill.memory)).unzip();
    println!("{what:<12} {} / {}", range(&cpu), range(&memory));
}

fn range(shares: &[f64]) -> String {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64 * 100.0;
    let least = shares.iter().copied().fold(1.0, f64::min) * 100.0;
    let most = shares.iter().copied().fold(0.0, f64::max) * 100.0;
    format!("{mean:.1} % ({least:.1} to {most:.1})")
}
