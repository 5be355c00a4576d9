//! What a task sees as `/`: a list of steps, made before the clone, and their
//! execution after it, which is system calls only.
//!
//! Every target is resolved inside the new root and every mount goes by
//! descriptor, so neither a link in a package or in the task's folder nor `..`
//! in a description can put a mount, a folder or a file anywhere else.

use super::sys::{self, FsOption, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::inner::Part;
use nix::{errno::Errno, libc};
use std::{
    ffi::{CStr, CString, NulError},
    os::fd::OwnedFd,
};

/// A place inside the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// From the root on, without a slash in front.
    whole: CString,
    /// For each part: its parent's path, its name, and its path.
    steps: Vec<(CString, CString, CString)>,
}

impl Target {
    /// `/a/b` or `a/b`; `.` and empty parts say nothing.
    pub(crate) fn new(path: &str) -> Result<Target, NulError> {
        let mut so_far = String::from(".");
        let mut steps = Vec::new();
        for name in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let parent = CString::new(so_far.as_str())?;
            so_far = format!("{so_far}/{name}");
            steps.push((parent, CString::new(name)?, CString::new(so_far.as_str())?));
        }
        Ok(Target {
            whole: CString::new(so_far)?,
            steps,
        })
    }

    fn open(&self, root: &OwnedFd) -> Result<OwnedFd, Errno> {
        sys::open_in_root(root, &self.whole, libc::O_PATH)
    }

    /// The folder that it is in, made if need be, and its name there.
    fn parent(&self, root: &OwnedFd, owner: Owner) -> Result<(OwnedFd, &CStr), Errno> {
        let (last, before) = self.steps.split_last().ok_or(Errno::EEXIST)?;
        for (parent, name, whole) in before {
            make_step(root, parent, name, whole, owner)?;
        }
        let parent = sys::open_in_root(root, &last.0, libc::O_PATH | libc::O_DIRECTORY)?;
        Ok((parent, &last.1))
    }

    /// Makes what is to be mounted over, unless it is there. Tried first: in a
    /// new root hardly anything is.
    fn make(
        &self,
        root: &OwnedFd,
        make: impl Fn(&OwnedFd, &CStr) -> Result<(), Errno>,
    ) -> Result<Place<'_>, Errno> {
        let Some((parent, name, _)) = self.steps.last() else {
            return self.open(root).map(Place::There);
        };
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let parent = match sys::open_in_root(root, parent, flags) {
            Err(Errno::ENOENT) => self.parent(root, None)?.0,
            opened => opened?,
        };
        match make(&parent, name) {
            Ok(()) => Ok(Place::Made(parent, name)),
            Err(Errno::EEXIST) => self.open(root).map(Place::There),
            Err(errno) => Err(errno),
        }
    }

    fn make_folder(&self, root: &OwnedFd, mode: u32) -> Result<Place<'_>, Errno> {
        self.make(root, |parent, name| sys::make_folder(parent, name, mode))
    }

    fn make_file(&self, root: &OwnedFd) -> Result<Place<'_>, Errno> {
        self.make(root, |parent, name| {
            sys::make_empty_file(parent, name, 0o644)
        })
    }
}

/// Where a mount goes.
enum Place<'a> {
    /// By this name in this folder: it was made just now, so it is no link, and
    /// should it have become one since, the mount fails.
    Made(OwnedFd, &'a CStr),
    There(OwnedFd),
}

impl Place<'_> {
    fn attach(&self, mount: &OwnedFd) -> Result<(), Errno> {
        match self {
            Place::Made(parent, name) => sys::attach_at(mount, parent, name),
            Place::There(there) => sys::attach(mount, there),
        }
    }
}

