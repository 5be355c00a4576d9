//! What a client sends faster than its command reads: the client waits, for as
//! long as the command likes, and everything else goes on.

use super::ssh::{HOST, openssh};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
};
use potluck_testnet::wait::until;
use potluck_tests::fleet::{Fleet, WAIT, exit_code};
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
    path::Path,
    process::{ChildStdin, Command, Stdio},
};

/// More than all that lies between a client and a command may keep: 4 MiB in
/// the server, the rest are buffers of sockets and pipes.
const ON_THE_WAY_MAX: usize = 16 << 20;

/// A pipe that takes nothing for so long is full, not slow.
const FULL_MS: u16 = 1_000;

/// Writes until nothing more is taken; how much was.
fn fill(pipe: &mut ChildStdin) -> usize {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (bytes, mut taken) = (vec![b'x'; 64 << 10], 0);
    while taken < ON_THE_WAY_MAX {
        match pipe.write(&bytes) {
            Ok(length) => taken += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut waited = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut waited, FULL_MS).unwrap() == 0 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    taken
}

pub(super) fn what_a_command_does_not_read_waits_and_others_go_on(fleet: &Fleet, config: &Path) {
    let socket = fleet.root().join("mux-window");
    let over = |words: &[&str]| {
        let mut command = openssh("ssh", config);
        command.arg("-S").arg(&socket).args(words);
        command
    };
    let master = over(&["-M", "-f", "-N", HOST]).status().unwrap();
    assert!(master.success());
    // Reads when it is told to, and then all of it.
    let deaf = "until test -e /task/read; do sleep 0.05; done; rm /task/read; wc -c";
    let mut deaf = over(&[HOST, deaf]);
    let mut deaf = deaf
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = deaf.stdin.take().unwrap();
    let sent = fill(&mut stdin);
    assert!(sent < ON_THE_WAY_MAX, "nothing holds the client up");
    // Both ways, and more than a window, beside it.
    let many: Vec<u8> = (0..3_u32 << 20).map(|n| n as u8).collect();
    let mut echo = over(&[HOST, "cat; exit 3"]);
    let mut echo = echo
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (echo.stdin.take().unwrap(), echo.stdout.take().unwrap());
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            to.write_all(&many).unwrap();
            drop(to);
        });
        from.read_to_end(&mut got).unwrap();
    });
    assert_eq!(exit_code(echo), 3);
    assert!(got == many, "{} of {} bytes", got.len(), many.len());
    // What was held up comes when it is read, and all of it.
    assert!(
        over(&[HOST, "touch /task/read"])
            .status()
            .unwrap()
            .success()
    );
    drop(stdin);
    let mut counted = String::new();
    let mut stdout = deaf.stdout.take().unwrap();
    stdout.read_to_string(&mut counted).unwrap();
    assert_eq!(counted.trim(), sent.to_string());
    assert_eq!(exit_code(deaf), 0);
    assert!(over(&["-O", "exit", HOST]).status().unwrap().success());
}

/// More in each direction than windows hold: each would wait for the other if a
/// client that must wait could not be heard.
pub(super) fn a_command_may_print_before_it_reads(config: &Path) {
    const BYTES: usize = 24 << 20;
    const INPUT_BYTES: usize = 3 << 20;
    let line = format!("head -c {BYTES} /dev/zero; wc -c");
    let mut command: Command = openssh("ssh", config);
    command.args([HOST, &line]);
    let input = tempfile_of(config, INPUT_BYTES);
    let output = config.with_extension("printed");
    command.stdin(fs::File::open(&input).unwrap());
    command.stdout(fs::File::create(&output).unwrap());
    let mut child = command.spawn().unwrap();
    let ended = until("the end of a command", WAIT, || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        _ => Err(format!("{:?}", fs::metadata(&output))),
    });
    if ended.is_err() {
        let _ = child.kill();
    }
    assert_eq!(ended.unwrap().code(), Some(0));
    let printed = fs::read(&output).unwrap();
    let counted = String::from_utf8_lossy(&printed[BYTES..]).trim().to_owned();
    assert_eq!(counted, INPUT_BYTES.to_string());
}

pub(super) fn a_command_need_not_read(config: &Path) {
    let mut command = openssh("ssh", config);
    command.args([HOST, "exit 6"]);
    let input = tempfile_of(config, 24 << 20);
    command.stdin(fs::File::open(&input).unwrap());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{error}");
}

/// The client waits as with any server of ssh, and the node keeps little of it.
pub(super) fn what_is_never_read_waits_for_the_commands_end(config: &Path) {
    let mut command = openssh("ssh", config);
    command.args([HOST, "sleep 7; exit 5"]);
    command.stdin(fs::File::open("/dev/zero").unwrap());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{error}");
}

/// Longer than any patience, with more than any memory for it.
pub(super) fn a_command_may_pause_before_it_reads(config: &Path) {
    const INPUT_BYTES: usize = 20 << 20;
    let mut command = openssh("ssh", config);
    command.args([HOST, "sleep 8; wc -c"]);
    let input = tempfile_of(config, INPUT_BYTES);
    command.stdin(fs::File::open(&input).unwrap());
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    let counted = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(counted, INPUT_BYTES.to_string());
}

/// As `zcat` does: the client's word that it has room for what comes stands
/// behind its own bytes.
pub(super) fn a_command_may_print_more_than_it_reads(config: &Path) {
    const LINE: &[u8] = b"a line of some forty letters, and no more\n";
    const LINES: usize = (20 << 20) / LINE.len();
    const TIMES: usize = 10;
    let input = config.with_extension("to-read");
    fs::write(&input, LINE.repeat(LINES)).unwrap();
    let mut command = openssh("ssh", config);
    command.args([HOST, "sed 'p;p;p;p;p;p;p;p;p'"]);
    command.stdin(fs::File::open(&input).unwrap());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let (mut bytes, mut length) = (vec![0; 256 << 10], 0);
    while let Some(more) = Some(output.read(&mut bytes).unwrap()).filter(|more| *more > 0) {
        length += more;
    }
    assert_eq!(exit_code(child), 0);
    assert_eq!(length, LINES * LINE.len() * TIMES);
}

fn tempfile_of(beside: &Path, bytes: usize) -> std::path::PathBuf {
    let path = beside.with_extension("to-read");
    fs::write(&path, vec![b'y'; bytes]).unwrap();
    path
}
