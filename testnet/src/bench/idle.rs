//! What nodes and helpers cost when nothing happens.

use super::{
    LIMIT, Options, Outcome,
    figure::{Figure, Spread},
    stage::Stage,
    usage::{self, Memory},
};
use crate::wait::until;
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// How long nodes are watched doing nothing: at 0.5 % of a core this is ten
/// of the kernel's ticks.
const WATCHED: Duration = Duration::from_secs(20);

/// A job whose tasks say nothing, and one whose tasks write twice a second.
const QUIET: &str = "exec sleep 86400";
const WRITING: &str = "while true; do echo a line of a log; sleep 0.5; done";

/// Memory and processor time of nodes without tasks, then of helpers.
pub(super) fn costs(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(85, options.nodes)?;
    let leader = stage.settle()?;
    let mut figures = nodes(&stage, &leader)?;
    figures.push(helpers(&stage, "quiet", QUIET)?);
    figures.push(helpers(&stage, "writing", WRITING)?);
    Ok(figures)
}

fn agents(stage: &Stage) -> BTreeMap<String, i32> {
    let names = stage.names().into_iter();
    names
        .filter_map(|name| Some((name.clone(), stage.processes(&name).agent?)))
        .collect()
}

fn nodes(stage: &Stage, leader: &str) -> Outcome<Vec<Figure>> {
    let agents = agents(stage);
    let before = cpu_seconds(&agents)?;
    let start = Instant::now();
    watch();
    let watched = start.elapsed().as_secs_f64();
    let after = cpu_seconds(&agents)?;
    let percent = |name: &str| (after[name] - before[name]) / watched * 100.0;
    let members = || agents.keys().filter(|name| *name != leader);
    let memory = |pick: fn(Memory) -> f64| -> Outcome<(Spread, f64)> {
        let mut all = Vec::new();
        for name in members() {
            all.push(pick(usage::memory(agents[name])?));
        }
        Ok((Spread::of(all), pick(usage::memory(agents[leader])?)))
    };
    let (rss, leader_rss) = memory(|memory| memory.rss)?;
    let (pss, leader_pss) = memory(|memory| memory.pss)?;
    let ours = usage::memory(i32::try_from(std::process::id())?)?;
    Ok(vec![
        Figure {
            what: "idle node, memory",
            target: "40 MB RSS",
            measured: format!("RSS {}; leader {leader_rss:.1} MiB", rss.in_unit("MiB")),
            beside: format!(
                "PSS {}; leader {leader_pss:.1} MiB; RSS of the bench itself {:.1} MiB",
                pss.in_unit("MiB"),
                ours.rss
            ),
        },
        Figure {
            what: "idle node, processor time",
            target: "0.5 % of a core",
            measured: Spread::of(members().map(|name| percent(name))).in_unit("%"),
            beside: format!(
                "leader {:.2} %; watched for {watched:.0} s, one tick is {:.2} %",
                percent(leader),
                1.0 / watched
            ),
        },
    ])
}

fn cpu_seconds(agents: &BTreeMap<String, i32>) -> Outcome<BTreeMap<&str, f64>> {
    let mut all = BTreeMap::new();
    for (name, pid) in agents {
        all.insert(name.as_str(), usage::cpu_seconds(*pid)?);
    }
    Ok(all)
}

#[allow(
    clippy::disallowed_methods,
    reason = "the duration is what is measured over, not waited for"
)]
fn watch() {
    std::thread::sleep(WATCHED);
}

/// Helpers and inits of six tasks that run this script.
fn helpers(stage: &Stage, job: &str, script: &str) -> Outcome<Figure> {
    let spec = stage.specs().join(format!("{job}.star"));
    let text = format!(
        "job(name = \"{job}\", package = \"potluck-hello\", command = \"/bin/sh\", \
         args = [\"-c\", \"{script}\"], replicas = 6, cpu = 0.05, memory = \"16MiB\")\n"
    );
    fs::write(&spec, text)?;
    let client = stage.any_client()?;
    client.json(&["run", &spec.to_string_lossy()])?;
    if job == "writing" {
        until("a log line of the last task", LIMIT, || {
            let text = client.text(&["logs", "--tail", "1", "writing[5]"]);
            match text.map_err(|error| error.to_string())?.trim() {
                "" => Err("nothing".to_owned()),
                _ => Ok(()),
            }
        })?;
    }
    let (mut helpers, mut inits, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    for name in stage.names() {
        let processes = stage.processes(&name);
        for pid in processes.helpers {
            helpers.push(usage::memory(pid)?);
        }
        for pid in processes.tasks {
            match usage::name(pid).as_str() {
                "potluck-init" => inits.push(usage::memory(pid)?),
                "sh" => tasks.extend(usage::memory(pid)),
                // The script's own child comes and goes.
                _ => tasks.extend((job == "quiet").then(|| usage::memory(pid)).transpose()?),
            }
        }
    }
    client.text(&["stop", job])?;
    let pss = |all: &[Memory]| Spread::of(all.iter().map(|memory| memory.pss)).in_unit("MiB");
    let rss = Spread::of(helpers.iter().map(|memory| memory.rss)).in_unit("MiB");
    Ok(Figure {
        what: match job {
            "quiet" => "helper of a task that says nothing, PSS",
            _ => "helper of a task that writes twice a second, PSS",
        },
        target: "1.5 MB PSS",
        measured: pss(&helpers),
        beside: format!(
            "init {}; the task itself {}; RSS of the helper {rss}",
            pss(&inits),
            pss(&tasks)
        ),
    })
}
