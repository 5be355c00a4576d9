//! Carries out a [`FetchPlan`]: asks, verifies, stores, tells the plan.
//!
//! Everything is one future without actors of its own. Dropping it stops the
//! fetch; what has arrived is stored, and the next fetch goes on from there.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use potluck_specs::{ChunkHash, Millis, NodeId, PackageId, package::Manifest};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, timeout},
};

use super::{
    plan::{Effect, Event, FetchPlan, Limits, Progress, Received, RequestId},
    report::FetchReport,
    source::{ChunkSource, PeerHint, SourceError},
    wire::{Have, PackedChunk},
};
use crate::{
    spawn::blocking,
    store::{ChunkStore, ManifestStoreError, PutError, StoreError, distinct_chunks, files},
};

/// How often the plan is told that time went by.
const TICK: Duration = Duration::from_millis(100);

/// While one peer is asked for the manifest, another is asked after this.
const MANIFEST_HEDGE: Duration = Duration::from_millis(500);

/// A fetch that did not get everything. What it got stays.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// None of the peers gave the manifest.
    #[error("none of {peers} peers gave the manifest of package {id}")]
    NoManifest {
        /// The package.
        id: PackageId,
        /// How many were asked.
        peers: usize,
        /// What the last of them said, if it said anything.
        #[source]
        last: Option<SourceError>,
    },
    /// Chunks are missing that no peer gives.
    #[error("none of {peers} peers gives the {chunks} missing chunks of package {id}")]
    Stuck {
        /// The package.
        id: PackageId,
        /// How many are missing.
        chunks: usize,
        /// How many peers were known.
        peers: usize,
        /// What the last failing peer said, if one did.
        #[source]
        last: Option<SourceError>,
    },
    /// Our own disk fails; a full one is told apart.
    #[error("can't store the package")]
    Store(#[from] StoreError),
}

/// Fetches what is missing of a package from `peers`.
///
/// # Errors
/// Any [`FetchError`].
pub async fn fetch(
    store: &ChunkStore,
    id: PackageId,
    peers: Vec<PeerHint>,
    source: Arc<dyn ChunkSource>,
    limits: Limits,
) -> Result<FetchReport, FetchError> {
    let (_, no_more) = mpsc::channel(1);
    fetch_with(store, id, peers, source, limits, no_more).await
}

/// As [`fetch`], and takes further peers while it runs.
///
/// # Errors
/// Any [`FetchError`].
pub async fn fetch_with(
    store: &ChunkStore,
    id: PackageId,
    peers: Vec<PeerHint>,
    source: Arc<dyn ChunkSource>,
    limits: Limits,
    more_peers: mpsc::Receiver<Vec<PeerHint>>,
) -> Result<FetchReport, FetchError> {
    let began = Instant::now();
    let mut bad = Vec::new();
    let manifest = find_manifest(store, id, &peers, &source, limits, &mut bad).await?;
    let (distinct, missing) = in_store(store, move |store| {
        let missing = store.missing(&manifest);
        Ok((distinct_chunks(&manifest), missing))
    })
    .await?;
    let resumed = distinct.len() - missing.len();
    let salt = blake3::hash(files::unique_name().as_bytes());
    let salt = u64::from_be_bytes(*salt.as_bytes().first_chunk().expect("8 of 32 bytes"));
    let mut run = Run {
        id,
        store: store.clone(),
        source,
        limits,
        began,
        plan: FetchPlan::new(&distinct, &missing, limits, salt, Millis(0)),
        have_bytes_max: distinct.len().div_ceil(8),
        asked: FuturesUnordered::new(),
        more_peers: Some(more_peers),
        peers: peers.len(),
        last_failure: None,
    };
    let result = run.run(peers, bad).await;
    let report = FetchReport {
        bytes_by_source: run.plan.bytes_by_source().clone(),
        dropped: run.plan.dropped(),
        resumed_chunks: resumed as u64,
        fetched_chunks: (missing.len() - run.plan.left()) as u64,
        duration: run.now(),
    };
    keep_report(store, id, &report).await;
    result.map(|()| report)
}

