//! From a clone of the helper to the session's process inside the task: the
//! entrant, which joins the namespaces, and the last steps of the process
//! that the warden clones.
//!
//! When the helper was cloned its other thread paused outside the allocator
//! ([`crate::scribe`]), so that is in order here too; what happens inside is nevertheless nearly all system calls.

use super::{
    CODE_NOT_FOUND, CODE_NOT_RUNNABLE, SessionReport,
    plan::{Prepared, SessionPlan, Streams},
    warden,
};
use crate::{
    archive,
    descriptors::close_all_but,
    enter::{Trouble, become_user, confine, exit, limit_resources, reset_signals},
    inner::Step,
    launch::clone_process,
    sftp,
};
use nix::{
    errno::Errno,
    libc::{self, c_int},
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::{Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchown, setsid},
};
use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Exit code of our own processes when they could not do their part.
const CODE_BROKEN: c_int = 73;

/// The entrant: runs in the cloned process and never returns.
pub(super) fn run(plan: &SessionPlan<'_>) -> ! {
    // Unwinding would carry on as a second helper.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Err(trouble) = join(plan) {
            fail(plan, trouble);
        }
    }));
    exit(CODE_BROKEN)
}

/// Tells the agent what failed.
pub(super) fn fail(plan: &SessionPlan<'_>, trouble: Trouble) -> ! {
    let (why, code) = explain(plan, trouble);
    // If nobody listens any more, there is nobody to tell.
    let _ = plan.channel.send(&SessionReport::Failed { why, code });
    exit(CODE_BROKEN)
}

fn explain(plan: &SessionPlan<'_>, trouble: Trouble) -> (String, u8) {
    let code = match trouble.errno {
        Errno::ENOENT => CODE_NOT_FOUND,
        _ => CODE_NOT_RUNNABLE,
    };
    let what = match (&plan.work, trouble.step, trouble.errno) {
        (Prepared::Command { args, .. }, Step::Exec, Errno::ENOENT) => {
            return (format!("there is no {:?} in the task", args.first()), code);
        }
        (Prepared::Command { args, .. }, Step::Exec, _) => {
            format!("{:?} can't be run in the task", args.first())
        }
        // Its process 1 is gone.
        (_, Step::Clone, Errno::ENOMEM) => return ("the task has ended".into(), code),
        (_, step, _) => step.name().into(),
    };
    (format!("{what}: {}", trouble.errno.desc()), code)
}

fn join(plan: &SessionPlan<'_>) -> Result<(), Trouble> {
    let at = Trouble::at;
    // Whatever else the helper has open would be held open here: its end
    // would not be seen by init, nor by the agent. This clone ends without
    // dropping any of it.
    close_all_but(kept(plan)).map_err(at(Step::Enter))?;
    let user = plan
        .namespaces
        .iter()
        .filter(|one| one.flag == libc::CLONE_NEWUSER);
    let others = plan
        .namespaces
        .iter()
        .filter(|one| one.flag != libc::CLONE_NEWUSER);
    // The user namespace gives the rights for the others.
    for namespace in user.chain(others) {
        // SAFETY: an open descriptor and an integer.
        let joined = unsafe { libc::setns(namespace.file.as_raw_fd(), namespace.flag) };
        Errno::result(joined).map_err(at(Step::Enter))?;
    }
    // The helper is the warden's parent, as of init.
    // SAFETY: one thread, and `warden::run` does not return.
    match unsafe { clone_process(libc::CLONE_PARENT) }.map_err(at(Step::Clone))? {
        None => warden::run(plan),
        Some(_) => exit(0),
    }
}

fn kept(plan: &SessionPlan<'_>) -> Vec<RawFd> {
    let mut kept = vec![0, 1, 2, plan.channel.as_raw_fd(), plan.tether.as_raw_fd()];
    let files = plan.cgroups.iter().chain(&plan.kill);
    kept.extend(files.map(AsRawFd::as_raw_fd));
    kept.extend(plan.namespaces.iter().map(|one| one.file.as_raw_fd()));
    kept.extend(plan.tools.iter().map(super::tools::Tools::descriptor));
    if let Streams::Pipes(pipes) = &plan.streams {
        kept.extend(pipes.iter().map(AsRawFd::as_raw_fd));
    }
    kept
}

/// Becomes the command, or does its part of a copy; says over `starting` why
/// not.
pub(super) fn become_command(
    plan: &SessionPlan<'_>,
    terminal: Option<&OwnedFd>,
    starting: RawFd,
) -> ! {
    let trouble = match try_become(plan, terminal, starting) {
        Ok(code) => exit(code),
        Err(trouble) => trouble,
    };
    let message = crate::inner::Inner::Failed(trouble.step, trouble.errno as i32, 0).encode();
    // SAFETY: the descriptor is ours and open.
    let starting = unsafe { BorrowedFd::borrow_raw(starting) };
    let _ = nix::unistd::write(starting, &message);
    exit(CODE_BROKEN)
}

