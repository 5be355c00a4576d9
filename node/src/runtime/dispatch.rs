//! What nodes ask of this one, handed to whom it concerns.

use super::{
    admission, changes, claims, concerns, keeping, queries, recovery, relay, requests, revocations,
    shared::Shared, usage,
};
use crate::{
    clock,
    network::{Inbound, InboundRequest},
    wire::{Condition, Request, Response},
};
use potluck_core::{cluster::Cluster, session::Heartbeat};
use potluck_specs::{NodeId, trust::NodeCertificate};
use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a probe of another node may take: well under the session's 4 s.
const PROBE_WAIT: Duration = Duration::from_millis(800);

/// Serves requests, streams and strangers until told to stop.
pub(super) async fn run(shared: Arc<Shared>, inbound: Inbound, token: CancellationToken) {
    let Inbound {
        requests,
        streams,
        joins,
    } = inbound;
    tokio::select! {
        () = token.cancelled() => {}
        () = serve_requests(shared.clone(), requests) => {}
        () = super::operations::serve_streams(shared.clone(), streams) => {}
        () = admission::serve_strangers(shared, joins) => {}
    }
}

async fn serve_requests(shared: Arc<Shared>, inbound: mpsc::Receiver<InboundRequest>) {
    let judge = |from, certificate: &NodeCertificate, request: &Request| {
        let known = shared.known();
        let may = claims::may_say(from, certificate, request, &known);
        may.inspect_err(|why| shared.epochs.refused(from, why, known.epoch))
    };
    let serve = |from, request| handle(shared.clone(), from, request);
    requests::serve(inbound, judge, serve).await;
}

/// Answers one request of a node.
pub(super) async fn handle(shared: Arc<Shared>, from: NodeId, request: Request) -> Response {
    match request {
        Request::Raft(message) => Response::Raft(shared.control.receive(from, message).await),
        Request::Greet(authority) => {
            let answer = shared.agent.greet(authority).await;
            if answer.is_ok() {
                shared.directory.greeted(authority, from);
            }
            answered(answer, Response::Inventory)
        }
        Request::Heartbeat {
            heartbeat,
            process,
            condition,
        } => heartbeat_of(&shared, from, heartbeat, (process, condition)).await,
        Request::Call(call) => answered(shared.agent.call(call).await, Response::Call),
        Request::Award(award) => answered(shared.agent.award(award).await, Response::Award),
        Request::Cancel { authority, call } => {
            answered(shared.agent.cancel(authority, call).await, |()| {
                Response::Done
            })
        }
        Request::Stop(order) => answered(shared.agent.stop(order).await, |()| Response::Done),
        Request::Probe(about) => Response::Probe {
            reachable: reaches(&shared, about).await,
        },
        Request::Relay { to, letter } => relay::carry(&shared, from, to, letter).await,
        Request::Relayed(letter) => relay::serve(&shared, from, &letter).await,
        Request::Introduce(introduction) => changes::introduce(&shared, from, introduction).await,
        Request::Change { change, holder } => {
            if !shared.we_lead() {
                return Response::NotLeader(shared.leader());
            }
            Response::Changed(changes::carry_out(&shared, &change, holder).await)
        }
        Request::Query(query) => {
            if !shared.we_lead() {
                return Response::NotLeader(shared.leader());
            }
            Response::Answer(Box::new(queries::answer(&shared, query).await))
        }
        Request::Join { from, payload } => {
            if !shared.we_lead() {
                return Response::NotLeader(shared.leader());
            }
            Response::Joined(admission::admit(&shared, from, &payload).await)
        }
        Request::HoldPackage { package, holders } => {
            match shared.packages.hold(package, holders).await {
                Ok(bytes) => Response::Held { bytes },
                Err(why) => Response::Refused(why),
            }
        }
        Request::Slice(request) => Response::Slice(shared.discovery.answer(request)),
        Request::Concerns => Response::Concerns(concerns::ours(&shared)),
        Request::LogEnd => recovery::log_end(&shared),
        Request::Recovery => Response::Recovery(recovery::order(&shared).map(Box::new)),
        Request::HeldJob(job) => answered(shared.agent.held(job).await, |held| {
            Response::HeldJob(held.map(Box::new))
        }),
        Request::Credential => Response::Credential(Box::new(shared.admission.credential())),
        Request::Pinned { packages, slots } => {
            if !shared.we_lead() {
                return Response::NotLeader(shared.leader());
            }
            let pinned = |state: &Cluster| keeping::pinned(state, &packages, &slots);
            Response::Pinned(shared.control.read(pinned))
        }
        Request::LogOrigins(slot) => Response::LogOrigins(shared.agent.log_origins(slot).await),
        Request::Usage(job) => Response::Usage(usage::here(&shared, &job)),
        Request::Revocations => Response::Revocations(revocations::all(&shared)),
    }
}

/// Hands a heartbeat to the scheduler, unless the node has a twin.
async fn heartbeat_of(
    shared: &Shared,
    from: NodeId,
    heartbeat: Heartbeat,
    (process, condition): (u64, Option<Condition>),
) -> Response {
    if !shared.we_lead() {
        return Response::NotLeader(shared.leader());
    }
    let now = clock::boot_now();
    let is_twin = {
        let mut twins = shared.twins.lock().unwrap_or_else(PoisonError::into_inner);
        twins.is_twin(from, process, now)
    };
    if is_twin {
        tracing::error!(%from, "two processes use this node's key, the later one is told to end");
        return Response::Twin;
    }
    if let Some(condition) = condition {
        let conditions = shared.conditions.lock();
        let mut conditions = conditions.unwrap_or_else(PoisonError::into_inner);
        conditions.hear(from, condition, clock::unix_now(), now);
    }
    match shared.scheduling.heartbeat(heartbeat).await {
        Some(answer) => Response::Heartbeat {
            answer,
            revocations: shared.revocations.revision(),
        },
        None => Response::NotLeader(shared.leader()),
    }
}

/// An answer of the agent, or its refusal, or that it is stopping.
fn answered<T, E: std::fmt::Display>(
    answer: Result<T, E>,
    wrap: impl FnOnce(T) -> Response,
) -> Response {
    match answer {
        Ok(answer) => wrap(answer),
        Err(error) => Response::Refused(error.to_string()),
    }
}

/// Does this node reach another right now? Any answer counts.
async fn reaches(shared: &Arc<Shared>, about: NodeId) -> bool {
    if about == shared.me.node {
        return true;
    }
    // A probe about the asked node itself ends there: no chains.
    shared
        .network
        .request(about, Request::Probe(about), PROBE_WAIT)
        .await
        .is_ok()
}
