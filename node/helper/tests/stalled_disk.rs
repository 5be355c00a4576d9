//! A log on a disk that takes nothing and refuses nothing: a file system of its
//! own, frozen. Needs root, for the mount, and the programs `mkfs.ext4` and
//! `mount`.

mod support;

use nix::libc;
use potluck_helper::{AgentMessage, HelperMessage, protocol::LogState};
use potluck_specs::job::WhenFull;
use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Command, Stdio},
};
use support::{Agent, Task, is_root, skip, wait_for};

/// Lines that the tasks print: far more text than pipe and queue hold.
const LINES: u64 = 1_000_000;

/// A file system in a file, under the task's log.
struct Disk {
    at: PathBuf,
    image: PathBuf,
    /// Of the disk's root, while it is frozen.
    frozen: Option<File>,
}

/// `FIFREEZE` and `FITHAW` of the kernel's `linux/fs.h`.
const FREEZE: libc::c_ulong = 0xC004_5877;
const THAW: libc::c_ulong = 0xC004_5878;

impl Disk {
    /// `None`, said as skipped, where it can't be had.
    fn under(task: &mut Task) -> Option<Disk> {
        if !is_root() {
            skip("needs root, to mount a file system");
            return None;
        }
        // Not in the task's folder: that is removed while this may be mounted.
        let image = task.folder.path().with_extension("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let at = task.folder.path().join("disk");
        fs::create_dir(&at).unwrap();
        let disk = Disk {
            at,
            image,
            frozen: None,
        };
        let made = run(Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&disk.image));
        let mounted = made
            && run(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&disk.image)
                .arg(&disk.at));
        if !mounted {
            skip("needs mkfs.ext4 and a loop device");
            return None;
        }
        task.description.log_folder = disk.at.join("log");
        Some(disk)
    }

    fn freeze(&mut self) {
        let root = File::open(&self.at).unwrap();
        // SAFETY: an open descriptor; the kernel takes no argument.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), FREEZE, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        self.frozen = Some(root);
    }

    fn thaw(&mut self) {
        if let Some(root) = self.frozen.take() {
            // SAFETY: as above.
            let done = unsafe { libc::ioctl(root.as_raw_fd(), THAW, 0) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // Its end is when the helper has closed its files.
        let _ = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn log_state(agent: &mut Agent) -> LogState {
    match agent.next() {
        HelperMessage::Log(state) => state,
        other => panic!("nothing of the log: {other:?}"),
    }
}

fn why(state: LogState) -> String {
    match state {
        LogState::Waits(why) | LogState::Drops(why) => why,
        LogState::Written => panic!("it is written"),
    }
}

/// A task that waits for the file `go`, prints all lines, and waits for `end`.
fn printing_task(when_full: WhenFull) -> Task {
    let wait = |file: &str| format!("while [ ! -e {file} ]; do sleep 0.02; done");
    let script = format!(
        "echo ready; {}; seq 1 {LINES}; touch printed; {}; echo end",
        wait("go"),
        wait("end")
    );
    let mut task = Task::script(&script);
    task.description.logs.when_full = when_full;
    task
}

fn touch(task: &Task, file: &str) {
    fs::write(task.description.task_folder.join(file), "").unwrap();
}

#[test]
fn a_task_whose_lines_may_go_is_not_held_up_and_every_line_is_counted() {
    let mut task = printing_task(WhenFull::Drop);
    let Some(mut disk) = Disk::under(&mut task) else {
        return;
    };
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    task.wait_line("ready");
    disk.freeze();
    touch(&task, "go");
    let state = log_state(&mut agent);
    assert!(matches!(state, LogState::Drops(_)), "{state:?}");
    assert!(why(state).contains("does not answer"));
    let printed = task.description.task_folder.join("printed");
    wait_for("a task that goes on", || printed.exists().then_some(()));
    disk.thaw();
    assert_eq!(log_state(&mut agent), LogState::Written);
    touch(&task, "end");
    assert_eq!(agent.next_exit().code, Some(0));

    let lines = task.lines();
    let texts = lines.iter().map(|line| String::from_utf8_lossy(&line.text));
    let (notes, printed): (Vec<_>, Vec<_>) = texts.partition(|text| text.starts_with("-- "));
    let lost = |note: &std::borrow::Cow<'_, str>| -> u64 {
        assert!(
            note.contains("lines lost: the disk does not answer"),
            "{note}"
        );
        note.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let lost: u64 = notes.iter().map(lost).sum();
    assert!(lost > 0, "{notes:?}");
    // A line may be cut where others are thrown away, and then be two.
    let all = LINES + 2;
    let told = printed.len() as u64 + lost;
    assert!(
        (all..=all + 2 * notes.len() as u64).contains(&told),
        "{told} of {all}"
    );
    // A jump in the numbers is what was lost.
    let numbers = lines.last().unwrap().seq + 1;
    assert_eq!(numbers, lines.len() as u64 + lost);
    assert_eq!(printed.last().unwrap(), "end");
}

#[test]
fn a_helper_whose_disk_stalls_answers_and_stops_its_task() {
    let mut task = printing_task(WhenFull::Block);
    let Some(mut disk) = Disk::under(&mut task) else {
        return;
    };
    let mut agent = Agent::listen(&task, 1);
    task.start();
    let (pid, _) = agent.running();
    task.wait_line("ready");
    disk.freeze();
    touch(&task, "go");
    let state = log_state(&mut agent);
    assert!(matches!(state, LogState::Waits(_)), "{state:?}");
    assert!(why(state).contains("does not answer"));
    let printed = task.description.task_folder.join("printed");
    assert!(!printed.exists(), "it waits at its pipe");
    // The next agent hears of it, too.
    drop(agent);
    let mut agent = Agent::listen(&task, 2);
    agent.running();
    assert!(matches!(log_state(&mut agent), LogState::Waits(_)));
    agent.send(&AgentMessage::Stop {
        signal: 9,
        grace_ms: 60_000,
    });
    let LogState::Drops(why) = log_state(&mut agent) else {
        panic!("nobody waits for a task that has ended");
    };
    assert!(why.contains("lines were lost"), "{why}");
    // An agent that was away at the end hears of what was lost.
    drop(agent);
    let mut agent = Agent::listen(&task, 3);
    agent.accept();
    agent.welcome();
    let told = loop {
        match agent.next() {
            HelperMessage::Log(state) => break state,
            HelperMessage::Exited(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(told, LogState::Drops(_)), "{told:?}");
    assert!(!support::is_alive(pid));
    disk.thaw();
}
