//! Changes that people ask for, carried out by the leader: checked, made
//! durable, committed. "Accepted" means that the job and its package survive
//! the loss of any one node.

use super::{operate, plan, shared::Shared, voters};
use crate::{
    api::{
        change::{About, Change, ChangeRequest, SignedChange},
        error::{ApiError, ErrorCode},
        plan::is_same,
        protocol::Changed,
    },
    cli::chain,
    clock,
    control::ProposeError,
    wire::{Introduction, Request, Response},
};
use futures::{StreamExt, stream::FuturesUnordered};
use potluck_core::{
    cluster::{Cluster, Command, HeldPackage, Refused, Reply, RolloutPhase, TEXT_BYTES_MAX},
    scheduler::{HostView, SessionState},
};
use potluck_specs::{
    Job, JobName, NodeId, PackageId, job::SignedJob, trust::UserCertificate, validate,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Nodes that must hold a package before its job is accepted; all, if there
/// are fewer.
pub(super) const HOLDERS: usize = 3;

/// How long one node may take to fetch a package for keeping. A large package
/// over a slow link takes longer: the client's retry finds the chunks that
/// came so far.
const HOLD_WAIT: Duration = Duration::from_secs(100);

/// Carries out a change on the leader.
///
/// # Errors
/// Whatever the person must hear.
pub(super) async fn carry_out(
    shared: &Arc<Shared>,
    signed: &SignedChange,
    holder: NodeId,
) -> Result<Changed, ApiError> {
    let me = &shared.me;
    let (request, author) = signed
        .verify(me.fleet, &me.cluster, clock::unix_now())
        .map_err(|error| ApiError::new(ErrorCode::Denied, chain(&error)))?;
    match &request.change {
        Change::RunJob { job, about } => {
            run_job(shared, &request, &author, (job, about), holder).await
        }
        _ => simple(shared, &request, &author).await,
    }
}

async fn simple(
    shared: &Arc<Shared>,
    request: &ChangeRequest,
    author: &UserCertificate,
) -> Result<Changed, ApiError> {
    let (change, now, author) = (request.id, clock::unix_now(), author.user.clone());
    let (command, changed) = match request.change.clone() {
        Change::RunJob { .. } => unreachable!("has a function of its own"),
        Change::StopJob { job } => (
            Command::StopJob {
                change,
                job: job.clone(),
                author,
                now,
            },
            Changed::JobStopped { job },
        ),
        Change::CreateToken {
            id,
            secret_hash,
            roles,
            rack,
            uses,
            expires,
        } => (
            Command::CreateToken {
                change,
                id,
                secret_hash,
                roles,
                rack,
                uses,
                expires,
                now,
            },
            Changed::TokenCreated,
        ),
        Change::RevokeToken { id } => (Command::RemoveToken { change, id }, Changed::TokenRevoked),
        Change::Drain { node, draining } => (
            Command::SetDraining {
                change,
                node,
                draining,
            },
            Changed::Drained,
        ),
        Change::Recover { .. } => {
            let message = "the cluster has a scheduler: there is nothing to recover";
            return Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint("the survivor itself takes the order: potluck cluster recover"));
        }
        Change::Remove { node } => (Command::RemoveMember { node, now }, Changed::Removed),
        Change::Operate { operation } => (
            operate::command(operation, change, author),
            Changed::Operated,
        ),
    };
    if let Change::Remove { node } = request.change {
        // Before its certificate is revoked: a voter that is put out and still
        // counts would cost the cluster its majority.
        voters::let_go(shared, node)
            .await
            .map_err(|why| ApiError::new(ErrorCode::Unavailable, why))?;
    }
    match propose(shared, command).await? {
        Reply::Done => Ok(changed),
        // The repeat of a removal whose answer was lost.
        Reply::Refused {
            why: Refused::NotAMember { .. },
        } if changed == Changed::Removed => Ok(changed),
        Reply::Refused { why } => Err(refused(&why)),
        other => Err(unexpected(&other)),
    }
}

