//! The process: its command, environment, files, mounts, hooks, user, ends.

use super::{
    findings::{Findings, leads_elsewhere},
    limits::*,
};
use crate::{
    diff::{duration, size},
    job::{
        Hook, Isolation, JobKind, LogPolicy, Maintenance, MountSource, PortSpec, RestartOn,
        RestartPolicy, StopPolicy, TaskTemplate, wish::Wish,
    },
    path::FieldPath,
};
use std::collections::{BTreeMap, BTreeSet};

/// Places in a sandbox that are the system's own.
const OWN_PLACES: &[&str] = &["/", "/dev", "/proc", "/sys"];

/// Signals that no program can handle.
const KILL: i32 = 9;
const STOP: i32 = 19;

pub(super) fn check(wish: &Wish, findings: &mut Findings) {
    let task = wish.task;
    let path = FieldPath::of("task");
    check_command(&path.field("command"), &task.command, findings);
    check_args(&path.field("args"), &task.args, findings);
    check_env(&path.field("env"), &task.env, &task.ports, findings);
    check_files(task, findings);
    check_hooks(&path.field("setup"), &task.setup, findings);
    check_hooks(&path.field("teardown"), &task.teardown, findings);
    check_restart(&path.field("restart"), &task.restart, wish.kind, findings);
    check_logs(&path.field("logs"), &task.logs, findings);
    check_stop(&path.field("stop"), &task.stop, wish, findings);
    check_mounts(wish, findings);
    check_has_root(wish, findings);
    if let Some(user) = &task.user {
        check_user(&path.field("user"), user, findings);
    }
}

fn check_command(path: &FieldPath, command: &str, findings: &mut Findings) {
    if command.is_empty() {
        findings.error(path, "the command is empty").hint(
            "name a program in the package (\"bin/server\"), or one on the host (\"/bin/sh\")",
        );
        return;
    }
    findings.text(path, "the command", command, PATH_BYTES_MAX);
    if leads_elsewhere(command.strip_prefix('/').unwrap_or(command)) {
        findings
            .error(path, "the command has an empty, '.' or '..' part")
            .hint("arguments go into `args`, and the path is the one inside the package");
    }
}

fn check_args(path: &FieldPath, args: &[String], findings: &mut Findings) {
    findings.at_most(path, "arguments", args.len(), ARGUMENTS_MAX);
    for (index, arg) in args.iter().enumerate() {
        check_argument(&path.index(index), "the argument", arg, findings);
    }
}

fn check_argument(path: &FieldPath, what: &str, text: &str, findings: &mut Findings) {
    let before = findings.0.len();
    findings.text(path, what, text, ARGUMENT_BYTES_MAX);
    if text.len() > ARGUMENT_BYTES_MAX && findings.0.len() > before {
        let last = findings.0.last_mut().expect("one was found");
        last.why("Linux passes no longer one to a program")
            .hint("put it into a file");
    }
}

fn check_env(
    path: &FieldPath,
    env: &BTreeMap<String, String>,
    ports: &[PortSpec],
    findings: &mut Findings,
) {
    findings.at_most(path, "variables", env.len(), ARGUMENTS_MAX);
    for (name, value) in env {
        let path = path.key(name);
        if !is_variable(name) {
            findings
                .error(&path, format!("{name:?} is not the name of a variable"))
                .hint("letters, digits and '_' are allowed, and no digit in front");
        }
        if name.starts_with("POTLUCK_") {
            findings.error(
                &path,
                "variables that begin with POTLUCK_ are set by potluck",
            );
        }
        if let Some(port) = ports.iter().find(|port| port.variable() == *name) {
            let message = format!(
                "{name} is set by potluck, to the number of port {:?}",
                port.name
            );
            findings.error(&path, message);
        }
        check_argument(&path, "the value", value, findings);
    }
}

