//! What a task has on disk, and whether that is more than it asked for.
//!
//! A watched limit: one actor for each task that asked for disk looks at what
//! lies in its folders, one look at a time on a host, and tells when it is too
//! much. A task can so be over its limit for one pause; what it deleted and
//! still holds open is not seen. A file system's own project quota would see
//! both, and is not used yet. Leaves to the helper how the task is stopped, to
//! the actor whom to tell.

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    libc,
    sys::stat::{FileStat, Mode, SFlag, fstatat},
    unistd::dup,
};
use potluck_core::auction::bytes as size;
use std::{
    collections::BTreeSet,
    ffi::CStr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

/// Shortest pause between two looks at a task, and before the first: a start
/// on a folder that is too full has so long to clean up.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A pause is at least so many times as long as the look before it: looking at
/// one task takes no more than two hundredths of a core.
const PAUSE_PER_LOOK: u32 = 50;

/// Longest pause, however long looks take: a limit that is looked at less
/// often is none.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Longest wait for the looks at other tasks.
const TURN_WAIT: Duration = Duration::from_secs(60);

/// Files and folders of one task. More could not be looked at within seconds,
/// and count as too much: else empty files would hide full ones.
const ENTRIES_MAX: u64 = 1_000_000;

/// Folders in folders: each level holds two descriptors during a look. Deeper
/// ones count as too much, for the same reason.
const DEPTH_MAX: usize = 64;

/// One look at a time on a host: they share its disk.
static TURN: Semaphore = Semaphore::const_new(1);

/// A folder of a task, and what people call it.
pub(super) type Place = (&'static str, PathBuf);

/// Bytes of the data folder's file system that are not offered to tasks:
/// packages, the journal and the log of the control group need some, and so
/// does the host.
pub fn kept(total_bytes: u64) -> u64 {
    /// A tenth, as file systems slow down when they are nearly full.
    const PART: u64 = 10;
    /// At least this, on small disks.
    const LEAST: u64 = 1 << 30;
    (total_bytes / PART).max(LEAST)
}

/// Size of the file system that `folder`, or the nearest above it that there
/// is, lies on, and what of it an ordinary user may still have.
///
/// # Errors
/// What the file system says.
pub fn file_system(folder: &Path) -> nix::Result<(u64, u64)> {
    let there = folder.ancestors().find(|path| path.exists());
    let found = nix::sys::statvfs::statvfs(there.unwrap_or(Path::new("/")))?;
    let block = found.fragment_size();
    Ok((
        found.blocks().saturating_mul(block),
        found.blocks_available().saturating_mul(block),
    ))
}

/// What people should hear when the data folder's file system is nearly full.
pub(super) fn concern(folder: &Path) -> Option<String> {
    /// A twentieth of it, but no more than this: much on any disk.
    const PART: u64 = 20;
    const LEFT_MIN: u64 = 256 << 20;
    let (total, free) = file_system(folder).ok()?;
    (free < LEFT_MIN.min(total / PART)).then(|| {
        format!(
            "{} of {} are left where the data folder lies: when nothing is, logs can't be \
             written and the node takes and reports nothing new; tasks go on",
            size(free),
            size(total),
        )
    })
}

/// Looks again and again, and tells each time that it is too much: how much is
/// where, for people. Ends when it is told to.
pub(super) async fn watch<F>(
    places: Vec<Place>,
    bytes_max: u64,
    mut tell: impl FnMut(String) -> F + Send,
) where
    F: Future<Output = bool> + Send,
{
    let mut pause = LOOK_EVERY;
    loop {
        sleep(pause).await;
        let Ok(Ok(turn)) = timeout(TURN_WAIT, TURN.acquire()).await else {
            continue;
        };
        let begun = Instant::now();
        let looked = places.clone();
        let found = spawn_blocking(move || look(&looked, bytes_max)).await;
        drop(turn);
        pause = (begun.elapsed() * PAUSE_PER_LOOK).clamp(LOOK_EVERY, PAUSE_MAX);
        let found = found.expect("a look does not panic");
        if let Some(note) = found
            && !tell(note).await
        {
            return;
        }
    }
}

/// Nothing if all of it is within the limit, else what is too much.
fn look(places: &[Place], bytes_max: u64) -> Option<String> {
    let mut walk = Walk::default();
    let mut parts = Vec::new();
    let mut used = 0;
    for (what, path) in places {
        walk.bytes = 0;
        if let Err(why) = walk.place(path) {
            return Some(format!("{what}: {why}"));
        }
        used += walk.bytes;
        if walk.bytes > 0 {
            parts.push(format!("{what} {}", size(walk.bytes)));
        }
    }
    (used > bytes_max).then(|| {
        let (used, most) = (size(used), size(bytes_max));
        format!("{used} of {most}: {}", parts.join(", "))
    })
}

/// Too much, whatever its size is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum TooMuch {
    #[error("more than {ENTRIES_MAX} files")]
    Entries,
    #[error("folders are more than {DEPTH_MAX} deep in each other")]
    Depth,
    #[error("a folder can't be read: {}", .0.desc())]
    Closed(Errno),
}

/// A walk through folders that others write to meanwhile: by descriptor, no
/// link is followed, what is gone is passed over.
#[derive(Default)]
struct Walk {
    bytes: u64,
    entries: u64,
    /// Files with several names, which count once.
    seen: BTreeSet<(u64, u64)>,
}

const FOLDER: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Walk {
    fn place(&mut self, path: &Path) -> Result<(), TooMuch> {
        match Dir::open(path, FOLDER, Mode::empty()) {
            Ok(dir) => self.folder(dir, 1),
            Err(error) => passed_over(error),
        }
    }

    fn folder(&mut self, mut dir: Dir, depth: usize) -> Result<(), TooMuch> {
        if depth > DEPTH_MAX {
            return Err(TooMuch::Depth);
        }
        let at = match dup(&dir) {
            Ok(at) => at,
            Err(error) => return passed_over(error),
        };
        for entry in dir.iter() {
            let Ok(entry) = entry else {
                return Ok(());
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(TooMuch::Entries);
            }
            let Ok(found) = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            self.count(&found);
            if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                self.enter(&at, name, depth)?;
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        at: &std::os::fd::OwnedFd,
        name: &CStr,
        depth: usize,
    ) -> Result<(), TooMuch> {
        match Dir::openat(at, name, FOLDER, Mode::empty()) {
            Ok(dir) => self.folder(dir, depth + 1),
            Err(error) => passed_over(error),
        }
    }

    fn count(&mut self, found: &FileStat) {
        /// Of `st_blocks`, whatever the file system's own are.
        const BLOCK: u64 = 512;
        let several = found.st_nlink > 1 && found.st_mode & SFlag::S_IFMT.bits() != libc::S_IFDIR;
        if !several || self.seen.insert((found.st_dev, found.st_ino)) {
            self.bytes += found.st_blocks.unsigned_abs() * BLOCK;
        }
    }
}

/// Closed to us: the task could hide anything there. Gone, something else by
/// now, or the host's own trouble, such as no descriptor left: no fault of the
/// task's.
fn passed_over(error: Errno) -> Result<(), TooMuch> {
    match error {
        Errno::EACCES | Errno::EPERM => Err(TooMuch::Closed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    const MIB: u64 = 1 << 20;

    fn place(folder: &Path) -> Vec<Place> {
        vec![("folder", folder.to_owned())]
    }

    fn fill(path: PathBuf, bytes: u64) {
        fs::write(path, vec![7; bytes as usize]).unwrap();
    }

    #[test]
    fn what_lies_in_folders_is_counted_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        fill(other.path().join("big"), 8 * MIB);
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fill(at("a/b/c/file"), MIB);
        fs::hard_link(at("a/b/c/file"), at("a/again")).unwrap();
        symlink(other.path(), at("a/elsewhere")).unwrap();
        symlink(other.path().join("big"), at("big")).unwrap();
        // A hole takes no room.
        let hole = fs::File::create(at("hole")).unwrap();
        hole.set_len(1 << 40).unwrap();
        assert_eq!(look(&place(folder.path()), 2 * MIB), None);
        let over = look(&place(folder.path()), MIB / 2).unwrap();
        assert!(over.contains(" of 512 KiB: folder 1"), "{over}");
        let both = [place(folder.path()), vec![("volumes", other.path().into())]].concat();
        let over = look(&both, 4 * MIB).unwrap();
        assert!(over.starts_with("9"), "{over}");
        assert!(over.contains(", volumes 8"), "{over}");
        assert_eq!(look(&place(&at("nothing")), 0), None);
        assert_eq!(look(&place(&at("a/elsewhere")), 0), None, "a link");
    }

    #[test]
    fn what_can_t_be_looked_at_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let deep = |levels: usize| {
            let path = (0..levels).fold(folder.path().to_owned(), |path, _| path.join("d"));
            fs::create_dir_all(path).unwrap();
            look(&place(folder.path()), u64::MAX)
        };
        assert_eq!(deep(DEPTH_MAX - 1), None);
        let why = deep(DEPTH_MAX).unwrap();
        assert!(why.contains("64 deep"), "{why}");
        let mut walk = Walk {
            entries: ENTRIES_MAX,
            ..Walk::default()
        };
        assert_eq!(walk.place(folder.path()), Err(TooMuch::Entries));
        assert!(passed_over(Errno::EACCES).is_err());
    }

    #[test]
    fn a_file_system_is_offered_less_what_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (total, free) = file_system(&folder.path().join("not/there/yet")).unwrap();
        assert!(total > 0 && free <= total);
        assert_eq!(kept(100 << 30), 10 << 30);
        assert_eq!(kept(2 << 30), 1 << 30);
    }
}
