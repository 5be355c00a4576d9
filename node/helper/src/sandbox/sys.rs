//! The system calls of a sandbox that the C library has no functions for:
//! mounts by descriptor, paths resolved inside a root, landlock's, and those
//! on capabilities. Nothing here allocates: it is all called after the clone.

use nix::{
    errno::Errno,
    libc::{self, c_int, c_long, c_uint},
};
use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

const OPEN_TREE_CLONE: c_uint = 1;
const OPEN_TREE_CLOEXEC: c_uint = libc::O_CLOEXEC as c_uint;
const AT_RECURSIVE: c_uint = 0x8000;
const MOVE_FROM_DESCRIPTOR: c_uint = 0x4;
const MOVE_TO_DESCRIPTOR: c_uint = 0x40;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_IN_ROOT: u64 = 0x10;

pub(crate) const RDONLY: u64 = 1;
pub(crate) const NOSUID: u64 = 2;
pub(crate) const NODEV: u64 = 4;
pub(super) const NOEXEC: u64 = 8;

/// An option of a file system; without a value it is a flag.
pub(crate) type FsOption = (CString, Option<CString>);

fn result(value: c_long) -> Result<c_long, Errno> {
    Errno::result(value)
}

fn descriptor(value: c_long) -> Result<OwnedFd, Errno> {
    let fd = result(value)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a path as if `root` were `/`: neither `..` nor a link leads out of
/// it, and the links of `/proc` that are doors to elsewhere are refused.
pub(super) fn open_in_root(root: &OwnedFd, path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    open_by(
        root.as_raw_fd(),
        path,
        flags,
        RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    )
}

/// Opens a path of the host without passing through doors of `/proc`, and
/// through links only if asked to.
pub(crate) fn open_on_host(path: &CStr, links: bool) -> Result<OwnedFd, Errno> {
    let resolve = match links {
        true => RESOLVE_NO_MAGICLINKS,
        false => RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS,
    };
    open_by(libc::AT_FDCWD, path, libc::O_PATH, resolve)
}

/// Opens a file without passing through any link.
pub(crate) fn open_plain_file(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    let resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    open_by(libc::AT_FDCWD, path, flags, resolve)
}

fn open_by(dir: RawFd, path: &CStr, flags: c_int, resolve: u64) -> Result<OwnedFd, Errno> {
    /// The kernel's `struct open_how`.
    #[repr(C)]
    struct How {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let how = How {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve,
    };
    // SAFETY: both pointers are to live values, and the size is the value's.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir,
            path.as_ptr(),
            &raw const how,
            size_of::<How>(),
        )
    })
}

/// A copy of the mount under `from`, attached nowhere yet, with all mounts
/// below it.
pub(super) fn clone_tree(from: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | libc::AT_EMPTY_PATH as c_uint;
    // SAFETY: an empty path that ends with zero.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Attaches a mount onto what `to` is.
pub(crate) fn attach(mount: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let empty = c"".as_ptr();
    // SAFETY: two empty paths that end with zero.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            empty,
            to.as_raw_fd(),
            empty,
            MOVE_FROM_DESCRIPTOR | MOVE_TO_DESCRIPTOR,
        )
    };
    result(done).map(drop)
}

/// Adds attributes to a mount, and to all below it.
pub(crate) fn restrict_mount(mount: &OwnedFd, attrs: u64, deep: bool) -> Result<(), Errno> {
    /// The kernel's `struct mount_attr`.
    #[repr(C)]
    struct Attrs {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    if attrs == 0 {
        return Ok(());
    }
    let attrs = Attrs {
        set: attrs,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    let deep = if deep { AT_RECURSIVE } else { 0 };
    // SAFETY: both pointers are to live values, and the size is the value's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH as c_uint | deep,
            &raw const attrs,
            size_of::<Attrs>(),
        )
    };
    result(done).map(drop)
}

/// A new file system, attached nowhere yet.
pub(crate) fn new_fs(kind: &CStr, options: &[FsOption], attrs: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: a name that ends with zero.
    let fs = descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    for (name, value) in options {
        let (command, value) = match value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
            None => (FSCONFIG_SET_FLAG, std::ptr::null()),
        };
        // SAFETY: strings that end with zero, or none for a flag.
        let set = unsafe {
            let fs = fs.as_raw_fd();
            libc::syscall(libc::SYS_fsconfig, fs, command, name.as_ptr(), value, 0)
        };
        result(set)?;
    }
    mount_fs(&fs, attrs)
}

