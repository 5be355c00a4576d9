//! Placements of small clusters, drawn as text, with what the scheduler says
//! about them.
//!
//! Each file in `golden/` is a scenario and, behind a line of dashes, what
//! came of it. Real hosts (`potluck_core::host`) bid and take awards; only
//! messages, time and processes are played here. To write the outcomes anew,
//! and then read the difference:
//!
//! ```text
//! POTLUCK_GOLDEN=write cargo test -p potluck-core --test golden
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "reads and writes its scenarios, which no pure code does"
)]

#[path = "golden/world.rs"]
mod world;

use potluck_specs::{
    JobName,
    job::{
        AtMost, Job, JobKind, Level, Mount, MountSource, Neighbour, Operator, PortSpec, Preference,
        Requirement, Resources, TaskTemplate,
    },
};
use std::{fs, path::Path};
use world::World;

const GIB: u64 = 1 << 30;

/// Between a scenario and its outcome.
const DASHES: &str = "\n----\n";

#[test]
fn placements_are_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var("POTLUCK_GOLDEN").is_ok_and(|what| what == "write");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "scenarios are missing");
    let mut differ = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a scenario");
        let (scenario, before) = text.split_once(DASHES).unwrap_or((text.trim_end(), ""));
        let outcome = play(scenario);
        if outcome == before {
            continue;
        }
        if write {
            let text = format!("{scenario}{DASHES}{outcome}");
            fs::write(&path, text).expect("written");
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            differ.push(format!("== {name}\nexpected:\n{before}\ncame:\n{outcome}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

fn play(scenario: &str) -> String {
    let mut world = World::default();
    let mut said = String::new();
    for line in scenario.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((word, rest)) = line.split_once(' ') else {
            assert!(line.is_empty(), "{line}");
            continue;
        };
        let rest = rest.trim();
        match word {
            "rack" => rack(&mut world, rest),
            "job" => {
                let (name, words) = rest.split_once(':').expect("job NAME: ...");
                let version = world.next_version(name);
                world.submit(&job(name, version, words));
            }
            "dies" => world.dies(rest),
            "cordon" => world.cordon(rest),
            "pressure" => {
                let (host, pressure) = rest.split_once(' ').expect("pressure HOST HUNDREDTHS");
                world.pressure(host, pressure.parse().expect("hundredths"));
            }
            "draw" => {
                said.push_str(&world.draw());
                said.push('\n');
            }
            "explain" => {
                let (name, index) = rest.split_once(' ').expect("explain JOB SLOT");
                let index = index.parse().expect("a slot's number");
                said.push_str(&world.explain(name, index));
                said.push('\n');
            }
            other => panic!("{other}?"),
        }
    }
    said.push_str(&world.draw());
    said
}

/// `a: n1 4/8, n2 4/8 disk=ssd`: hosts with cores and GiB, and labels.
fn rack(world: &mut World, text: &str) {
    let (rack, hosts) = text.split_once(':').expect("rack NAME: ...");
    for host in hosts.split(',') {
        let mut words = host.split_whitespace();
        let name = words.next().expect("a host's name");
        let size = words.next().expect("cores/GiB");
        let mut sizes = size
            .split('/')
            .map(|part| part.parse::<u64>().expect("a number"));
        let cores = sizes.next().unwrap_or(0) as u32;
        let memory = sizes.next().unwrap_or(0) * GIB;
        let labels: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        world.join(name, rack, Resources::new(cores * 1_000, memory), &labels);
    }
}

/// `3 cpu=1 mem=2 at_most=rack:1 ...`, in cores and GiB.
fn job(name: &str, version: u64, text: &str) -> Job {
    let mut job = Job {
        cluster: "main".into(),
        name: JobName::in_default(name),
        version,
        task: TaskTemplate {
            resources: Resources::new(1_000, GIB),
            ..TaskTemplate::new("bin/x")
        },
        ..Job::default()
    };
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let placement = &mut job.placement;
        match key {
            "cpu" => {
                let cores: f64 = value.parse().expect("cores");
                job.task.resources.cpu_millis = (cores * 1_000.0) as u32;
            }
            "mem" => {
                let gib: f64 = value.parse().expect("GiB");
                job.task.resources.memory_bytes = (gib * GIB as f64) as u64;
            }
            "at_most" => {
                let (at, count) = value.split_once(':').expect("LEVEL:COUNT");
                placement.at_most.push(AtMost {
                    level: level(at),
                    count: count.parse().expect("a number"),
                });
            }
            "spread" => placement.spread.push(level(value)),
            "require" => placement.requirements.push(requirement(value)),
            "prefer" => {
                let (what, weight) = value.rsplit_once(':').expect("ATTRIBUTE=VALUE:WEIGHT");
                placement.preferences.push(Preference {
                    requirement: requirement(what),
                    weight: weight.parse().expect("a weight"),
                });
            }
            "apart" => placement.apart_from.push(neighbour(value)),
            "near" => placement.together_with.push(neighbour(value)),
            "heavy" => placement.bandwidth_heavy = true,
            "priority" => job.priority = value.parse().expect("a priority"),
            "port" => job.task.ports.push(PortSpec {
                name: "p".into(),
                number: Some(value.parse().expect("a port")),
            }),
            "gpu" => {
                let count = value.parse().expect("a number");
                job.task.devices.insert("gpu".into(), count);
            }
            "volume" => job.task.mounts.push(Mount {
                source: MountSource::Volume {
                    name: value.to_owned(),
                },
                ..Mount::default()
            }),
            "per_node" => job.kind = JobKind::PerNode,
            count => job.kind = JobKind::service(count.parse().expect("a number of tasks")),
        }
    }
    job
}

fn level(name: &str) -> Level {
    let level = Level::ALL.into_iter().find(|level| level.name() == name);
    level.expect("a level")
}

fn neighbour(text: &str) -> Neighbour {
    let (job, at) = text.split_once(':').expect("JOB:LEVEL");
    Neighbour {
        job: JobName::in_default(job),
        level: level(at),
    }
}

fn requirement(text: &str) -> Requirement {
    let signs = [
        (">=", Operator::GreaterOrEqual),
        ("!=", Operator::NotEqual),
        ("=", Operator::Equal),
    ];
    let found = signs
        .into_iter()
        .find_map(|(sign, operator)| Some((text.split_once(sign)?, operator)));
    let ((attribute, value), operator) = found.expect("ATTRIBUTE=VALUE");
    Requirement {
        attribute: attribute.into(),
        operator,
        values: vec![value.into()],
    }
}
