//! From a decision to start to a helper's process: folders, groups, the
//! description of the task and its environment.

use super::{
    actor::group_name,
    cgroups::{Cgroups, memory_limit},
    folders::Folders,
    key_of, moved,
    places::Places,
    process::Process,
    program,
    texts::Texts,
    token,
    trees::Trees,
};
use potluck_core::host::Start;
use potluck_helper::{
    TaskDescription,
    description::{DESCRIPTION_VERSION, Isolation, Profile},
};
use potluck_specs::{
    Millis, NodeId, NodeName, Topology,
    job::{self, JobKind, interpolation::Values},
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
};

/// Where programs are looked for in tasks that don't say it themselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What all starts have in common.
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) folders: Folders,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) node: NodeId,
    pub(super) name: NodeName,
    pub(super) topology: Topology,
    pub(super) address: IpAddr,
    pub(super) agent_generation: u64,
    pub(super) lease: Millis,
    pub(super) boot_id: String,
}

/// A helper that was started.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: Process,
    pub(super) child: Child,
    /// Limits that its task does not have, for people.
    pub(super) missing: Vec<String>,
}

impl Launch {
    /// Starts a helper. Blocks for the time of a few files and a fork.
    pub(super) fn start(&self, start: &Start, trees: &Trees) -> Result<Launched, String> {
        let run = &start.run;
        self.folders
            .prepare(run)
            .map_err(|error| format!("folders: {error}"))?;
        token::write(&self.folders.work(run), start.generation)
            .map_err(|error| format!("the file of its generation: {error}"))?;
        let task = &start.job.task;
        let texts = self.texts(start)?;
        let packages = trees.layout(start.job.package, &start.job.packages)?;
        let places = Places::of(&self.folders, run, task)?;
        let group = self
            .cgroups
            .create(&group_name(run), &task.resources, &task.limits);
        let folder = self.folders.start(run);
        let profile = profile(task.isolation);
        let description = TaskDescription {
            version: DESCRIPTION_VERSION,
            key: key_of(run),
            command: task.command.clone(),
            args: texts.args,
            env: self.environment(start, texts.env),
            package: packages.program,
            layers: packages.layers,
            task_folder: self.folders.work(run),
            log_folder: self.folders.logs(&run.slot, run.origin),
            logs: task.logs,
            agent_socket: self.folders.socket(),
            agent_generation: self.agent_generation,
            node: self.node.short(),
            lease_ms: self.lease.0,
            scheduler_lease_until: start.lease_until,
            stop: task.stop,
            user: places.user,
            cgroup_procs: group.procs,
            kill_group: group.kill_group,
            memory_peak_files: group.memory_peak_files,
            isolation: Isolation::of(profile, !task.ports.is_empty()),
            profile,
            memory_bytes: memory_limit(&task.resources, &task.limits),
            // Packages first, so that a mount may lie in one.
            mounts: [packages.mounts, places.mounts].concat(),
            files: texts.files,
            setup: texts.setup,
            teardown: texts.teardown,
            memory_watch: group.memory_watch,
            group: group.group,
            disk_bytes: Some(task.resources.disk_bytes).filter(|bytes| *bytes > 0),
        };
        self.spawn(&folder, &description, group.missing)
    }

    fn spawn(
        &self,
        folder: &Path,
        description: &TaskDescription,
        missing: Vec<String>,
    ) -> Result<Launched, String> {
        let mut child = program::start(&self.program, folder, description)
            .map_err(|error| format!("helper {}: {error}", self.program.display()))?;
        // Not reaped before this, so the id is still its own.
        match Process::open(child.id() as i32) {
            Ok(process) => Ok(Launched {
                process,
                child,
                missing,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("helper can't be watched: {error}"))
            }
        }
    }

    fn texts(&self, start: &Start) -> Result<Texts, String> {
        let run = &start.run;
        let folder = self.folders.work(run);
        let values = Values {
            slot: &run.slot,
            version: start.job.version,
            node: &self.name,
            node_id: self.node,
            address: &self.address.to_string(),
            topology: &self.topology,
            task_dir: &folder.to_string_lossy(),
            ports: &start.ports,
        };
        Texts::of(&start.job.task, &values).map_err(|error| error.to_string())
    }

    /// The job's own variables, and on top what potluck tells every task. Where
    /// its folders are, the helper adds: it knows how the task sees them.
    fn environment(
        &self,
        start: &Start,
        own: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([("PATH".to_string(), PATH.to_string())]);
        env.extend(own);
        let run = &start.run;
        let told = [
            ("POTLUCK_JOB", run.slot.job.to_string()),
            ("POTLUCK_SLOT", run.slot.index.to_string()),
            ("POTLUCK_NODE", self.name.to_string()),
            ("POTLUCK_NODE_ID", self.node.to_hex()),
            ("POTLUCK_GENERATION", start.generation.to_string()),
            (
                token::VARIABLE,
                token::path(&self.folders.work(run)).display().to_string(),
            ),
            (moved::ADDRESS, self.address.to_string()),
        ];
        env.extend(told.map(|(name, value)| (name.to_string(), value)));
        if is_array(&start.job.kind) {
            env.insert(ARRAY_INDEX.into(), run.slot.index.to_string());
        }
        for (name, port) in &start.ports {
            env.insert(port_variable(name), port.to_string());
        }
        env
    }
}

/// Told to tasks of an array beside `POTLUCK_SLOT`, which all tasks have.
const ARRAY_INDEX: &str = "POTLUCK_ARRAY_INDEX";

fn is_array(kind: &JobKind) -> bool {
    matches!(kind, JobKind::Batch(batch) if batch.array)
}

fn profile(isolation: job::Isolation) -> Profile {
    match isolation {
        job::Isolation::Default => Profile::Default,
        job::Isolation::Strict => Profile::Strict,
        job::Isolation::None => Profile::None,
    }
}

/// `PORT_ADMIN_HTTP` for `admin-http`.
fn port_variable(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    format!("PORT_{}", name.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_variables_are_shell_words() {
        assert_eq!(port_variable("http"), "PORT_HTTP");
        assert_eq!(port_variable("admin-http2"), "PORT_ADMIN_HTTP2");
    }
}
