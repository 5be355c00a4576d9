//! Traces: what was asked of a cluster and what befell its machines, as a list
//! of events, recorded or made up.
//!
//! Answers for the words that all parts share. `format` reads and writes them,
//! `borg` makes them up, `play` lets the simulator go through them, `packing`
//! asks how full a cluster gets.

pub mod borg;
pub mod format;
pub mod packing;
pub mod play;

use potluck_specs::job::Resources;

/// Something of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Milliseconds since the trace begins; never less than the line before's.
    pub at_ms: u64,
    /// What happens.
    pub event: Event,
}

/// What happens in a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A machine comes, or comes back.
    MachineUp {
        /// Its name.
        name: String,
        /// Its rack.
        rack: String,
        /// All that it has.
        total: Resources,
    },
    /// A machine goes, with all that runs on it.
    MachineDown {
        /// Its name.
        name: String,
    },
    /// A job is asked for.
    JobStart {
        /// Its name.
        name: String,
        /// What each of its tasks takes.
        each: Resources,
        /// How many tasks.
        tasks: u32,
        /// Higher matters more.
        priority: u32,
    },
    /// A job is over, whatever of it runs.
    JobEnd {
        /// Its name.
        name: String,
    },
}

/// A whole trace, in order, checked by [`format::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Trace {
    /// When its last event happens.
    pub fn length_ms(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.at_ms)
    }
}