fn make_step(
    root: &OwnedFd,
    parent: &CStr,
    name: &CStr,
    whole: &CStr,
    owner: Owner,
) -> Result<(), Errno> {
    match sys::open_in_root(root, whole, libc::O_PATH | libc::O_DIRECTORY) {
        Err(Errno::ENOENT) => {}
        other => return other.map(drop),
    }
    let parent = sys::open_in_root(root, parent, libc::O_PATH | libc::O_DIRECTORY)?;
    sys::make_folder(&parent, name, 0o755)?;
    let Some((uid, gid)) = owner else {
        return Ok(());
    };
    // By its name, without following it: should the task of before have left
    // something that puts a link here meanwhile, the link changes hands.
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(&parent, name, Some(uid.into()), Some(gid.into()), flags)
}

/// User and group of what is made, if not the helper's.
type Owner = Option<(u32, u32)>;

/// One thing to do in the new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Folder {
        mode: u32,
    },
    Link {
        to: CString,
    },
    /// A folder or file of the host, with the mounts below it.
    Bind {
        from: CString,
        folder: bool,
        attrs: u64,
        /// May the path have links in it? Not if others than the host's owner
        /// could have put them there.
        links: bool,
    },
    /// Folders of the host over each other, the lowest first, not to be
    /// written to.
    Layers {
        layers: Vec<CString>,
        attrs: u64,
    },
    /// A file system of its own.
    New {
        kind: CString,
        options: Vec<FsOption>,
        attrs: u64,
    },
    /// A file with this in it; its owner's are the folders that are made for it.
    File {
        contents: Vec<u8>,
        mode: u32,
        owner: Owner,
    },
    /// What is there can't be written any more.
    ReadOnly,
    /// What is there can't be seen any more.
    Hide,
    /// The mount itself gets more attributes.
    Seal {
        attrs: u64,
    },
}

/// A step, and what follows if it can't be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Target,
    pub(crate) action: Action,
    /// Nothing is there: no matter.
    pub(crate) absent_is_fine: bool,
    /// The host refuses: reported as missing instead of a failed start.
    pub(crate) part: Option<Part>,
    /// For people.
    pub(crate) label: String,
}

/// All of a root.
#[derive(Debug, Default)]
pub(crate) struct RootPlan {
    /// A folder of the host that the new root covers while it is made.
    pub(crate) base: CString,
    /// Of the root's own file system, which is memory.
    pub(crate) options: Vec<FsOption>,
    pub(crate) steps: Vec<Step>,
}

/// A root that could not be made: at which step (0: before the first).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RootError {
    pub(crate) step: u32,
    pub(crate) errno: Errno,
}

impl RootPlan {
    /// Makes the root and moves this process and its mounts into it. Until
    /// that last move nothing has changed for the process.
    pub(crate) fn enter(&self, mut miss: impl FnMut(Part, Errno)) -> Result<(), RootError> {
        let at = |step: usize| {
            move |errno| RootError {
                step: step as u32,
                errno,
            }
        };
        let root = self.begin().map_err(at(0))?;
        for (index, step) in self.steps.iter().enumerate() {
            match (step.execute(&root), step.part) {
                (Ok(()), _) => {}
                (Err(Errno::ENOENT), _) if step.absent_is_fine => {}
                (Err(errno), Some(part)) if host_refuses(errno) => miss(part, errno),
                (Err(errno), _) => return Err(at(index + 1)(errno)),
            }
        }
        sys::change_root(&root).map_err(at(0))
    }

    fn begin(&self) -> Result<OwnedFd, Errno> {
        let root = sys::new_fs(c"tmpfs", &self.options, NOSUID | NODEV)?;
        let base = sys::open_on_host(&self.base, true)?;
        sys::attach(&root, &base)?;
        // The root of a file system is open to all by default.
        // SAFETY: a descriptor's own path, and a mode.
        let done = unsafe {
            use std::os::fd::AsRawFd;
            libc::fchmodat(root.as_raw_fd(), c".".as_ptr(), 0o755, 0)
        };
        Errno::result(done)?;
        Ok(root)
    }
}

/// What a container around us, or an old kernel, says to all mounts.
pub(crate) fn host_refuses(errno: Errno) -> bool {
    matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
}

