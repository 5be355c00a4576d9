//! What nodes ask of this one, handed to whom it concerns.

use super::{admission, changes, queries, shared::Shared};
use crate::{
    network::{Inbound, InboundRequest},
    spawn::spawn,
    wire::{Request, Response},
};
use potluck_specs::NodeId;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Requests carried out at the same time. Each holds little but a few
/// kilobytes; beyond this the queue before us fills and peers are told "busy".
const REQUESTS_AT_ONCE: usize = 512;

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
    let permits = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    while let Some(InboundRequest {
        from,
        request,
        answer,
        ..
    }) = requests.recv().await
    {
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .expect("it is never closed");
        let shared = shared.clone();
        spawn("request", async move {
            // The caller may have left; then nobody reads the answer.
            let _ = answer.send(handle(shared, from, request).await);
            drop(permit);
        });
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
                Ok(()) => Response::Done,
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
