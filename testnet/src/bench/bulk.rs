//! What a large package does to control traffic: it must not cost the leader
//! its place, nor make people wait.

use super::{
    Options, Outcome,
    figure::{Figure, Spread},
    stage::{self, Stage},
};
use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::mpsc::{Receiver, TryRecvError, channel},
    time::{Duration, Instant},
};

/// Size of the package.
const MIB: usize = 200;

/// `potluck info` of the leader while a job with a large package is submitted:
/// that takes the package to three nodes, and to a fourth if the task runs
/// there.
pub(super) fn beside_control(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(86, options.nodes)?;
    let leader = stage.settle()?;
    let reign = authority(&stage, &leader)?;
    let large = stage.specs().join("large.bin");
    let copied = make(&large, &stage.specs().join("copy.bin"))?;
    let spec = stage.specs().join("large.star");
    fs::write(
        &spec,
        "job(name = \"large\", package = \"large.bin\", command = \"/bin/sh\", \
         args = [\"-c\", \"exec sleep 86400\"], replicas = 1, cpu = 0.05, memory = \"16MiB\")\n",
    )?;
    let asked = stage.client(&leader);
    let mut before = Vec::new();
    for _ in 0..50 {
        before.push(stage::info_time(&asked)?);
    }
    let submitter = stage.client_beside(&leader)?;
    let spec = spec.to_string_lossy().into_owned();
    let (send, done) = channel();
    let start = Instant::now();
    let submitting = std::thread::spawn(move || {
        // Nobody listens any more only if the measurement failed.
        let _ = send.send(submitter.json(&["run", &spec]));
    });
    let (during, outcome) = times_until(&done, || stage::info_time(&asked))?;
    let took = start.elapsed();
    submitting.join().map_err(|_| "the submission panicked")?;
    let holders = outcome?["accepted"][0]["holders"].clone();
    let holders = holders.as_array().map_or(0, Vec::len);
    let stable = match authority(&stage, &leader)? == reign {
        true => "the same leader and reign",
        false => "another leader or reign",
    };
    Ok(vec![Figure {
        what: "`potluck info` of the leader while a 200 MiB package is submitted",
        target: "no change of leader",
        measured: format!("{}; {stable}", Spread::of_times(&during).in_unit("ms")),
        beside: format!(
            "`potluck info` before: {}; submitted, on {holders} nodes and running in {:.1} s; \
             one copy of the file, synced: {:.2} s",
            Spread::of_times(&before).in_unit("ms"),
            took.as_secs_f64(),
            copied.as_secs_f64()
        ),
    }])
}

/// Repeats `measure` until something arrives.
fn times_until<T>(
    done: &Receiver<T>,
    mut measure: impl FnMut() -> Outcome<Duration>,
) -> Outcome<(Vec<Duration>, T)> {
    let mut times = Vec::new();
    loop {
        match done.try_recv() {
            Ok(outcome) => return Ok((times, outcome)),
            Err(TryRecvError::Disconnected) => return Err("the submission panicked".into()),
            Err(TryRecvError::Empty) => times.push(measure()?),
        }
    }
}

/// Makes a file that can't be compressed; how long a copy of it takes, with
/// its bytes on the disk: what any node must do at least.
fn make(path: &Path, copy: &Path) -> Outcome<Duration> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(path)?;
    pass(&mut random, &mut file)?;
    let start = Instant::now();
    let mut copied = fs::File::create(copy)?;
    pass(&mut fs::File::open(path)?, &mut copied)?;
    copied.sync_all()?;
    let took = start.elapsed();
    fs::remove_file(copy)?;
    Ok(took)
}

/// Block by block: `fs::copy` may share the blocks and copy nothing.
fn pass(from: &mut fs::File, to: &mut fs::File) -> std::io::Result<()> {
    let mut block = vec![0; 1 << 20];
    for _ in 0..MIB {
        from.read_exact(&mut block)?;
        to.write_all(&block)?;
    }
    Ok(())
}

fn authority(stage: &Stage, leader: &str) -> Outcome<serde_json::Value> {
    let info = stage.client(leader).json(&["info"])?;
    Ok(serde_json::json!([info["leader"], info["authority"]]))
}
