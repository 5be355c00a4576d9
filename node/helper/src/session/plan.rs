//! All that a session needs, made before the clone.

use super::{
    COMMAND_BYTES_MAX, PATH_BYTES_MAX, SessionRequest, TOOLS_AT, WindowSize, Work,
    ssh::{ENV_MAX, may_be_set},
    tools::Tools,
};
use crate::{
    description::{IfMissing, Profile, TaskDescription, UserIds},
    launch::{CStrings, Namespace, environment, open_for_writing, user},
    protocol::Channel,
    sandbox::{self, Confinement, PACKAGE_AT, TASK_FOLDER_AT},
};
use std::{
    ffi::CString,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Longest name of a kind of terminal.
const TERM_BYTES_MAX: usize = 64;

/// Where a name without a slash is looked for if the task has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// A session that is about to begin.
pub(super) struct SessionPlan<'a> {
    pub(super) namespaces: &'a [Namespace],
    pub(super) work: Prepared,
    pub(super) env: CStrings,
    pub(super) folder: CString,
    pub(super) user: Option<UserIds>,
    pub(super) confinement: Option<Confinement>,
    pub(super) unconfined: bool,
    pub(super) own_cgroups: bool,
    /// What the host lacks is lacking here too.
    pub(super) may_miss: bool,
    pub(super) cgroups: Vec<File>,
    /// `cgroup.kill` of the session's own group.
    pub(super) kill: Option<File>,
    pub(super) channel: Channel,
    pub(super) tether: OwnedFd,
    pub(super) streams: Streams,
    pub(super) tools: Option<Tools>,
}

/// What the session's process does.
pub(super) enum Prepared {
    /// Becomes the first of these that is there.
    Command {
        candidates: Vec<CString>,
        args: CStrings,
    },
    /// Unpacks its standard input.
    Receive(PathBuf),
    /// Packs to its standard output.
    Send { path: PathBuf, name: String },
    /// Serves files.
    Sftp,
}

/// What it speaks through.
pub(super) enum Streams {
    /// Standard input, output and error.
    Pipes([OwnedFd; 3]),
    /// A terminal, made inside.
    Terminal(WindowSize),
}

/// What of a running task a session needs to know.
pub(super) struct Surroundings<'a> {
    pub(super) description: &'a TaskDescription,
    pub(super) namespaces: &'a [Namespace],
    /// The task sees a root of its own.
    pub(super) own_root: bool,
}

impl<'a> Surroundings<'a> {
    /// Makes the plan, or says for people why there is none.
    pub(super) fn plan(
        &self,
        request: SessionRequest,
        channel: Channel,
        mut descriptors: impl Iterator<Item = OwnedFd>,
        group: Option<&super::host::Group>,
        tether: OwnedFd,
    ) -> Result<SessionPlan<'a>, String> {
        let description = self.description;
        let lost = || "a descriptor of the session is missing".to_string();
        let streams = match request.terminal {
            Some(size) => Streams::Terminal(size),
            None => {
                let mut next = || descriptors.next().ok_or_else(lost);
                Streams::Pipes([next()?, next()?, next()?])
            }
        };
        let tools = match &request.tools {
            None => None,
            Some(_) if !self.own_root => {
                return Err(
                    "it has no root of its own, so it sees the host's programs: \
                            leave --tools away"
                        .into(),
                );
            }
            Some(names) => Some(Tools::new(descriptors.next().ok_or_else(lost)?, names)?),
        };
        if request.debug && description.profile == Profile::Strict {
            return Err("tasks of the strict profile can't be traced".into());
        }
        let (package, task_folder) = match self.own_root {
            true => (Path::new(PACKAGE_AT), Path::new(TASK_FOLDER_AT)),
            false => (&*description.package, &*description.task_folder),
        };
        let flags = self.namespaces.iter().fold(0, |all, one| all | one.flag);
        let mut env = environment(description, package, task_folder);
        if let Some(term) = request.term.filter(|term| is_plain(term)) {
            env.insert("TERM".into(), term);
        }
        let more = request.env.into_iter().take(ENV_MAX);
        env.extend(more.filter(|(name, value)| may_be_set(name, value)));
        let path = env.get("PATH").cloned();
        let mut path = path.unwrap_or_else(|| PATH_DEFAULT.into());
        if tools.is_some() {
            path = format!("{path}:{TOOLS_AT}");
            env.insert("PATH".into(), path.clone());
        }
        let env = env.iter().map(|(name, value)| format!("{name}={value}"));
        let cgroups = description.cgroup_procs.iter();
        let cgroups = cgroups.map(|procs| {
            let procs = match (group, &description.kill_group) {
                (Some(group), Some(task)) if procs.parent() == Some(task) => group.procs(),
                _ => procs.clone(),
            };
            open_for_writing(&procs).map_err(|error| potluck_specs::cause::chain(&error))
        });
        let text = |error: &dyn std::error::Error| potluck_specs::cause::chain(error);
        Ok(SessionPlan {
            namespaces: self.namespaces,
            work: prepare(request.work, &path)?,
            env: strings(env)?,
            folder: string(task_folder.to_string_lossy())?,
            user: user(description).map_err(|error| text(&error))?,
            confinement: sandbox::confinement(description, flags)
                .map_err(|error| text(&error))?
                .map(|confinement| confinement.with_landlock(!request.debug)),
            unconfined: description.profile == Profile::None,
            own_cgroups: description.isolation.cgroup,
            may_miss: description.isolation.if_missing == IfMissing::Report,
            cgroups: cgroups.collect::<Result<_, _>>()?,
            kill: group.and_then(super::host::Group::kill_file),
            channel,
            tether,
            streams,
            tools,
        })
    }
}

