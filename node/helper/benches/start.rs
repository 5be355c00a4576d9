//! How long it takes to start `true` and see its end: bare, in the usual
//! sandbox and in the strict one with a network of its own; beside it, where
//! they can be had, runc, crun and Docker. In turns, so that a busy moment of
//! the machine meets all of them.
//!
//! The others run a static busybox without a network: `scripts/microvm` fetches
//! it, and `DOCKER_HOST` says where Docker listens. One that refuses this host
//! is named with its reason.

use nix::{
    sys::wait::waitpid,
    unistd::{ForkResult, execv, fork},
};
use potluck_helper::{description::Profile, probe::run_true};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const ROUNDS: usize = 200;

/// Rounds that the others take part in: they are slow.
const PEER_ROUNDS: usize = 20;

/// What runc and crun are to run, without limits: cgroups are not what is
/// compared.
const BUNDLE: &str = r#"{
  "ociVersion": "1.0.2",
  "process": {
    "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/true"],
    "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true, "capabilities": {}
  },
  "root": { "path": "rootfs", "readonly": true },
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc" },
    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }
  ],
  "linux": { "namespaces": [
    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
  ] }
}"#;

/// A name, how to run `true` once, and how long it took.
type Row<'a> = (String, Box<dyn Fn() + 'a>, Vec<Duration>);

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows: Vec<Row<'_>> = vec![
        ("bare fork and exec".into(), Box::new(bare), Vec::new()),
        (
            "default".into(),
            Box::new(|| run_true(Profile::Default, folder.path()).unwrap()),
            Vec::new(),
        ),
        (
            "strict".into(),
            Box::new(|| run_true(Profile::Strict, folder.path()).unwrap()),
            Vec::new(),
        ),
    ];
    let bundle = tempfile::tempdir().unwrap();
    let ours = rows.len();
    for peer in peers(bundle.path()) {
        rows.push((peer.0, Box::new(move || run(&peer.1).unwrap()), Vec::new()));
    }
    for round in 0..ROUNDS {
        let all = if round < PEER_ROUNDS {
            rows.len()
        } else {
            ours
        };
        for (_, run, times) in &mut rows[..all] {
            times.push(timed(run));
        }
    }
    for (name, _, times) in &mut rows {
        times.sort();
        let count = times.len();
        let at = |hundredth: usize| times[count * hundredth / 100].as_secs_f64() * 1_000.0;
        println!(
            "{name:20} n={count} p50 {:.2} ms, p90 {:.2} ms",
            at(50),
            at(90)
        );
    }
}

/// Those that start `true` on this host, with their command lines.
fn peers(bundle: &Path) -> Vec<(String, Vec<String>)> {
    let own = std::env::current_exe().unwrap();
    let busybox = own.ancestors().nth(3).unwrap().join("microvm/busybox");
    let programs = bundle.join("rootfs/bin");
    for folder in [
        programs.clone(),
        bundle.join("rootfs/proc"),
        bundle.join("rootfs/dev"),
    ] {
        fs::create_dir_all(folder).unwrap();
    }
    if let Err(error) = fs::copy(&busybox, programs.join("busybox")) {
        println!(
            "no peers: {}: {error}; run scripts/microvm",
            busybox.display()
        );
        return Vec::new();
    }
    symlink("busybox", programs.join("true")).unwrap();
    fs::write(bundle.join("config.json"), BUNDLE).unwrap();
    let at = bundle.display();
    let name = format!("potluck-bench-{}", std::process::id());
    let image = format!("tar -C {at}/rootfs -c . | docker import - {name}");
    let docker = format!("docker run --rm --network none {name} /bin/true");
    let candidates = [
        (
            "runc",
            None,
            format!("runc --root {at}/runc run -b {at} {name}"),
        ),
        (
            "crun",
            None,
            format!("crun --root {at}/crun run -b {at} {name}"),
        ),
        ("docker", Some(image), docker),
    ];
    let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
    let works = |(name, before, line): (&str, Option<String>, String)| {
        let before = before.map(|line| vec!["sh".into(), "-c".into(), line]);
        let tried = before.map_or(Ok(()), |command| run(&command));
        match tried.and_then(|()| run(&words(&line))) {
            Ok(()) => Some((name.to_owned(), words(&line))),
            Err(why) => {
                println!("no {name}: {why}");
                None
            }
        }
    };
    candidates.into_iter().filter_map(works).collect()
}

/// Runs a command to its end; what it says if it fails.
fn run(command: &[String]) -> Result<(), String> {
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).stdin(Stdio::null());
    let output = child.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed").to_owned())
        }
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

fn bare() {
    // SAFETY: one thread; the child executes or panics.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            execv(c"/bin/true", &[c"true"]).unwrap();
        }
        ForkResult::Parent { child } => {
            waitpid(child, None).unwrap();
        }
    }
}