/// Makes the file system that was described.
fn mount_fs(fs: &OwnedFd, attrs: u64) -> Result<OwnedFd, Errno> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the command takes no strings.
    let made = unsafe {
        let fs = fs.as_raw_fd();
        libc::syscall(libc::SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, none, none, 0)
    };
    result(made)?;
    // SAFETY: three integers.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            fs.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attrs as c_uint,
        )
    })
}

/// An overlay of folders of the host, the lowest first, without one to write
/// to. They are named by their descriptors: a path could be longer than the
/// kernel takes here, and have a colon in it.
pub(super) fn new_overlay(layers: &[CString], attrs: u64) -> Result<OwnedFd, Errno> {
    let mut text = Text::default();
    // Held until the overlay has them; the topmost is named first.
    let mut opened: [Option<OwnedFd>; super::LAYERS_MAX] = Default::default();
    let layers = layers.iter().rev().take(super::LAYERS_MAX);
    for (place, layer) in opened.iter_mut().zip(layers) {
        let folder = open_on_host(layer, true)?;
        if text.length > 0 {
            text.add(b":")?;
        }
        text.add(b"/proc/self/fd/")?;
        text.number(folder.as_raw_fd().unsigned_abs())?;
        *place = Some(folder);
    }
    let name = c"lowerdir";
    // SAFETY: a name that ends with zero.
    let fs = descriptor(unsafe {
        libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), FSOPEN_CLOEXEC)
    })?;
    // SAFETY: strings that end with zero: the last byte is never written to.
    let set = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_SET_STRING,
            name.as_ptr(),
            text.bytes.as_ptr(),
            0,
        )
    };
    result(set)?;
    mount_fs(&fs, attrs)
}

/// A short text without an allocation.
struct Text {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Text {
    fn default() -> Text {
        Text {
            bytes: [0; 256],
            length: 0,
        }
    }
}

impl Text {
    fn add(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.length + bytes.len();
        if end >= self.bytes.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    fn number(&mut self, number: u32) -> Result<(), Errno> {
        let mut digits = [0_u8; 10];
        let mut first = digits.len();
        let mut left = number;
        loop {
            first -= 1;
            digits[first] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return self.add(&digits[first..]);
            }
        }
    }
}

pub(super) fn make_folder(parent: &OwnedFd, name: &CStr, mode: u32) -> Result<(), Errno> {
    // SAFETY: a name that ends with zero.
    let made = unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) };
    Errno::result(made).map(drop)
}

/// A new file, open for writing.
pub(crate) fn make_file(parent: &OwnedFd, name: &CStr, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a name that ends with zero.
    let fd = unsafe { libc::openat(parent.as_raw_fd(), name.as_ptr(), flags, mode) };
    descriptor(fd.into())
}

pub(crate) fn make_link(parent: &OwnedFd, name: &CStr, to: &CStr) -> Result<(), Errno> {
    // SAFETY: two strings that end with zero.
    let made = unsafe { libc::symlinkat(to.as_ptr(), parent.as_raw_fd(), name.as_ptr()) };
    Errno::result(made).map(drop)
}

/// The new root takes the place of the old one, which is let go.
pub(super) fn change_root(root: &OwnedFd) -> Result<(), Errno> {
    let here = c".".as_ptr();
    nix::unistd::fchdir(root)?;
    // SAFETY: two paths that end with zero. The old root ends up on top of
    // the new one, where the next call finds it.
    result(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // SAFETY: a path that ends with zero.
    Errno::result(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    nix::unistd::chdir(c"/")?;
    inside()
}

/// Is the working directory really under the root? The kernel's answer
/// begins with `(unreachable)` if not.
fn inside() -> Result<(), Errno> {
    let mut path = [0_u8; 16];
    // SAFETY: pointer and length are those of one live array.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    result(length)?;
    if path[..2] == *b"/\0" {
        return Ok(());
    }
    Err(Errno::EXDEV)
}

/// Brings up the loopback device of a new network namespace.
pub(super) fn raise_loopback() -> Result<(), Errno> {
    // SAFETY: three integers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = descriptor(fd.into())?;
    // SAFETY: all zero is a valid value of this structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the pointer is to a live value of the right structure.
    let set = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    Errno::result(set).map(drop)
}
