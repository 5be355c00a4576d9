//! Ends what is left of a task where there is no pid namespace to do it.
//!
//! Whoever loses its parent becomes a child of the nearest subreaper: of init
//! while it lives, then of the helper. So killing all children until there
//! are none reaches every descendant, also those that left the task's session
//! and process group.

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::fs;

/// Kills all children and reaps those that have ended; true if there are none
/// left. Does not wait: for each one left there will be a SIGCHLD, and by then
/// its own children are ours.
pub(crate) fn sweep() -> bool {
    kill_children();
    reap(WaitPidFlag::WNOHANG)
}

/// As [`sweep`], until there are none.
pub(crate) fn sweep_until_none() {
    loop {
        kill_children();
        match waitpid(None, None) {
            Err(Errno::ECHILD) => return,
            Err(Errno::EINTR) | Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Reaps children that have ended, and kills nobody. A pid namespace ends only
/// when all who were in it are reaped, also those whose parent is outside, as
/// that of a session's warden.
pub(crate) fn reap_ended() -> bool {
    reap(WaitPidFlag::WNOHANG)
}

fn reap(flags: WaitPidFlag) -> bool {
    loop {
        match waitpid(None, Some(flags)) {
            Err(Errno::ECHILD) => return true,
            Err(Errno::EINTR) => {}
            Err(_) | Ok(WaitStatus::StillAlive) => return false,
            Ok(_) => {}
        }
    }
}

fn kill_children() {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid
            && parent_of(pid) == Some(own)
        {
            // Nobody else reaps our children, so the pid is still theirs.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn parent_of(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name, may hold anything but ends with
    // the last bracket.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_parents() {
        let own = std::process::id();
        assert_eq!(
            parent_of(own as i32),
            Some(std::os::unix::process::parent_id())
        );
    }
}
