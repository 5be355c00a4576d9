//! What a task's output costs: how fast it is taken, the processor time of
//! those who take it, and the bytes that are stored.
//!
//! The task writes access-log lines as fast as it is let, and notes the
//! machine's own clock before and after; who takes its lines holds it up as
//! soon as the pipe is full. So no start of a task is measured.

use super::{Host, Peer, beside, docker, docker::Docker, told};
use crate::{
    bench::{LIMIT, Outcome, figure::Figure, usage},
    wait::until,
};
use std::{fs, path::Path};

/// The file that the task writes again and again: far above what any encoder
/// remembers.
const PART_BYTES: usize = 8 << 20;

/// Times that it is written. Compressed this is below the 128 MiB that are
/// kept of a log.
const PARTS: usize = 32;

/// One access log, written by a task of ours and by a container.
pub(super) fn of_a_server(host: &Host, docker: &Peer<'_>) -> Outcome<Figure> {
    let folder = host.stage.specs().join("lines");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("lines"), lines(PART_BYTES))?;
    let ours = ours(host)?;
    let theirs = beside(docker, |docker| theirs(docker, &folder));
    Ok(Figure {
        what: "256 MiB of access log written by a task: by its clock, for each second of processor time of who takes it, bytes stored",
        target: "300 MB/s a core",
        measured: ours.told(),
        beside: told("Docker, json-file:", theirs.map(|taken| taken.told())),
    })
}

/// Once more the same, in the words of either shell.
fn script(lines: &str) -> String {
    let parts = vec![lines; PARTS].join(" ");
    format!("read a b < /proc/uptime; cat {parts}; read c d < /proc/uptime; echo took $a $c")
}

struct Taken {
    seconds: f64,
    processor: f64,
    stored: u64,
}

impl Taken {
    fn told(&self) -> String {
        let megabytes = (PART_BYTES * PARTS) as f64 / 1e6;
        format!(
            "{:.0} MB/s; {:.0} MB for a second of a core; {:.1} of {megabytes:.1} MB stored",
            megabytes / self.seconds,
            megabytes / self.processor,
            self.stored as f64 / 1e6
        )
    }
}

fn ours(host: &Host) -> Outcome<Taken> {
    let before = host.stage.processes(&host.name).helpers;
    let stored = || segments(&host.stage.data(&host.name).join("agent/tasks"));
    let stored_before = stored();
    let more = format!(
        "package = \"lines\", memory = \"64MiB\", args = [\"-c\", \"{}; exec sleep 86400\"]",
        script("/package/lines")
    );
    let spec = host.spec("writer", "/bin/sh", &more)?;
    host.client.json(&["run", &spec])?;
    let seconds = until("the task's last line", LIMIT, || {
        let last = host.client.text(&["logs", "--tail", "1", "writer[0]"]);
        seconds(&last.map_err(|error| error.to_string())?)
    })?;
    let after = host.stage.processes(&host.name).helpers;
    let helper = after.difference(&before).next();
    let processor = usage::cpu_seconds(*helper.ok_or("the writer has no helper")?)?;
    let stored = stored() - stored_before;
    host.client.text(&["stop", "writer"])?;
    Ok(Taken {
        seconds,
        processor,
        stored,
    })
}

fn theirs(docker: &Docker, lines: &Path) -> Outcome<Taken> {
    let processor = || -> f64 {
        let own = docker.own_processes().into_iter();
        own.filter_map(|pid| usage::cpu_seconds(pid).ok()).sum()
    };
    let before = processor();
    let volume = format!("{}:/lines:ro", lines.display());
    let run = ["run", "-d", "--network", "none", "-v", &volume];
    let script = format!("{}; exec sleep 86400", script("/lines/lines"));
    let command = [docker::IMAGE, "sh", "-c", &script];
    let container = docker.run(&[&run[..], &command[..]].concat())?;
    let seconds = until("the container's last line", LIMIT, || {
        let last = docker.run(&["logs", "--tail", "1", &container]);
        seconds(&last.map_err(|error| error.to_string())?)
    })?;
    let taken = Taken {
        seconds,
        processor: processor() - before,
        stored: docker.log_bytes(&container)?,
    };
    docker.remove(&[&container])?;
    Ok(taken)
}

/// Of the line in which the task says when it began and ended.
fn seconds(line: &str) -> Result<f64, String> {
    let numbers = line.trim().strip_prefix("took ");
    let numbers = numbers.and_then(|rest| rest.split_once(' '));
    let times = numbers.and_then(|(from, to)| from.parse().ok().zip(to.parse().ok()));
    let (from, to): (f64, f64) = times.ok_or_else(|| format!("{line:?}"))?;
    match to > from {
        true => Ok(to - from),
        // The clock has hundredths.
        false => Err(format!("written within a tick: {line:?}")),
    }
}

/// Bytes of all segments of logs below.
fn segments(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => segments(&entry.path()),
            Ok(found) if entry.path().to_string_lossy().ends_with(".log.zst") => found.len(),
            _ => 0,
        })
        .sum()
}

/// Lines like those of a web server, each another; the same at every run.
fn lines(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 200);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while text.len() < bytes {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [a, b, c, d, e, f, g, h] = state.to_le_bytes();
        text += &format!(
            "10.{a}.{b}.{c} - - [22/Nov/2026:13:{:02}:{:02} +0000] \"GET /items/{} HTTP/1.1\" 200 {} \"-\" \"Mozilla/5.0 (X11; Linux x86_64)\"\n",
            d % 60,
            e % 60,
            u32::from(f) * 256 + u32::from(g),
            u32::from(h) * 37,
        );
    }
    text.truncate(bytes - 1);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_how_long_it_wrote() {
        assert_eq!(seconds("took 10.25 12.75\n"), Ok(2.5));
        for wrong in ["", "10.0.0.1 - - [", "took 1", "took a b", "took 2.00 2.00"] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn lines_are_as_many_bytes_as_asked_and_whole() {
        let text = lines(10_000);
        assert_eq!(text.len(), 10_000);
        assert!(text.ends_with('\n'));
        assert!(text.lines().all(|line| line.starts_with("10.")));
    }
}
