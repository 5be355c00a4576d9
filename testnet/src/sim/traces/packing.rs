//! How full a cluster gets before the first task finds no place: by ours, by
//! best fit, by best fit that looks at the proportion of resources, by chance.
//! All get the same jobs on the same machines.
//!
//! Ours is the whole of it, in the simulator: calls, bids, awards, hosts. The
//! peers are a line each, keep nothing but what is free, and know no racks:
//! ours spreads tasks of a job over racks and hosts first and packs second. None
//! is a bound: the tightest host is the wrong one when what it has free is all of
//! one resource, so that best fit by the scarcer resource ends behind chance.

use super::{
    borg::Cell,
    play::{Fill, fill_of, running, wanted},
};
use crate::sim::{Options, Shape, Violation, World, queue::MS, rng::Rng, script::Action};
use potluck_specs::job::Resources;

/// Jobs of the same kind, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// How many tasks.
    pub tasks: u32,
    /// What each takes.
    pub each: Resources,
}

/// What each way of placing reached.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    /// Ours.
    pub ours: Fill,
    /// The host on which the least is left of its scarcer resource.
    pub best_fit: Fill,
    /// The host from which the task takes most nearly in the proportion in which
    /// it has free, of those the one with the least left: what ours weighs,
    /// without a spread and with a look at every host.
    pub aligned: Fill,
    /// Any host with room.
    pub random: Fill,
    /// Tasks that ours placed.
    pub tasks: usize,
}

/// Machines and jobs of a cell: more jobs than can fit.
#[derive(Clone, Debug)]
pub struct Case {
    machines: Vec<(String, Resources)>,
    jobs: Vec<Ask>,
    seed: u64,
}

impl Case {
    /// A case of so many machines.
    pub fn drawn(cell: Cell, machines: usize, seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let machines = cell.machines(machines, &mut rng);
        let all = machines.iter();
        let room: u64 = all.map(|(_, total)| u64::from(total.cpu_millis)).sum();
        // No job is more than a hundredth of the cluster: else the one that
        // finds no place says more of itself than of the packing.
        let most = room / 100;
        let (mut jobs, mut asked) = (Vec::new(), 0);
        while asked <= room {
            let job = cell.draw(machines.len() as u32, &mut rng);
            let each = u64::from(job.each.cpu_millis);
            let tasks = u64::from(job.tasks).min(most / each).max(1);
            asked += tasks * each;
            jobs.push(Ask {
                tasks: tasks as u32,
                each: job.each,
            });
        }
        Case {
            machines,
            jobs,
            seed,
        }
    }

    /// The same with other memory for each task, in hundredths of what was drawn:
    /// as drawn these cells run out of memory long before cores.
    pub fn with_memory(mut self, hundredths: u64) -> Case {
        for job in &mut self.jobs {
            let mib = (job.each.memory_bytes >> 20) * hundredths / 100;
            job.each.memory_bytes = mib.max(1) << 20;
        }
        self
    }

    /// Packs it in each way.
    ///
    /// # Errors
    /// An invariant that broke in the simulator.
    pub fn pack(&self) -> Result<Packing, Violation> {
        let (ours, tasks) = self.ours()?;
        let mut rng = Rng::new(self.seed).fork();
        Ok(Packing {
            ours,
            best_fit: self.by(left_of),
            aligned: self.by(misfit_of),
            random: self.by(|_, _, _| rng.number()),
            tasks,
        })
    }

    /// Takes the fitting host with the lowest rank for each task.
    fn by(&self, mut rank: impl FnMut(Resources, Resources, Resources) -> u64) -> Fill {
        let mut free: Vec<Resources> = self.machines.iter().map(|(_, total)| *total).collect();
        let tasks = self.jobs.iter();
        let tasks = tasks.flat_map(|job| (0..job.tasks).map(|_| job.each));
        for each in tasks {
            let hosts = free.iter().zip(&self.machines).enumerate();
            let able = hosts.filter(|(_, (free, _))| free.fits(&each));
            let ranked = able.map(|(at, (free, (_, total)))| (rank(*free, *total, each), at));
            let Some((_, at)) = ranked.min() else { break };
            free[at] = free[at].minus(each);
        }
        let all = self.machines.iter().map(|(_, total)| *total);
        let (total, free) = (sum(all), sum(free.into_iter()));
        let share = |free: u64, total: u64| 1.0 - free as f64 / total as f64;
        Fill {
            cpu: share(free.0, total.0),
            memory: share(free.1, total.1),
        }
    }

    fn ours(&self) -> Result<(Fill, usize), Violation> {
        /// A leader is there.
        const BEGIN_MS: u64 = 3_000;
        const LOOK_EVERY_MS: u64 = 20;
        /// What runs by then or was refused is all that there will be.
        const JOB_LONGEST_MS: u64 = 20_000;
        let shapes = self.machines.iter().map(|(rack, total)| Shape {
            rack: rack.clone(),
            total: *total,
            joins: false,
        });
        let options = Options {
            hosts: self.machines.len(),
            voters: 3,
            shapes: shapes.collect(),
            ..Options::calm()
        };
        let mut world = World::new(self.seed, options, false);
        world.run_until(BEGIN_MS)?;
        for (number, job) in self.jobs.iter().enumerate() {
            let now = world.now() / MS;
            let before = wanted(&world);
            world.at(
                now,
                Action::Run {
                    name: format!("job-{number}"),
                    replicas: job.tasks,
                    each: job.each,
                    priority: 50,
                },
            );
            let all = before + job.tasks as usize;
            for look in 1..=JOB_LONGEST_MS / LOOK_EVERY_MS {
                world.run_until(now + look * LOOK_EVERY_MS)?;
                let settled = wanted(&world) == all && running(&world) == all;
                if settled || world.stats.unplaced > 0 {
                    break;
                }
            }
            if running(&world) < all {
                break;
            }
        }
        Ok((fill_of(&world), running(&world)))
    }
}

/// What would be left of the resource that is scarcer then, in millionths.
fn left_of(free: Resources, total: Resources, each: Resources) -> u64 {
    let left = free.minus(each);
    let share = |left: u64, total: u64| (left as f64 / total as f64 * 1e6) as u64;
    let cpu = share(left.cpu_millis.into(), total.cpu_millis.into());
    cpu.min(share(left.memory_bytes, total.memory_bytes))
}

/// What would be left, and by how much the task's proportion is another than
/// that of what is free, twice as important; in millionths.
fn misfit_of(free: Resources, total: Resources, each: Resources) -> u64 {
    let shares = |of: Resources| {
        let cpu = f64::from(of.cpu_millis) / f64::from(total.cpu_millis);
        (cpu, of.memory_bytes as f64 / total.memory_bytes as f64)
    };
    let (free, asked, left) = (shares(free), shares(each), shares(free.minus(each)));
    let square = |(x, y): (f64, f64)| x * x + y * y;
    let cross = free.0 * asked.1 - free.1 * asked.0;
    let sine = cross * cross / (square(free) * square(asked));
    ((2.0 * sine + left.0 + left.1) * 1e6) as u64
}

fn sum(all: impl Iterator<Item = Resources>) -> (u64, u64) {
    all.fold((0, 0), |(cpu, memory), one| {
        (cpu + u64::from(one.cpu_millis), memory + one.memory_bytes)
    })
}
