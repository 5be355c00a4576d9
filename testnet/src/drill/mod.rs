//! Scenarios on real processes: the script that the simulator draws for a
//! seed, played by the clock on nodes that are processes, and at the end the
//! check that all heals.
//!
//! Answers for what of a script can be done to processes and for bringing it
//! about. What needs a network between the nodes (cuts in one direction, lost
//! or slow messages) can't: nodes of a testnet share one loopback. Who is cut
//! off in both directions is stopped (SIGSTOP) for as long, which ends the same
//! sessions but shows nothing of two sides that both act; a scenario that is
//! about those is refused.

mod healed;
mod people;
mod steps;

use crate::{
    net::{RunningTestnet, TestnetOptions},
    scenario::Scenario,
    sim::{self, Action, Options, rng::Rng},
    wait::{end_waits_on_interrupt, until},
};
use people::People;
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};
use steps::Stepper;

/// Nodes and racks: the smallest cluster with three voters of which no rack
/// has two, and with a spare host in each rack.
const NODES: u8 = 6;
const RACKS: u8 = 3;

/// How long a script is that nobody gave a length: what scenarios have of fixed
/// times fits into it.
pub const SECONDS: u64 = 40;

/// The shortest script, for the same reason.
pub const SECONDS_MIN: u64 = 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is to be played.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The kind of trouble.
    pub scenario: Scenario,
    /// What it is drawn from.
    pub seed: u64,
    /// How long the script goes on.
    pub seconds: u64,
    /// Second number of the nodes' addresses.
    pub block: u8,
    /// The folder of `potluck`, `potluck-helper` and `potluck-hello`, if not
    /// that of this program.
    pub programs: Option<PathBuf>,
}

/// Why a scenario can't be played on processes; `None`: it can.
pub fn obstacle(scenario: Scenario) -> Option<&'static str> {
    match scenario {
        Scenario::RackPartition | Scenario::BrokenSessions => Some(
            "both sides of a partition go on in it, which takes a network to cut: \
             nodes of a testnet share one loopback",
        ),
        Scenario::Random | Scenario::Batch | Scenario::Gangs | Scenario::Exclusive => Some(
            "most of its faults are those of a network or of a disk (cuts in one \
             direction, lost messages, death between two writes)",
        ),
        Scenario::Quiet => Some(
            "nothing is evened out before a minute has passed without trouble, \
             and a drill is shorter",
        ),
        _ => None,
    }
}

/// The world that a script is drawn for.
fn options(scenario: Scenario, seconds: u64) -> Options {
    Options {
        hosts: NODES.into(),
        racks: RACKS.into(),
        faulty_ms: seconds * 1_000,
        scenario,
        ..Options::default()
    }
}

impl Drill {
    /// Plays it in a folder of its own, says what it does, and checks that all
    /// heals.
    ///
    /// # Errors
    /// A scenario that can't be played, or what did not heal.
    pub fn run(&self) -> Outcome<()> {
        let name = self.scenario.name();
        if let Some(why) = obstacle(self.scenario) {
            let sim = format!("potluck testnet sim --scenario {name}");
            return Err(format!("{name} can't be played on processes: {why}; see {sim}").into());
        }
        end_waits_on_interrupt();
        let options = options(self.scenario, self.seconds);
        let folder = format!("potluck-drill-{}-{}", std::process::id(), self.block);
        let root = std::env::temp_dir().join(folder);
        let mut testnet = TestnetOptions {
            block: self.block,
            nodes: NODES,
            racks: RACKS,
            joined: options.founders() as u8,
            ..TestnetOptions::new(&root)
        };
        if let Some(programs) = &self.programs {
            testnet.programs.clone_from(programs);
        }
        let script = sim::draw(&mut Rng::new(self.seed), &options);
        if let Some((_, action)) = script.iter().find(|(_, action)| !steps::can(action)) {
            return Err(format!("{action:?} can't be done to processes").into());
        }
        let net = RunningTestnet::up(&testnet)?;
        let leader = net.leader()?;
        println!(
            "{name}, seed {}: {NODES} nodes in {RACKS} racks, {leader} leads",
            self.seed
        );
        let outcome = self.play(&net, &testnet, script);
        if outcome.is_err() {
            for name in net.names() {
                let log = net.log(&name);
                let lines: Vec<&str> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
                eprintln!("last of {name}'s log:\n  {}", last.join("\n  "));
            }
        }
        outcome
    }

    fn play(
        &self,
        net: &RunningTestnet,
        options: &TestnetOptions,
        script: Vec<(u64, Action)>,
    ) -> Outcome<()> {
        let people = People::new(net, options)?;
        let began = Instant::now();
        let changes = std::thread::scope(|scope| -> Outcome<Vec<people::Change>> {
            let mut stepper = Stepper::new(net, &people, scope, began);
            stepper.plan(script);
            let played = play_all(&mut stepper, began);
            // Also after a failed step: whoever is stopped must go on, or the
            // testnet's end would wait for it.
            stepper.heal()?;
            let answered = stepper.answers();
            played?;
            answered
        })?;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{seconds:5.1} s  no more faults; {} changes were accepted",
            changes.len()
        );
        let healed = healed::wait(net, &changes)?;
        println!("all heals: {healed}");
        Ok(())
    }
}

/// Lines of each node's log that a failure shows.
const LINES_SHOWN: usize = 15;

/// What is done on time may be late by this much before the run says nothing.
const STEP_LATE: Duration = Duration::from_secs(60);

fn play_all(stepper: &mut Stepper<'_, '_>, began: Instant) -> Outcome<()> {
    while let Some((ms, step)) = stepper.next() {
        let due = Duration::from_millis(ms);
        let what = format!("second {} of the script", ms / 1_000);
        until(&what, due + STEP_LATE, || match began.elapsed() >= due {
            true => Ok(()),
            false => Err("its time has not come"),
        })?;
        stepper.carry_out(step)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_played_or_says_why_not() {
        for scenario in Scenario::ALL {
            let options = options(scenario, SECONDS);
            for seed in 0..50 {
                let script = sim::draw(&mut Rng::new(seed), &options);
                let undoable = script.iter().find(|(_, action)| !steps::can(action));
                if obstacle(scenario).is_none() {
                    assert!(undoable.is_none(), "{}: {undoable:?}", scenario.name());
                }
            }
        }
    }
}