/// The code of what is done here and not by a program.
fn try_become(
    plan: &SessionPlan<'_>,
    terminal: Option<&OwnedFd>,
    starting: RawFd,
) -> Result<c_int, Trouble> {
    let at = Trouble::at;
    reset_signals();
    setsid().map_err(at(Step::Clone))?;
    streams(plan, terminal).map_err(at(Step::Streams))?;
    for group in &plan.cgroups {
        nix::unistd::write(group, b"0").map_err(at(Step::ControlGroup))?;
    }
    if plan.own_cgroups
        && let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
        && !plan.may_miss
    {
        return Err(at(Step::Isolation)(errno));
    }
    chdir(plan.folder.as_c_str()).map_err(at(Step::WorkingDirectory))?;
    if let Some(confinement) = &plan.confinement {
        limit_resources().map_err(at(Step::Privileges))?;
        match confinement.capabilities.bound() {
            // Not root and no user namespace: there is nothing to lose.
            Ok(()) | Err(Errno::EPERM) => {}
            Err(errno) => return Err(at(Step::Privileges)(errno)),
        }
    }
    if let Some(user) = plan.user {
        become_user(Uid::from_raw(user.uid), Gid::from_raw(user.gid)).map_err(at(Step::User))?;
    }
    if !plan.unconfined {
        confine(plan.confinement.as_ref(), |part, errno| {
            match plan.may_miss || !part.is_indispensable() {
                true => Ok(()),
                false => Err(at(Step::Isolation)(errno)),
            }
        })?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(at(Step::Exec))?;
    match &plan.work {
        Prepared::Command { candidates, args } => {
            Err(at(Step::Exec)(execute(candidates, args, plan)))
        }
        Prepared::Receive(path) => {
            let input = only_streams(starting).map_err(at(Step::Streams))?.0;
            Ok(copied(archive::receive(input, path)))
        }
        Prepared::Send { path, name } => {
            let output = only_streams(starting).map_err(at(Step::Streams))?.1;
            Ok(copied(archive::send(output, path, name)))
        }
        Prepared::Sftp => {
            let (input, output) = only_streams(starting).map_err(at(Step::Streams))?;
            Ok(copied(sftp::serve(input, output)))
        }
    }
}

/// The session's pipes, or its terminal as the controlling one. Both belong
/// to the task's user, who may open them anew by `/dev/stdout`.
fn streams(plan: &SessionPlan<'_>, terminal: Option<&OwnedFd>) -> Result<(), Errno> {
    let owner = plan.user.map(|user| (user.uid.into(), user.gid.into()));
    let [input, output, errors] = match (&plan.streams, terminal) {
        (Streams::Pipes(pipes), _) => {
            if let Some((uid, gid)) = owner {
                for pipe in pipes {
                    fchown(pipe, Some(uid), Some(gid))?;
                }
            }
            pipes.each_ref().map(|pipe| pipe.as_fd())
        }
        (Streams::Terminal(_), Some(terminal)) => {
            if let Some((uid, _)) = owner {
                // Its group stays that of terminals.
                fchown(terminal, Some(uid), None)?;
            }
            // SAFETY: an open descriptor and an integer.
            let taken = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
            Errno::result(taken)?;
            [terminal.as_fd(); 3]
        }
        (Streams::Terminal(_), None) => return Err(Errno::ENOTTY),
    };
    dup2_stdin(input)?;
    dup2_stdout(output)?;
    dup2_stderr(errors)
}

/// Runs the first of the candidates that is there.
fn execute(
    candidates: &[std::ffi::CString],
    args: &crate::launch::CStrings,
    plan: &SessionPlan<'_>,
) -> Errno {
    // SAFETY: changes flags of descriptors only; the start's pipe closes with
    // the program's start, which is the sign of it.
    let marked = unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags)
    };
    if let Err(errno) = Errno::result(marked) {
        return errno;
    }
    let mut worst = Errno::ENOENT;
    for command in candidates {
        // SAFETY: strings and arrays that end with zero and are alive.
        unsafe { libc::execve(command.as_ptr(), args.as_ptr(), plan.env.as_ptr()) };
        match Errno::last() {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // As a shell: one that may not be run does not hide a later one.
            Errno::EACCES => worst = Errno::EACCES,
            errno => return errno,
        }
    }
    worst
}

/// Closes all but the streams, and tells the warden so by it: nothing that
/// works on a person's paths may hold more.
fn only_streams(starting: RawFd) -> Result<(File, File), Errno> {
    debug_assert!(starting > 2, "the streams are in their places");
    let input = nix::unistd::dup(std::io::stdin())?;
    let output = nix::unistd::dup(std::io::stdout())?;
    close_all_but(vec![0, 1, 2, input.as_raw_fd(), output.as_raw_fd()])?;
    Ok((File::from(input), File::from(output)))
}

fn copied(result: Result<(), impl std::error::Error>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", potluck_specs::cause::chain(&error));
            1
        }
    }
}
