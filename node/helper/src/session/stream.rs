//! The frames of a session's bytes, between whoever uses it and the agent that
//! carries it.
//!
//! Input flows by credit: at most [`INPUT_WINDOW_BYTES`] are on their way
//! without a `Taken` for them, so that a command that does not read holds up
//! neither a change of the terminal's size nor the signs of life. Whoever
//! hears nothing for [`SILENCE_MAX`] takes the other side for lost.

use super::WindowSize;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Input on its way that the command has not taken yet: what fills a fast
/// link for the time of an answer, and all that a node keeps of it.
pub const INPUT_WINDOW_BYTES: usize = 256 << 10;

/// What a frame of input costs of the window at least, so that their number is
/// bounded too.
pub const INPUT_COST_MIN: usize = 64;

/// What a frame with so many bytes costs of the window.
pub fn input_cost(bytes: usize) -> u64 {
    bytes.max(INPUT_COST_MIN) as u64
}

/// Bytes in one frame.
pub const CHUNK_BYTES: usize = 32 << 10;

/// How often each side says that it is there.
pub const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// After how long without a word the other side is lost. Connections that
/// break say so at once; this is for hosts that vanish. Long enough for a
/// client that is stopped for a moment.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);

/// From the person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionInput {
    /// For standard input, or typed.
    Input(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Standard input ends here.
    End,
    /// The terminal has another size now.
    Resize(WindowSize),
    /// Still here.
    Alive,
    /// Of a newer client.
    #[serde(other)]
    Unknown,
}

/// To the person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SessionOutput {
    /// It runs.
    Started,
    /// Of standard output, or of the terminal.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Of standard error.
    Errors(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Input of this cost ([`input_cost`]) has reached the command.
    Taken(u64),
    /// Still here.
    Alive,
    /// It could not begin, for a reason inside the task, or it was killed
    /// there; then the code is 255.
    Failed {
        /// For people.
        why: String,
        /// What to exit with.
        code: u8,
    },
    /// It is over, and nothing of it is left.
    Ended {
        /// The command's code, or 128 and the signal's number.
        code: u8,
    },
    /// Of a newer node.
    #[serde(other)]
    Unknown,
}
