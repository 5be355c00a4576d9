//! Made-up traces in the shape that was published of Borg's cells of 2019:
//! Tirmazi et al., "Borg: the Next Generation", EuroSys 2020.
//!
//! Answers for jobs, arrivals and machine events whose distributions have the
//! published marks; no line of Google's traces is in here. Which marks are the
//! paper's and which are ours is said at each number, and in
//! `docs/simulator.md`. The paper's are from memory: only its abstract could be
//! had here to check.
//!
//! Logarithms and powers differ in their last digit from one C library to the
//! next, so that a seed gives the same trace on the same library only: save
//! the trace where that matters.

use super::{Event, Line, Trace};
use crate::sim::rng::Rng;
use potluck_specs::job::Resources;
use std::f64::consts::TAU;

/// Milliseconds of an hour and of a day.
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Paper: work per job (tasks × cores × time) has a Pareto tail of this
/// exponent, so heavy that a hundredth of the jobs does nearly all.
pub const WORK_ALPHA: f64 = 0.69;

/// Ours: least work of a job in core-seconds, and how many times that the
/// most is. A tail without an end has no mean for such an exponent.
const WORK_LEAST: f64 = 1.0;
const WORK_RANGE: f64 = 1e9;

/// Paper: 3,360 jobs an hour in a cell of some 12,000 machines.
const JOBS_PER_MACHINE_HOUR: f64 = 3_360.0 / 12_000.0;

/// Paper: load follows the day, in cell g (Singapore) at another time than in
/// the American ones. Ours: by how much.
const DAILY_SWING: f64 = 0.3;

/// Ours: a machine is taken away (an upgrade, a repair) twice a month, for 20
/// minutes, as the usual cause of evictions that are nobody's fault.
const MACHINE_AWAY_EVERY_MS: u64 = 15 * DAY_MS;
const MACHINE_AWAY_MS: u64 = 20 * 60_000;

/// Ours: jobs that run when the trace begins, and beyond its end, ask for so
/// much of all cores. With such a tail nearly all work is that of a few jobs
/// that run for weeks: what comes and goes within hours fills little.
const STANDING: f64 = 0.5;

/// They come within the first minute.
const STANDING_MS: u64 = 60_000;

/// Ours: machines of a rack.
const RACK: usize = 20;

/// Ours: cores and memory of the largest shape.
const LARGEST: Resources = Resources::new(64_000, 256 << 30);

/// Published of the cell of 2011 (Reiss et al., SoCC 2012, table 1), since the
/// shapes of 2019 are given as a plot: of a thousand machines so many have
/// these quarters of the largest one's cores and memory.
const SHAPES: [(u64, u64, u64); 5] = [(537, 2, 2), (308, 2, 1), (80, 2, 3), (64, 4, 4), (11, 1, 1)];

/// A tier of priorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// For free, first to go.
    Free,
    /// Batch without a promise.
    BestEffort,
    /// Between.
    Middle,
    /// Services.
    Production,
}

impl Tier {
    /// All of them, lowest first.
    pub const ALL: [Tier; 4] = [Tier::Free, Tier::BestEffort, Tier::Middle, Tier::Production];

    /// On our scale of 0 to 100; the paper's bands are 0 to 99, 110 to 115, 116
    /// to 119, 120 to 359.
    pub fn priority(self) -> u32 {
        match self {
            Tier::Free => 10,
            Tier::BestEffort => 30,
            Tier::Middle => 50,
            Tier::Production => 70,
        }
    }

    /// Paper: tasks of a job that 80 and 95 of a hundred don't exceed.
    pub fn tasks_at(self) -> (f64, f64) {
        match self {
            Tier::Free => (1.0, 21.0),
            Tier::BestEffort => (25.0, 498.0),
            Tier::Middle => (1.0, 67.0),
            Tier::Production => (1.0, 3.0),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Tier::Free => "free",
            Tier::BestEffort => "batch",
            Tier::Middle => "mid",
            Tier::Production => "prod",
        }
    }
}

