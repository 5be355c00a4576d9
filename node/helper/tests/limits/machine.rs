//! A virtual machine whose kernel has cgroup v2 alone, under software
//! emulation, since few places where tests run offer more. It is booted once,
//! with this program and the helper in its first file system, and runs all
//! cases; each test reads the outcome of one.
//!
//! Its parts are fetched by `scripts/microvm`, which `make test` runs. Where
//! they can't be had the tests are counted as skipped.

use crate::{Case, support::skip};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// All cases took 40 s on two busy cores.
const LIMIT: Duration = Duration::from_secs(420);

/// Said when a case is over; the words before are its name.
const OK: &str = "ok";
const FAILED: &str = "failed";
/// Before each line of ours, so that the kernel's are told apart.
const CASE: &str = "case";
/// The last line: without it the machine died.
const DONE: &str = "case all done";

/// In the machine: runs all cases, each with its outcome.
pub(crate) fn run_all(cases: &[Case]) {
    for (name, case) in cases {
        println!("{CASE} {name} begins");
        let thread = thread::Builder::new().name((*name).into());
        let ended = thread.spawn(*case).unwrap().join();
        let outcome = if ended.is_ok() { OK } else { FAILED };
        println!("{CASE} {name} {outcome}");
    }
    println!("{DONE}");
}

/// Did this case hold in the machine?
pub(crate) fn passed(name: &str) {
    static RUN: OnceLock<Result<String, String>> = OnceLock::new();
    let text = match RUN.get_or_init(run) {
        Ok(text) => text,
        Err(why) => return skip(why),
    };
    let said = |what: &str| {
        let line = format!("{CASE} {name} {what}");
        text.lines().any(|found| found.trim_end().ends_with(&line))
    };
    // What needs a part that this very kernel has must not be passed over.
    let skipped = text.contains(&format!("skipped: {name}:"));
    if !said(OK) || skipped {
        let begin = text.find(&format!("{CASE} {name} begins")).unwrap_or(0);
        let end = text.find(&format!("{CASE} {name} {FAILED}"));
        panic!(
            "in the machine:\n{}",
            &text[begin..end.unwrap_or(text.len())]
        );
    }
}

/// Boots it and gives all that it said, or why it can't be booted.
fn run() -> Result<String, String> {
    let kit = kit();
    if let Ok(why) = fs::read_to_string(kit.join("missing")) {
        return Err(why.trim().to_owned());
    }
    if !kit.join("vmlinuz").exists() {
        return Err("needs the microVM's parts: run scripts/microvm".into());
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let files = folder.path().join("files");
    fs::write(&files, archive(&kit)).unwrap();
    let output = folder.path().join("output");
    let machine = boot(&kit, &files, &output)?;
    machine.wait();
    let text = fs::read(&output).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains(DONE), "the machine died:\n{text}");
    Ok(text)
}

/// Where `scripts/microvm` puts the parts: beside the programs' folder.
fn kit() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).unwrap();
    target.join("microvm")
}

/// Killed on drop.
struct Machine(Child);

impl Machine {
    fn wait(mut self) {
        let begin = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < LIMIT, "the machine takes too long");
            nix::poll::poll(&mut [], 50_u8).unwrap();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The clock's rate is given: found out by the kernel, it hung in five of five
/// runs.
fn boot(kit: &Path, files: &Path, output: &Path) -> Result<Machine, String> {
    let append = "console=ttyS0 quiet loglevel=1 panic=1 reboot=t psi=1 \
                  tsc_early_khz=2000000 lpj=4000000 no_timer_check";
    let output = File::create(output).map_err(|error| error.to_string())?;
    let machine = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024"])
        .args(["-M", "microvm,rtc=on,pit=on,pic=on"])
        .args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"])
        .args(["-serial", "stdio", "-append", append])
        .arg("-kernel")
        .arg(kit.join("vmlinuz"))
        .arg("-initrd")
        .arg(files)
        .stdin(Stdio::null())
        .stderr(output.try_clone().map_err(|error| error.to_string())?)
        .stdout(output)
        .spawn();
    machine
        .map(Machine)
        .map_err(|error| format!("qemu-system-x86_64: {error}"))
}

/// First process, while the files are those that came with the kernel: nothing
/// can be moved away from under them, so all is copied.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir /new
/bin/busybox mount -t tmpfs -o size=200m,mode=755 none /new
/bin/busybox cp -a /bin /files /new/
for folder in /files/*; do /bin/busybox cp -a $folder /new/; done
/bin/busybox rm -rf /new/files
exec /bin/busybox switch_root /new /bin/begin
";

/// And then: a disk in memory, and the cases on it.
const BEGIN: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TMPDIR=/disk
mkdir -p /proc /sys /dev /tmp /disk /etc /usr /run
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
insmod /bin/brd.ko rd_nr=1 rd_size=262144
mke2fs /dev/ram0 >/dev/null
mount -t ext4 /dev/ram0 /disk
export POTLUCK_MICROVM=1 RUST_BACKTRACE=0
/bin/cases machine_main --exact --nocapture --test-threads=1 2>&1
reboot -f
";

/// The first file system, in the kernel's own format.
fn archive(kit: &Path) -> Vec<u8> {
    let own = std::env::current_exe().unwrap();
    let helper = Path::new(env!("CARGO_BIN_EXE_potluck-helper"));
    let mut archive = Archive::default();
    archive.file("/init", INIT.as_bytes());
    archive.file("/bin/begin", BEGIN.as_bytes());
    archive.copy("/bin/busybox", &kit.join("busybox"));
    archive.copy("/bin/brd.ko", &kit.join("brd.ko"));
    archive.copy("/bin/cases", &own);
    // The cases find it where they did when they were built.
    archive.copy(&format!("/files{}", helper.display()), helper);
    let libraries: BTreeSet<PathBuf> = [own.as_path(), helper]
        .into_iter()
        .flat_map(libraries)
        .collect();
    for library in libraries {
        archive.copy(&format!("/files{}", library.display()), &library);
    }
    archive.end()
}

/// What a program is linked to, by the host's own loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.split_whitespace();
    words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// An archive in the `newc` format of cpio.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    count: u32,
}

impl Archive {
    fn copy(&mut self, name: &str, from: &Path) {
        let bytes = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.file(name, &bytes);
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        let name = name.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            if self.folders.insert(name[..at].to_owned()) {
                self.entry(&name[..at], 0o040_755, &[]);
            }
        }
        self.entry(name, 0o100_755, bytes);
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.count += 1;
        let fields = [
            self.count,
            mode,
            0,
            0,
            1,
            0,
            bytes.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08X}").unwrap();
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
