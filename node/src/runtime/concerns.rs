//! What people should be told about the cluster: above all that most voters
//! are away, which leaves everything as it is and looks as if all were well.
//! The texts are decided by pure functions; this module also gathers what they
//! need.

use super::shared::Shared;
use crate::{
    clock,
    wire::{Request, Response},
};
use potluck_specs::Millis;
use std::{
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

/// A voter as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Voter {
    name: String,
    /// It answers, or is this node itself.
    is_there: bool,
}

/// A leader's words when most voters have been silent for too long. Without
/// any acknowledgement so far the silence began with its leadership.
fn no_quorum(
    acked_at: Option<Millis>,
    leads_since: Millis,
    voters: &[Voter],
    now: Millis,
) -> Option<String> {
    let silence = now.since(acked_at.unwrap_or(leads_since));
    (silence > TOLD_AFTER).then(|| {
        format!(
            "no quorum for {} s: nothing is placed or accepted, tasks go on; {}",
            silence.0 / 1_000,
            missing(voters),
        )
    })
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
            "{since}: nothing is placed or accepted, tasks go on; {}",
            missing(voters)
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

/// Since when this node leads, on the boot clock; looked at each second.
#[derive(Default)]
pub(super) struct LeadsSince(Mutex<Option<Millis>>);

impl LeadsSince {
    /// What is so now.
    pub(super) fn note(&self, we_lead: bool, now: Millis) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = we_lead.then(|| since.unwrap_or(now));
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
    concerns.truncate(CONCERNS_MAX);
    concerns
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
        let since = shared.leads_since.get().unwrap_or(now);
        return no_quorum(shared.control.last_quorum_ack(), since, &voters, now);
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
        let since = |acked| no_quorum(acked, Millis(40_000), &away, NOW);
        assert_eq!(since(Some(Millis(NOW.0 - 300))), None, "it has one");
        assert_eq!(since(Some(Millis(NOW.0 - TOLD_AFTER.0))), None, "a blink");
        assert_eq!(
            since(Some(Millis(65_000))).as_deref(),
            Some(
                "no quorum for 35 s: nothing is placed or accepted, tasks go on; \
                 of 3 voters 2 are needed, away: r2h1, r3h1; start potluck on them again"
            )
        );
        // Elected, and then alone before anybody answered.
        let never = since(None).unwrap_or_default();
        assert!(never.starts_with("no quorum for 60 s"), "{never}");
        assert_eq!(
            no_quorum(None, Millis(99_000), &away, NOW),
            None,
            "too early"
        );
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
    fn the_time_of_leading_begins_anew_with_each_leadership() {
        let since = LeadsSince::default();
        since.note(true, Millis(5));
        since.note(true, Millis(9));
        assert_eq!(since.get(), Some(Millis(5)));
        since.note(false, Millis(10));
        since.note(true, Millis(20));
        assert_eq!(since.get(), Some(Millis(20)));
    }
}
