//! What a client says of files, done; and where a path leads.

use super::wire::Attributes;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// Bits of a mode that can be set.
pub(super) const MODE_BITS: u32 = 0o7777;

/// Sets what is said of what is at a path.
pub(super) fn set(path: &Path, wanted: &Attributes) -> io::Result<()> {
    if let Some((user, group)) = wanted.owner {
        chown(path, Some(user), Some(group))?;
    }
    if let Some(mode) = wanted.mode {
        fs::set_permissions(path, Permissions::from_mode(mode & MODE_BITS))?;
    }
    if wanted.size.is_some() || wanted.times.is_some() {
        let file = OpenOptions::new()
            .read(wanted.size.is_none())
            .write(wanted.size.is_some())
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)?;
        let rest = Attributes {
            size: wanted.size,
            times: wanted.times,
            ..Attributes::default()
        };
        set_open(&file, &rest)?;
    }
    Ok(())
}

/// Sets what is said of an open file.
pub(super) fn set_open(file: &File, wanted: &Attributes) -> io::Result<()> {
    if let Some(size) = wanted.size {
        file.set_len(size)?;
    }
    if let Some((user, group)) = wanted.owner {
        fchown(file, Some(user), Some(group))?;
    }
    if let Some(mode) = wanted.mode {
        file.set_permissions(Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some((read, changed)) = wanted.times {
        let at = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
        let times = fs::FileTimes::new()
            .set_accessed(at(read))
            .set_modified(at(changed));
        file.set_times(times)?;
    }
    Ok(())
}

/// A path without links, as far as it exists; the rest by its text.
pub(super) fn real_path(path: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    for ancestor in whole.ancestors() {
        if let Ok(mut real) = ancestor.canonicalize() {
            let rest = whole.strip_prefix(ancestor).unwrap_or(Path::new(""));
            for part in rest.components() {
                match part {
                    Component::ParentDir => {
                        real.pop();
                    }
                    part => real.push(part),
                }
            }
            return Ok(real);
        }
    }
    Ok("/".into())
}
