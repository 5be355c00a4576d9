//! Asks for services and publishes them, cache first.
//!
//! A handle, cheap to clone. A service that the cache knows is answered at
//! once; past half of its life it is asked for meanwhile, and past its end the
//! network gets a moment to tell something newer. Of all who ask for an unknown
//! one at the same time, one asks the network.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, join_all},
    stream::FuturesUnordered,
};
use potluck_specs::{FleetId, Millis, NodeId};
use tokio::time::timeout;

use super::{
    cache::{CachedService, Resolution, ServiceCache},
    document::{Revision, ServiceName, SignedSlice, Slice, SliceError, SliceKey},
    lookup::{PutAnswer, SliceLookup},
};
use crate::{flight::Flights, spawn::spawn};

/// Nodes that hold a slice, as many as kad's replication: with 5, look-ups were
/// lost when measured.
pub const HOLDERS_MAX: usize = 20;

/// Holders asked at a time for one slice: one may be slow, one may be behind.
const ASKED_AT_ONCE: usize = 3;

/// Time for one answer of one holder; in a data centre it takes a millisecond.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Time for finding the nearest nodes.
const CLOSEST_WITHIN: Duration = Duration::from_secs(2);

/// Least time between two questions about one known service.
const REFRESH_EVERY: Millis = Millis(1_000);

/// How long a stale answer is held back for a newer one.
const STALE_AFTER: Duration = Duration::from_millis(250);

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This node knew it.
    Cache,
    /// Other nodes were asked.
    Dht,
}

/// The answer to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Endpoints, revision, staleness.
    pub resolution: Resolution,
    /// Where it comes from.
    pub source: Source,
    /// How many nodes were asked for it.
    pub asked: usize,
}

/// A service that can't be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nodes answered, and none knows it.
    #[error("no node knows service {0}")]
    Unknown(ServiceName),
    /// No node answered.
    #[error("none of the {asked} nodes that may know service {name} answered")]
    NoAnswer {
        /// The service.
        name: ServiceName,
        /// How many were asked.
        asked: usize,
    },
}

/// What came of publishing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// Nodes that were asked to keep it.
    pub asked: usize,
    /// Nodes that keep it.
    pub stored: usize,
    /// The highest newer revision that a node has; whoever published has been
    /// replaced, and should stop.
    pub newer: Option<Revision>,
}

/// Reads Unix time; given by the node.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The handle.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    fleet: FleetId,
    lookup: Arc<dyn SliceLookup>,
    clock: Clock,
    cache: Mutex<ServiceCache>,
    flights: Flights<ServiceName, Asked>,
    /// When refreshes of the last second began.
    refreshed: Mutex<BTreeMap<ServiceName, Millis>>,
}

/// What the network said about a service.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    asked: usize,
    answered: usize,
    found: usize,
}

impl Resolver {
    /// A resolver with an empty cache.
    pub fn new(fleet: FleetId, lookup: Arc<dyn SliceLookup>, clock: Clock) -> Resolver {
        Resolver(Arc::new(Inner {
            fleet,
            lookup,
            clock,
            cache: Mutex::new(ServiceCache::default()),
            flights: Flights::new(),
            refreshed: Mutex::new(BTreeMap::new()),
        }))
    }

    /// The endpoints of a service.
    ///
    /// # Errors
    /// [`ResolveError`] if neither the cache nor the network knows it.
    pub async fn resolve(&self, name: &ServiceName) -> Result<Resolved, ResolveError> {
        match self.look(name) {
            CachedService::Unknown => self.ask(name).await,
            CachedService::Absent => Err(ResolveError::Unknown(name.clone())),
            CachedService::Known { resolution, .. } if resolution.stale => {
                Ok(self.renew(name, resolution).await)
            }
            CachedService::Known { resolution, ageing } => {
                if ageing {
                    self.refresh(name);
                }
                Ok(from_cache(resolution))
            }
        }
    }

    /// The endpoints of a service as the nodes nearest to its key hold it now,
    /// whatever this node's cache says.
    ///
    /// # Errors
    /// [`ResolveError`] if the network does not know it.
    pub async fn resolve_fresh(&self, name: &ServiceName) -> Result<Resolved, ResolveError> {
        self.ask(name).await
    }

    /// What this node knows without asking anybody.
    pub fn known(&self, name: &ServiceName) -> Option<Resolution> {
        match self.look(name) {
            CachedService::Known { resolution, .. } => Some(resolution),
            CachedService::Absent | CachedService::Unknown => None,
        }
    }

    /// Takes a slice that somebody pushed; says whether it was news.
    ///
    /// # Errors
    /// Any [`SliceError`].
    pub fn learn(&self, signed: &SignedSlice) -> Result<bool, SliceError> {
        let now = self.0.now();
        let slice = signed.verify(self.0.fleet, now)?;
        Ok(self.0.cache().insert(slice, now))
    }

    /// Which hosts are held for dead: they are left out from now on.
    pub fn set_dead(&self, dead: BTreeSet<NodeId>) {
        self.0.cache().set_dead(dead);
    }

