//! The API's requests, carried out: here what this node knows itself, by the
//! leader what only the leader knows.

use super::{concerns, exec, logs, recording, recovery, shared::Shared, usage};
use crate::{
    api::{
        change::{Change, SignedChange},
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::SignedExec,
        protocol::{
            ApiAnswer, ApiFrame, ApiRequest, Changed, EndpointStatus, Info, Resolved, Welcome,
        },
        recovery::RecoveryView,
        server::{self, Frames, Operations},
    },
    cli::chain,
    clock,
    identity::{DataFolder, random},
    network::{InboundStream, Purpose},
    spawn::spawn,
    wire::{Query, Request, Response},
};
use async_trait::async_trait;
use potluck_core::cluster::Cluster;
use potluck_dht::slice::{ResolvedEndpoint, Source};
use potluck_specs::{
    Millis, NodeId,
    trust::{Role, UserCertificate},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;

/// Sessions at the same time, local and remote: people and CI, not services.
const SESSIONS_MAX: usize = 256;

/// How long the leader may take over a change: packages move meanwhile.
const CHANGE_WAIT: Duration = Duration::from_secs(120);

/// How long the leader may take over a question.
const QUERY_WAIT: Duration = Duration::from_secs(5);

/// Serves API sessions on the node's Unix socket.
pub(super) async fn serve_socket(
    shared: Arc<Shared>,
    folder: Arc<DataFolder>,
    listener: UnixListener,
    token: CancellationToken,
) {
    let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let stream = tokio::select! {
            () = token.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "API connection was not accepted");
                    continue;
                }
            },
        };
        let api = Api {
            shared: shared.clone(),
            folder: Some(folder.clone()),
        };
        serve_session(api, Box::new(stream), &sessions);
    }
}

/// Serves the streams that peers open.
pub(super) async fn serve_streams(shared: Arc<Shared>, mut streams: mpsc::Receiver<InboundStream>) {
    let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
    while let Some(InboundStream {
        from,
        purpose,
        stream,
    }) = streams.recv().await
    {
        match purpose {
            Purpose::Api => {
                let api = Api {
                    shared: shared.clone(),
                    folder: None,
                };
                serve_session(api, Box::new(stream.into_tokio()), &sessions);
            }
            Purpose::Chunks => {
                let packages = shared.packages.clone();
                spawn("chunk server", async move { packages.serve(stream).await });
            }
            Purpose::Logs => {
                let shared = shared.clone();
                spawn("log server", async move {
                    logs::serve(shared, stream.into_tokio()).await
                });
            }
            Purpose::Exec => {
                let (shared, from) = (shared.clone(), from);
                spawn("exec server", async move {
                    exec::serve_node(shared, from, stream.into_tokio()).await
                });
            }
            // Snapshots travel as messages of the control group so far.
            Purpose::Snapshot => {}
        }
    }
}

fn serve_session(api: Api, stream: Box<dyn Transport>, sessions: &Arc<Semaphore>) {
    let Ok(permit) = sessions.clone().try_acquire_owned() else {
        tracing::warn!(
            limit = SESSIONS_MAX,
            "API session refused, too many are open"
        );
        return;
    };
    spawn("api session", session(api, stream, permit));
}

async fn session(api: Api, stream: Box<dyn Transport>, _permit: OwnedSemaphorePermit) {
    if let Err(error) = server::serve(stream, Arc::new(api)).await {
        tracing::debug!(error = %chain(&error), "API session ended");
    }
}

struct Api {
    shared: Arc<Shared>,
    /// Of sessions on the node's own socket, which only they reach who may
    /// enter the data folder.
    folder: Option<Arc<DataFolder>>,
}

#[async_trait]
impl Operations for Api {
    fn welcome(&self) -> Welcome {
        let me = &self.shared.me;
        Welcome {
            fleet: me.fleet,
            cluster: me.cluster.clone(),
            node: me.node,
            name: me.name.clone(),
            challenge: random(),
        }
    }

    fn now(&self) -> Millis {
        clock::unix_now()
    }

