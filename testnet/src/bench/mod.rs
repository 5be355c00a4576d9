//! The figures of `docs/performance.md`, measured on testnets of real
//! processes, each beside a bound or a peer of the same run. Prints, and
//! judges nothing.
//!
//! `figure` is what is printed; `stage` a testnet to measure on; `usage` what
//! the kernel says of a process. The others measure: `submit` the way from a
//! spec to running tasks, `death` what follows a host's end, `idle` what nodes
//! and helpers cost at rest, `bulk` what a large package does to control
//! traffic, `plan` how long a look at a change of many jobs takes. Cold build and CI time are measured from outside.

mod bulk;
mod death;
mod figure;
mod idle;
mod plan;
mod stage;
mod submit;
mod usage;

use figure::Figure;
use std::{
    error::Error,
    io::Write,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long anything that is measured may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(60);

/// One measurement: its name, and how its figures are had.
type Measurement = (&'static str, fn() -> Outcome<Vec<Figure>>);

/// All of them, in the order of printing.
const MEASUREMENTS: [Measurement; 7] = [
    ("submit", submit::one),
    ("many-tasks", submit::many),
    ("host-death", death::host),
    ("leader-death", death::leader),
    ("idle", idle::costs),
    ("bulk", bulk::beside_control),
    ("plan", plan::of_many_jobs),
];

/// Measures everything, or what has `only` in its name. What fails is said,
/// and the rest goes on.
///
/// # Errors
/// Names what could not be measured.
pub fn run(only: Option<&str>) -> Outcome<()> {
    let chosen: Vec<&Measurement> = MEASUREMENTS
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| name.contains(only)))
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is nothing of that name; there are {}",
            known.join(", ")
        )
        .into());
    }
    println!("{}\n", usage::machine());
    println!("{}", figure::HEAD);
    let mut failed = Vec::new();
    for (name, measure) in chosen {
        let load = usage::load();
        let started = Instant::now();
        eprintln!("measuring {name} …");
        match measure() {
            Ok(figures) => figures
                .iter()
                .for_each(|figure| println!("{}", figure.row(name, &load))),
            Err(error) => {
                eprintln!("{name}: {error}");
                failed.push(*name);
            }
        }
        let _ = std::io::stdout().flush();
        eprintln!("… {:.0} s", started.elapsed().as_secs_f64());
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("could not be measured: {}", failed.join(", ")).into())
}
