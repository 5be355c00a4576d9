//! Files and folders as a stream, for copies into and out of tasks.
//!
//! Both ends are this file: in the task it runs as the task's own user behind
//! the task's own root and filters, so that no path can mean anything but what
//! it means to the task. Outside, a stream is taken for what a task may have
//! made up: [`receive_named`] writes below one name and nowhere else.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};
use tar::{Archive, Builder, EntryType, Header};

/// A copy that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file or folder.
    #[error("{path} can't be {what}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was wanted: read, written.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Neither a file, nor a folder, nor a link.
    #[error("{0} is a device, a pipe or a socket, which are not copied")]
    Special(PathBuf),
    /// Where it should go is no folder, or is in none.
    #[error("{0} is not a folder, so nothing can be put into it")]
    NoFolder(PathBuf),
    /// The stream ended early or is no archive.
    #[error("the stream of files is damaged or cut short")]
    Stream(#[source] io::Error),
    /// An entry that would be written elsewhere.
    #[error("the stream of files names {0}, which is not where it belongs")]
    Outside(PathBuf),
    /// What is no file, folder or link was left out; all else was copied.
    #[error(
        "{0} of the files are devices, pipes or sockets and were left out; the rest was copied"
    )]
    LeftOut(u64),
    /// Nothing came.
    #[error("the stream of files is empty")]
    Empty,
}

fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> ArchiveError + use<> {
    let path = path.into();
    move |source| ArchiveError::File { path, what, source }
}

/// Writes what is at `path` to `output`, under `name`. Links are kept as they
/// are, except that `path` itself may be one.
///
/// # Errors
/// Any [`ArchiveError`]; after [`ArchiveError::LeftOut`] the stream is whole.
pub fn send(output: impl Write, path: &Path, name: &str) -> Result<(), ArchiveError> {
    let mut builder = Builder::new(output);
    let found = fs::metadata(path).map_err(file(path, "read"))?;
    let mut todo = vec![(path.to_path_buf(), PathBuf::from(name), found)];
    let mut left_out = 0;
    while let Some((path, name, found)) = todo.pop() {
        append(&mut builder, &path, &name, &found)?;
        if !found.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&path).map_err(file(&path, "read"))? {
            let entry = entry.map_err(file(&path, "read"))?;
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            match entry.metadata() {
                // A socket of a running program must not spoil the copy.
                Ok(found) if is_special(&found) => {
                    eprintln!("left out: {}", path.display());
                    left_out += 1;
                }
                Ok(found) => todo.push((path, name, found)),
                // It went while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(file(&path, "read")(error)),
            }
        }
    }
    let mut output = builder.into_inner().map_err(ArchiveError::Stream)?;
    output.flush().map_err(ArchiveError::Stream)?;
    match left_out {
        0 => Ok(()),
        some => Err(ArchiveError::LeftOut(some)),
    }
}

fn is_special(found: &Metadata) -> bool {
    let kind = found.file_type();
    kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
}

fn append(
    builder: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    found: &Metadata,
) -> Result<(), ArchiveError> {
    let mut header = Header::new_gnu();
    header.set_mode(found.mode() & 0o777);
    header.set_mtime(found.mtime().max(0).cast_unsigned());
    let stream = ArchiveError::Stream;
    if found.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        return builder
            .append_data(&mut header, name, io::empty())
            .map_err(stream);
    }
    if found.is_symlink() {
        let to = fs::read_link(path).map_err(file(path, "read"))?;
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        return builder.append_link(&mut header, name, to).map_err(stream);
    }
    if is_special(found) {
        return Err(ArchiveError::Special(path.into()));
    }
    let content = File::open(path).map_err(file(path, "read"))?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(found.len());
    // A file that grows or shrinks meanwhile, as logs do, is as long as it was.
    let content = content.chain(io::repeat(0)).take(found.len());
    builder
        .append_data(&mut header, name, content)
        .map_err(stream)
}

/// Unpacks `input` at `path`: into it if it is a folder, in its place if not.
/// For use behind the task's own root: it follows the links that are there.
///
/// # Errors
/// Any [`ArchiveError`].
pub fn receive(input: impl Read, path: &Path) -> Result<(), ArchiveError> {
    let is_folder = path.is_dir();
    if !is_folder && path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(ArchiveError::NoFolder(path.into()));
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !is_folder && !parent.is_dir() {
        return Err(ArchiveError::NoFolder(parent.into()));
    }
    unpack(input, |name, rest| match is_folder {
        true => Ok(below(&path.join(name), rest)),
        false => Ok(below(path, rest)),
    })
}

/// Unpacks `input`, all of whose entries must be `name` or below it, into
/// `folder`. Nothing is written through a link that is not `folder`'s own.
///
/// # Errors
/// Any [`ArchiveError`].
pub fn receive_named(input: impl Read, folder: &Path, name: &str) -> Result<(), ArchiveError> {
    let root = folder.canonicalize().map_err(file(folder, "read"))?;
    unpack(input, |first, rest| {
        let place = below(&root.join(first), rest);
        let is_own = first == Path::new(name) && leads_through_no_link(&root, &place);
        match is_own {
            true => Ok(place),
            false => Err(ArchiveError::Outside(first.join(rest))),
        }
    })
}

/// As `join`, which would make a folder's path of a file's if there is no rest.
fn below(path: &Path, rest: &Path) -> PathBuf {
    match rest.as_os_str().is_empty() {
        true => path.into(),
        false => path.join(rest),
    }
}

/// Are all folders on the way real ones?
fn leads_through_no_link(root: &Path, place: &Path) -> bool {
    let mut parents = place.ancestors().skip(1);
    parents
        .by_ref()
        .take_while(|parent| *parent != root)
        .all(|parent| fs::symlink_metadata(parent).is_ok_and(|found| found.is_dir()))
}

/// Writes each entry where `place` says, given its first part and the rest.
fn unpack(
    input: impl Read,
    place: impl Fn(&Path, &Path) -> Result<PathBuf, ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut archive = Archive::new(input);
    let mut modes = Vec::new();
    let mut any = false;
    for entry in archive.entries().map_err(ArchiveError::Stream)? {
        let mut entry = entry.map_err(ArchiveError::Stream)?;
        let path = entry.path().map_err(ArchiveError::Stream)?.into_owned();
        let mut parts = path.components();
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let first = parts.next().filter(|part| plain(*part));
        let Some(first) = first.filter(|_| parts.clone().all(plain)) else {
            return Err(ArchiveError::Outside(path));
        };
        let to = place(Path::new(first.as_os_str()), parts.as_path())?;
        any = true;
        let written = file(&to, "written");
        match entry.header().entry_type() {
            EntryType::Directory => {
                // A link to a folder is none: what it leads to keeps its mode.
                if !fs::symlink_metadata(&to).is_ok_and(|found| found.is_dir()) {
                    fs::create_dir(&to).map_err(written)?;
                }
                // Last, since one that can't be written to can't be filled.
                modes.push((to, entry.header().mode().unwrap_or(0o755) & 0o777));
            }
            EntryType::Regular | EntryType::Symlink => {
                // Nothing is written through what is there.
                match fs::remove_file(&to) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(written(error));
                    }
                    _ => {}
                }
                entry.unpack(&to).map_err(written)?;
            }
            _ => return Err(ArchiveError::Special(path)),
        }
    }
    if !any {
        return Err(ArchiveError::Empty);
    }
    for (folder, mode) in modes.into_iter().rev() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&folder, mode).map_err(file(&folder, "written"))?;
    }
    Ok(())
}
