//! The messages between an agent and a server of ssh, which is a process of
//! its own without rights (`potluck-sshd`), one for each connection.
//!
//! ```text
//! agent                                     potluck-sshd
//!   Setup -------------------------------------->        first, and once
//!         <--------------------------------- LoggedIn     the person's key was proven
//!         <--------------- Open + one end of a stream     for each session that is asked for
//!         <------------------------------------ Ended     why there is no more
//! ```
//!
//! The socket is one of [`Channel`](crate::Channel). A session's stream then
//! carries the frames of [`super::stream`] (those to the person as
//! [`ToServer`]), a length of four bytes before each. In which task, and with
//! whose rights, the agent knows from the person's signed request; the server
//! can't say it.

use super::{WindowSize, Work, stream::SessionOutput};
use serde::{Deserialize, Serialize};

/// Sessions of one connection at the same time: a few windows of one person,
/// and never all that a task may have.
pub const SSH_CHANNELS_MAX: usize = 8;

/// Longest frame to the server: a chunk and what is around it.
pub const SSH_FRAME_BYTES_MAX: usize = super::stream::CHUNK_BYTES + 4_096;

/// Variables of the person's that a session gets, by the beginning of their
/// names; as Debian's `sshd` has it.
pub const ENV_PREFIXES: [&str; 3] = ["LANG", "LC_", "COLORTERM"];

/// Variables of one session.
pub const ENV_MAX: usize = 20;

/// Longest name, and longest value, of a variable.
pub const ENV_BYTES_MAX: usize = 128;

/// What a shell is in a task: the person's usual one, if it is there.
pub const SHELL: &str = "command -v bash >/dev/null && exec bash -l; exec sh -l";

/// What a server must know.
#[derive(Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Seed of the Ed25519 key that the host proves itself with.
    pub host_seed: [u8; 32],
    /// The only Ed25519 key that may log in.
    pub person: [u8; 32],
}

/// From the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer {
    /// The client has proven the person's key.
    LoggedIn,
    /// A session is wanted; with it travels one end of its stream.
    Open(SshSession),
    /// The connection is over, for people.
    Ended(String),
}

/// A session as the client asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSession {
    /// What is done in the task.
    pub work: Work,
    /// With a terminal of this size.
    pub terminal: Option<WindowSize>,
    /// Of the person's terminal (`TERM`).
    pub term: Option<String>,
    /// Variables, see [`may_be_set`].
    pub env: Vec<(String, String)>,
}

impl SshSession {
    /// For the record: what is really done, told from nothing but that.
    pub fn asked(&self) -> String {
        match &self.work {
            Work::Command(words) => match &words[..] {
                [sh, c, line] if sh == "sh" && c == "-c" => match line == SHELL {
                    true => "shell".into(),
                    false => line.clone(),
                },
                words => words.join(" "),
            },
            Work::Receive(path) => format!("copy to {path}"),
            Work::Send { path, .. } => format!("copy from {path}"),
            Work::Sftp => "sftp".into(),
        }
    }
}

/// To the server, on a session's stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToServer {
    /// Of the session.
    Session(SessionOutput),
    /// Of a newer agent.
    #[serde(other)]
    Unknown,
}

/// May a person's client set this variable in a session? Only what says how
/// text is shown, and nothing that a shell would not take as it stands.
pub fn may_be_set(name: &str, value: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.@".contains(&c);
    let is_name = |c: u8| c.is_ascii_uppercase() || c == b'_';
    ENV_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && name.len() <= ENV_BYTES_MAX
        && value.len() <= ENV_BYTES_MAX
        && name.bytes().all(is_name)
        && value.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_says_what_is_done() {
        let command =
            |words: &[&str]| Work::Command(words.iter().map(|&word| word.into()).collect());
        let send = Work::Send {
            path: "/etc".into(),
            name: "x".into(),
        };
        for (work, asked) in [
            (command(&["sh", "-c", "echo 'a b' | wc"]), "echo 'a b' | wc"),
            (command(&["sh", "-c", SHELL]), "shell"),
            (command(&["sh", "-c", "id", "more"]), "sh -c id more"),
            (command(&["rm", "-r", "/task"]), "rm -r /task"),
            (Work::Receive("/a".into()), "copy to /a"),
            (send, "copy from /etc"),
            (Work::Sftp, "sftp"),
        ] {
            let session = SshSession {
                work,
                terminal: None,
                term: None,
                env: Vec::new(),
            };
            assert_eq!(session.asked(), asked);
        }
    }

    #[test]
    fn only_what_says_how_text_is_shown_may_be_set() {
        for (name, value, may) in [
            ("LANG", "de_DE.UTF-8", true),
            ("LC_ALL", "C", true),
            ("LC_TIME", "ca_ES@valencia", true),
            ("COLORTERM", "truecolor", true),
            ("LD_PRELOAD", "x", false),
            ("PATH", "x", false),
            ("LANG", "a b", false),
            ("LANG", "$(x)", false),
            ("LC_x=", "x", false),
            ("LC_A\0", "x", false),
        ] {
            assert_eq!(may_be_set(name, value), may, "{name}={value}");
        }
        assert!(!may_be_set("LANG", &"x".repeat(ENV_BYTES_MAX + 1)));
    }
}