    /// Hands a slice to the nodes nearest to its key, and keeps it here.
    ///
    /// # Errors
    /// Any [`SliceError`]: one that readers would refuse is not sent.
    pub async fn publish(&self, signed: &SignedSlice) -> Result<PublishReport, SliceError> {
        let now = self.0.now();
        let slice = signed.verify(self.0.fleet, now)?;
        let key = slice.key();
        self.0.cache().insert(slice, now);
        let bytes = signed.encode();
        let holders = self.0.closest(key).await;
        let puts = holders.iter().map(|node| {
            let put = self.0.lookup.put(*node, bytes.clone());
            timeout(ANSWER_WITHIN, put)
        });
        let mut puts: FuturesUnordered<_> = puts.collect();
        let mut report = PublishReport {
            asked: holders.len(),
            ..PublishReport::default()
        };
        while let Some(answer) = puts.next().await {
            match answer {
                Ok(Ok(PutAnswer::Stored)) => report.stored += 1,
                Ok(Ok(PutAnswer::Newer(newer))) => {
                    let revision = self.0.take(key, &newer).map(|slice| slice.revision);
                    report.newer = report.newer.max(revision);
                }
                Ok(Ok(PutAnswer::Refused(why))) => {
                    tracing::debug!(?key, why, "slice refused by a holder");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(report)
    }

    fn look(&self, name: &ServiceName) -> CachedService {
        let now = self.0.now();
        self.0.cache().look(name, now)
    }

    /// Gives the network a moment to tell something newer than `stale`.
    async fn renew(&self, name: &ServiceName, stale: Resolution) -> Resolved {
        let Some(refresh) = self.refresh(name) else {
            return from_cache(stale);
        };
        let asked = timeout(STALE_AFTER, refresh).await.unwrap_or_default();
        match self.look(name) {
            CachedService::Known { resolution, .. } if resolution != stale => Resolved {
                resolution,
                source: Source::Dht,
                asked: asked.asked,
            },
            _ => Resolved {
                asked: asked.asked,
                ..from_cache(stale)
            },
        }
    }

    async fn ask(&self, name: &ServiceName) -> Result<Resolved, ResolveError> {
        let asked = self.join(name).await;
        if let CachedService::Known { resolution, .. } = self.look(name) {
            let source = if asked.found > 0 {
                Source::Dht
            } else {
                Source::Cache
            };
            return Ok(Resolved {
                resolution,
                source,
                asked: asked.asked,
            });
        }
        if asked.answered == 0 {
            return Err(ResolveError::NoAnswer {
                name: name.clone(),
                asked: asked.asked,
            });
        }
        let now = self.0.now();
        self.0.cache().insert_absent(name.clone(), now);
        Err(ResolveError::Unknown(name.clone()))
    }

    /// Asks in the background, unless that was begun less than
    /// [`REFRESH_EVERY`] ago.
    fn refresh(&self, name: &ServiceName) -> Option<impl Future<Output = Asked> + use<>> {
        let now = self.0.now();
        let mut refreshed = self.0.refreshed();
        refreshed.retain(|_, began| now.since(*began) < REFRESH_EVERY);
        if refreshed.contains_key(name) {
            return None;
        }
        refreshed.insert(name.clone(), now);
        drop(refreshed);
        let asked = self.join(name);
        spawn("slice refresh", asked.clone().map(drop));
        Some(asked)
    }

    fn join(&self, name: &ServiceName) -> Shared<BoxFuture<'static, Asked>> {
        let (inner, service) = (Arc::clone(&self.0), name.clone());
        let start = || async move { inner.ask_network(&service).await }.boxed();
        self.0.flights.join(name.clone(), start)
    }
}

fn from_cache(resolution: Resolution) -> Resolved {
    Resolved {
        resolution,
        source: Source::Cache,
        asked: 0,
    }
}

impl Inner {
    fn now(&self) -> Millis {
        (self.clock)()
    }

    fn cache(&self) -> MutexGuard<'_, ServiceCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshed(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Millis>> {
        self.refreshed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn closest(&self, key: SliceKey) -> Vec<NodeId> {
        let nodes = timeout(CLOSEST_WITHIN, self.lookup.closest(key)).await;
        let mut nodes = nodes.unwrap_or_default();
        nodes.truncate(HOLDERS_MAX);
        nodes
    }

    /// Asks for the first part, then for as many more as it says there are.
    async fn ask_network(&self, name: &ServiceName) -> Asked {
        let mut all = self.ask_part(name, 0).await;
        if all.found == 0 {
            return all;
        }
        let parts = self.cache().parts(name);
        for part in 1..parts {
            let asked = self.ask_part(name, part).await;
            all.asked += asked.asked;
            all.answered += asked.answered;
            all.found += asked.found;
        }
        all
    }

    /// Asks the nearest nodes, some at a time, until some have it.
    async fn ask_part(&self, name: &ServiceName, part: u16) -> Asked {
        let key = SliceKey::of(self.fleet, name, part);
        let mut holders: VecDeque<NodeId> = self.closest(key).await.into();
        let mut sum = Asked::default();
        while sum.found == 0 && !holders.is_empty() {
            let wave: Vec<NodeId> = holders.drain(..holders.len().min(ASKED_AT_ONCE)).collect();
            let gets = wave
                .iter()
                .map(|node| timeout(ANSWER_WITHIN, self.lookup.get(*node, key)));
            let answers = join_all(gets).await;
            sum.asked += wave.len();
            for answer in answers.into_iter().flatten().flatten() {
                sum.answered += 1;
                let taken = answer.and_then(|bytes| self.take(key, &bytes));
                sum.found += usize::from(taken.is_some());
            }
        }
        sum
    }

    /// Verifies a slice that somebody gave for `key` and keeps it.
    fn take(&self, key: SliceKey, bytes: &[u8]) -> Option<Slice> {
        let now = self.now();
        let verified = SignedSlice::decode(bytes).and_then(|signed| signed.verify(self.fleet, now));
        match verified {
            Ok(slice) if slice.key() == key => {
                self.cache().insert(slice.clone(), now);
                Some(slice)
            }
            Ok(_) => None,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "slice refused");
                None
            }
        }
    }
}
