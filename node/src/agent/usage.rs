//! Samples of what tasks use.
//!
//! One actor for all tasks of the node: reads their counters every few seconds
//! and keeps what [`TaskUsage`] makes of them, in memory and in a file beside
//! the task's log, so that a restart of the agent loses at most what came since
//! the last writing. It waits for nothing but time and its token. What is read
//! goes away with the task's folders.

use super::{
    actor::{group_name, read_group_name},
    cgroups::Cgroups,
    folders::Folders,
};
use crate::{clock, spawn::spawn};
use potluck_core::{
    host::Run,
    usage::{Counters, TaskUsage},
};
use potluck_helper::{EndRecord, TaskEnd, end::ExitReason, group::Usage};
use potluck_specs::{Generation, JobName, SlotId, codec};
use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::interval,
};
use tokio_util::sync::CancellationToken;

/// Between two samples: peaks within a tenth of the time that counts, at a
/// handful of short files a task.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Samples between two writings: what a lost host or a killed agent may forget
/// is half a minute.
const WRITE_EVERY: u64 = 6;

/// Longest file: seven histograms of at most 976 buckets, of a dozen bytes each.
const FILE_BYTES_MAX: usize = 128 << 10;

type Key = (SlotId, Generation);

/// What is known of all tasks here.
#[derive(Clone, Debug, Default)]
pub(super) struct Usages(Arc<Mutex<BTreeMap<Key, Known>>>);

#[derive(Clone, Debug)]
struct Known {
    usage: TaskUsage,
    start: u32,
    before: Counters,
}

impl Usages {
    /// The job's tasks on this node.
    pub(super) fn of(&self, job: &JobName) -> Vec<TaskUsage> {
        let known = self.0.lock().expect("no one panics with this lock");
        let ours = known.values().filter(|one| one.usage.slot.job == *job);
        ours.map(|one| one.usage.clone()).collect()
    }

    /// Begins to take samples, until the token is cancelled; ends when all is
    /// written.
    pub(super) fn sample(
        &self,
        cgroups: Arc<Cgroups>,
        folders: Folders,
        token: CancellationToken,
    ) -> JoinHandle<()> {
        let usages = self.clone();
        spawn("usage sampler", async move {
            let mut ticks = interval(SAMPLE_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for round in 1_u64.. {
                let ended = tokio::select! {
                    () = token.cancelled() => true,
                    _ = ticks.tick() => false,
                };
                let (usages, cgroups, folders) = (usages.clone(), cgroups.clone(), folders.clone());
                let work = spawn_blocking(move || {
                    if !ended {
                        usages.take(&cgroups, &folders);
                    }
                    if ended || round % WRITE_EVERY == 0 {
                        usages.write(&folders);
                    }
                });
                work.await.expect("sampling does not panic");
                if ended {
                    return;
                }
            }
        })
    }

    fn take(&self, cgroups: &Cgroups, folders: &Folders) {
        let runs = cgroups.names().into_iter().filter_map(|name| {
            let run = read_group_name(&name)?;
            Some((name, run))
        });
        let mut present = BTreeMap::new();
        for (name, run) in runs {
            let counters = counters(&cgroups.usage(&name));
            let key = (run.slot.clone(), run.origin);
            // Of two starts of a task the later one counts.
            if present
                .get(&key)
                .is_none_or(|(start, _)| *start <= run.start)
            {
                present.insert(key, (run.start, counters));
            }
        }
        let mut known = self.0.lock().expect("no one panics with this lock");
        // What has ended keeps its figures in its folder; a start again of it
        // reads them there.
        let gone = |key: &Key| !present.contains_key(key);
        for one in known.values().filter(|one| gone(&one.key())) {
            write(folders, &one.usage);
        }
        known.retain(|key, _| !gone(key));
        for (key, (start, counters)) in present {
            match known.get_mut(&key) {
                Some(one) => one.add(start, counters),
                None => {
                    known.insert(key.clone(), begin(folders, key, start, counters));
                }
            }
        }
    }

    /// A task is being started: what it uses counts from here.
    pub(super) fn begin(&self, run: &Run, cgroups: &Cgroups, folders: &Folders) {
        let before = counters(&cgroups.usage(&group_name(run)));
        let key = (run.slot.clone(), run.origin);
        let mut known = self.0.lock().expect("no one panics with this lock");
        match known.get_mut(&key) {
            Some(one) => one.add(run.start, before),
            None => {
                known.insert(key.clone(), begin(folders, key, run.start, before));
            }
        }
    }

    /// A task has ended; its groups are there still, and its record. What it
    /// used since the last sample counts too.
    pub(super) fn end(&self, run: &Run, cgroups: &Cgroups, folders: &Folders) {
        let last = Counters {
            // Those of a group that is empty.
            memory_bytes: None,
            pids: None,
            ..counters(&cgroups.usage(&group_name(run)))
        };
        let exit = match EndRecord::read(&folders.start(run)) {
            Ok(Some(EndRecord {
                end: TaskEnd::Exited(exit),
                ..
            })) => Some(exit),
            _ => None,
        };
        let key = (run.slot.clone(), run.origin);
        let mut known = self.0.lock().expect("no one panics with this lock");
        let Some(one) = known.get_mut(&key).filter(|one| one.start == run.start) else {
            return;
        };
        // The kernel's peak counts every file that was read. It is told where
        // the limit was reached, and of what was too short for a sample.
        let peak = exit.filter(|exit| {
            exit.reason == ExitReason::MemoryLimit || one.usage.memory_peaks().count() == 0
        });
        let peak = peak.and_then(|exit| exit.memory_peak_bytes);
        let rates = last.since(&one.before);
        one.before = last;
        one.usage.end(clock::unix_now(), rates, peak);
        write(folders, &one.usage);
    }

    fn write(&self, folders: &Folders) {
        let all = self.0.lock().expect("no one panics with this lock").clone();
        all.values().for_each(|one| write(folders, &one.usage));
    }
}

impl Known {
    fn key(&self) -> Key {
        (self.usage.slot.clone(), self.usage.origin)
    }