    async fn serve(&self, who: &UserCertificate, request: ApiRequest, frames: Frames) {
        let shared = &self.shared;
        if let Err(error) = may_ask(who, &request) {
            // The client may have left.
            let _ = frames.send(ApiFrame::Failure(error)).await;
            return;
        }
        let answer = match request {
            ApiRequest::Exec(_) => unreachable!("the server hands these to take_over"),
            ApiRequest::Logs(request) => return logs::stream(shared, request, frames).await,
            ApiRequest::Record { seconds, bytes_max } => {
                let limit = (Duration::from_secs(seconds), bytes_max);
                return recording::scheduler(shared, limit, &frames).await;
            }
            ApiRequest::RecordHost { seconds, bytes_max } => {
                let limit = (Duration::from_secs(seconds), bytes_max);
                return recording::host(shared, limit, &frames).await;
            }
            ApiRequest::Info => Ok(ApiAnswer::Info(Box::new(info(shared).await))),
            ApiRequest::Nodes => query(shared, Query::Nodes, &frames).await,
            ApiRequest::Jobs { job } => query(shared, Query::Jobs(job), &frames).await,
            ApiRequest::Explain(slot) => query(shared, Query::Explain(slot), &frames).await,
            ApiRequest::Operate(asked) => query(shared, Query::Operate(asked), &frames).await,
            ApiRequest::History(job) => query(shared, Query::History(job), &frames).await,
            ApiRequest::Version { job, version } => {
                query(shared, Query::Version(job, version), &frames).await
            }
            ApiRequest::Plan(plan) => query(shared, Query::Plan(plan), &frames).await,
            ApiRequest::JobsOfSpec(spec) => query(shared, Query::JobsOfSpec(spec), &frames).await,
            ApiRequest::PutManifest(bytes) => shared
                .packages
                .put_manifest(bytes)
                .await
                .map(ApiAnswer::Missing),
            ApiRequest::PutChunks(chunks) => shared
                .packages
                .put_chunks(chunks)
                .await
                .map(ApiAnswer::Missing),
            ApiRequest::Change(signed) => change(shared, *signed, &frames)
                .await
                .map(ApiAnswer::Changed),
            ApiRequest::Recover { order, force } => {
                recover(shared, self.folder.as_deref(), order, force)
                    .await
                    .map(|view| ApiAnswer::Recovery(Box::new(view)))
            }
            ApiRequest::Resolve {
                namespace,
                service,
                fresh,
            } => resolve(shared, &namespace, &service, fresh)
                .await
                .map(ApiAnswer::Resolved),
            ApiRequest::Usage(job) => usage::gather(shared, job).await,
            ApiRequest::Packages => Ok(ApiAnswer::Packages(
                shared.packages.statuses(&shared.directory).await,
            )),
        };
        let frame = match answer {
            Ok(answer) => ApiFrame::Answer(Box::new(answer)),
            Err(error) => ApiFrame::Failure(error),
        };
        // The client may have left.
        let _ = frames.send(frame).await;
    }

    async fn take_over(
        &self,
        who: &UserCertificate,
        request: Box<SignedExec>,
        stream: Box<dyn Transport>,
    ) {
        exec::take_over(&self.shared, who, &request, stream).await;
    }
}

/// Any valid certificate may look; only who may deploy may fill the disk.
/// Changes are checked with their own signatures.
fn may_ask(who: &UserCertificate, request: &ApiRequest) -> Result<(), ApiError> {
    let uploads = matches!(
        request,
        ApiRequest::PutManifest(_) | ApiRequest::PutChunks(_)
    );
    let records = matches!(
        request,
        ApiRequest::Record { .. } | ApiRequest::RecordHost { .. }
    );
    if records && !who.may_operate() {
        let message = format!("user {:?} may not record what is decided", who.user);
        return Err(ApiError::new(ErrorCode::Denied, message).hint("the role operator is needed"));
    }
    let deploys = |role: &Role| matches!(role, Role::Admin | Role::Deployer { .. });
    if uploads && !who.roles.iter().any(deploys) {
        let message = format!("user {:?} may not upload packages", who.user);
        return Err(ApiError::new(ErrorCode::Denied, message).hint("the role deployer is needed"));
    }
    Ok(())
}

async fn info(shared: &Arc<Shared>) -> Info {
    let me = &shared.me;
    let group = shared.control.membership();
    let voters: Vec<NodeId> = group.voters.iter().map(|voter| voter.member.node).collect();
    let authority = shared.control.read(Cluster::authority);
    let mut warnings = concerns::gather(shared).await;
    warnings.extend(shared.agent.isolation_missing());
    // What the leader tells of this host already is not told twice.
    let own = shared.own.concerns().into_iter();
    let told = warnings.join("\n");
    warnings.extend(own.filter(|concern| !told.contains(concern)));
    if let Some(rack) = rack_of_majority(&group) {
        warnings.push(format!("rack {rack} holds a majority of the voters"));
    }
    Info {
        fleet: me.fleet,
        cluster: me.cluster.clone(),
        node: me.node,
        name: me.name.clone(),
        topology: me.topology.clone(),
        version: crate::version::text().into(),
        leader: shared.leader().map(|node| shared.directory.name(node)),
        voters: voters
            .iter()
            .map(|node| shared.directory.name(*node))
            .collect(),
        authority: (authority.epoch.0, authority.reign.0),
        warnings,
        gossip_dropped: shared.gossip.counters().dropped_in_all(),
        pid: std::process::id(),
        helpers: shared.agent.helper_builds(),
    }
}