async fn run_job(
    shared: &Arc<Shared>,
    request: &ChangeRequest,
    author: &UserCertificate,
    (signed, about): (&SignedJob, &About),
    holder: NodeId,
) -> Result<Changed, ApiError> {
    let me = &shared.me;
    let (job, signer) = signed
        .verify(me.fleet, &me.cluster, clock::unix_now())
        .map_err(|error| ApiError::new(ErrorCode::Denied, chain(&error)))?;
    if signer.key != author.key {
        return Err(ApiError::new(
            ErrorCode::Denied,
            "the job was signed by another user",
        ));
    }
    check(&job)?;
    check_about(about)?;
    // A repeat, or a version that has passed, needs no package to be moved.
    let known = shared
        .control
        .read(|state| state.answer_to(request.id).cloned());
    if let Some(Reply::Accepted { version }) = known {
        let holders = recorded_holders(shared, job.package);
        return Ok(Changed::JobAccepted {
            job: job.name,
            version,
            holders,
        });
    }
    check_expected(shared, &job.name, about.expected_version)?;
    if let Some(version) = unchanged(shared, &job) {
        let job = job.name;
        return Ok(Changed::JobUnchanged { job, version });
    }
    check_version(shared, &job)?;
    check_circle(shared, &job)?;
    check_quota(shared, &job)?;
    check_level(shared, &job)?;
    let (holders, package_bytes) = keep_package(shared, job.package, holder).await?;
    let mut further = Vec::new();
    for package in job.all_packages().split_off(1) {
        let (holders, bytes) = keep_package(shared, package, holder).await?;
        further.push(HeldPackage {
            package,
            bytes,
            holders,
        });
    }
    let names = holders
        .iter()
        .map(|node| shared.directory.name(*node))
        .collect();
    let command = Command::SubmitJob {
        change: request.id,
        job: Box::new(signed.clone()),
        author: author.user.clone(),
        message: about.message.clone(),
        holders,
        package_bytes,
        further,
        now: clock::unix_now(),
        expected_version: about.expected_version,
        origin: about.origin.clone(),
    };
    match propose(shared, command).await? {
        Reply::Accepted { version } => Ok(Changed::JobAccepted {
            job: job.name,
            version,
            holders: names,
        }),
        Reply::Conflict { current } => match about.expected_version {
            Some(expected) if expected != current => Err(moved_on(&job.name, expected, current)),
            _ => Err(conflict(&job.name, current)),
        },
        Reply::Refused { why } => Err(refused(&why)),
        other => Err(unexpected(&other)),
    }
}

/// The log would cut what is too long; a person should hear of it.
fn check_about(about: &About) -> Result<(), ApiError> {
    let spec = about.origin.spec.as_ref().map_or(0, String::len);
    if about.message.len() <= TEXT_BYTES_MAX && spec <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("a message, and a spec's path, has at most {TEXT_BYTES_MAX} bytes");
    Err(ApiError::new(ErrorCode::BadRequest, message))
}

/// A rollout that an older voter could not follow is not begun.
fn check_level(shared: &Shared, job: &Job) -> Result<(), ApiError> {
    let group = shared.control.membership();
    let followers = group.voters.iter().chain(&group.learners);
    let nodes = followers.map(|follower| follower.member.node);
    let too_old = shared.control.read(|state| state.too_old_for(job, nodes));
    let Some(old) = too_old else { return Ok(()) };
    let node = old.node.0;
    let message = format!(
        "node {node} runs an older potluck, which can't follow what {} asks for",
        job.name
    );
    let hint = "upgrade potluck on every voter and learner; older ones know no batch jobs and no update stages of places";
    Err(ApiError::new(ErrorCode::BadRequest, message).hint(hint))
}

