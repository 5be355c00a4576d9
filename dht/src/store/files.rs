//! Whole files or none: written beside their place, then renamed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use super::StoreError;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A name that no other call of this process, nor an earlier process, has given.
pub(crate) fn unique_name() -> String {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{count}", process_name())
}

/// Did this process make the name? Others' leavings may be removed.
pub(super) fn is_ours(name: &str) -> bool {
    name.split_once('-')
        .is_some_and(|(process, _)| process == process_name())
}

/// Names this process. Its id alone would not do: in a container it is the
/// same at each start.
fn process_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since_epoch.unwrap_or_default().as_nanos();
        format!("{}x{nanos:x}", std::process::id())
    })
}

/// Says which file failed, and tells a full disk apart.
pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { path }
            }
            _ => StoreError::Io { path, source },
        }
    }
}

/// Puts `bytes` at `path`, whole or not at all, through a file in `tmp`.
pub(super) fn write_whole(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let part = Part(tmp.join(unique_name()));
    let mut file = create_new(&part.0)?;
    file.write_all(bytes).map_err(at(path))?;
    drop(file);
    rename(&part.0, path)
}

fn create_new(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    options.open(path).map_err(at(path))
}

/// Renames, making the folder above the target if need be.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = to.parent() {
                fs::create_dir_all(above).map_err(at(above))?;
            }
            fs::rename(from, to).map_err(at(to))
        }
        other => other.map_err(at(to)),
    }
}

/// Removed when dropped, unless renamed away before.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The file's bytes; nothing if there is none. Reads at most `bytes_max + 1`.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let mut bytes = Vec::new();
    let limit = bytes_max as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(Some(bytes))
}

/// Removes a file and says how large it was; nothing if there was none.
pub(super) fn remove(path: &Path) -> Result<Option<u64>, StoreError> {
    let bytes = match fs::symlink_metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    match fs::remove_file(path) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Notes that a file was used just now.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    let times = fs::FileTimes::new().set_modified(SystemTime::now());
    File::open(path)?.set_times(times)
}

/// Removes a tree of read-only folders. Links in it are not followed.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path)
}
