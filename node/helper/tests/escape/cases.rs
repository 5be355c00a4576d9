//! The ways out that are tried, one function each: `Ok` means that it worked.
//!
//! Each is tried twice: in a sandbox, where it must fail, and without one,
//! where it must work if [`Bites`] says so. A case that fails outside as well
//! would prove nothing.

use nix::{
    errno::Errno,
    libc::{self, c_int, c_long},
};
use std::{
    ffi::{CStr, CString},
    fs::{self, File, OpenOptions},
    io::Read,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
            net::{SocketAddr, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::Command,
};

/// What an attempt says: why it did not work.
pub(crate) type Attempt = Result<(), String>;

/// Without a sandbox it works ...
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bites {
    /// for anybody.
    Always,
    /// for root.
    AsRoot,
    /// where the host has what it needs.
    Perhaps,
    /// and so would harm this machine: not tried.
    NotTried,
}

/// One way out.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bites: Bites,
    pub(crate) attempt: fn() -> Attempt,
}

macro_rules! cases {
    ($($name:ident: $bites:ident,)*) => {
        pub(crate) const CASES: &[Case] = &[
            $(Case { name: stringify!($name), bites: Bites::$bites, attempt: $name },)*
        ];
    };
}

cases! {
    // Files
    read_a_file_of_the_host: Always,
    read_a_file_of_another_task: Always,
    climb_out_of_the_package: Always,
    follow_a_link_in_the_package: Always,
    follow_a_link_in_the_task_folder: Always,
    write_into_the_package: Always,
    change_modes_in_the_package: Always,
    run_programs_of_the_host_with_their_set_uid: Always,
    write_into_usr: AsRoot,
    write_to_etc: AsRoot,
    read_shadow: AsRoot,
    become_root_by_a_set_uid_file: AsRoot,
    break_out_of_a_chroot: AsRoot,
    open_a_file_by_handle: AsRoot,
    // Descriptors and /proc
    find_a_descriptor_of_the_helper: Always,
    go_where_a_descriptor_points: Always,
    open_the_program_of_process_1: Always,
    pass_through_the_root_of_process_1: Always,
    pass_through_the_folder_of_process_1: Always,
    read_the_memory_of_process_1: Always,
    read_the_environment_of_process_1: Always,
    write_to_its_own_program: NotTried,
    read_the_kernels_memory: Perhaps,
    write_a_kernel_setting: AsRoot,
    write_the_core_pattern_by_remounting: NotTried,
    trigger_a_system_request: Perhaps,
    read_kernel_symbols: Always,
    // /sys and control groups
    write_a_setting_in_sys: AsRoot,
    make_a_control_group: AsRoot,
    leave_its_control_group: AsRoot,
    // Devices
    change_modes_of_a_device: AsRoot,
    set_times_of_a_device: AsRoot,
    open_the_kernels_log: AsRoot,
    make_a_disk_device: Perhaps,
    make_a_character_device: AsRoot,
    read_the_disk: AsRoot,
    // Processes
    see_a_process_of_the_host: Always,
    signal_a_process_of_the_host: Always,
    trace_a_process_of_the_host: Always,
    trace_process_1: Always,
    read_memory_of_a_process_of_the_host: Always,
    hold_a_process_of_the_host: Always,
    read_limits_of_a_process_of_the_host: Always,
    // Namespaces and mounts
    make_a_user_namespace: Always,
    clone_into_a_user_namespace: Always,
    clone_by_the_call_no_filter_can_see: Always,
    make_a_mount_namespace: AsRoot,
    join_a_namespace_of_process_1: AsRoot,
    mount_a_file_system: AsRoot,
    open_a_new_file_system: AsRoot,
    clone_a_mount: AsRoot,
    uncover_what_is_hidden: NotTried,
    // The kernel's large doors
    ask_for_a_keyring: Always,
    add_a_key: Always,
    load_a_kernel_map: AsRoot,
    open_a_performance_counter: AsRoot,
    handle_page_faults: Always,
    set_up_an_io_ring: Always,
    read_the_kernels_messages: AsRoot,
    name_the_host: AsRoot,
    turn_the_clock: AsRoot,
    switch_accounting: AsRoot,
    make_data_executable: Always,
    raise_its_priority: AsRoot,
    hold_a_capability_of_the_host: Always,
    gain_privileges_later: Always,
    // Talking to the outside
    reach_an_abstract_socket_of_the_host: Always,
    reach_the_agents_socket: Always,
    open_shared_memory_of_the_host: Always,
    open_a_shared_file_of_the_host: Always,
    open_a_queue_of_the_host: Always,
    send_raw_packets: AsRoot,
    listen_to_all_packets: AsRoot,
    change_the_network: AsRoot,
    talk_to_the_hypervisor: Perhaps,
    use_the_kernels_ciphers: Perhaps,
}

