//! What one host does with tasks, beside Docker, runc and crun on the same
//! machine: starts, memory, logs, kills, and helpers that are found again.
//!
//! `docker` and `oci` are the peers; the others measure a thing each. A peer
//! that can't be had is named with its reason, and the figure stays.

mod adoption;
mod docker;
mod kills;
mod logs;
mod many;
mod oci;
mod starts;

use super::{Options, Outcome, figure::Figure, stage::Stage};
use crate::client::Client;
use docker::Docker;
use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Docker, or why it is not there.
type Peer<'a> = Result<&'a Docker, String>;

/// All on one testnet of one node, one after the other, so that neither we nor
/// Docker measure what the other does.
pub(super) fn costs(_: &Options) -> Outcome<Vec<Figure>> {
    let docker = Docker::up();
    let docker = docker.as_ref().map_err(|error| error.to_string());
    let host = Host::up()?;
    let mut figures = starts::of_true(&host, &docker)?;
    figures.extend(many::of_sleepers(&host, &docker)?);
    figures.push(logs::of_a_server(&host, &docker)?);
    figures.extend(kills::of_a_crowd(&host, &docker)?);
    figures.push(adoption::after_a_restart(&host)?);
    Ok(figures)
}

/// A testnet of one node.
struct Host {
    stage: Stage,
    name: String,
    client: Client,
}

impl Host {
    fn up() -> Outcome<Host> {
        let stage = Stage::up(88, 1)?;
        stage.warm()?;
        let name = stage.names().pop().ok_or("a testnet of no node")?;
        let client = stage.client(&name);
        Ok(Host {
            stage,
            name,
            client,
        })
    }

    /// A spec of a job with this program and these further arguments; says
    /// where it lies.
    fn spec(&self, job: &str, command: &str, more: &str) -> Outcome<String> {
        let path = self.stage.specs().join(format!("{job}.star"));
        let text =
            format!("job(name = \"{job}\", command = \"{command}\", cpu = \"1m\", {more})\n");
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// The same of tasks that run a script, which may have no `"` in it.
    fn script(&self, job: &str, replicas: usize, memory: &str, script: &str) -> Outcome<String> {
        let more = format!(
            "package = \"potluck-hello\", args = [\"-c\", \"{script}\"], \
             replicas = {replicas}, memory = \"{memory}\""
        );
        self.spec(job, "/bin/sh", &more)
    }
}

/// A peer's figure, or why there is none.
fn beside<T>(peer: &Peer<'_>, measure: impl FnOnce(&Docker) -> Outcome<T>) -> Result<T, String> {
    match peer {
        Ok(docker) => measure(docker).map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    }
}

/// As text, whichever it is.
fn told(name: &str, figure: Result<String, String>) -> String {
    match figure {
        Ok(text) => format!("{name} {text}"),
        Err(why) => format!("no {name}: {}", one_line(&why)),
    }
}

/// What a cell of a table can hold.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "/")
}

/// How long each of so many runs took.
fn repeated(times: usize, mut run: impl FnMut() -> Outcome<()>) -> Outcome<Vec<Duration>> {
    (0..times)
        .map(|_| {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed())
        })
        .collect()
}

/// Runs a command that must not fail; what it says on standard output.
fn said(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{program}: {}", text(&output.stderr)).into()),
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_there_fills_one_cell() {
        let why = "dockerd: not found\n  | as said".to_owned();
        let text = told("Docker", Err(why));
        assert_eq!(text, "no Docker: dockerd: not found / as said");
        assert_eq!(told("Docker", Ok("3 ms".into())), "Docker 3 ms");
    }

    #[test]
    fn a_command_that_fails_is_told_with_its_words() {
        let mut failing = Command::new("/bin/sh");
        let error = said(failing.args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh: why");
        let missing = said(&mut Command::new("/nowhere/program")).unwrap_err();
        assert!(missing.to_string().starts_with("/nowhere/program: "));
    }
}
