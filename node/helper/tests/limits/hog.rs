//! The program in the sandbox that uses things up, in as many ways as there
//! are. It ends in order when it is told to.

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const MIB: usize = 1 << 20;

static TOLD: AtomicBool = AtomicBool::new(false);

extern "C" fn told(_: libc::c_int) {
    TOLD.store(true, Ordering::SeqCst);
}

/// Uses it up until it is told to end.
pub(crate) fn run(what: &str) {
    let action = SigAction::new(SigHandler::Handler(told), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler sets a flag and nothing else.
    unsafe { sigaction(Signal::SIGTERM, &action) }.unwrap();
    match what {
        "anonymous" => grow(1),
        "threads" => {
            let each = || thread::spawn(|| grow(2));
            let all = [each(), each(), each(), each()];
            all.into_iter().for_each(|one| one.join().unwrap());
        }
        "read" => read(),
        "files" => files(),
        "files_beside_a_program" => {
            program();
            files();
        }
        "at_once" => at_once(),
        "when_let" => {
            while !std::path::Path::new("/task/go").exists() {
                pause();
            }
            grow(1);
        }
        "cache" => cache(),
        "spin" => while !is_told() {},
        "count" => {
            for n in 0_u64.. {
                println!("{n}");
                pause();
            }
        }
        "processes" => processes(),
        other => panic!("no such use: {other}"),
    }
    println!("in order");
    std::process::exit(0);
}

fn is_told() -> bool {
    TOLD.load(Ordering::SeqCst)
}

/// Its pace, so that it is seen on its way. Nothing is proved by it.
fn pause() {
    nix::poll::poll(&mut [], 2_u8).ok();
}

/// Memory, a page fault at a time.
fn grow(pauses: u32) {
    let mut all = Vec::new();
    while !is_told() {
        let mut block = vec![0_u8; MIB];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        all.push(block);
        (0..pauses).for_each(|_| pause());
    }
}

/// Memory that the kernel fills in a system call. At the limit this gives less
/// than was asked for, and no event.
fn read() {
    let mut zero = File::open("/dev/zero").unwrap();
    let mut all: Vec<Vec<u8>> = Vec::new();
    while !is_told() {
        let mut block = Vec::with_capacity(MIB);
        let _ = (&mut zero).take(MIB as u64).read_to_end(&mut block);
        all.push(block);
        pause();
    }
}

/// Files in memory. Their writes fail at the limit, and it goes on.
fn files() {
    let mut file = File::create("/tmp/file").unwrap();
    let block = vec![7_u8; MIB / 4];
    while !is_told() {
        let _ = file.write(&block);
        pause();
    }
}

/// A mapped file of which a part of each folio is in use all the time, as of a
/// program that is larger than what it runs: on paper the rest can be given
/// back.
fn program() {
    const BYTES: usize = 24 * MIB;
    const APART: usize = 1 << 19;
    let mut file = File::create("program").unwrap();
    file.write_all(&vec![7_u8; BYTES]).unwrap();
    file.sync_all().unwrap();
    let file = File::open("program").unwrap();
    let at = map(
        BYTES,
        libc::PROT_READ | libc::PROT_EXEC,
        0,
        file.as_raw_fd(),
    );
    assert_ne!(at, libc::MAP_FAILED as usize);
    thread::spawn(move || {
        loop {
            for offset in (0..BYTES).step_by(APART) {
                // SAFETY: within the mapping, which stays.
                let byte = unsafe { std::ptr::read_volatile((at + offset) as *const u8) };
                assert_eq!(byte, 7);
            }
            pause();
        }
    });
}

/// Far more than there is, in one call.
fn at_once() {
    let flags = libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let at = map(192 * MIB, libc::PROT_READ | libc::PROT_WRITE, flags, -1);
    println!("{}", at != libc::MAP_FAILED as usize);
    while !is_told() {
        pause();
    }
}

/// A new private mapping.
fn map(bytes: usize, protection: i32, flags: i32, file: RawFd) -> usize {
    let flags = flags | libc::MAP_PRIVATE;
    // SAFETY: the kernel chooses a place that nobody uses.
    unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0) as usize }
}

/// Three times the limit of files, written and read: the kernel gives back what
/// is not used.
fn cache() {
    let mut file = File::create("big").unwrap();
    let block = vec![7_u8; MIB];
    for _ in 0..96 {
        file.write_all(&block).unwrap();
        // As any program that means to keep it.
        file.sync_data().unwrap();
    }
    let mut read = Vec::new();
    for _ in 0..3 {
        let mut file = File::open("big").unwrap();
        while (&mut file).take(MIB as u64).read_to_end(&mut read).unwrap() > 0 {
            assert!(read.iter().all(|byte| *byte == 7));
            read.clear();
        }
    }
    std::fs::remove_file("big").unwrap();
}

/// Sleeping children, until no more can be had.
fn processes() {
    let mut children = 0;
    // SAFETY: there is one thread, and the child only waits for its end.
    while let Ok(nix::unistd::ForkResult::Parent { .. }) = unsafe { nix::unistd::fork() }
        .inspect(|side| {
            if side.is_child() {
                loop {
                    nix::unistd::pause();
                }
            }
        })
        .inspect_err(|error| println!("{children} {error}"))
    {
        children += 1;
    }
    println!("full");
    while !is_told() {
        pause();
    }
}
