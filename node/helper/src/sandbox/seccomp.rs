//! Which system calls a task may make: a list of what is allowed, in the shape
//! of Docker's. What is not on it fails with EPERM; what is newer than this
//! list, and `clone3`, whose flags a filter can't see, fail with ENOSYS, so
//! that the C library falls back to what it used before. The program's form is
//! [`super::bpf`]'s.

use super::bpf::{self, Check, Test, Verdict};
use crate::description::Profile;
use nix::{
    errno::Errno,
    libc::{self, sock_filter},
};
use std::collections::BTreeMap;

/// Last system call that this list has judged (`file_setattr`, Linux 6.17).
const NEWEST_KNOWN: u32 = 469;

/// All kinds of namespaces: a task makes none, since each opens parts of the
/// kernel that its user could not reach before.
const NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u32
    // CLONE_NEWTIME; only `unshare` knows it.
    | 0x80;

/// Families of sockets that reach the hypervisor or the kernel's ciphers.
const FAMILIES_DENIED: &[u32] = &[libc::AF_VSOCK as u32, libc::AF_ALG as u32];

/// Requests that put characters into another's terminal.
const TERMINAL_PUSH: &[u32] = &[0x5412, 0x541c];

/// `personality` values: Linux, and without randomised addresses.
const PERSONALITIES: &[u32] = &[0, 0x0004_0000, 0x0002_0000, 0xffff_ffff];

/// The program.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// The list of a profile. Looking into other processes is allowed only
    /// where a pid namespace shows none but the task's own.
    pub(crate) fn new(profile: Profile, own_pids: bool) -> Filter {
        let mut verdicts = BTreeMap::new();
        let mut allow = |list: &[i64]| {
            verdicts.extend(list.iter().map(|number| (*number as u32, Verdict::Allow)));
        };
        for list in [ALLOWED, ALLOWED_HERE, ALLOWED_BY_NUMBER] {
            allow(list);
        }
        if profile == Profile::Default && own_pids {
            allow(INSPECTING);
        }
        verdicts.extend(CONDITIONAL.map(|(number, check)| (number as u32, Verdict::If(check))));
        let absent = Verdict::Fail(libc::ENOSYS as u16);
        verdicts.insert(libc::SYS_clone3 as u32, absent);
        let denied = Verdict::Fail(libc::EPERM as u16);
        Filter(bpf::program(&verdicts, denied, NEWEST_KNOWN + 1, absent))
    }

    /// Holds this process, and all that it becomes, to the list.
    pub(crate) fn apply(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
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
}

/// A check of the argument of this index.
const fn check(argument: u32, test: Test) -> Check {
    Check { argument, test }
}

/// Allowed with certain arguments only. The low byte of clone's flags is a
/// signal, of which 0x80 is no part.
const CONDITIONAL: [(i64, Check); 5] = [
    (libc::SYS_clone, check(0, Test::NoBit(NAMESPACES))),
    (libc::SYS_unshare, check(0, Test::NoBit(NAMESPACES))),
    (libc::SYS_socket, check(0, Test::Neither(FAMILIES_DENIED))),
    (libc::SYS_ioctl, check(1, Test::Neither(TERMINAL_PUSH))),
    (libc::SYS_personality, check(0, Test::Any(PERSONALITIES))),
];

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

    /// What seccompiler, a peer, makes of the same lists; as ours was until it
    /// was found to be slow to load.
    fn by_a_peer(profile: Profile, own_pids: bool) -> Vec<sock_filter> {
        use seccompiler::{
            BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
            SeccompCondition, SeccompFilter, SeccompRule,
        };
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        let inspecting = profile == Profile::Default && own_pids;
        let inspecting = if inspecting { INSPECTING } else { &[] };
        for number in [ALLOWED, ALLOWED_HERE, ALLOWED_BY_NUMBER, inspecting].concat() {
            rules.insert(number, Vec::new());
        }
        let one = |index, length, op, value| SeccompCondition::new(index, length, op, value);
        for (number, Check { argument, test }) in CONDITIONAL {
            let index = argument as u8;
            let all = |op: Op, values: &[u32]| -> Vec<SeccompCondition> {
                let values = values.iter();
                let values =
                    values.map(|value| one(index, Len::Dword, op.clone(), (*value).into()));
                values.map(Result::unwrap).collect()
            };
            let sets = match test {
                Test::NoBit(bits) => {
                    let none = Op::MaskedEq(bits.into());
                    vec![vec![one(index, Len::Qword, none, 0).unwrap()]]
                }
                Test::Neither(values) => vec![all(Op::Ne, values)],
                Test::Any(values) => all(Op::Eq, values)
                    .into_iter()
                    .map(|one| vec![one])
                    .collect(),
            };
            let sets = sets.into_iter().map(|set| SeccompRule::new(set).unwrap());
            rules.insert(number, sets.collect());
        }
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let deny = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, deny, SeccompAction::Allow, arch).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        let step = |step: seccompiler::sock_filter| sock_filter {
            code: step.code,
            jt: step.jt,
            jf: step.jf,
            k: step.k,
        };
        program.into_iter().map(step).collect()
    }

    #[test]
    fn each_call_is_judged_as_by_a_peer() {
        let words = [NAMESPACES.into(), 0x11, 1 << 40, 1, 2, u64::from(u32::MAX)];
        let lists = [FAMILIES_DENIED, TERMINAL_PUSH, PERSONALITIES].concat();
        let bits = (0..64).map(|bit| 1_u64 << bit);
        let values: Vec<u64> = words
            .into_iter()
            .chain(lists.into_iter().map(u64::from))
            .chain(bits)
            .collect();
        for (profile, own_pids) in [
            (Profile::Default, true),
            (Profile::Default, false),
            (Profile::Strict, true),
        ] {
            let ours = Filter::new(profile, own_pids).0;
            let theirs = by_a_peer(profile, own_pids);
            // `ld arch; jeq ARCH`: the peer's first two steps.
            let arch = theirs[1].k;
            let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
            for number in 0..600 {
                let is_absent = number > NEWEST_KNOWN || i64::from(number) == libc::SYS_clone3;
                for value in &values {
                    for place in [0, 1] {
                        let mut arguments = [0; 6];
                        arguments[place] = *value;
                        let wanted = match is_absent {
                            true => absent,
                            false => bpf::judge(&theirs, arch, number, arguments),
                        };
                        let found = bpf::judge(&ours, arch, number, arguments);
                        assert_eq!(found, wanted, "{number} {arguments:x?}");
                    }
                }
            }
            let other = |program: &[sock_filter]| bpf::judge(program, 0x4000_0003, 0, [0; 6]);
            assert_eq!(other(&ours), other(&theirs), "32-bit programs");
        }
    }

    #[test]
    fn no_call_takes_many_steps() {
        /// The peer's program has some seven hundred.
        const INSTRUCTIONS_MAX: usize = 400;
        for profile in [Profile::Default, Profile::Strict] {
            assert!(Filter::new(profile, true).0.len() < INSTRUCTIONS_MAX);
        }
    }
}
