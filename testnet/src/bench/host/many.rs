//! A hundred tasks at once: the time until all run, and what each costs then.

use super::{Host, Peer, beside, docker::Docker, seconds, told};
use crate::bench::{
    Outcome,
    figure::Figure,
    usage::{self, Memory},
};
use std::{
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

/// Tasks.
const MANY: usize = 100;

/// Commands of Docker that run at once: more don't make it faster on two
/// cores.
const DOCKER_AT_ONCE: usize = 8;

/// How long it took, and the memory of all that is not the tasks, for each.
struct Cost {
    took: Duration,
    each: String,
}

/// Tasks that only sleep.
pub(super) fn of_sleepers(host: &Host, docker: &Peer<'_>) -> Outcome<Vec<Figure>> {
    let ours = ours(host)?;
    let theirs = beside(docker, theirs);
    let (took, each) = match theirs {
        Ok(cost) => (Ok(seconds(cost.took)), Ok(cost.each)),
        Err(why) => (Err(why.clone()), Err(why)),
    };
    Ok(vec![
        Figure {
            what: "100 tasks of `sleep` on one node, submit to all running",
            target: "under 0.8 s",
            measured: seconds(ours.took),
            beside: told("`docker run -d` (vfs), eight at a time:", took),
        },
        Figure {
            what: "memory for each of them of all that is not the task: helper, init, growth of the agent",
            target: "1.5 MB PSS",
            measured: ours.each,
            beside: format!(
                "{}; `runc run -d` leaves nothing beside the task, and nobody who keeps its log or sees its end",
                told("Docker: shim, growth of dockerd and containerd:", each)
            ),
        },
    ])
}

fn ours(host: &Host) -> Outcome<Cost> {
    let spec = host.script("sleepers", MANY, "8MiB", "exec sleep 86400")?;
    let (before, start) = (memory_of(own_processes(host)), Instant::now());
    host.client.json(&["run", &spec])?;
    let took = start.elapsed();
    let each = each(before, memory_of(own_processes(host)));
    host.client.text(&["stop", "sleepers"])?;
    Ok(Cost { took, each })
}

/// Agent, helpers and inits.
fn own_processes(host: &Host) -> Vec<i32> {
    let processes = host.stage.processes(&host.name);
    let tasks = processes.tasks.into_iter();
    let inits = tasks.filter(|pid| usage::name(*pid) == "potluck-init");
    let all = processes.helpers.into_iter().chain(inits);
    all.chain(processes.agent).collect()
}

fn theirs(docker: &Docker) -> Outcome<Cost> {
    let (before, start) = (memory_of(docker.own_processes()), Instant::now());
    let containers = start_many(docker)?;
    let took = start.elapsed();
    let each = each(before, memory_of(docker.own_processes()));
    let containers: Vec<&str> = containers.iter().map(String::as_str).collect();
    docker.remove(&containers)?;
    Ok(Cost { took, each })
}

fn start_many(docker: &Docker) -> Result<Vec<String>, String> {
    let start = |first: usize| -> Result<Vec<String>, String> {
        let mine = (first..MANY).step_by(DOCKER_AT_ONCE);
        let started = mine.map(|_| docker.start(&["sleep", "86400"]));
        let started: Outcome<Vec<String>> = started.collect();
        // What crosses a thread is text.
        started.map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| {
        let threads: Vec<ScopedJoinHandle<'_, _>> = (0..DOCKER_AT_ONCE)
            .map(|first| scope.spawn(move || start(first)))
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(started) => started,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let all: Result<Vec<Vec<String>>, String> = ended.collect();
        all.map(|all| all.concat())
    })
}

fn memory_of(pids: impl IntoIterator<Item = i32>) -> Memory {
    let mut sum = Memory::default();
    // Some may have ended since they were found.
    for memory in pids.into_iter().filter_map(|pid| usage::memory(pid).ok()) {
        sum.rss += memory.rss;
        sum.pss += memory.pss;
    }
    sum
}

fn each(before: Memory, after: Memory) -> String {
    let share = |before: f64, after: f64| (after - before) / MANY as f64;
    format!(
        "{:.2} MiB PSS, {:.2} MiB RSS",
        share(before.pss, after.pss),
        share(before.rss, after.rss)
    )
}
