//! A helper that becomes another program and stays the same process: what one
//! program hands to the next, and how.
//!
//! ```text
//! agent ── Upgrade ─▶ helper: log at rest, thread ended ─▶ state in a sealed file in memory
//!                        │                                            │ execve, descriptors stay
//!                        │◀─ it can't be started: goes on             ▼
//!                        │                          next program: reads it, closes all else, goes on
//!                        └──── the old program again ◀── it can't read it
//! ```
//!
//! What is handed on is bytes that another version reads: unknown fields are
//! ignored, fields that come later have a default, and [`HANDS_ON`] rises when
//! an older reader would get it wrong. Why it is like this:
//! docs/decisions/helper-reexec.md.
//!
//! Who may be upgraded, and what is done around it, is in
//! [`crate::supervise`].

use crate::{
    description::{DESCRIPTION_BYTES_MAX, DESCRIPTION_VERSION, TaskDescription},
    descriptors::pass_on,
    launch::SavedLaunched,
    life::SavedLife,
    log::LogRest,
    session::SavedSessions,
};
use nix::{errno::Errno, libc, unistd::execv};
use potluck_specs::codec;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Version of what this program hands on.
pub const HANDS_ON: u32 = 1;

/// Oldest version that this program reads.
const READS_FROM: u32 = 1;

/// `potluck-helper --can-resume VERSION`: succeeds if it could go on with what
/// another program hands on.
pub const CAN_RESUME: &str = "--can-resume";

/// `potluck-helper TASK_FILE --resume STATE [--or PROGRAM]`, both descriptors:
/// the task file first, as with every helper, since that is how one is known
/// among processes. Without a program to fall back to, it is the one that was
/// fallen back to.
pub(crate) const RESUME: &str = "--resume";
const OR: &str = "--or";

/// What stands before the state.
const MAGIC: &[u8] = b"state of a potluck-helper, handed on in memory\n";

/// Longest state: a description, two lines without an end, the rest is small.
const STATE_BYTES_MAX: usize = DESCRIPTION_BYTES_MAX + (256 << 10);

/// What one program hands to the next. Descriptors are numbers: they are the
/// same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    pub(crate) version: u32,
    /// As it is now: limits may have changed since it was written.
    pub(crate) description: TaskDescription,
    pub(crate) folder: PathBuf,
    pub(crate) boot_id: String,
    pub(crate) life: SavedLife,
    pub(crate) launched: SavedLaunched,
    /// From init's reports.
    pub(crate) task_pid: Option<i32>,
    pub(crate) out_is_open: bool,
    pub(crate) err_is_open: bool,
    pub(crate) log: LogRest,
    /// The task was told to end for want of memory, and has the room for it.
    pub(crate) memory_reached: bool,
    pub(crate) sessions: SavedSessions,
    pub(crate) agent: RawFd,
}

impl Saved {
    fn descriptors(&self) -> Vec<RawFd> {
        let mut all = self.launched.descriptors();
        all.extend(self.sessions.descriptors());
        all.push(self.agent);
        all
    }

    /// Takes the descriptors of the state, and closes all others.
    ///
    /// # Errors
    /// One of them is not open or named twice, or there are too few left to
    /// look.
    pub(crate) fn take_descriptors(&self) -> Result<(), Errno> {
        let all = self.descriptors();
        crate::descriptors::close_all_but([&[0, 1, 2], &all[..]].concat())?;
        for fd in all {
            // SAFETY: `read` has seen that it is open, and nobody closes it here.
            pass_on(unsafe { BorrowedFd::borrow_raw(fd) }, false)?;
        }
        Ok(())
    }
}

