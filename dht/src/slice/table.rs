//! What a holder keeps: the newest slice of each key that was put to it.
//!
//! A plain value; the caller brings the clock. For one key, whatever the order
//! in which slices arrive, the one with the highest revision stays, and who
//! brings a lower one is answered with it.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Revision, SignedSlice, Slice, SliceKey};
use potluck_specs::{FleetId, Millis};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Slices kept at most, some 60 MB at the usual 6 KB.
pub const SLICES_MAX: usize = 10_000;

/// How long past its end a slice is still given out: with no scheduler nobody
/// renews it, and an old answer flagged as such beats none.
pub const KEPT_PAST_END: Millis = Millis(10 * 60_000);

/// A request to a holder of slices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SliceRequest {
    /// The slice of a key.
    Get(SliceKey),
    /// Keep this signed slice.
    Put(ByteBuf),
    /// A request of a newer version.
    #[serde(other)]
    Unknown,
}

/// The answer to a [`SliceRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SliceResponse {
    /// The signed slice, if there.
    Found(Option<ByteBuf>),
    /// Kept, or already there.
    Stored,
    /// A newer one is there: this.
    Newer(ByteBuf),
    /// Not kept, for people.
    Refused(String),
    /// A request of a newer version.
    #[serde(other)]
    Unsupported,
}

/// What came of putting a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAnswer {
    /// It is now the newest, or was already there.
    Stored,
    /// A newer one is there: its signed bytes.
    Older(Vec<u8>),
    /// Its time is over.
    Expired,
    /// [`SLICES_MAX`] live slices of other keys are there.
    Full,
}

/// The slices that a node holds for others.
#[derive(Debug)]
pub struct SliceStore {
    fleet: FleetId,
    slices: BTreeMap<SliceKey, Held>,
    /// Ends of keeping, soonest first.
    ends: BTreeSet<(Millis, SliceKey)>,
    slices_max: usize,
}

#[derive(Debug)]
struct Held {
    rank: Rank,
    keep_until: Millis,
    bytes: Vec<u8>,
}

/// Orders slices of one key. Two different slices of one revision are a fault
/// of the publisher; the rest of the rank makes all holders keep the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(Revision, Millis, [u8; 32]);

impl SliceStore {
    /// An empty table of this fleet.
    pub fn new(fleet: FleetId) -> SliceStore {
        SliceStore::with_limit(fleet, SLICES_MAX)
    }

    /// An empty table that keeps at most `slices_max`.
    pub fn with_limit(fleet: FleetId, slices_max: usize) -> SliceStore {
        SliceStore {
            fleet,
            slices: BTreeMap::new(),
            ends: BTreeSet::new(),
            slices_max,
        }
    }

    /// Answers a peer. `now` is Unix time.
    pub fn answer(&mut self, request: SliceRequest, now: Millis) -> SliceResponse {
        match request {
            SliceRequest::Get(key) => SliceResponse::Found(
                self.get(key, now)
                    .map(|bytes| ByteBuf::from(bytes.to_vec())),
            ),
            SliceRequest::Put(bytes) => self.answer_put(&bytes, now),
            SliceRequest::Unknown => SliceResponse::Unsupported,
        }
    }

    fn answer_put(&mut self, bytes: &[u8], now: Millis) -> SliceResponse {
        let verified = SignedSlice::decode(bytes)
            .and_then(|signed| signed.verify(self.fleet, now).map(|slice| (signed, slice)));
        match verified {
            Err(error) => SliceResponse::Refused(error.to_string()),
            Ok((signed, slice)) => match self.store(&slice, &signed, now) {
                StoreAnswer::Stored => SliceResponse::Stored,
                StoreAnswer::Older(newer) => SliceResponse::Newer(newer.into()),
                StoreAnswer::Expired => SliceResponse::Refused("the slice has expired".into()),
                StoreAnswer::Full => SliceResponse::Refused("the table of slices is full".into()),
            },
        }
    }

    /// Keeps a slice unless a newer one is there. `slice` must be what
    /// [`SignedSlice::verify`] gave for `signed`.
    pub fn store(&mut self, slice: &Slice, signed: &SignedSlice, now: Millis) -> StoreAnswer {
        self.forget_ended(now);
        let keep_until = slice.expires + KEPT_PAST_END;
        if keep_until <= now {
            return StoreAnswer::Expired;
        }
        let key = slice.key();
        let hash = *blake3::hash(&signed.slice.bytes).as_bytes();
        let rank = Rank(slice.revision, slice.published, hash);
        if let Some(held) = self.slices.get(&key) {
            if held.rank == rank {
                return StoreAnswer::Stored;
            }
            if held.rank > rank {
                return StoreAnswer::Older(held.bytes.clone());
            }
            self.ends.remove(&(held.keep_until, key));
        } else if self.slices.len() >= self.slices_max {
            return StoreAnswer::Full;
        }
        self.ends.insert((keep_until, key));
        let bytes = signed.encode();
        self.slices.insert(
            key,
            Held {
                rank,
                keep_until,
                bytes,
            },
        );
        debug_assert_eq!(self.ends.len(), self.slices.len());
        StoreAnswer::Stored
    }

    /// The signed bytes of a key's newest slice.
    pub fn get(&mut self, key: SliceKey, now: Millis) -> Option<&[u8]> {
        self.forget_ended(now);
        self.slices.get(&key).map(|held| held.bytes.as_slice())
    }

    /// How many slices are held.
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// Is none held?
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn forget_ended(&mut self, now: Millis) {
        while let Some(&(end, key)) = self.ends.first() {
            if end > now {
                break;
            }
            self.ends.pop_first();
            self.slices.remove(&key);
        }
    }
}
