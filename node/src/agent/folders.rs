//! Where an agent keeps what, and how long.
//!
//! ```text
//! data/
//!   lock             held while an agent runs
//!   agent.redb       the journal
//!   agent.sock       helpers dial it
//!   mounts           folders of the host that tasks may mount, one a line
//!   volumes/<namespace>.<job>.<index>/<volume>/
//!   helpers/<hash>/potluck-helper
//!   tasks/<namespace>.<job>.<index>/<generation>/
//!     logs/          segments, written by helpers
//!     work/          the task's own folder, kept over its starts
//!     <start>/       description and record of the end of one start
//! ```

use potluck_core::host::Run;
use potluck_specs::{Epoch, Generation, JobName, Reign, SlotId};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Generations of a slot whose folders are kept: the present one and the one
/// before, for `logs --previous`.
const GENERATIONS_KEPT: usize = 2;

/// Folders of starts that are kept of a generation: the last ones say how the
/// task ended.
const STARTS_KEPT: usize = 3;

/// Slots that are over and whose logs can still be read.
const SLOTS_KEPT: usize = 64;

/// How names begin of folders that are to be removed.
const ASIDE: &str = "old-";

/// The agent's folders.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    data: PathBuf,
}

impl Folders {
    pub(super) fn new(data: &Path) -> Folders {
        Folders { data: data.into() }
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.data.join("agent.redb")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.data.join("agent.sock")
    }

    pub(super) fn helpers(&self) -> PathBuf {
        self.data.join("helpers")
    }

    /// Used while isolation is tried.
    pub(super) fn probe(&self) -> PathBuf {
        self.data.join("probe")
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    pub(super) fn allowed(&self) -> PathBuf {
        self.data.join("mounts")
    }

    pub(super) fn tasks(&self) -> PathBuf {
        self.data.join("tasks")
    }

    pub(super) fn slot(&self, slot: &SlotId) -> PathBuf {
        self.tasks().join(slot_name(slot))
    }

    pub(super) fn generation(&self, slot: &SlotId, origin: Generation) -> PathBuf {
        self.slot(slot).join(origin.to_string())
    }

    pub(super) fn logs(&self, slot: &SlotId, origin: Generation) -> PathBuf {
        self.generation(slot, origin).join("logs")
    }

    /// The folders of all logs, of slots that are gone too.
    pub(super) fn all_logs(&self) -> Vec<PathBuf> {
        let slots = names(&self.tasks()).into_iter();
        let slots = slots.map(|name| self.tasks().join(name));
        let generations = slots.flat_map(|slot| {
            let names = names(&slot).into_iter();
            names.map(move |name| slot.join(name).join("logs"))
        });
        generations.collect()
    }

    pub(super) fn work(&self, run: &Run) -> PathBuf {
        self.generation(&run.slot, run.origin).join("work")
    }

    /// All that a task can write to on disk, as people call it. Volumes that
    /// earlier versions of the job had lie there too.
    pub(super) fn on_disk(&self, run: &Run) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("folder", self.work(run)),
            ("volumes", self.volumes().join(slot_name(&run.slot))),
            ("logs", self.logs(&run.slot, run.origin)),
        ]
    }

    pub(super) fn start(&self, run: &Run) -> PathBuf {
        self.generation(&run.slot, run.origin)
            .join(run.start.to_string())
    }

    /// Generations of which there are folders, oldest first.
    pub(super) fn generations(&self, slot: &SlotId) -> Vec<Generation> {
        let mut all: Vec<Generation> = names(&self.slot(slot))
            .iter()
            .filter_map(|name| read_generation(name))
            .collect();
        all.sort();
        all
    }

    /// Starts of which there are folders, oldest first.
    pub(super) fn starts(&self, slot: &SlotId, origin: Generation) -> Vec<u32> {
        let mut all: Vec<u32> = names(&self.generation(slot, origin))
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        all.sort();
        all
    }

    /// All starts of a slot of which there are folders.
    pub(super) fn runs(&self, slot: &SlotId) -> Vec<Run> {
        let of = |origin| {
            let starts = self.starts(slot, origin).into_iter();
            starts.map(move |start| Run {
                slot: slot.clone(),
                origin,
                start,
            })
        };
        self.generations(slot).into_iter().flat_map(of).collect()
    }

    /// Makes the folders of a start, and removes those of older ones.
    pub(super) fn prepare(&self, run: &Run) -> io::Result<()> {
        for folder in [
            self.logs(&run.slot, run.origin),
            self.work(run),
            self.start(run),
        ] {
            fs::create_dir_all(folder)?;
        }
        let generations = self.generations(&run.slot);
        let older = generations.len().saturating_sub(GENERATIONS_KEPT);
        for generation in &generations[..older] {
            remove(&self.generation(&run.slot, *generation));
        }
        let starts = self.starts(&run.slot, run.origin);
        for start in &starts[..starts.len().saturating_sub(STARTS_KEPT)] {
            let start = *start;
            remove(&self.start(&Run {
                start,
                ..run.clone()
            }));
        }
        Ok(())
    }

    /// Renames the folders of slots that are not `held`, but for the latest
    /// [`SLOTS_KEPT`], and those that an earlier agent set aside; what is to be
    /// removed. Quick, so that no slot is filled meanwhile.
    pub(super) fn set_aside(&self, held: &BTreeSet<SlotId>) -> Vec<PathBuf> {
        let (aside, slots): (Vec<String>, Vec<String>) = names(&self.tasks())
            .into_iter()
            .partition(|name| name.starts_with(ASIDE));
        let mut old: Vec<(SystemTime, PathBuf)> = slots
            .iter()
            .filter(|name| read_slot(name).is_some_and(|slot| !held.contains(&slot)))
            .filter_map(|name| {
                let folder = self.tasks().join(name);
                Some((fs::metadata(&folder).ok()?.modified().ok()?, folder))
            })
            .collect();
        old.sort();
        old.truncate(old.len().saturating_sub(SLOTS_KEPT));
        let set_aside = old.into_iter().filter_map(|(_, folder)| {
            let name = folder.file_name()?.to_str()?;
            let target = self.tasks().join(format!("{ASIDE}{name}"));
            fs::rename(&folder, &target).ok()?;
            Some(target)
        });
        let aside = aside.iter().map(|name| self.tasks().join(name));
        let mut all: Vec<PathBuf> = aside.chain(set_aside).collect();
        all.sort();
        all
    }
}

