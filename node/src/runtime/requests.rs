//! Requests of other nodes, served in two pools: slow ones can't starve quick
//! ones. Leaves to `claims` who may say what, and to `dispatch` what is done.

use crate::{
    network::InboundRequest,
    spawn::spawn,
    wire::{Request, Response},
};
use potluck_specs::{NodeId, trust::NodeCertificate};
use std::{fmt::Display, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Quick requests carried out at the same time: messages of the control group,
/// heartbeats, the auction. They end within milliseconds.
const QUICK_AT_ONCE: usize = 1_024;

/// Requests at the same time that may take minutes: packages to be held,
/// changes that wait for them, joins. They must not hold up a vote.
const SLOW_AT_ONCE: usize = 128;

/// Serves requests until the network has ended: each that `judge` lets pass is
/// answered with what `handle` makes of it.
pub(super) async fn serve<E: Display, F>(
    mut requests: mpsc::Receiver<InboundRequest>,
    judge: impl Fn(NodeId, &NodeCertificate, &Request) -> Result<(), E>,
    handle: impl Fn(NodeId, Request) -> F,
) where
    F: Future<Output = Response> + Send + 'static,
{
    let pools = Pools::new();
    while let Some(inbound) = requests.recv().await {
        let InboundRequest {
            from,
            certificate,
            request,
            mut answer,
        } = inbound;
        if let Err(why) = judge(from, &certificate, &request) {
            tracing::warn!(%from, why = %why, "request refused");
            let _ = answer.send(Response::Refused(why.to_string()));
            continue;
        }
        let Some(permit) = pools.take(&request) else {
            let _ = answer.send(Response::Refused("too many requests at once".into()));
            continue;
        };
        let work = handle(from, request);
        spawn("request", async move {
            // What is asked for a caller that has left is not gone on with.
            let response = tokio::select! {
                response = work => Some(response),
                () = answer.closed() => None,
            };
            if let Some(response) = response {
                let _ = answer.send(response);
            }
            drop(permit);
        });
    }
}

/// The two pools.
struct Pools {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Pools {
    fn new() -> Pools {
        Pools {
            quick: Arc::new(Semaphore::new(QUICK_AT_ONCE)),
            slow: Arc::new(Semaphore::new(SLOW_AT_ONCE)),
        }
    }

    /// A place for this request, if there is one: nobody waits.
    fn take(&self, request: &Request) -> Option<OwnedSemaphorePermit> {
        let pool = match is_slow(request) {
            true => &self.slow,
            false => &self.quick,
        };
        pool.clone().try_acquire_owned().ok()
    }
}

fn is_slow(request: &Request) -> bool {
    matches!(
        request,
        Request::HoldPackage { .. } | Request::Change { .. } | Request::Join { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use potluck_specs::{NodeName, PackageId, Topology, trust::NodeRole};
    use std::{future::pending, time::Duration};
    use tokio::{
        sync::oneshot,
        time::{error::Elapsed, timeout},
    };

    const SENDER: NodeId = NodeId([1; 32]);

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    struct Server {
        requests: mpsc::Sender<InboundRequest>,
        certificate: NodeCertificate,
    }

    impl Server {
        /// One whose slow requests never end.
        fn start() -> Server {
            let (requests, inbound) = mpsc::channel(1);
            let may = |_, _: &_, request: &Request| match request {
                Request::Query(_) => Err("not you"),
                _ => Ok(()),
            };
            let handle = |_, request: Request| async move {
                match request {
                    Request::HoldPackage { .. } => pending().await,
                    _ => Response::Done,
                }
            };
            spawn("test server", serve(inbound, may, handle));
            let issuer = testing::issuer();
            let (name, place) = (NodeName("n1".into()), Topology::in_rack("main", "r1"));
            let now = potluck_specs::Millis(0);
            let credential = issuer.issue(SENDER, name, place, &[NodeRole::Agent], now, 1);
            let certificate = credential.verify(issuer.fleet(), now, now).unwrap();
            Server {
                requests,
                certificate,
            }
        }

        async fn send(&self, request: Request) -> oneshot::Receiver<Response> {
            let (answer, answered) = oneshot::channel();
            let inbound = InboundRequest {
                from: SENDER,
                certificate: self.certificate.clone(),
                request,
                answer,
            };
            let sent = timeout(LIMIT, self.requests.send(inbound)).await;
            sent.expect("the server takes it").expect("it goes on");
            answered
        }
    }

    fn slow() -> Request {
        Request::HoldPackage {
            package: PackageId([0; 32]),
            holders: Vec::new(),
        }
    }

    async fn answer(answered: oneshot::Receiver<Response>) -> Result<Response, Elapsed> {
        Ok(timeout(LIMIT, answered).await?.expect("it is answered"))
    }

    #[tokio::test]
    async fn slow_requests_starve_no_quick_ones() {
        let server = Server::start();
        let mut waiting = Vec::new();
        for _ in 0..SLOW_AT_ONCE {
            waiting.push(server.send(slow()).await);
        }
        let more = answer(server.send(slow()).await).await;
        assert!(matches!(more, Ok(Response::Refused(_))), "{more:?}");
        for _ in 0..QUICK_AT_ONCE {
            let quick = answer(server.send(Request::Raft(Vec::new())).await).await;
            assert!(matches!(quick, Ok(Response::Done)), "{quick:?}");
        }
        assert!(waiting.iter_mut().all(|slow| slow.try_recv().is_err()));
    }

    #[tokio::test]
    async fn a_caller_that_left_makes_room() {
        let server = Server::start();
        let mut waiting = Vec::new();
        for _ in 0..SLOW_AT_ONCE {
            waiting.push(server.send(slow()).await);
        }
        drop(waiting);
        let room = async {
            loop {
                let mut answered = server.send(slow()).await;
                let heard = timeout(Duration::from_millis(20), &mut answered).await;
                if heard.is_err() {
                    return;
                }
            }
        };
        timeout(LIMIT, room).await.expect("a place becomes free");
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_not_done() {
        let server = Server::start();
        let query = Request::Query(crate::wire::Query::Nodes);
        let refused = answer(server.send(query).await).await;
        let Ok(Response::Refused(why)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(why, "not you");
    }
}
