//! Processes by descriptor: a pid may be another's by the time it is used, a
//! pidfd never is.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    sync::Arc,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process that can be waited for and killed.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// The process that has this id now.
    pub(super) fn open(pid: i32) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two integers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        Ok(Process {
            pidfd: Arc::new(pidfd),
        })
    }

    /// Kills it; nothing if it is gone.
    pub(super) fn kill(&self) {
        // SAFETY: the descriptor is open as long as self; no siginfo is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(%error, "process was not killed");
        }
    }

    /// Waits for its end. A child of ours must still be reaped.
    pub(super) async fn ended(&self) -> io::Result<()> {
        // A descriptor for each who waits: the reactor takes none twice.
        let pidfd = self.pidfd.try_clone()?;
        // SAFETY: an owned descriptor is open and stays the same while it is held.
        let fd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        fd.readable().await?.retain_ready();
        Ok(())
    }
}

/// Helpers whose task's files lie under `folder`, by what they were started
/// with. For those that have not dialled: a search through all processes.
pub(super) fn helpers_of(folder: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_helper_of(*pid, folder))
        .filter_map(|pid| {
            let process = Process::open(pid).ok()?;
            // Asked again: the id may have changed hands before it was opened.
            is_helper_of(pid, folder).then_some(process)
        })
        .collect()
}

fn is_helper_of(pid: i32, folder: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    let file = words.next().unwrap_or_default();
    let file = Path::new(std::str::from_utf8(file).unwrap_or_default());
    program.ends_with(b"potluck-helper") && file.starts_with(folder)
}