/// Told by the test, in the environment.
fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} was not told"))
}

fn host_pid() -> c_int {
    told("HOST_PID").parse().unwrap()
}

fn folder() -> String {
    told("POTLUCK_TASK_DIR")
}

/// In a sandbox its init; outside a process of the same user, since the
/// host's process 1 may be out of reach for other reasons.
fn process_1(what: &str) -> String {
    format!("/proc/{}/{what}", told("PROCESS_1"))
}

fn package() -> String {
    told("POTLUCK_PACKAGE")
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn why(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn call(result: c_long) -> Result<c_long, String> {
    Errno::result(result).map_err(why)
}

/// A system call by its number.
macro_rules! sys {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: the pointers of each case are to live values.
        call(unsafe { libc::syscall($number $(, $argument)*) })
    };
}

/// Above any root.
const UP: &str = "/../../../../../../../../../../../../../../../..";

fn read_text(path: &str) -> Attempt {
    let mut text = [0; 4];
    let mut file = File::open(path).map_err(why)?;
    file.read_exact(&mut text).map_err(why)
}

fn writable(path: &str) -> Result<File, String> {
    OpenOptions::new().write(true).open(path).map_err(why)
}

fn created(path: &str) -> Attempt {
    File::create(path).map_err(why)?;
    fs::remove_file(path).map_err(why)
}

/// Of `/proc` and not a cover over it.
fn really_of_proc(file: &File) -> Attempt {
    const PROC: i64 = 0x9fa0;
    let found = nix::sys::statfs::fstatfs(file).map_err(why)?;
    match found.filesystem_type().0 == PROC {
        true => Ok(()),
        false => Err("covered".into()),
    }
}

fn read_a_file_of_the_host() -> Attempt {
    read_text(&told("CANARY"))
}

fn read_a_file_of_another_task() -> Attempt {
    read_text(&told("OTHER_TASK"))
}

fn climb_out_of_the_package() -> Attempt {
    read_text(&format!(
        "{}{}{}",
        package(),
        "/..".repeat(40),
        told("CANARY")
    ))
}

fn follow_a_link_in_the_package() -> Attempt {
    read_text(&format!("{}/out", package()))
}

fn follow_a_link_in_the_task_folder() -> Attempt {
    let link = format!("{}/out", folder());
    let _ = fs::remove_file(&link);
    symlink(told("CANARY"), &link).map_err(why)?;
    read_text(&link)
}

fn write_into_the_package() -> Attempt {
    created(&format!("{}/new", package()))
}

fn change_modes_in_the_package() -> Attempt {
    let program = format!("{}/bin/run", package());
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).map_err(why)
}

fn run_programs_of_the_host_with_their_set_uid() -> Attempt {
    let found = nix::sys::statvfs::statvfs("/usr").map_err(why)?;
    match found
        .flags()
        .contains(nix::sys::statvfs::FsFlags::ST_NOSUID)
    {
        true => Err("nosuid".into()),
        false => Ok(()),
    }
}

fn write_into_usr() -> Attempt {
    created(&format!("/usr/potluck-escape-{}", std::process::id()))
}

fn write_to_etc() -> Attempt {
    writable("/etc/hosts").map(drop)
}

fn read_shadow() -> Attempt {
    read_text("/etc/shadow")
}