/// One of the eight cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    name: char,
    /// Jobs of a thousand in each tier, as in [`Tier::ALL`].
    mix: [u64; 4],
    /// Hours by which its day is later.
    later_hours: u64,
}

/// Paper: the cells differ a lot, most work has moved from the free tier to
/// the best-effort one. Ours: the numbers.
const CELLS: [Cell; 8] = [
    cell('a', [100, 500, 50, 350], 0),
    cell('b', [150, 550, 30, 270], 0),
    cell('c', [50, 350, 50, 550], 0),
    cell('d', [30, 650, 60, 260], 0),
    cell('e', [200, 400, 20, 380], 0),
    cell('f', [60, 480, 90, 370], 0),
    cell('g', [80, 420, 40, 460], 15),
    cell('h', [20, 600, 80, 300], 0),
];

const fn cell(name: char, mix: [u64; 4], later_hours: u64) -> Cell {
    Cell {
        name,
        mix,
        later_hours,
    }
}

/// A job as it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Its tier.
    pub tier: Tier,
    /// Its tasks.
    pub tasks: u32,
    /// What each takes.
    pub each: Resources,
    /// All that it is going to do, in core-seconds.
    pub work: f64,
}

impl Drawn {
    /// How long all of its tasks run, side by side.
    fn lasts_ms(&self) -> u64 {
        /// Shorter ones are over before they are placed.
        const LEAST_MS: f64 = 10_000.0;
        let cores = f64::from(self.tasks) * f64::from(self.each.cpu_millis) / 1_000.0;
        (self.work / cores * 1_000.0).max(LEAST_MS) as u64
    }
}

/// Between 0 and 1, neither included.
fn fraction(rng: &mut Rng) -> f64 {
    const STEPS: u64 = 1 << 52;
    (rng.below(STEPS) as f64 + 0.5) / STEPS as f64
}

/// Pareto from `least` to `range` times that.
fn pareto(rng: &mut Rng, alpha: f64, least: f64, range: f64) -> f64 {
    let kept = 1.0 - range.powf(-alpha);
    least * (1.0 - fraction(rng) * kept).powf(-1.0 / alpha)
}

/// How many tasks: a Pareto tail through two percentiles, one task below it.
fn tasks(rng: &mut Rng, (at80, at95): (f64, f64), most: u32) -> u32 {
    let alpha = (0.20f64 / 0.05).ln() / (at95 / at80).ln();
    let above = 1.0 - fraction(rng);
    let tasks = at80 * (0.20 / above).powf(1.0 / alpha);
    (tasks.ceil() as u32).clamp(1, most)
}

/// Ours: what a task takes, from a twentieth of a core on, heavy in the tail
/// as sizes of jobs are; for each core between half a GiB and 16 GiB.
fn size(rng: &mut Rng) -> Resources {
    const CPU_ALPHA: f64 = 1.1;
    let cpu = pareto(rng, CPU_ALPHA, 50.0, 320.0) as u32;
    let gib_per_core = 0.5 * 32f64.powf(fraction(rng));
    let mib = (f64::from(cpu) / 1_000.0 * gib_per_core * 1_024.0).ceil();
    Resources::new(cpu, (mib as u64).max(16) << 20)
}

impl Cell {
    /// The cell of this letter, `a` to `h`.
    pub fn named(name: char) -> Option<Cell> {
        CELLS.into_iter().find(|cell| cell.name == name)
    }

    /// A job of at most so many tasks.
    pub fn draw(&self, tasks_most: u32, rng: &mut Rng) -> Drawn {
        let mut left = rng.below(self.mix.iter().sum());
        let tiers = Tier::ALL.into_iter().zip(self.mix);
        let tier = tiers.into_iter().find(|(_, share)| {
            let is_it = left < *share;
            left = left.saturating_sub(*share);
            is_it
        });
        let tier = tier.map_or(Tier::Production, |(tier, _)| tier);
        Drawn {
            tier,
            tasks: tasks(rng, tier.tasks_at(), tasks_most),
            each: size(rng),
            work: pareto(rng, WORK_ALPHA, WORK_LEAST, WORK_RANGE),
        }
    }

