//! Epochs: what a survivor says before it goes on alone, the order to do so,
//! and how every other node follows into the new epoch.
//!
//! ```text
//! survivor   asked ──order──▶ kept in the folder ──restart──▶ log rewritten, leads
//! others     epoch 1 ──somebody speaks of a later epoch──▶ asks for its order
//!               ▲                                              │ it holds
//!               └─────────── it does not, or nobody has it ────┤
//!                                                              ▼
//!                    order kept, restart: old log put aside, new raft id, follows
//! ```
//!
//! Inputs: hints that somebody is of a later epoch (requests and answers that
//! `claims` refuses, the control group's refusals). Outputs: the order in the
//! data folder, and the end of this process so that it starts anew. It waits
//! for one peer at a time, each with a limit. Tasks are not touched: the next
//! start adopts them.

use super::{claims::NotTaken, shared::Shared, standing::NodeEnded};
use crate::{
    api::{
        change::{Change, SignedChange},
        error::{ApiError, ErrorCode},
        recovery::{LogCopy, RecoveryOrder, RecoveryView, VoterView, verify_order},
    },
    cli::chain,
    clock,
    control::{self, LogEnd, Membership},
    identity::{ClusterFile, DataFolder, FolderError},
    wire::{Request, Response},
};
use futures::{StreamExt, stream::FuturesUnordered};
use potluck_core::cluster::{Cluster, Command, ORDER_BYTES_MAX, Recovery};
use potluck_specs::{Epoch, Millis, NodeId, codec, trust::NodeRole};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

/// How long a node may take to say where its log ends, or to give an order.
const ANSWER_WAIT: Duration = Duration::from_millis(1_500);

/// Nodes asked for their copy of the log: the group has at most fifteen, and
/// one that has no log itself does not know which they are.
const ASKED_MAX: usize = 200;

/// Nodes asked for an order in one round.
const ASKED_FOR_ORDER: usize = 5;

/// Nodes remembered that spoke of a later epoch: any one that tells the truth
/// is enough.
const HINTS_MAX: usize = 16;

/// Pause between two rounds of asking; longer each time that nobody has an
/// order, since whoever spoke of a later epoch may have lied.
const ROUND_PAUSE: Duration = Duration::from_millis(250);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A scheduler that was heard this lately may well be there.
const LEADER_HEARD: Millis = Millis(3_000);

/// What a node remembers about later epochs.
#[derive(Default)]
pub(super) struct Epochs {
    /// The order by which this node's epoch began, if it was recovered.
    order: Mutex<Option<SignedChange>>,
    hints: Mutex<BTreeSet<NodeId>>,
    hinted: Notify,
}

impl Epochs {
    /// With the order that the folder holds.
    pub(super) fn new(order: Option<SignedChange>) -> Epochs {
        Epochs {
            order: Mutex::new(order),
            ..Epochs::default()
        }
    }

    /// A node's word was refused: is it of a later epoch than ours?
    pub(super) fn refused(&self, from: NodeId, why: &NotTaken, ours: Epoch) {
        if let NotTaken::NobodyHas(authority) = why
            && authority.epoch > ours
        {
            let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
            if hints.len() < HINTS_MAX {
                hints.insert(from);
                self.hinted.notify_one();
            }
        }
    }

    fn take_hints(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.hints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn order(&self) -> Option<SignedChange> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.clone()
    }
}

/// The epoch that a folder's files speak of.
///
/// # Errors
/// If they can't be read.
pub(super) fn epoch_of(folder: &DataFolder, file: &ClusterFile) -> Result<Epoch, FolderError> {
    let order = folder.recovery()?;
    let order = order.and_then(|order| verify_order(&order, file.fleet, &file.cluster).ok());
    Ok(order.map_or(file.epoch, |order| order.epoch.max(file.epoch)))
}

