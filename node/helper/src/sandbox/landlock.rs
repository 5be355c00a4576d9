//! Landlock: a second wall behind the mounts, held by the process itself.
//!
//! In `strict` it allows reading everywhere in the task's root and writing
//! only in the named folders. In every sandbox it keeps a task off the
//! abstract sockets of the host, which belong to the network namespace that
//! it shares, and makes its processes a domain of their own: whoever is not
//! in it, such as a session that may not debug, is not traced by them and
//! can't trace them (landlock(7), "Ptrace restrictions").

use nix::{
    errno::Errno,
    libc::{self, c_long},
};
use std::{
    ffi::CString,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

const VERSION_QUESTION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;
/// First version with rules on who may be reached by abstract sockets.
const VERSION_SCOPES: c_long = 6;
const SCOPE_ABSTRACT_SOCKETS: u64 = 1;
/// First version in which linking across folders can be allowed: any rule on
/// files forbids it otherwise.
const VERSION_REFER: c_long = 2;

const EXECUTE: u64 = 1;
/// Execute, read files, read folders.
const READ: u64 = EXECUTE | 1 << 2 | 1 << 3;
/// Execute, write and read a file, cut it short.
const OF_A_FILE: u64 = EXECUTE | 1 << 1 | 1 << 2 | TRUNCATE;
/// All rights of the first version: read, write, make, remove.
const ALL_FIRST: u64 = (1 << 13) - 1;
/// Linking across folders, from version 2 on.
const REFER: u64 = 1 << 13;
/// Cutting files short, from version 3 on.
const TRUNCATE: u64 = 1 << 14;

/// What a process will be held to.
#[derive(Debug)]
pub(crate) struct Landlock {
    /// Where it may write; `None`: files are not restricted.
    pub(crate) writable: Option<Vec<CString>>,
    /// It shares the host's network, and so its abstract sockets.
    pub(crate) hosts_network: bool,
}

/// What was promised and this kernel can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unheld {
    /// Nothing: all is held.
    Nothing,
    /// The host's abstract sockets can be reached.
    AbstractSockets,
}

#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

impl Landlock {
    /// Restricts this process, for good. `ENOSYS` or `EOPNOTSUPP` where the
    /// kernel has no landlock; `ENOSYS` too where it can't hold what is asked.
    pub(crate) fn apply(&self) -> Result<Unheld, Errno> {
        let version = version()?;
        let mut ruleset = Ruleset {
            files: 0,
            network: 0,
            scopes: 0,
        };
        if self.writable.is_some() {
            ruleset.files = all_rights(version);
        }
        let mut size = 8;
        let scopes = version >= VERSION_SCOPES;
        if scopes {
            ruleset.scopes = SCOPE_ABSTRACT_SOCKETS;
            size = size_of::<Ruleset>();
        } else if ruleset.files == 0 && version >= VERSION_REFER {
            // Forbids nothing, and makes the domain.
            ruleset.files = EXECUTE | REFER;
        }
        if ruleset.files == 0 && ruleset.scopes == 0 {
            return Err(Errno::ENOSYS);
        }
        // SAFETY: a live structure and a size that is not larger.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const ruleset,
                size,
                0_u32,
            )
        };
        // SAFETY: the kernel has just made this descriptor for us alone.
        let rules = unsafe { OwnedFd::from_raw_fd(Errno::result(fd)? as RawFd) };
        match &self.writable {
            Some(writable) => {
                allow(&rules, c"/", READ)?;
                for path in writable {
                    allow(&rules, path, ruleset.files)?;
                }
            }
            None if ruleset.files != 0 => allow(&rules, c"/", ruleset.files)?,
            None => {}
        }
        // SAFETY: a descriptor and an integer.
        let done =
            unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
        Errno::result(done)?;
        Ok(match self.hosts_network && !scopes {
            true => Unheld::AbstractSockets,
            false => Unheld::Nothing,
        })
    }
}

fn version() -> Result<c_long, Errno> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the question takes no structure.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            VERSION_QUESTION,
        )
    })
}

fn all_rights(version: c_long) -> u64 {
    let mut all = ALL_FIRST;
    if version >= VERSION_REFER {
        all |= REFER;
    }
    if version >= 3 {
        all |= TRUNCATE;
    }
    all
}

fn allow(rules: &OwnedFd, path: &std::ffi::CStr, rights: u64) -> Result<(), Errno> {
    /// The kernel's structure has no padding.
    #[repr(C, packed)]
    struct Beneath {
        rights: u64,
        parent: RawFd,
    }
    // SAFETY: a path that ends with zero.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    // SAFETY: the kernel has just made this descriptor for us alone.
    let folder = unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) };
    let is_folder = nix::sys::stat::fstat(&folder)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let beneath = Beneath {
        // Rights over what is in a folder make no sense for a file.
        rights: match is_folder {
            true => rights,
            false => rights & OF_A_FILE,
        },
        parent: folder.as_raw_fd(),
    };
    // SAFETY: a live structure of the kind that is named.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const beneath,
            0_u32,
        )
    };
    Errno::result(done).map(drop)
}
