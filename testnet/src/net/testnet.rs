//! A testnet: brought up, harmed, looked at and brought down.

use super::{
    layout::{self, LOOPBACK, Layout, NodePlace, PRIVATE},
    process::{HostProcesses, adopt_orphans, host_processes, reap, runs},
    wires::Wires,
};
use crate::{
    client::{Client, Failed},
    wait::{TimedOut, until},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// How long a node may take to answer after its start.
const START_WAIT: Duration = Duration::from_secs(30);

/// How long all nodes may take to know each other.
const GATHER_WAIT: Duration = Duration::from_secs(60);

/// How long a node may take to stop on SIGTERM before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// What a testnet can't do.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A file or a process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A folder that is no testnet, or one already.
    #[error("{0}")]
    Folder(String),
    /// A node of this name is not in it.
    #[error("there is no node {name:?} in this testnet; there are {known}")]
    NoNode {
        /// What was asked for.
        name: String,
        /// The nodes.
        known: String,
    },
    /// A command of `potluck` failed.
    #[error(transparent)]
    Command(#[from] Failed),
    /// Something did not come about.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// A node that was to come up has ended instead.
    #[error("node {name} ended: {said}")]
    Ended {
        /// The node.
        name: String,
        /// The last that it logged.
        said: String,
    },
}

/// What a testnet is brought up with.
#[derive(Clone, Debug)]
pub struct TestnetOptions {
    /// Its folder; must not exist, or be empty.
    pub root: PathBuf,
    /// The folder of the programs `potluck` and `potluck-helper`.
    pub programs: PathBuf,
    /// How many nodes.
    pub nodes: u8,
    /// Over how many racks.
    pub racks: u8,
    /// How many of them [`Testnet::up`] starts, the first ones; the others may
    /// join later.
    pub joined: u8,
    /// Second number of the addresses, so that testnets don't meet.
    pub block: u8,
    /// Further arguments of every `potluck node`.
    pub node_args: Vec<String>,
    /// Each node in a network namespace of its own, with [`Wires`] between
    /// them, for as long as this process has the testnet. Needs root.
    pub wired: bool,
}

impl TestnetOptions {
    /// Six nodes in three racks, with the programs beside this one.
    pub fn new(root: &Path) -> TestnetOptions {
        TestnetOptions {
            root: root.into(),
            programs: programs_beside_us(),
            nodes: 6,
            racks: 3,
            joined: u8::MAX,
            block: 0,
            node_args: Vec::new(),
            wired: false,
        }
    }
}

/// The folder of this workspace's programs: beside this one, or one above
/// (test programs lie in `deps`).
fn programs_beside_us() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let folder = exe.parent().map(Path::to_path_buf).unwrap_or_default();
    match folder.file_name().is_some_and(|name| name == "deps") {
        true => folder.parent().map(Path::to_path_buf).unwrap_or_default(),
        false => folder,
    }
}

/// A testnet in its folder.
#[derive(Clone, Debug)]
pub struct Testnet {
    root: PathBuf,
    programs: PathBuf,
    layout: Layout,
    node_args: Vec<String>,
    wires: Option<Arc<Wires>>,
}

impl Testnet {
    /// Sets a new one up and starts the first node only: a fleet of one.
    ///
    /// # Errors
    /// Any [`NetError`].
    pub fn found(options: &TestnetOptions) -> Result<Testnet, NetError> {
        let root = &options.root;
        if layout::file(root).exists() {
            return Err(NetError::Folder(format!(
                "{} holds a testnet already; bring it down first",
                root.display()
            )));
        }
        let made = fs::create_dir_all(root);
        made.map_err(|source| io_error(&format!("can't make {}", root.display()), source))?;
        let network = if options.wired { PRIVATE } else { LOOPBACK };
        let layout = Layout::new(network, options.block, options.nodes, options.racks);
        let wires = options.wired.then(|| Wires::lay(&layout)).transpose()?;
        let net = Testnet {
            root: root.clone(),
            programs: options.programs.clone(),
            layout,
            node_args: options.node_args.clone(),
            wires: wires.map(Arc::new),
        };
        net.check_programs()?;
        let text = serde_json::to_string_pretty(&net.layout).expect("a layout has string keys");
        fs::write(layout::file(root), text)
            .map_err(|source| io_error("can't write testnet.json", source))?;
        let first = net.layout.nodes[0].clone();
        let init = ["init", "--name", &first.name, "--rack", &first.rack];
        net.client(&first.name).text(&init)?;
        net.start(&first.name)?;
        net.await_answer(&first.name)?;
        Ok(net)
    }

