//! Where services are.
//!
//! Answers for the set of endpoints of each service and for saying so when it
//! changes: tasks that serve, without those that are about to be stopped.
//! Suspicion alone empties nothing: the only task of a slot keeps its endpoint
//! while its host is unreachable or held by the brake, marked unhealthy; with
//! its host dead and let go, it is gone.

use super::{Effect, Endpoint, Scheduler, ServiceEndpoints, SessionState, picture::serves};
use crate::{cluster::Cluster, session::SlotReport};
use potluck_specs::{JobName, NodeId, SlotId};
use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name of a service.
type ServiceKey = (String, String);

/// What was published, by service and job.
#[derive(Debug, Default)]
pub(super) struct Published {
    services: BTreeMap<ServiceKey, BTreeMap<JobName, Vec<Endpoint>>>,
}

impl Published {
    /// Puts a job's endpoints in place of its former ones; gives the services
    /// that changed.
    fn replace(
        &mut self,
        job: &JobName,
        mut current: BTreeMap<ServiceKey, Vec<Endpoint>>,
    ) -> BTreeSet<ServiceKey> {
        for (key, jobs) in &self.services {
            if jobs.contains_key(job) {
                current.entry(key.clone()).or_default();
            }
        }
        let mut changed = BTreeSet::new();
        for (key, endpoints) in current {
            let jobs = self.services.entry(key.clone()).or_default();
            if jobs.get(job) != Some(&endpoints) {
                jobs.insert(job.clone(), endpoints);
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
        for name in jobs {
            if !self.knows_endpoints(cluster, &name) {
                continue;
            }
            let current = self.endpoints_of(cluster, &name);
            changed.extend(self.published.replace(&name, current));
        }
        for key in changed {
            let service = self.published.all(&key);
            self.out.push(Effect::Publish { service });
        }
    }

    /// Before the hosts were asked, what is known of a job in the log is not
    /// all there is.
    pub(super) fn knows_endpoints(&self, cluster: &Cluster, name: &JobName) -> bool {
        let record = cluster.jobs().get(name);
        record.is_some_and(|record| self.asked || record.accepted_reign == self.authority.reign)
    }

    fn endpoints_of(
        &self,
        cluster: &Cluster,
        name: &JobName,
    ) -> BTreeMap<ServiceKey, Vec<Endpoint>> {
        let mut services: BTreeMap<ServiceKey, Vec<Endpoint>> = BTreeMap::new();
        // A service with no endpoint yet is known, and empty.
        if let Some(job) = self.catalog.running(cluster, name) {
            for service in &job.task.services {
                let key = (name.namespace.clone(), service.name.clone());
                services.entry(key).or_default();
            }
        }
        for slot in self.picture.slots_of(name) {
            // One that is about to end may have been published by an earlier
            // scheduler: its service is said to be without it.
            for (_, report) in self.picture.reports(slot) {
                let job = self.catalog.of_task(cluster, name, report.version);
                for service in job.iter().flat_map(|job| &job.task.services) {
                    let key = (name.namespace.clone(), service.name.clone());
                    services.entry(key).or_default();
                }
            }
            for (node, report, healthy) in self.serving(slot) {
                self.add(cluster, &mut services, (slot, node, report), healthy);
            }
        }
        services
    }

    fn serving(&self, slot: &SlotId) -> Vec<(NodeId, &SlotReport, bool)> {
        let serving: Vec<_> = self
            .picture
            .reports(slot)
            .filter(|(node, report)| {
                serves(report) && !self.stops.contains_key(&(slot.clone(), *node))
            })
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
        (slot, node, report): (&SlotId, NodeId, &SlotReport),
        healthy: bool,
    ) {
        let Some(job) = self.catalog.of_task(cluster, &slot.job, report.version) else {
            return;
        };
        let rack = self.picture.hosts.get(&node).map(|h| h.rack.clone());
        for service in &job.task.services {
            let fixed = job.task.ports.iter().find(|p| p.name == service.port);
            let fixed = fixed.and_then(|port| port.number);
            let port = report.ports.get(&service.port).copied().or(fixed);
            let Some(port) = port else { continue };
            let key = (slot.job.namespace.clone(), service.name.clone());
            services.entry(key).or_default().push(Endpoint {
                slot: slot.clone(),
                node,
                rack: rack.clone().unwrap_or_default(),
                port,
                healthy,
            });
        }
    }
}
