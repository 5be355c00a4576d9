//! The system's own ssh, scp and sftp into tasks, from any node: codes, bytes
//! and terminals, who may, and that nothing is left when somebody goes.
//!
//! Needs the programs of Debian's `openssh-client`.

use super::{
    exec::{
        Person, audit, await_none, person, processes, processes_of_task, skip, stayers, text,
        unique_seconds, with_task_on,
    },
    ssh_window,
};
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_specs::trust::Role;
use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, exit_code},
    status::{Task, await_healthy},
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// A task as a host.
pub(super) const HOST: &str = "0.steady.potluck";

/// Whether this host has the client's programs.
fn has_client() -> bool {
    let all = ["ssh", "scp", "sftp", "ssh-keygen"];
    let there = all.iter().all(|name| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|folder| folder.join(name).exists())
    });
    if !there {
        skip("ssh", "openssh-client is not installed");
    }
    there
}

/// `potluck ssh TASK -- LINE`.
fn potluck_ssh(client: &Client, slot: &str, line: &str) -> Output {
    let mut command = client.command(&["ssh", slot, "--", line]);
    command.stdin(Stdio::null()).output().unwrap()
}

/// One of OpenSSH's programs, with what `potluck ssh-config` prints.
pub(super) fn openssh(program: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-F").arg(config).stdin(Stdio::null());
    command
}

fn written_config(fleet: &Fleet, client: &Client, name: &str) -> PathBuf {
    let path = fleet.root().join(name);
    fs::write(&path, client.text(&["ssh-config"]).unwrap()).unwrap();
    path
}

fn done(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn the_systems_ssh_works_from_any_node_for_those_who_may() {
    if !has_client() {
        return;
    }
    let (fleet, task, other) = with_task_on(Fleet::up_with(3, 3, &["--ssh"]));
    for asked in [&task.node, &other] {
        let client = fleet.client(asked);
        let config = written_config(&fleet, &client, &format!("ssh-{asked}"));
        commands_have_their_codes(&client, &task.slot, &config);
        input_arrives_as_it_was(&config);
        terminal_is_one(&client, &task.slot);
        files_come_back_as_they_went(&fleet, &config);
    }
    let config = fleet.root().join(format!("ssh-{other}"));
    one_connection_has_many_sessions(&fleet, &config);
    ssh_window::what_a_command_does_not_read_waits_and_others_go_on(&fleet, &config);
    ssh_window::a_command_need_not_read(&config);
    ssh_window::what_is_never_read_waits_for_the_commands_end(&config);
    ssh_window::a_command_may_print_before_it_reads(&config);
    ssh_window::a_command_may_pause_before_it_reads(&config);
    ssh_window::a_command_may_print_more_than_it_reads(&config);
    what_is_not_served_is_refused(&config);
    who_went_in_is_written_down(&fleet, &task, &other);
    who_may_not_is_refused(&fleet, &task, &other, &config);
    switched_off_it_says_so(&fleet, &task, &other);
}

fn commands_have_their_codes(client: &Client, slot: &str, config: &Path) {
    let output = potluck_ssh(client, slot, "echo out; echo err >&2; exit 7");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(error, "err\n", "nothing is asked or warned of");
    let ssh = |line: &str| {
        let mut command = openssh("ssh", config);
        command.args(["-o", "SendEnv=LC_TIME POTLUCK_X"]);
        command.args([HOST, line]).env("LC_TIME", "de_DE.UTF-8");
        done(command)
    };
    assert_eq!(ssh("kill -TERM $$").0, Some(128 + 15));
    assert_eq!(ssh("no-such-command").0, Some(127));
    let (code, out, err) = ssh("echo $POTLUCK_JOB $LC_TIME; test $(id -u) = $(stat -c %u /task)");
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "steady de_DE.UTF-8\n"),
        "{err}"
    );
}