fn check_expected(shared: &Shared, job: &JobName, expected: Option<u64>) -> Result<(), ApiError> {
    let current = shared
        .control
        .read(|state: &Cluster| state.next_version(job) - 1);
    match expected {
        Some(expected) if expected != current => Err(moved_on(job, expected, current)),
        _ => Ok(()),
    }
}

/// Two that close a circle in the same moment are both accepted; each then
/// tells whom it waits for.
fn check_circle(shared: &Shared, job: &Job) -> Result<(), ApiError> {
    if job.change.depends_on.is_empty() {
        return Ok(());
    }
    let circle = shared
        .control
        .read(|state: &Cluster| state.circle(job, &[]));
    let Some(circle) = circle else {
        return Ok(());
    };
    let message = format!(
        "job {} would never start: {}",
        job.name,
        plan::circle_text(&circle)
    );
    Err(ApiError::new(ErrorCode::BadRequest, message)
        .hint("each waits for the next: let one of them start without the other"))
}

/// Asked again when the log accepts it; here before its packages are moved.
fn check_quota(shared: &Shared, job: &Job) -> Result<(), ApiError> {
    let over = shared
        .control
        .read(|state: &Cluster| state.over_quota(job, &[]));
    over.map_or(Ok(()), |why| Err(refused(&why)))
}

fn moved_on(job: &JobName, expected: u64, current: u64) -> ApiError {
    let text = |version| match version {
        0 => "not there".into(),
        _ => format!("at version {version}"),
    };
    let (expected, current) = (text(expected), text(current));
    let message = format!("job {job} is {current}, and was expected to be {expected}");
    ApiError::new(ErrorCode::Conflict, message).hint(format!(
        "it moved on since you looked; see potluck history {job}, and plan again"
    ))
}

/// The version that the job is at, if it is the same job: version and
/// signature put aside. One whose signature holds no longer is not the same,
/// since no host would start it, nor is a stopped one, nor one whose work is
/// over, nor one whose rollout failed: that is tried again.
fn unchanged(shared: &Shared, job: &Job) -> Option<u64> {
    let current = shared.control.read(|state: &Cluster| {
        let record = state.jobs().get(&job.name)?;
        let phase = state.rollout(&job.name).map(|rollout| &rollout.phase);
        let failed = matches!(
            phase,
            Some(RolloutPhase::Failed { .. } | RolloutPhase::RolledBack { .. })
        );
        let over = state
            .batch(&job.name)
            .is_some_and(|batch| batch.over.is_some() || batch.unknown);
        (!record.stopped && !failed && !over).then(|| record.current().job.clone())
    })?;
    let me = &shared.me;
    let (current, _) = current
        .verify(me.fleet, &me.cluster, clock::unix_now())
        .ok()?;
    is_same(&current, job).then_some(current.version)
}

/// Names of the nodes that hold a package by the log.
fn recorded_holders(shared: &Shared, package: PackageId) -> Vec<String> {
    let holders = shared.control.read(|state: &Cluster| {
        let record = state.packages().get(&package);
        record.map_or_else(BTreeSet::new, |record| record.holders.clone())
    });
    holders
        .into_iter()
        .map(|node| shared.directory.name(node))
        .collect()
}

pub(super) fn check(job: &Job) -> Result<(), ApiError> {
    let findings = validate::check_job(job);
    if !validate::refused(&findings) {
        return Ok(());
    }
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let message = format!("job {} is not valid: {}", job.name, list.join("; "));
    Err(ApiError::new(ErrorCode::BadRequest, message))
}

fn check_version(shared: &Shared, job: &Job) -> Result<(), ApiError> {
    let current = shared.control.read(|state: &Cluster| {
        state
            .jobs()
            .get(&job.name)
            .map_or(0, |record| record.current().version)
    });
    if job.version == current + 1 {
        Ok(())
    } else {
        Err(conflict(&job.name, current))
    }
}

fn conflict(job: &JobName, current: u64) -> ApiError {
    ApiError::new(
        ErrorCode::Conflict,
        format!("job {job} is at version {current} by now"),
    )
    .hint("somebody else changed it at the same time; look at it and run again")
}

