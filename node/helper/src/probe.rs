//! What isolation this host gives, found out by asking for it: a sandbox is
//! made as for a task, runs `true` and ends.

use crate::{
    description::{DESCRIPTION_VERSION, IfMissing, Isolation, Profile, TaskDescription},
    inner::{Inner, Part, Step},
    launch::{Launched, launch},
    protocol::TaskKey,
    supervise::{boot_now, receive_report},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::SigSet,
        wait::{Id, WaitPidFlag, waitid},
    },
};
use potluck_specs::{Millis, SlotId, cause::chain, job::StopPolicy};
use std::{collections::BTreeMap, fs, os::fd::AsFd, path::Path};

/// Longest life of such a sandbox: its lease.
const LEASE_MS: u64 = 10_000;

/// The strongest profile that this host gives in full, with what stands in
/// the way of the stronger ones. `folder` is used meanwhile. For a process
/// with one thread.
pub fn strongest(folder: &Path) -> (Profile, Vec<String>) {
    let mut why = Vec::new();
    for profile in [Profile::Strict, Profile::Default] {
        match run_true(profile, folder) {
            Ok(()) => return (profile, why),
            Err(error) => why.push(error),
        }
    }
    (Profile::None, why)
}

/// Makes a sandbox of this profile with nothing missing, runs `true` in it
/// and waits for its end. For a process with one thread.
///
/// # Errors
/// What the host refuses, for people.
pub fn run_true(profile: Profile, folder: &Path) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    // Init hears signals by a descriptor only.
    SigSet::all()
        .thread_block()
        .map_err(|errno| errno.to_string())?;
    let (task_folder, base) = (folder.join("task"), folder.join("root"));
    fs::create_dir_all(&task_folder).map_err(io)?;
    fs::create_dir_all(&base).map_err(io)?;
    let isolation = Isolation {
        if_missing: IfMissing::Refuse,
        ..Isolation::of(profile, false)
    };
    let description = TaskDescription {
        version: DESCRIPTION_VERSION,
        key: TaskKey {
            slot: SlotId {
                job: potluck_specs::JobName::in_default("probe"),
                index: 0,
            },
            generation: Default::default(),
            start: 0,
        },
        command: "/bin/true".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        package: task_folder.clone(),
        layers: Vec::new(),
        task_folder,
        log_folder: folder.into(),
        logs: Default::default(),
        agent_socket: folder.into(),
        agent_generation: 0,
        node: String::new(),
        lease_ms: LEASE_MS,
        scheduler_lease_until: None,
        stop: StopPolicy::default(),
        user: None,
        cgroup_procs: Vec::new(),
        kill_group: None,
        memory_peak_files: Vec::new(),
        isolation,
        profile,
        memory_bytes: None,
        mounts: Vec::new(),
        files: Vec::new(),
        setup: Vec::new(),
        teardown: Vec::new(),
        memory_watch: None,
        group: crate::group::TaskGroup::default(),
        disk_bytes: None,
    };
    let lease_until = boot_now() + Millis(LEASE_MS);
    let launched = launch(&description, &base, lease_until).map_err(|error| chain(&error))?;
    let mut ended = Err("it ended without a word".to_owned());
    let mut fds = [PollFd::new(launched.pidfd.as_fd(), PollFlags::POLLIN)];
    while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
    while let Ok((report, _)) = receive_report(&launched.control) {
        match report {
            Inner::Exited(0) => ended = Ok(()),
            Inner::Failed(step, errno, at) => ended = Err(refusal(&launched, step, errno, at)),
            _ => {}
        }
    }
    let _ = waitid(Id::PIDFd(launched.pidfd.as_fd()), WaitPidFlag::WEXITED);
    ended
}

fn refusal(launched: &Launched, step: Step, errno: i32, at: u32) -> String {
    let label = (at as usize).checked_sub(1);
    let label = label.and_then(|index| launched.root_labels.get(index));
    let what = match (step, label) {
        (Step::Isolation, _) => Part::from_number(at).map_or(step.name(), Part::name),
        (Step::Root, Some(label)) => label,
        (other, _) => other.name(),
    };
    format!("{what}: {}", Errno::from_raw(errno).desc())
}
