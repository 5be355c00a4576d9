//! A log on a disk that is really full: a small file system in memory with
//! something in the way. Needs root, for the mount.

mod support;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use potluck_helper::{HelperMessage, protocol::LogState};
use potluck_specs::job::WhenFull;
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Agent, Task, is_root, skip, wait_for};

/// Lines that the tasks print: far more text than pipe, queue and disk hold,
/// though numbers in a row compress to a tenth and less.
const LINES: u64 = 1_500_000;

/// A file system of 1 MiB under the task's log, of which little is free.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn under(task: &mut Task) -> SmallDisk {
        let at = task.folder.path().join("disk");
        fs::create_dir(&at).unwrap();
        let none: Option<&Path> = None;
        let size = Some("size=1m,mode=755");
        mount(none, &at, Some("tmpfs"), MsFlags::empty(), size).unwrap();
        let disk = SmallDisk { at };
        fs::write(disk.filler(), vec![1; 900 << 10]).unwrap();
        task.description.log_folder = disk.at.join("log");
        disk
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
        // The log of all lines is larger than the disk.
        let none: Option<&Path> = None;
        let flags = MsFlags::MS_REMOUNT;
        mount(none, &self.at, none, flags, Some("size=64m")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

fn log_state(agent: &mut Agent) -> LogState {
    match agent.next() {
        HelperMessage::Log(state) => state,
        other => panic!("nothing of the log: {other:?}"),
    }
}

/// A task that prints all lines, and then waits for the file `go`.
fn printing_task(when_full: WhenFull) -> Task {
    let script =
        format!("seq 1 {LINES}; touch printed; while [ ! -e go ]; do sleep 0.02; done; echo end");
    let mut task = Task::script(&script);
    task.description.logs.when_full = when_full;
    task
}

#[test]
fn a_task_that_is_to_wait_waits_and_no_line_is_lost() {
    if !is_root() {
        return skip("needs root, to mount a small file system");
    }
    let mut task = printing_task(WhenFull::Block);
    let disk = SmallDisk::under(&mut task);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let LogState::Waits(why) = log_state(&mut agent) else {
        panic!("it is to wait");
    };
    assert!(why.contains("No space left"), "{why}");
    let printed = task.description.task_folder.join("printed");
    assert!(!printed.exists(), "it waits at its pipe");
    // The next agent hears of it too.
    drop(agent);
    let mut agent = Agent::listen(&task, 2);
    agent.running();
    assert!(matches!(log_state(&mut agent), LogState::Waits(_)));
    disk.make_room();
    assert_eq!(log_state(&mut agent), LogState::Written);
    wait_for("all lines", || printed.exists().then_some(()));
    fs::write(task.description.task_folder.join("go"), "").unwrap();
    assert_eq!(agent.next_exit().code, Some(0));

    let lines = task.lines();
    let texts = lines.iter().map(|line| String::from_utf8_lossy(&line.text));
    let (notes, printed): (Vec<_>, Vec<_>) = texts.partition(|text| text.starts_with("-- "));
    let mut wanted: Vec<String> = (1..=LINES).map(|number| number.to_string()).collect();
    wanted.push("end".into());
    assert!(printed == wanted, "{} of {}", printed.len(), wanted.len());
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("-- the log waited "), "{notes:?}");
    assert!(lines.iter().zip(0..).all(|(line, seq)| line.seq == seq));
}

#[test]
fn a_task_that_is_to_go_on_goes_on_and_every_line_is_counted() {
    if !is_root() {
        return skip("needs root, to mount a small file system");
    }
    let mut task = printing_task(WhenFull::Drop);
    let disk = SmallDisk::under(&mut task);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    assert!(matches!(log_state(&mut agent), LogState::Drops(_)));
    let printed = task.description.task_folder.join("printed");
    wait_for("a task that is not held up", || {
        printed.exists().then_some(())
    });
    disk.make_room();
    assert_eq!(log_state(&mut agent), LogState::Written);
    fs::write(task.description.task_folder.join("go"), "").unwrap();
    assert_eq!(agent.next_exit().code, Some(0));

    let texts = task.texts();
    let (notes, printed): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.starts_with("-- "));
    let lost = |note: &&String| -> u64 { note.split(' ').nth(1).unwrap().parse().unwrap() };
    let lost: u64 = notes.iter().map(lost).sum();
    assert!(lost > 0, "{notes:?}");
    assert_eq!(printed.len() as u64 + lost, LINES + 1, "{notes:?}");
    assert_eq!(texts.last().unwrap(), "end");
}

#[test]
fn an_end_on_a_full_disk_says_how_much_of_the_log_is_lost() {
    if !is_root() {
        return skip("needs root, to mount a small file system");
    }
    let mut task = Task::script("head -c 300000 /dev/urandom | od -An -tx1 -v; exit 3");
    task.description.logs.when_full = WhenFull::Block;
    let _disk = SmallDisk::under(&mut task);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    assert!(matches!(log_state(&mut agent), LogState::Waits(_)));
    let LogState::Drops(why) = log_state(&mut agent) else {
        panic!("nobody waits for a task that has ended");
    };
    assert!(why.contains("lines were lost"), "{why}");
    assert_eq!(agent.next_exit().code, Some(3));
}