/// Makes this process that program; returns only if that fails, with why. The
/// process is then as it was.
pub(crate) fn become_program(program: &Path, file: &Path, saved: &Saved) -> String {
    let failed = |what: &str, why: &dyn std::fmt::Display| format!("{what}: {why}");
    let fallback = match File::open("/proc/self/exe") {
        Ok(fallback) => fallback,
        Err(error) => return failed("the running program can't be opened", &error),
    };
    let state = match write(saved) {
        Ok(state) => state,
        Err(error) => return failed("its state can't be written", &error),
    };
    let kept = [state.as_raw_fd(), fallback.as_raw_fd()];
    let kept = [&saved.descriptors()[..], &kept].concat();
    let pass = |passed| {
        kept.iter().try_for_each(|fd| {
            // SAFETY: the helper has them all open, and keeps them.
            pass_on(unsafe { BorrowedFd::borrow_raw(*fd) }, passed)
        })
    };
    let [state, fallback] = [&state, &fallback].map(|file| file.as_raw_fd().to_string());
    let program = program.as_os_str();
    let args = [program, file.as_os_str()].map(OsStr::to_owned);
    let more = [RESUME, &state, OR, &fallback].map(OsString::from);
    let errno = pass(true).err().unwrap_or_else(|| {
        let args: Vec<OsString> = args.into_iter().chain(more).collect();
        execute(program, &args)
    });
    // What fails here would leak to a session at worst, which closes all.
    let _ = pass(false);
    failed("the program can't be run", &errno.desc())
}

fn execute(program: &OsStr, args: &[OsString]) -> Errno {
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let args: Result<Vec<CString>, _> = args.iter().map(|arg| text(arg)).collect();
    match (text(program), args) {
        (Ok(program), Ok(args)) => match execv(&program, &args) {
            Ok(never) => match never {},
            Err(errno) => errno,
        },
        _ => Errno::EINVAL,
    }
}

/// Can this be run at all? Asked before anything is stopped.
pub(crate) fn check(program: &Path) -> Result<(), String> {
    let name = program.display();
    if !program.is_absolute() {
        return Err(format!("program {name} is not an absolute path"));
    }
    let meta = fs::metadata(program).map_err(|error| format!("program {name}: {error}"))?;
    match meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
        true => Ok(()),
        false => Err(format!("{name} is not a program")),
    }
}

/// Into memory, where nobody can change it any more.
fn write(saved: &Saved) -> io::Result<File> {
    let bytes = codec::encode_within(saved, STATE_BYTES_MAX - MAGIC.len());
    let bytes = bytes.ok_or(io::ErrorKind::FileTooLarge)?;
    let flags = libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC;
    // SAFETY: a string that ends with zero, and flags.
    let fd = unsafe { libc::memfd_create(c"potluck-helper".as_ptr(), flags) };
    // SAFETY: the kernel has just made it for us.
    let mut file = unsafe { File::from_raw_fd(Errno::result(fd)?) };
    file.write_all(MAGIC)?;
    file.write_all(&bytes)?;
    file.rewind()?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    // SAFETY: an open descriptor and integers.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

/// What was handed on, or why this program can't go on with it.
fn read(state: RawFd) -> Result<Saved, String> {
    if !is_open(state) {
        return Err("there is none".into());
    }
    // SAFETY: it is open, and `main` owns it until it closes all but the kept.
    let mut file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(state) });
    let mut bytes = Vec::new();
    // It may have been read by another before.
    file.rewind().map_err(|error| error.to_string())?;
    let limited = &mut io::Read::take(&mut *file, STATE_BYTES_MAX as u64);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    let saved = decode(&bytes)?;
    let all = saved.descriptors();
    let own: BTreeSet<RawFd> = all.iter().copied().filter(|fd| *fd > 2).collect();
    match own.len() == all.len() && own.into_iter().all(is_open) {
        true => Ok(saved),
        false => Err("its descriptors are not open".into()),
    }
}

fn decode(bytes: &[u8]) -> Result<Saved, String> {
    let body = bytes.strip_prefix(MAGIC).ok_or("it is none")?;
    let saved: Saved = codec::decode("state of a helper", body, STATE_BYTES_MAX)
        .map_err(|error| error.to_string())?;
    if !reads(saved.version) {
        return Err(format!("it has version {}", saved.version));
    }
    match saved.description.version > DESCRIPTION_VERSION {
        true => Err("its description is of a later version".into()),
        false => Ok(saved),
    }
}