fn is_variable(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(allowed) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn check_files(task: &TaskTemplate, findings: &mut Findings) {
    let list = FieldPath::of("task.files");
    findings.at_most(&list, "files", task.files.len(), ENTRIES_MAX);
    let mut paths = BTreeSet::new();
    for (index, file) in task.files.iter().enumerate() {
        let entry = list.index(index);
        let path = entry.field("path");
        findings.text(&path, "the path", &file.path, PATH_BYTES_MAX);
        if file.path.is_empty() {
            findings.error(&path, "a file needs a path");
        } else if leads_elsewhere(file.path.strip_prefix('/').unwrap_or(&file.path)) {
            let message = format!("the path {:?} has an empty, '.' or '..' part", file.path);
            findings.error(&path, message);
        }
        if !paths.insert(&file.path) {
            findings.error(&path, format!("the file {:?} stands twice", file.path));
        }
        if file.mode > 0o777 {
            findings
                .error(
                    &entry.field("mode"),
                    format!("the mode {:o} has other bits than rwx", file.mode),
                )
                .why("a file that a spec writes may not change who runs it")
                .hint("write it in octal: 0o644, or 0o755 for a script");
        }
    }
}

fn check_hooks(path: &FieldPath, hooks: &[Hook], findings: &mut Findings) {
    findings.at_most(path, "commands", hooks.len(), ENTRIES_MAX);
    for (index, hook) in hooks.iter().enumerate() {
        let path = path.index(index);
        check_command(&path.field("command"), &hook.command, findings);
        check_args(&path.field("args"), &hook.args, findings);
        let timeout = path.field("timeout_ms");
        findings.time(
            &timeout,
            "the timeout",
            hook.timeout_ms,
            INTERVAL_MS_MIN,
            PAUSE_MS_MAX,
        );
    }
}

fn check_restart(
    path: &FieldPath,
    restart: &RestartPolicy,
    kind: &JobKind,
    findings: &mut Findings,
) {
    let first = path.field("backoff_ms");
    let longest = path.field("backoff_max_ms");
    findings.time(
        &first,
        "the first pause",
        restart.backoff_ms,
        BACKOFF_MS_MIN,
        u64::MAX,
    );
    if restart.backoff_max_ms < restart.backoff_ms {
        let message = format!(
            "the longest pause, {}, is shorter than the first, {}",
            duration(restart.backoff_max_ms),
            duration(restart.backoff_ms)
        );
        findings.error(&longest, message);
    }
    let pause = restart.backoff_ms.max(restart.backoff_max_ms);
    findings.time(&longest, "the longest pause", pause, 0, PAUSE_MS_MAX);
    if restart
        .attempts
        .is_some_and(|attempts| attempts == 0 || attempts > ANSWERS_MAX)
    {
        let message = format!("the attempts count from 1 to {ANSWERS_MAX}");
        findings
            .error(&path.field("attempts"), message)
            .hint("to never start again, say on = \"never\"");
    }
    if restart.on == RestartOn::Never && !matches!(kind, JobKind::Batch(_)) {
        findings
            .warning(&path.field("on"), "a task that ends stays down")
            .why("a service is meant to run until it is stopped")
            .hint("work that ends is a batch");
    }
}

fn check_logs(path: &FieldPath, logs: &LogPolicy, findings: &mut Findings) {
    if !(LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&logs.keep_bytes) {
        let message = format!(
            "what is kept of the log is {}, not between {} and {}",
            size(logs.keep_bytes),
            size(LOG_BYTES_MIN),
            size(LOG_BYTES_MAX)
        );
        findings.error(&path.field("keep_bytes"), message);
    }
    if let Some(keep_ms) = logs.keep_ms {
        let keep = path.field("keep_ms");
        findings.time(
            &keep,
            "the time that lines are kept",
            keep_ms,
            LOG_MS_MIN,
            LOG_MS_MAX,
        );
    }
}

fn check_stop(path: &FieldPath, stop: &StopPolicy, wish: &Wish, findings: &mut Findings) {
    let grace = path.field("grace_ms");
    if !(1..=SIGNAL_MAX).contains(&stop.signal) {
        let message = format!(
            "{} is not a signal: they count from 1 to {SIGNAL_MAX}",
            stop.signal
        );
        findings.error(&path.field("signal"), message);
    }
    if matches!(stop.signal, KILL | STOP) {
        findings
            .warning(
                &path.field("signal"),
                format!("no program can handle signal {}", stop.signal),
            )
            .hint("15 (SIGTERM) asks it to end; it is killed after the grace");
    }
    findings.time(&grace, "the grace", stop.grace_ms, 0, PAUSE_MS_MAX);
    let text = duration(stop.grace_ms);
    if let Maintenance::RideOut { up_to_ms } = wish.change.maintenance
        && stop.grace_ms >= up_to_ms
    {
        let window = duration(up_to_ms);
        findings
            .error(
                &grace,
                format!("the grace of {text} is no shorter than the window of {window}"),
            )
            .why("the task could still be stopping when the work on its node is to be over")
            .hint("shorten the grace, or ride out longer windows");
    }
    if let Some(exclusive) = wish.change.exclusive
        && stop.grace_ms >= exclusive.lease_ms
    {
        let lease = duration(exclusive.lease_ms);
        findings
            .error(
                &grace,
                format!("the grace of {text} is no shorter than the lease of {lease}"),
            )
            .why("the task must have ended before its lease does, since then another may start")
            .hint("shorten the grace, or lengthen the lease");
    }
}

/// A place of its own is in a root of its own.
fn check_has_root(wish: &Wish, findings: &mut Findings) {
    if wish.task.isolation != Isolation::None {
        return;
    }
    let lists = [
        ("task.mounts", "mounts", wish.task.mounts.is_empty()),
        ("task.files", "files", wish.task.files.is_empty()),
        ("packages", "further packages", wish.packages().is_empty()),
    ];
    for (path, what, _) in lists.into_iter().filter(|(.., none)| !none) {
        findings
            .error(
                &FieldPath::of(path),
                format!("a task without isolation can't have {what}"),
            )
            .why("it has no root of its own in which they could be")
            .hint("it sees the host's files, and its package at $POTLUCK_PACKAGE");
    }
}

fn check_mounts(wish: &Wish, findings: &mut Findings) {
    let list = FieldPath::of("task.mounts");
    let mounts = &wish.task.mounts;
    findings.at_most(&list, "mounts", mounts.len(), ENTRIES_MAX);
    let mut places = BTreeSet::new();
    for (index, (at, _)) in wish.packages().into_iter().enumerate() {
        let path = FieldPath::of("packages").index(index).field("at");
        check_place(&path, at, &mut places, findings);
    }
    let mut volumes = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let entry = list.index(index);
        check_place(&entry.field("at"), &mount.at, &mut places, findings);
        let source = entry.field("source");
        match &mount.source {
            MountSource::Bind { path } => {
                findings.absolute(&source.field("bind.path"), "the host's path", path);
                if !mount.read_only && wish.task.isolation == Isolation::Strict {
                    findings
                        .warning(&entry.field("read_only"), "the task may write to the host")
                        .why("strict isolation keeps it from everything else there");
                }
            }
            MountSource::Tmpfs { bytes } => {
                check_tmpfs(&source.field("tmpfs.bytes"), *bytes, wish.task, findings);
            }
            MountSource::Volume { name } => {
                let path = source.field("volume.name");
                findings.label(&path, "volume", name);
                if !volumes.insert(name) {
                    findings.error(&path, format!("volume {name:?} stands twice"));
                }
            }
        }
    }
}

