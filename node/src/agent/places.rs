//! Where a task's further files come from on this host, and as whom it runs.
//!
//! Answers for volumes, for which folders of the host a task may be given, and
//! for the names of users. A folder of the host is given only if its owner
//! said so: else whoever may deploy could read and change the host.

use super::folders::{Folders, slot_name};
use nix::unistd::{User, geteuid};
use potluck_core::host::Run;
use potluck_helper::description::{Mounted, MountedFrom, UserIds};
use potluck_specs::job::{Mount, MountSource, TaskTemplate};
use std::{
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

/// What of the host a task is given.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) user: Option<UserIds>,
    pub(super) mounts: Vec<Mounted>,
}

impl Places {
    /// Finds, and makes, what a task asks for.
    pub(super) fn of(folders: &Folders, run: &Run, task: &TaskTemplate) -> Result<Places, String> {
        let user = task.user.as_deref().map(user).transpose()?;
        let allowed = Allowed::read(&folders.allowed()).map_err(|error| {
            let path = folders.allowed();
            format!("{}: {error}", path.display())
        })?;
        let mount = |mount: &Mount| -> Result<Mounted, String> {
            let from = match &mount.source {
                MountSource::Bind { path } => allowed.find(path, mount.read_only)?,
                MountSource::Tmpfs { bytes } => MountedFrom::Memory { bytes: *bytes },
                MountSource::Volume { name } => volume(folders, run, name, user)?,
            };
            Ok(Mounted {
                at: mount.at.clone(),
                from,
                read_only: mount.read_only,
            })
        };
        let mounts = task.mounts.iter().map(mount);
        Ok(Places {
            user,
            mounts: mounts.collect::<Result<_, String>>()?,
        })
    }
}

/// A name that the host knows, or `uid:gid`.
fn user(text: &str) -> Result<UserIds, String> {
    let ids = match text.split_once(':') {
        Some((uid, gid)) => number(uid).zip(number(gid)),
        None => User::from_name(text)
            .map_err(|error| format!("user {text:?}: {error}"))?
            .map(|user| (user.uid.as_raw(), user.gid.as_raw())),
    };
    let (uid, gid) = ids.ok_or_else(|| format!("this host has no user {text:?}"))?;
    Ok(UserIds { uid, gid })
}

/// The largest number is no user: setresuid(2) takes it for "as it is".
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// A folder of the slot, kept when it starts again here.
fn volume(
    folders: &Folders,
    run: &Run,
    name: &str,
    user: Option<UserIds>,
) -> Result<MountedFrom, String> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if !plain {
        return Err(format!("{name:?} is no name of a volume"));
    }
    let folder = folders.volumes().join(slot_name(&run.slot)).join(name);
    if !folder.exists() {
        tracing::info!(%run, volume = name, "volume begins empty");
    }
    let make = || -> io::Result<()> {
        fs::create_dir_all(&folder)?;
        match user.filter(|_| geteuid().is_root()) {
            Some(user) => chown(&folder, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    };
    make().map_err(|error| format!("volume {name:?}: {error}"))?;
    Ok(MountedFrom::Host(folder))
}

/// The folders that the host's owner lets tasks mount: a file with one a
/// line, `ro` behind those that may not be written to.
#[derive(Debug, Default)]
struct Allowed {
    folders: Vec<(PathBuf, bool)>,
}

impl Allowed {
    /// No file: none.
    fn read(path: &Path) -> io::Result<Allowed> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| line.starts_with('/'));
        let folders = lines.map(|line| match line.strip_suffix(" ro") {
            Some(path) => (PathBuf::from(path.trim()), true),
            None => (PathBuf::from(line), false),
        });
        Ok(Allowed {
            folders: folders.collect(),
        })
    }

    /// What a path really is, links followed, if that is allowed.
    fn find(&self, path: &str, read_only: bool) -> Result<MountedFrom, String> {
        let real = fs::canonicalize(path).map_err(|error| format!("mount of {path}: {error}"))?;
        let fits = |(folder, only_read): &&(PathBuf, bool)| {
            let folder = fs::canonicalize(folder);
            folder.is_ok_and(|folder| real.starts_with(folder)) && (read_only || !only_read)
        };
        if self.folders.iter().any(|one| fits(&one)) {
            return Ok(MountedFrom::Host(real));
        }
        Err(format!(
            "mount of {path}: this host does not let tasks {} it",
            if read_only { "read" } else { "write to" }
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::Generation;

    #[test]
    fn only_what_the_owner_allows_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for name in ["open/deep", "readable", "closed"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        std::os::unix::fs::symlink(at("closed"), at("open/link")).unwrap();
        let text = format!("# ours\n{}\n{} ro\n", at("open"), at("readable"));
        fs::write(at("allowed"), text).unwrap();
        let allowed = Allowed::read(Path::new(&at("allowed"))).unwrap();
        for (name, read_only, wanted) in [
            ("open", false, true),
            ("open/deep", false, true),
            ("readable", true, true),
            ("readable", false, false),
            ("closed", true, false),
            ("open/link", false, false),
            ("open/../closed", true, false),
            ("nothing", true, false),
        ] {
            let found = allowed.find(&at(name), read_only);
            assert_eq!(found.is_ok(), wanted, "{name} {read_only}: {found:?}");
        }
        let none = Allowed::read(Path::new(&at("nothing"))).unwrap();
        assert!(none.find(&at("open"), true).is_err());
    }

    #[test]
    fn users_are_names_or_numbers() {
        let ids = |uid, gid| UserIds { uid, gid };
        assert_eq!(user("7:8").unwrap(), ids(7, 8));
        assert_eq!(user("root").unwrap(), ids(0, 0));
        for wrong in [
            "no such user",
            "7:",
            "a:b",
            "",
            "4294967295:0",
            "0:4294967295",
        ] {
            assert!(user(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn volumes_are_folders_of_the_slot_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::new(data.path());
        let run = Run {
            slot: "team/web[7]".parse().unwrap(),
            origin: Generation::default(),
            start: 1,
        };
        let MountedFrom::Host(made) = volume(&folders, &run, "data", None).unwrap() else {
            panic!("not on the host");
        };
        assert!(made.starts_with(data.path()) && made.is_dir());
        for wrong in ["", ".", "..", "a/b", "../x"] {
            assert!(volume(&folders, &run, wrong, None).is_err(), "{wrong:?}");
        }
    }
}
