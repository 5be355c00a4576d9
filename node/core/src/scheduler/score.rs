//! What a place costs: all weights, each with its reason.
//!
//! Answers for the price of one more task of a job on a host; the lowest
//! wins. Prices are whole numbers and add up, so that an explanation can name
//! what each part cost. A price never falls because a *different* host was
//! given a task: the ranking in `rank` stands on that.

use super::index::{LEVELS, Place};
use potluck_specs::{
    NodeId,
    job::{Level, Resources},
};
use std::fmt;

/// Most slots of a job: as many of its tasks may stand in one place.
const TASKS_MAX: i64 = 10_000;

/// A bandwidth-heavy task in the same rack: above everything else together,
/// so that two share an uplink only when every rack has one.
const UPLINK: i64 = 4_000_000_000;

/// A task of the job in the same place at the first level that the spec names,
/// then at the next ones. What a person asked for outweighs every preference
/// (4,000 at most) and all that follows, and each level outweighs the next.
const SPREAD_ASKED: [i64; LEVELS] = [64_000, 32_000, 16_000, 12_000, 8_000];

/// The same at the widest level with more than one place, when the spec names
/// none: a preference of its default weight (50) outweighs two tasks.
const SPREAD_DEFAULT: i64 = 1_000;

/// A task of the job in the same rack, where something wider is divided: racks
/// fail more often than what is above them.
const SPREAD_DEFAULT_RACK: i64 = 600;

/// A task of the job on the same host: below the default spread, so that a
/// rack more counts before a host more; above fetching, since a host that
/// fails takes both.
const SAME_NODE: i64 = 400;

/// One point of a preference (-100 to 100).
const PREFERENCE: i64 = 40;

/// A host that comes and goes: gets work only where no steady one takes it,
/// however many of the job's tasks that one has around it.
const FLAPPING: i64 = 2_000_000_000;

/// More than all that follows can add up to beside spread: preferences, volumes
/// and failures are thousands each, the rest is less.
const ALL_ELSE: i64 = 1_000_000;

const _: () = {
    let (mut asked, mut level) = (0, 0);
    while level < LEVELS {
        asked += SPREAD_ASKED[level];
        level += 1;
    }
    assert!(FLAPPING > asked * TASKS_MAX + ALL_ELSE);
    assert!(UPLINK > FLAPPING + asked * TASKS_MAX + ALL_ELSE);
};

/// A former node of a task with volumes: its data is there. Above the default
/// spread, below one that was asked for.
const FORMER_NODE: i64 = 3_000;

/// A failure of this job's tasks there lately, counted to five: a host that
/// broke two of them is worth a rack less.
const FAILURE: i64 = 600;
const FAILURES_COUNTED: i64 = 5;

/// Each doubling of the bytes that are to be fetched: 1 GB costs 300, less
/// than sharing a host, since fetching is over soon.
const FETCH: i64 = 10;

/// All of a host free, CPU and memory alike: the tightest fit leaves large holes
/// for large tasks.
const ROOM: i64 = 100;

/// What is free and what is asked are at right angles: all CPU where all memory
/// is asked. A task that takes from a host in the proportion in which that has
/// free leaves nothing of one without the other. The alignment of Panigrahy et
/// al., "Heuristics for vector bin packing" (2011), as the square of the sine,
/// weighed against [`ROOM`] by trying: with either alone a cluster is less full
/// when the first task finds no place (docs/performance.md).
const STRANDED: i64 = 100;

/// A hundredth of pressure beyond half: such a host is slow whatever it has
/// promised.
const PRESSURE: i64 = 12;
const PRESSURE_FROM: i64 = 50;

/// A tenth of a second of age of the host's report, counted to 25: in old ones
/// others may have taken the room.
const AGE: i64 = 6;

