//! The supervisor's part of becoming another program: before it, what must
//! come to rest; after it, what is taken up again. What is handed on, and how,
//! is in [`crate::resume`].

use super::{HANDS_ON, NAME, Pipe, Sandbox, Source, Supervisor, VERSION, Waits, boot_now};
use crate::{
    launch::Launched,
    life::{How, Life},
    log::{LogLimits, LogWriter},
    memory::MemoryGuard,
    protocol::{Channel, HelperMessage},
    resume::{self, Saved},
    session::Sessions,
};
use nix::sys::{prctl, signal::SigSet};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

/// The life of a program that another one has become.
pub(super) fn main(program: &OsStr, file: &OsStr, handed: &[OsString]) -> ExitCode {
    let taken = resume::take_over(program, file, handed).and_then(|(saved, is_fallback)| {
        Supervisor::resume(saved, is_fallback).map_err(|error| error.to_string())
    });
    match taken {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => {
            eprintln!("potluck-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Supervisor {
    /// Becomes this program. Returns only if it can't be, with why, and goes
    /// on as it was.
    pub(super) fn upgrade(&mut self, program: &Path) -> String {
        if let Err(why) = resume::check(program) {
            return why;
        }
        if self.sandbox.as_ref().is_none_or(Sandbox::is_ending) {
            return "its task has ended".into();
        }
        let log = match self.output.as_mut().map(|output| output.stop()) {
            Some(Ok(log)) => log,
            Some(Err(why)) => return format!("its log can't be brought to rest: {why}"),
            None => return "its task has no log any more".into(),
        };
        let why = match self.save(&log) {
            Some(saved) => {
                let file = self.folder.join(crate::description::DESCRIPTION_FILE);
                resume::become_program(program, &file, &saved)
            }
            None => "its task has ended".into(),
        };
        if let Err(error) = self.write_again(log) {
            self.abandon(How::Abandoned(format!(
                "after an upgrade that failed ({why}) its log can't be written: {error}"
            )));
        }
        why
    }

    fn write_again(&mut self, log: LogWriter) -> io::Result<()> {
        if let Some(output) = &mut self.output {
            let _ = self.epoll.delete(output.bell());
            output.go_on(log)?;
            self.listen(Source::Log)?;
        }
        Ok(())
    }

    fn save(&self, log: &LogWriter) -> Option<Saved> {
        let sandbox = self.sandbox.as_ref()?;
        Some(Saved {
            version: HANDS_ON,
            description: self.description.clone(),
            folder: self.folder.clone(),
            boot_id: self.boot_id.clone(),
            life: self.life.save()?,
            launched: sandbox.launched.save(),
            task_pid: sandbox.task_pid,
            out_is_open: sandbox.out.is_open,
            err_is_open: sandbox.err.is_open,
            log: log.hand_on(),
            memory_reached: self.memory.as_ref().is_some_and(MemoryGuard::is_reached),
            sessions: self.sessions.save(),
            agent: std::os::fd::AsRawFd::as_raw_fd(self.agent.as_ref()?),
        })
    }

    /// Goes on where another program has left off.
    ///
    /// # Errors
    /// What the kernel says for want of memory or descriptors.
    fn resume(saved: Saved, is_fallback: bool) -> io::Result<Supervisor> {
        SigSet::all().thread_block()?;
        prctl::set_name(NAME)?;
        super::share_one_heap();
        saved.take_descriptors()?;
        let Waits {
            epoll,
            timer,
            signals,
        } = Waits::new()?;
        let life = Life::resume(saved.life, VERSION, HANDS_ON);
        // SAFETY: these were handed to this program, which has seen that each
        // is open and named once.
        let (launched, sessions, agent) = unsafe {
            (
                Launched::resume(saved.launched),
                Sessions::resume(saved.sessions),
                Channel::from_fd(OwnedFd::from_raw_fd(saved.agent)),
            )
        };
        let pipe = |is_open| Pipe {
            is_open,
            is_heard: is_open,
        };
        let sandbox = Sandbox {
            launched,
            task_pid: saved.task_pid,
            how: None,
            init_ended: false,
            out: pipe(saved.out_is_open),
            err: pipe(saved.err_is_open),
        };
        let mut supervisor = Supervisor {
            description: saved.description,
            folder: saved.folder,
            boot_id: saved.boot_id,
            life,
            epoll,
            timer,
            signals,
            sandbox: Some(sandbox),
            agent: Some(agent),
            output: None,
            log_end: None,
            listen_at: None,
            memory: None,
            look_at: None,
            leaving: false,
            sessions,
            // What ended before may be to be removed still.
            tidy_at: Some(boot_now()),
        };
        for source in [Source::Timer, Source::Signals, Source::Agent] {
            supervisor.listen(source)?;
        }
        supervisor.go_on(saved.log, saved.memory_reached, is_fallback);
        Ok(supervisor)
    }

    fn go_on(&mut self, rest: crate::log::LogRest, memory_reached: bool, is_fallback: bool) {
        let description = &self.description;
        let limits = LogLimits::from(description.logs).within(description.disk_bytes);
        let log = LogWriter::go_on(&description.log_folder, limits, rest);
        for number in self.sessions.numbers() {
            self.watch_session(number);
        }
        let attended = self.attend(log, memory_reached);
        self.send_and_step(&match is_fallback {
            false => HelperMessage::Upgraded {
                helper_version: VERSION.into(),
                hands_on: HANDS_ON,
            },
            true => HelperMessage::UpgradeRefused {
                why: "the program can't go on with what it was handed".into(),
            },
        });
        if let Err(error) = attended {
            self.abandon(How::Abandoned(format!(
                "after an upgrade its helper can't watch it: {error}"
            )));
        }
    }
}
