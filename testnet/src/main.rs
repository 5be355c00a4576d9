//! The program `potluck-testnet`, reached as `potluck testnet`.

use clap::{Args, Parser, Subcommand};
use potluck_specs::cause::chain;
use potluck_testnet::{
    bench, demo,
    drill::{self, Drill},
    net::{NetError, Testnet, TestnetOptions},
    scenario::Scenario,
    sim::{
        self,
        rng::Rng,
        traces::{Trace, borg::Cell, format, play},
    },
};
use std::{
    error::Error,
    ops::Range,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// A cluster in a box: real nodes on loopback, one process each.
#[derive(Debug, Parser)]
#[command(
    name = "potluck testnet",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad request."
)]
struct Cli {
    /// The testnet's folder.
    #[arg(
        long,
        global = true,
        default_value = ".potluck-testnet",
        value_name = "DIR"
    )]
    root: PathBuf,
    /// Print JSON.
    #[arg(short, long, global = true, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up nodes and wait until they know each other.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=200))]
        nodes: u8,
        /// Over how many racks.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
        racks: u8,
        /// Second number of the addresses, 127.BLOCK.rack.host.
        #[arg(long, default_value_t = 0)]
        block: u8,
    },
    /// Its nodes and their processes.
    Status,
    /// Kill a node: agent, helpers, inits and tasks together.
    Kill {
        /// The node.
        node: String,
        /// Only its `potluck`; the tasks live on.
        #[arg(long)]
        agent: bool,
    },
    /// Start a node again.
    Start {
        /// The node.
        node: String,
    },
    /// End everything and remove the folder.
    Down,
    /// Show the main job end to end in a folder of its own.
    Demo,
    /// Simulate clusters under faults, in virtual time.
    Sim(Sim),
    /// Play a scenario of the simulator on six real nodes, and check that all
    /// heals.
    Scenario {
        /// What befalls the cluster.
        #[arg(value_enum)]
        name: Scenario,
        /// The seed: the same seed gives the same script.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// How long the script goes on.
        #[arg(long, default_value_t = drill::SECONDS, value_parser = clap::value_parser!(u64).range(drill::SECONDS_MIN..=3_600))]
        seconds: u64,
        /// Second number of the addresses, 127.BLOCK.rack.host.
        #[arg(long, default_value_t = 87)]
        block: u8,
    },
    /// Measure what docs/performance.md lists.
    Bench {
        /// Only the measurement of this name, or those that have it in theirs.
        only: Option<String>,
        /// Nodes of the testnets that have several.
        #[arg(long, default_value_t = bench::NODES, value_parser = clap::value_parser!(u8).range(3..=i64::from(bench::NODES_MAX)))]
        nodes: u8,
    },
}

/// Machines and hours of a made-up trace of which neither is said.
const BORG_MACHINES: usize = 60;
const BORG_HOURS: f64 = 2.0;