/// Why a place costs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Bandwidth-heavy tasks in its rack.
    Uplink,
    /// Tasks of the job in the same place.
    Spread {
        /// Which level.
        level: Level,
    },
    /// The host comes and goes.
    Flapping,
    /// Preferences of the job.
    Preference,
    /// The slot was here before, with its volumes.
    FormerNode,
    /// Tasks of the job failed here lately.
    Failures,
    /// Bytes of the package that are missing.
    Fetch,
    /// Room that stays free.
    Room,
    /// One resource would be left without the other.
    Stranded,
    /// The host works hard.
    Pressure,
    /// The host's report is old.
    Age,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Part::Uplink => "heavy tasks on the rack's uplink",
            Part::Spread { level } => return write!(f, "tasks in the {}", level.name()),
            Part::Flapping => "comes and goes",
            Part::Preference => "preferences",
            Part::FormerNode => "its volumes are here",
            Part::Failures => "failures here",
            Part::Fetch => "bytes to fetch",
            Part::Room => "room left over",
            Part::Stranded => "resources left unpaired",
            Part::Pressure => "pressure",
            Part::Age => "age of its report",
        };
        f.write_str(text)
    }
}

/// A host that may take some of the slots, with all that its price depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) node: NodeId,
    /// Its number in the index.
    pub(super) number: u32,
    pub(super) place: Place,
    /// How many it can take.
    pub(super) slots: u32,
    pub(super) free: Resources,
    pub(super) total: Resources,
    /// Tasks of the job in its place at each level, before this call.
    pub(super) tasks: [u32; LEVELS],
    /// Bandwidth-heavy tasks in its rack, before this call.
    pub(super) heavy: u32,
    pub(super) preference: i64,
    pub(super) former: bool,
    pub(super) flapping: bool,
    pub(super) failures: u32,
    pub(super) missing_bytes: u64,
    pub(super) pressure: u8,
    pub(super) age_ms: u64,
}

/// What a job makes of prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    /// For each task of the job in the same place.
    pub(super) spread: [i64; LEVELS],
    /// The job's tasks are bandwidth-heavy.
    pub(super) heavy: bool,
}

impl Weights {
    /// Of a spec's levels, or of the default ones: the widest that is
    /// divided, racks, and nodes.
    pub(super) fn new(asked: &[Level], heavy: bool, divided: impl Fn(Level) -> bool) -> Weights {
        let mut spread = [0; LEVELS];
        spread[Level::Node as usize] = SAME_NODE;
        for (level, weight) in asked.iter().zip(SPREAD_ASKED) {
            spread[*level as usize] = weight;
        }
        if asked.is_empty()
            && let Some(widest) = Level::ALL.into_iter().find(|level| divided(*level))
        {
            if divided(Level::Rack) {
                spread[Level::Rack as usize] = SPREAD_DEFAULT_RACK;
            }
            spread[widest as usize] = SPREAD_DEFAULT;
        }
        Weights { spread, heavy }
    }
}

impl Offer {
    /// An offer of which nothing is known but where it is.
    pub(super) fn at(node: NodeId, place: Place) -> Offer {
        Offer {
            node,
            number: u32::MAX,
            place,
            slots: 1,
            free: Resources::ZERO,
            total: Resources::ZERO,
            tasks: [0; LEVELS],
            heavy: 0,
            preference: 0,
            former: false,
            flapping: false,
            failures: 0,
            missing_bytes: 0,
            pressure: 0,
            age_ms: 0,
        }
    }

    /// Each part of the price of one more task here, after `more` tasks of
    /// this call in its place at each level.
    pub(super) fn parts(
        &self,
        weights: &Weights,
        need: Resources,
        more: &[u32; LEVELS],
        mut each: impl FnMut(Part, i64),
    ) {
        let rack = Level::Rack as usize;
        if weights.heavy {
            each(Part::Uplink, UPLINK * i64::from(self.heavy + more[rack]));
        }
        for level in Level::ALL {
            let at = level as usize;
            if weights.spread[at] != 0 {
                let tasks = i64::from(self.tasks[at]) + i64::from(more[at]);
                each(Part::Spread { level }, weights.spread[at] * tasks);
            }
        }
        each(Part::Flapping, FLAPPING * i64::from(self.flapping));
        each(Part::Preference, -PREFERENCE * self.preference);
        each(Part::FormerNode, -FORMER_NODE * i64::from(self.former));
        let failures = i64::from(self.failures).min(FAILURES_COUNTED);
        each(Part::Failures, FAILURE * failures);
        let doublings = u64::BITS - self.missing_bytes.leading_zeros();
        each(Part::Fetch, FETCH * i64::from(doublings));
        let free = self.free.minus(need.times(more[Level::Node as usize]));
        let left = sum(shares(free.minus(need), self.total));
        each(Part::Room, ROOM * left / (2 * WHOLE));
        each(Part::Stranded, misaligned(free, need, self.total));
        let pressure = i64::from(self.pressure) - PRESSURE_FROM;
        each(Part::Pressure, PRESSURE * pressure.max(0));
        each(Part::Age, AGE * (self.age_ms / 100).min(25) as i64);
    }