/// Carries out an order that was given to this node while it ran: before its
/// control group is started. What is done already is not done again.
///
/// # Errors
/// If the log can't be rewritten; the order stays.
pub(super) fn carry_out(
    folder: &DataFolder,
    raft: &Path,
    file: &ClusterFile,
    me: &control::Member,
) -> Result<(), CarryOutError> {
    let Some(signed) = folder.ordered_recovery()? else {
        return Ok(());
    };
    let present = epoch_of(folder, file)?;
    match verify_order(&signed, file.fleet, &file.cluster) {
        Ok(order) if order.epoch <= present => {
            tracing::info!(
                epoch = order.epoch.0,
                "the order of a recovery is carried out already"
            );
        }
        Ok(order) if order.survivor == me.node => {
            let command = Command::Recover {
                recovery: Box::new(Recovery {
                    epoch: order.epoch,
                    survivor: order.survivor,
                    author: order.author.clone(),
                    at: order.made,
                    order: codec::encode(&signed),
                }),
            };
            control::recover(raft, me, order.epoch, &codec::encode(&command))?;
            folder.set_recovery(&signed)?;
            tracing::warn!(
                epoch = order.epoch.0,
                author = order.author,
                "the cluster is recovered from this node's log"
            );
        }
        Ok(_) => tracing::error!("the order of a recovery is for another node, it is dropped"),
        Err(error) => {
            tracing::error!(error = %chain(&error), "the order of a recovery does not hold, it is dropped");
        }
    }
    Ok(folder.drop_ordered_recovery()?)
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum CarryOutError {
    /// The data folder.
    #[error("can't use the data folder")]
    Folder(#[from] FolderError),
    /// The log.
    #[error("can't rewrite the log")]
    Log(#[from] control::StoreError),
}

/// Where this node's log ends, for whoever asks.
pub(super) fn log_end(shared: &Shared) -> Response {
    Response::LogEnd {
        epoch: shared.control.epoch(),
        end: shared.control.log_end(),
    }
}

/// The order by which the present epoch began, if there is one.
pub(super) fn order(shared: &Shared) -> Option<SignedChange> {
    let logged = shared
        .control
        .read(|state: &Cluster| state.recovery().map(|recovery| recovery.order.clone()));
    let logged = logged.and_then(|bytes| {
        codec::decode::<SignedChange>("order of a recovery", &bytes, ORDER_BYTES_MAX).ok()
    });
    let epoch = |order: &SignedChange| {
        let order = verify_order(order, shared.me.fleet, &shared.me.cluster);
        order.map_or(Epoch(0), |order| order.epoch)
    };
    let both = [logged, shared.epochs.order()].into_iter().flatten();
    both.max_by_key(epoch)
}

/// Follows into later epochs until told to stop.
pub(super) async fn run(shared: Arc<Shared>, folder: Arc<DataFolder>, token: CancellationToken) {
    let mut leadership = shared.control.leadership();
    let mut patience = ROUND_PAUSE;
    loop {
        let superseded = leadership.borrow_and_update().superseded_by.is_some();
        let mut asked = shared.epochs.take_hints();
        if superseded {
            asked.extend(some_alive(&shared));
        }
        for node in asked {
            if let Some((signed, order)) = later_order(&shared, node).await
                && follow(&shared, &folder, &signed, &order)
            {
                // The next start follows; until then this one has nothing to do.
                return token.cancelled().await;
            }
        }
        let pause = async {
            sleep(ROUND_PAUSE).await;
            tokio::select! {
                () = sleep(patience), if superseded => (patience * 2).min(ROUND_PAUSE_MAX),
                () = shared.epochs.hinted.notified() => ROUND_PAUSE,
                _ = leadership.changed() => ROUND_PAUSE,
            }
        };
        patience = tokio::select! {
            () = token.cancelled() => return,
            next = pause => next,
        };
    }
}

/// Some that may know: others each time.
fn some_alive(shared: &Shared) -> Vec<NodeId> {
    let mut alive = shared.directory.alive();
    alive.retain(|node| *node != shared.me.node);
    if !alive.is_empty() {
        let first = clock::boot_now().0 as usize / 100 % alive.len();
        alive.rotate_left(first);
    }
    alive.truncate(ASKED_FOR_ORDER);
    alive
}

async fn later_order(shared: &Arc<Shared>, from: NodeId) -> Option<(SignedChange, RecoveryOrder)> {
    let answer = shared.ask(from, Request::Recovery, ANSWER_WAIT).await;
    let Ok(Response::Recovery(Some(signed))) = answer else {
        return None;
    };
    match verify_order(&signed, shared.me.fleet, &shared.me.cluster) {
        Ok(order) if order.epoch > shared.control.epoch() => Some((*signed, order)),
        Ok(_) => None,
        Err(error) => {
            tracing::error!(%from, error = %chain(&error), "an order of a recovery does not hold");
            None
        }
    }
}

/// Keeps the order and lets this process end; has it?
fn follow(
    shared: &Shared,
    folder: &DataFolder,
    signed: &SignedChange,
    order: &RecoveryOrder,
) -> bool {
    if let Err(error) = folder.set_recovery(signed) {
        tracing::error!(error = %chain(&error), "the order of a recovery was not kept, trying again");
        return false;
    }
    let survivor = shared.directory.name(order.survivor);
    tracing::warn!(
        epoch = order.epoch.0,
        survivor,
        author = order.author,
        log_end = shared.control.log_end().index,
        "the cluster was recovered: this node puts its log aside and follows"
    );
    end(shared, NodeEnded::NewEpoch)
}

fn end(shared: &Shared, why: NodeEnded) -> bool {
    let ended = &shared.ended;
    ended.send_if_modified(|now| match now {
        Some(_) => false,
        None => now.replace(why).is_none(),
    });
    true
}

/// Takes an order on the survivor: it is kept, and carried out by the next
/// start, which follows at once.
///
/// # Errors
/// Whatever the operator must hear.
pub(super) async fn take_order(
    shared: &Arc<Shared>,
    folder: &DataFolder,
    signed: &SignedChange,
    force: bool,
) -> Result<RecoveryView, ApiError> {
    let (request, _) = signed
        .verify(shared.me.fleet, &shared.me.cluster, clock::unix_now())
        .map_err(|error| ApiError::new(ErrorCode::Denied, chain(&error)))?;
    let Change::Recover { epoch, survivor } = request.change else {
        let message = "the change is no order of a recovery";
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    };
    let view = look(shared).await;
    if let Some(why) = &view.impossible {
        return Err(impossible(&view, why));
    }
    if survivor != shared.me.node || epoch.0 != view.next_epoch {
        let message = "the order is for another node or epoch";
        return Err(ApiError::new(ErrorCode::Conflict, message).hint("look again and repeat it"));
    }
    if !view.objections.is_empty() && !force {
        return Err(objected(&view));
    }
    folder
        .order_recovery(signed)
        .map_err(|error| ApiError::new(ErrorCode::Failed, chain(&error)))?;
    end(shared, NodeEnded::Recover);
    Ok(view)
}

/// The refusal of what can't be done here.
pub(crate) fn impossible(view: &RecoveryView, why: &str) -> ApiError {
    let error = ApiError::new(
        ErrorCode::BadRequest,
        format!("{} can't go on alone: {why}", view.name),
    );
    match view.copies.first() {
        Some(copy) => error.hint(format!(
            "{} has a copy of the log, up to entry {}: recover there",
            copy.name, copy.log_index
        )),
        None => error.hint("no node that can be reached has a copy of the log"),
    }
}

/// The refusal of what is only done by force.
pub(crate) fn objected(view: &RecoveryView) -> ApiError {
    let message = format!("not recovered: {}", view.objections.join("; "));
    ApiError::new(ErrorCode::Conflict, message)
        .hint("if you know better: --force; what only the others have is lost")
}

/// What this node says of itself.
pub(super) async fn look(shared: &Arc<Shared>) -> RecoveryView {
    let group = shared.control.membership();
    let (has_begun, members, jobs, signs_in) = shared.control.read(|state: &Cluster| {
        let sealed = state.sealed_issuer(shared.me.node).is_some();
        let counts = (state.members().len() as u32, state.jobs().len() as u32);
        (state.has_begun(), counts.0, counts.1, sealed)
    });
    let (epoch, end) = (shared.control.epoch(), shared.control.log_end());
    let others = ask_others(shared, &group).await;
    // One that leads and is not confirmed by most voters hears nobody.
    let heard = match shared.we_lead() {
        true => shared.control.last_quorum_ack(),
        false => shared.control.last_leader_contact(),
    };
    let leader_heard = heard.map(|at| clock::boot_now().since(at));
    let me = shared.me.node;
    let voters: Vec<VoterView> = group
        .voters
        .iter()
        .map(|voter| VoterView {
            name: shared.directory.name(voter.member.node),
            is_there: voter.member.node == me || others.contains_key(&voter.member.node),
        })
        .collect();
    let later = others.values().map(|(epoch, _)| *epoch).max();
    let later = later.filter(|later| *later > epoch);
    let mut copies: Vec<(LogEnd, NodeId)> = others
        .iter()
        .filter(|(_, (of, end))| *of == epoch && end.index > 0)
        .map(|(node, (_, end))| (*end, *node))
        .collect();
    copies.sort();
    copies.reverse();
    let facts = Facts {
        has_log: has_begun && end.index > 0,
        may_lead: may_lead(shared),
        later,
        leader_heard,
        end,
        longest: copies
            .first()
            .map(|(end, node)| (shared.directory.name(*node), *end)),
    };
    let is_in = |list: &[control::Follower]| list.iter().any(|f| f.member.node == me);
    RecoveryView {
        node: me,
        name: shared.me.name.clone(),
        cluster: shared.me.cluster.clone(),
        epoch: epoch.0,
        next_epoch: epoch.0 + 1,
        role: match (is_in(&group.voters), is_in(&group.learners)) {
            (true, _) => "voter",
            (_, true) => "learner",
            _ => "none",
        }
        .into(),
        log_index: end.index,
        log_term: end.term,
        jobs,
        members,
        leader_heard_ms: leader_heard.map(|silence| silence.0),
        objections: facts.objections(&voters),
        impossible: facts.impossible(),
        voters,
        copies: copies
            .into_iter()
            .map(|(end, node)| LogCopy {
                name: shared.directory.name(node),
                log_index: end.index,
                log_term: end.term,
            })
            .collect(),
        signs_in,
    }
}

/// Only who may be a voter is believed as a scheduler.
fn may_lead(shared: &Shared) -> bool {
    let credential = shared.admission.credential();
    let certificate = credential.verify(shared.me.fleet, clock::unix_now(), Millis(u64::MAX / 2));
    certificate.is_ok_and(|certificate| certificate.roles.contains(&NodeRole::VoterEligible))
}

/// Everybody in the group and some others: who answers, and where their logs
/// end.
async fn ask_others(shared: &Arc<Shared>, group: &Membership) -> BTreeMap<NodeId, (Epoch, LogEnd)> {
    let followers = group.voters.iter().chain(&group.learners);
    let mut nodes: BTreeSet<NodeId> = followers.map(|follower| follower.member.node).collect();
    nodes.extend(shared.directory.alive().into_iter().take(ASKED_MAX));
    nodes.remove(&shared.me.node);
    let mut asked: FuturesUnordered<_> = nodes
        .into_iter()
        .map(|node| async move {
            match shared.ask(node, Request::LogEnd, ANSWER_WAIT).await {
                Ok(Response::LogEnd { epoch, end }) => Some((node, (epoch, end))),
                // It is there, and of an older version.
                Ok(_) => Some((node, (Epoch(0), LogEnd::default()))),
                Err(_) => None,
            }
        })
        .collect();
    let mut answers = BTreeMap::new();
    while let Some(answer) = asked.next().await {
        answers.extend(answer);
    }
    answers
}

/// What speaks for and against.
struct Facts {
    has_log: bool,
    may_lead: bool,
    /// The epoch of somebody who is ahead.
    later: Option<Epoch>,
    leader_heard: Option<Millis>,
    end: LogEnd,
    /// Who else has the longest copy, and where it ends.
    longest: Option<(String, LogEnd)>,
}

impl Facts {
    fn impossible(&self) -> Option<String> {
        if let Some(later) = self.later {
            return Some(format!(
                "the cluster was recovered already, as epoch {}; this node follows by itself",
                later.0
            ));
        }
        if !self.has_log {
            return Some("it has no copy of the log".into());
        }
        (!self.may_lead).then(|| "its certificate does not let it lead".into())
    }

    fn objections(&self, voters: &[VoterView]) -> Vec<String> {
        let mut objections = Vec::new();
        let there: Vec<&str> = voters
            .iter()
            .filter(|voter| voter.is_there)
            .map(|voter| voter.name.as_str())
            .collect();
        if there.len() > voters.len() / 2 {
            let (count, total) = (there.len(), voters.len());
            let names = there.join(", ");
            objections.push(format!(
                "{count} of {total} voters can be reached ({names}): they elect a scheduler \
                 by themselves"
            ));
        }
        if let Some(silence) = self.leader_heard
            && silence < LEADER_HEARD
        {
            objections.push(format!("a scheduler was heard {} ms ago", silence.0));
        }
        if let Some((name, end)) = &self.longest
            && *end > self.end
        {
            objections.push(format!(
                "{name} has a longer copy of the log, up to entry {}, this one ends at {}: \
                 recover there",
                end.index, self.end.index
            ));
        }
        objections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(there: &[bool]) -> Vec<VoterView> {
        let voter = |(number, is_there): (usize, &bool)| VoterView {
            name: format!("n{number}"),
            is_there: *is_there,
        };
        there.iter().enumerate().map(voter).collect()
    }

    fn facts() -> Facts {
        Facts {
            has_log: true,
            may_lead: true,
            later: None,
            leader_heard: Some(Millis(60_000)),
            end: LogEnd { term: 3, index: 40 },
            longest: None,
        }
    }

    #[test]
    fn only_a_lost_majority_is_recovered_without_force() {
        assert_eq!(facts().objections(&voters(&[true, false, false])), [""; 0]);
        assert_eq!(facts().objections(&voters(&[false, false, false])), [""; 0]);
        let most = facts().objections(&voters(&[true, true, false]));
        assert!(most[0].starts_with("2 of 3 voters can be reached (n0, n1)"));
        let heard = Facts {
            leader_heard: Some(Millis(200)),
            ..facts()
        };
        assert_eq!(heard.objections(&voters(&[true, false, false])).len(), 1);
    }

    #[test]
    fn the_longest_copy_is_gone_on_with() {
        let beside = |term, index| Facts {
            longest: Some(("n9".into(), LogEnd { term, index })),
            ..facts()
        };
        let one = voters(&[true, false, false]);
        assert_eq!(beside(3, 40).objections(&one).len(), 0);
        assert_eq!(beside(3, 39).objections(&one).len(), 0);
        assert_eq!(beside(2, 90).objections(&one).len(), 0);
        for (term, index) in [(3, 41), (4, 5)] {
            let told = beside(term, index).objections(&one);
            assert!(told[0].starts_with("n9 has a longer copy"), "{told:?}");
        }
    }

    #[test]
    fn who_has_no_log_or_is_of_the_past_does_not_go_on() {
        assert_eq!(facts().impossible(), None);
        let table = [
            (
                Facts {
                    has_log: false,
                    ..facts()
                },
                "no copy",
            ),
            (
                Facts {
                    may_lead: false,
                    ..facts()
                },
                "certificate",
            ),
            (
                Facts {
                    later: Some(Epoch(2)),
                    ..facts()
                },
                "epoch 2",
            ),
        ];
        for (facts, word) in table {
            let why = facts.impossible().unwrap_or_default();
            assert!(why.contains(word), "{why}");
        }
    }
}