/// Adds to what earlier fetches of the package reported. A report that can't
/// be kept is no reason to fail.
async fn keep_report(store: &ChunkStore, id: PackageId, report: &FetchReport) {
    if report.fetched_chunks == 0 && report.dropped.is_empty() {
        return;
    }
    let report = report.clone();
    let kept = in_store(store, move |store| {
        let sum = match FetchReport::stored(store, id) {
            Some(before) => before.plus(report),
            None => report,
        };
        sum.store(store, id)
    });
    if let Err(error) = kept.await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(package = %id, error, "fetch report not kept");
    }
}

async fn in_store<T: Send + 'static>(
    store: &ChunkStore,
    work: impl FnOnce(&ChunkStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    blocking(move || work(&store)).await
}

/// Out of the store, or from the first peer that gives the right one. Those
/// that give a wrong one are noted in `bad`.
async fn find_manifest(
    store: &ChunkStore,
    id: PackageId,
    peers: &[PeerHint],
    source: &Arc<dyn ChunkSource>,
    limits: Limits,
    bad: &mut Vec<NodeId>,
) -> Result<Manifest, FetchError> {
    let stored = in_store(store, move |store| match store.manifest(id) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(ManifestStoreError::Store(error)) => Err(error),
        Err(ManifestStoreError::Missing(_) | ManifestStoreError::Refused { .. }) => Ok(None),
    });
    if let Some(manifest) = stored.await? {
        return Ok(manifest);
    }
    let mut order = peers.to_vec();
    order.sort_by_key(|peer| !peer.same_rack);
    let mut order = order.into_iter();
    let mut asked = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(peer) = order.next() {
            asked.push(ask_manifest(Arc::clone(source), peer.node, id, limits));
        } else if asked.is_empty() {
            let peers = peers.len();
            return Err(FetchError::NoManifest { id, peers, last });
        }
        // The last one has no other to be hedged with; its own limit ends it.
        let answer = match order.len() {
            0 => asked.next().await,
            _ => timeout(MANIFEST_HEDGE, asked.next())
                .await
                .unwrap_or_default(),
        };
        match answer {
            None | Some((_, Ok(None))) => {}
            Some((_, Err(error))) => last = Some(error),
            Some((node, Ok(Some(bytes)))) => match keep_manifest(store, id, bytes).await? {
                Some(manifest) => return Ok(manifest),
                None => {
                    tracing::warn!(peer = %node, package = %id, "peer gave a wrong manifest");
                    bad.push(node);
                }
            },
        }
    }
}

async fn ask_manifest(
    source: Arc<dyn ChunkSource>,
    node: NodeId,
    id: PackageId,
    limits: Limits,
) -> (NodeId, Result<Option<Vec<u8>>, SourceError>) {
    let limit = Duration::from_millis(limits.chunks_within.0);
    let answer = timeout(limit, source.manifest(node, id)).await;
    (node, answer.unwrap_or_else(|_| Err(too_slow())))
}

async fn keep_manifest(
    store: &ChunkStore,
    id: PackageId,
    bytes: Vec<u8>,
) -> Result<Option<Manifest>, StoreError> {
    in_store(store, move |store| match store.put_manifest(id, &bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(ManifestStoreError::Store(error)) => Err(error),
        Err(ManifestStoreError::Missing(_) | ManifestStoreError::Refused { .. }) => Ok(None),
    })
    .await
}

fn too_slow() -> SourceError {
    SourceError::Unreachable("no answer in time".into())
}

/// What came of one effect.
struct Outcome {
    event: Event,
    failure: Option<SourceError>,
}

struct Run {
    id: PackageId,
    store: ChunkStore,
    source: Arc<dyn ChunkSource>,
    limits: Limits,
    began: Instant,
    plan: FetchPlan,
    /// Length of a bitmap of this package; a longer one is refused.
    have_bytes_max: usize,
    asked: FuturesUnordered<BoxFuture<'static, Result<Outcome, StoreError>>>,
    more_peers: Option<mpsc::Receiver<Vec<PeerHint>>>,
    peers: usize,
    last_failure: Option<SourceError>,
}

