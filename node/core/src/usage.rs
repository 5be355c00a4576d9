//! What tasks use: samples in histograms that can be added up.
//!
//! Answers for turning a task's counters, read every few seconds, into rates
//! and peaks and for keeping them in bounded room. Reading the counters is the
//! agent's; what to recommend from them is another's. No floats: histograms are
//! stored and sent, and two nodes must add them up alike.

use potluck_specs::{Generation, Millis, SlotId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Memory counts by its peak within this time: what is freed a moment later was
/// needed all the same.
pub const PEAK_MS: u64 = 300_000;

/// Steps within a doubling: a bucket is at most a sixteenth wide, far below
/// what limits are rounded to.
const STEPS: u64 = 16;

/// Counts by size, in buckets that grow with the value.
///
/// Values below 16 have a bucket each; above, each doubling has 16. So there
/// are at most 976, and a task that does the same all day fills a handful.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    buckets: BTreeMap<u16, u64>,
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        *self.buckets.entry(bucket(value)).or_default() += 1;
    }

    /// Adds another's counts: of another task of the job, or another day.
    pub fn merge(&mut self, other: &Histogram) {
        for (bucket, count) in &other.buckets {
            let ours = self.buckets.entry(*bucket).or_default();
            *ours = ours.saturating_add(*count);
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.values();
        counts.fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// A value that so many thousandths of all do not pass: the upper end of
    /// its bucket, so never too little.
    pub fn quantile(&self, thousandths: u64) -> Option<u64> {
        let count = u128::from(self.count());
        let rank = (count * u128::from(thousandths.min(1_000))).div_ceil(1_000);
        let mut seen = 0_u128;
        for (bucket, count) in &self.buckets {
            seen += u128::from(*count);
            if seen >= rank.max(1) {
                return Some(highest(*bucket));
            }
        }
        None
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> u16 {
    if value < STEPS {
        return value as u16;
    }
    let doubling = u64::from(value.ilog2()) - 4;
    let step = (value >> doubling) - STEPS;
    (STEPS + doubling * STEPS + step) as u16
}

/// The largest value of a bucket.
fn highest(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < STEPS {
        return bucket;
    }
    let (doubling, step) = ((bucket - STEPS) / STEPS, (bucket - STEPS) % STEPS);
    let above = u128::from(STEPS + step + 1) << doubling;
    u64::try_from(above - 1).unwrap_or(u64::MAX)
}

/// What a task used within a sample, each in its unit. What the host does not
/// tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Thousandths of the time in which a quota held it up.
    pub throttled: Option<u64>,
    /// Bytes of memory, files not used for long left out.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from disks a second.
    pub read_bytes_per_s: Option<u64>,
    /// Bytes written to disks a second.
    pub written_bytes_per_s: Option<u64>,
    /// Thousandths of the time in which some of it waited for a processor.
    pub cpu_pressure: Option<u64>,
    /// The same, for memory.
    pub memory_pressure: Option<u64>,
    /// The same, for disks.
    pub io_pressure: Option<u64>,
}

/// All that is kept of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUsage {
    /// Whose.
    pub slot: SlotId,
    /// The generation that its tasks share; a start again goes on with it.
    pub origin: Generation,
    /// The first sample, Unix.
    pub since: Millis,
    /// The last one, Unix.
    pub at: Millis,
    /// That last one.
    pub now: Rates,
    /// Thousandths of a core.
    pub cpu_millis: Histogram,
    /// Peaks of memory, each of five minutes.
    pub memory_bytes: Histogram,
    /// The peak of the five minutes that run.
    pub memory_peak_bytes: u64,
    /// Processes and threads.
    pub pids: Histogram,
    /// Bytes read and written a second.
    pub io_bytes_per_s: Histogram,
    /// Thousandths of the time in which some of it waited for memory.
    pub memory_pressure: Histogram,
    /// When the five minutes that run began, Unix.
    pub peak_since: Millis,
    /// Thousandths of the time in which some of it waited for a processor.
    #[serde(default)]
    pub cpu_pressure: Histogram,
    /// The same, for disks.
    #[serde(default)]
    pub io_pressure: Histogram,
}

impl TaskUsage {
    /// Nothing yet.
    pub fn new(slot: SlotId, origin: Generation, now: Millis) -> TaskUsage {
        TaskUsage {
            slot,
            origin,
            since: now,
            at: now,
            now: Rates::default(),
            cpu_millis: Histogram::default(),
            memory_bytes: Histogram::default(),
            memory_peak_bytes: 0,
            pids: Histogram::default(),
            io_bytes_per_s: Histogram::default(),
            memory_pressure: Histogram::default(),
            peak_since: now,
            cpu_pressure: Histogram::default(),
            io_pressure: Histogram::default(),
        }
    }

    /// Takes what came between the last sample and the end of a process, and a
    /// peak of memory that no sample saw. What it used last stays told.
    pub fn end(&mut self, now: Millis, last: Option<Rates>, peak_bytes: Option<u64>) {
        if let Some(rates) = last {
            let shown = self.now;
            self.add(now, rates);
            self.now = shown;
        }
        let peak = peak_bytes.unwrap_or_default();
        self.memory_peak_bytes = self.memory_peak_bytes.max(peak);
    }

    /// Takes a sample.
    pub fn add(&mut self, now: Millis, rates: Rates) {
        self.at = now;
        self.now = rates;
        let both = [rates.read_bytes_per_s, rates.written_bytes_per_s];
        let io = both.into_iter().flatten().reduce(u64::saturating_add);
        for (histogram, value) in [
            (&mut self.cpu_millis, rates.cpu_millis),
            (&mut self.pids, rates.pids),
            (&mut self.io_bytes_per_s, io),
            (&mut self.cpu_pressure, rates.cpu_pressure),
            (&mut self.memory_pressure, rates.memory_pressure),
            (&mut self.io_pressure, rates.io_pressure),
        ] {
            if let Some(value) = value {
                histogram.add(value);
            }
        }
        let Some(bytes) = rates.memory_bytes else {
            return;
        };
        // A clock that was set back makes the five minutes longer, no more.
        if now.0.saturating_sub(self.peak_since.0) >= PEAK_MS {
            self.memory_bytes.add(self.memory_peak_bytes);
            self.memory_peak_bytes = 0;
            self.peak_since = now;
        }
        self.memory_peak_bytes = self.memory_peak_bytes.max(bytes);
    }

    /// Peaks of memory, with that of the five minutes that run.
    pub fn memory_peaks(&self) -> Histogram {
        let mut all = self.memory_bytes.clone();
        if self.memory_peak_bytes > 0 {
            all.add(self.memory_peak_bytes);
        }
        all
    }
}

/// A task's counters at one moment, as the kernel has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// When, on a clock that is never set.
    pub at: Millis,
    /// Time on processors, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time held up by a quota, in microseconds.
    pub throttled_us: Option<u64>,
    /// Bytes of memory now.
    pub memory_bytes: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub written_bytes: Option<u64>,
    /// Time waited for a processor, in microseconds.
    pub cpu_wait_us: Option<u64>,
    /// Time waited for memory, in microseconds.
    pub memory_wait_us: Option<u64>,
    /// Time waited for disks, in microseconds.
    pub io_wait_us: Option<u64>,
}

