//! People: each repeats a change until it is answered, at whichever node runs.

use super::Outcome;
use crate::{
    client::{Client, Failed},
    net::{Testnet, TestnetOptions},
    sim::script::Action,
    wait::{TimedOut, until},
};
use nix::sys::signal::Signal;
use potluck_core::cluster::RolloutControl;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::ScopedJoinHandle,
    time::Duration,
};

/// The program that jobs run: a small HTTP service.
const PROGRAM: &str = "potluck-hello";

/// How long a person goes on trying: longer than any leaderless time of a
/// scenario, with the healing after it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub(super) struct Change {
    args: Vec<String>,
    /// The job that it submits.
    pub(super) job: Option<String>,
    /// The version of it that was accepted.
    pub(super) version: u64,
}

/// Somebody who waits for an answer.
pub(super) type Waiting<'scope> = ScopedJoinHandle<'scope, Result<Change, TimedOut>>;

impl Change {
    fn of(args: &[&str]) -> Change {
        Change {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            job: None,
            version: 0,
        }
    }

    /// For the one who looks on.
    pub(super) fn words(&self) -> String {
        format!("potluck {}", self.args.join(" "))
    }
}

/// All of them.
pub(super) struct People<'net> {
    net: &'net Testnet,
    /// Nodes that are stopped: they would not answer.
    held: Mutex<BTreeSet<String>>,
    specs: PathBuf,
    asked: AtomicUsize,
    written: AtomicUsize,
}

impl<'net> People<'net> {
    pub(super) fn new(net: &'net Testnet, options: &TestnetOptions) -> Outcome<People<'net>> {
        let specs = net.root().join("specs");
        fs::create_dir(&specs)?;
        fs::copy(options.programs.join(PROGRAM), specs.join(PROGRAM))?;
        Ok(People {
            net,
            held: Mutex::default(),
            specs,
            asked: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
        })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is about to be stopped.
    pub(super) fn hold(&self, name: &str) {
        self.held().insert(name.to_owned());
    }

    /// A node that may be stopped goes on.
    pub(super) fn go_on(&self, name: &str) -> Outcome<()> {
        if self.held().remove(name) {
            self.net.signal_agent(name, Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Has it joined, or is it about to?
    pub(super) fn is_member(&self, name: &str) -> bool {
        self.net.data(name).exists()
    }

    /// Nodes that run and are not stopped.
    fn able(&self) -> Vec<String> {
        let held = self.held().clone();
        let names = self.net.names().into_iter();
        let able = names.filter(|name| !held.contains(name));
        able.filter(|name| self.net.processes(name).agent.is_some())
            .collect()
    }

    /// Whom those who can answer take for the leader, if any does.
    pub(super) fn leader(&self) -> Option<String> {
        let able = self.able();
        let mut seen = able.iter().filter_map(|name| {
            let seen = self.net.leader_seen_by(name);
            seen.ok().flatten()
        });
        seen.find(|leader| able.contains(leader))
    }

    /// A node to ask, another each time.
    fn anybody(&self) -> Result<Client, String> {
        let able = self.able();
        let turn = self.asked.fetch_add(1, Ordering::Relaxed);
        match able.get(turn % able.len().max(1)) {
            Some(name) => Ok(self.net.client(name)),
            None => Err("no node runs".to_owned()),
        }
    }

    /// What somebody asks for in this line of a script.
    pub(super) fn change(&self, action: &Action) -> Outcome<Change> {
        Ok(match action {
            Action::Submit {
                name,
                replicas,
                cpu,
                ..
            } => self.submit(name, *replicas, *cpu)?,
            Action::Run {
                name,
                replicas,
                each,
                ..
            } => self.submit(name, *replicas, each.cpu_millis)?,
            Action::Stop { name } => Change::of(&["stop", "--no-wait", name]),
            Action::Rollout { name, control } => {
                let word = match control {
                    RolloutControl::Pause => "pause",
                    RolloutControl::Resume => "resume",
                    other => return Err(format!("no script has {other:?}").into()),
                };
                Change::of(&["rollout", word, name])
            }
            Action::Drain { host, draining } => {
                let name = &self.net.nodes()[*host].name;
                match draining {
                    true => Change::of(&["drain", name]),
                    false => Change::of(&["drain", "--undo", name]),
                }
            }
            other => return Err(format!("{other:?} is nothing that people ask").into()),
        })
    }

    /// The next version of a job; its programs behave, whatever the script's
    /// would do: failing ones are the simulator's.
    fn submit(&self, name: &str, replicas: u32, cpu: u32) -> Outcome<Change> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let path = self.specs.join(format!("{name}-{number}.star"));
        let cores = f64::from(cpu) / 1_000.0;
        let text = format!(
            "job(name = \"{name}\", package = \"{PROGRAM}\", command = \"{PROGRAM}\", \
             replicas = {replicas}, cpu = {cores}, memory = \"16MiB\", \
             env = {{\"VERSION\": \"{number}\"}}, ports = {{\"http\": 0}}, \
             services = {{\"{name}\": \"http\"}}, health = http(\"http\", \"/healthz\"))\n"
        );
        fs::write(&path, text)?;
        Ok(Change {
            job: Some(name.to_owned()),
            ..Change::of(&["run", "--no-wait", &path.to_string_lossy()])
        })
    }

    /// Asks until there is an answer; what is refused for good is answered too.
    pub(super) fn insist(&self, mut change: Change) -> Result<Change, TimedOut> {
        let what = format!("an answer to '{}'", change.words());
        let args: Vec<&str> = change.args.iter().map(String::as_str).collect();
        let done = until(&what, PATIENCE, || match self.anybody()?.json(&args) {
            Ok(done) => Ok(done),
            Err(failed) if is_final(&failed, change.job.is_some()) => Ok(Value::Null),
            Err(failed) => Err(failed.to_string()),
        })?;
        change.version = done["accepted"][0]["version"].as_u64().unwrap_or(0);
        Ok(change)
    }
}

/// Would asking again give the same? Of two that submit a job at once one is
/// told that the other was faster, and asks again.
fn is_final(failed: &Failed, submits: bool) -> bool {
    const CONFLICT: i64 = 4;
    let Ok(told) = serde_json::from_str::<Value>(&failed.stderr) else {
        return false;
    };
    let error = &told["error"];
    let raced = submits && error["exit_code"].as_i64() == Some(CONFLICT);
    error["retry"] == Value::Bool(false) && !raced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_refused_again_is_final() {
        let failed = |stderr: &str| Failed {
            command: "run".into(),
            code: Some(4),
            stderr: stderr.into(),
        };
        let said =
            |retry, code| format!("{{\"error\":{{\"retry\":{retry},\"exit_code\":{code}}}}}");
        let table = [
            (said(false, 3), false, true),
            (said(false, 4), false, true),
            (said(false, 4), true, false),
            (said(true, 5), false, false),
            ("killed".to_owned(), true, false),
        ];
        for (stderr, submits, is) in table {
            assert_eq!(is_final(&failed(&stderr), submits), is, "{stderr}");
        }
    }
}
