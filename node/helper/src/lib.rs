//! What a task's parent and its agent have in common: the description of a
//! task, the messages between the two, the log and the record of the end.
//!
//! This crate answers for the helper and for every byte that it leaves on
//! disk or on its socket. What should run, when, and what follows an end is
//! decided by the agent. There is no async runtime here: a helper is one
//! thread for each task of a host, and one more that writes the task's log.

pub mod archive;
pub mod description;
mod descriptors;
pub mod end;
mod enter;
pub mod group;
mod init;
mod inner;
mod launch;
mod lease;
mod life;
pub mod log;
mod memory;
mod output;
pub mod probe;
pub mod protocol;
pub mod resume;
mod sandbox;
mod scribe;
pub mod session;
pub mod sftp;
pub mod supervise;
mod sweep;

pub use description::TaskDescription;
pub use end::{EndRecord, ExitReason, TaskEnd, TaskExit};
pub use launch::{PACKAGE_VARIABLE, TASK_FOLDER_VARIABLE};
pub use protocol::{AgentMessage, Channel, HelperMessage, Listener, TaskKey};
pub use sandbox::{PACKAGE_AT, TASK_FOLDER_AT};
