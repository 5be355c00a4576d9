//! The end of a task of many processes, from the order until none is left.

use super::{Host, Peer, beside, docker::Docker, millis, told};
use crate::{
    bench::{LIMIT, Outcome, figure::Figure},
    wait::until,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// Processes of the task.
const CROWD: usize = 500;

/// By the killed helper, and by an order to stop.
pub(super) fn of_a_crowd(host: &Host, docker: &Peer<'_>) -> Outcome<Vec<Figure>> {
    let script = format!("i=1; while [ $i -lt {CROWD} ]; do sleep 86400 & i=$((i+1)); done; wait");
    let spec = host.script("crowd", 1, "512MiB", &script)?;
    host.client.json(&["run", &spec])?;
    let by_kill = killed_helper(host)?;
    let by_stop = stopped(host)?;
    let (theirs_by_kill, theirs_by_order) = match beside(docker, |docker| theirs(docker, &script)) {
        Ok((by_kill, by_order)) => (Ok(millis(by_kill)), Ok(millis(by_order))),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    Ok(vec![
        Figure {
            what: "a task of 500 processes, `kill -9` of its helper until none of them is left",
            target: "-",
            measured: millis(by_kill),
            beside: told("Docker, of the container's first process:", theirs_by_kill),
        },
        Figure {
            what: "the same, `potluck stop` until none of them is left",
            target: "-",
            measured: millis(by_stop),
            beside: told("`docker kill`", theirs_by_order),
        },
    ])
}

/// The crowd's processes and its init, once all are there.
fn crowd(host: &Host) -> Outcome<Ends> {
    let seen = until("a crowd", LIMIT, || {
        let tasks = host.stage.processes(&host.name).tasks;
        match tasks.len() > CROWD {
            true => Ok(tasks),
            false => Err(format!("{} processes", tasks.len())),
        }
    })?;
    Ok(Ends::of(&seen)?)
}

fn killed_helper(host: &Host) -> Outcome<Duration> {
    let before = crowd(host)?;
    let helper = host.stage.processes(&host.name).helpers.pop_first();
    let helper = helper.ok_or("the crowd has no helper")?;
    let start = Instant::now();
    kill(Pid::from_raw(helper), Signal::SIGKILL)?;
    before.wait()?;
    Ok(start.elapsed())
}

/// What was killed is started again; that is what is stopped here.
fn stopped(host: &Host) -> Outcome<Duration> {
    let before = crowd(host)?;
    let start = Instant::now();
    host.client.text(&["stop", "--no-wait", "crowd"])?;
    before.wait()?;
    let took = start.elapsed();
    host.client.text(&["stop", "crowd"])?;
    Ok(took)
}

fn theirs(docker: &Docker, script: &str) -> Outcome<(Duration, Duration)> {
    let timed = |order: &dyn Fn(&str, i32) -> Outcome<()>| -> Outcome<Duration> {
        let container = docker.start(&["sh", "-c", script])?;
        let first = docker.pid(&container)?;
        let all = until("a crowd of Docker's", LIMIT, || enough(family(first)))?;
        let all = Ends::of(&all)?;
        let start = Instant::now();
        order(&container, first)?;
        all.wait()?;
        let took = start.elapsed();
        docker.remove(&[&container])?;
        Ok(took)
    };
    let by_kill = timed(&|_, first| Ok(kill(Pid::from_raw(first), Signal::SIGKILL)?))?;
    let by_order = timed(&|container, _| docker.run(&["kill", container]).map(drop))?;
    Ok((by_kill, by_order))
}

fn enough(pids: BTreeSet<i32>) -> Result<BTreeSet<i32>, String> {
    match pids.len() >= CROWD {
        true => Ok(pids),
        false => Err(format!("{} processes", pids.len())),
    }
}

/// A process and those that it began and that have not ended.
fn family(parent: i32) -> BTreeSet<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    let children = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.chain([parent]).collect()
}

/// Descriptors of processes, to wait for their ends without looking again and
/// again, which would slow down what is measured.
struct Ends(Vec<OwnedFd>);

impl Ends {
    fn of(pids: &BTreeSet<i32>) -> io::Result<Ends> {
        let open = |pid: &i32| {
            // SAFETY: takes and gives plain numbers.
            let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, *pid, 0) };
            let descriptor = Errno::result(descriptor)?;
            let descriptor = i32::try_from(descriptor).expect("a descriptor is an int");
            // SAFETY: it is new and nobody else's.
            Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
        };
        pids.iter().map(open).collect::<io::Result<_>>().map(Ends)
    }

    /// Until all have ended.
    fn wait(&self) -> Outcome<()> {
        let limit = Instant::now() + LIMIT;
        for process in &self.0 {
            let left = limit.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left)?;
            if poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left)? == 0 {
                return Err("some of the processes don't end".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_end_of_all_processes_is_waited_for() {
        let mut sleepers = [30, 30].map(|seconds| {
            let mut sleep = Command::new("sleep");
            sleep.arg(seconds.to_string()).spawn().unwrap()
        });
        let pids = sleepers.iter().map(|child| child.id().cast_signed());
        let ends = Ends::of(&pids.collect()).unwrap();
        for sleeper in &mut sleepers {
            sleeper.kill().unwrap();
        }
        ends.wait().unwrap();
        for sleeper in &mut sleepers {
            // Ended, so that nothing is waited for here.
            assert!(sleeper.try_wait().unwrap().is_some());
        }
    }
}