fn reads(version: u32) -> bool {
    (READS_FROM..=HANDS_ON).contains(&version)
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: an integer; what is not open gives an error.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// The answer to [`CAN_RESUME`].
pub(crate) fn answer(version: &OsStr) -> ExitCode {
    let version = version.to_str().and_then(|text| text.parse().ok());
    match version.is_some_and(reads) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What this program goes on with, and whether it is the one that was fallen
/// back to. Where the state can't be read, the program before it takes over
/// again, so that this returns only if that fails too.
///
/// # Errors
/// For people. Nobody goes on with the task: init sees the helper's end.
pub(crate) fn take_over(
    program: &OsStr,
    file: &OsStr,
    args: &[OsString],
) -> Result<(Saved, bool), String> {
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<RawFd>().ok());
    let (state, fallback) = match args {
        [state] => (number(state), None),
        [state, or, fallback] if or == OR => (number(state), number(fallback)),
        _ => return Err(format!("wrong arguments after {RESUME}")),
    };
    let state = state.ok_or_else(|| format!("no descriptor after {RESUME}"))?;
    let why = match read(state) {
        Ok(saved) => return Ok((saved, fallback.is_none())),
        Err(why) => why,
    };
    if let Some(fallback) = fallback {
        let path = OsString::from(format!("/proc/self/fd/{fallback}"));
        let args = [
            program.into(),
            file.into(),
            RESUME.into(),
            state.to_string().into(),
        ];
        execute(&path, &args);
    }
    Err(format!("what was handed on can't be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::life::tests_saved::running;

    fn sample() -> Saved {
        let folder = tempfile::tempdir().unwrap();
        let log = crate::log::LogWriter::open(folder.path(), Default::default()).unwrap();
        Saved {
            version: HANDS_ON,
            description: crate::description::sample(),
            folder: "/data/start".into(),
            boot_id: "boot".into(),
            life: running().save().unwrap(),
            launched: SavedLaunched::sample(),
            task_pid: Some(9),
            out_is_open: true,
            err_is_open: false,
            log: log.hand_on(),
            memory_reached: true,
            sessions: SavedSessions::sample(),
            agent: 21,
        }
    }

    /// Made by the version that its name says. Never changed: a helper that
    /// hands this on may run for years. After a change that is meant, add one.
    const HANDED_ON_1: &[u8] = include_bytes!("resume/handed-on-1.cbor");

    #[test]
    fn what_was_ever_handed_on_is_read() {
        let saved = decode(HANDED_ON_1).unwrap();
        assert_eq!(saved, sample());
    }

    #[test]
    fn what_is_handed_on_comes_back_and_later_fields_are_ignored() {
        let bytes = codec::encode(&sample());
        assert_eq!(decode(&[MAGIC, &bytes].concat()).unwrap(), sample());
        // A map of definite length with one entry more.
        let (count, rest) = bytes.split_first().unwrap();
        let more = codec::encode(&("mood", "good"));
        let later = [MAGIC, &[count + 1], rest, &more[1..]].concat();
        assert_eq!(decode(&later).unwrap(), sample());
    }

    #[test]
    fn what_can_not_be_read_is_refused_with_its_reason() {
        let with = |change: fn(&mut Saved)| {
            let mut saved = sample();
            change(&mut saved);
            [MAGIC, &codec::encode(&saved)].concat()
        };
        let later = with(|saved| saved.version = HANDS_ON + 1);
        let task = with(|saved| saved.description.version = DESCRIPTION_VERSION + 1);
        let table = [
            (&b""[..], "none"),
            (b"something else", "none"),
            (MAGIC, "valid"),
            (&HANDED_ON_1[..HANDED_ON_1.len() / 2], "valid"),
            (&later, "version 2"),
            (&task, "later version"),
        ];
        for (bytes, why) in table {
            let refused = decode(bytes).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn a_state_lies_sealed_in_memory_and_names_open_descriptors() {
        let saved = sample();
        let mut file = write(&saved).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), saved);
        let refused = file.write_all(b"x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        // Those of the sample are nobody's, or of something else here.
        let mut saved = saved;
        saved.agent = 2;
        let refused = read(write(&saved).unwrap().as_raw_fd()).unwrap_err();
        assert!(refused.contains("descriptors"), "{refused}");
        assert!(read(-1).is_err());
    }

    #[test]
    fn only_what_can_be_run_is_tried() {
        assert_eq!(check(Path::new("/bin/sh")), Ok(()));
        for (program, why) in [
            ("bin/sh", "absolute"),
            ("/etc/passwd", "not a program"),
            ("/bin", "not a program"),
            ("/bin/no-such", "No such file"),
        ] {
            let refused = check(Path::new(program)).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