    /// Machines of a cell of so many, with their racks.
    pub fn machines(&self, count: usize, rng: &mut Rng) -> Vec<(String, Resources)> {
        let machine = |k: usize| {
            let mut left = rng.below(SHAPES.iter().map(|(share, ..)| share).sum());
            let shape = SHAPES.iter().find(|(share, ..)| {
                let is_it = left < *share;
                left = left.saturating_sub(*share);
                is_it
            });
            let (_, cpu, memory) = *shape.unwrap_or(&SHAPES[0]);
            let cpu = LARGEST.cpu_millis / 4 * cpu as u32;
            let total = Resources::new(cpu, LARGEST.memory_bytes / 4 * memory);
            (format!("r{}", k / RACK), total)
        };
        (0..count).map(machine).collect()
    }

    /// How much is asked for at a time, 1 on average.
    fn load_at(&self, ms: u64) -> f64 {
        let of_day = (ms + self.later_hours * HOUR_MS) % DAY_MS;
        1.0 + DAILY_SWING * (TAU * of_day as f64 / DAY_MS as f64).sin()
    }

    /// A trace of so many machines and milliseconds.
    pub fn trace(&self, machines: usize, length_ms: u64, rng: &mut Rng) -> Trace {
        let mut lines = Vec::new();
        let mut at = |at_ms: u64, event: Event| lines.push(Line { at_ms, event });
        let shapes = self.machines(machines, rng);
        let room: u64 = shapes
            .iter()
            .map(|(_, all)| u64::from(all.cpu_millis))
            .sum();
        let tasks_most = machines as u32 * 4;
        for (k, (rack, total)) in shapes.into_iter().enumerate() {
            let name = format!("m{k}");
            let up = Event::MachineUp { name, rack, total };
            at(0, up.clone());
            let mut away = wait(rng, MACHINE_AWAY_EVERY_MS as f64);
            while away < length_ms {
                let name = format!("m{k}");
                at(away, Event::MachineDown { name });
                let back = away + MACHINE_AWAY_MS;
                if back < length_ms {
                    at(back, up.clone());
                }
                away = back + wait(rng, MACHINE_AWAY_EVERY_MS as f64);
            }
        }
        let mut number = 0;
        let mut start = |at_ms: u64, job: &Drawn| {
            let name = format!("{}-{number}", job.tier.name());
            number += 1;
            let start = Event::JobStart {
                name: name.clone(),
                each: job.each,
                tasks: job.tasks,
                priority: job.tier.priority(),
            };
            at(at_ms, start);
            name
        };
        let mut asked = 0.0;
        while asked < STANDING * room as f64 {
            let job = self.draw(tasks_most, rng);
            asked += f64::from(job.tasks) * f64::from(job.each.cpu_millis);
            start(rng.below(STANDING_MS).min(length_ms), &job);
        }
        let mut ends = Vec::new();
        // Arrivals at the day's highest rate, thinned to that of their hour.
        let highest = JOBS_PER_MACHINE_HOUR * machines as f64 * (1.0 + DAILY_SWING);
        let pause = HOUR_MS as f64 / highest;
        let mut now = wait(rng, pause);
        while now < length_ms {
            if fraction(rng) * (1.0 + DAILY_SWING) < self.load_at(now) {
                let job = self.draw(tasks_most, rng);
                let name = start(now, &job);
                ends.push((now + job.lasts_ms(), name));
            }
            now += wait(rng, pause);
        }
        for (end, name) in ends {
            if end < length_ms {
                at(end, Event::JobEnd { name });
            }
        }
        lines.sort_by_key(|line| line.at_ms);
        Trace { lines }
    }
}

