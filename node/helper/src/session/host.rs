//! The helper's part of sessions: it begins them, notices their end, and
//! empties what a warden may have left.

use super::{CODE_LOST, SESSIONS_MAX, SessionReport, SessionRequest, enter, plan::Surroundings};
use crate::{
    description::TaskDescription,
    launch::{Namespace, clone_process},
    protocol::Channel,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

/// The sessions of one task.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: BTreeMap<u64, Session>,
    /// Groups that are not empty yet.
    ending: Vec<Group>,
    last: u64,
}

#[derive(Debug)]
struct Session {
    /// Readable when the warden is gone.
    tether: OwnedFd,
    group: Option<Group>,
}

/// A control group of the session's own, below the task's.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    kill: File,
}

/// The sessions of a task between two programs of its helper
/// ([`crate::resume`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedSessions {
    open: Vec<SavedSession>,
    ending: Vec<SavedGroup>,
    last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedSession {
    number: u64,
    tether: RawFd,
    group: Option<SavedGroup>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedGroup {
    folder: PathBuf,
    kill: RawFd,
}

impl SavedSessions {
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let groups = self.open.iter().filter_map(|one| one.group.as_ref());
        let kills = groups.chain(&self.ending).map(|group| group.kill);
        let tethers = self.open.iter().map(|one| one.tether);
        tethers.chain(kills).collect()
    }

    #[cfg(test)]
    pub(crate) fn sample() -> SavedSessions {
        let group = |number, kill| SavedGroup {
            folder: format!("/sys/fs/cgroup/task/session-{number}").into(),
            kill,
        };
        SavedSessions {
            open: vec![SavedSession {
                number: 3,
                tether: 30,
                group: Some(group(3, 31)),
            }],
            ending: vec![group(2, 32)],
            last: 3,
        }
    }
}

impl Group {
    fn save(&self) -> SavedGroup {
        SavedGroup {
            folder: self.folder.clone(),
            kill: self.kill.as_raw_fd(),
        }
    }

    /// # Safety
    /// The descriptor is open and nobody else's.
    unsafe fn resume(saved: SavedGroup) -> Group {
        Group {
            folder: saved.folder,
            // SAFETY: as the caller says.
            kill: unsafe { File::from_raw_fd(saved.kill) },
        }
    }

    /// `None` where the host gives none.
    fn make(description: &TaskDescription, number: u64) -> Option<Group> {
        let folder = description.kill_group.as_ref()?;
        let folder = folder.join(format!("session-{number}"));
        fs::create_dir(&folder).ok()?;
        match OpenOptions::new()
            .write(true)
            .open(folder.join("cgroup.kill"))
        {
            Ok(kill) => Some(Group { folder, kill }),
            Err(_) => {
                let _ = fs::remove_dir(&folder);
                None
            }
        }
    }

    pub(super) fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    pub(super) fn kill_file(&self) -> Option<File> {
        self.kill.try_clone().ok()
    }

    /// Kills who is in it; true if it is gone.
    fn end(&mut self) -> bool {
        let _ = self.kill.write_all(b"1");
        match fs::remove_dir(&self.folder) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }
}

/// A running task, as far as sessions join it.
pub(crate) struct Task<'a> {
    pub(crate) description: &'a TaskDescription,
    pub(crate) namespaces: &'a Result<Vec<Namespace>, nix::errno::Errno>,
    pub(crate) own_root: bool,
}

impl Sessions {
    /// What another program needs to go on with them.
    pub(crate) fn save(&self) -> SavedSessions {
        let open = self.open.iter().map(|(number, session)| SavedSession {
            number: *number,
            tether: session.tether.as_raw_fd(),
            group: session.group.as_ref().map(Group::save),
        });
        SavedSessions {
            open: open.collect(),
            ending: self.ending.iter().map(Group::save).collect(),
            last: self.last,
        }
    }

