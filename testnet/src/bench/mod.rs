//! The figures of `docs/performance.md`, measured on testnets of real
//! processes, each beside a bound or a peer of the same run. Prints, and
//! judges nothing.
//!
//! `figure` is what is printed; `stage` a testnet to measure on; `usage` what
//! the kernel says of a process. The others measure: `submit` the way from a
//! spec to running tasks, `death` what follows a host's end, `idle` what nodes
//! and helpers cost at rest, `bulk` what a large package does to control
//! traffic, `plan` how long a look at a change of many jobs takes, `host` what
//! a host does with tasks beside Docker, runc and crun. Cold build and CI time
//! are measured from outside.

mod bulk;
mod death;
mod figure;
mod host;
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

/// Nodes of a testnet if nothing else is asked for.
pub const NODES: u8 = 6;

/// The most: all of them are processes of one machine, of 50 MB each.
pub const NODES_MAX: u8 = 50;

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only what is called so or, if nothing is, has it in its name.
    pub only: Option<String>,
    /// Nodes of the testnets; those of one node stay as they are.
    pub nodes: u8,
}

/// One measurement: its name, and how its figures are had.
type Measurement = (&'static str, fn(&Options) -> Outcome<Vec<Figure>>);

/// All of them, in the order of printing.
const MEASUREMENTS: [Measurement; 8] = [
    ("submit", submit::one),
    ("many-tasks", submit::many),
    ("host-death", death::host),
    ("leader-death", death::leader),
    ("idle", idle::costs),
    ("bulk", bulk::beside_control),
    ("plan", plan::of_many_jobs),
    ("host", host::costs),
];

/// Measures everything, or what is asked for. What fails is said, and the rest
/// goes on.
///
/// # Errors
/// Names what could not be measured.
pub fn run(options: &Options) -> Outcome<()> {
    let chosen = chosen(options.only.as_deref());
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
        let command = command(name, options);
        match measure(options) {
            Ok(figures) => figures
                .iter()
                .for_each(|figure| println!("{}", figure.row(&command, &load))),
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

/// An exact name means that one only: `host` is in `host-death` too.
fn chosen(only: Option<&str>) -> Vec<&'static Measurement> {
    let exact = MEASUREMENTS.iter().any(|(name, _)| only == Some(*name));
    let is_meant = |name: &str| match only {
        None => true,
        Some(only) if exact => name == only,
        Some(only) => name.contains(only),
    };
    let all = MEASUREMENTS.iter();
    all.filter(|(name, _)| is_meant(name)).collect()
}

/// What measures this again.
fn command(name: &str, options: &Options) -> String {
    match options.nodes {
        NODES => format!("potluck testnet bench {name}"),
        nodes => format!("potluck testnet bench {name} --nodes {nodes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_is_one_measurement_and_a_part_all_that_have_it() {
        let names = |only| -> Vec<&str> {
            let chosen = chosen(only);
            chosen.into_iter().map(|(name, _)| *name).collect()
        };
        assert_eq!(names(Some("host")), ["host"]);
        assert_eq!(names(Some("death")), ["host-death", "leader-death"]);
        assert_eq!(names(None).len(), MEASUREMENTS.len());
        assert!(names(Some("nothing")).is_empty());
    }

    #[test]
    fn another_number_of_nodes_is_in_the_command() {
        let options = |nodes| Options { only: None, nodes };
        let told = |nodes| command("submit", &options(nodes));
        assert_eq!(told(NODES), "potluck testnet bench submit");
        assert_eq!(told(20), "potluck testnet bench submit --nodes 20");
    }
}