/// What can't be removed now is tried again with the next start.
pub(super) fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "folder can't be removed");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// A file name for a slot; names are DNS labels, so dots are free.
pub(super) fn slot_name(slot: &SlotId) -> String {
    let JobName { namespace, name } = &slot.job;
    format!("{namespace}.{name}.{}", slot.index)
}

pub(super) fn read_slot(name: &str) -> Option<SlotId> {
    let [namespace, job, index] = name.split('.').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some(SlotId {
        job: JobName {
            namespace: namespace.into(),
            name: job.into(),
        },
        index: index.parse().ok()?,
    })
}

pub(super) fn read_generation(name: &str) -> Option<Generation> {
    let [epoch, reign, sequence] = name.split('.').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some(Generation {
        epoch: Epoch(epoch.parse().ok()?),
        reign: Reign(reign.parse().ok()?),
        sequence: sequence.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(sequence: u64, start: u32) -> Run {
        Run {
            slot: "team/web[7]".parse().unwrap(),
            origin: Generation {
                epoch: Epoch(1),
                reign: Reign(20),
                sequence,
            },
            start,
        }
    }

    #[test]
    fn folders_are_found_again_and_old_ones_go() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::new(data.path());
        for sequence in [9, 10, 11] {
            for start in 1..=5 {
                folders.prepare(&run(sequence, start)).unwrap();
            }
        }
        let run = run(11, 5);
        let sequences = folders.generations(&run.slot);
        let sequences: Vec<u64> = sequences.iter().map(|one| one.sequence).collect();
        assert_eq!(sequences, [10, 11]);
        assert_eq!(folders.starts(&run.slot, run.origin), [3, 4, 5]);
    }

    #[test]
    fn folders_of_slots_long_gone_are_set_aside() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::new(data.path());
        let mut held = BTreeSet::new();
        for index in 0..SLOTS_KEPT as u32 + 3 {
            let mut run = run(1, 1);
            run.slot.index = index;
            folders.prepare(&run).unwrap();
            if index == 0 {
                held.insert(run.slot);
            }
        }
        let old = folders.set_aside(&held);
        assert_eq!(old.len(), 2);
        assert_eq!(names(&folders.tasks()).len(), SLOTS_KEPT + 3);
        assert_eq!(
            folders.set_aside(&held),
            old,
            "an unfinished removal is found again"
        );
        old.iter().for_each(|folder| remove(folder));
        assert!(folders.set_aside(&held).is_empty());
        assert!(folders.slot(held.first().unwrap()).is_dir());
    }
}