fn become_root_by_a_set_uid_file() -> Attempt {
    let program = format!("{}/suid", folder());
    fs::copy("/proc/self/exe", &program).map_err(why)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).map_err(why)?;
    let status = Command::new(&program)
        .args(super::ARGUMENTS)
        .env(super::ATTEMPT, super::AM_I_ROOT)
        .gid(65_534)
        .uid(65_534)
        .status();
    let _ = fs::remove_file(&program);
    match status.map_err(why)?.code() {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn break_out_of_a_chroot() -> Attempt {
    let jail = c(&format!("{}/jail", folder()));
    let _ = fs::create_dir(jail.to_str().unwrap());
    sys!(libc::SYS_chroot, jail.as_ptr())?;
    for _ in 0..64 {
        std::env::set_current_dir("..").map_err(why)?;
    }
    sys!(libc::SYS_chroot, c".".as_ptr())?;
    read_text(&told("CANARY"))
}

fn open_a_file_by_handle() -> Attempt {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let mut mount = 0;
    let path = c(&folder());
    sys!(
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        path.as_ptr(),
        &raw mut handle,
        &raw mut mount,
        0
    )?;
    let anchor = File::open(folder()).map_err(why)?;
    let fd = anchor.as_raw_fd();
    sys!(
        libc::SYS_open_by_handle_at,
        fd,
        &raw mut handle,
        libc::O_RDONLY
    )
    .map(drop)
}

fn open_numbers() -> Vec<c_int> {
    // SAFETY: asks about numbers only.
    let is_open = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
    // What the test gave away is above all that a program opens by itself.
    (super::LEAKED_FILE..1_024).filter(is_open).collect()
}

fn find_a_descriptor_of_the_helper() -> Attempt {
    match &open_numbers()[..] {
        [] => Err("none".into()),
        _ => Ok(()),
    }
}

fn go_where_a_descriptor_points() -> Attempt {
    let canary = told("CANARY");
    let try_one = |fd: c_int| read_text(&format!("/proc/self/fd/{fd}/../../../../../..{canary}"));
    open_numbers()
        .into_iter()
        .map(try_one)
        .find(Result::is_ok)
        .unwrap_or_else(|| Err("none leads out".into()))
}

fn open_the_program_of_process_1() -> Attempt {
    File::open(process_1("exe")).map(drop).map_err(why)
}

fn pass_through_the_root_of_process_1() -> Attempt {
    read_text(&format!("{}{}", process_1("root"), told("CANARY")))
}

fn pass_through_the_folder_of_process_1() -> Attempt {
    read_text(&format!("{}{UP}{}", process_1("cwd"), told("CANARY")))
}

fn read_the_memory_of_process_1() -> Attempt {
    File::open(process_1("mem")).map(drop).map_err(why)
}

fn read_the_environment_of_process_1() -> Attempt {
    File::open(process_1("environ")).map(drop).map_err(why)
}

fn write_to_its_own_program() -> Attempt {
    let program = fs::read_link("/proc/self/exe").map_err(why)?;
    // A running program refuses anyway; a file beside it shows the mount.
    fs::rename(&program, program.with_extension("old")).map_err(why)
}

fn read_the_kernels_memory() -> Attempt {
    let file = File::open("/proc/kcore").map_err(why)?;
    really_of_proc(&file)
}

fn write_a_kernel_setting() -> Attempt {
    writable("/proc/sys/kernel/core_pattern").map(drop)
}

fn write_the_core_pattern_by_remounting() -> Attempt {
    let none = std::ptr::null::<u8>();
    let flags = libc::MS_REMOUNT | libc::MS_BIND;
    sys!(
        libc::SYS_mount,
        none,
        c"/proc/sys".as_ptr(),
        none,
        flags,
        none
    )?;
    write_a_kernel_setting()
}

fn trigger_a_system_request() -> Attempt {
    // Opened only.
    really_of_proc(&writable("/proc/sysrq-trigger")?)
}

fn read_kernel_symbols() -> Attempt {
    really_of_proc(&File::open("/proc/kallsyms").map_err(why)?)
}

fn write_a_setting_in_sys() -> Attempt {
    writable("/sys/kernel/mm/transparent_hugepage/enabled")
        .or_else(|_| writable("/sys/devices/system/cpu/cpu1/online"))
        .map(drop)
}

fn cgroup_root() -> Result<&'static str, String> {
    let all = [
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup",
    ];
    let is_one = |path: &&str| Path::new(path).join("cgroup.procs").exists();
    all.into_iter()
        .find(is_one)
        .ok_or_else(|| "none is seen".into())
}