    /// Sets a new one up with its nodes, each joined through the first one's
    /// address, and waits until all are up.
    ///
    /// # Errors
    /// Any [`NetError`].
    pub fn up(options: &TestnetOptions) -> Result<Testnet, NetError> {
        let net = Testnet::found(options)?;
        let token = net.token(u32::from(options.nodes).max(1))?;
        let joined = usize::from(options.joined).max(1);
        let started = net.names().into_iter().take(joined).collect::<Vec<_>>();
        for name in started.iter().skip(1) {
            net.start_joining(name, &token)?;
        }
        net.await_up(&started)?;
        Ok(net)
    }

    /// One that is there already.
    ///
    /// # Errors
    /// [`NetError::Folder`] if it is not.
    pub fn open(root: &Path) -> Result<Testnet, NetError> {
        let text = fs::read_to_string(layout::file(root))
            .map_err(|_| NetError::Folder(format!("there is no testnet in {}", root.display())))?;
        let layout = serde_json::from_str(&text)
            .map_err(|error| NetError::Folder(format!("testnet.json can't be read: {error}")))?;
        let programs = programs_beside_us();
        Ok(Testnet {
            root: root.into(),
            programs,
            layout,
            node_args: Vec::new(),
            wires: None,
        })
    }

    /// The same with the wires of another value of this testnet, so that nodes
    /// are started at their ends.
    #[must_use]
    pub fn with_wires_of(self, other: &Testnet) -> Testnet {
        let wires = other.wires.clone();
        Testnet { wires, ..self }
    }

    /// What is between its nodes, if it was brought up with it.
    pub fn wires(&self) -> Option<&Wires> {
        self.wires.as_deref()
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[NodePlace] {
        &self.layout.nodes
    }

    /// A node's place.
    ///
    /// # Errors
    /// [`NetError::NoNode`].
    pub fn place(&self, name: &str) -> Result<&NodePlace, NetError> {
        self.layout.node(name).ok_or_else(|| NetError::NoNode {
            name: name.into(),
            known: self.names().join(", "),
        })
    }

    /// The names of its nodes.
    pub fn names(&self) -> Vec<String> {
        self.layout
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect()
    }

    /// A node's data folder.
    pub fn data(&self, name: &str) -> PathBuf {
        layout::data(&self.root, name)
    }

    /// What a node has logged.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(layout::log(&self.root, name)).unwrap_or_default()
    }

    /// The admin, asking this node through its socket.
    pub fn client(&self, name: &str) -> Client {
        let program = self.programs.join("potluck");
        Client::new(&program, &layout::config(&self.root), &self.data(name))
    }

    /// A token for so many nodes.
    ///
    /// # Errors
    /// [`NetError::Command`].
    pub fn token(&self, uses: u32) -> Result<String, NetError> {
        let uses = uses.to_string();
        let made = self
            .any_client()?
            .json(&["token", "create", "--uses", &uses])?;
        Ok(made["token"].as_str().unwrap_or_default().to_owned())
    }

    /// A client of the first node that runs.
    ///
    /// # Errors
    /// [`NetError::Folder`] if none does.
    pub fn any_client(&self) -> Result<Client, NetError> {
        let running = self
            .names()
            .into_iter()
            .find(|name| self.processes(name).agent.is_some());
        let name = running.ok_or_else(|| NetError::Folder("no node of it runs".into()))?;
        Ok(self.client(&name))
    }

