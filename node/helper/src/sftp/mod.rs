//! A server of SFTP, for the files that a session sees: what `sftp` and `scp`
//! speak with.
//!
//! It runs as `archive` does, in the session's own process behind the task's
//! root, user and filters, so paths mean what they mean to the task, and there
//! is nothing to guard here but its own memory. Relative paths begin in the
//! task's folder. One request at a time, answered in order.
//!
//! ```text
//! packet ─▶ wire (pure) ─▶ Server: one method a request ─▶ wire ─▶ packet
//! ```

mod change;
mod list;
mod wire;

use change::{MODE_BITS, real_path, set, set_open};
use std::{
    fs::{self, File, OpenOptions, ReadDir},
    io::{self, BufReader, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};
use wire::{Answer, Attributes, Fields, VERSION, kind, read_packet};

/// Files and folders that are open at once; a client has one or two.
const HANDLES_MAX: usize = 32;

/// Bytes of one read. A client takes less for "ask again".
const READ_BYTES_MAX: u32 = 128 << 10;

/// Entries of a folder in one answer: with names of 255 bytes, twice, far
/// below a packet.
const ENTRIES_MAX: usize = 64;

/// What OpenSSH's client asks beside the draft: a rename that replaces, a hard
/// link, a sync; with the version of each.
const EXTENSIONS: [&str; 3] = [RENAME, LINK, SYNC];
const RENAME: &str = "posix-rename@openssh.com";
const LINK: &str = "hardlink@openssh.com";
const SYNC: &str = "fsync@openssh.com";

/// How a file is to be opened.
mod open {
    pub(super) const READ: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const APPEND: u32 = 4;
    pub(super) const CREATE: u32 = 8;
    pub(super) const TRUNCATE: u32 = 16;
    pub(super) const NEW: u32 = 32;
}

/// Modes of what is made and says none.
const FILE_MODE: u32 = 0o666;

/// Speaks with the client until it leaves.
///
/// # Errors
/// The streams fail, or what comes is no SFTP.
pub fn serve(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut server = Server::default();
    while let Some(packet) = read_packet(&mut input)? {
        output.write_all(&server.answer(&packet)?.bytes())?;
        output.flush()?;
    }
    Ok(())
}

/// What a request that fails is answered with.
enum Refusal {
    /// Of a file or a folder.
    End,
    Io(io::Error),
    /// The packet ends too early.
    Malformed,
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Io(error)
    }
}

type Answered = Result<Answer, Refusal>;

#[derive(Default)]
struct Server {
    handles: [Option<Handle>; HANDLES_MAX],
    has_begun: bool,
}

enum Handle {
    File(File),
    Folder(PathBuf, ReadDir),
}