fn make_a_control_group() -> Attempt {
    let group = format!("{}/potluck-escape-{}", cgroup_root()?, std::process::id());
    fs::create_dir(&group).map_err(why)?;
    fs::remove_dir(&group).map_err(why)
}

fn leave_its_control_group() -> Attempt {
    writable(&format!("{}/cgroup.procs", cgroup_root()?)).map(drop)
}

fn open_the_kernels_log() -> Attempt {
    File::open("/dev/kmsg").map(drop).map_err(why)
}

/// To what they are: outside nothing changes.
fn change_modes_of_a_device() -> Attempt {
    let found = fs::metadata("/dev/full").map_err(why)?;
    fs::set_permissions("/dev/full", found.permissions()).map_err(why)
}

fn set_times_of_a_device() -> Attempt {
    let found = fs::metadata("/dev/full").map_err(why)?;
    let as_they_are = [
        libc::timespec {
            tv_sec: found.atime(),
            tv_nsec: found.atime_nsec(),
        },
        libc::timespec {
            tv_sec: found.mtime(),
            tv_nsec: found.mtime_nsec(),
        },
    ];
    let path = c("/dev/full");
    sys!(
        libc::SYS_utimensat,
        libc::AT_FDCWD,
        path.as_ptr(),
        as_they_are.as_ptr(),
        0
    )
    .map(drop)
}

fn device(name: &str, kind: libc::mode_t, number: libc::dev_t) -> Attempt {
    let path = format!("{}/{name}", folder());
    let _ = fs::remove_file(&path);
    sys!(
        libc::SYS_mknodat,
        libc::AT_FDCWD,
        c(&path).as_ptr(),
        kind | 0o600,
        number
    )?;
    let opened = File::open(&path).map(drop).map_err(why);
    let _ = fs::remove_file(&path);
    opened
}

fn make_a_disk_device() -> Attempt {
    device("disk", libc::S_IFBLK, told("DISK").parse().unwrap())
}

fn make_a_character_device() -> Attempt {
    device("null", libc::S_IFCHR, libc::makedev(1, 3))
}

fn read_the_disk() -> Attempt {
    for entry in fs::read_dir("/dev").map_err(why)?.flatten() {
        let disk = entry.file_type().is_ok_and(|kind| kind.is_block_device());
        if disk && File::open(entry.path()).is_ok() {
            return Ok(());
        }
    }
    Err("no disk".into())
}

fn see_a_process_of_the_host() -> Attempt {
    let line = fs::read(format!("/proc/{}/cmdline", host_pid())).map_err(why)?;
    match line.starts_with(b"sleep") {
        true => Ok(()),
        false => Err("another process".into()),
    }
}

fn signal_a_process_of_the_host() -> Attempt {
    sys!(libc::SYS_kill, host_pid(), 0).map(drop)
}

fn trace(pid: c_int) -> Attempt {
    sys!(libc::SYS_ptrace, libc::PTRACE_SEIZE, pid, 0, 0).map(drop)
}

fn trace_a_process_of_the_host() -> Attempt {
    trace(host_pid())
}

fn trace_process_1() -> Attempt {
    trace(told("PROCESS_1").parse().unwrap())
}

fn read_memory_of_a_process_of_the_host() -> Attempt {
    let mut byte = 0_u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(8),
        iov_len: 1,
    };
    let (local, remote) = (&raw const local, &raw const remote);
    match sys!(
        libc::SYS_process_vm_readv,
        host_pid(),
        local,
        1,
        remote,
        1,
        0
    ) {
        // Only the address was wrong.
        Err(text) if text == Errno::EFAULT.to_string() => Ok(()),
        other => other.map(drop),
    }
}

fn hold_a_process_of_the_host() -> Attempt {
    sys!(libc::SYS_pidfd_open, host_pid(), 0).map(drop)
}

fn read_limits_of_a_process_of_the_host() -> Attempt {
    let mut limits = [0_u64; 2];
    let none = std::ptr::null::<u8>();
    let (pid, to) = (host_pid(), limits.as_mut_ptr());
    sys!(libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE, none, to).map(drop)
}

