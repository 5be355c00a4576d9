//! Where services are: the scheduler's publisher, what this node holds for
//! others, and the resolver that answers people and programs.

use super::shared::Shared;
use crate::{
    api::error::{ApiError, ErrorCode},
    cli::chain,
    clock,
    network::Network,
    wire::{Request, Response},
};
use async_trait::async_trait;
use futures::StreamExt;
use potluck_core::{
    auction::Authority,
    cluster::Cluster,
    scheduler::{ServiceEndpoints, SessionState},
};
use potluck_dht::slice::{
    Endpoint, LookupError, Resolved, Resolver, Revision, ServiceName, SignedSlice, Slice, SliceKey,
    SliceLookup, SliceRequest, SliceResponse, SliceStore, split,
};
use potluck_specs::{Millis, NodeId, trust::NodeCertificate};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How long a slice is fresh: a node that missed a change asks anew at half of
/// it.
const SLICE_LIFE: Millis = Millis(30_000);

/// How often each slice is published again, so that new holders get it.
const REPUBLISH: Duration = Duration::from_secs(10);

/// Services published at the same time: one slow holder must not hold up the
/// rest.
const PUBLISHED_AT_ONCE: usize = 32;

/// How often the clock of the publisher ticks.
const TICK: Duration = Duration::from_millis(500);

/// How long one holder may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Handle of this node's discovery.
#[derive(Clone)]
pub(super) struct Discovery {
    cluster: String,
    store: Arc<Mutex<SliceStore>>,
    resolver: Resolver,
}

impl Discovery {
    /// With nothing known yet.
    pub(super) fn new(certificate: &NodeCertificate, network: Network, me: NodeId) -> Discovery {
        let store = Arc::new(Mutex::new(SliceStore::new(certificate.fleet)));
        let lookup = Lookup {
            network,
            me,
            store: store.clone(),
        };
        let resolver = Resolver::new(
            certificate.fleet,
            Arc::new(lookup),
            Arc::new(clock::unix_now),
        );
        Discovery {
            cluster: certificate.topology.cluster.clone(),
            store,
            resolver,
        }
    }

    /// Answers a request about slices that this node holds. What it is given
    /// to hold also freshens its own cache.
    pub(super) fn answer(&self, request: SliceRequest) -> SliceResponse {
        if let SliceRequest::Put(bytes) = &request
            && let Ok(signed) = SignedSlice::decode(bytes)
            && let Err(error) = self.resolver.learn(&signed)
        {
            tracing::debug!(error = %chain(&error), "a slice that was put here does not hold");
        }
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.answer(request, clock::unix_now())
    }

    /// Where a service is; `fresh`: by the nodes that hold it, past the cache.
    ///
    /// # Errors
    /// Nobody knows it, or nobody answered.
    pub(super) async fn resolve(
        &self,
        namespace: &str,
        service: &str,
        fresh: bool,
    ) -> Result<Resolved, ApiError> {
        let name = ServiceName {
            cluster: self.cluster.clone(),
            namespace: namespace.into(),
            service: service.into(),
        };
        let resolved = match fresh {
            true => self.resolver.resolve_fresh(&name).await,
            false => self.resolver.resolve(&name).await,
        };
        resolved.map_err(|error| {
            ApiError::new(ErrorCode::NotFound, chain(&error))
                .hint("services are named in a job's spec; see potluck status")
        })
    }

    /// Which hosts are held for dead.
    pub(super) fn set_dead(&self, dead: BTreeSet<NodeId>) {
        self.resolver.set_dead(dead);
    }
}

/// Slices over the network's hash table.
struct Lookup {
    network: Network,
    me: NodeId,
    store: Arc<Mutex<SliceStore>>,
}

#[async_trait]
impl SliceLookup for Lookup {
    async fn closest(&self, key: SliceKey) -> Vec<NodeId> {
        self.network.closest(key.0).await
    }

    async fn ask(&self, to: NodeId, request: SliceRequest) -> Result<SliceResponse, LookupError> {
        if to == self.me {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(store.answer(request, clock::unix_now()));
        }
        match self
            .network
            .request(to, Request::Slice(request), ANSWER_WAIT)
            .await
        {
            Ok(Response::Slice(response)) => Ok(response),
            Ok(_) => Err(LookupError::BadAnswer),
            Err(error) => Err(LookupError::Unreachable(chain(&error))),
        }
    }
}

/// What the scheduler wants published: the latest word on each service, never
/// a queue, so the scheduler waits for nobody. Bounded by the services that
/// there are.
#[derive(Clone, Default)]
pub(super) struct Outbox {
    wanted: Arc<Mutex<BTreeMap<ServiceKey, Publication>>>,
    wake: Arc<Notify>,
}

/// Namespace and service.
type ServiceKey = (String, String);

/// A service as the scheduler last said it.
#[derive(Clone)]
struct Publication {
    /// Whose word it is: it is published under this authority or not at all.
    authority: Authority,
    service: ServiceEndpoints,
    due: Instant,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, Publication>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes this instead of what was said of the service before.
    pub(super) fn put(&self, authority: Authority, service: ServiceEndpoints) {
        let key = (service.namespace.clone(), service.service.clone());
        let publication = Publication {
            authority,
            service,
            due: Instant::now(),
        };
        self.lock().insert(key, publication);
        self.wake.notify_one();
    }

    /// What is due under `authority`, to be repeated later; what was said
    /// under another is forgotten.
    fn take_due(&self, authority: Authority) -> Vec<ServiceEndpoints> {
        let now = Instant::now();
        let mut wanted = self.lock();
        wanted.retain(|_, publication| publication.authority >= authority);
        wanted
            .values_mut()
            .filter(|publication| publication.authority == authority && publication.due <= now)
            .map(|publication| {
                publication.due = now + REPUBLISH;
                publication.service.clone()
            })
            .collect()
    }
}