impl Run {
    async fn run(&mut self, peers: Vec<PeerHint>, bad: Vec<NodeId>) -> Result<(), FetchError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell(Event::Peers(peers));
        for node in bad {
            self.tell(Event::BadManifest(node));
        }
        loop {
            match self.plan.progress(self.now()) {
                Progress::Running => {}
                Progress::Done => return Ok(()),
                Progress::Stuck => {
                    return Err(FetchError::Stuck {
                        id: self.id,
                        chunks: self.plan.left(),
                        peers: self.peers,
                        last: self.last_failure.take(),
                    });
                }
            }
            tokio::select! {
                Some(outcome) = self.asked.next() => {
                    let outcome = outcome?;
                    self.last_failure = outcome.failure.or(self.last_failure.take());
                    self.tell(outcome.event);
                }
                hints = next_hints(&mut self.more_peers) => {
                    self.peers += hints.len();
                    self.tell(Event::Peers(hints));
                }
                _ = tick.tick() => self.tell(Event::Tick),
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn tell(&mut self, event: Event) {
        for effect in self.plan.step(event, self.now()) {
            let asked = match effect {
                Effect::AskHave(node) => self.ask_have(node),
                Effect::AskChunks {
                    request,
                    node,
                    hashes,
                } => self.ask_chunks(request, node, hashes),
            };
            self.asked.push(asked);
        }
    }

    fn ask_have(&self, node: NodeId) -> BoxFuture<'static, Result<Outcome, StoreError>> {
        let (source, id) = (Arc::clone(&self.source), self.id);
        let limit = Duration::from_millis(self.limits.answer_within.0);
        let bytes_max = self.have_bytes_max;
        async move {
            let answer = timeout(limit, source.have(node, id)).await;
            let outcome = match answer.unwrap_or_else(|_| Err(too_slow())) {
                Ok(Have::Some(bits)) if bits.len() > bytes_max => {
                    let why = SourceError::BadAnswer("it has more chunks than there are".into());
                    Outcome::failed(Event::HaveFailed(node), why)
                }
                Ok(have) => Outcome::good(Event::Have(node, have)),
                Err(error) => Outcome::failed(Event::HaveFailed(node), error),
            };
            Ok(outcome)
        }
        .boxed()
    }

    fn ask_chunks(
        &self,
        request: RequestId,
        node: NodeId,
        hashes: Vec<ChunkHash>,
    ) -> BoxFuture<'static, Result<Outcome, StoreError>> {
        let (source, store, id) = (Arc::clone(&self.source), self.store.clone(), self.id);
        let limit = Duration::from_millis(self.limits.chunks_within.0);
        async move {
            let answer = timeout(limit, source.chunks(node, id, hashes.clone())).await;
            let chunks = match answer.unwrap_or_else(|_| Err(too_slow())) {
                Ok(chunks) if chunks.len() == hashes.len() => chunks,
                Ok(_) => {
                    let why = SourceError::BadAnswer("another number of chunks".into());
                    return Ok(Outcome::failed(Event::Failed(request), why));
                }
                Err(SourceError::Busy) => {
                    return Ok(Outcome::failed(Event::Busy(request), SourceError::Busy));
                }
                Err(error) => return Ok(Outcome::failed(Event::Failed(request), error)),
            };
            let received = blocking(move || store_all(&store, node, &hashes, chunks)).await?;
            Ok(Outcome::good(Event::Arrived(request, received)))
        }
        .boxed()
    }
}

impl Outcome {
    fn good(event: Event) -> Outcome {
        Outcome {
            event,
            failure: None,
        }
    }

    fn failed(event: Event, failure: SourceError) -> Outcome {
        Outcome {
            event,
            failure: Some(failure),
        }
    }
}

/// Further peers; never, once nobody can send any.
async fn next_hints(more: &mut Option<mpsc::Receiver<Vec<PeerHint>>>) -> Vec<PeerHint> {
    if let Some(receiver) = more {
        if let Some(hints) = receiver.recv().await {
            return hints;
        }
        *more = None;
    }
    std::future::pending().await
}

fn store_all(
    store: &ChunkStore,
    from: NodeId,
    hashes: &[ChunkHash],
    chunks: Vec<Option<PackedChunk>>,
) -> Result<Vec<Received>, StoreError> {
    let mut received = Vec::with_capacity(hashes.len());
    for (hash, chunk) in hashes.iter().zip(chunks) {
        received.push(match chunk.map(|chunk| store.put_packed(*hash, &chunk)) {
            None => Received::Denied,
            Some(Ok(_)) => Received::Stored,
            Some(Err(PutError::Mismatch(_))) => {
                tracing::warn!(peer = %from, chunk = %hash, "peer gave a corrupt chunk");
                Received::Corrupt
            }
            Some(Err(PutError::Store(error))) => return Err(error),
        });
    }
    Ok(received)
}

#[cfg(test)]
pub(crate) mod tests;