/// In a process of its own, since threads stand in the way.
fn in_child(attempt: impl FnOnce() -> bool) -> Attempt {
    // SAFETY: the child makes system calls only and leaves.
    match unsafe { libc::fork() } {
        -1 => Err(why(Errno::last())),
        0 => {
            let code = if attempt() { 0 } else { 1 };
            // SAFETY: ends this process.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: the pointer is to a live integer.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            match status {
                0 => Ok(()),
                _ => Err("refused".into()),
            }
        }
    }
}

fn make_a_user_namespace() -> Attempt {
    // SAFETY: an integer.
    in_child(|| unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0)
}

fn make_a_mount_namespace() -> Attempt {
    // SAFETY: an integer.
    in_child(|| unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0)
}

fn clone_into_a_user_namespace() -> Attempt {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    let pid = sys!(libc::SYS_clone, flags, 0, 0, 0, 0)?;
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

fn clone_by_the_call_no_filter_can_see() -> Attempt {
    let mut arguments = [0_u64; 8];
    arguments[4] = libc::SIGCHLD as u64;
    let pid = sys!(
        libc::SYS_clone3,
        arguments.as_mut_ptr(),
        size_of_val(&arguments)
    )?;
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

fn join_a_namespace_of_process_1() -> Attempt {
    let namespace = File::open(process_1("ns/net")).map_err(why)?;
    sys!(libc::SYS_setns, namespace.as_raw_fd(), libc::CLONE_NEWNET).map(drop)
}

fn mount_a_file_system() -> Attempt {
    let at = format!("{}/mounted", folder());
    let _ = fs::create_dir(&at);
    let (kind, at) = (c"tmpfs".as_ptr(), c(&at));
    let none = std::ptr::null::<u8>();
    sys!(libc::SYS_mount, kind, at.as_ptr(), kind, 0, none)?;
    sys!(libc::SYS_umount2, at.as_ptr(), libc::MNT_DETACH).map(drop)
}

fn open_a_new_file_system() -> Attempt {
    sys!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0).map(drop)
}

fn clone_a_mount() -> Attempt {
    sys!(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), 1).map(drop)
}

fn uncover_what_is_hidden() -> Attempt {
    sys!(libc::SYS_umount2, c"/proc/kcore".as_ptr(), libc::MNT_DETACH).map(drop)
}

fn ask_for_a_keyring() -> Attempt {
    const GET_KEYRING_ID: c_int = 0;
    const USERS_KEYRING: c_int = -4;
    sys!(libc::SYS_keyctl, GET_KEYRING_ID, USERS_KEYRING, 1).map(drop)
}

fn add_a_key() -> Attempt {
    const PROCESS_KEYRING: c_int = -2;
    let (kind, name) = (c"user".as_ptr(), c"potluck-escape".as_ptr());
    sys!(
        libc::SYS_add_key,
        kind,
        name,
        b"x".as_ptr(),
        1,
        PROCESS_KEYRING
    )
    .map(drop)
}

fn load_a_kernel_map() -> Attempt {
    // An array of one pair of 4 bytes.
    let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0];
    let size = size_of_val(&attributes);
    sys!(libc::SYS_bpf, 0, attributes.as_ptr(), size).map(drop)
}

fn open_a_performance_counter() -> Attempt {
    // A software counter: the clock of a processor.
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | 128 << 32;
    let at = attributes.as_ptr();
    sys!(libc::SYS_perf_event_open, at, -1, 0, -1, 0).map(drop)
}

fn handle_page_faults() -> Attempt {
    const USER_MODE_ONLY: c_int = 1;
    sys!(libc::SYS_userfaultfd, USER_MODE_ONLY).map(drop)
}

fn set_up_an_io_ring() -> Attempt {
    let mut parameters = [0_u32; 30];
    sys!(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()).map(drop)
}

fn read_the_kernels_messages() -> Attempt {
    let mut text = [0_u8; 64];
    sys!(libc::SYS_syslog, 3, text.as_mut_ptr(), text.len()).map(drop)
}

