//! What a fetch took from whom: kept beside the package, shown by `status`.

use std::collections::BTreeMap;

use super::plan::DropReason;
use crate::store::{ChunkStore, StoreError};
use potluck_specs::{Millis, NodeId, PackageId, codec};
use serde::{Deserialize, Serialize};

/// What one fetch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchReport {
    /// Uncompressed bytes by the peer that gave them first. Their sum is what
    /// was missing when the fetch began.
    pub bytes_by_source: BTreeMap<NodeId, u64>,
    /// Peers that gave wrong answers.
    pub dropped: BTreeMap<NodeId, DropReason>,
    /// Different chunks of the package that were here before.
    pub resumed_chunks: u64,
    /// Different chunks that were fetched.
    pub fetched_chunks: u64,
    /// From the first question to the last chunk.
    pub duration: Millis,
}

impl FetchReport {
    /// All bytes that were fetched.
    pub fn bytes(&self) -> u64 {
        self.bytes_by_source.values().sum()
    }

    /// The sum of all fetches of a package that this node made, if any.
    pub fn stored(store: &ChunkStore, id: PackageId) -> Option<FetchReport> {
        let bytes = store.report_bytes(id)?;
        codec::decode("fetch report", &bytes, bytes.len()).ok()
    }

    pub(super) fn store(&self, store: &ChunkStore, id: PackageId) -> Result<(), StoreError> {
        store.put_report(id, &codec::encode(self))
    }

    pub(super) fn plus(mut self, later: FetchReport) -> FetchReport {
        for (node, bytes) in later.bytes_by_source {
            *self.bytes_by_source.entry(node).or_default() += bytes;
        }
        self.dropped.extend(later.dropped);
        self.fetched_chunks += later.fetched_chunks;
        self.duration = self.duration + later.duration;
        self
    }
}
