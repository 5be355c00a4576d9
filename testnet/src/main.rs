//! The program `potluck-testnet`, reached as `potluck testnet`.

use clap::{Args, Parser, Subcommand};
use potluck_specs::cause::chain;
use potluck_testnet::{
    bench, demo,
    net::{NetError, Testnet, TestnetOptions},
    scenario::Scenario,
    sim,
};
use std::{
    error::Error,
    ops::Range,
    path::PathBuf,
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
    /// Measure what docs/performance.md lists.
    Bench {
        /// Only measurements whose name holds this.
        only: Option<String>,
    },
}

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

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let root = std::path::absolute(&cli.root)?;
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
            Testnet::open(&root)?.kill(node)?;
            eprintln!("{node} is gone with all its processes");
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
        Command::Sim(wanted) => simulate(wanted)?,
        Command::Bench { only } => bench::run(only.as_deref())?,
    }
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
    let virtual_ms = std::thread::scope(|scope| {
        let work = || simulate_each(wanted, &next, seeds.end);
        let threads: Vec<_> = (0..wanted.threads).map(|_| scope.spawn(work)).collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ends.sum::<Result<u64, Box<sim::Failure>>>()
    })?;
    let real = began.elapsed().as_secs_f64();
    println!(
        "{} s of virtual time in {real:.1} s: {:.0} times as fast",
        virtual_ms / 1_000,
        virtual_ms as f64 / 1_000.0 / real
    );
    Ok(())
}

/// Takes seed after seed until there are no more or one fails, here or in
/// another thread; the virtual time of all.
fn simulate_each(wanted: &Sim, next: &AtomicU64, end: u64) -> Result<u64, Box<sim::Failure>> {
    let mut virtual_ms = 0;
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return Ok(virtual_ms);
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
                println!("{summary}");
            }
            Err(failure) => {
                next.store(end, Ordering::Relaxed);
                return Err(failure);
            }
        }
    }
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
