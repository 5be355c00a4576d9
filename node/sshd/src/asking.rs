//! What a client says about a channel before it starts: pure.
//!
//! ```text
//! asking ── terminal, variables ──▶ asking
//!    └───── shell, command, subsystem ──▶ a session of the agent's
//! ```

use potluck_helper::session::{
    WindowSize, Work,
    ssh::{ENV_MAX, SHELL, SshSession, may_be_set},
};

/// The subsystem of file transfers.
const SFTP: &str = "sftp";

/// Largest side of a terminal.
const SIDE_MAX: u32 = u16::MAX as u32;

/// What is known of a session so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asking {
    terminal: Option<WindowSize>,
    term: Option<String>,
    env: Vec<(String, String)>,
}

/// A size as it comes over the wire.
pub(crate) fn size(columns: u32, rows: u32) -> WindowSize {
    let side = |side: u32| side.min(SIDE_MAX) as u16;
    WindowSize {
        rows: side(rows),
        columns: side(columns),
    }
}

impl Asking {
    pub(crate) fn terminal(&mut self, term: &str, size: WindowSize) {
        self.terminal = Some(size);
        self.term = Some(term.into());
    }

    /// Whether it is taken.
    pub(crate) fn variable(&mut self, name: &str, value: &str) -> bool {
        let taken = self.env.len() < ENV_MAX && may_be_set(name, value);
        if taken {
            self.env.push((name.into(), value.into()));
        }
        taken
    }

    pub(crate) fn shell(self) -> SshSession {
        self.session(shell(SHELL))
    }

    /// `None` if it is no text.
    pub(crate) fn command(self, line: &[u8]) -> Option<SshSession> {
        let line = std::str::from_utf8(line).ok()?;
        Some(self.session(shell(line)))
    }

    /// `None` if there is no such subsystem.
    pub(crate) fn subsystem(mut self, name: &str) -> Option<SshSession> {
        if name != SFTP {
            return None;
        }
        // Bytes of a protocol go through no terminal.
        self.terminal = None;
        Some(self.session(Work::Sftp))
    }

    fn session(self, work: Work) -> SshSession {
        SshSession {
            work,
            terminal: self.terminal,
            term: self.terminal.and(self.term),
            env: self.env,
        }
    }
}

/// A line of a person's is read by the task's shell, as every `sshd` does it.
fn shell(line: &str) -> Work {
    Work::Command(["sh", "-c", line].map(String::from).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_through_the_tasks_shell_with_what_was_asked_before() {
        let mut asking = Asking::default();
        asking.terminal("xterm", size(80, 100_000));
        assert!(asking.variable("LANG", "C.UTF-8"));
        assert!(!asking.variable("LD_PRELOAD", "evil"));
        let session = asking.command(b"echo 'a b' | wc").unwrap();
        let words = ["sh", "-c", "echo 'a b' | wc"].map(String::from);
        assert_eq!(session.work, Work::Command(words.into()));
        assert_eq!(session.asked(), "echo 'a b' | wc");
        let size = session.terminal.unwrap();
        assert_eq!((size.columns, size.rows), (80, u16::MAX));
        assert_eq!(session.term.as_deref(), Some("xterm"));
        assert_eq!(session.env, [("LANG".into(), "C.UTF-8".into())]);
        assert!(Asking::default().command(&[0xff]).is_none());
        assert_eq!(Asking::default().shell().asked(), "shell");
    }

    #[test]
    fn variables_are_bounded_in_number() {
        let mut asking = Asking::default();
        let taken = (0..100).filter(|_| asking.variable("LANG", "C")).count();
        assert_eq!(taken, ENV_MAX);
    }

    #[test]
    fn sftp_is_the_only_subsystem_and_has_no_terminal() {
        let mut asking = Asking::default();
        asking.terminal("xterm", size(80, 24));
        let session = asking.subsystem("sftp").unwrap();
        assert_eq!((session.work, session.terminal), (Work::Sftp, None));
        assert!(Asking::default().subsystem("netconf").is_none());
    }
}
