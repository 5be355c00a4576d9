//! What people and programs ask of a node: one framed protocol, over the
//! node's Unix socket or over a libp2p stream.
//!
//! `protocol` holds the messages, `change` what is signed, `operate` what
//! operators ask, `logs` which lines of logs, `exec` sessions in tasks, `plan`
//! what a change would do, `frame` the bytes on the stream, `server` and `client` both ends of a
//! session. Carrying requests out is the runtime's work; showing answers is the
//! command line's.

pub mod change;
pub mod client;
pub mod error;
pub mod exec;
pub mod frame;
pub mod logs;
pub mod operate;
pub mod plan;
pub mod protocol;
pub mod recovery;
pub mod server;
