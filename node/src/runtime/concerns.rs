//! What people should be told about the cluster: above all that most voters
//! are away, which leaves everything as it is and looks as if all were well.
//! The texts are decided by pure functions; this module also gathers what they
//! need.

use super::shared::Shared;
use crate::{
    clock,
    wire::{Request, Response},
};
use potluck_core::cluster::Cluster;
use potluck_specs::{Millis, NodeId};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How long a quorum, or a leader, may be silent before people are told:
/// several elections would have been over by then.
const TOLD_AFTER: Millis = Millis(2_000);

/// How long the scheduler may take to tell its concerns: it only looks.
const CONCERNS_WAIT: Duration = Duration::from_millis(1_000);

/// Concerns told at most: more are no help to a person.
const CONCERNS_MAX: usize = 20;

/// Recovered jobs named at most; status shows the others.
const RECOVERED_SHOWN: usize = 5;

/// Older nodes named at most.
const OLDER_SHOWN: usize = 5;

/// After so long without a quorum people are told what helps if the voters
/// don't come back: a restart of hosts is over by then.
const LOST_AFTER: Millis = Millis(60_000);

/// A voter as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voter {
    name: String,
    /// It answers, or is this node itself.
    is_there: bool,
}

/// A leader's words when most voters have been silent for too long.
fn no_quorum(quorum_at: Millis, voters: &[Voter], now: Millis) -> Option<String> {
    let silence = now.since(quorum_at);
    (silence > TOLD_AFTER).then(|| {
        format!(
            "no quorum for {} s: nothing is placed or accepted, tasks go on; {}{}",
            silence.0 / 1_000,
            missing(voters),
            for_good(silence, voters),
        )
    })
}

/// What helps if most voters don't come back.
fn for_good(silence: Millis, voters: &[Voter]) -> &'static str {
    let away = voters.iter().any(|voter| !voter.is_there);
    match away && silence > LOST_AFTER {
        true => {
            "; if their hosts are lost for good: potluck cluster recover on a survivor, as \
             docs/operating/recovery.md has it"
        }
        false => "",
    }
}

/// The words of a node that knows no leader.
fn no_scheduler(heard_at: Option<Millis>, voters: &[Voter], now: Millis) -> String {
    let since = match heard_at {
        Some(at) => format!("no scheduler was heard for {} s", now.since(at).0 / 1_000),
        None => "no scheduler is known here".into(),
    };
    match voters.is_empty() {
        true => format!("{since}: nothing is placed or accepted, tasks go on"),
        false => format!(
            "{since}: nothing is placed or accepted, tasks go on; {}{}",
            missing(voters),
            for_good(heard_at.map_or(now, |at| now.since(at)), voters),
        ),
    }
}

/// Who is away, and what helps.
fn missing(voters: &[Voter]) -> String {
    let away: Vec<&str> = voters
        .iter()
        .filter(|voter| !voter.is_there)
        .map(|voter| voter.name.as_str())
        .collect();
    let (total, needed) = (voters.len(), voters.len() / 2 + 1);
    match away.is_empty() {
        true => format!("all {total} voters can be seen, an election may be under way"),
        false => format!(
            "of {total} voters {needed} are needed, away: {}; start potluck on them again",
            away.join(", ")
        ),
    }
}

/// When this node had a quorum last while it leads, on the boot clock; looked
/// at each second. Before the first acknowledgement it is the begin of its
/// leadership, and while it hands over, when nothing counts as acknowledged,
/// what it was before.
#[derive(Default)]
pub(super) struct QuorumSeen(Mutex<Option<Millis>>);

impl QuorumSeen {
    /// What is so now.
    pub(super) fn note(&self, we_lead: bool, acked_at: Option<Millis>, now: Millis) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = seen.unwrap_or(now).max(acked_at.unwrap_or_default());
        *seen = we_lead.then_some(latest);
    }

    fn get(&self) -> Option<Millis> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What people should know, by whoever leads, or by this node if nobody does.
