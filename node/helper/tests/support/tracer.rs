//! Kills a program at any of its steps: at a system call by which it changes
//! or hears the world outside, just before the kernel carries it out. The
//! program knows nothing of it; the kernel's debugger interface (`ptrace`)
//! stops it at each call.
//!
//! A step has the name of its call and of what it is about, and a number that
//! tells apart those of one name. Threads of one program take turns as they
//! like, so a step is found again by its name and number, not by its place in
//! the order.

#![allow(dead_code, reason = "each test program uses its part")]

use nix::errno::Errno;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt,
    process::Command,
    ptr,
};

/// Whose steps are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The program's own, in all of its threads.
    Program,
    /// Those of its first child by a plain fork.
    Child,
}

/// Which step the process is killed at: one of this name, counted from 1.
pub(crate) type Aim = (String, u32);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Steps up to the end or the kill, in order.
    pub(crate) steps: Vec<Aim>,
    /// The process was killed.
    pub(crate) hit: bool,
}

/// Runs a command to its end or to its death at `aim`. `from` says which text
/// in the program's standard output begins the steps that count; without it
/// all do. `words` are texts that differ from run to run and what stands for
/// them. To be called from a thread that has no other children.
pub(crate) fn run(
    command: &mut Command,
    whose: Whose,
    from: Option<&str>,
    words: &[(String, &str)],
    aim: Option<&Aim>,
) -> Outcome {
    // SAFETY: one system call.
    unsafe {
        command.pre_exec(|| {
            let done = libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            Errno::result(done).map(drop).map_err(Into::into)
        })
    };
    #[allow(
        clippy::zombie_processes,
        reason = "waited for by its id, along with its threads and children"
    )]
    let child = command.spawn().expect("the program can be started");
    let mut trace = Trace {
        first: child.id() as i32,
        whose,
        subject: (whose == Whose::Program).then_some(child.id() as i32),
        from,
        begun: from.is_none(),
        words,
        aim,
        seen: BTreeMap::new(),
        fresh: BTreeSet::new(),
        outcome: Outcome::default(),
    };
    trace.begin();
    trace.follow();
    trace.outcome
}

struct Trace<'a> {
    first: i32,
    whose: Whose,
    /// The process whose steps count.
    subject: Option<i32>,
    from: Option<&'a str>,
    begun: bool,
    words: &'a [(String, &'a str)],
    aim: Option<&'a Aim>,
    /// How many steps of each name there were.
    seen: BTreeMap<String, u32>,
    /// Threads that stopped before their birth was told.
    fresh: BTreeSet<i32>,
    outcome: Outcome,
}