fn check_place<'a>(
    path: &FieldPath,
    at: &'a str,
    places: &mut BTreeSet<&'a str>,
    findings: &mut Findings,
) {
    findings.absolute(path, "the place", at);
    let own = OWN_PLACES
        .iter()
        .any(|own| at == *own || *own != "/" && at.starts_with(&format!("{own}/")));
    if own {
        findings.error(path, format!("{at:?} belongs to the system"));
    }
    if !places.insert(at) {
        findings.error(path, format!("something is mounted at {at:?} already"));
    }
}

fn check_tmpfs(path: &FieldPath, bytes: u64, task: &TaskTemplate, findings: &mut Findings) {
    if bytes < TMPFS_BYTES_MIN {
        findings
            .error(path, "a tmpfs has at least 4 KiB")
            .hint("a number counts bytes; write \"64MiB\"");
    }
    let memory = task
        .limits
        .memory_bytes
        .unwrap_or(task.resources.memory_bytes);
    if bytes > memory {
        let message = format!(
            "{} is more than the task's memory of {}",
            size(bytes),
            size(memory)
        );
        findings
            .warning(path, message)
            .why("what is in a tmpfs counts as memory of the task");
    }
}

/// `name`, `uid` or `uid:gid`.
fn check_user(path: &FieldPath, user: &str, findings: &mut Findings) {
    // Rust reads "+5" as well, which no program of Linux takes for a user.
    // The largest is none either: setresuid(2) takes it for "as it is".
    let is_number = |number: u32| number != u32::MAX;
    let number = |text: &str| text.parse().is_ok_and(is_number) && !text.starts_with('+');
    let numbers = user
        .split_once(':')
        .map_or_else(|| number(user), |(uid, gid)| number(uid) && number(gid));
    let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
    let rest = |b: u8| first(b) || b.is_ascii_digit() || b == b'-';
    let named = user.len() <= USER_BYTES_MAX
        && user.bytes().next().is_some_and(first)
        && user.bytes().all(rest);
    if !numbers && !named {
        findings
            .error(path, format!("{user:?} is not a user"))
            .hint("write a name, a number, or uid:gid");
    }
}
