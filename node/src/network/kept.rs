//! Request substreams of one link that are kept for the next request, so that
//! a heartbeat is a packet each way and not the opening, naming and closing of
//! a substream besides. Leaves to `exchange` what is said on them.

use std::sync::Mutex;

use futures::{AsyncReadExt, FutureExt};
use potluck_specs::Millis;

use crate::clock;

/// Kept at once per link: what a leader usually asks a node at the same time.
/// More are opened when needed, and closed afterwards.
const KEPT_MAX: usize = 8;

/// Not used again after this; well below the time after which the answering
/// side closes one (`exchange::NEXT_LIMIT`), so that none is closed under a
/// request.
const KEPT_LIMIT: Millis = Millis(20_000);

/// The idle substreams of a link, the last used on top.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<(Millis, libp2p::Stream)>>);

impl Kept {
    /// One on which the peer still listens.
    pub(super) fn take(&self) -> Option<libp2p::Stream> {
        let now = clock::boot_now();
        loop {
            let (since, mut stream) = self.0.lock().expect("no holder panics").pop()?;
            // Nothing is due to be read: what there is, is the end.
            let silent = stream.read(&mut [0]).now_or_never().is_none();
            if silent && now.since(since) < KEPT_LIMIT {
                return Some(stream);
            }
        }
    }

    /// Keeps one whose answer has been read to its end.
    pub(super) fn put(&self, mut stream: libp2p::Stream) {
        // A link without traffic is closed all the same.
        stream.ignore_for_keep_alive();
        let mut kept = self.0.lock().expect("no holder panics");
        if kept.len() < KEPT_MAX {
            kept.push((clock::boot_now(), stream));
        }
    }
}
