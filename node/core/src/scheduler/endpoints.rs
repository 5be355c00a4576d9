//! Where services are.
//!
//! Answers for the set of endpoints of each service and for saying so when it
//! changes: tasks that serve, without those that are about to be stopped.
//! Suspicion alone empties nothing: the only task of a slot keeps its endpoint
//! while its host is unreachable or held by the brake, marked unhealthy; with
//! its host dead and let go, it is gone.

use super::{
    Effect, Endpoint, Scheduler, ServiceEndpoints, SessionState,
    names::{JobId, JobMap, Seat},
    picture::serves,
};
use crate::{cluster::Cluster, session::SlotReport};
use potluck_specs::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name of a service.
type ServiceKey = (String, String);

/// What was published, by service and job.
#[derive(Debug, Default)]
pub(super) struct Published {
    services: BTreeMap<ServiceKey, BTreeMap<JobId, Vec<Endpoint>>>,
    /// The services of each job.
    of_job: JobMap<BTreeSet<ServiceKey>>,
}

impl Published {
    /// Puts a job's endpoints in place of its former ones; gives the services
    /// that changed.
    fn replace(
        &mut self,
        job: JobId,
        mut current: BTreeMap<ServiceKey, Vec<Endpoint>>,
    ) -> BTreeSet<ServiceKey> {
        for key in self.of_job.get(job).into_iter().flatten() {
            if !current.contains_key(key) {
                current.insert(key.clone(), Vec::new());
            }
        }
        let mut changed = BTreeSet::new();
        for (key, endpoints) in current {
            let jobs = self.services.entry(key.clone()).or_default();
            if jobs.get(&job) != Some(&endpoints) {
                jobs.insert(job, endpoints);
                self.of_job.of(job).insert(key.clone());
                changed.insert(key);
            }
        }
        changed
    }

    fn all(&self, key: &ServiceKey) -> ServiceEndpoints {
        let jobs = self.services.get(key).into_iter().flatten();
        let mut endpoints: Vec<Endpoint> = jobs.flat_map(|(_, e)| e.iter().cloned()).collect();
        endpoints.sort();
        ServiceEndpoints {
            namespace: key.0.clone(),
            service: key.1.clone(),
            endpoints,
        }
    }
}

impl Scheduler {
    /// Publishes what changed about these jobs.
    pub(super) fn publish(&mut self, cluster: &Cluster) {
        let jobs = std::mem::take(&mut self.to_publish);
        let mut changed = BTreeSet::new();
        for job in jobs {
            if !self.knows_endpoints(job) {
                continue;
            }
            let current = self.endpoints_of(cluster, job);
            changed.extend(self.published.replace(job, current));
        }
        for key in changed {
            let service = self.published.all(&key);
            self.out.push(Effect::Publish { service });
        }
    }

    /// Before the hosts were asked, what is known of a job in the log is not
    /// all there is.
    pub(super) fn knows_endpoints(&self, job: JobId) -> bool {
        self.catalog.has(job) && (self.asked || self.began_here(job))
    }

    fn endpoints_of(&self, cluster: &Cluster, job: JobId) -> BTreeMap<ServiceKey, Vec<Endpoint>> {
        let mut services: BTreeMap<ServiceKey, Vec<Endpoint>> = BTreeMap::new();
        let namespace = &self.names.name(job).namespace;
        // A service with no endpoint yet is known, and empty.
        if let Some(newest) = self.catalog.running(job) {
            for service in &newest.task.services {
                let key = (namespace.clone(), service.name.clone());
                services.entry(key).or_default();
            }
        }
        if !self.catalog.serves(job) {
            return services;
        }
        // Most tasks of a job are of one version: its services are named once.
        let mut named = None;
        for seat in self.picture.slots_of(job) {
            // One that is about to end may have been published by an earlier
            // scheduler: its service is said to be without it.
            for (_, report) in self.picture.reports(seat) {
                if named.replace(report.version) == Some(report.version) {
                    continue;
                }
                let version = self
                    .catalog
                    .of_task(cluster, job, &report.slot.job, report.version);
                for service in version.iter().flat_map(|job| &job.task.services) {
                    let key = (namespace.clone(), service.name.clone());
                    services.entry(key).or_default();
                }
            }
            for (node, report, healthy) in self.serving(cluster, seat) {
                self.add(cluster, &mut services, (seat, node, report), healthy);
            }
        }
        services
    }

    fn serving(&self, cluster: &Cluster, seat: Seat) -> Vec<(NodeId, &SlotReport, bool)> {
        let serving: Vec<_> = self
            .picture
            .reports(seat)
            .filter(|(node, report)| serves(report) && !self.stops.contains_key(&(seat, *node)))
            .filter(|(node, _)| !self.has_lapsed(cluster, seat, *node))
            .filter_map(|(node, report)| Some((node, report, self.standing(node)?)))
            .collect();
        if serving.iter().any(|(.., healthy)| *healthy) {
            return serving.into_iter().filter(|(.., h)| *h).collect();
        }
        serving
    }

    /// `Some(true)`: counts; `Some(false)`: better than nothing; `None`: gone.
    fn standing(&self, node: NodeId) -> Option<bool> {
        let host = self.picture.hosts.get(&node)?;
        match host.state {
            SessionState::Up | SessionState::Out | SessionState::Unknown => Some(true),
            SessionState::Unreachable => Some(false),
            SessionState::Dead => (!host.lost).then_some(false),
        }
    }

    fn add(
        &self,
        cluster: &Cluster,
        services: &mut BTreeMap<ServiceKey, Vec<Endpoint>>,
        (seat, node, report): (Seat, NodeId, &SlotReport),
        healthy: bool,
    ) {
        let job = &report.slot.job;
        let Some(job) = self.catalog.of_task(cluster, seat.job, job, report.version) else {
            return;
        };
        let rack = self.picture.hosts.get(&node).map(|h| h.rack.clone());
        for service in &job.task.services {
            let fixed = job.task.ports.iter().find(|p| p.name == service.port);
            let fixed = fixed.and_then(|port| port.number);
            let port = report.ports.get(&service.port).copied().or(fixed);
            let Some(port) = port else { continue };
            let slot = report.slot.clone();
            let key = (slot.job.namespace.clone(), service.name.clone());
            services.entry(key).or_default().push(Endpoint {
                slot,
                node,
                rack: rack.clone().unwrap_or_default(),
                port,
                healthy,
            });
        }
    }
}