    pub(super) fn price(&self, weights: &Weights, need: Resources, more: &[u32; LEVELS]) -> i64 {
        let mut sum = 0;
        self.parts(weights, need, more, |_, cost| sum += cost);
        sum
    }
}

/// All of a resource, in the parts that shares are counted in: fine enough to
/// tell hosts apart that are nearly full, small enough for the square of a
/// product of two, times a hundred, to fit into 64 bits.
const WHOLE: i64 = 1 << 14;

/// Parts of CPU and of memory that are free.
fn shares(free: Resources, total: Resources) -> (i64, i64) {
    let part = |free: u64, total: u64| free.min(total) * WHOLE as u64 / total.max(1);
    let cpu = part(free.cpu_millis.into(), total.cpu_millis.into());
    // In MiB, so that no product leaves the range.
    let memory = part(free.memory_bytes >> 20, total.memory_bytes >> 20);
    (cpu as i64, memory as i64)
}

fn sum((cpu, memory): (i64, i64)) -> i64 {
    cpu + memory
}

/// The proportion of CPU and memory that a task asks for, each by what the host
/// has of it; the larger is the whole.
fn proportion(need: Resources, total: Resources) -> (i64, i64) {
    let cpu = u64::from(need.cpu_millis) * (total.memory_bytes >> 20).min(1 << 31);
    let memory = (need.memory_bytes >> 20).min(1 << 31) * u64::from(total.cpu_millis);
    let unit = (cpu.max(memory) / WHOLE as u64).max(1);
    let part = |amount: u64| (amount / unit).min(WHOLE as u64) as i64;
    (part(cpu), part(memory))
}

/// [`STRANDED`] times the square of the sine between what is free and what is
/// asked. Nothing where either is nothing.
fn misaligned(free: Resources, need: Resources, total: Resources) -> i64 {
    let (a, b) = (shares(free, total), proportion(need, total));
    let square = |(x, y): (i64, i64)| x * x + y * y;
    let cross = a.0 * b.1 - a.1 * b.0;
    STRANDED * (cross * cross) / (square(a) * square(b)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: Resources = Resources::new(16_000, 64 << 30);

    #[test]
    fn a_task_that_takes_in_proportion_strands_nothing() {
        // Free and asked in hundredths of a host, CPU and memory; the price.
        let table = [
            ((100, 100), (10, 10), 0),
            ((50, 50), (10, 10), 0),
            ((80, 40), (20, 10), 0),
            ((100, 0), (0, 10), 100),
            ((0, 100), (10, 0), 100),
            ((100, 100), (10, 0), 50),
            ((30, 10), (10, 30), 64),
            ((0, 0), (10, 10), 0),
            ((10, 10), (0, 0), 0),
        ];
        let of = |(cpu, memory): (u32, u64)| Resources::new(cpu * 160, (memory << 30) * 64 / 100);
        for (free, need, price) in table {
            let found = misaligned(of(free), of(need), TOTAL);
            assert!((found - price).abs() <= 1, "{free:?} {need:?}: {found}");
        }
    }

    #[test]
    fn the_largest_hosts_leave_no_range() {
        let largest = Resources::new(u32::MAX, u64::MAX);
        let smallest = Resources::new(1, 1 << 20);
        for total in [largest, smallest, Resources::ZERO] {
            for free in [largest, smallest, Resources::ZERO] {
                for need in [largest, smallest, Resources::ZERO] {
                    let price = misaligned(free, need, total);
                    assert!((0..=STRANDED).contains(&price), "{price}");
                    let offer = Offer {
                        free,
                        total,
                        ..Offer::at(NodeId([1; 32]), [0; LEVELS])
                    };
                    let weights = Weights::new(&[], false, |_| false);
                    let price = offer.price(&weights, need, &[0; LEVELS]);
                    assert!((0..=ROOM + STRANDED).contains(&price), "{price}");
                }
            }
        }
    }
}
