//! Which system calls a task may make: a list of what is allowed, in the shape
//! of Docker's. What is not on it fails with EPERM; what is newer than this
//! list, and `clone3`, whose flags a filter can't see, fail with ENOSYS, so
//! that the C library falls back to what it used before.

use crate::description::Profile;
use nix::{
    errno::Errno,
    libc::{self, c_int},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

/// Last system call that this list has judged (`file_setattr`, Linux 6.17).
const NEWEST_KNOWN: u32 = 469;

/// All kinds of namespaces: a task makes none, since each opens parts of the
/// kernel that its user could not reach before.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u64
    // CLONE_NEWTIME; only `unshare` knows it.
    | 0x80;

/// Families of sockets that reach the hypervisor or the kernel's ciphers.
const FAMILIES_DENIED: [c_int; 2] = [libc::AF_VSOCK, libc::AF_ALG];

/// Requests that put characters into another's terminal.
const TERMINAL_PUSH: [u64; 2] = [0x5412, 0x541c];

/// `personality` values: Linux, and without randomised addresses.
const PERSONALITIES: [u64; 4] = [0, 0x0004_0000, 0x0002_0000, 0xffff_ffff];

/// The two programs, loaded one after the other; the stricter answer counts.
#[derive(Debug)]
pub(crate) struct Filter {
    listed: BpfProgram,
    unknown: Vec<sock_filter>,
}

/// A filter that can't be made: nothing that a user could cause.
#[derive(Debug, thiserror::Error)]
#[error("the system call filter can't be made")]
pub(crate) struct FilterError(#[from] seccompiler::BackendError);

impl Filter {
    /// The list of a profile. Looking into other processes is allowed only
    /// where a pid namespace shows none but the task's own.
    pub(crate) fn new(profile: Profile, own_pids: bool) -> Result<Filter, FilterError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let lists = [ALLOWED, ALLOWED_HERE, ALLOWED_BY_NUMBER];
        for number in lists.into_iter().flatten() {
            rules.insert(*number, Vec::new());
        }
        if profile == Profile::Default && own_pids {
            rules.extend(INSPECTING.iter().map(|number| (*number, Vec::new())));
        }
        rules.extend(conditional()?);
        let arch = std::env::consts::ARCH.try_into()?;
        let deny = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, deny, SeccompAction::Allow, arch)?;
        Ok(Filter {
            listed: filter.try_into()?,
            unknown: unknown(),
        })
    }

    /// Holds this process, and all that it becomes, to the list.
    pub(crate) fn apply(&self) -> Result<(), Errno> {
        // Of two refusals the one that was loaded last is told.
        load(&self.listed)?;
        load(&self.unknown)
    }
}

fn load(program: &[sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: a live program of this length; the kernel only reads it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_u32,
            &raw const program,
        )
    };
    Errno::result(done).map(drop)
}

/// Allowed with certain arguments only.
fn conditional() -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    let one = |index, length, op, value| SeccompCondition::new(index, length, op, value);
    let rule = |conditions| SeccompRule::new(conditions);
    let no_namespace = || -> Result<_, seccompiler::BackendError> {
        let masked = one(0, Len::Qword, Op::MaskedEq(NAMESPACES), 0)?;
        Ok(vec![rule(vec![masked])?])
    };
    // The low byte of clone's flags is a signal, of which 0x80 is no part.
    let mut rules = vec![
        (libc::SYS_clone, no_namespace()?),
        (libc::SYS_unshare, no_namespace()?),
    ];
    let family = |family: &c_int| one(0, Len::Dword, Op::Ne, *family as u64);
    let families: Result<Vec<_>, _> = FAMILIES_DENIED.iter().map(family).collect();
    rules.push((libc::SYS_socket, vec![rule(families?)?]));
    let push = |request: &u64| one(1, Len::Dword, Op::Ne, *request);
    let pushes: Result<Vec<_>, _> = TERMINAL_PUSH.iter().map(push).collect();
    rules.push((libc::SYS_ioctl, vec![rule(pushes?)?]));
    let personality = |value: &u64| rule(vec![one(0, Len::Dword, Op::Eq, *value)?]);
    let personalities: Result<Vec<_>, _> = PERSONALITIES.iter().map(personality).collect();
    rules.push((libc::SYS_personality, personalities?));
    Ok(rules)
}

