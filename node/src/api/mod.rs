//! What people and programs ask of a node: one framed protocol, over the
//! node's Unix socket or over a libp2p stream.
//!
//! `protocol` holds the messages, `change` and `operate` what is
//! asked for, `frame` the bytes
//! on the stream, `session` both ends' handshake. Carrying requests out is
//! the runtime's work; showing answers is the command line's.

pub mod change;
pub mod client;
pub mod error;
pub mod frame;
pub mod operate;
pub mod protocol;
pub mod server;
