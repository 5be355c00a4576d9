//! How full a cluster is when the first task finds no place: ours, best fit,
//! aligned and random, of the same jobs on the same machines, in the shape of
//! Borg's cells of 2019, and with four fifths of their memory: then cores and
//! memory are asked about as machines have them. A share is a mean, with least
//! and most, over the seeds.
//!
//! After `--`: the letters of the cells (all of them), and how many seeds (10).

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

/// Hundredths of the drawn memory.
const MEMORY: [u64; 2] = [100, 80];

fn main() {
    // Cargo adds a flag of its own.
    let mut said = std::env::args().skip(1).filter(|word| word != "--bench");
    let cells = said.next().unwrap_or_else(|| "abcdefgh".into());
    let seeds = said.next().map_or(SEEDS, |seeds| {
        seeds.parse().expect("the second word is how many seeds")
    });
    println!("{MACHINES} machines, {seeds} seeds each; cores / memory taken at the first refusal");
    for name in cells.chars() {
        let cell = Cell::named(name).expect("a cell of this letter");
        for memory in MEMORY {
            pack(name, cell, memory, seeds);
        }
    }
}

fn pack(name: char, cell: Cell, memory: u64, seeds: u64) {
    let packings: Vec<Packing> = (0..seeds)
        .map(|seed| {
            let case = Case::drawn(cell, MACHINES, seed).with_memory(memory);
            let packing = case.pack();
            packing.unwrap_or_else(|violation| panic!("cell {name}, seed {seed}: {violation}"))
        })
        .collect();
    let tasks: usize = packings.iter().map(|one| one.tasks).sum();
    println!(
        "cell {name}, {memory} % of its memory, {} tasks placed by ours",
        tasks / packings.len().max(1)
    );
    show("  ours", packings.iter().map(|one| one.ours));
    show("  best fit", packings.iter().map(|one| one.best_fit));
    show("  aligned", packings.iter().map(|one| one.aligned));
    show("  random", packings.iter().map(|one| one.random));
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