impl Counters {
    /// What happened since earlier counters of the same start. Nothing if no
    /// time passed, or if they are of another start: counters never fall.
    pub fn since(&self, before: &Counters) -> Option<Rates> {
        let ms = self.at.0.checked_sub(before.at.0).filter(|ms| *ms > 0)?;
        if self.cpu_us < before.cpu_us {
            return None;
        }
        let rise = |now: Option<u64>, before: Option<u64>| now?.checked_sub(before?);
        // Microseconds in milliseconds are thousandths.
        let share = |now, before| Some(rise(now, before)? / ms);
        let per_s = |now, before| Some(rise(now, before)?.saturating_mul(1_000) / ms);
        Some(Rates {
            cpu_millis: share(self.cpu_us, before.cpu_us),
            throttled: share(self.throttled_us, before.throttled_us),
            memory_bytes: self.memory_bytes,
            pids: self.pids,
            read_bytes_per_s: per_s(self.read_bytes, before.read_bytes),
            written_bytes_per_s: per_s(self.written_bytes, before.written_bytes),
            cpu_pressure: share(self.cpu_wait_us, before.cpu_wait_us),
            memory_pressure: share(self.memory_wait_us, before.memory_wait_us),
            io_pressure: share(self.io_wait_us, before.io_wait_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_a_sixteenth_wide(value in any::<u64>()) {
            let top = highest(bucket(value));
            prop_assert!(top >= value);
            prop_assert!(u128::from(top) <= u128::from(value) + u128::from(value) / 16);
            prop_assert!(bucket(value) < 976);
            prop_assert!(value == u64::MAX || bucket(value + 1) >= bucket(value));
        }

        #[test]
        fn histograms_are_added_up_in_any_order(
            a in prop::collection::vec(any::<u64>(), 0..40),
            b in prop::collection::vec(any::<u64>(), 0..40),
        ) {
            let (mut left, mut right) = (of(&a), of(&b));
            left.merge(&of(&b));
            right.merge(&of(&a));
            prop_assert_eq!(&left, &right);
            let all: Vec<u64> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(left, of(&all));
        }
    }

    #[test]
    fn quantiles_are_never_too_low() {
        assert_eq!(of(&[]).quantile(500), None);
        let all = of(&(1..=100).collect::<Vec<_>>());
        assert_eq!(all.count(), 100);
        assert_eq!(all.quantile(0), Some(1));
        assert_eq!(all.quantile(100), Some(10));
        let median = all.quantile(500).unwrap();
        assert!((50..=53).contains(&median), "{median}");
        assert!((100..=106).contains(&all.quantile(1_000).unwrap()));
    }

    #[test]
    fn memory_counts_by_its_peak_of_five_minutes() {
        let slot: SlotId = "web[0]".parse().unwrap();
        let mut usage = TaskUsage::new(slot, Generation::default(), Millis(0));
        let at = |memory: u64| Rates {
            memory_bytes: Some(memory),
            ..Rates::default()
        };
        for second in 0..60_u64 {
            usage.add(
                Millis(second * 5_000),
                at(if second == 7 { 900 } else { 100 }),
            );
        }
        assert_eq!(usage.memory_bytes.count(), 0);
        assert_eq!(usage.memory_peaks().quantile(1_000), Some(927));
        usage.add(Millis(PEAK_MS), at(200));
        assert_eq!(usage.memory_bytes, of(&[900]));
        assert_eq!(usage.memory_peak_bytes, 200);
        assert_eq!(usage.memory_peaks(), of(&[900, 200]));
    }

    #[test]
    fn the_end_counts_and_a_peak_between_samples_too() {
        let slot: SlotId = "web[0]".parse().unwrap();
        let mut usage = TaskUsage::new(slot, Generation::default(), Millis(0));
        let sampled = Rates {
            cpu_millis: Some(10),
            memory_bytes: Some(100),
            ..Rates::default()
        };
        usage.add(Millis(1_000), sampled);
        let last = Rates {
            cpu_millis: Some(900),
            io_pressure: Some(5),
            cpu_pressure: Some(7),
            ..Rates::default()
        };
        usage.end(Millis(2_000), Some(last), Some(700));
        assert_eq!(usage.cpu_millis, of(&[10, 900]));
        assert_eq!(usage.memory_peaks(), of(&[700]));
        assert_eq!((usage.now, usage.at), (sampled, Millis(2_000)));
        assert_eq!(usage.cpu_pressure, of(&[7]));
        assert_eq!(usage.io_pressure, of(&[5]));
        usage.end(Millis(3_000), None, None);
        assert_eq!(usage.memory_peaks(), of(&[700]));
    }

    #[test]
    fn counters_become_rates_and_those_of_another_start_do_not() {
        let counters = |at: u64, cpu: u64| Counters {
            at: Millis(at),
            cpu_us: Some(cpu),
            read_bytes: Some(cpu * 2),
            memory_bytes: Some(7),
            ..Counters::default()
        };
        let rates = counters(6_000, 3_000_000).since(&counters(1_000, 500_000));
        let rates = rates.unwrap();
        assert_eq!(rates.cpu_millis, Some(500));
        assert_eq!(rates.read_bytes_per_s, Some(1_000_000));
        assert_eq!(rates.memory_bytes, Some(7));
        assert_eq!((rates.pids, rates.io_pressure), (None, None));
        assert_eq!(counters(6_000, 1).since(&counters(1_000, 500_000)), None);
        assert_eq!(counters(1_000, 9).since(&counters(1_000, 9)), None);
    }
}