fn name_the_host() -> Attempt {
    // To what it is called anyway.
    let name = nix::unistd::gethostname().map_err(why)?;
    let name = c(name.to_str().unwrap());
    sys!(libc::SYS_sethostname, name.as_ptr(), name.as_bytes().len()).map(drop)
}

fn turn_the_clock() -> Attempt {
    // SAFETY: a structure of integers; the kernel fills it.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    sys!(libc::SYS_adjtimex, &raw mut clock)?;
    // To the speed that it has.
    clock.modes = libc::ADJ_FREQUENCY;
    sys!(libc::SYS_adjtimex, &raw mut clock).map(drop)
}

fn switch_accounting() -> Attempt {
    sys!(libc::SYS_acct, std::ptr::null::<u8>()).map(drop)
}

fn make_data_executable() -> Attempt {
    const READ_IMPLIES_EXECUTE: c_int = 0x040_0000;
    sys!(libc::SYS_personality, READ_IMPLIES_EXECUTE).map(drop)
}

fn raise_its_priority() -> Attempt {
    // The system call answers with 20 less the niceness.
    let niceness = 20 - sys!(libc::SYS_getpriority, libc::PRIO_PROCESS, 0)?;
    sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, niceness - 1).map(drop)
}

fn hold_a_capability_of_the_host() -> Attempt {
    const SYS_ADMIN: c_int = 21;
    // SAFETY: integers.
    match unsafe { libc::prctl(libc::PR_CAPBSET_READ, SYS_ADMIN, 0, 0, 0) } {
        1 => Ok(()),
        other => Err(format!("{other}")),
    }
}

fn gain_privileges_later() -> Attempt {
    // SAFETY: integers.
    match unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } {
        0 => Ok(()),
        other => Err(format!("{other}")),
    }
}

fn reach_an_abstract_socket_of_the_host() -> Attempt {
    let address = SocketAddr::from_abstract_name(told("ABSTRACT")).map_err(why)?;
    UnixStream::connect_addr(&address).map(drop).map_err(why)
}

fn reach_the_agents_socket() -> Attempt {
    UnixStream::connect(told("SOCKET")).map(drop).map_err(why)
}

fn open_shared_memory_of_the_host() -> Attempt {
    let key: c_int = told("SHARED_KEY").parse().unwrap();
    sys!(libc::SYS_shmget, key, 0, 0).map(drop)
}

fn open_a_shared_file_of_the_host() -> Attempt {
    read_text(&format!("/dev/shm/{}", told("SHARED_NAME")))
}

fn open_a_queue_of_the_host() -> Attempt {
    let name = c(&told("SHARED_NAME"));
    let none = std::ptr::null::<u8>();
    sys!(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, none).map(drop)
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> Attempt {
    sys!(libc::SYS_socket, family, kind, protocol).map(drop)
}

fn send_raw_packets() -> Attempt {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
}

fn listen_to_all_packets() -> Attempt {
    const ALL: u16 = 3;
    socket(libc::AF_PACKET, libc::SOCK_RAW, ALL.to_be().into())
}

fn change_the_network() -> Attempt {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(why)?;
    // SAFETY: a structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    sys!(libc::SYS_ioctl, fd, libc::SIOCGIFFLAGS, &raw mut request)?;
    // To what it is.
    sys!(libc::SYS_ioctl, fd, libc::SIOCSIFFLAGS, &raw mut request).map(drop)
}

fn talk_to_the_hypervisor() -> Attempt {
    socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)
}

fn use_the_kernels_ciphers() -> Attempt {
    socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
}

/// Run as a set-uid program.
pub(crate) fn am_i_root() -> Attempt {
    match nix::unistd::geteuid().is_root() {
        true => Ok(()),
        false => Err("no".into()),
    }
}

/// For the test's own set-up: which disk the host's files are on.
pub(crate) fn disk_of(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
}

/// A queue that is removed again.
pub(crate) fn make_queue(name: &CStr) {
    let mode = 0o666;
    let none = std::ptr::null::<u8>();
    sys!(
        libc::SYS_mq_open,
        name.as_ptr(),
        libc::O_CREAT | libc::O_RDWR,
        mode,
        none
    )
    .unwrap();
}
