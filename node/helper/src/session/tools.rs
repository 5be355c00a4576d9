//! Tools for tasks whose files have no shell: one static program with many
//! names, copied into memory that only the session sees.

use super::plan::string;
use crate::{
    inner::Step,
    sandbox::{root::option, sys},
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{
    ffi::CString,
    os::fd::{AsRawFd, OwnedFd},
};

/// Names of tools at most: busybox has some 400.
const TOOLS_MAX: usize = 1_000;

/// Largest program: Debian's static busybox has 2 MB.
const PROGRAM_BYTES_MAX: usize = 16 << 20;

/// [`super::TOOLS_AT`].
const PLACE: &std::ffi::CStr = c"/.tools";

/// Name of the program itself.
const PROGRAM: &std::ffi::CStr = c"busybox";

/// The program and its names.
pub(super) struct Tools {
    program: OwnedFd,
    names: Vec<CString>,
    options: Vec<sys::FsOption>,
}

impl Tools {
    pub(super) fn new(program: OwnedFd, names: &[String]) -> Result<Tools, String> {
        let plain = |name: &&String| !name.is_empty() && !name.contains('/') && *name != "..";
        let names = names.iter().filter(plain).take(TOOLS_MAX);
        let size = option(&format!("size={PROGRAM_BYTES_MAX}"));
        let mode = option("mode=0755");
        let options = [size, mode].into_iter().collect::<Result<_, _>>();
        Ok(Tools {
            program,
            names: names.map(string).collect::<Result<_, _>>()?,
            options: options.map_err(|error| error.to_string())?,
        })
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.program.as_raw_fd()
    }

    /// Puts them at [`super::TOOLS_AT`], in a mount namespace that only this process
    /// and its children have. System calls only.
    pub(super) fn bring(&self) -> Result<(), (Step, Errno)> {
        let at = |errno| (Step::Tools, errno);
        unshare(CloneFlags::CLONE_NEWNS).map_err(at)?;
        let none = None::<&str>;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, flags, none).map_err(at)?;
        let attrs = sys::NOSUID | sys::NODEV;
        let folder = sys::new_fs(c"tmpfs", &self.options, attrs).map_err(at)?;
        self.fill(&folder).map_err(at)?;
        sys::restrict_mount(&folder, sys::RDONLY, false).map_err(at)?;
        let place = sys::open_on_host(PLACE, false).map_err(at)?;
        sys::attach(&folder, &place).map_err(at)
    }

    fn fill(&self, folder: &OwnedFd) -> Result<(), Errno> {
        let copy = sys::make_file(folder, PROGRAM, 0o755)?;
        let mut buffer = [0_u8; 64 << 10];
        let mut offset = 0;
        loop {
            let length = nix::sys::uio::pread(&self.program, &mut buffer, offset)?;
            if length == 0 {
                break;
            }
            offset += length as i64;
            let mut left = &buffer[..length];
            while !left.is_empty() {
                left = &left[nix::unistd::write(&copy, left)?..];
            }
        }
        nix::sys::stat::fchmod(&copy, nix::sys::stat::Mode::from_bits_truncate(0o755))?;
        for name in &self.names {
            match sys::make_link(folder, name, PROGRAM) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