#[derive(Debug, Args)]
struct Sim {
    /// The seed: the same seed gives the same run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Many seeds, A..B, or A.. until one fails or you stop it.
    #[arg(long, value_parser = seeds, conflicts_with = "seed")]
    seeds: Option<Range<u64>>,
    /// Without an end, each seed with a scenario and a size of its own.
    #[arg(long, conflicts_with_all = ["seeds", "scenario"])]
    soak: bool,
    /// Seeds at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How many nodes; drawn from the seed, 6 to 12, if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(4..=1_000))]
    nodes: Option<u16>,
    /// Rounds of faults and healing until so many hours have passed.
    #[arg(long, default_value_t = 0.0)]
    hours: f64,
    /// What befalls the cluster.
    #[arg(long, value_enum, default_value_t = Scenario::Random)]
    scenario: Scenario,
    /// Go through a trace instead: machines, jobs and their times from a file
    /// (its format: docs/simulator.md).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "soak", "scenario", "nodes", "hours", "borg"])]
    trace: Option<PathBuf>,
    /// Go through a made-up trace in the shape of one of Borg's cells of 2019,
    /// a to h: 60 machines and 2 hours if not given.
    #[arg(long, value_name = "CELL", value_parser = cell, conflicts_with_all = ["seeds", "soak", "scenario"])]
    borg: Option<(char, Cell)>,
    /// Write the made-up trace to a file instead.
    #[arg(long, value_name = "FILE", requires = "borg")]
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            if let Some(hint) = error.downcast_ref::<NetError>().and_then(NetError::hint) {
                eprintln!("\nhint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// The folder as its processes name it in their arguments: that is how they are
/// found, so neither links nor `..` may stay. What is not there yet is made.
fn resolved(root: &Path) -> std::io::Result<PathBuf> {
    let root = std::path::absolute(root)?;
    let mut there = root.as_path();
    while !there.exists() {
        match there.parent() {
            Some(parent) => there = parent,
            None => return Ok(root),
        }
    }
    let missing = root.strip_prefix(there).unwrap_or(Path::new(""));
    match missing.as_os_str().is_empty() {
        true => there.canonicalize(),
        false => Ok(there.canonicalize()?.join(missing)),
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let root = resolved(&cli.root)?;
    let json = cli.output == "json";
    match &cli.command {
        Command::Up {
            nodes,
            racks,
            block,
        } => {
            let options = TestnetOptions {
                nodes: *nodes,
                racks: *racks,
                block: *block,
                ..TestnetOptions::new(&root)
            };
            let net = Testnet::up(&options)?;
            status(&net, json);
            if !json {
                let config = root.join("config");
                println!("\nask it with: export POTLUCK_CONFIG={}", config.display());
                println!(
                    "             export POTLUCK_NODE={}",
                    net.nodes()[0].address
                );
            }
        }
        Command::Status => status(&Testnet::open(&root)?, json),
        Command::Kill { node, agent: true } => {
            Testnet::open(&root)?.kill_agent(node)?;
            eprintln!("the agent of {node} is gone; its tasks go on");
        }
        Command::Kill { node, agent: false } => {
            let net = Testnet::open(&root)?;
            let ran = !net.processes(node).all().is_empty();
            net.kill(node)?;
            match ran {
                true => eprintln!("{node} is gone with all its processes"),
                false => eprintln!("{node} has no processes: it did not run"),
            }
        }
        Command::Start { node } => {
            let net = Testnet::open(&root)?;
            net.start(node)?;
            net.await_answer(node)?;
            eprintln!("{node} runs");
        }
        Command::Down => {
            Testnet::open(&root)?.down()?;
            eprintln!("nothing of the testnet is left");
        }
        Command::Demo => demo::run()?,
        Command::Sim(wanted) => match traced(wanted)? {
            Some((trace, arguments)) => play(wanted, &trace, &arguments)?,
            None => simulate(wanted)?,
        },
        Command::Scenario {
            name,
            seed,
            seconds,
            block,
        } => Drill {
            scenario: *name,
            seed: *seed,
            seconds: *seconds,
            block: *block,
            programs: None,
        }
        .run()?,
        Command::Bench { only, nodes } => bench::run(&bench::Options {
            only: only.clone(),
            nodes: *nodes,
        })?,
    }
    Ok(())
}

/// The trace that is asked for, and the arguments that ask for it.
fn traced(wanted: &Sim) -> Result<Option<(Trace, String)>, Box<dyn Error>> {
    if let Some(path) = &wanted.trace {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        let trace = format::read(&text).map_err(|error| format!("{shown}: {error}"))?;
        return Ok(Some((trace, format!("--trace {shown}"))));
    }
    let Some((name, cell)) = wanted.borg else {
        return Ok(None);
    };
    let machines = wanted.nodes.map_or(BORG_MACHINES, usize::from);
    let hours = if wanted.hours > 0.0 {
        wanted.hours
    } else {
        BORG_HOURS
    };
    let length_ms = (hours * sim::HOUR_MS as f64) as u64;
    let trace = cell.trace(machines, length_ms, &mut Rng::new(wanted.seed));
    let arguments = format!("--borg {name} --nodes {machines} --hours {hours}");
    Ok(Some((trace, arguments)))
}

fn play(wanted: &Sim, trace: &Trace, arguments: &str) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &wanted.save {
        let shown = path.display();
        std::fs::write(path, format::write(trace)).map_err(|error| format!("{shown}: {error}"))?;
        println!("{shown}: {} events", trace.lines.len());
        return Ok(());
    }
    println!("{}", play::play(trace, wanted.seed, arguments)?);
    Ok(())
}

fn simulate(wanted: &Sim) -> Result<(), Box<dyn Error>> {
    let seeds = match &wanted.seeds {
        Some(seeds) => seeds.clone(),
        None if wanted.soak => wanted.seed..u64::MAX,
        None => wanted.seed..wanted.seed.saturating_add(1),
    };
    let next = AtomicU64::new(seeds.start);
    let began = Instant::now();
    let (virtual_ms, events) = std::thread::scope(|scope| {
        let work = || simulate_each(wanted, &next, seeds.end);
        let threads: Vec<_> = (0..wanted.threads).map(|_| scope.spawn(work)).collect();
        let mut all = (0, 0);
        for thread in threads {
            let (virtual_ms, events) = match thread.join() {
                Ok(end) => end?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            all = (all.0 + virtual_ms, all.1 + events);
        }
        Ok::<_, Box<sim::Failure>>(all)
    })?;
    let real = began.elapsed().as_secs_f64();
    println!(
        "{} s of virtual time in {real:.1} s: {:.0} times as fast; {events} events, {:.0} a second",
        virtual_ms / 1_000,
        virtual_ms as f64 / 1_000.0 / real,
        events as f64 / real,
    );
    Ok(())
}

/// Takes seed after seed until there are no more or one fails, here or in
/// another thread; the virtual time and the events of all.
fn simulate_each(
    wanted: &Sim,
    next: &AtomicU64,
    end: u64,
) -> Result<(u64, u64), Box<sim::Failure>> {
    let (mut virtual_ms, mut events) = (0, 0);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return Ok((virtual_ms, events));
        }
        let mut options = match wanted.soak {
            true => sim::Options::soak(seed),
            false => sim::Options {
                scenario: wanted.scenario,
                ..sim::Options::drawn(seed)
            },
        };
        options.total_ms = (wanted.hours * sim::HOUR_MS as f64) as u64;
        if let Some(nodes) = wanted.nodes {
            options = options.with_hosts(nodes.into());
        }
        match sim::run(seed, &options) {
            Ok(summary) => {
                virtual_ms += summary.virtual_ms;
                events += summary.stats.events;
                println!("{summary}");
            }
            Err(failure) => {
                next.store(end, Ordering::Relaxed);
                return Err(failure);
            }
        }
    }
}

/// One of Borg's cells.
fn cell(text: &str) -> Result<(char, Cell), String> {
    let mut letters = text.chars();
    let cell = match (letters.next(), letters.next()) {
        (Some(name), None) => Cell::named(name).map(|cell| (name, cell)),
        _ => None,
    };
    cell.ok_or_else(|| "the cells are a to h".to_owned())
}

/// `A..B`, or `A..` for without an end.
fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, last) = text
        .split_once("..")
        .ok_or("write A..B, or A.. for no end")?;
    let number = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok(number(first)?..if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    })
}

fn status(net: &Testnet, json: bool) {
    let states = net.node_states().unwrap_or_default();
    let rows: Vec<serde_json::Value> = net
        .nodes()
        .iter()
        .map(|place| {
            let processes = net.processes(&place.name);
            let state = states.iter().find(|(name, _)| *name == place.name);
            serde_json::json!({
                "name": place.name,
                "rack": place.rack,
                "address": place.address,
                "agent": processes.agent,
                "helpers": processes.helpers.len(),
                "tasks": processes.tasks.len(),
                "state": state.map(|(_, state)| state),
            })
        })
        .collect();
    if json {
        println!("{}", serde_json::Value::from(rows));
        return;
    }
    println!(
        "{:8} {:6} {:20} {:>8} {:>8}  STATE",
        "NODE", "RACK", "ADDRESS", "PID", "HELPERS"
    );
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let pid = row["agent"]
            .as_i64()
            .map_or_else(|| "-".into(), |pid| pid.to_string());
        println!(
            "{:8} {:6} {:20} {pid:>8} {:>8}  {}",
            text("name"),
            text("rack"),
            text("address"),
            row["helpers"].to_string(),
            text("state"),
        );
    }
}
