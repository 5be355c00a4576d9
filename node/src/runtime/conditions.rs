//! What hosts tell of themselves with each heartbeat, beside what they run:
//! the time on their wall clock, and what is wrong with their disk.
//!
//! Answers for looking at this host, and, on the leader, for what people are
//! told of the others. Decides nothing: a host whose clock is off or whose
//! disk is full gets tasks as before.

use super::shared::Shared;
use crate::{clock, wire::Condition};
use potluck_core::cluster::MEMBERS_MAX;
use potluck_specs::{Millis, NodeId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Time between two looks at the disk.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// After this a look that is not over is told of: a disk answers in
/// milliseconds.
const LOOK_LATE: Duration = Duration::from_secs(10);

/// How far a clock may be off without a word. More than a heartbeat's way
/// through a member takes, which looks the same, and far less than the slack
/// of certificates (5 min).
const CLOCK_OFF_MAX: Millis = Millis(10_000);

/// A host that was heard in this time tells what is so now: ten heartbeats.
const FRESH: Millis = Millis(10_000);

/// For how long people are told what a host said before it fell silent: it may
/// be why.
const TOLD_FOR: Millis = Millis(10 * 60_000);

/// Concerns that are taken from one host, and bytes of each: it has one disk.
const CONCERNS_MAX: usize = 4;
const CONCERN_BYTES_MAX: usize = 512;

/// What the leader has heard of hosts. Bounded by the members of a cluster.
#[derive(Debug, Default)]
pub(super) struct Conditions(BTreeMap<NodeId, Heard>);

#[derive(Debug)]
struct Heard {
    /// On the boot clock.
    at: Millis,
    /// Its wall clock minus ours, in milliseconds.
    ahead_ms: i64,
    concerns: Vec<String>,
}

impl Conditions {
    /// A host tells; `unix_now` and `now` are this node's clocks.
    pub(super) fn hear(
        &mut self,
        node: NodeId,
        condition: Condition,
        unix_now: Millis,
        now: Millis,
    ) {
        if !self.0.contains_key(&node) && self.0.len() >= MEMBERS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, heard)| heard.at);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.0.remove(&oldest);
            }
        }
        let mut concerns = condition.concerns;
        concerns.truncate(CONCERNS_MAX);
        concerns.retain(|concern| concern.len() <= CONCERN_BYTES_MAX);
        let ahead = i128::from(condition.unix_at.0) - i128::from(unix_now.0);
        let heard = Heard {
            at: now,
            ahead_ms: ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
            concerns,
        };
        self.0.insert(node, heard);
    }

    /// What people should be told, by host.
    pub(super) fn told(&self, now: Millis) -> Vec<(NodeId, String)> {
        let disks = self.0.iter().flat_map(|(node, heard)| {
            let age = now.since(heard.at);
            let lately = heard.concerns.iter().filter(move |_| age < TOLD_FOR);
            lately.map(move |concern| match age < FRESH {
                true => (*node, concern.clone()),
                false => (*node, format!("{concern} (said {} ago)", span(age))),
            })
        });
        let mut told: Vec<_> = disks.collect();
        told.extend(self.clocks(now));
        told
    }

    /// Clocks that are far from what most hosts have: it may be the leader's
    /// own that is wrong.
    fn clocks(&self, now: Millis) -> Vec<(NodeId, String)> {
        let fresh = |(_, heard): &(&NodeId, &Heard)| now.since(heard.at) < FRESH;
        let clocks: Vec<(NodeId, i64)> = self
            .0
            .iter()
            .filter(fresh)
            .map(|(node, heard)| (*node, heard.ahead_ms))
            .collect();
        let mut sorted: Vec<i64> = clocks.iter().map(|(_, ahead)| *ahead).collect();
        sorted.sort_unstable();
        // With an even number the one nearer to the leader's clock, which is 0.
        let middle = match sorted.len() {
            0 => return Vec::new(),
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => {
                let pair = [sorted[even / 2 - 1], sorted[even / 2]];
                let near = pair.iter().min_by_key(|ahead| ahead.unsigned_abs());
                near.copied().unwrap_or_default()
            }
        };
        let off = clocks.into_iter().filter_map(|(node, ahead)| {
            let off = ahead.saturating_sub(middle);
            let by = Millis(off.unsigned_abs());
            (by > CLOCK_OFF_MAX).then(|| (node, clock_off(off > 0, by)))
        });
        off.collect()
    }
}

