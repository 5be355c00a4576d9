//! Another build of potluck takes the place of the one that runs, by hand: stop
//! the node, replace the programs, start it. Tasks notice nothing, nor do they
//! when the former build comes back.
//!
//! The second build is `second_potluck` and `second_helper`, examples of the
//! crates, which `cargo test` builds by itself: other files, another version in
//! `potluck --version` and `potluck info`.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_testnet::{client::Client, demo::get};
use potluck_tests::{
    fleet::{Fleet, exit_code, programs},
    status::{Task, await_healthy, pids},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const NODE: &str = "r1h1";

/// The programs of one build: `potluck` and `potluck-helper`.
struct Build([PathBuf; 2]);

impl Build {
    fn first() -> Build {
        Build(["potluck", "potluck-helper"].map(|name| programs().join(name)))
    }

    fn second() -> Build {
        let folder = programs().join("examples");
        let build = Build(["second_potluck", "second_helper"].map(|name| folder.join(name)));
        for program in &build.0 {
            assert!(
                program.is_file(),
                "there is no second build at {}: run `cargo build --workspace --examples`",
                program.display()
            );
        }
        build
    }

    /// Puts the programs into a folder, in the place of those that are there.
    fn install(&self, folder: &Path) {
        for (program, name) in self.0.iter().zip(["potluck", "potluck-helper"]) {
            let new = folder.join("new");
            fs::copy(program, &new).unwrap();
            fs::rename(&new, folder.join(name)).unwrap();
        }
    }

    /// What `potluck --version` says.
    fn version(&self) -> String {
        let said = Command::new(&self.0[0]).arg("--version").output().unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        text.trim().trim_start_matches("potluck ").to_owned()
    }
}

/// Starts the node with the programs of a folder, as the fleet would with its
/// own.
fn start_from(fleet: &Fleet, folder: &Path) -> Child {
    let usual = fleet.node_command(NODE, &[]).unwrap();
    let log = fleet.root().join(format!("{NODE}.log"));
    let log = fs::OpenOptions::new().append(true).open(log);
    let mut command = Command::new(folder.join("potluck"));
    command
        .args(usual.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.unwrap());
    let node = command.spawn().unwrap();
    fleet.await_answer(NODE).unwrap();
    node
}

fn stop(fleet: &Fleet, node: Child) {
    kill(Pid::from_raw(node.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exit_code(node), 0, "{}", fleet.log(NODE));
    assert_eq!(fleet.processes(NODE).agent, None);
}

fn runs(client: &Client) -> String {
    let info = client.json(&["info"]).unwrap();
    info["version"].as_str().unwrap().to_owned()
}

fn all_answer(tasks: &[Task]) {
    for task in tasks {
        get(task.address, "/").unwrap_or_else(|error| panic!("{task:?}: {error}"));
    }
}

#[test]
fn another_build_takes_over_and_every_task_keeps_its_pid() {
    let (first, second) = (Build::first(), Build::second());
    for (one, other) in first.0.iter().zip(&second.0) {
        let same = fs::read(one).unwrap() == fs::read(other).unwrap();
        assert!(!same, "{} is no other build", other.display());
    }
    assert_ne!(first.version(), second.version());
    let fleet = Fleet::found(1, 1);
    let client = fleet.client(NODE);
    let folder = fleet.root().join("programs");
    fs::create_dir(&folder).unwrap();
    fleet.stop_agent(NODE).unwrap();
    first.install(&folder);
    let node = start_from(&fleet, &folder);
    assert_eq!(runs(&client), first.version());
    fleet.run(NODE, &fleet.hello("before", 3));
    let tasks = await_healthy(&client, "before", &[]);
    let processes = pids(&fleet, &[NODE]);

    stop(&fleet, node);
    second.install(&folder);
    assert_eq!(pids(&fleet, &[NODE]), processes, "while it is away");
    all_answer(&tasks);
    let node = start_from(&fleet, &folder);
    assert_eq!(runs(&client), second.version());
    assert_eq!(await_healthy(&client, "before", &[]), tasks);
    assert_eq!(pids(&fleet, &[NODE]), processes, "after the upgrade");
    all_answer(&tasks);
    fleet.run(NODE, &fleet.hello("after", 1));
    let later = await_healthy(&client, "after", &[]);
    let processes = pids(&fleet, &[NODE]);

    // And back: the first build finds tasks that the second has started.
    stop(&fleet, node);
    first.install(&folder);
    let node = start_from(&fleet, &folder);
    assert_eq!(runs(&client), first.version());
    assert_eq!(await_healthy(&client, "before", &[]), tasks);
    assert_eq!(await_healthy(&client, "after", &[]), later);
    assert_eq!(pids(&fleet, &[NODE]), processes, "after the way back");
    all_answer(&[tasks, later].concat());
    client.text(&["stop", "before"]).unwrap();
    client.text(&["stop", "after"]).unwrap();
    stop(&fleet, node);
}