/// Publishes what the scheduler says, and again before it expires, while this
/// node leads.
pub(super) async fn publish(shared: Arc<Shared>, outbox: Outbox, token: CancellationToken) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut counter = 0;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = outbox.wake.notified() => {}
            _ = ticks.tick() => see_dead(&shared).await,
        }
        // What may not be said now stays due.
        let Some(authority) = may_publish(&shared).await else {
            continue;
        };
        let due = outbox.take_due(authority).into_iter().map(|service| {
            counter += 1;
            publish_one(&shared, authority, service, counter)
        });
        let due: Vec<_> = due.collect();
        futures::stream::iter(due)
            .buffer_unordered(PUBLISHED_AT_ONCE)
            .for_each(|()| async {})
            .await;
    }
}

/// The authority under which this node may speak: only a scheduler that most
/// voters still follow has one.
async fn may_publish(shared: &Arc<Shared>) -> Option<Authority> {
    if !shared.we_lead() {
        return None;
    }
    let look = shared.scheduling.look(|scheduler, _| {
        let may = scheduler.may_act(clock::boot_now());
        may.then(|| scheduler.authority())
    });
    look.await.flatten()
}

/// Hosts that the scheduler holds for dead, on the leader; elsewhere those
/// that gossip suspects are left to the slices, which the leader renews.
async fn see_dead(shared: &Arc<Shared>) {
    let dead = shared
        .scheduling
        .look(|scheduler, state| {
            let hosts = scheduler.hosts(state).into_iter();
            hosts
                .filter(|host| host.session == SessionState::Dead)
                .map(|host| host.node)
                .collect()
        })
        .await;
    if let Some(dead) = dead {
        shared.discovery.set_dead(dead);
    }
}

async fn publish_one(
    shared: &Arc<Shared>,
    authority: Authority,
    service: ServiceEndpoints,
    counter: u64,
) {
    let slices = match split(slice(shared, authority, &service, counter)) {
        Ok(slices) => slices,
        Err(error) => {
            let service = &service.service;
            tracing::error!(service, error = %chain(&error), "a service can't be published");
            return;
        }
    };
    for slice in slices {
        let name = slice.name.to_string();
        let signed = SignedSlice::sign(&slice, &shared.me.key, shared.admission.credential());
        let published = match signed {
            Ok(signed) => shared.discovery.resolver.publish(&signed).await,
            Err(error) => Err(error),
        };
        match published {
            Ok(report) if report.newer.is_some() => {
                tracing::warn!(
                    service = name,
                    "a newer scheduler has published this service"
                );
            }
            Ok(report) => {
                tracing::debug!(
                    service = name,
                    endpoints = slice.endpoints.len(),
                    stored = report.stored,
                    asked = report.asked,
                    "service published",
                );
            }
            Err(error) => {
                tracing::error!(service = name, error = %chain(&error), "service not published");
            }
        }
    }
}

fn slice(shared: &Shared, authority: Authority, service: &ServiceEndpoints, counter: u64) -> Slice {
    let now = clock::unix_now();
    let addresses: BTreeMap<NodeId, SocketAddr> = shared.control.read(|state: &Cluster| {
        state
            .members()
            .values()
            .filter_map(|member| Some((member.node, member.addresses.first()?.parse().ok()?)))
            .collect()
    });
    let endpoints = service
        .endpoints
        .iter()
        .filter_map(|endpoint| {
            Some(Endpoint {
                slot: endpoint.slot.clone(),
                node: endpoint.node,
                address: addresses.get(&endpoint.node)?.ip(),
                port: endpoint.port,
                rack: endpoint.rack.clone(),
                healthy: endpoint.healthy,
                weight: 1,
            })
        })
        .collect();
    Slice {
        fleet: shared.me.fleet,
        name: ServiceName {
            cluster: shared.me.cluster.clone(),
            namespace: service.namespace.clone(),
            service: service.service.clone(),
        },
        revision: Revision {
            epoch: authority.epoch,
            reign: authority.reign,
            counter,
        },
        published: now,
        expires: now + SLICE_LIFE,
        part: 0,
        parts: 1,
        endpoints,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{Epoch, Reign};

    fn authority(reign: u64) -> Authority {
        Authority {
            epoch: Epoch(1),
            reign: Reign(reign),
        }
    }

    fn service(name: &str) -> ServiceEndpoints {
        ServiceEndpoints {
            namespace: "default".into(),
            service: name.into(),
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn an_earlier_reign_is_never_published_under_a_later_one() {
        let outbox = Outbox::default();
        outbox.put(authority(1), service("web"));
        assert_eq!(outbox.take_due(authority(2)), []);
        assert_eq!(outbox.take_due(authority(1)), [], "it is forgotten");
    }

    #[test]
    fn a_later_reign_waits_for_its_own_turn() {
        let outbox = Outbox::default();
        outbox.put(authority(2), service("web"));
        assert_eq!(outbox.take_due(authority(1)), []);
        assert_eq!(outbox.take_due(authority(2)), [service("web")]);
    }

    #[test]
    fn what_was_taken_is_kept_and_due_again_when_it_changes() {
        let outbox = Outbox::default();
        outbox.put(authority(1), service("web"));
        assert_eq!(outbox.take_due(authority(1)), [service("web")]);
        assert_eq!(outbox.take_due(authority(1)), [], "not before its time");
        assert_eq!(outbox.lock().len(), 1, "it will be published again");
        outbox.put(authority(1), service("web"));
        assert_eq!(outbox.take_due(authority(1)), [service("web")]);
    }
}
