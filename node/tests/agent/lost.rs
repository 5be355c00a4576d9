//! A lost task of which something can't die: it waits inside the kernel for a
//! disk that takes nothing. Needs root, for the mount, and the programs
//! `mkfs.ext4` and `mount`.

use super::{Node, job, poll, skip};
use potluck_core::session::SlotReport;
use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// `FIFREEZE` and `FITHAW` of the kernel's `linux/fs.h`.
const FREEZE: libc::c_ulong = 0xC004_5877;
const THAW: libc::c_ulong = 0xC004_5878;

/// A process that writes to a file system that is frozen.
struct Stuck {
    folder: TempDir,
    disk: Option<File>,
    writer: Option<Child>,
}

impl Stuck {
    /// `None`, said as skipped, where it can't be had.
    async fn make() -> Option<Stuck> {
        if !nix::unistd::geteuid().is_root() {
            skip("needs root, to mount a file system");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        File::create(&image)
            .and_then(|file| file.set_len(32 << 20))
            .expect("an image");
        let mut stuck = Stuck {
            folder,
            disk: None,
            writer: None,
        };
        fs::create_dir(stuck.at()).expect("a place for the disk");
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        let mount = ["-o", "loop"];
        if !made
            || !run(Command::new("mount")
                .args(mount)
                .arg(&image)
                .arg(stuck.at()))
        {
            skip("needs mkfs.ext4 and a loop device");
            return None;
        }
        let disk = File::open(stuck.at()).expect("the disk");
        // SAFETY: an open descriptor; the kernel takes no argument.
        assert_eq!(unsafe { libc::ioctl(disk.as_raw_fd(), FREEZE, 0) }, 0);
        stuck.disk = Some(disk);
        let mut writer = Command::new("touch");
        let writer = writer
            .arg(stuck.at().join("file"))
            .spawn()
            .expect("a writer");
        let pid = writer.id();
        stuck.writer = Some(writer);
        poll("a writer that waits in the kernel", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.contains(") D ")
        })
        .await;
        Some(stuck)
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn pid(&self) -> u32 {
        self.writer.as_ref().expect("it was started").id()
    }

    fn end(&mut self) {
        if let Some(disk) = self.disk.take() {
            // SAFETY: as above.
            unsafe { libc::ioctl(disk.as_raw_fd(), THAW, 0) };
        }
        if let Some(mut writer) = self.writer.take() {
            let _ = writer.kill();
            let _ = writer.wait();
        }
        let _ = nix::mount::umount2(&self.at(), nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_can_not_die_does_not_keep_its_slot() {
    let Some(mut stuck) = Stuck::make().await else {
        return;
    };
    let mut node = Node::start("#!/bin/sh\nexec sleep 1000\n").await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let groups = node.cgroups();
    // The one that has `cgroup.kill`, where there is one.
    let group = groups
        .iter()
        .find(|group| group.join("cgroup.kill").exists());
    let Some(group) = group else {
        node.end().await;
        return skip("needs a cgroup v2 hierarchy that it may write to");
    };
    fs::write(group.join("cgroup.procs"), stuck.pid().to_string()).expect("it joins");
    // The helper dies while there is no agent, and the task with it.
    node.token.cancel();
    node.agent.stopped().await;
    let processes = node.processes();
    for pid in &processes {
        let pid = nix::unistd::Pid::from_raw(*pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    poll("the end of the task", || node.processes().is_empty()).await;

    node.restart().await;
    let told = |report: &SlotReport| {
        let end = report.last_end.as_deref().unwrap_or_default();
        end.contains("does not die")
    };
    let report = node.until(&job, 0, told).await;
    let end = report.last_end.expect("an end");
    assert!(end.contains("control group"), "{end}");
    let group = group.clone();
    assert!(group.exists());
    let again = node.until_running(&job, 0).await;
    assert_eq!(again.starts, 2, "it goes on");
    stuck.end();
    poll("the end of what was left behind", || !group.exists()).await;
    node.end().await;
}
