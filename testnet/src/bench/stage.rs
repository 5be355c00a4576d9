//! A testnet to measure on, with specs and a program of its own beside it.

use super::{LIMIT, Outcome};
use crate::{
    client::{Client, Failed},
    net::{RunningTestnet, TestnetOptions},
    wait::until,
};
use potluck_core::voters::voters_wanted;
use serde_json::Value;
use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The program that jobs run: a small HTTP service.
const PROGRAM: &str = "potluck-hello";

/// A testnet and the folder of its specs.
pub(super) struct Stage {
    net: RunningTestnet,
    specs: PathBuf,
}

impl Deref for Stage {
    type Target = RunningTestnet;

    fn deref(&self) -> &RunningTestnet {
        &self.net
    }
}

impl Stage {
    /// Brings one up in a temporary folder, on addresses of this block.
    pub(super) fn up(block: u8, nodes: u8) -> Outcome<Stage> {
        let folder = format!("potluck-bench-{}-{block}", std::process::id());
        let root = std::env::temp_dir().join(folder);
        let options = TestnetOptions {
            block,
            nodes,
            racks: racks(nodes),
            ..TestnetOptions::new(&root)
        };
        let net = RunningTestnet::up(&options)?;
        let specs = root.join("specs");
        fs::create_dir(&specs)?;
        fs::copy(options.programs.join(PROGRAM), specs.join(PROGRAM))?;
        Ok(Stage { net, specs })
    }

    /// The folder of the specs; packages lie there too.
    pub(super) fn specs(&self) -> &Path {
        &self.specs
    }

    /// Writes a spec and says where it lies.
    pub(super) fn spec(&self, name: &str, replicas: u32, more: &str) -> Outcome<String> {
        let path = self.specs.join(format!("{name}.star"));
        let text = format!(
            "job(name = \"{name}\", package = \"{PROGRAM}\", command = \"{PROGRAM}\", \
             replicas = {replicas}, cpu = 0.03, memory = \"16MiB\", ports = {{\"http\": 0}}, {more})\n"
        );
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Has a task run on every node, so that all hold its package.
    pub(super) fn warm(&self) -> Outcome<()> {
        let nodes = u32::try_from(self.nodes().len())?;
        let spec = self.spec("warm", nodes, "")?;
        let client = self.any_client()?;
        client.json(&["run", &spec])?;
        for name in self.names() {
            until("the package on every node", LIMIT, || self.holds(&name))?;
        }
        client.text(&["stop", "warm"])?;
        Ok(())
    }

    fn holds(&self, name: &str) -> Result<(), String> {
        let packages = self.client(name).json(&["packages"]);
        let packages = packages.map_err(|error| error.to_string())?;
        match &packages[0]["complete"] {
            Value::Bool(true) => Ok(()),
            _ => Err(format!("{name} has {packages}")),
        }
    }

    /// Waits until there are as many voters as there should be, all of them
    /// running, and every running node has a session. Says who leads.
    pub(super) fn settle(&self) -> Outcome<String> {
        self.await_all_up()?;
        let wanted = voters_wanted(self.nodes().len());
        let leader = until("enough voters that run", LIMIT, || {
            let leader = self.leader().map_err(|error| error.to_string())?;
            let info = self.client(&leader).json(&["info"]);
            let info = info.map_err(|error| error.to_string())?;
            let voters = info["voters"].as_array().cloned().unwrap_or_default();
            let runs = |name: &Value| {
                let name = name.as_str().unwrap_or_default();
                self.processes(name).agent.is_some()
            };
            match voters.len() == wanted && voters.iter().all(runs) {
                true => Ok(leader),
                false => Err(format!("{voters:?}")),
            }
        })?;
        Ok(leader)
    }

    /// A client of any running node but this one.
    pub(super) fn client_beside(&self, not: &str) -> Outcome<Client> {
        let names = self.names();
        let other = names
            .iter()
            .find(|name| *name != not && self.processes(name).agent.is_some());
        Ok(self.client(other.ok_or("no other node runs")?))
    }
}

/// Racks of so many nodes: three, then one for every four nodes.
fn racks(nodes: u8) -> u8 {
    (nodes / 4).max(3).min(nodes)
}

/// One running task, as `potluck status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) node: String,
    pub(super) state: String,
    pub(super) healthy: bool,
    /// Since when it is in this state, by its host's clock, Unix time.
    pub(super) since: Duration,
}

/// The tasks of a job.
pub(super) fn tasks(client: &Client, job: &str) -> Result<Vec<Task>, Failed> {
    let jobs = client.json(&["status", job])?;
    Ok(tasks_of(&jobs[0]))
}

/// The tasks of a job's JSON.
pub(super) fn tasks_of(job: &Value) -> Vec<Task> {
    let tasks = job["tasks"].as_array().map(Vec::as_slice);
    tasks.unwrap_or_default().iter().map(task).collect()
}

fn task(task: &Value) -> Task {
    let text = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
    Task {
        node: text("node"),
        state: text("state"),
        healthy: task["healthy"] == Value::Bool(true),
        since: Duration::from_millis(task["since"].as_u64().unwrap_or_default()),
    }
}

/// The same clock that a host's `since` is read from: it is one machine.
pub(super) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// How long one `potluck info` takes, the program's start included.
pub(super) fn info_time(client: &Client) -> Outcome<Duration> {
    let start = Instant::now();
    client.text(&["info"])?;
    Ok(start.elapsed())
}

/// How long it takes to start so many trivial processes and see them end.
pub(super) fn processes_time(count: u32) -> Outcome<Duration> {
    let start = Instant::now();
    let children: Vec<_> = (0..count)
        .map(|_| Command::new("true").stdin(Stdio::null()).spawn())
        .collect();
    for child in children {
        child?.wait()?;
    }
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn racks_grow_with_nodes_and_are_never_more() {
        let all = [1, 2, 3, 6, 12, 20, 40].map(racks);
        assert_eq!(all, [1, 2, 3, 3, 3, 5, 10]);
    }
}
