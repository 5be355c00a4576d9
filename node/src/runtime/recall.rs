//! While this node leads a recovered cluster: jobs that hosts run and members
//! that hold certificates, neither in the log, are taken into it.
//!
//! Inputs: the scheduler's picture, gossip's members. Outputs: requests for
//! signed jobs and certificates, proposals. What a host says is believed as
//! far as a signature goes: the job's author signed it for this cluster, the
//! issuer signed the certificate. It waits for one host at a time, with a
//! limit.

use super::{authors, shared::Shared};
use crate::{
    clock,
    wire::{HeldJob, Request, Response},
};
use potluck_core::cluster::{Admission, Cluster, Command, Reply};
use potluck_specs::{
    JobName, Millis, NodeId,
    trust::{NodeCredential, NodeRole},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often the leader looks while hosts report after its reign began, and as
/// long as it finds anything.
const LOOK: Duration = Duration::from_millis(500);
const BEGIN: Duration = Duration::from_secs(60);

/// And how often later: a look goes through all tasks, and hosts that were
/// away for so long can wait a little more.
const LOOK_LATER: Duration = Duration::from_secs(5);

/// How long a host may take to hand over what it has.
const ANSWER_WAIT: Duration = Duration::from_millis(1_500);

/// Hosts and jobs whose word was not taken, so that it is said once: above
/// what a few wrong hosts have, small enough to be kept.
const REFUSED_MAX: usize = 1_024;

/// What was refused before.
type Refused = BTreeSet<(NodeId, Option<(JobName, u64)>)>;

/// Looks until told to stop.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut refused = Refused::new();
    let mut led_since = None;
    let mut pause = LOOK;
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = LOOK;
        let recovered = shared
            .control
            .read(|state: &Cluster| state.recovery().is_some());
        if !recovered || !shared.we_lead() {
            refused.clear();
            led_since = None;
            continue;
        }
        let begun = *led_since.get_or_insert_with(Instant::now);
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        tokio::select! {
            () = token.cancelled() => return,
            found = look(&shared, &mut refused) => {
                if !found && begun.elapsed() > BEGIN {
                    pause = LOOK_LATER;
                }
            }
        }
    }
}

/// Was there anything that the log lacks?
async fn look(shared: &Arc<Shared>, refused: &mut Refused) -> bool {
    let mut found = false;
    for node in strangers(shared) {
        if refused.contains(&(node, None)) {
            continue;
        }
        found = true;
        if let Err(why) = take_member(shared, node).await {
            tracing::warn!(%node, why, "a node that the log lacks was not taken in");
            refused.insert((node, None));
        }
    }
    let unknown = shared
        .scheduling
        .look(|scheduler, state| scheduler.unknown_jobs(state))
        .await;
    for (job, (version, node)) in unknown.unwrap_or_default() {
        let key = (node, Some((job.clone(), version)));
        if refused.contains(&key) {
            continue;
        }
        found = true;
        if let Err(why) = take_job(shared, &job, version, node).await {
            tracing::warn!(%job, version, %node, why, "a job that the log lacks was not taken in");
            refused.insert(key);
        }
    }
    found
}

/// Nodes that gossip knows and the log does not.
fn strangers(shared: &Shared) -> Vec<NodeId> {
    let alive = shared.directory.alive();
    shared.control.read(|state: &Cluster| {
        let strange = |node: &NodeId| !state.members().contains_key(node);
        alive.into_iter().filter(strange).collect()
    })
}

async fn take_member(shared: &Arc<Shared>, node: NodeId) -> Result<(), String> {
    let credential = match shared.ask(node, Request::Credential, ANSWER_WAIT).await {
        Ok(Response::Credential(credential)) => credential,
        // Asked again: it may be on its way into the epoch.
        _ => return Ok(()),
    };
    let (admission, roles) = admission_of(shared, node, *credential)?;
    let name = admission.name.clone();
    let command = Command::RecoverMember {
        admission: Box::new(admission),
        roles,
        now: clock::unix_now(),
    };
    match shared.control.propose(command).await {
        Ok(applied) => match applied.reply {
            Reply::Done => {
                tracing::warn!(%node, %name, "a node that the log lacked is a member again");
                Ok(())
            }
            other => Err(format!("{other:?}")),
        },
        // Tried again by whoever leads then.
        Err(_) => Ok(()),
    }
}

fn admission_of(
    shared: &Shared,
    node: NodeId,
    credential: NodeCredential,
) -> Result<(Admission, Vec<NodeRole>), String> {
    let certificate = credential
        .verify(shared.me.fleet, clock::unix_now(), Millis(0))
        .map_err(|error| crate::cli::chain(&error))?;
    if certificate.node != node || certificate.topology.cluster != shared.me.cluster {
        return Err("the certificate is of another node or cluster".into());
    }
    let serial = certificate.serial;
    if shared
        .control
        .read(|state: &Cluster| state.is_revoked(serial))
    {
        return Err("its certificate is revoked".into());
    }
    let address = shared.directory.get(node).and_then(|known| known.address);
    let admission = Admission {
        node,
        name: certificate.name,
        topology: certificate.topology,
        credential,
        serial,
        addresses: address
            .into_iter()
            .map(|address| address.to_string())
            .collect(),
    };
    Ok((admission, certificate.roles))
}

async fn take_job(
    shared: &Arc<Shared>,
    job: &JobName,
    version: u64,
    node: NodeId,
) -> Result<(), String> {
    let held = match shared
        .ask(node, Request::HeldJob(job.clone()), ANSWER_WAIT)
        .await
    {
        Ok(Response::HeldJob(Some(held))) => *held,
        // Gone since, or it does not answer now: asked again.
        _ => return Ok(()),
    };
    let HeldJob {
        job: signed,
        package_bytes,
    } = held;
    let me = &shared.me;
    let (verified, author) =
        authors::verify_signed(&signed, me.fleet, &me.cluster, clock::unix_now())?;
    if verified.name != *job || verified.version < version {
        return Err("it hands over another job".into());
    }
    let holders = shared
        .scheduling
        .look({
            let job = job.clone();
            move |scheduler, _| scheduler.hosts_running(&job, version)
        })
        .await
        .unwrap_or_default();
    let command = Command::RecoverJob {
        job: Box::new(signed),
        author: author.user,
        holders,
        package_bytes,
        now: clock::unix_now(),
    };
    match shared.control.propose(command).await {
        Ok(applied) => match applied.reply {
            Reply::Accepted { version } => {
                tracing::warn!(%job, version, %node, "a job that the log lacked is recovered");
                Ok(())
            }
            Reply::Done => Ok(()),
            other => Err(format!("{other:?}")),
        },
        Err(_) => Ok(()),
    }
}
