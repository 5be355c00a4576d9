//! The agent's session with whoever leads: a heartbeat each second, and at
//! once when something changed.
//!
//! Inputs: the agent's change counter, the control group's leadership.
//! Outputs: requests to the leader. Never waits for more than one of them at
//! a time, so a slow leader gets fewer heartbeats, not a queue of them. Which
//! way they go is decided by `potluck_core::relay`.

use super::{claims, relay, revocations, shared::Shared, standing::NodeEnded};
use crate::{
    clock,
    wire::{Request, Response},
};
use potluck_core::relay::{Path, Way};
use potluck_specs::NodeId;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Time between two heartbeats when nothing changes. The session is out after
/// four of them.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Least time between two heartbeats: a burst of changes travels as one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(2);

/// How long the scheduler may take to take an introduction.
const INTRODUCE_WAIT: Duration = Duration::from_millis(1_500);

/// A scheduler is told again after so long who we are. It may have heard
/// another process with our key since, which is told to end but has left its
/// address in the log. Of 1,000 nodes that is 33 small requests a second, and
/// those that say nothing new cost the log nothing.
const INTRODUCE_AGAIN: Duration = Duration::from_secs(30);

/// Pause while nobody is known to lead.
const LEADERLESS_PAUSE: Duration = Duration::from_millis(100);

/// Keeps the session until told to stop.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let mut changed = shared.agent.changed();
    let mut leadership = shared.control.leadership();
    let mut introduced = None;
    let mut path = Path::default();
    loop {
        let sent = Instant::now();
        let answered = beat(&shared, &mut path, &mut introduced).await;
        let pause = if answered {
            HEARTBEAT
        } else {
            LEADERLESS_PAUSE
        };
        tokio::select! {
            () = token.cancelled() => return,
            () = sleep_until(sent + pause) => {}
            changed = changed.changed(), if answered => {
                if changed.is_err() { return }
                sleep_until(sent + HEARTBEAT_MIN).await;
            }
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// Sends one heartbeat; was it answered by a scheduler?
async fn beat(
    shared: &Arc<Shared>,
    path: &mut Path,
    introduced: &mut Option<(NodeId, Instant)>,
) -> bool {
    let leader = shared.leader().or_else(|| path.carried_to());
    let Some(leader) = leader.or_else(|| anybody(shared)) else {
        return false;
    };
    let Ok(heartbeat) = shared.agent.heartbeat().await else {
        return false;
    };
    let request = Request::Heartbeat {
        heartbeat,
        process: shared.me.process,
        condition: Some(shared.own.condition()),
    };
    let (way, wait) = path.next(leader, clock::boot_now());
    let wait = Duration::from_millis(wait.0);
    let response = relay::ask_by(shared, way, leader, request, wait).await;
    if let Ok(response) = &response {
        let known = shared.known();
        if let Err(why) = claims::may_answer(leader, response, &known) {
            tracing::debug!(leader = %leader, why = %why, "the answer to a heartbeat is not taken");
            shared.epochs.refused(leader, &why, known.epoch);
            return false;
        }
    }
    match response {
        Ok(Response::Heartbeat {
            answer,
            revocations,
        }) => {
            path.answered(way);
            revocations::catch_up(shared, way, leader, revocations).await;
            let lately =
                introduced.is_some_and(|(to, at)| to == leader && at.elapsed() < INTRODUCE_AGAIN);
            if !lately && introduce(shared, way, leader).await {
                *introduced = Some((leader, Instant::now()));
            }
            shared.agent.heartbeat_answered(answer).await.is_ok()
        }
        Ok(Response::NotLeader(Some(hint))) if hint != leader => {
            follow_hint(path, way, leader, hint);
            shared.directory.hint_leader(hint);
            false
        }
        Ok(Response::Twin) => {
            tracing::error!("another process runs with this node's key, this one ends");
            let ended = &shared.ended;
            ended.send_if_modified(|why| why.replace(NodeEnded::Twin).is_none());
            false
        }
        // Signed by the scheduler, about what came by this way: another may be
        // better.
        Ok(Response::Refused(why)) if way != Way::Straight => {
            tracing::debug!(leader = %leader, %why, "a carried heartbeat was refused");
            path.unanswered(leader, way, clock::boot_now());
            false
        }
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(leader = %leader, error = %error, "heartbeat was not answered");
            path.unanswered(leader, way, clock::boot_now());
            shared.directory.lost(leader);
            false
        }
    }
}

/// A node that does not lead says who does.
fn follow_hint(path: &mut Path, way: Way, by: NodeId, leader: NodeId) {
    match way {
        Way::Straight => {
            if path.named(by, leader, clock::boot_now()) {
                tracing::warn!(%leader, %by, "no way to the scheduler, a member carries the session");
            }
        }
        Way::Through(_) => path.forget(),
    }
}

async fn introduce(shared: &Arc<Shared>, way: Way, leader: NodeId) -> bool {
    let request = Request::Introduce(shared.me.introduction.clone());
    matches!(
        relay::ask_by(shared, way, leader, request, INTRODUCE_WAIT).await,
        Ok(Response::Done)
    )
}

/// Somebody to ask who leads: a member of gossip that is not this node.
fn anybody(shared: &Shared) -> Option<NodeId> {
    let alive = shared.directory.alive();
    let others: Vec<NodeId> = alive
        .into_iter()
        .filter(|node| *node != shared.me.node)
        .collect();
    let pick = clock::boot_now().0 as usize / 100;
    (!others.is_empty()).then(|| others[pick % others.len()])
}
