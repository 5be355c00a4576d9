//! Sessions: what a person runs inside a task, beside the task's own program.
//!
//! The agent makes a socket pair and the pipes, and hands the far ends to the
//! helper with one [`SessionRequest`]. From then on the helper is out of the
//! way: bytes go between the agent and the session's processes directly, so a
//! slow reader costs the helper nothing, and what is said about the session
//! ([`SessionOrder`], [`SessionReport`]) goes over the session's own socket.
//!
//! ```text
//! agent ---- SessionRequest + descriptors ----> helper
//!   |                                             | clone
//!   |                                          entrant: joins the namespaces, clones its sibling, ends
//!   |                                             |
//!   +------ session socket, pipes or pty ------ warden (in the task's pid namespace)
//!                                                 | clone
//!                                              the command, or the end of an archive
//! ```
//!
//! The warden is to a session what init is to a task. It holds three things:
//! the agent's socket, whose end is the end of the session; a tether to the
//! helper, whose end is the end of everything; and its children. It is their
//! subreaper, and they have a control group of their own where the host has
//! groups, so that what leaves the session's process group, also by forking
//! twice, is found. Nothing of a session outlives its warden's report, and
//! when a warden itself is killed, the helper empties the group.
//!
//! The command gets what the task has and no more: user, capabilities,
//! `no_new_privs`, landlock, filter of system calls, control groups.

mod enter;
mod host;
mod plan;
pub mod ssh;
pub mod stream;
mod tools;
mod warden;

pub(crate) use host::{SavedSessions, Sessions, Task};

use serde::{Deserialize, Serialize};

/// Sessions of one task at the same time: a few people and their scripts.
pub const SESSIONS_MAX: usize = 16;

/// Longest command with its arguments: half a message, room for the rest.
pub const COMMAND_BYTES_MAX: usize = 32 << 10;

/// Longest path of a copy, as the kernel has it.
pub const PATH_BYTES_MAX: usize = 4_096;

/// How long what still runs may take after the hang-up signal before it is
/// killed. Enough for a shell to save its history on a disk that is busy.
pub const HANGUP_GRACE_MS: u64 = 2_000;

/// Exit codes as shells have them.
pub const CODE_NOT_RUNNABLE: u8 = 126;
/// There is no such command.
pub const CODE_NOT_FOUND: u8 = 127;
/// The session itself failed; what `ssh` says too.
pub const CODE_LOST: u8 = 255;

/// Where the tools are while they are asked for; an empty folder otherwise.
pub const TOOLS_AT: &str = "/.tools";

/// What is wanted inside a task. With it travel, as descriptors in this order:
/// the session's socket; without a terminal the command's standard input,
/// output and error; with `tools` the program that holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// What.
    pub work: Work,
    /// With a terminal of the task's, of this size.
    pub terminal: Option<WindowSize>,
    /// Of the person's terminal (`TERM`).
    pub term: Option<String>,
    /// Names of tools to have at [`TOOLS_AT`].
    pub tools: Option<Vec<String>>,
    /// May trace the task's processes. For that the session goes without the
    /// kernel's path rules (landlock), which in the `default` profile only
    /// keep a task from the host's abstract sockets: they let nobody trace
    /// who is not of the same start.
    #[serde(default)]
    pub debug: bool,
    /// More variables for the command; those that [`ssh::may_be_set`] does not
    /// allow are left out.
    #[serde(default)]
    pub env: Vec<(String, String)>,
}

impl SessionRequest {
    /// How many descriptors travel with it.
    pub fn descriptors(&self) -> usize {
        let streams = if self.terminal.is_some() { 0 } else { 3 };
        1 + streams + usize::from(self.tools.is_some())
    }
}

/// What is done in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Run a command: its name, and its arguments.
    Command(Vec<String>),
    /// Unpack an archive from standard input at this path of the task.
    Receive(String),
    /// Write an archive of what is at `path` to standard output, its first
    /// entry under `name`.
    Send {
        /// In the task.
        path: String,
        /// What the other end calls it.
        name: String,
    },
    /// Serve files to an SFTP client on standard input and output.
    Sftp,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// From the agent, over the session's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionOrder {
    /// The person's terminal has another size now.
    Resize(WindowSize),
}

/// To the agent, over the session's socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionReport {
    /// The terminal's other side, as the one descriptor of this message.
    Terminal,
    /// The command runs.
    Started,
    /// It does not; the session is over.
    Failed {
        /// For people.
        why: String,
        /// What the person's command should exit with.
        code: u8,
    },
    /// It has ended, and so has all that it left behind.
    Ended {
        /// Its code, or 128 and the signal's number.
        code: u8,
    },
}