/// ENOSYS for `clone3` and for what no list has judged; for the rest the
/// other program decides, which also looks at the architecture.
fn unknown() -> Vec<sock_filter> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // The number is the first word of what a filter sees.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_EQUAL, 1, 0, libc::SYS_clone3 as u32),
        step(JUMP_GREATER, 0, 1, NEWEST_KNOWN),
        step(RETURN, 0, 0, ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, 0, ALLOW),
    ]
}

/// Debuggers and profilers of the task's own processes.
const INSPECTING: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
];

/// What the C library has no names for yet; the same on all architectures.
const ALLOWED_BY_NUMBER: &[i64] = &[
    451, // cachestat
    453, // map_shadow_stack
    454, // futex_wake
    455, // futex_wait
    456, // futex_requeue
    463, // setxattrat
    464, // getxattrat
    465, // listxattrat
    466, // removexattrat
    468, // file_getattr
    469, // file_setattr
];

/// A list of system calls by their names.
macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[i64] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2
    SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_fork SYS_futimesat
    SYS_get_thread_area SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown
    SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_modify_ldt SYS_open SYS_pause
    SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select
    SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink
    SYS_utime SYS_utimes SYS_vfork SYS_epoll_ctl_old SYS_epoll_wait_old
};

#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[i64] = &[];

const ALLOWED: &[i64] = calls! {
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset
    SYS_chdir SYS_chroot SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime
    SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect
    SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat
    SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64
    SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown
    SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr
    SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync
    SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu
    SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
    SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid
    SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid
    SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt
    SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch
    SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
    SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioprio_get SYS_ioprio_set
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen
    SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr
    SYS_madvise SYS_membarrier SYS_memfd_create SYS_memfd_secret SYS_mincore
    SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open
    SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_mseal
    SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock
    SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep
    SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open
    SYS_pidfd_send_signal SYS_pipe2 SYS_pkey_alloc SYS_pkey_free
    SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev
    SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom
    SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr
    SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn
    SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
    SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam
    SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler
    SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop
    SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_set_robust_list SYS_set_tid_address SYS_setfsgid SYS_setfsuid
    SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit
    SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl
    SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4
    SYS_socketpair SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync
    SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime
    SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime
    SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname
    SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write
    SYS_writev
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_list_allows_what_reaches_the_host() {
        let all = [ALLOWED, ALLOWED_HERE, ALLOWED_BY_NUMBER, INSPECTING].concat();
        let forbidden = calls! {
            SYS_mount SYS_umount2 SYS_pivot_root SYS_setns SYS_bpf SYS_keyctl
            SYS_add_key SYS_request_key SYS_io_uring_setup SYS_userfaultfd
            SYS_perf_event_open SYS_open_by_handle_at SYS_init_module
            SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot
            SYS_swapon SYS_swapoff SYS_acct SYS_settimeofday SYS_clock_settime
            SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsmount SYS_clone3
            SYS_mount_setattr SYS_quotactl SYS_sethostname
            SYS_unshare SYS_clone SYS_personality SYS_socket SYS_ioctl
        };
        for number in forbidden {
            assert!(!all.contains(number), "{number}");
        }
        for (index, number) in all.iter().enumerate() {
            assert!(!all[..index].contains(number), "{number} twice");
            assert!(*number <= i64::from(NEWEST_KNOWN));
        }
    }

    #[test]
    fn programs_fit_the_kernel() {
        /// `BPF_MAXINSNS`
        const INSTRUCTIONS_MAX: usize = 4_096;
        for profile in [Profile::Default, Profile::Strict] {
            let filter = Filter::new(profile, true).unwrap();
            assert!(filter.listed.len() < INSTRUCTIONS_MAX);
        }
    }
}