pub(super) async fn gather(shared: &Arc<Shared>) -> Vec<String> {
    let leader = shared.leader();
    match leader {
        Some(leader) if leader != shared.me.node => {
            match shared.ask(leader, Request::Concerns, CONCERNS_WAIT).await {
                Ok(Response::Concerns(mut told)) => {
                    told.truncate(CONCERNS_MAX);
                    told
                }
                // It has just lost its office, or is of an older version.
                Ok(_) => Vec::new(),
                Err(_) => {
                    let name = shared.directory.name(leader);
                    vec![format!("the scheduler on {name} does not answer")]
                }
            }
        }
        _ => ours(shared),
    }
}

/// What this node knows itself.
pub(super) fn ours(shared: &Shared) -> Vec<String> {
    let now = clock::boot_now();
    let mut concerns: Vec<String> = group(shared, now).into_iter().collect();
    let twins = shared.twins.lock().unwrap_or_else(PoisonError::into_inner);
    concerns.extend(twins.known(now).into_iter().map(|node| {
        let name = shared.directory.name(node);
        format!(
            "two processes use the key of {name}, as after its data folder was copied; \
             the one that came later is told to end"
        )
    }));
    drop(twins);
    if shared.we_lead() {
        let conditions = shared.conditions.lock();
        let told = conditions.unwrap_or_else(PoisonError::into_inner).told(now);
        let named = |(node, text)| format!("{}: {text}", shared.directory.name(node));
        concerns.extend(told.into_iter().map(named));
    }
    concerns.extend(shared.control.read(recovered));
    let group = shared.control.membership();
    let followers = group.voters.iter().chain(&group.learners);
    let followers = followers.map(|follower| follower.member.node).collect();
    concerns.extend(shared.control.read(|state| older(state, &followers)));
    concerns.truncate(CONCERNS_MAX);
    concerns
}

/// Jobs that nobody has looked at since a recovery brought them back.
fn recovered(state: &Cluster) -> Option<String> {
    let jobs = state.jobs().iter();
    let names: Vec<String> = jobs
        .filter(|(_, record)| record.recovered_at.is_some() && !record.stopped)
        .map(|(name, _)| name.to_string())
        .collect();
    let shown = names
        .iter()
        .take(RECOVERED_SHOWN)
        .cloned()
        .collect::<Vec<_>>();
    (!names.is_empty()).then(|| {
        format!(
            "{} jobs were recovered from hosts, the log lacked them ({}{}): stop those that \
             should not run, run the others again",
            names.len(),
            shown.join(", "),
            if names.len() > shown.len() {
                ", …"
            } else {
                ""
            },
        )
    })
}

/// Nodes whose potluck is older than what the log holds by now, and what each
/// of them costs: one that follows the log keeps ends of work and stages of
/// places from being counted.
fn older(state: &Cluster, followers: &BTreeSet<NodeId>) -> Option<String> {
    let names = |follows: bool| -> Vec<&str> {
        let older = state.too_old_to_follow();
        let those = older.filter(|member| followers.contains(&member.node) == follows);
        those.map(|member| member.name.0.as_str()).collect()
    };
    let (following, others) = (names(true), names(false));
    if let [first, ..] = following[..] {
        return Some(format!(
            "{first} follows the log with an older potluck than it needs ({} such nodes): ends of \
             batch jobs and update stages are not counted until it is upgraded",
            following.len(),
        ));
    }
    let shown = others.iter().take(OLDER_SHOWN).copied();
    (!others.is_empty()).then(|| {
        format!(
            "{} nodes run an older potluck ({}{}): they can't become voters, and get no tasks of a \
             kind that they don't know, until they are upgraded",
            others.len(),
            shown.collect::<Vec<_>>().join(", "),
            if others.len() > OLDER_SHOWN {
                ", …"
            } else {
                ""
            },
        )
    })
}

