//! What the transport counts: traffic, and dropped datagrams by cause.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Why a datagram, or a message made of several, was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropCause {
    /// Too short, too long, or of another version of the form.
    Malformed,
    /// Sealed under a key that is not in the ring.
    UnknownKey,
    /// It does not open: changed on the way, or of another fleet or cluster.
    NotSealed,
    /// Seen before, or older than the window of counters.
    Replayed,
    /// Our own: chitchat also asks its former life, at the same address.
    Own,
    /// From before the sender's last start.
    OldEpoch,
    /// Sent too long ago, or in the future: an old recording, or a host whose
    /// clock is wrong.
    Stale,
    /// The sender's signature does not hold.
    Signature,
    /// Its sender's certificate is not known here yet.
    UnknownSender,
    /// Its sender's certificate is not accepted here.
    Credential,
    /// Its sender's certificate was revoked.
    Revoked,
    /// Its sender sent garbage a moment ago.
    Muted,
    /// Parts of it went missing, or contradict each other.
    Reassembly,
    /// Properly sealed, but chitchat can't read it.
    Garbage,
}

impl DropCause {
    /// Every cause.
    pub const ALL: [DropCause; 14] = [
        DropCause::Malformed,
        DropCause::UnknownKey,
        DropCause::NotSealed,
        DropCause::Replayed,
        DropCause::Own,
        DropCause::OldEpoch,
        DropCause::Stale,
        DropCause::Signature,
        DropCause::UnknownSender,
        DropCause::Credential,
        DropCause::Revoked,
        DropCause::Muted,
        DropCause::Reassembly,
        DropCause::Garbage,
    ];

    fn index(self) -> usize {
        self as usize
    }
}

/// A look at the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Bytes sent in them.
    pub bytes_sent: u64,
    /// Datagrams received, whatever became of them.
    pub datagrams_received: u64,
    /// Bytes received in them.
    pub bytes_received: u64,
    /// Whole messages that were handed to chitchat.
    pub messages_accepted: u64,
    /// Dropped, by cause; causes that never occurred are missing.
    pub dropped: BTreeMap<DropCause, u64>,
    /// Messages of senders whose certificate has ended and is in its grace.
    pub in_grace: u64,
    /// The codec on loopback was opened anew because it yielded nothing.
    pub codec_reopened: u64,
    /// Gossip was started anew because chitchat had stopped.
    pub restarts: u64,
    /// Size of the last digest sent; past 64 KiB chitchat can't go on.
    pub digest_bytes: u64,
    /// How often the digest has passed the size that calls for a person.
    pub digest_alarms: u64,
}

impl Counters {
    /// Dropped for any cause.
    pub fn dropped_in_all(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Dropped for this cause.
    pub fn dropped(&self, cause: DropCause) -> u64 {
        self.dropped.get(&cause).copied().unwrap_or(0)
    }
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) datagrams_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) datagrams_received: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) messages_accepted: AtomicU64,
    pub(crate) in_grace: AtomicU64,
    pub(crate) codec_reopened: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) digest_bytes: AtomicU64,
    pub(crate) digest_alarms: AtomicU64,
    dropped: [AtomicU64; DropCause::ALL.len()],
}

impl Counting {
    pub(crate) fn drop_for(&self, cause: DropCause) {
        self.dropped[cause.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn look(&self) -> Counters {
        let dropped = DropCause::ALL
            .into_iter()
            .map(|cause| (cause, self.dropped[cause.index()].load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Counters {
            datagrams_sent: self.datagrams_sent.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            datagrams_received: self.datagrams_received.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            messages_accepted: self.messages_accepted.load(Relaxed),
            dropped,
            in_grace: self.in_grace.load(Relaxed),
            codec_reopened: self.codec_reopened.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
            digest_bytes: self.digest_bytes.load(Relaxed),
            digest_alarms: self.digest_alarms.load(Relaxed),
        }
    }
}