fn refused(why: &Refused) -> ApiError {
    let code = match why {
        Refused::NoRollout { .. }
        | Refused::NoSuchJob { .. }
        | Refused::NoSuchToken { .. }
        | Refused::NotAMember { .. } => ErrorCode::NotFound,
        Refused::NotBegun | Refused::StaleReign => ErrorCode::Unavailable,
        Refused::TokenExists { .. } => ErrorCode::Conflict,
        _ => ErrorCode::BadRequest,
    };
    let error = ApiError::new(code, why.to_string());
    match why {
        Refused::OverQuota { job, .. } => error.hint(format!(
            "stop or shrink other jobs of {:?}, or ask an operator: potluck quota list",
            job.namespace
        )),
        _ => error,
    }
}

fn unexpected(reply: &Reply) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("the log answered {reply:?}"))
}

async fn propose(shared: &Shared, command: Command) -> Result<Reply, ApiError> {
    match shared.control.propose(command).await {
        Ok(applied) => Ok(applied.reply),
        Err(error) => {
            let code = match error {
                ProposeError::TooLarge { .. } | ProposeError::OlderNode { .. } => {
                    ErrorCode::BadRequest
                }
                _ => ErrorCode::Unavailable,
            };
            let told = ApiError::new(code, chain(&error));
            Err(match error {
                ProposeError::OlderNode { .. } => {
                    told.hint("upgrade potluck on every voter and learner, then try again")
                }
                _ => told,
            })
        }
    }
}

/// Waits until enough nodes hold the package, in different racks where
/// possible. Returns who, and its size.
pub(super) async fn keep_package(
    shared: &Arc<Shared>,
    package: PackageId,
    holder: NodeId,
) -> Result<(Vec<NodeId>, u64), ApiError> {
    let hosts = shared
        .scheduling
        .look(|scheduler, state| scheduler.hosts(state))
        .await
        .ok_or_else(|| ApiError::new(ErrorCode::Unavailable, "this node leads no longer"))?;
    let up: BTreeSet<NodeId> = hosts
        .iter()
        .filter(|host| host.session == SessionState::Up)
        .map(|host| host.node)
        .collect();
    let recorded = shared
        .control
        .read(|state: &Cluster| state.packages().get(&package).cloned());
    let mut holders: BTreeSet<NodeId> = recorded
        .iter()
        .flat_map(|record| &record.holders)
        .copied()
        .collect();
    holders.retain(|node| up.contains(node));
    if let Some(record) = &recorded
        && holders.len() >= HOLDERS.min(up.len())
    {
        return Ok((holders.into_iter().collect(), record.bytes));
    }
    holders.insert(holder);
    let racks = racks(shared, &hosts);
    let mut waiting: Vec<NodeId> = spread(&up, &holders, &racks);
    let wanted = HOLDERS.min(up.len().max(1));
    let mut failures = Vec::new();
    let mut asked = FuturesUnordered::new();
    let sources: Vec<NodeId> = holders.iter().copied().collect();
    // The holder itself is asked too: it may have lost the package since.
    let mut confirmed = BTreeSet::new();
    let mut bytes = 0;
    for node in holders.iter().copied().collect::<Vec<_>>() {
        asked.push(hold(shared, node, package, sources.clone()));
    }
    let mut in_flight: BTreeSet<NodeId> = holders.clone();
    loop {
        while confirmed.len() + in_flight.len() < wanted
            && let Some(node) = waiting.pop()
        {
            in_flight.insert(node);
            asked.push(hold(shared, node, package, sources.clone()));
        }
        let Some((node, outcome)) = asked.next().await else {
            break;
        };
        in_flight.remove(&node);
        match outcome {
            Ok(size) => {
                bytes = size;
                confirmed.insert(node);
            }
            Err(why) => failures.push(format!("{}: {why}", shared.directory.name(node))),
        }
        if confirmed.len() >= wanted {
            break;
        }
    }
    if confirmed.len() < wanted {
        let message = format!(
            "package {package} is on {} nodes, {wanted} are needed before the job is accepted ({})",
            confirmed.len(),
            failures.join("; "),
        );
        return Err(ApiError::new(ErrorCode::Unavailable, message)
            .hint("a repeat goes on where this one stopped"));
    }
    Ok((confirmed.into_iter().collect(), bytes))
}

