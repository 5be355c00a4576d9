//! How much of all tasks' logs a node keeps, and how long.
//!
//! Each helper holds its own log to what its job wants kept; this is the
//! node's bound over all of them, those of slots that are gone included. One
//! actor looks at the files now and then and removes the oldest segments. A
//! folder's newest segment stays: a helper may be writing it, and the numbers
//! of further lines go on from it.

use super::folders::Folders;
use crate::{clock, spawn::spawn};
use potluck_helper::log::{SegmentFile, segments};
use potluck_specs::Millis;
use std::{fs, path::PathBuf, time::Duration};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// Between two looks: what all tasks of a host log in that time is small
/// beside what is kept, and a look reads a folder of each task.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What a node keeps of logs, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRetention {
    /// Bytes of all segments but the newest of each task.
    pub bytes: u64,
    /// Segments that nothing was added to for this long go.
    pub age: Option<Duration>,
}

impl LogRetention {
    /// 10 GiB, and no limit of age.
    pub const DEFAULT: LogRetention = LogRetention {
        bytes: 10 << 30,
        age: None,
    };

    /// What is to go of these, the oldest first.
    fn surplus(&self, mut all: Vec<SegmentFile>, now: Millis) -> Vec<SegmentFile> {
        all.retain(|one| !one.is_newest);
        all.sort_by_key(|one| std::cmp::Reverse(one.written_at));
        let mut kept_bytes = 0_u64;
        let goes = |one: &SegmentFile| {
            let age = Duration::from_millis(now.since(one.written_at).0);
            kept_bytes = kept_bytes.saturating_add(one.bytes);
            kept_bytes > self.bytes || self.age.is_some_and(|most| age > most)
        };
        let mut surplus: Vec<SegmentFile> = all.into_iter().filter(goes).collect();
        surplus.reverse();
        surplus
    }
}

/// Looks after the logs until the token is cancelled.
pub(super) fn watch(folders: Folders, keep: LogRetention, token: CancellationToken) {
    spawn("log retention", async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            let folders = folders.clone();
            let removed = spawn_blocking(move || remove_surplus(&folders, keep));
            let removed = removed.await.expect("removing does not panic");
            if removed.files > 0 {
                let Removed { files, bytes } = removed;
                tracing::info!(files, bytes, "oldest segments of logs removed");
            }
        }
    });
}

#[derive(Default, Debug, PartialEq, Eq)]
struct Removed {
    files: usize,
    bytes: u64,
}

fn remove_surplus(folders: &Folders, keep: LogRetention) -> Removed {
    let all = folders.all_logs().into_iter().flat_map(segments_of);
    let mut removed = Removed::default();
    for one in keep.surplus(all.collect(), clock::unix_now()) {
        match fs::remove_file(&one.path) {
            Ok(()) => {
                removed.files += 1;
                removed.bytes += one.bytes;
            }
            // Its helper was faster, or its slot's folder is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(segment = %one.path.display(), %error, "log can't be removed");
            }
        }
    }
    removed
}

/// Those of a folder; none if it went away meanwhile.
fn segments_of(folder: PathBuf) -> Vec<SegmentFile> {
    segments(&folder).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_core::host::Run;
    use potluck_helper::log::{LogLimits, LogReader, LogWriter, Stream};
    use potluck_specs::{Epoch, Generation, Reign};

    /// A segment that was written so many seconds after the epoch.
    fn segment(name: &str, bytes: u64, at: u64, is_newest: bool) -> SegmentFile {
        SegmentFile {
            path: name.into(),
            bytes,
            written_at: Millis(1_000 * at),
            is_newest,
        }
    }

    fn names(surplus: &[SegmentFile]) -> Vec<&str> {
        let names = surplus.iter().map(|one| one.path.to_str().unwrap());
        names.collect()
    }

    #[test]
    fn the_oldest_of_all_tasks_go_first_and_the_newest_of_each_stay() {
        let all = vec![
            segment("web/1", 50, 30, false),
            segment("web/0", 50, 10, false),
            segment("web/2", 50, 90, true),
            segment("db/0", 50, 20, false),
            segment("db/1", 50, 5, true),
        ];
        let now = Millis(100_000);
        let surplus = |bytes, age: Option<u64>| {
            let age = age.map(Duration::from_secs);
            LogRetention { bytes, age }.surplus(all.clone(), now)
        };
        assert_eq!(names(&surplus(150, None)), [""; 0]);
        assert_eq!(names(&surplus(149, None)), ["web/0"]);
        assert_eq!(names(&surplus(50, None)), ["web/0", "db/0"]);
        assert_eq!(names(&surplus(0, None)), ["web/0", "db/0", "web/1"]);
        assert_eq!(names(&surplus(150, Some(80))), ["web/0"]);
        assert_eq!(names(&surplus(150, Some(79))), ["web/0", "db/0"]);
    }

    #[test]
    fn segments_on_disk_go_and_the_rest_can_be_read_on() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::new(data.path());
        let run = Run {
            slot: "web[0]".parse().unwrap(),
            origin: Generation {
                epoch: Epoch(1),
                reign: Reign(1),
                sequence: 1,
            },
            start: 1,
        };
        folders.prepare(&run).unwrap();
        let folder = folders.logs(&run.slot, run.origin);
        for text in ["one\n", "two\n", "three\n"] {
            let mut writer = LogWriter::open(&folder, LogLimits::default()).unwrap();
            writer.write(Stream::Out, text.as_bytes(), 1);
            writer.finish(1).unwrap();
        }
        let keep = LogRetention {
            bytes: 0,
            age: None,
        };
        let removed = remove_surplus(&folders, keep);
        assert_eq!(removed.files, 2);
        assert!(removed.bytes > 0);
        assert_eq!(remove_surplus(&folders, keep), Removed::default());
        let line = LogReader::new(&folder, 0).next_line().unwrap().unwrap();
        assert_eq!((line.seq, &line.text[..]), (2, &b"three"[..]));
    }
}
