//! An exclusive slot on real processes: its task ends by the helper's clock
//! when its agent is stopped or cut off from all others, its successor starts
//! after that, and the one that comes back starts nothing.

use super::cut::wired;
use nix::sys::signal::Signal;
use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT};
use std::{fs, path::Path};

/// Of the job below.
const LEASE_S: f64 = 10.0;

/// A ping before the agent was stopped, the helper's timer, and a shell that
/// writes ten times a second on a busy machine.
const SLACK_S: f64 = 1.5;

/// Writes its token and the time since boot, again and again.
const BEATS: &str = "while :; do read up idle < /proc/uptime; \
                     echo \"$POTLUCK_GENERATION $up\" >> /shared/beats; sleep 0.1; done";

fn counter(fleet: &Fleet, shared: &Path) -> String {
    let text = format!(
        "job(name = \"counter\", package = \".\", command = \"/bin/sh\",\n\
         args = [\"-c\", {BEATS:?}], cpu = \"20m\", memory = \"16MiB\",\n\
         exclusive = exclusive(lease = \"{LEASE_S}s\"), stop = stop(grace = \"1s\"),\n\
         mounts = [bind({:?}, at = \"/shared\", read_only = False)])\n",
        shared.display().to_string()
    );
    fleet.spec("counter", &text)
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq)]
struct Beat {
    token: (u64, u64, u64),
    at: f64,
}

fn beats(shared: &Path) -> Vec<Beat> {
    let text = fs::read_to_string(shared.join("beats")).unwrap_or_default();
    let beat = |line: &str| {
        let (token, at) = line.split_once(' ')?;
        let mut parts = token.splitn(3, '.').map(|part| part.parse().ok());
        Some(Beat {
            token: (parts.next()??, parts.next()??, parts.next()??),
            at: at.parse().ok()?,
        })
    };
    // The last line may be torn while it is written.
    text.lines().filter_map(beat).collect()
}

fn boot_s() -> f64 {
    let text = fs::read_to_string("/proc/uptime").expect("the time since boot");
    let first = text.split(' ').next().and_then(|at| at.parse().ok());
    first.expect("a number")
}

/// Where the scheduler sees the task run.
fn node_of(fleet: &Fleet, asker: &str) -> Result<String, String> {
    let status = fleet.client(asker).json(&["status", "counter"]);
    let status = status.map_err(|error| error.to_string())?;
    let task = &status[0]["tasks"][0];
    match (task["healthy"].as_bool(), task["node"].as_str()) {
        (Some(true), Some(node)) => Ok(node.to_owned()),
        _ => Err(status.to_string()),
    }
}

#[test]
fn a_task_whose_agent_is_stopped_ends_by_its_lease_before_its_successor_starts() {
    let fleet = Fleet::up(3, 3);
    ends_by_its_lease(
        &fleet,
        |holder| fleet.signal_agent(holder, Signal::SIGSTOP).unwrap(),
        |holder| fleet.signal_agent(holder, Signal::SIGCONT).unwrap(),
    );
}

#[test]
fn a_task_whose_host_is_cut_off_ends_by_its_lease_before_its_successor_starts() {
    let Some(fleet) = wired(3, 3) else { return };
    ends_by_its_lease(
        &fleet,
        |holder| fleet.wires().cut_off(holder).unwrap(),
        |holder| fleet.wires().join(holder).unwrap(),
    );
}

/// The holder's agent is lost by one and comes back by the other.
fn ends_by_its_lease(fleet: &Fleet, lose: impl Fn(&str), find: impl Fn(&str)) {
    fleet.voters(3, &[]);
    let shared = fleet.shared_folder();
    fleet.run("r1h1", &counter(fleet, &shared));
    let holder = node_of(fleet, "r1h1").unwrap();
    until("some beats", WAIT, || match beats(&shared).len() {
        0..20 => Err("too few"),
        _ => Ok(()),
    })
    .unwrap();
    let asker = fleet.other(&[&holder]);
    lose(&holder);
    let stopped_at = boot_s();
    let first = beats(&shared)[0].token;

    // People are told what is waited for, once the holder is missed.
    until("a word about the lease", WAIT, || {
        let text = fleet.client(&asker).text(&["status", "counter"]);
        let text = text.map_err(|error| error.to_string())?;
        let blocked = fleet.client(&asker).text(&["why-blocked", "counter"]);
        let blocked = blocked.map_err(|error| error.to_string())?;
        match text.contains("lease of") || blocked.contains("until the lease of") {
            true => Ok(()),
            false => Err(format!("{text}\n{blocked}")),
        }
    })
    .unwrap();
    let next = until("the task elsewhere", WAIT, || {
        let node = node_of(fleet, &asker)?;
        match node == holder {
            true => Err(format!("still on {node}")),
            false => Ok(node),
        }
    })
    .unwrap();
    until("beats of the successor", WAIT, || {
        let after = beats(&shared);
        let of_next = after.iter().filter(|beat| beat.token != first).count();
        if of_next >= 10 { Ok(()) } else { Err(of_next) }
    })
    .unwrap();

    // The former holder goes on, and learns that it holds nothing.
    find(&holder);
    fleet.await_up(&holder);
    until("a former holder without tasks", WAIT, || {
        let processes = fleet.processes(&holder);
        match processes.tasks.is_empty() && processes.helpers.is_empty() {
            true => Ok(()),
            false => Err(format!("{processes:?}")),
        }
    })
    .unwrap();
    assert_eq!(node_of(fleet, &asker), Ok(next));

    let all = beats(&shared);
    let mut tokens: Vec<_> = all.iter().map(|beat| beat.token).collect();
    // In the order in which they were written: nobody else wrote in between,
    // and the token only rises.
    assert!(tokens.is_sorted(), "{tokens:?}");
    tokens.dedup();
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    let last = all.iter().rfind(|beat| beat.token == first);
    let last = last.expect("beats of the first").at;
    let begun = all.iter().find(|beat| beat.token != first);
    let begun = begun.expect("beats of the second").at;
    println!(
        "stopped at {stopped_at:.2}, last beat {:.2} s later, next task {:.2} s later",
        last - stopped_at,
        begun - stopped_at
    );
    assert!(
        last - stopped_at <= LEASE_S + SLACK_S,
        "it ran {} s on",
        last - stopped_at
    );
    assert!(begun > last, "{begun} is before {last}");
    // 4 s more than the lease after the last renewal, which may be older than
    // the stop by a heartbeat.
    assert!(
        begun - stopped_at >= LEASE_S + 4.0 - SLACK_S,
        "the successor came {} s after the stop",
        begun - stopped_at
    );
}