fn input_arrives_as_it_was(config: &Path) {
    let sent: Vec<u8> = (0..5_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut command = openssh("ssh", config);
    command.args([HOST, "cat; exit 3"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        std::io::copy(&mut stdout, &mut got).unwrap();
    });
    assert_eq!(exit_code(child), 3);
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

fn terminal_is_one(client: &Client, slot: &str) {
    let mut person = Person::at(client.command(&["ssh", slot]));
    person.types("t=$(tty); test -c $t && echo \"is\" \"$t\"; stty size; echo $TERM\r");
    person.sees("is /dev/pts/");
    person.sees("30 101");
    person.sees("xterm");
    let size = libc::winsize {
        ws_row: 44,
        ws_col: 133,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: an open terminal and a live structure. The kernel signals.
    unsafe { libc::ioctl(person.outer.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    person.types("until stty size | grep 44; do sleep 0.02; done\r");
    person.sees("44 133");
    let word = unique_seconds();
    person.types(&format!("sleep {word}\r"));
    until("a sleep", WAIT, || match processes(&word).is_empty() {
        true => Err("none"),
        false => Ok(()),
    })
    .unwrap();
    person.types("\u{3}");
    await_none(&word);
    person.types("echo code $?\r");
    person.sees("code 130");
    person.types("exit 9\r");
    let status = until("the client's end", WAIT, || match person.child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(status.unwrap().code(), Some(9));
}

fn files_come_back_as_they_went(fleet: &Fleet, config: &Path) {
    let local = fleet.root().join("ssh-copies");
    let _ = fs::remove_dir_all(&local);
    fs::create_dir_all(local.join("tree/sub")).unwrap();
    let big: Vec<u8> = (0..3_u32 << 20)
        .map(|n| (n.wrapping_mul(2_246_822_519) >> 24) as u8)
        .collect();
    fs::write(local.join("tree/sub/big"), &big).unwrap();
    fs::write(local.join("tree/run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(local.join("tree/run"), PermissionsExt::from_mode(0o750)).unwrap();
    let here = |name: &str| local.join(name).to_string_lossy().into_owned();
    let there = |path: &str| format!("{HOST}:{path}");
    let scp = |from: &str, to: &str| {
        let mut command = openssh("scp", config);
        command.args(["-q", "-r", "-p", from, to]);
        done(command)
    };
    let fine = (Some(0), String::new(), String::new());
    assert_eq!(scp(&here("tree"), &there("/task/")), fine);
    let mut ran = openssh("ssh", config);
    ran.args([HOST, "cd /task/tree && ./run && stat -c %a run"]);
    assert_eq!(done(ran).1, "ran\n750\n");
    // Without a folder: where the task's program starts.
    assert_eq!(scp(&there("tree"), &here("back")), fine);
    assert!(fs::read(local.join("back/sub/big")).unwrap() == big);
    let before = fs::metadata(local.join("tree/run")).unwrap();
    let after = fs::metadata(local.join("back/run")).unwrap();
    assert_eq!(after.permissions(), before.permissions());
    let (code, _, err) = scp(&here("tree/run"), &there("/usr/bin/evil"));
    assert_eq!(code, Some(1), "{err}");
    // What is the host's is not the task's, by whatever way.
    let stolen = format!("../../../../..{}", here("tree/run"));
    let (code, _, err) = scp(&there(&stolen), &here("stolen"));
    assert_eq!(code, Some(1), "{err}");
    assert!(!local.join("stolen").exists());
    let batch = local.join("batch");
    let lines = format!(
        "cd tree\nput {0} again\nget sub/big {1}\nrename again sub/again\nls -l sub\n\
         rm sub/again\nmkdir empty\nrmdir empty\npwd\n",
        here("tree/sub/big"),
        here("by-sftp"),
    );
    fs::write(&batch, lines).unwrap();
    let mut sftp = openssh("sftp", config);
    sftp.arg("-b").arg(&batch).arg(HOST);
    let (code, out, err) = done(sftp);
    assert_eq!(code, Some(0), "{out}\n{err}");
    assert!(fs::read(local.join("by-sftp")).unwrap() == big);
    let listed = out
        .lines()
        .find(|line| line.ends_with("again") && line.starts_with('-'));
    assert!(
        listed.is_some_and(|line| line.contains(&big.len().to_string())),
        "{out}"
    );
    assert!(
        out.contains("Remote working directory: /task/tree"),
        "{out}"
    );
    let mut clean = openssh("ssh", config);
    clean.args([HOST, "rm -r /task/tree"]);
    assert_eq!(done(clean).0, Some(0));
}

/// One after another, more than may be open at once, over one connection.
fn one_connection_has_many_sessions(fleet: &Fleet, config: &Path) {
    let socket = fleet.root().join("mux");
    let master = |words: &[&str]| {
        let mut command = openssh("ssh", config);
        command.arg("-S").arg(&socket).args(words);
        command
    };
    // Returns when it is logged in, and stays.
    assert!(
        master(&["-M", "-f", "-N", HOST])
            .status()
            .unwrap()
            .success()
    );
    for number in 0..20 {
        let (code, _, err) = done(master(&[HOST, &format!("exit {number}")]));
        assert_eq!(code, Some(number), "{err}");
    }
    let (code, _, err) = done(master(&["-O", "exit", HOST]));
    assert_eq!(code, Some(0), "{err}");
}

fn what_is_not_served_is_refused(config: &Path) {
    // A connection through the task to somewhere else, and a subsystem.
    let mut through = openssh("ssh", config);
    through.args(["-W", "127.0.0.1:1", HOST]);
    let (code, _, err) = done(through);
    assert_eq!(code, Some(255), "{err}");
    assert!(err.contains("prohibited"), "{err}");
    let mut subsystem = openssh("ssh", config);
    subsystem.args(["-s", HOST, "netconf"]);
    let (code, _, err) = done(subsystem);
    assert_ne!(code, Some(0), "{err}");
    assert!(err.contains("subsystem request failed"), "{err}");
    let mut nobody = openssh("ssh", config);
    nobody.args(["7.steady.potluck", "true"]);
    let (code, _, err) = done(nobody);
    assert_eq!(code, Some(255), "{err}");
    assert!(err.contains("potluck status"), "{err}");
}

fn ended_sessions(fleet: &Fleet, node: &str) -> Vec<Value> {
    until("the last line", WAIT, || {
        let lines = audit(fleet, node, "sessions.jsonl");
        let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).count();
        let are_over = of("exec_begin") == of("exec_end") && of("ssh_begin") == of("ssh_end");
        match are_over {
            true => Ok(lines),
            false => Err(format!("{} lines", lines.len())),
        }
    })
    .unwrap()
}

fn who_went_in_is_written_down(fleet: &Fleet, task: &Task, other: &str) {
    let lines = ended_sessions(fleet, &task.node);
    let find = |event: &str, key: &str, value: Value| {
        let found = lines
            .iter()
            .find(|line| line["event"] == event && line[key] == value);
        found.unwrap_or_else(|| panic!("no {event} with {key} {value}"))
    };
    let begun = find("exec_begin", "what", "kill -TERM $$".into());
    assert_eq!(begun["user"], "admin");
    assert!(begun["task"].as_str().unwrap().contains("steady[0]"));
    let connection = find("ssh_begin", "session", begun["ssh"].clone());
    assert_eq!(connection["user"], "admin");
    let over = find("ssh_end", "session", begun["ssh"].clone());
    assert_eq!(over["sessions"], 1, "{over}");
    let end = find("exec_end", "session", begun["session"].clone());
    assert_eq!((&end["code"], &end["how"]), (&143.into(), &"ended".into()));
    find("exec_begin", "what", "shell".into());
    find("exec_begin", "what", "sftp".into());
    find("exec_begin", "terminal", true.into());
    find("ssh_begin", "via", other.into());
    assert_eq!(
        find("exec_end", "bytes_in", (5 << 20).into())["bytes_out"],
        5 << 20
    );
    assert!(audit(fleet, other, "sessions.jsonl").is_empty());
}

fn who_may_not_is_refused(fleet: &Fleet, task: &Task, other: &str, config: &Path) {
    let denied = || audit(fleet, &task.node, "denied.jsonl");
    let why = |line: &Value| line["why"].as_str().unwrap_or_default().to_owned();
    // Another key than the one that the request vouches for, and none.
    let key = fleet.root().join("other-key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    assert_eq!(done(keygen).0, Some(0));
    let text = fs::read_to_string(config).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("IdentityFile"))
        .unwrap();
    let wrong = text.replace(line, &format!("IdentityFile {}", key.display()));
    let none = text.replace(line, "PubkeyAuthentication no");
    for (count, text) in [wrong, none].into_iter().enumerate() {
        let path = fleet.root().join("ssh-wrong");
        fs::write(&path, text).unwrap();
        let mut ssh = openssh("ssh", &path);
        ssh.args([HOST, "id"]);
        let (code, _, err) = done(ssh);
        assert_eq!(code, Some(255), "{err}");
        assert!(err.contains("Permission denied (publickey)"), "{err}");
        let line = until("a line of the refusal", WAIT, || match denied() {
            lines if lines.len() > count => Ok(lines[count].clone()),
            lines => Err(format!("{lines:?}")),
        });
        let line = line.unwrap();
        assert!(why(&line).contains("has not proven its key"), "{line}");
    }
    let before = denied().len();
    let viewer = person(fleet, "eve", vec![Role::Viewer], other);
    let output = potluck_ssh(&viewer, &task.slot, "id");
    let error = super::exec::text(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{error}");
    assert!(error.contains("may not enter this task"), "{error}");
    assert_eq!(denied().len(), before + 1, "by the task's node");
    let own = Role::Deployer {
        namespaces: vec!["default".into()],
    };
    let deployer = person(fleet, "dan", vec![own], other);
    let output = potluck_ssh(&deployer, &task.slot, "exit 5");
    assert_eq!(output.status.code(), Some(5));
}

fn switched_off_it_says_so(fleet: &Fleet, task: &Task, other: &str) {
    fleet.kill_agent(&task.node).unwrap();
    // Without the argument.
    fleet.start(&task.node).unwrap();
    fleet.await_answer(&task.node).unwrap();
    await_healthy(&fleet.client(other), "steady", &[]);
    until("the word of the task's node", WAIT, || {
        let output = potluck_ssh(&fleet.client(other), &task.slot, "id");
        let error = text(&output.stderr);
        let is_named = error.contains("ssh is switched off on node") && error.contains("--ssh");
        match output.status.code() == Some(255) && is_named {
            true => Ok(()),
            false => Err(error),
        }
    })
    .unwrap();
}

/// A connection with processes that try to stay.
fn stay(client: &Client, slot: &str, word: &str) -> Child {
    until("a session", WAIT, || {
        match potluck_ssh(client, slot, "true") {
            output if output.status.success() => Ok(()),
            output => Err(text(&output.stderr)),
        }
    })
    .unwrap();
    // A trailing command, so that no shell becomes the sleep.
    let line = format!("{}; true", stayers(word));
    let mut command = client.command(&["ssh", slot, "--", &line]);
    let child = command.stdin(Stdio::null()).spawn().unwrap();
    let there = until("all that stays", WAIT, || match processes(word).len() {
        0..3 => Err(format!("{:?}", processes(word))),
        _ => Ok(()),
    });
    there.unwrap();
    child
}

/// What the kernel says of the servers of ssh that a node has started.
fn servers(fleet: &Fleet, node: &str) -> Vec<String> {
    let agent = fleet.processes(node).agent;
    let parent = format!("PPid:\t{}\n", agent.expect("the node runs"));
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let said = entries.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    said.filter(|said| said.starts_with("Name:\tpotluck-sshd\n") && said.contains(&parent))
        .collect()
}

fn has_no_rights(server: &str) {
    let line = |name: &str| {
        let mut lines = server.lines();
        let found = lines.find_map(|line| line.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {server}"))
            .trim()
    };
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1", "2"));
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert!(
        !line("Uid:").split_whitespace().any(|uid| uid == "0"),
        "{server}"
    );
}

#[test]
fn whoever_goes_nothing_of_a_connection_stays() {
    if !has_client() {
        return;
    }
    let (fleet, task, other) = with_task_on(Fleet::up_with(3, 3, &["--ssh"]));
    let slot = task.slot.as_str();
    for asked in [&task.node, &other] {
        let word = unique_seconds();
        let mut child = stay(&fleet.client(asked), slot, &word);
        let there = servers(&fleet, &task.node);
        assert_eq!(there.len(), 1);
        has_no_rights(&there[0]);
        child.kill().unwrap();
        child.wait().unwrap();
        await_none(&word);
        until("the server's end", WAIT, || {
            match servers(&fleet, &task.node).concat() {
                none if none.is_empty() => Ok(()),
                some => Err(some),
            }
        })
        .unwrap();
    }
    let lines = ended_sessions(&fleet, &task.node);
    let cut = lines
        .iter()
        .filter(|line| line["event"] == "exec_end" && line["code"].is_null());
    assert_eq!(cut.count(), 2, "{lines:?}");
    // The end of the task is no code of the command.
    let word = unique_seconds();
    let child = stay(&fleet.client(&other), slot, &word);
    let pid = processes_of_task(&fleet, &task);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_eq!(exit_code(child), 255);
    await_none(&word);
    await_healthy(&fleet.client(&other), "steady", &[]);
    // The task's node dies; the task itself lives on.
    let word = unique_seconds();
    let child = stay(&fleet.client(&other), slot, &word);
    let pid = processes_of_task(&fleet, &task);
    fleet.kill_agent(&task.node).unwrap();
    assert_eq!(exit_code(child), 255);
    await_none(&word);
    assert_eq!(processes_of_task(&fleet, &task), pid);
}
