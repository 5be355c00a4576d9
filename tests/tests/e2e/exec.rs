//! Commands and copies in tasks, from any node: their codes and their bytes,
//! who may, and that nothing is left when somebody or something goes.

use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_specs::{
    Millis, codec,
    trust::{Role, SecretKey, Signed, UserCertificate, UserCredential},
};
use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, exit_code},
    status::{Task, await_healthy},
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

/// The command line with `words`, whose `--` must come last.
fn potluck(client: &Client, words: &[&str]) -> Command {
    let mut command = client.command(&[]);
    command.args(words);
    command
}

fn exec(client: &Client, words: &[&str]) -> Output {
    let words = [&["exec"], words].concat();
    potluck(client, &words).output().unwrap()
}

fn shell(client: &Client, task: &str, script: &str) -> (Option<i32>, String, String) {
    let output = exec(client, &[task, "--", "sh", "-c", script]);
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(client: &Client, words: &[&str]) -> (Option<i32>, String) {
    let output = exec(client, words);
    (output.status.code(), text(&output.stderr))
}

/// A word that no other process has among its arguments.
pub(super) fn unique_seconds() -> String {
    let nanos = UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    format!("7{nanos:09}.{}", std::process::id())
}

/// Pids of processes with this word among their arguments.
pub(super) fn processes(word: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|one| one == word.as_bytes())
    })
    .collect()
}

/// Three that try to stay, deaf to the hang-up: in the foreground, in a session
/// of their own, and without a parent.
pub(super) fn stayers(word: &str) -> String {
    format!(
        "trap '' HUP TERM; setsid sh -c \"trap '' HUP TERM; sleep {word}\" & \
         (setsid sh -c \"trap '' HUP TERM; (sleep {word} &)\" &) ; sleep {word}"
    )
}