async fn hold(
    shared: &Arc<Shared>,
    node: NodeId,
    package: PackageId,
    holders: Vec<NodeId>,
) -> (NodeId, Result<u64, String>) {
    let request = Request::HoldPackage { package, holders };
    let outcome = match shared.ask(node, request, HOLD_WAIT).await {
        Ok(Response::Held { bytes }) => Ok(bytes),
        Ok(Response::Refused(why)) => Err(why),
        Ok(_) => Err("it gave an answer that makes no sense".into()),
        Err(error) => Err(chain(&error)),
    };
    (node, outcome)
}

fn racks(shared: &Shared, hosts: &[HostView]) -> BTreeMap<NodeId, String> {
    shared.control.read(|state: &Cluster| {
        hosts
            .iter()
            .filter_map(|host| {
                let member = state.members().get(&host.node)?;
                Some((host.node, member.topology.rack.clone()))
            })
            .collect()
    })
}

/// Who else may hold the package, best last: racks that have no copy first.
fn spread(
    up: &BTreeSet<NodeId>,
    holders: &BTreeSet<NodeId>,
    racks: &BTreeMap<NodeId, String>,
) -> Vec<NodeId> {
    let mut taken: BTreeSet<&String> = holders.iter().filter_map(|node| racks.get(node)).collect();
    let mut first = Vec::new();
    let mut second = Vec::new();
    for node in up.iter().filter(|node| !holders.contains(node)) {
        let fresh = racks.get(node).is_some_and(|rack| taken.insert(rack));
        if fresh {
            first.push(*node)
        } else {
            second.push(*node)
        }
    }
    second.into_iter().chain(first).collect()
}

/// Puts into the log what a node says of itself.
pub(super) async fn introduce(shared: &Arc<Shared>, from: NodeId, told: Introduction) -> Response {
    if !shared.we_lead() {
        return Response::NotLeader(shared.leader());
    }
    let known = shared.control.read(|state: &Cluster| {
        state.members().get(&from).is_some_and(|member| {
            member.raft_id == Some(told.raft_id)
                && member.addresses == told.addresses
                && member.capacity == Some(told.capacity)
                && member.feature_level == told.feature_level
        })
    });
    if known {
        return Response::Done;
    }
    let command = Command::RecordMember {
        node: from,
        addresses: Some(told.addresses.into_iter().take(8).collect()),
        capacity: Some(told.capacity),
        raft_id: Some(told.raft_id),
        feature_level: Some(told.feature_level),
    };
    match propose(shared, command).await {
        Ok(Reply::Done) => Response::Done,
        Ok(other) => Response::Refused(format!("{other:?}")),
        Err(error) => Response::Refused(error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_racks_come_first() {
        let node = |k: u8| NodeId([k; 32]);
        let racks: BTreeMap<NodeId, String> = [(1, "a"), (2, "a"), (3, "b"), (4, "c")]
            .into_iter()
            .map(|(k, rack)| (node(k), rack.to_owned()))
            .collect();
        let up: BTreeSet<NodeId> = racks.keys().copied().collect();
        let holders = BTreeSet::from([node(1)]);
        let mut order = spread(&up, &holders, &racks);
        let best = BTreeSet::from([order.pop().unwrap(), order.pop().unwrap()]);
        assert_eq!(best, BTreeSet::from([node(3), node(4)]));
        assert_eq!(order, vec![node(2)]);
    }
}
