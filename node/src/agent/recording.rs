//! A recording of what goes into the host's decisions, for `potluck debug
//! record`.
//!
//! Answers for leaving secrets out. It begins with all that the host knows, so
//! nothing has to stop for it. The bounds are `crate::recording`'s.

use crate::recording::{Wish, Writer};
use potluck_core::{
    host::{Effect, Event, Host},
    record::{Record, VERSION, host_digest},
};
use potluck_specs::Millis;

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recorder(Writer);

impl Recorder {
    /// Begins one; nothing if it is over already.
    pub(super) fn begin(wish: Wish, host: &Host, now: Millis) -> Option<Recorder> {
        let mut writer = Writer::new(wish);
        let began = Record::HostBegan {
            version: VERSION,
            now,
            host: Box::new(host.redacted()),
        };
        writer.put(&began).then_some(Recorder(writer))
    }

    /// Writes a step down; does the recording go on? `event` is without
    /// secrets.
    pub(super) fn step(&mut self, event: Event, effects: &[Effect], now: Millis) -> bool {
        self.0.put(&Record::HostStep {
            now,
            event: Box::new(event),
            digest: host_digest(effects),
        })
    }
}