    /// Starts a node that is a member already.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(&self, name: &str) -> Result<(), NetError> {
        self.spawn(name, &[])
    }

    /// Starts a node for the first time: it joins through the first node.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start_joining(&self, name: &str, token: &str) -> Result<(), NetError> {
        self.start_joining_through(name, &self.layout.nodes[0].name, token)
    }

    /// Starts a node for the first time: it joins through the node `seed`.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start_joining_through(
        &self,
        name: &str,
        seed: &str,
        token: &str,
    ) -> Result<(), NetError> {
        let seed = self.place(seed)?.address.to_string();
        self.spawn(name, &["--join", &seed, "--token", token])
    }

    fn spawn(&self, name: &str, more: &[&str]) -> Result<(), NetError> {
        let mut node = self
            .node_command(name, more)?
            .spawn()
            .map_err(|source| io_error(&format!("can't start node {name}"), source))?;
        // It is found by its command line, which is there a moment after this
        // process may go on. One that has ended has none.
        until("a node that can be found", START_WAIT, || {
            let is_there = self.processes(name).agent.is_some();
            match is_there || matches!(node.try_wait(), Ok(Some(_))) {
                true => Ok(()),
                false => Err("it has no command line yet"),
            }
        })?;
        Ok(())
    }

    /// `potluck node` for this node, ready to be started; its standard error
    /// goes to the node's log.
    ///
    /// # Errors
    /// [`NetError::NoNode`], or if the log can't be opened.
    pub fn node_command(&self, name: &str, more: &[&str]) -> Result<Command, NetError> {
        let place = self.place(name)?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(layout::log(&self.root, name))
            .map_err(|source| io_error("can't open a node's log", source))?;
        adopt_orphans();
        let program = self.programs.join("potluck");
        let mut command = match &self.wires {
            Some(wires) => wires.inside(name, &program),
            None => Command::new(program),
        };
        command
            .arg("node")
            .args(["--name", name, "--rack", &place.rack])
            .args(["--listen", &place.address.to_string()])
            // Every node believes to own the machine; keep them modest.
            .args(["--cpu", "4000", "--memory", "2048"])
            .args(["--replace-voter-after", "5"])
            .arg("--data")
            .arg(self.data(name))
            .args(more)
            .args(&self.node_args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Of its own, so that Ctrl-C in the person's terminal is not its end.
            .process_group(0);
        Ok(command)
    }

    /// Waits until a node answers on its socket.
    ///
    /// # Errors
    /// [`NetError::TimedOut`]; [`NetError::Ended`] as soon as it runs no more.
    pub fn await_answer(&self, name: &str) -> Result<Value, NetError> {
        let client = self.client(name);
        let what = format!("an answer of node {name}");
        until(&what, START_WAIT, || match client.json(&["info"]) {
            Ok(info) => Ok(Ok(info)),
            Err(failed) => self.unless_ended(name, failed.to_string()),
        })?
    }

    /// What to wait for yet, unless the node has ended meanwhile.
    fn unless_ended<T>(&self, name: &str, seen: String) -> Result<Result<T, NetError>, String> {
        if self.processes(name).agent.is_some() {
            return Err(seen);
        }
        let log = self.log(name);
        let said = log.lines().rev().find(|line| line.starts_with("error: "));
        let said = said
            .or(log.lines().next_back())
            .unwrap_or("it said nothing");
        Ok(Err(NetError::Ended {
            name: name.into(),
            said: said.trim_start_matches("error: ").into(),
        }))
    }

    /// Waits until the scheduler has a session with every node whose process
    /// runs.
    ///
    /// # Errors
    /// [`NetError::TimedOut`]; [`NetError::Ended`] as soon as one runs no more.
    pub fn await_all_up(&self) -> Result<(), NetError> {
        let mut running = self.names();
        running.retain(|name| self.processes(name).agent.is_some());
        self.await_up(&running)
    }

    /// The same of these nodes.
    fn await_up(&self, names: &[String]) -> Result<(), NetError> {
        until("a session with every node", GATHER_WAIT, || {
            let nodes = self.node_states().map_err(|error| error.to_string())?;
            let is_up = |name: &&String| {
                nodes
                    .iter()
                    .any(|(node, state)| node == *name && state == "up")
            };
            match names.iter().find(|name| !is_up(name)) {
                None => Ok(Ok(())),
                Some(absent) => self.unless_ended(absent, format!("{nodes:?}")),
            }
        })?
    }

    /// The name of every node that was admitted, with its state.
    ///
    /// # Errors
    /// [`NetError::Command`].
    pub fn node_states(&self) -> Result<Vec<(String, String)>, NetError> {
        let nodes = self.any_client()?.json(&["nodes"])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(list
            .iter()
            .map(|node| (text(&node["name"]), text(&node["state"])))
            .collect())
    }

    /// The name of the node that leads, as `name` sees it.
    ///
    /// # Errors
    /// [`NetError::Command`].
    pub fn leader_seen_by(&self, name: &str) -> Result<Option<String>, NetError> {
        let info = self.client(name).json(&["info"])?;
        Ok(info["leader"].as_str().map(str::to_owned))
    }

    /// The node that leads, once somebody names one that runs.
    ///
    /// # Errors
    /// [`NetError::TimedOut`].
    pub fn leader(&self) -> Result<String, NetError> {
        let leader = until("a leader", START_WAIT, || {
            let running: Vec<String> = self
                .names()
                .into_iter()
                .filter(|name| self.processes(name).agent.is_some())
                .collect();
            for name in &running {
                if let Ok(Some(leader)) = self.leader_seen_by(name)
                    && running.contains(&leader)
                {
                    return Ok(leader);
                }
            }
            Err(format!("none of {running:?} names a leader that runs"))
        })?;
        Ok(leader)
    }

    /// The processes of a node.
    pub fn processes(&self, name: &str) -> HostProcesses {
        host_processes(&self.data(name))
    }

    /// The control groups of a node that are there now.
    pub fn control_groups(&self, name: &str) -> Vec<PathBuf> {
        super::cgroups::of(&self.data(name))
    }

    /// Kills agent, helpers, inits and tasks of a node together: the host is
    /// gone.
    ///
    /// # Errors
    /// [`NetError::NoNode`], [`NetError::TimedOut`].
    pub fn kill(&self, name: &str) -> Result<(), NetError> {
        self.place(name)?;
        let mut killed = BTreeSet::new();
        until("the end of a host's processes", STOP_WAIT, || {
            let processes = self.processes(name);
            processes.kill();
            killed.extend(processes.all());
            reap(&killed);
            if processes.all().is_empty() && !killed.iter().any(|pid| runs(*pid)) {
                Ok(())
            } else {
                Err(format!("{processes:?}"))
            }
        })?;
        reap(&killed);
        Ok(())
    }

    /// Kills a node's `potluck` only.
    ///
    /// # Errors
    /// [`NetError::NoNode`], [`NetError::TimedOut`].
    pub fn kill_agent(&self, name: &str) -> Result<(), NetError> {
        self.place(name)?;
        self.end_agent(name, Signal::SIGKILL)
    }

    /// Stops a node's `potluck` as an operator does; its tasks go on.
    ///
    /// # Errors
    /// [`NetError::NoNode`], [`NetError::TimedOut`].
    pub fn stop_agent(&self, name: &str) -> Result<(), NetError> {
        self.place(name)?;
        self.end_agent(name, Signal::SIGTERM)
    }

    fn end_agent(&self, name: &str, signal: Signal) -> Result<(), NetError> {
        let Some(agent) = self.processes(name).agent else {
            return Ok(());
        };
        // Gone already is as good.
        let _ = kill(Pid::from_raw(agent), signal);
        until("the end of an agent", STOP_WAIT, || {
            reap(&BTreeSet::from([agent]));
            match runs(agent) {
                false => Ok(()),
                true => Err(format!("process {agent} goes on")),
            }
        })?;
        Ok(())
    }

    /// Signals every process of a node: SIGSTOP and SIGCONT make a pause.
    ///
    /// # Errors
    /// [`NetError::NoNode`].
    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), NetError> {
        self.place(name)?;
        for pid in self.processes(name).all() {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// Signals a node's `potluck` alone.
    ///
    /// # Errors
    /// [`NetError::NoNode`].
    pub fn signal_agent(&self, name: &str, signal: Signal) -> Result<(), NetError> {
        self.place(name)?;
        if let Some(agent) = self.processes(name).agent {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(agent), signal);
        }
        Ok(())
    }

    /// Ends everything and removes the folder.
    ///
    /// # Errors
    /// [`NetError::TimedOut`] if something does not end,
    /// [`NetError::Io`] if the folder can't be removed.
    pub fn down(&self) -> Result<(), NetError> {
        for name in self.names() {
            self.kill(&name)?;
        }
        super::cgroups::remove(&self.root);
        remove_tree(&self.root)
            .map_err(|source| io_error(&format!("can't remove {}", self.root.display()), source))
    }

    fn check_programs(&self) -> Result<(), NetError> {
        for program in ["potluck", "potluck-helper"] {
            let path = self.programs.join(program);
            if !path.exists() {
                return Err(NetError::Folder(format!(
                    "{} is missing; build it with: cargo build --workspace",
                    path.display()
                )));
            }
        }
        Ok(())
    }
}

/// Removes a folder whose package trees are read-only.
fn remove_tree(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(root)?;
            fs::remove_dir_all(root)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn make_writable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

fn io_error(what: &str, source: io::Error) -> NetError {
    NetError::Io {
        what: what.into(),
        source,
    }
}

impl NetError {
    /// What to do about it, where that is not plain.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            NetError::TimedOut(_) => Some("the nodes' logs lie in the testnet's folder, NAME.log"),
            NetError::Ended { said, .. } if said.contains("Address already in use") => Some(
                "another testnet? `potluck testnet down`, then `up` with another --block (1 to 255)",
            ),
            NetError::Ended { .. } => Some(
                "its log lies in the testnet's folder, NAME.log; `potluck testnet down` ends the others",
            ),
            _ => None,
        }
    }
}