impl Step {
    fn execute(&self, root: &OwnedFd) -> Result<(), Errno> {
        match &self.action {
            Action::Folder { mode } => self.at.make_folder(root, *mode).map(drop),
            Action::Link { to } => {
                let (parent, name) = self.at.parent(root, None)?;
                sys::make_link(&parent, name, to)
            }
            Action::Bind {
                from,
                folder,
                attrs,
                links,
            } => {
                let source = sys::open_on_host(from, *links)?;
                self.bind(root, &source, *folder, *attrs)
            }
            Action::Layers { layers, attrs } => {
                let mount = sys::new_overlay(layers, *attrs)?;
                self.at.make_folder(root, 0o755)?.attach(&mount)
            }
            Action::New {
                kind,
                options,
                attrs,
            } => {
                let mount = sys::new_fs(kind, options, *attrs)?;
                self.at.make_folder(root, 0o755)?.attach(&mount)
            }
            Action::File {
                contents,
                mode,
                owner,
            } => self.write_file(root, contents, *mode, *owner),
            Action::ReadOnly => {
                let there = self.at.open(root)?;
                let mount = sys::clone_tree(&there)?;
                sys::restrict_mount(&mount, RDONLY | NOSUID | NODEV | NOEXEC, true)?;
                sys::attach(&mount, &there)
            }
            Action::Hide => self.hide(root),
            Action::Seal { attrs } => {
                let there = self.at.open(root)?;
                sys::restrict_mount(&there, *attrs, false)
            }
        }
    }

    fn bind(
        &self,
        root: &OwnedFd,
        source: &OwnedFd,
        folder: bool,
        attrs: u64,
    ) -> Result<(), Errno> {
        let mount = sys::clone_tree(source)?;
        sys::restrict_mount(&mount, attrs, true)?;
        let target = match folder {
            true => self.at.make_folder(root, 0o755)?,
            false => self.at.make_file(root)?,
        };
        target.attach(&mount)
    }

    /// A folder by an empty one of its own: before Linux 6.15 a mount that is
    /// nowhere yet can't be cloned.
    fn hide(&self, root: &OwnedFd) -> Result<(), Errno> {
        let there = self.at.open(root)?;
        let folder = kind_of(&there)? == libc::S_IFDIR;
        let cover = match folder {
            true => sys::new_fs(c"tmpfs", &[], RDONLY | NOSUID | NODEV | NOEXEC)?,
            false => sys::clone_tree(&sys::open_in_root(root, c"dev/null", libc::O_PATH)?)?,
        };
        sys::attach(&cover, &there)
    }

    /// Written anew each time: the task's folder outlives a start.
    fn write_file(
        &self,
        root: &OwnedFd,
        contents: &[u8],
        mode: u32,
        owner: Owner,
    ) -> Result<(), Errno> {
        let (parent, name) = self.at.parent(root, owner)?;
        match nix::unistd::unlinkat(&parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
        let file = sys::make_file(&parent, name, 0o600)?;
        let mut left = contents;
        while !left.is_empty() {
            let written = nix::unistd::write(&file, left)?;
            left = &left[written..];
        }
        if let Some((uid, gid)) = owner {
            nix::unistd::fchown(&file, Some(uid.into()), Some(gid.into()))?;
        }
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(mode))
    }
}

fn kind_of(file: &OwnedFd) -> Result<u32, Errno> {
    Ok(nix::sys::stat::fstat(file)?.st_mode & libc::S_IFMT)
}

/// A flag or `name=value` for a new file system.
pub(crate) fn option(text: &str) -> Result<FsOption, NulError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(CString::new(value)?)),
        None => (text, None),
    };
    Ok((CString::new(name)?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_apart() {
        let target = Target::new("/a//./b").unwrap();
        let text = |text: &CStr| text.to_str().unwrap().to_owned();
        let steps: Vec<_> = target
            .steps
            .iter()
            .map(|(parent, name, whole)| (text(parent), text(name), text(whole)))
            .collect();
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(steps, [own(".", "a", "./a"), own("./a", "b", "./a/b")]);
        assert_eq!(text(&target.whole), "./a/b");
        assert_eq!(Target::new("/").unwrap().steps, []);
    }
}
