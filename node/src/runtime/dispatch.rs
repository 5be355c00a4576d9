//! What nodes ask of this one, handed to whom it concerns.

use super::{admission, changes, queries, shared::Shared};
use crate::{
    network::{Inbound, InboundRequest},
    spawn::spawn,
    wire::{Request, Response},
};
use potluck_specs::{
    NodeId,
    trust::{NodeCertificate, NodeRole},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Quick requests carried out at the same time: messages of the control group,
/// heartbeats, the auction. They end within milliseconds.
const QUICK_AT_ONCE: usize = 1_024;

/// Requests at the same time that may take minutes: packages to be held,
/// changes that wait for them, joins. They must not hold up a vote.
const SLOW_AT_ONCE: usize = 128;

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

async fn serve_requests(shared: Arc<Shared>, mut requests: mpsc::Receiver<InboundRequest>) {
    let quick = Arc::new(Semaphore::new(QUICK_AT_ONCE));
    let slow = Arc::new(Semaphore::new(SLOW_AT_ONCE));
    while let Some(InboundRequest {
        from,
        certificate,
        request,
        mut answer,
    }) = requests.recv().await
    {
        if let Err(why) = may_say(&shared, &certificate, &request) {
            tracing::warn!(%from, why, "request refused");
            let _ = answer.send(Response::Refused(why.into()));
            continue;
        }
        let pool = if is_slow(&request) { &slow } else { &quick };
        let Ok(permit) = pool.clone().try_acquire_owned() else {
            let _ = answer.send(Response::Refused("too many requests at once".into()));
            continue;
        };
        let shared = shared.clone();
        spawn("request", async move {
            // What is asked for a caller that has left is not gone on with.
            let response = tokio::select! {
                response = handle(shared, from, request) => Some(response),
                () = answer.closed() => None,
            };
            if let Some(response) = response {
                let _ = answer.send(response);
            }
            drop(permit);
        });
    }
}

fn is_slow(request: &Request) -> bool {
    matches!(
        request,
        Request::HoldPackage { .. } | Request::Change { .. } | Request::Join { .. }
    )
}

/// A scheduler's word is taken only from a node that may come to lead, and of
/// this cluster's epoch.
fn may_say(
    shared: &Shared,
    certificate: &NodeCertificate,
    request: &Request,
) -> Result<(), &'static str> {
    let authority = match request {
        Request::Greet(authority) => *authority,
        Request::Call(call) => call.authority,
        Request::Award(award) => award.authority,
        Request::Cancel { authority, .. } => *authority,
        Request::Stop(order) => order.authority,
        _ => return Ok(()),
    };
    if !certificate.roles.contains(&NodeRole::VoterEligible) {
        return Err("the sender can't be a scheduler: its certificate makes it no voter");
    }
    match shared.is_believable(authority) {
        true => Ok(()),
        false => Err("no scheduler of this cluster can have this authority"),
    }
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
        Request::Heartbeat(heartbeat) if heartbeat.node != from => {
            Response::Refused("a heartbeat is sent by its own node".into())
        }
        // It would silence every scheduler to come.
        Request::Heartbeat(heartbeat) if !shared.is_believable(heartbeat.highest) => {
            tracing::error!(%from, highest = ?heartbeat.highest, "a node claims an authority that nobody can have");
            Response::Refused("no scheduler can have the authority that is claimed".into())
        }
        Request::Heartbeat(heartbeat) => match shared.scheduling.heartbeat(heartbeat).await {
            Some(answer) => Response::Heartbeat(answer),
            None => Response::NotLeader(shared.leader()),
        },
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