impl Server {
    /// What is no request ends the session.
    fn answer(&mut self, packet: &[u8]) -> io::Result<Answer> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "what came is no SFTP");
        let mut fields = Fields(packet);
        let what = fields.byte().ok_or_else(broken)?;
        // The version, or the number of the request.
        let number = fields.number().ok_or_else(broken)?;
        if what == kind::INIT && !self.has_begun && number >= VERSION {
            self.has_begun = true;
            let hello = Answer::new(kind::VERSION).number(VERSION);
            return Ok(EXTENSIONS
                .iter()
                .fold(hello, |hello, name| hello.text(name.as_bytes()).text(b"1")));
        }
        if !self.has_begun {
            return Err(broken());
        }
        let done = self.serve(what, number, &mut fields);
        Ok(done.unwrap_or_else(|refusal| status(number, &refusal)))
    }

    fn serve(&mut self, what: u8, id: u32, fields: &mut Fields<'_>) -> Answered {
        let malformed = || Refusal::Malformed;
        let path =
            |fields: &mut Fields<'_>| fields.path().map(Path::to_owned).ok_or_else(malformed);
        match what {
            kind::OPEN => self.open(id, fields),
            kind::CLOSE => {
                *self.slot(fields)? = None;
                Ok(done(id))
            }
            kind::READ => self.read(id, fields),
            kind::WRITE => {
                let file = self.file(fields)?;
                let at = fields.long().ok_or_else(malformed)?;
                file.write_all_at(fields.text().ok_or_else(malformed)?, at)?;
                Ok(done(id))
            }
            kind::STAT => Ok(told(id, &fs::metadata(path(fields)?)?)),
            kind::LSTAT => Ok(told(id, &fs::symlink_metadata(path(fields)?)?)),
            kind::FSTAT => Ok(told(id, &self.file(fields)?.metadata()?)),
            kind::SETSTAT => {
                let path = path(fields)?;
                let wanted = fields.attributes().ok_or_else(malformed)?;
                set(&path, &wanted)?;
                Ok(done(id))
            }
            kind::FSETSTAT => {
                let file = self.file(fields)?.try_clone()?;
                let wanted = fields.attributes().ok_or_else(malformed)?;
                set_open(&file, &wanted)?;
                Ok(done(id))
            }
            kind::OPENDIR => {
                let path = path(fields)?;
                let entries = fs::read_dir(&path)?;
                self.keep(id, Handle::Folder(path, entries))
            }
            kind::READDIR => self.list(id, fields),
            kind::REMOVE => Ok(fs::remove_file(path(fields)?).map(|()| done(id))?),
            kind::MKDIR => {
                let path = path(fields)?;
                let wanted = fields.attributes().ok_or_else(malformed)?;
                fs::create_dir(&path)?;
                set(
                    &path,
                    &Attributes {
                        mode: wanted.mode,
                        ..Attributes::default()
                    },
                )?;
                Ok(done(id))
            }
            kind::RMDIR => Ok(fs::remove_dir(path(fields)?).map(|()| done(id))?),
            kind::REALPATH => Ok(named(id, &real_path(&path(fields)?)?)),
            kind::RENAME => {
                let (from, to) = (path(fields)?, path(fields)?);
                // By the draft, what is there is not replaced.
                fs::hard_link(&from, &to)
                    .and_then(|()| fs::remove_file(&from))
                    .or_else(|error| match fs::symlink_metadata(&to).is_err() {
                        // A folder, or a file system without links.
                        true => fs::rename(&from, &to),
                        false => Err(error),
                    })?;
                Ok(done(id))
            }
            kind::READLINK => Ok(named(id, &fs::read_link(path(fields)?)?)),
            kind::SYMLINK => {
                // OpenSSH's order, which is not the draft's.
                let (target, link) = (path(fields)?, path(fields)?);
                Ok(symlink(target, link).map(|()| done(id))?)
            }
            kind::EXTENDED => self.extended(id, fields),
            _ => Err(Refusal::Unsupported),
        }
    }

    fn extended(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let name = fields.text().ok_or(Refusal::Malformed)?;
        if name == SYNC.as_bytes() {
            self.file(fields)?.sync_all()?;
            return Ok(done(id));
        }
        let change: fn(PathBuf, PathBuf) -> io::Result<()> = match name {
            name if name == RENAME.as_bytes() => |from, to| fs::rename(from, to),
            name if name == LINK.as_bytes() => |from, to| fs::hard_link(from, to),
            _ => return Err(Refusal::Unsupported),
        };
        let mut path = || fields.path().map(Path::to_owned).ok_or(Refusal::Malformed);
        change(path()?, path()?)?;
        Ok(done(id))
    }

    fn open(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let path = fields.path().ok_or(Refusal::Malformed)?;
        let flags = fields.number().ok_or(Refusal::Malformed)?;
        let wanted = fields.attributes().ok_or(Refusal::Malformed)?;
        let has = |flag: u32| flags & flag != 0;
        let mut options = OpenOptions::new();
        options
            .read(has(open::READ))
            .write(has(open::WRITE) && !has(open::APPEND))
            .append(has(open::APPEND))
            .truncate(has(open::TRUNCATE))
            .create(has(open::CREATE))
            .create_new(has(open::CREATE) && has(open::NEW))
            .mode(wanted.mode.unwrap_or(FILE_MODE) & MODE_BITS)
            // A pipe of the task's must not hold the session up.
            .custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(path)?;
        self.keep(id, Handle::File(file))
    }

    fn read(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let file = self.file(fields)?;
        let at = fields.long().ok_or(Refusal::Malformed)?;
        let length = fields.number().ok_or(Refusal::Malformed)?;
        let mut bytes = vec![0; length.min(READ_BYTES_MAX) as usize];
        match file.read_at(&mut bytes, at)? {
            0 => Err(Refusal::End),
            length => Ok(Answer::new(kind::DATA).number(id).text(&bytes[..length])),
        }
    }

    fn list(&mut self, id: u32, fields: &mut Fields<'_>) -> Answered {
        let Some(Handle::Folder(path, entries)) = self.slot(fields)? else {
            return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
        };
        let mut found = Vec::new();
        for entry in entries.take(ENTRIES_MAX) {
            let entry = entry?;
            // It may have gone while we looked.
            if let Ok(metadata) = fs::symlink_metadata(path.join(entry.file_name())) {
                found.push((entry.file_name(), metadata));
            }
        }
        if found.is_empty() {
            return Err(Refusal::End);
        }
        let names = Answer::new(kind::NAME)
            .number(id)
            .number(found.len() as u32);
        Ok(found.iter().fold(names, |names, (name, metadata)| {
            names
                .text(name.as_bytes())
                .text(&list::line(name, metadata))
                .attributes(&Attributes::of(metadata))
        }))
    }

    fn keep(&mut self, id: u32, handle: Handle) -> Answered {
        let free = self.handles.iter().position(Option::is_none);
        let number = free.ok_or_else(|| {
            io::Error::other(format!("{HANDLES_MAX} files are open, which is the most"))
        })?;
        self.handles[number] = Some(handle);
        let name = (number as u32).to_be_bytes();
        Ok(Answer::new(kind::HANDLE).number(id).text(&name))
    }

    /// The place of an open file or folder.
    fn slot(&mut self, fields: &mut Fields<'_>) -> Result<&mut Option<Handle>, Refusal> {
        let name = fields.text().ok_or(Refusal::Malformed)?;
        let number = name.try_into().map(u32::from_be_bytes);
        let slot = number.ok().and_then(|n| self.handles.get_mut(n as usize));
        let open = slot.filter(|slot| slot.is_some());
        open.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EBADF).into())
    }

    fn file(&mut self, fields: &mut Fields<'_>) -> Result<&mut File, Refusal> {
        match self.slot(fields)? {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(io::Error::from(io::ErrorKind::IsADirectory).into()),
        }
    }
}

fn done(id: u32) -> Answer {
    Answer::new(kind::STATUS)
        .number(id)
        .number(0)
        .text(b"done")
        .text(b"")
}

fn status(id: u32, refusal: &Refusal) -> Answer {
    let (code, text) = match refusal {
        Refusal::End => (1, "end".into()),
        Refusal::Io(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => 2,
                io::ErrorKind::PermissionDenied => 3,
                _ => 4,
            };
            (code, error.to_string())
        }
        Refusal::Malformed => (5, "the request is cut short".into()),
        Refusal::Unsupported => (8, "not supported".into()),
    };
    Answer::new(kind::STATUS)
        .number(id)
        .number(code)
        .text(text.as_bytes())
        .text(b"")
}

fn told(id: u32, found: &fs::Metadata) -> Answer {
    Answer::new(kind::ATTRS)
        .number(id)
        .attributes(&Attributes::of(found))
}

fn named(id: u32, path: &Path) -> Answer {
    let name = path.as_os_str().as_bytes();
    Answer::new(kind::NAME)
        .number(id)
        .number(1)
        .text(name)
        .text(name)
        .attributes(&Attributes::default())
}

#[cfg(test)]
mod tests;
