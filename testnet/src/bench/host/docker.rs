//! Docker as a peer: a daemon of its own in a temporary folder, with an image
//! of one static busybox. On drop it ends with all that it left: containers,
//! containerd, mounts, control groups, files.

use super::{Outcome, said};
use crate::{
    bench::{LIMIT, usage},
    wait::{forget_interrupt, until},
};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The image's name.
pub(super) const IMAGE: &str = "potluck-bench";

/// Static, as Debian's `busybox-static` has it.
pub(super) const BUSYBOX: &str = "/bin/busybox";

/// Its programs that the figures need.
const PROGRAMS: [&str; 4] = ["sh", "sleep", "true", "cat"];

/// Where Debian has the daemon; root alone may run it.
const DAEMON: &str = "/usr/sbin/dockerd";

/// Hierarchies of control groups of version 1, and that of version 2.
const GROUPS: &str = "/sys/fs/cgroup";

pub(super) struct Docker {
    folder: PathBuf,
    /// The name of the control group of its containers.
    group: String,
    daemon: Child,
}

impl Docker {
    /// A daemon with its image, or why there is none.
    pub(super) fn up() -> Outcome<Docker> {
        let group = format!("potluck-docker-{}", std::process::id());
        let folder = std::env::temp_dir().join(&group);
        fs::create_dir_all(&folder)?;
        let daemon = match daemon(&folder, &group) {
            Ok(daemon) => daemon,
            Err(error) => {
                fs::remove_dir_all(&folder)?;
                return Err(format!("{DAEMON}: {error}").into());
            }
        };
        // From here on it ends on drop.
        let docker = Docker {
            folder,
            group,
            daemon,
        };
        let answer = until("an answer of dockerd", LIMIT, || {
            docker.run(&["info"]).map_err(|error| error.to_string())
        });
        answer.map_err(|error| format!("{error}; its log ends: {}", docker.last_words()))?;
        docker.import()?;
        Ok(docker)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }

    fn import(&self) -> Outcome<()> {
        let root = self.folder.join("root");
        busybox_root(&root)?;
        let archive = self.folder.join("root.tar");
        let mut tar = Command::new("tar");
        said(tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg("."))?;
        self.run(&["import", &archive.to_string_lossy(), IMAGE])?;
        Ok(())
    }

    /// What a command of Docker's says.
    pub(super) fn run(&self, args: &[&str]) -> Outcome<String> {
        let mut command = Command::new("docker");
        command.arg("--host").arg(socket(&self.folder)).args(args);
        // Not the person's own: what is there would change what is measured.
        command.env("DOCKER_CONFIG", &self.folder);
        said(&mut command)
    }

    /// Starts a container of the image that goes on by itself: its id.
    pub(super) fn start(&self, command: &[&str]) -> Outcome<String> {
        let begin = ["run", "-d", "--network", "none", IMAGE];
        self.run(&[&begin, command].concat())
    }

    /// The process that a container began with, on the host.
    pub(super) fn pid(&self, container: &str) -> Outcome<i32> {
        let pid = self.run(&["inspect", "-f", "{{.State.Pid}}", container])?;
        Ok(pid.parse()?)
    }

    /// All processes of the daemon that are no task's: itself, containerd, and
    /// a shim for each container. All of them name the folder.
    pub(super) fn own_processes(&self) -> Vec<i32> {
        let folder = self.folder.display().to_string();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_containerd = usage::name(*pid) == "containerd" && parent_is(*pid, &self.daemon);
            is_containerd || String::from_utf8_lossy(&line).contains(&folder)
        })
        .collect()
    }

    /// Bytes that a container's log takes on disk.
    pub(super) fn log_bytes(&self, container: &str) -> Outcome<u64> {
        let path = self.run(&["inspect", "-f", "{{.LogPath}}", container])?;
        Ok(fs::metadata(path)?.len())
    }

    /// Ends a container and waits until it is gone.
    pub(super) fn remove(&self, containers: &[&str]) -> Outcome<()> {
        if !containers.is_empty() {
            self.run(&[&["rm", "-f"], containers].concat())?;
        }
        Ok(())
    }
}

fn daemon(folder: &Path, group: &str) -> io::Result<Child> {
    let log = File::create(folder.join("log"))?;
    let at = |name: &str| folder.join(name).display().to_string();
    Command::new(DAEMON)
        .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
        .args(["--pidfile", &at("pid"), "--host", &socket(folder)])
        // What works inside another container too.
        .args(["--storage-driver", "vfs", "--bridge", "none"])
        .args(["--iptables=false", "--log-driver", "json-file"])
        .args(["--cgroup-parent", &format!("/{group}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Of its own, so that Ctrl-C in the person's terminal is not its end.
        .process_group(0)
        .spawn()
}

/// A root of busybox alone.
pub(super) fn busybox_root(root: &Path) -> Outcome<()> {
    for folder in ["bin", "proc", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))
        .map_err(|error| format!("{BUSYBOX}: {error}; Debian has it in busybox-static"))?;
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program))?;
    }
    Ok(())
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("sock").display())
}

fn parent_is(pid: i32, parent: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let field = after_name.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
    field == Some(parent.id())
}

impl Drop for Docker {
    fn drop(&mut self) {
        forget_interrupt();
        if let Ok(all) = self.run(&["ps", "-aq"]) {
            let all: Vec<&str> = all.lines().collect();
            if let Err(error) = self.remove(&all) {
                eprintln!("warning: containers stay: {error}");
            }
        }
        // Found while it lives: afterwards its children are another's.
        let own = self.own_processes();
        self.end_daemon();
        for pid in own.into_iter().filter(|pid| runs_for(*pid, &self.folder)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        unmount_below(&self.folder);
        remove_groups(&self.group);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("warning: {} stays: {error}", self.folder.display());
        }
    }
}

impl Docker {
    fn end_daemon(&mut self) {
        // Ended already is as good.
        let _ = kill(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        );
        let ended = until("the end of dockerd", LIMIT, || {
            match self.daemon.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{other:?}")),
            }
        });
        if ended.is_err() {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}

/// Is it still one of the daemon's? Its number may be another's by now.
fn runs_for(pid: i32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.contains(&*folder.to_string_lossy())
}

/// The inner ones first.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().rev();
    let places = places.filter_map(|line| line.split(' ').nth(1).map(Path::new));
    for place in places.filter(|place| place.starts_with(folder)) {
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
}

/// Empty by now; Docker leaves them.
fn remove_groups(name: &str) {
    let hierarchies = fs::read_dir(GROUPS).into_iter().flatten().flatten();
    let places = hierarchies.map(|entry| entry.path()).chain([GROUPS.into()]);
    for group in places.map(|place| place.join(name)) {
        let Err(error) = fs::remove_dir(&group) else {
            continue;
        };
        if error.kind() != io::ErrorKind::NotFound {
            eprintln!("warning: {} stays: {error}", group.display());
        }
    }
}