    /// Goes on with them.
    ///
    /// # Safety
    /// The descriptors are open and nobody else's.
    pub(crate) unsafe fn resume(saved: SavedSessions) -> Sessions {
        let open = saved.open.into_iter().map(|one| {
            // SAFETY: as the caller says.
            let session = unsafe {
                Session {
                    tether: OwnedFd::from_raw_fd(one.tether),
                    group: one.group.map(|group| Group::resume(group)),
                }
            };
            (one.number, session)
        });
        // SAFETY: as the caller says.
        let ending = saved
            .ending
            .into_iter()
            .map(|one| unsafe { Group::resume(one) });
        Sessions {
            open: open.collect(),
            ending: ending.collect(),
            last: saved.last,
        }
    }

    /// Their numbers.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.open.keys().copied().collect()
    }

    /// Begins a session, or tells the agent why not. Its number, if its
    /// [`Self::tether`] is to be watched.
    pub(crate) fn open(
        &mut self,
        task: Result<Task<'_>, &str>,
        request: SessionRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Option<u64> {
        let expected = request.descriptors();
        let came = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let channel = Channel::from_fd(descriptors.next()?);
        // For a refusal, once the channel is the plan's.
        let refusal = channel.as_fd().try_clone_to_owned().ok()?;
        let begun = match task {
            Err(why) => Err(why.to_string()),
            Ok(_) if came != expected => Err("descriptors of the session are missing".into()),
            Ok(_) if self.open.len() >= SESSIONS_MAX => Err(format!(
                "it has {SESSIONS_MAX} sessions, which is the most at a time"
            )),
            Ok(task) => self.begin(&task, request, channel, descriptors),
        };
        match begun {
            Ok(number) => Some(number),
            Err(why) => {
                let code = CODE_LOST;
                let refused = SessionReport::Failed { why, code };
                // If nobody listens any more, there is nobody to tell.
                let _ = Channel::from_fd(refusal).send(&refused);
                None
            }
        }
    }

    fn begin(
        &mut self,
        task: &Task<'_>,
        request: SessionRequest,
        channel: Channel,
        descriptors: impl Iterator<Item = OwnedFd>,
    ) -> Result<u64, String> {
        let namespaces = match task.namespaces {
            Ok(namespaces) => namespaces,
            Err(errno) => return Err(format!("this host does not let it be entered: {errno}")),
        };
        let number = self.last + 1;
        self.last = number;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (tether, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(|errno| format!("a socket pair can't be made: {errno}"))?;
        let mut group = Group::make(task.description, number);
        let surroundings = Surroundings {
            description: task.description,
            namespaces,
            own_root: task.own_root,
        };
        let begun = surroundings
            .plan(request, channel, descriptors, group.as_ref(), theirs)
            .and_then(|plan| {
                // SAFETY: the other thread pauses, and `enter::run` does not return.
                match unsafe { clone_process(0) } {
                    Ok(None) => enter::run(&plan),
                    Ok(Some(_)) => Ok(()),
                    Err(errno) => Err(format!("a process can't be made: {errno}")),
                }
            });
        if let Err(why) = begun {
            if let Some(group) = &mut group {
                group.end();
            }
            return Err(why);
        }
        self.open.insert(number, Session { tether, group });
        Ok(number)
    }

    /// Readable when the session is over.
    pub(crate) fn tether(&self, number: u64) -> Option<BorrowedFd<'_>> {
        Some(self.open.get(&number)?.tether.as_fd())
    }

    /// The warden is gone: so must be what it watched.
    pub(crate) fn ended(&mut self, number: u64) {
        if let Some(session) = self.open.remove(&number) {
            self.ending.extend(session.group);
            self.tidy();
        }
    }

    /// Removes groups that have become empty; true if some have not.
    pub(crate) fn tidy(&mut self) -> bool {
        self.ending.retain_mut(|group| !group.end());
        !self.ending.is_empty()
    }

    /// The task is gone, and with it all that was in it. Groups that still
    /// don't go are left to the agent, which removes the task's own.
    pub(crate) fn end_all(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.ending
            .extend(open.into_values().filter_map(|one| one.group));
        self.tidy();
        self.ending.clear();
    }
}
