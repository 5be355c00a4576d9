//! A trace, gone through by the simulator: its machines come and go, its jobs
//! are asked for and stopped, and the schedulers and hosts of production do
//! with them what they do.
//!
//! Answers for how much of what was asked for runs, and how full the machines
//! are. All invariants are checked at each step, but for those that need a
//! world in which everything fits and heals: a trace may ask for more than
//! there is.

use super::{Event, Trace};
use crate::sim::{
    Failure, Options, Shape, Violation, World,
    queue::MS,
    script::{Action, Whom},
};
use std::{collections::BTreeMap, fmt, time::Instant};

/// Between two looks at what runs.
const LOOK_EVERY_MS: u64 = 1_000;

/// A trace's own times begin when the cluster has a leader.
const BEGIN_MS: u64 = 3_000;

/// As long as no trace is: who leaves for good is not heard of again.
const FOR_GOOD_MS: u64 = 1 << 40;

/// What became of a trace.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Machines and jobs that it names.
    pub machines: usize,
    /// Jobs that it asks for.
    pub jobs: usize,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Real seconds.
    pub real_s: f64,
    /// Events of the simulator.
    pub events: u64,
    /// Slots awarded.
    pub awards: u64,
    /// Most tasks that ran at once.
    pub running_most: usize,
    /// Most tasks that were wanted and did not run, at a look.
    pub missing_most: usize,
    /// The same at the end.
    pub missing_last: usize,
    /// Share of cores and of memory that was taken, on average and at most.
    pub cpu: (f64, f64),
    /// The same of memory.
    pub memory: (f64, f64),
    /// Cores and memory taken when a scheduler first found no place.
    pub at_first_refusal: Option<Fill>,
}

/// Shares of all living machines that are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fill {
    /// Of cores.
    pub cpu: f64,
    /// Of memory.
    pub memory: f64,
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, memory) = (self.cpu * 100.0, self.memory * 100.0);
        write!(f, "{cpu:.1} % of cores, {memory:.1} % of memory")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |(mean, most): (f64, f64)| (mean * 100.0, most * 100.0);
        let (cpu, memory) = (percent(self.cpu), percent(self.memory));
        writeln!(
            f,
            "{} machines, {} jobs, {} s in {:.1} s: {:.0} times as fast; {} events, {:.0} a second",
            self.machines,
            self.jobs,
            self.virtual_ms / 1_000,
            self.real_s,
            self.virtual_ms as f64 / 1_000.0 / self.real_s,
            self.events,
            self.events as f64 / self.real_s,
        )?;
        writeln!(
            f,
            "{} awards; at most {} tasks at once, at most {} missing, {} at the end",
            self.awards, self.running_most, self.missing_most, self.missing_last
        )?;
        writeln!(
            f,
            "cores taken: {:.1} % on average, {:.1} % at most",
            cpu.0, cpu.1
        )?;
        writeln!(
            f,
            "memory taken: {:.1} % on average, {:.1} % at most",
            memory.0, memory.1
        )?;
        match self.at_first_refusal {
            Some(fill) => write!(f, "first without a place: at {fill}"),
            None => write!(f, "there was a place for everything"),
        }
    }
}

/// The world of a trace, and what happens in it.
fn world_of(trace: &Trace, arguments: String) -> (Options, Vec<(u64, Action)>) {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shapes = Vec::new();
    // Founders first: the first hosts are those that are there at the begin.
    for founding in [true, false] {
        for line in &trace.lines {
            if let Event::MachineUp { name, rack, total } = &line.event
                && (line.at_ms == 0) == founding
                && !numbers.contains_key(name.as_str())
            {
                numbers.insert(name, shapes.len());
                shapes.push(Shape {
                    rack: rack.clone(),
                    total: *total,
                    joins: !founding,
                });
            }
        }
    }
    let founders = shapes.iter().filter(|shape| !shape.joins).count();
    let options = Options {
        hosts: shapes.len(),
        racks: 1,
        voters: if founders < 10 { 3 } else { 5 },
        shapes,
        arguments: Some(arguments),
        ..Options::calm()
    };
    let mut been: Vec<bool> = options.shapes.iter().map(|shape| !shape.joins).collect();
    let actions = trace.lines.iter().map(|line| {
        let action = match &line.event {
            Event::MachineUp { name, .. } => {
                let host = numbers[name.as_str()];
                match std::mem::replace(&mut been[host], true) {
                    true => Action::Start { host },
                    false => Action::Admit { host },
                }
            }
            Event::MachineDown { name } => Action::Crash {
                whom: Whom::Host(numbers[name.as_str()]),
                whole: true,
                down_ms: FOR_GOOD_MS,
            },
            Event::JobStart {
                name,
                each,
                tasks,
                priority,
            } => Action::Run {
                name: name.clone(),
                replicas: *tasks,
                each: *each,
                priority: *priority,
            },
            Event::JobEnd { name } => Action::Stop { name: name.clone() },
        };
        (BEGIN_MS + line.at_ms, action)
    });
    let actions = actions.collect();
    (options, actions)
}

