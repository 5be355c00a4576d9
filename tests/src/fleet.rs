//! A testnet of one test: in a folder and on addresses of its own, gone when
//! the test ends, also when it fails.

use potluck_testnet::{
    client::{Client, Failed},
    net::{Testnet, TestnetOptions, Wires},
    wait::until,
};
use std::{
    fmt,
    fs::OpenOptions,
    net::{Ipv4Addr, UdpSocket},
    ops::Deref,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long anything may take on a slow machine.
pub const WAIT: Duration = Duration::from_secs(60);

/// Fleets at once: each has several processes, CI has two cores.
const FLEETS_MAX: usize = 2;

/// First and last second number of the addresses; those below are for people.
const BLOCKS: std::ops::RangeInclusive<u8> = 100..=250;

/// Lines of each node's log that a failed test shows.
const TAIL_LINES: usize = 25;

static FLEETS: Mutex<usize> = Mutex::new(0);
static FLEET_ENDED: Condvar = Condvar::new();

/// One of the few places for fleets at once.
#[derive(Debug)]
pub struct Turn(());

impl Turn {
    /// Waits for a place.
    pub fn take() -> Turn {
        let mut fleets = fleets();
        while *fleets >= FLEETS_MAX {
            fleets = FLEET_ENDED
                .wait(fleets)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *fleets += 1;
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *fleets() -= 1;
        FLEET_ENDED.notify_one();
    }
}

fn fleets() -> MutexGuard<'static, usize> {
    FLEETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses that nobody else uses, in this process or another: a socket that
/// is bound stands for them, so that the kernel frees them in any case.
#[derive(Debug)]
pub struct Block {
    /// The second number of the addresses.
    pub number: u8,
    _mark: UdpSocket,
}

impl Block {
    /// Some that are free.
    pub fn take() -> Block {
        let free = BLOCKS.filter_map(|number| {
            let mark = UdpSocket::bind((Ipv4Addr::new(127, number, 255, 254), 7400)).ok()?;
            Some(Block {
                number,
                _mark: mark,
            })
        });
        free.into_iter()
            .next()
            .expect("a block of addresses is free")
    }
}

/// The testnet of one test.
pub struct Fleet {
    net: Testnet,
    // Fields are dropped in this order, after `Drop` has ended the processes.
    _root: tempfile::TempDir,
    _block: Block,
    _turn: Turn,
}

impl Deref for Fleet {
    type Target = Testnet;

    fn deref(&self) -> &Testnet {
        &self.net
    }
}

impl Fleet {
    /// `nodes` nodes over `racks` racks, all up.
    pub fn up(nodes: u8, racks: u8) -> Fleet {
        Fleet::make(nodes, racks, &[], false, Testnet::up)
    }

    /// The same, with wires between the nodes that can be cut. Needs what
    /// [`Wires::missing`] names.
    pub fn wired(nodes: u8, racks: u8) -> Fleet {
        Fleet::make(nodes, racks, &[], true, Testnet::up)
    }

    /// What is between the nodes of a [`Fleet::wired`].
    pub fn wires(&self) -> &Wires {
        self.net.wires().expect("a fleet with wires")
    }

    /// The same with more arguments of each node's; a node that is started
    /// again later has them not.
    pub fn up_with(nodes: u8, racks: u8, node_args: &[&str]) -> Fleet {
        Fleet::make(nodes, racks, node_args, false, Testnet::up)
    }

    /// The same, but only the first node is started.
    pub fn found(nodes: u8, racks: u8) -> Fleet {
        Fleet::make(nodes, racks, &[], false, Testnet::found)
    }

    fn make<E: fmt::Display>(
        nodes: u8,
        racks: u8,
        node_args: &[&str],
        wired: bool,
        bring_up: impl Fn(&TestnetOptions) -> Result<Testnet, E>,
    ) -> Fleet {
        let turn = Turn::take();
        let block = Block::take();
        // Short, since socket paths are.
        let root = tempfile::Builder::new()
            .prefix("pl")
            .tempdir()
            .expect("a folder for the test");
        let options = TestnetOptions {
            nodes,
            racks,
            block: block.number,
            node_args: node_args.iter().copied().map(String::from).collect(),
            wired,
            ..TestnetOptions::new(root.path())
        };
        let outcome = bring_up(&options).map_err(|error| error.to_string());
        let opened = Testnet::open(root.path()).map(|net| match &outcome {
            Ok(same) => net.with_wires_of(same),
            Err(_) => net,
        });
        let fleet = Fleet {
            // What came up so far goes down with the fixture.
            net: opened.unwrap_or_else(|error| panic!("{error}; {:?}", outcome.as_ref().err())),
            _root: root,
            _block: block,
            _turn: turn,
        };
        if let Err(error) = outcome {
            panic!("the fleet does not come up: {error}");
        }
        fleet
    }

    /// Writes a spec with this text into a folder of its own, beside a copy
    /// of the hello program, and returns its path.
    pub fn spec(&self, name: &str, text: &str) -> String {
        let folder = self.root().join("specs").join(name);
        std::fs::create_dir_all(&folder).expect("a folder for a spec");
        let hello = programs().join("potluck-hello");
        std::fs::copy(&hello, folder.join("potluck-hello"))
            .unwrap_or_else(|error| panic!("{}: {error}; build the workspace", hello.display()));
        let path = folder.join(format!("{name}.star"));
        std::fs::write(&path, text).expect("a spec");
        path.to_string_lossy().into_owned()
    }

    /// A folder that tasks of all nodes may bind and write to.
    pub fn shared_folder(&self) -> PathBuf {
        let shared = self.root().join("shared");
        std::fs::create_dir(&shared).expect("a folder to share");
        // Tasks may be of another user than the nodes.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&shared, all).expect("it is ours");
        for name in self.names() {
            let allowed = self.data(&name).join("agent/mounts");
            std::fs::write(&allowed, format!("{}\n", shared.display())).expect("a node's folder");
        }
        shared
    }

    /// The spec of an HTTP service of this name.
    pub fn hello(&self, name: &str, replicas: u32) -> String {
        self.spec(
            name,
            &hello(name, replicas, "potluck-hello", "potluck-hello"),
        )
    }

    /// Submits a spec through a node and waits until it is healthy.
    pub fn run(&self, through: &str, spec: &str) -> serde_json::Value {
        let done = self.client(through).json(&["run", spec]);
        done.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a node with `args` that is expected to end by itself, and
    /// returns its exit code and what it said.
    pub fn node_ends(&self, name: &str, args: &[&str]) -> (i32, String) {
        let before = self.log(name).len();
        let mut command = self.node_command(name, args).expect("a node of this name");
        let child = command.spawn().expect("potluck starts");
        let code = exit_code(child);
        (code, self.log(name)[before..].to_owned())
    }

    /// `potluck node` for this node with other values of some arguments; its
    /// standard error goes to the node's log.
    pub fn altered_command(&self, name: &str, other: &[(&str, String)]) -> Command {
        let command = self.node_command(name, &[]).expect("a node of this name");
        let log = self.root().join(format!("{name}.log"));
        let log = OpenOptions::new().append(true).open(log);
        let mut altered = Command::new(command.get_program());
        altered.stdin(Stdio::null()).stdout(Stdio::null());
        altered
            .stderr(log.expect("the node's log"))
            .process_group(0);
        let mut args = command.get_args().map(|arg| arg.to_string_lossy());
        while let Some(arg) = args.next() {
            match other.iter().find(|(name, _)| *name == arg) {
                Some((name, value)) => {
                    args.next();
                    altered.args([name, value.as_str()]);
                }
                None => {
                    altered.arg(&*arg);
                }
            }
        }
        altered
    }

    /// Joins a node through the first one and expects to be refused.
    pub fn refused(&self, name: &str, token: &str) -> (i32, String) {
        let seed = self.nodes()[0].address.to_string();
        self.node_ends(name, &["--join", &seed, "--token", token])
    }

    /// Waits until a node is up for the scheduler.
    pub fn await_up(&self, name: &str) {
        self.await_state(name, "up");
    }

    /// Waits until the scheduler sees a node in this state.
    pub fn await_state(&self, name: &str, wanted: &str) {
        let seen = until(&format!("{name} {wanted}"), WAIT, || {
            let states = self.node_states().map_err(|error| error.to_string())?;
            let there = states
                .iter()
                .any(|(node, state)| node == name && state == wanted);
            if there {
                Ok(())
            } else {
                Err(format!("{states:?}"))
            }
        });
        seen.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The voters, once there are `count` and none of `not` is among them.
    pub fn voters(&self, count: usize, not: &[&str]) -> Vec<String> {
        let formed = until(&format!("{count} voters"), WAIT, || {
            let client = self.any_client().map_err(|error| error.to_string())?;
            let info = client.json(&["info"]).map_err(|error| error.to_string())?;
            let voters: Vec<String> = info["voters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|voter| voter.as_str().map(str::to_owned))
                .collect();
            let good = voters.len() == count && !voters.iter().any(|v| not.contains(&v.as_str()));
            if good {
                Ok(voters)
            } else {
                Err(info.to_string())
            }
        });
        formed.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The rack of a node.
    pub fn rack(&self, name: &str) -> &str {
        &self.place(name).expect("a node of this name").rack
    }

    /// Files of logs on a node.
    pub fn segments(&self, node: &str) -> usize {
        let mut folders = vec![self.data(node).join("agent/tasks")];
        let mut segments = 0;
        while let Some(folder) = folders.pop() {
            // What a task removes meanwhile is none.
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ if entry.file_name().to_string_lossy().ends_with(".log.zst") => segments += 1,
                    _ => {}
                }
            }
        }
        segments
    }

    /// A node that runs and is none of `not`.
    pub fn other(&self, not: &[&str]) -> String {
        let names = self.names();
        names
            .into_iter()
            .find(|name| !not.contains(&name.as_str()) && self.processes(name).agent.is_some())
            .expect("another node runs")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        if let Err(error) = self.net.down() {
            eprintln!("the testnet was not brought down: {error}");
        }
    }
}

impl Fleet {
    fn show_logs(&self) {
        for name in self.names() {
            let log = self.log(&name);
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("--- last lines of {name}:\n{}", tail.join("\n"));
        }
    }
}

/// The text of a spec: an HTTP service.
pub fn hello(name: &str, replicas: u32, package: &str, command: &str) -> String {
    format!(
        "job(name = {name:?}, package = {package:?}, command = {command:?},\n\
         replicas = {replicas}, cpu = 0.05, memory = \"32MiB\", ports = {{\"http\": 0}},\n\
         services = {{{name:?}: \"http\"}}, health = http(\"http\", \"/healthz\"))\n"
    )
}

/// The folder of this workspace's programs.
pub fn programs() -> PathBuf {
    TestnetOptions::new(Path::new("")).programs
}

/// The exit code of a process that shall end by itself; killed if not.
pub fn exit_code(mut child: Child) -> i32 {
    let ended = until("the end of a process", WAIT, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    match ended {
        Ok(status) => status.code().unwrap_or(-1),
        Err(error) => {
            // It may have ended in between.
            let _ = child.kill();
            let _ = child.wait();
            panic!("{error}");
        }
    }
}

/// The failure of a command that must fail.
pub fn failure(client: &Client, args: &[&str]) -> Failed {
    match client.text(args) {
        Err(failed) => failed,
        Ok(text) => panic!("potluck {args:?} should fail, but said {text}"),
    }
}