    fn add(&mut self, start: u32, counters: Counters) {
        let same = self.start == start;
        let before = std::mem::replace(&mut self.before, counters);
        self.start = start;
        if let Some(rates) = counters.since(&before).filter(|_| same) {
            self.usage.add(clock::unix_now(), rates);
        }
    }
}

/// The first sample of a task that this agent sees; earlier ones may be in its
/// folder.
fn begin(folders: &Folders, (slot, origin): Key, start: u32, before: Counters) -> Known {
    let read = || {
        let bytes = fs::read(file(folders, &slot, origin)).ok()?;
        let usage: TaskUsage = codec::decode("usage", &bytes, FILE_BYTES_MAX).ok()?;
        (usage.slot == slot && usage.origin == origin).then_some(usage)
    };
    let usage = read();
    let usage = usage.unwrap_or_else(|| TaskUsage::new(slot, origin, clock::unix_now()));
    Known {
        usage,
        start,
        before,
    }
}

fn file(folders: &Folders, slot: &SlotId, origin: Generation) -> PathBuf {
    folders.generation(slot, origin).join("usage")
}

/// Whole or not at all; not synced, figures are no promise. A folder that is
/// gone is not made again.
fn write(folders: &Folders, usage: &TaskUsage) {
    let path = file(folders, &usage.slot, usage.origin);
    let new = path.with_extension("new");
    let written = fs::write(&new, codec::encode(usage)).and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(%error, slot = %usage.slot, "usage can't be written");
    }
}

fn counters(usage: &Usage) -> Counters {
    let pressure = usage.pressure;
    Counters {
        at: clock::boot_now(),
        cpu_us: usage.cpu_us,
        throttled_us: usage.throttled_us,
        memory_bytes: usage.memory_bytes,
        pids: usage.pids,
        read_bytes: usage.read_bytes,
        written_bytes: usage.written_bytes,
        cpu_wait_us: pressure.map(|one| one.cpu_us),
        memory_wait_us: pressure.map(|one| one.memory_us),
        io_wait_us: pressure.map(|one| one.io_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_core::usage::Rates;

    #[test]
    fn a_group_tells_whose_it_is() {
        let run = Run {
            slot: "shop/web[12]".parse().unwrap(),
            origin: Generation::default(),
            start: 3,
        };
        assert_eq!(read_group_name(&group_name(&run)), Some(run));
        for strange in ["", "probe", "web@1.2.3", "default.web.0@1.2#3"] {
            assert_eq!(read_group_name(strange), None, "{strange}");
        }
    }

    #[test]
    fn figures_outlive_the_agent_and_are_not_taken_for_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders::new(folder.path());
        let slot: SlotId = "web[0]".parse().unwrap();
        let origin = Generation::default();
        let key = || (slot.clone(), origin);
        let first = begin(&folders, key(), 1, Counters::default());
        assert_eq!(first.usage.pids.count(), 0);
        let mut usage = first.usage;
        let rates = Rates {
            pids: Some(4),
            ..Rates::default()
        };
        usage.add(clock::unix_now(), rates);
        // Without its folder nothing is written.
        write(&folders, &usage);
        assert_eq!(
            begin(&folders, key(), 2, Counters::default())
                .usage
                .pids
                .count(),
            0
        );
        fs::create_dir_all(folders.generation(&slot, origin)).unwrap();
        write(&folders, &usage);
        assert_eq!(begin(&folders, key(), 2, Counters::default()).usage, usage);
        // Torn: as if there were none.
        let path = file(&folders, &slot, origin);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(
            begin(&folders, key(), 2, Counters::default())
                .usage
                .pids
                .count(),
            0
        );
    }
}