/// A session with processes that try to stay.
fn stay(client: &Client, task: &str, word: &str) -> Child {
    // A node that has just started must find the scheduler first.
    until("a session", WAIT, || {
        match code(client, &[task, "--", "true"]) {
            (Some(0), _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    let script = stayers(word);
    let mut command = potluck(client, &["exec", task, "--", "sh", "-c", &script]);
    command.stderr(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let there = until("all that stays", WAIT, || match processes(word).len() {
        // The client's own arguments have the word within a longer one.
        0..3 => Err(format!("{:?}", processes(word))),
        _ => Ok(()),
    });
    there.unwrap();
    child
}

pub(super) fn await_none(word: &str) {
    until("the end of all that stayed", WAIT, || {
        let left = processes(word);
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("{left:?}")),
        }
    })
    .unwrap();
}

/// Somebody with these roles, certified by the fleet's people issuer.
pub(super) fn person(fleet: &Fleet, name: &str, roles: Vec<Role>, asked: &str) -> Client {
    let admin = fleet.root().join("config");
    let folder = fleet.root().join(format!("config-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let issuer_key = fs::read_to_string(admin.join("people-issuer.key")).unwrap();
    let issuer_key = SecretKey::from_hex(&issuer_key).unwrap();
    let issuer = fs::read(admin.join("people-issuer.certificate")).unwrap();
    let issuer: Signed = codec::decode("certificate", &issuer, 1 << 16).unwrap();
    let root = fs::read_to_string(admin.join("root.key")).unwrap();
    let root = SecretKey::from_hex(&root).unwrap();
    let mut profile: Value =
        serde_json::from_slice(&fs::read(admin.join("profile.json")).unwrap()).unwrap();
    profile["user"] = name.into();
    fs::write(folder.join("profile.json"), profile.to_string()).unwrap();
    let key = SecretKey::from_seed([42; 32]);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let certificate = UserCertificate {
        fleet: root.public().fleet(),
        user: name.into(),
        key: key.public(),
        roles,
        not_before: Millis(now - 60_000),
        not_after: Millis(now + 3_600_000),
    };
    let credential = UserCredential::issue(root.public(), issuer, &issuer_key, &certificate);
    fs::write(folder.join(format!("{name}.key")), key.to_hex()).unwrap();
    let credential = codec::encode(&credential);
    fs::write(folder.join(format!("{name}.credential")), credential).unwrap();
    let program = fleet.client(asked).command(&[]);
    Client::new(
        Path::new(program.get_program()),
        &folder,
        &fleet.data(asked),
    )
}

pub(super) fn audit(fleet: &Fleet, node: &str, file: &str) -> Vec<Value> {
    let path = fleet.data(node).join("audit").join(file);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A fleet with one task, and a node that does not run it.
fn with_task() -> (Fleet, Task, String) {
    with_task_on(Fleet::up(3, 3))
}

/// The same on this fleet.
pub(super) fn with_task_on(fleet: Fleet) -> (Fleet, Task, String) {
    fleet.run("r1h1", &fleet.hello("steady", 1));
    let task = await_healthy(&fleet.client("r1h1"), "steady", &[]).remove(0);
    let other = fleet.other(&[&task.node]);
    (fleet, task, other)
}

#[test]
fn commands_and_copies_work_from_any_node_for_those_who_may() {
    let (fleet, task, other) = with_task();
    let slot = task.slot.as_str();
    for asked in [&task.node, &other] {
        let client = fleet.client(asked);
        codes_are_the_commands(&client, slot);
        input_arrives_as_it_was(&client, slot);
        files_come_back_as_they_went(&client, &fleet, slot);
        terminal_is_one(&client, slot);
    }
    who_went_in_is_written_down(&fleet, &task, &other);
    who_may_not_is_refused(&fleet, &task, &other);
    what_is_not_there_is_said(&fleet, &other, slot);
}

fn codes_are_the_commands(client: &Client, slot: &str) {
    let (code_, out, err) = shell(client, slot, "echo out; echo err >&2; exit 7");
    assert_eq!(
        (code_, out.as_str(), err.as_str()),
        (Some(7), "out\n", "err\n")
    );
    assert_eq!(shell(client, slot, "kill -TERM $$").0, Some(128 + 15));
    let (code_, err) = code(client, &[slot, "--", "no-such-command"]);
    assert_eq!(code_, Some(127), "{err}");
    assert!(err.contains("there is no \"no-such-command\""), "{err}");
    assert!(err.contains("--tools"), "{err}");
    assert_eq!(code(client, &[slot, "--", "/etc/passwd"]).0, Some(126));
    // Without -i there is no input; the command sees its end.
    assert_eq!(shell(client, slot, "cat; echo end").1, "end\n");
    let (code_, _, err) = shell(
        client,
        slot,
        "echo $POTLUCK_JOB >&2; test $(id -u) = $(stat -c %u /task)",
    );
    assert_eq!((code_, err.as_str()), (Some(0), "steady\n"));
}

fn input_arrives_as_it_was(client: &Client, slot: &str) {
    let sent: Vec<u8> = (0..5_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut command = potluck(client, &["exec", "-i", slot, "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    });
    assert_eq!(exit_code(child), 0);
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

fn files_come_back_as_they_went(client: &Client, fleet: &Fleet, slot: &str) {
    let local = fleet.root().join("copies");
    let _ = fs::remove_dir_all(&local);
    let tree = local.join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/big"), vec![9; 3 << 20]).unwrap();
    fs::write(tree.join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(tree.join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("run", tree.join("link")).unwrap();
    let cp = |from: &str, to: &str| {
        let output = potluck(client, &["cp", from, to]).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let here = |name: &str| local.join(name).to_string_lossy().into_owned();
    let there = |path: &str| format!("{slot}:{path}");
    let fine = (Some(0), String::new());
    assert_eq!(cp(&here("tree"), &there("/task")), fine);
    let (code_, out, err) = shell(client, slot, "cd /task/tree && ./link && wc -c < sub/big");
    assert_eq!((code_, out.as_str()), (Some(0), "ran\n3145728\n"), "{err}");
    assert_eq!(cp(&there("tree"), &here("back")), fine);
    assert_eq!(
        fs::read(local.join("back/sub/big")).unwrap(),
        vec![9; 3 << 20]
    );
    assert_eq!(
        fs::read_link(local.join("back/link")).unwrap(),
        Path::new("run")
    );
    assert_eq!(cp(&there("/task/tree/run"), &here("")), fine);
    assert_eq!(
        fs::read(local.join("run")).unwrap(),
        fs::read(tree.join("run")).unwrap()
    );
    // What is the host's is not the task's, by whatever way.
    let secret = here("tree/run");
    let (code_, err) = cp(&there(&format!("../../../../..{secret}")), &here("stolen"));
    assert_eq!(code_, Some(1), "{err}");
    assert!(err.contains("can't be read"), "{err}");
    assert!(!local.join("stolen").exists());
    let (code_, err) = cp(&here("tree/run"), &there("/usr/bin/evil"));
    assert_eq!(code_, Some(1), "{err}");
    assert_eq!(cp(&here("no-such"), &there("/task")).0, Some(3));
    assert_eq!(cp(&here("tree"), &here("other")).0, Some(2));
    assert_eq!(shell(client, slot, "rm -r /task/tree").0, Some(0));
}

/// A terminal of ours, for the client: the outer side and the inner one.
fn terminal() -> (File, OwnedFd) {
    let (mut outer, mut inner) = (0, 0);
    let size = libc::winsize {
        ws_row: 30,
        ws_col: 101,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let none = std::ptr::null_mut();
    // SAFETY: two live integers, no name, no settings, and a live size.
    let opened = unsafe { libc::openpty(&mut outer, &mut inner, none, none.cast(), &size) };
    assert_eq!(opened, 0);
    // SAFETY: both were just made for us.
    unsafe { (File::from_raw_fd(outer), OwnedFd::from_raw_fd(inner)) }
}

/// A client with a terminal of its own.
pub(super) struct Person {
    pub(super) outer: File,
    lines: std::sync::mpsc::Receiver<Vec<u8>>,
    inner: OwnedFd,
    pub(super) child: Child,
    seen: String,
    /// How the terminal was before the client.
    before: u32,
}

impl Person {
    fn sit(client: &Client, words: &[&str]) -> Person {
        Person::at(potluck(client, words))
    }

    /// In front of this command.
    pub(super) fn at(mut command: Command) -> Person {
        let (outer, inner) = terminal();
        let before = mode(&inner);
        let stdio = || Stdio::from(inner.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        command.env("TERM", "xterm");
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        let mut reader = outer.try_clone().unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Person {
            outer,
            lines,
            inner,
            child,
            seen: String::new(),
            before,
        }
    }

    pub(super) fn types(&mut self, keys: &str) {
        self.outer.write_all(keys.as_bytes()).unwrap();
    }

    pub(super) fn sees(&mut self, wanted: &str) {
        let seen = until(wanted, WAIT, || {
            self.seen
                .extend(self.lines.try_iter().map(|bytes| text(&bytes)));
            match self.seen.contains(wanted) {
                true => Ok(()),
                false => Err(format!("{:?}", self.seen)),
            }
        });
        seen.unwrap_or_else(|error| panic!("{error}"));
    }

    fn is_as_before(&self) -> bool {
        mode(&self.inner) == self.before
    }
}

fn mode(terminal: &OwnedFd) -> u32 {
    // SAFETY: all zero is a valid value of this structure of integers.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: an open terminal and a live structure.
    let told = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut mode) };
    assert_eq!(told, 0);
    mode.c_lflag
}

impl Drop for Person {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminal_is_one(client: &Client, slot: &str) {
    let mut person = Person::sit(client, &["exec", "-it", slot, "--", "sh"]);
    person.types("t=$(tty); test -c $t && echo \"is\" \"$t\"; stty size; echo $TERM\r");
    person.sees("is /dev/pts/");
    person.sees("30 101");
    person.sees("xterm");
    assert!(!person.is_as_before(), "it is raw");
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
    // Ctrl-D ends the shell, with the code of its last command.
    person.types("(exit 9)\r");
    person.types("\u{4}");
    let status = until("the client's end", WAIT, || match person.child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?} {:?}", person.seen)),
    });
    assert_eq!(status.unwrap().code(), Some(9));
    assert!(person.is_as_before());
    // A signal ends the client, and sets the terminal right first.
    let mut person = Person::sit(client, &["exec", "-it", slot, "--", "sh"]);
    person.types("echo $((40 + 2))\r");
    person.sees("42");
    kill(Pid::from_raw(person.child.id() as i32), Signal::SIGTERM).unwrap();
    let status = person.child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(person.is_as_before());
    // Without a terminal there can be none.
    let (code_, err) = code(client, &["-it", slot, "--", "sh"]);
    assert_eq!(code_, Some(2), "{err}");
    assert!(err.contains("not a terminal"), "{err}");
}

fn who_went_in_is_written_down(fleet: &Fleet, task: &Task, other: &str) {
    let lines = until("the last line", WAIT, || {
        let lines = audit(fleet, &task.node, "sessions.jsonl");
        let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).count();
        match of("exec_begin") == of("exec_end") {
            true => Ok(lines),
            false => Err(format!("{} lines", lines.len())),
        }
    })
    .unwrap();
    let find = |event: &str, key: &str, value: Value| {
        let found = lines
            .iter()
            .find(|line| line["event"] == event && line[key] == value);
        found.unwrap_or_else(|| panic!("no {event} with {key} {value}"))
    };
    let begun = find("exec_begin", "what", "no-such-command".into());
    assert_eq!(begun["user"], "admin");
    assert_eq!(
        begun["task"]
            .as_str()
            .map(|task| task.contains("steady[0]")),
        Some(true)
    );
    assert_eq!(find("exec_end", "code", 7.into())["how"], "ended");
    assert_eq!(
        find("exec_end", "bytes_in", (5 << 20).into())["bytes_out"],
        5 << 20
    );
    find("exec_begin", "via", other.into());
    find("exec_begin", "terminal", true.into());
    assert!(
        audit(fleet, other, "sessions.jsonl").is_empty(),
        "the task's node writes"
    );
}

fn who_may_not_is_refused(fleet: &Fleet, task: &Task, other: &str) {
    let denied = || audit(fleet, &task.node, "denied.jsonl").len();
    let before = denied();
    for (count, asked) in [other, &task.node].into_iter().enumerate() {
        let elsewhere = Role::Deployer {
            namespaces: vec!["elsewhere".into()],
        };
        let viewer = person(fleet, "eve", vec![Role::Viewer, elsewhere], asked);
        let (code_, err) = code(&viewer, &[&task.slot, "--", "id"]);
        assert_eq!(code_, Some(77), "{err}");
        assert!(
            err.contains("may not enter") && err.contains("deployer"),
            "{err}"
        );
        assert_eq!(denied(), before + count + 1, "by the task's node");
    }
    let own = Role::Deployer {
        namespaces: vec!["default".into()],
    };
    let deployer = person(fleet, "dan", vec![own], other);
    assert_eq!(code(&deployer, &[&task.slot, "--", "id"]).0, Some(0));
    let (code_, err) = code(&deployer, &["--debug", &task.slot, "--", "id"]);
    assert_eq!(code_, Some(77), "{err}");
    let operator = person(fleet, "olga", vec![Role::Operator], other);
    assert_eq!(
        code(&operator, &["--debug", &task.slot, "--", "id"]).0,
        Some(0)
    );
}

fn what_is_not_there_is_said(fleet: &Fleet, other: &str, slot: &str) {
    let client = fleet.client(other);
    let (code_, err) = code(&client, &["nothing[0]", "--", "id"]);
    assert_eq!(code_, Some(3), "{err}");
    assert!(err.contains("no job") || err.contains("no task"), "{err}");
    let (code_, err) = code(&client, &["steady[9]", "--", "id"]);
    assert_eq!(code_, Some(3), "{err}");
    assert!(err.contains("potluck status"), "{err}");
    // One that is starting.
    let spec = fleet.spec(
        "slow",
        "job(name = \"slow\", package = \"potluck-hello\", command = \"potluck-hello\", \
         cpu = 0.05, memory = \"32MiB\", setup = [hook(\"/bin/sleep\", args = [\"900\"])])",
    );
    client.text(&["run", &spec, "--no-wait"]).unwrap();
    until("a task that is starting", WAIT, || {
        let (code_, err) = code(&client, &["slow[0]", "--", "id"]);
        match code_ == Some(5) && err.contains("it is starting") && err.contains("explain") {
            true => Ok(()),
            false => Err(format!("{code_:?} {err}")),
        }
    })
    .unwrap();
    // And one that is stopped.
    client.text(&["stop", "slow"]).unwrap();
    client.text(&["stop", "steady"]).unwrap();
    let (code_, err) = code(&client, &[slot, "--", "id"]);
    assert_eq!(code_, Some(3), "{err}");
}

#[test]
fn whoever_goes_nothing_of_a_session_stays() {
    let (fleet, task, other) = with_task();
    let slot = task.slot.as_str();
    for asked in [&task.node, &other] {
        let client = fleet.client(asked);
        let word = unique_seconds();
        let mut child = stay(&client, slot, &word);
        child.kill().unwrap();
        child.wait().unwrap();
        await_none(&word);
    }
    // The end of the task is no code of the command.
    let word = unique_seconds();
    let child = stay(&fleet.client(&other), slot, &word);
    let pid = processes_of_task(&fleet, &task);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_lost(child, "its task ended");
    await_none(&word);
    await_healthy(&fleet.client(&other), "steady", &[]);
    // The asked node dies, then the task's; the task itself lives on.
    let word = unique_seconds();
    let child = stay(&fleet.client(&other), slot, &word);
    fleet.kill_agent(&other).unwrap();
    assert_lost(child, "connection was lost");
    await_none(&word);
    fleet.start(&other).unwrap();
    fleet.await_answer(&other).unwrap();
    await_healthy(&fleet.client(&other), "steady", &[]);
    let word = unique_seconds();
    let child = stay(&fleet.client(&other), slot, &word);
    let pid = processes_of_task(&fleet, &task);
    fleet.kill_agent(&task.node).unwrap();
    assert_lost(child, "connection was lost");
    await_none(&word);
    assert_eq!(processes_of_task(&fleet, &task), pid);
}

pub(super) fn processes_of_task(fleet: &Fleet, task: &Task) -> i32 {
    let tasks = fleet.processes(&task.node).tasks;
    *tasks
        .iter()
        .next()
        .unwrap_or_else(|| panic!("no task on {}", task.node))
}

fn assert_lost(mut child: Child, why: &str) {
    let errors = BufReader::new(child.stderr.take().unwrap());
    let lines: Vec<String> = errors.lines().map_while(Result::ok).collect();
    assert_eq!(exit_code(child), 255, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains(why)), "{lines:?}");
}

/// Says that a test can't run here, and why; `make test` counts them.
pub(super) fn skip(test: &str, why: &str) {
    let line = format!("skipped: e2e::{test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("POTLUCK_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // A lost line only makes the count smaller.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

#[test]
fn tasks_of_every_profile_can_be_entered() {
    let fleet = Fleet::up(1, 1);
    let client = fleet.client("r1h1");
    let info = client.json(&["info"]).unwrap();
    let lacks = |warning: &Value| {
        warning
            .as_str()
            .is_some_and(|one| one.contains("isolation"))
    };
    if info["warnings"].as_array().unwrap().iter().any(lacks) {
        return skip("exec", "this host can't give full isolation");
    }
    for profile in ["strict", "default"] {
        let spec = fleet.hello(profile, 1);
        let text = fs::read_to_string(&spec).unwrap();
        let text = text.replacen("job(", &format!("job(isolation = {profile:?}, "), 1);
        fs::write(&spec, text).unwrap();
        fleet.run("r1h1", &spec);
        let slot = format!("{profile}[0]");
        let (code_, out, err) = shell(&client, &slot, "echo inside; exit 4");
        assert_eq!((code_, out.as_str()), (Some(4), "inside\n"), "{err}");
    }
    let seccomp = shell(
        &client,
        "strict[0]",
        "grep -c '^CapEff:.*0000000000000000' /proc/self/status; touch /x",
    );
    assert_eq!(seccomp.1, "1\n", "{seccomp:?}");
    assert!(seccomp.2.contains("Read-only"), "{seccomp:?}");
    let own = Role::Deployer {
        namespaces: vec!["default".into()],
    };
    let deployer = person(&fleet, "dan", vec![own], "r1h1");
    assert_eq!(code(&deployer, &["strict[0]", "--", "id"]).0, Some(0));
    let output = exec(
        &client,
        &[
            "--tools",
            "strict[0]",
            "--",
            "/.tools/busybox",
            "echo",
            "tool",
        ],
    );
    let has_busybox = Path::new("/bin/busybox").exists() || Path::new("/usr/bin/busybox").exists();
    let error = text(&output.stderr);
    match has_busybox {
        true => assert_eq!(text(&output.stdout), "tool\n", "{error}"),
        false => assert!(error.contains("busybox-static"), "{error}"),
    }
}