/// Looks only, without an order.
async fn recover(
    shared: &Arc<Shared>,
    folder: Option<&DataFolder>,
    order: Option<Box<SignedChange>>,
    force: bool,
) -> Result<RecoveryView, ApiError> {
    let Some(folder) = folder else {
        let message = "a cluster is recovered on the host of the survivor only";
        return Err(ApiError::new(ErrorCode::Denied, message)
            .hint("run the command there, as the user whose node it is"));
    };
    match order {
        Some(order) => recovery::take_order(shared, folder, &order, force).await,
        None => Ok(recovery::look(shared).await),
    }
}

fn rack_of_majority(group: &crate::control::Membership) -> Option<String> {
    if group.voters.len() < 2 {
        return None;
    }
    let racks = group.voters.iter().map(|voter| &voter.member.rack);
    let majority = group.voters.len() / 2 + 1;
    racks
        .clone()
        .find(|rack| racks.clone().filter(|other| other == rack).count() >= majority)
        .cloned()
}

/// Asks the scheduler. What its picture alone does not show, such as that it
/// may not act on it, comes before it as warnings.
async fn query(shared: &Arc<Shared>, query: Query, frames: &Frames) -> Result<ApiAnswer, ApiError> {
    let asked = ask_leader(shared, Request::Query(query), QUERY_WAIT);
    let (answer, concerns) = futures::future::join(asked, concerns::gather(shared)).await;
    for concern in concerns {
        // The client may have left.
        let _ = frames.send(ApiFrame::Warning(concern)).await;
    }
    match answer? {
        Response::Answer(answer) => *answer,
        other => Err(crate::api::client::unexpected(&other)),
    }
}

async fn change(
    shared: &Arc<Shared>,
    signed: SignedChange,
    frames: &Frames,
) -> Result<Changed, ApiError> {
    let (request, _) = signed
        .verify(shared.me.fleet, &shared.me.cluster, clock::unix_now())
        .map_err(|error| ApiError::new(ErrorCode::Denied, chain(&error)))?;
    if let Change::RunJob { .. } = request.change {
        let text = "waiting until the package is on three nodes and the job in the log";
        let _ = frames.send(ApiFrame::Progress(text.into())).await;
    }
    let request = Request::Change {
        change: Box::new(signed),
        holder: shared.me.node,
    };
    match ask_leader(shared, request, CHANGE_WAIT).await? {
        Response::Changed(changed) => changed,
        other => Err(crate::api::client::unexpected(&other)),
    }
}

/// Asks whoever leads; follows one hint to somebody else.
pub(super) async fn ask_leader(
    shared: &Arc<Shared>,
    request: Request,
    limit: Duration,
) -> Result<Response, ApiError> {
    let mut leader = shared.leader().ok_or_else(no_leader)?;
    for _ in 0..2 {
        match shared.ask(leader, request.clone(), limit).await {
            Ok(Response::NotLeader(Some(hint))) if hint != leader => leader = hint,
            Ok(Response::NotLeader(_)) => return Err(no_leader()),
            Ok(Response::Refused(why)) => return Err(ApiError::new(ErrorCode::Unavailable, why)),
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let name = shared.directory.name(leader);
                let message = format!("the scheduler on {name} does not answer: {}", chain(&error));
                return Err(ApiError::new(ErrorCode::Unavailable, message).hint(
                    "another is elected within seconds while most voters are up; \
                     see potluck info and potluck nodes",
                ));
            }
        }
    }
    Err(no_leader())
}

fn no_leader() -> ApiError {
    ApiError::new(
        ErrorCode::Unavailable,
        "the cluster has no scheduler at this moment",
    )
    .hint("a new one is elected within seconds while most voters are up; see potluck info")
}

async fn resolve(
    shared: &Arc<Shared>,
    namespace: &str,
    service: &str,
    fresh: bool,
) -> Result<Resolved, ApiError> {
    let resolved = shared.discovery.resolve(namespace, service, fresh).await?;
    let revision = resolved.resolution.revision;
    let endpoint = |found: ResolvedEndpoint| EndpointStatus {
        slot: found.endpoint.slot,
        node: found.endpoint.node,
        rack: found.endpoint.rack,
        address: SocketAddr::new(found.endpoint.address, found.endpoint.port),
    };
    Ok(Resolved {
        service: service.into(),
        revision: (revision.epoch.0, revision.reign.0, revision.counter),
        stale: resolved.resolution.stale,
        source: match resolved.source {
            Source::Cache => "cache",
            Source::Dht => "dht",
        }
        .into(),
        endpoints: resolved
            .resolution
            .endpoints
            .into_iter()
            .map(endpoint)
            .collect(),
    })
}

/// Listens on the node's Unix socket, replacing what a dead node left.
///
/// # Errors
/// If the folder can't be written, or the path is too long for a socket.
pub(super) fn bind_socket(path: &PathBuf) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Sessions prove a person's key; the mode only keeps the noise out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}
