//! Which descriptors a process keeps: over a clone, and over the start of
//! another program.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
};
use std::os::fd::{AsFd, RawFd};

/// Closes every descriptor that is not among these.
pub(crate) fn close_all_but(mut kept: Vec<RawFd>) -> Result<(), Errno> {
    kept.sort_unstable();
    kept.dedup();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: the callers say that nothing of what is closed is used or
    // dropped afterwards.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(closed).map(drop)
}

/// Whether the next program that this process becomes has it too.
pub(crate) fn pass_on(fd: impl AsFd, passed: bool) -> Result<(), Errno> {
    let flags = match passed {
        true => FdFlag::empty(),
        false => FdFlag::FD_CLOEXEC,
    };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)
}