fn group(shared: &Shared, now: Millis) -> Option<String> {
    let voters = shared.control.membership().voters;
    let alive = shared.directory.alive();
    let we_lead = shared.we_lead();
    let voters: Vec<Voter> = voters
        .into_iter()
        .map(|voter| {
            let node = voter.member.node;
            let answers = voter
                .last_contact
                .is_some_and(|at| now.since(at) <= TOLD_AFTER);
            Voter {
                name: shared.directory.name(node),
                is_there: node == shared.me.node
                    || if we_lead {
                        answers
                    } else {
                        alive.contains(&node)
                    },
            }
        })
        .collect();
    if we_lead {
        let acked_at = shared.control.last_quorum_ack();
        shared.quorum_seen.note(we_lead, acked_at, now);
        let quorum_at = shared.quorum_seen.get().unwrap_or(now);
        return no_quorum(quorum_at, &voters, now);
    }
    let heard_at = shared.control.last_leader_contact();
    let is_led = shared.leader().is_some();
    (!is_led).then(|| no_scheduler(heard_at, &voters, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(100_000);

    fn voters(there: [bool; 3]) -> Vec<Voter> {
        let named = ["r1h1", "r2h1", "r3h1"].into_iter().zip(there);
        named
            .map(|(name, is_there)| Voter {
                name: name.into(),
                is_there,
            })
            .collect()
    }

    #[test]
    fn a_leader_without_a_quorum_says_so_and_who_is_away() {
        let away = voters([true, false, false]);
        let since = |quorum_at| no_quorum(quorum_at, &away, NOW);
        assert_eq!(since(Millis(NOW.0 - 300)), None, "it has one");
        assert_eq!(since(Millis(NOW.0 - TOLD_AFTER.0)), None, "a blink");
        assert_eq!(
            since(Millis(65_000)).as_deref(),
            Some(
                "no quorum for 35 s: nothing is placed or accepted, tasks go on; \
                 of 3 voters 2 are needed, away: r2h1, r3h1; start potluck on them again"
            )
        );
        let long = since(Millis(NOW.0 - LOST_AFTER.0 - 1)).expect("told");
        assert!(long.contains("potluck cluster recover"), "{long}");
        assert!(long.contains("docs/operating/recovery.md"), "{long}");
        let there = no_quorum(Millis(1), &voters([true; 3]), NOW).expect("told");
        assert!(!there.contains("recover"), "{there}");
    }

    #[test]
    fn without_a_scheduler_every_node_says_so() {
        let away = voters([false, true, false]);
        let text = no_scheduler(Some(Millis(88_000)), &away, NOW);
        assert!(
            text.starts_with("no scheduler was heard for 12 s: nothing"),
            "{text}"
        );
        assert!(text.contains("away: r1h1, r3h1"), "{text}");
        let text = no_scheduler(None, &[], NOW);
        assert_eq!(
            text,
            "no scheduler is known here: nothing is placed or accepted, tasks go on"
        );
        let text = no_scheduler(None, &voters([true; 3]), NOW);
        assert!(text.contains("an election may be under way"), "{text}");
    }

    #[test]
    fn the_last_quorum_is_remembered_while_this_node_leads() {
        let seen = QuorumSeen::default();
        let note = |we_lead, acked: Option<u64>, now| {
            seen.note(we_lead, acked.map(Millis), Millis(now));
            seen.get()
        };
        // Elected, and then alone before anybody answered.
        assert_eq!(note(true, None, 5), Some(Millis(5)));
        assert_eq!(note(true, None, 9), Some(Millis(5)));
        assert_eq!(note(true, Some(20), 21), Some(Millis(20)));
        // It hands over: that is no loss of a quorum at the very begin.
        assert_eq!(note(true, None, 30), Some(Millis(20)));
        assert_eq!(note(false, None, 31), None);
        assert_eq!(note(true, None, 40), Some(Millis(40)), "a new leadership");
    }
}