/// Goes through a trace. `arguments`: what named it on the command line, for
/// the command that does the same again.
///
/// # Errors
/// The invariant that broke.
pub fn play(trace: &Trace, seed: u64, arguments: &str) -> Result<Report, Box<Failure>> {
    attempt(trace, seed, arguments, false).or_else(|_| attempt(trace, seed, arguments, true))
}

fn attempt(trace: &Trace, seed: u64, arguments: &str, keep: bool) -> Result<Report, Box<Failure>> {
    let (options, actions) = world_of(trace, arguments.to_owned());
    let mut world = World::new(seed, options.clone(), keep);
    for (ms, action) in actions {
        world.at(ms, action);
    }
    let starts = trace.lines.iter();
    let jobs = starts.filter(|line| matches!(line.event, Event::JobStart { .. }));
    let mut report = Report {
        machines: options.hosts,
        jobs: jobs.count(),
        ..Report::default()
    };
    match go(&mut world, trace.length_ms() + BEGIN_MS, &mut report) {
        Ok(()) => Ok(report),
        Err(violation) => {
            let trace = std::mem::take(&mut world.trace).about(&violation.what);
            Err(Box::new(Failure {
                seed,
                options,
                violation,
                trace,
            }))
        }
    }
}

fn go(world: &mut World, end_ms: u64, report: &mut Report) -> Result<(), Violation> {
    let began = Instant::now();
    let mut looks = 0.0;
    let mut sum = Fill::default();
    loop {
        let now = world.now() / MS;
        let next = (now + LOOK_EVERY_MS).min(end_ms);
        world.run_until(next)?;
        let fill = fill_of(world);
        looks += 1.0;
        sum.cpu += fill.cpu;
        sum.memory += fill.memory;
        report.cpu.1 = report.cpu.1.max(fill.cpu);
        report.memory.1 = report.memory.1.max(fill.memory);
        let (running, wanted) = (running(world), wanted(world));
        report.running_most = report.running_most.max(running);
        report.missing_last = wanted.saturating_sub(running);
        report.missing_most = report.missing_most.max(report.missing_last);
        if world.stats.unplaced > 0 {
            report.at_first_refusal.get_or_insert(fill);
        }
        if next == end_ms {
            break;
        }
    }
    report.cpu.0 = sum.cpu / looks;
    report.memory.0 = sum.memory / looks;
    report.virtual_ms = world.now() / MS;
    report.real_s = began.elapsed().as_secs_f64();
    report.events = world.stats.events;
    report.awards = world.stats.awards;
    Ok(())
}

/// Slots that the log wants.
pub(super) fn wanted(world: &World) -> usize {
    let jobs = world.control.truth.jobs().values();
    let wanted = jobs.filter(|record| !record.stopped);
    wanted
        .map(|record| record.current().replicas as usize)
        .sum()
}

/// Processes that run.
pub(super) fn running(world: &World) -> usize {
    world.machines.iter().map(|host| host.live().count()).sum()
}

/// What hosts have committed, of all that the living have.
pub(super) fn fill_of(world: &World) -> Fill {
    let (mut cpu, mut memory) = ((0, 0), (0, 0));
    for machine in &world.machines {
        let Some(host) = &machine.host else { continue };
        let taken = host.committed();
        cpu.0 += u64::from(taken.cpu_millis);
        cpu.1 += u64::from(machine.total.cpu_millis);
        memory.0 += taken.memory_bytes;
        memory.1 += machine.total.memory_bytes;
    }
    let share = |(taken, all): (u64, u64)| taken as f64 / all.max(1) as f64;
    Fill {
        cpu: share(cpu),
        memory: share(memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::traces::format;

    const TRACE: &str = "potluck-trace,1
time_ms,event,name,rack,cpu_millis,memory_mib,tasks,priority
0,machine-up,m0,r0,4000,8192,,
0,machine-up,m1,r1,4000,8192,,
0,machine-up,m2,r2,4000,8192,,
1000,job-start,web,,1000,1024,6,50
20000,machine-up,late,r1,8000,16384,,
30000,machine-down,m0,,,,,
60000,job-start,vast,,3500,1024,9,50
90000,machine-up,m0,r0,4000,8192,,
100000,job-end,vast,,,,,
130000,job-end,web,,,,,
140000,job-start,last,,1000,1024,1,50
";

    #[test]
    fn a_trace_is_gone_through_as_it_is_written() {
        let trace = format::read(TRACE).unwrap();
        let report = play(&trace, 1, "--trace x").unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((report.machines, report.jobs), (4, 3));
        assert!(report.running_most >= 7, "{report}");
        // Nine times 3,500 fit nowhere: of them two at most, beside `web`.
        assert!(report.missing_most >= 6, "{report}");
        let fill = report.at_first_refusal.expect("some have no place");
        assert!(fill.cpu > 0.3 && fill.cpu < 1.0, "{fill}");
        assert!(
            report.cpu.0 < report.cpu.1 && report.cpu.1 <= 1.0,
            "{report}"
        );
        let again = play(&trace, 1, "--trace x").unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((report.events, report.awards), (again.events, again.awards));
    }
}