impl Trace<'_> {
    fn begin(&mut self) {
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        let waited = unsafe { libc::waitpid(self.first, &raw mut status, libc::__WALL) };
        assert!(waited == self.first && libc::WIFSTOPPED(status));
        let mut options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        if self.whose == Whose::Child {
            options |= libc::PTRACE_O_TRACEFORK;
        }
        request(libc::PTRACE_SETOPTIONS, self.first, options as usize);
        request(libc::PTRACE_SYSCALL, self.first, 0);
    }

    /// Until nobody is left.
    fn follow(&mut self) {
        loop {
            let mut status = 0;
            let flags = libc::__WALL | libc::__WNOTHREAD;
            // SAFETY: the pointer is to a live integer.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
            match Errno::result(pid) {
                Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => continue,
                other => other.expect("our own children can be waited for"),
            };
            if libc::WIFSTOPPED(status) {
                let signal = self.stopped(pid, status);
                request(libc::PTRACE_SYSCALL, pid, signal as usize);
            }
        }
    }

    /// A thread has stopped; the signal that it goes on with.
    fn stopped(&mut self, pid: i32, status: i32) -> i32 {
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_FORK {
            let mut born: libc::c_ulong = 0;
            // SAFETY: the kernel writes one word.
            unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, pid, 0, &raw mut born) };
            self.subject.get_or_insert(born as i32);
        }
        if event != 0 || signal == libc::SIGTRAP {
            return 0;
        }
        if signal == libc::SIGTRAP | 0x80 {
            self.at_call(pid);
            return 0;
        }
        match signal == libc::SIGSTOP && self.fresh.insert(pid) {
            // Every new thread begins with one that nobody sent.
            true => 0,
            false => signal,
        }
    }

    fn at_call(&mut self, pid: i32) {
        let Some((number, arguments)) = entered(pid) else {
            return;
        };
        if !self.begun {
            let text = (number == libc::SYS_write && arguments[0] == 1)
                .then(|| bytes(pid, arguments[1], arguments[2].min(200) as usize));
            let text = text.unwrap_or_default();
            let from = self.from.unwrap_or_default().as_bytes();
            self.begun = text.windows(from.len()).any(|part| part == from);
            return;
        }
        let of = match self.whose {
            Whose::Program => self.first,
            Whose::Child => pid,
        };
        if self.subject != Some(of) || self.outcome.hit {
            return;
        }
        let Some(name) = self.name(pid, number, arguments) else {
            return;
        };
        let count = self.seen.entry(name.clone()).or_default();
        *count += 1;
        let step = (name, *count);
        if self.aim == Some(&step) {
            self.outcome.hit = true;
            // SAFETY: two integers; the process is stopped, so the id is its own.
            unsafe { libc::kill(of, libc::SIGKILL) };
        }
        self.outcome.steps.push(step);
    }

    /// What the call does to the outside; `None` for one that does nothing.
    fn name(&self, pid: i32, number: i64, arguments: [u64; 6]) -> Option<String> {
        let [first, second, third, ..] = arguments;
        let path = |at: u64| text(pid, at);
        let file = |fd: u64| {
            let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
            link.to_string_lossy().into_owned()
        };
        let a_file = |fd: u64| Some(file(fd)).filter(|name| name.starts_with('/'));
        let is_new = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
        let is_process = |flags: u64| flags & libc::CLONE_THREAD as u64 == 0;
        let (call, about) = match number {
            libc::SYS_mkdir => ("mkdir", path(first)),
            libc::SYS_mkdirat => ("mkdir", path(second)),
            libc::SYS_mknodat => ("mknod", path(second)),
            libc::SYS_symlinkat => ("symlink", path(third)),
            libc::SYS_rmdir => ("rmdir", path(first)),
            libc::SYS_unlink => ("unlink", path(first)),
            libc::SYS_unlinkat => ("unlink", path(second)),
            libc::SYS_rename => ("rename", path(first)),
            libc::SYS_renameat | libc::SYS_renameat2 => ("rename", path(second)),
            libc::SYS_openat if is_new(third) => ("create", path(second)),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev => ("write", a_file(first)?),
            libc::SYS_fsync | libc::SYS_fdatasync => ("sync", file(first)),
            libc::SYS_ftruncate => ("truncate", file(first)),
            libc::SYS_clone if is_process(first) => ("clone", String::new()),
            libc::SYS_clone3 if is_process(flags_at(pid, first)) => ("clone", String::new()),
            libc::SYS_fork | libc::SYS_vfork => ("clone", String::new()),
            libc::SYS_execve => ("exec", path(first)),
            libc::SYS_accept4 => ("accept", String::new()),
            libc::SYS_connect => ("connect", String::new()),
            libc::SYS_sendmsg | libc::SYS_sendto => ("send", String::new()),
            libc::SYS_recvmsg => ("receive", String::new()),
            libc::SYS_pidfd_open => ("pidfd_open", String::new()),
            libc::SYS_pidfd_send_signal | libc::SYS_kill => ("signal", String::new()),
            libc::SYS_wait4 | libc::SYS_waitid => ("wait", String::new()),
            libc::SYS_open_tree => ("open_tree", String::new()),
            libc::SYS_fsmount => ("fsmount", String::new()),
            libc::SYS_move_mount => ("move_mount", path(arguments[3])),
            libc::SYS_mount_setattr => ("mount_setattr", String::new()),
            libc::SYS_mount => ("mount", String::new()),
            libc::SYS_umount2 => ("umount", String::new()),
            libc::SYS_pivot_root => ("pivot_root", String::new()),
            libc::SYS_epoll_create1 => ("epoll", String::new()),
            libc::SYS_timerfd_create => ("timerfd", String::new()),
            libc::SYS_signalfd4 => ("signalfd", String::new()),
            libc::SYS_close_range => ("close_range", String::new()),
            _ => return None,
        };
        let plain = |text: String, (word, stand_in): &(String, &str)| text.replace(word, stand_in);
        let about = self.words.iter().fold(about, plain);
        Some(format!("{call} {about}").trim_end().to_owned())
    }
}

/// The call that a stopped thread is about to make; `None` if it comes back
/// from one.
fn entered(pid: i32) -> Option<(i64, [u64; 6])> {
    // SAFETY: all zero is a valid value of this structure of integers.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes into a live structure.
    let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info) };
    if got <= 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kind says which part holds.
    let entry = unsafe { info.u.entry };
    Some((entry.nr as i64, entry.args))
}

/// Asks for something that fails only if the thread was killed meanwhile.
fn request(request: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: integers only.
    let done = unsafe { libc::ptrace(request, pid, 0, data) };
    match Errno::result(done) {
        Ok(_) | Err(Errno::ESRCH) => {}
        Err(errno) => panic!("ptrace {request} of {pid}: {errno}"),
    }
}

/// What `clone3` is asked for: the first word of its structure.
fn flags_at(pid: i32, at: u64) -> u64 {
    let word = bytes(pid, at, size_of::<u64>());
    word.try_into().map_or(0, u64::from_ne_bytes)
}

/// A string in a stopped thread's memory.
fn text(pid: i32, at: u64) -> String {
    const LONGEST: usize = 400;
    let mut text = bytes(pid, at, LONGEST);
    text.truncate(
        text.iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len()),
    );
    String::from_utf8_lossy(&text).into_owned()
}

/// What can be read of a thread's memory, page by page: the next may be absent.
fn bytes(pid: i32, at: u64, length: usize) -> Vec<u8> {
    const PAGE: u64 = 4_096;
    let mut all = Vec::new();
    let mut from = at;
    while from < at + length as u64 {
        let until = ((from / PAGE + 1) * PAGE).min(at + length as u64);
        let mut part = vec![0_u8; (until - from) as usize];
        let ours = libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        };
        let theirs = libc::iovec {
            iov_base: ptr::without_provenance_mut(from as usize),
            iov_len: part.len(),
        };
        // SAFETY: the one area of ours is live and as long as it says.
        let read =
            unsafe { libc::process_vm_readv(pid, &raw const ours, 1, &raw const theirs, 1, 0) };
        let Ok(read) = usize::try_from(read) else {
            return all;
        };
        all.extend(&part[..read]);
        from = until;
    }
    all
}
