//! What a reader remembers: the newest slices of each service that it saw.
//!
//! A plain value; the caller brings the clock and the set of dead hosts. Reads
//! are monotonic: an older revision than one already seen is never taken. The
//! dead are left out of answers, but never so many that nobody is left: being
//! dead is only suspected, and a caller without any address can't even try.

use std::collections::{BTreeMap, BTreeSet};

use potluck_specs::{Millis, NodeId};

use super::{
    document::{Endpoint, Revision, ServiceName, Slice},
    table::KEPT_PAST_END,
};

/// Services remembered at most: more than a host's tasks talk to.
pub const SERVICES_MAX: usize = 4_096;

/// How long "there is no such service" is believed.
pub const ABSENT_FOR: Millis = Millis(1_000);

/// An endpoint of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedEndpoint {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its host is held for dead; only given because no other is left.
    pub suspect: bool,
}

/// What is known of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// Its endpoints, unhealthy ones included; in the publisher's order.
    pub endpoints: Vec<ResolvedEndpoint>,
    /// The newest revision among its slices.
    pub revision: Revision,
    /// Past its end, or a part is missing.
    pub stale: bool,
}

impl Resolution {
    /// Those that may be given to clients.
    pub fn healthy(&self) -> impl Iterator<Item = &ResolvedEndpoint> {
        self.endpoints
            .iter()
            .filter(|resolved| resolved.endpoint.healthy)
    }
}

/// How good the cache's knowledge of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedService {
    /// Never heard of, or forgotten: ask.
    Unknown,
    /// There was none a moment ago.
    Absent,
    /// Known.
    Known {
        /// What is known.
        resolution: Resolution,
        /// Past half of its life: ask meanwhile for a newer one.
        ageing: bool,
    },
}

/// The cache.
#[derive(Debug)]
pub struct ServiceCache {
    services: BTreeMap<ServiceName, Service>,
    absent: BTreeMap<ServiceName, Millis>,
    dead: BTreeSet<NodeId>,
    services_max: usize,
}

#[derive(Debug, Default)]
struct Service {
    parts: BTreeMap<u16, Slice>,
    used: Millis,
}

impl Default for ServiceCache {
    fn default() -> ServiceCache {
        ServiceCache::with_limit(SERVICES_MAX)
    }
}

impl ServiceCache {
    /// An empty cache for at most `services_max` services.
    pub fn with_limit(services_max: usize) -> ServiceCache {
        ServiceCache {
            services: BTreeMap::new(),
            absent: BTreeMap::new(),
            dead: BTreeSet::new(),
            services_max,
        }
    }

    /// Takes a verified slice; says whether it was news. `now` is Unix time.
    pub fn insert(&mut self, slice: Slice, now: Millis) -> bool {
        if slice.expires + KEPT_PAST_END <= now {
            return false;
        }
        self.absent.remove(&slice.name);
        if !self.services.contains_key(&slice.name) {
            self.make_room();
        }
        let service = self.services.entry(slice.name.clone()).or_default();
        service.used = service.used.max(now);
        service.forget_ended(now);
        let held = service.parts.get(&slice.part);
        let rank = |slice: &Slice| (slice.revision, slice.published);
        if held.is_some_and(|held| rank(held) >= rank(&slice)) {
            return false;
        }
        service.parts.insert(slice.part, slice);
        true
    }

    /// Notes that nobody knows the service.
    pub fn insert_absent(&mut self, name: ServiceName, now: Millis) {
        self.absent.retain(|_, until| *until > now);
        if self.absent.len() < self.services_max {
            self.absent.insert(name, now + ABSENT_FOR);
        }
    }

    /// Which hosts are held for dead.
    pub fn set_dead(&mut self, dead: BTreeSet<NodeId>) {
        self.dead = dead;
    }

    /// What is known of a service.
    pub fn look(&mut self, name: &ServiceName, now: Millis) -> CachedService {
        if let Some(service) = self.services.get_mut(name) {
            service.used = service.used.max(now);
            service.forget_ended(now);
            if let Some((resolution, ageing)) = service.resolve(&self.dead, now) {
                return CachedService::Known { resolution, ageing };
            }
            self.services.remove(name);
        }
        match self.absent.get(name) {
            Some(until) if *until > now => CachedService::Absent,
            _ => CachedService::Unknown,
        }
    }

    /// Which parts a complete answer needs: known from any part that is held.
    pub fn parts(&self, name: &ServiceName) -> u16 {
        self.services
            .get(name)
            .and_then(Service::newest)
            .map_or(1, |slice| slice.parts)
    }

    /// How many services are known.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    /// Is none known?
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Forgets the service that was not asked for the longest, if full.
    fn make_room(&mut self) {
        if self.services.len() < self.services_max {
            return;
        }
        let oldest = self.services.iter().min_by_key(|(_, service)| service.used);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.services.remove(&name);
        }
    }
}

impl Service {
    /// Beyond this age a slice is no answer any more. With it goes the memory
    /// of its revision, so that one of an absurd revision does no harm for ever.
    fn forget_ended(&mut self, now: Millis) {
        self.parts
            .retain(|_, slice| slice.expires + KEPT_PAST_END > now);
    }

    fn newest(&self) -> Option<&Slice> {
        self.parts.values().max_by_key(|slice| slice.revision)
    }

    fn resolve(&self, dead: &BTreeSet<NodeId>, now: Millis) -> Option<(Resolution, bool)> {
        let newest = self.newest()?;
        let parts: Vec<&Slice> = self
            .parts
            .range(..newest.parts)
            .map(|(_, slice)| slice)
            .collect();
        let complete = parts.len() == usize::from(newest.parts);
        let expired = parts.iter().any(|slice| slice.expires <= now);
        let half_life = |slice: &Slice| slice.published.0.midpoint(slice.expires.0);
        let ageing = !complete || parts.iter().any(|slice| half_life(slice) <= now.0);
        let all = parts
            .iter()
            .flat_map(|slice| slice.endpoints.iter().cloned());
        let resolution = Resolution {
            endpoints: without_dead(all.collect(), dead),
            revision: newest.revision,
            stale: expired || !complete,
        };
        Some((resolution, ageing))
    }
}

/// Leaves out the dead, unless no endpoint that could be used were left.
fn without_dead(endpoints: Vec<Endpoint>, dead: &BTreeSet<NodeId>) -> Vec<ResolvedEndpoint> {
    let usable_left = |endpoint: &Endpoint| endpoint.healthy && !dead.contains(&endpoint.node);
    let keep_dead = !endpoints.iter().any(usable_left);
    let resolved = endpoints.into_iter().map(|endpoint| ResolvedEndpoint {
        suspect: dead.contains(&endpoint.node),
        endpoint,
    });
    resolved
        .filter(|resolved| keep_dead || !resolved.suspect)
        .collect()
}