fn clock_off(is_ahead: bool, by: Millis) -> String {
    let way = if is_ahead { "ahead of" } else { "behind" };
    format!(
        "its clock is {} {way} most others': times that it tells are wrong, and past 5 min \
         certificates and changes are refused; set it, with NTP",
        span(by)
    )
}

fn span(time: Millis) -> String {
    match time.0 / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

/// What is wrong with this host, as it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<Vec<String>>);

impl Own {
    pub(super) fn concerns(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, concerns: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = concerns;
    }

    /// For the next heartbeat.
    pub(super) fn condition(&self) -> Condition {
        Condition {
            unix_at: clock::unix_now(),
            concerns: self.concerns(),
        }
    }
}

/// Looks at this host until told to stop. One look at a time: each holds a
/// thread for as long as the disk hangs.
pub(super) async fn run(shared: Arc<Shared>, token: CancellationToken) {
    let watch = async {
        loop {
            look(&shared).await;
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = token.cancelled() => {}
        () = watch => {}
    }
}

async fn look(shared: &Shared) {
    let began = Instant::now();
    let looked = shared.agent.disk_concern();
    tokio::pin!(looked);
    loop {
        tokio::select! {
            found = &mut looked => return shared.own.set(found.into_iter().collect()),
            () = sleep(LOOK_LATE) => {
                let seconds = began.elapsed().as_secs();
                let text = format!("the disk of the data folder has not answered for {seconds} s");
                shared.own.set(vec![text]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX: Millis = Millis(1_800_000_000_000);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    /// Hosts whose clocks are so many seconds ahead of ours, the first being
    /// ours.
    fn heard(seconds: &[i64]) -> Conditions {
        let mut conditions = Conditions::default();
        for (number, ahead) in seconds.iter().enumerate() {
            let condition = Condition {
                unix_at: Millis(UNIX.0.saturating_add_signed(ahead * 1_000)),
                concerns: Vec::new(),
            };
            conditions.hear(node(number as u8), condition, UNIX, Millis(0));
        }
        conditions
    }

    #[test]
    fn the_clock_that_differs_from_most_is_the_one_that_is_off() {
        let table: [(&[i64], &[u8]); 7] = [
            (&[], &[]),
            (&[0, -2, 1], &[]),
            (&[0, -10, 10], &[]),
            (&[0, 900, 1], &[1]),
            (&[0, -900, 1, 0], &[1]),
            // The leader's own.
            (&[0, 900, 901], &[0]),
            // One of two: the leader's word.
            (&[0, -900], &[1]),
        ];
        for (clocks, off) in table {
            let told = heard(clocks).told(Millis(1_000));
            let told: Vec<NodeId> = told.into_iter().map(|(node, _)| node).collect();
            let off: Vec<NodeId> = off.iter().copied().map(node).collect();
            assert_eq!(told, off, "{clocks:?}");
        }
        let told = &heard(&[0, 900, 1]).told(Millis(1_000))[0].1;
        assert!(told.starts_with("its clock is 15 min ahead of most others'"));
        let told = &heard(&[0, -15, 1]).told(Millis(1_000))[0].1;
        assert!(told.starts_with("its clock is 15 s behind most others'"));
        assert!(heard(&[0, 900, 1]).told(FRESH).is_empty(), "who is silent");
    }

    #[test]
    fn what_a_host_said_is_told_for_a_while_after_its_silence() {
        let mut conditions = Conditions::default();
        let condition = Condition {
            unix_at: UNIX,
            concerns: vec!["no room".into()],
        };
        conditions.hear(node(1), condition, UNIX, Millis(0));
        let told = |at| {
            let told = conditions.told(at);
            told.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(told(Millis(3_000)), ["no room"]);
        assert_eq!(told(Millis(40_000)), ["no room (said 40 s ago)"]);
        assert!(told(TOLD_FOR).is_empty());
    }

    #[test]
    fn hosts_fill_no_memory() {
        let mut conditions = Conditions::default();
        for number in 0..=MEMBERS_MAX as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            let condition = Condition {
                unix_at: UNIX,
                concerns: vec!["x".repeat(CONCERN_BYTES_MAX + 1), "y".into()],
            };
            conditions.hear(NodeId(id), condition, UNIX, Millis(number));
        }
        assert_eq!(conditions.0.len(), MEMBERS_MAX);
        assert!(!conditions.0.contains_key(&NodeId([0; 32])), "the oldest");
        assert!(conditions.0.values().all(|heard| heard.concerns == ["y"]));
    }
}