/// Between two of a Poisson process's events, in milliseconds; at least one.
fn wait(rng: &mut Rng, mean_ms: f64) -> u64 {
    ((-fraction(rng).ln() * mean_ms) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 40_000;

    fn drawn(seed: u64) -> Vec<Drawn> {
        let cell = Cell::named('a').unwrap();
        let mut rng = Rng::new(seed);
        (0..DRAWS).map(|_| cell.draw(10_000, &mut rng)).collect()
    }

    fn percentile(sorted: &[f64], of_hundred: usize) -> f64 {
        sorted[sorted.len() * of_hundred / 100]
    }

    #[test]
    fn work_has_the_published_tail() {
        for seed in 0..5 {
            let mut work: Vec<f64> = drawn(seed).iter().map(|job| job.work).collect();
            work.sort_by(f64::total_cmp);
            let top: f64 = work[DRAWS - DRAWS / 100..].iter().sum();
            let share = top / work.iter().sum::<f64>();
            // Of a million jobs it would be 0.97; so few hold no giant.
            assert!(share > 0.85, "the top hundredth does {share}");
            // Of a Pareto the percentiles say the exponent.
            let (p50, p99) = (percentile(&work, 50), percentile(&work, 99));
            let alpha = 50f64.ln() / (p99 / p50).ln();
            assert!((alpha - WORK_ALPHA).abs() < 0.03, "alpha {alpha}");
        }
    }

    #[test]
    fn jobs_have_as_many_tasks_as_was_published() {
        for seed in 0..5 {
            let jobs = drawn(seed);
            for tier in Tier::ALL {
                let of_tier: Vec<&Drawn> = jobs.iter().filter(|job| job.tier == tier).collect();
                let above = |tasks: f64| {
                    let more = of_tier.iter().filter(|job| f64::from(job.tasks) > tasks);
                    more.count() as f64 / of_tier.len() as f64
                };
                let (at80, at95) = tier.tasks_at();
                let (a, b) = (above(at80), above(at95));
                assert!((a - 0.20).abs() < 0.04, "{tier:?}: {a} above {at80}");
                assert!((b - 0.05).abs() < 0.02, "{tier:?}: {b} above {at95}");
            }
        }
    }

    #[test]
    fn machines_are_of_the_published_shapes() {
        let cell = Cell::named('h').unwrap();
        let machines = cell.machines(10_000, &mut Rng::new(1));
        for (share, cpu, memory) in SHAPES {
            let is_it = |total: &Resources| {
                total.cpu_millis == 16_000 * cpu as u32 && total.memory_bytes == memory << 36
            };
            let found = machines.iter().filter(|(_, total)| is_it(total)).count();
            let off = (found as f64 / 10.0 - share as f64).abs();
            assert!(off < 25.0, "{found} of {share} in a thousand");
        }
    }

    #[test]
    fn arrivals_follow_the_day_and_the_cell_s_clock() {
        let arrivals = |name: char| {
            let cell = Cell::named(name).unwrap();
            let trace = cell.trace(500, DAY_MS, &mut Rng::new(2));
            let starts = trace.lines.into_iter();
            let starts = starts.filter(|line| matches!(line.event, Event::JobStart { .. }));
            let starts = starts.filter(|line| line.at_ms >= STANDING_MS);
            starts.map(|line| line.at_ms).collect::<Vec<u64>>()
        };
        for (name, first_half_is_busy) in [('a', true), ('g', false)] {
            let all = arrivals(name);
            let wanted = 500.0 * JOBS_PER_MACHINE_HOUR * 24.0;
            let off = (all.len() as f64 - wanted).abs() / wanted;
            assert!(off < 0.06, "{} arrivals, {wanted} wanted", all.len());
            let early = all.iter().filter(|ms| **ms < DAY_MS / 2).count() * 2;
            assert_eq!(early > all.len(), first_half_is_busy, "{name}: {early}");
        }
    }

    #[test]
    fn there_are_eight_cells_and_no_ninth() {
        assert!(('a'..='h').all(|name| Cell::named(name).is_some()));
        assert_eq!(Cell::named('i'), None);
    }
}
