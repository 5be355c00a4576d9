//! Capabilities: what a task that runs as root may still do.

use nix::{
    errno::Errno,
    libc::{self, c_int},
};

/// Highest number that is tried; the kernel has 41 and says where they end.
const LAST_MAX: u32 = 63;

/// Those of an ordinary daemon that starts as root, serves a low port and
/// changes to another user. Left out of what Docker gives: raw sockets and
/// device files (the network and the devices are the host's), file
/// capabilities and changes of capability sets (no use under
/// `no_new_privs`).
const USUAL: [u32; 10] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    29, // AUDIT_WRITE
];

/// A set of capabilities, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    pub(crate) const NONE: Capabilities = Capabilities(0);

    pub(crate) fn usual() -> Capabilities {
        Capabilities(USUAL.iter().fold(0, |set, one| set | 1 << one))
    }

    fn has(self, one: u32) -> bool {
        self.0 & (1 << one) != 0
    }

    /// Takes the others away from all that this process will ever execute.
    /// Needs a right that [`Self::keep`] may take.
    pub(crate) fn bound(self) -> Result<(), Errno> {
        for one in (0..=LAST_MAX).filter(|one| !self.has(*one)) {
            match prctl(libc::PR_CAPBSET_DROP, one.into()) {
                Ok(()) => {}
                // Past the last one that this kernel knows.
                Err(Errno::EINVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Leaves this process no more than these of what it has.
    pub(crate) fn keep(self) -> Result<(), Errno> {
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
        match prctl(libc::PR_CAP_AMBIENT, clear) {
            // Older than ambient capabilities: there are none to clear.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
        let mut sets = get()?;
        for (half, set) in sets.iter_mut().enumerate() {
            let wanted = (self.0 >> (32 * half)) as u32;
            set.permitted &= wanted;
            set.effective = set.permitted;
            set.inheritable = 0;
        }
        set(&sets)
    }
}

fn prctl(option: c_int, argument: u64) -> Result<(), Errno> {
    // SAFETY: integers only.
    let done = unsafe { libc::prctl(option, argument, 0_u64, 0_u64, 0_u64) };
    Errno::result(done).map(drop)
}

/// The kernel's third version of its structures: two halves of 32 bits.
#[repr(C)]
struct Header {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION: u32 = 0x2008_0522;

fn get() -> Result<[Half; 2], Errno> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Half::default(); 2];
    // SAFETY: both pointers are to live structures of this version.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(sets)
}

fn set(sets: &[Half; 2]) -> Result<(), Errno> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: both pointers are to live structures of this version.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ones_are_few_and_none_is_of_the_host() {
        let usual = Capabilities::usual();
        assert_eq!(usual.0.count_ones() as usize, USUAL.len());
        // NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN,
        // SYS_BOOT, SYS_TIME, MKNOD, BPF, DAC_READ_SEARCH.
        for forbidden in [12, 13, 16, 17, 19, 21, 22, 25, 27, 39, 2] {
            assert!(!usual.has(forbidden), "{forbidden}");
        }
        assert_eq!(Capabilities::NONE.0, 0);
    }
}
