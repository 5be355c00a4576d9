//! From nothing to the end of `true`: the sandbox alone, and the whole way
//! from a command.

use super::{Host, Peer, beside, docker, oci::Bundle, repeated, said, told};
use crate::bench::{
    Outcome,
    figure::{Figure, Spread},
};
use std::{fs, process::Command, time::Duration};

/// Starts of each kind.
const STARTS: usize = 20;

/// The sandbox alone beside runc and crun, then a job beside `docker run`.
pub(super) fn of_true(host: &Host, docker: &Peer<'_>) -> Outcome<Vec<Figure>> {
    Ok(vec![sandbox(host)?, job(host, docker)?])
}

fn in_ms(times: &[Duration]) -> String {
    Spread::of_times(times).in_unit("ms")
}

/// A helper process makes a sandbox without a control group, runs `true` in
/// it and ends.
fn sandbox(host: &Host) -> Outcome<Figure> {
    let helper = std::env::current_exe()?.with_file_name("potluck-helper");
    let folder = host.stage.specs().join("probe");
    fs::create_dir_all(&folder)?;
    let mut profile = String::new();
    let ours = repeated(STARTS, || {
        profile = said(Command::new(&helper).arg("--isolation").arg(&folder))?;
        Ok(())
    })?;
    let bare = repeated(STARTS, || said(&mut Command::new("/bin/true")).map(drop))?;
    let bundle = Bundle::make(&host.stage.specs().join("bundle"));
    let bundle = bundle.map_err(|error| error.to_string());
    let by = |runtime: &str| {
        let times = bundle.as_ref().map_err(Clone::clone).and_then(|bundle| {
            let times = bundle.times(runtime, STARTS);
            times.map_err(|error| error.to_string())
        });
        told(runtime, times.map(|times| in_ms(&times)))
    };
    let profile = profile.lines().next().unwrap_or_default().to_owned();
    Ok(Figure {
        what: "start and end of `true` in a sandbox, no control group: the helper's process, its sandbox, `true`",
        target: "a third of crun's",
        measured: format!("profile `{profile}` {}", in_ms(&ours)),
        beside: format!(
            "`true` alone {}; {}; {}",
            in_ms(&bare),
            by("runc"),
            by("crun")
        ),
    })
}

/// A batch job of `true`, from the command to its end; the job is accepted,
/// signed, kept and awarded on the way.
fn job(host: &Host, docker: &Peer<'_>) -> Outcome<Figure> {
    let mut number = 0;
    let ours = repeated(STARTS, || {
        number += 1;
        let more = "package = \"potluck-hello\", memory = \"8MiB\", batch = batch(completions = 1)";
        let spec = host.spec(&format!("true-{number}"), "/bin/true", more)?;
        host.client.text(&["run", "--wait-done", &spec])?;
        Ok(())
    })?;
    let by_docker = beside(docker, |docker| {
        let run = ["run", "--rm", "--network", "none", docker::IMAGE, "true"];
        repeated(STARTS, || docker.run(&run).map(drop))
    });
    Ok(Figure {
        what: "a batch job of `true`, package warm, as `potluck run --wait-done` returns",
        target: "-",
        measured: in_ms(&ours),
        beside: told(
            "`docker run --rm` (vfs)",
            by_docker.map(|times| in_ms(&times)),
        ),
    })
}