fn prepare(work: Work, path: &str) -> Result<Prepared, String> {
    let bounded = |path: String| match path.len() {
        1..=PATH_BYTES_MAX => Ok(path),
        _ => Err("the path is empty or too long".to_string()),
    };
    Ok(match work {
        Work::Command(words) => {
            let bytes: usize = words.iter().map(String::len).sum();
            let name = match words.first() {
                Some(name) if !name.is_empty() && bytes <= COMMAND_BYTES_MAX => name,
                _ => return Err("the command is empty or too long".into()),
            };
            Prepared::Command {
                candidates: candidates(name, path)?,
                args: strings(words.into_iter())?,
            }
        }
        Work::Receive(path) => Prepared::Receive(bounded(path)?.into()),
        Work::Sftp => Prepared::Sftp,
        Work::Send { path, name } => Prepared::Send {
            path: bounded(path)?.into(),
            name,
        },
    })
}

/// Where a command may be: at its path, or in each folder of `PATH`.
fn candidates(name: &str, path: &str) -> Result<Vec<CString>, String> {
    if name.contains('/') {
        return Ok(vec![string(name)?]);
    }
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| string(format!("{folder}/{name}")))
        .collect()
}

fn is_plain(term: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    !term.is_empty() && term.len() <= TERM_BYTES_MAX && term.chars().all(plain)
}

pub(super) fn string(text: impl AsRef<str>) -> Result<CString, String> {
    CString::new(text.as_ref()).map_err(|_| "a zero byte in the command".into())
}

fn strings(all: impl Iterator<Item = String>) -> Result<CStrings, String> {
    let all = all.map(string).collect::<Result<Vec<_>, _>>()?;
    Ok(CStrings::new(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_absolute_folders_only() {
        let found = candidates("ls", "/bin:relative::/usr/bin").unwrap();
        assert_eq!(found, [c"/bin/ls".to_owned(), c"/usr/bin/ls".to_owned()]);
        assert_eq!(candidates("./ls", "/bin").unwrap(), [c"./ls".to_owned()]);
        assert!(candidates("l\0s", "/bin").is_err());
    }

    #[test]
    fn what_a_person_sends_is_bounded() {
        let long = "x".repeat(COMMAND_BYTES_MAX + 1);
        for words in [vec![], vec![String::new()], vec![long]] {
            assert!(prepare(Work::Command(words), "/bin").is_err());
        }
        assert!(prepare(Work::Receive(String::new()), "").is_err());
        assert!(prepare(Work::Receive("x".repeat(PATH_BYTES_MAX + 1)), "").is_err());
        assert!(is_plain("xterm-256color"));
        assert!(!is_plain("x\ny") && !is_plain(""));
    }
}
