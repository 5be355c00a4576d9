//! What failed where, and for how long that counts.
//!
//! Answers for three memories, none of which outlives the reign: pairs of job
//! and host on which the job's tasks fail (a full disk, a package that can't
//! be unpacked, a missing device), the pace at which a job's failing slots
//! are tried elsewhere, and hosts that come and go. Leaves to the host: the
//! pauses between two starts in one place.
//!
//! ```text
//! (job, host)  good --3 failures in a row--> bad --pause over--> good
//!                     each time, the next pause is twice as long
//! ```
//!
//! The model is Nomad's: a few restarts in place, then another host, with
//! growing pauses, without an end; and a person sees that it goes on.

use super::{Note, Scheduler, SessionState, failure::is_fresh, names::Seat, rollout::Target};
use crate::{
    cluster::Cluster,
    session::{SlotReport, TaskState},
};
use potluck_specs::{JobName, Millis, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Failures in a row in one place before another is tried, if the job does not
/// say: one may be chance, two a dependency that was away for a second.
pub(super) const FAILURES_BEFORE_MOVE: u32 = 3;

/// A pair is bad for this long at first, then twice as long each time, up to
/// the longest: a full disk is found and emptied by people within an hour.
const PAIR_FIRST: Millis = Millis(60_000);
const PAIR_LONGEST: Millis = Millis(3_600_000);

/// After this long without a failure a pair begins anew.
const PAIR_FORGET: Millis = Millis(2 * 3_600_000);

/// Pairs remembered; beyond, the one that ends soonest goes. Each host of a
/// full cluster may be bad for several jobs.
const PAIRS_MAX: usize = 8_192;

/// Between two moves of a job's failing slots: at first, and the longest. A
/// job that fails everywhere must not wander through the whole cluster.
const MOVE_FIRST: Millis = Millis(2_000);
const MOVE_LONGEST: Millis = Millis(600_000);

/// So many hosts on which the same version fails are no accident: the fault
/// is the job's.
const LOOP_HOSTS: usize = 3;

/// Times that a host was away and came back count for so long.
const FLAP_AGE: Millis = Millis(600_000);

/// From so many on a host gets new work only where nobody else takes it.
const FLAPS_BEFORE_DOUBT: usize = 3;

/// Returns remembered of a host.
const FLAPS_MAX: usize = 16;

/// A job and a host that do not go together.
#[derive(Debug)]
struct Pair {
    until: Millis,
    times: u32,
    failed_at: Millis,
    version: u64,
}

/// How fast a job's failing slots are moved.
#[derive(Debug, Default)]
struct Pace {
    moves: u32,
    next: Millis,
}

#[derive(Debug, Default)]
pub(super) struct Backoff {
    pairs: BTreeMap<(JobName, NodeId), Pair>,
    paces: BTreeMap<JobName, Pace>,
    /// Jobs that were said to be in a crash loop, with their version.
    looping: BTreeMap<JobName, u64>,
    flaps: BTreeMap<NodeId, VecDeque<Millis>>,
}

impl Backoff {
    /// The job's tasks failed on the host often enough. Heard again and again
    /// while they go on failing there: once the pair is bad, that is known.
    fn fails(&mut self, job: &JobName, node: NodeId, version: u64, now: Millis) -> bool {
        let key = (job.clone(), node);
        if self.pairs.get(&key).is_some_and(|pair| now < pair.until) {
            return false;
        }
        if !self.pairs.contains_key(&key) && self.pairs.len() >= PAIRS_MAX {
            self.forget_soonest();
        }
        let pair = self.pairs.entry(key).or_insert(Pair {
            until: now,
            times: 0,
            failed_at: now,
            version,
        });
        if now.since(pair.failed_at) >= PAIR_FORGET {
            pair.times = 0;
        }
        pair.until = now + doubled(PAIR_FIRST, pair.times, PAIR_LONGEST);
        pair.times = pair.times.saturating_add(1);
        pair.failed_at = now;
        pair.version = version;
        true
    }

    fn forget_soonest(&mut self) {
        let soonest = self
            .pairs
            .iter()
            .min_by_key(|(_, pair)| pair.until)
            .map(|(key, _)| key.clone());
        if let Some(key) = soonest {
            self.pairs.remove(&key);
        }
    }

    fn is_bad(&self, job: &JobName, node: NodeId, now: Millis) -> bool {
        // Nothing fails anywhere, as a rule; the key would be a copied name.
        !self.pairs.is_empty()
            && self
                .pairs
                .get(&(job.clone(), node))
                .is_some_and(|pair| now < pair.until)
    }

    fn bad_hosts<'a>(
        &'a self,
        job: &JobName,
        now: Millis,
    ) -> impl Iterator<Item = (NodeId, &'a Pair)> + use<'a> {
        let first = (job.clone(), NodeId([0; 32]));
        let last = (job.clone(), NodeId([255; 32]));
        self.pairs
            .range(first..=last)
            .filter(move |(_, pair)| now < pair.until)
            .map(|((_, node), pair)| (*node, pair))
    }

    /// Another version is another program: it is tried everywhere again. How
    /// often the pair failed is not forgotten, since the host may be at fault.
    pub(super) fn job_changed(&mut self, job: &JobName, now: Millis) {
        let first = (job.clone(), NodeId([0; 32]));
        let last = (job.clone(), NodeId([255; 32]));
        for (_, pair) in self.pairs.range_mut(first..=last) {
            pair.until = pair.until.min(now);
        }
        self.paces.remove(job);
        self.looping.remove(job);
    }

    fn may_move(&self, job: &JobName, now: Millis) -> bool {
        self.paces.get(job).is_none_or(|pace| now >= pace.next)
    }

    fn moved(&mut self, job: &JobName, now: Millis) {
        let pace = self.paces.entry(job.clone()).or_default();
        if now.since(pace.next) >= MOVE_LONGEST {
            pace.moves = 0;
        }
        pace.next = now + doubled(MOVE_FIRST, pace.moves, MOVE_LONGEST);
        pace.moves = pace.moves.saturating_add(1);
    }

    fn came_back(&mut self, node: NodeId, now: Millis) {
        let lately = |at: &Millis| now.since(*at) < FLAP_AGE;
        self.flaps
            .retain(|_, returns| returns.back().is_some_and(lately));
        let returns = self.flaps.entry(node).or_default();
        returns.push_back(now);
        if returns.len() > FLAPS_MAX {
            returns.pop_front();
        }
    }

    /// How often the host was away lately.
    fn flaps(&self, node: NodeId, now: Millis) -> usize {
        self.flaps.get(&node).map_or(0, |returns| {
            let lately = returns.iter().filter(|at| now.since(**at) < FLAP_AGE);
            lately.count()
        })
    }
}

fn doubled(first: Millis, times: u32, longest: Millis) -> Millis {
    let factor = 1u64.checked_shl(times).unwrap_or(u64::MAX);
    Millis(first.0.saturating_mul(factor).min(longest.0))
}

impl Scheduler {
    /// Fails where it is, again and again.
    pub(super) fn fails_here(&self, report: &SlotReport) -> bool {
        if report.state != TaskState::Backoff {
            return false;
        }
        let id = self.names.id(&report.slot.job);
        let job = self.catalog.version_or_newest(id, report.version);
        let attempts = job.and_then(|job| job.task.restart.attempts);
        report.failures >= attempts.unwrap_or(FAILURES_BEFORE_MOVE)
    }

    /// A host's report of a slot: does the job fail there? What fails as a
    /// version that is to make room says nothing of the one that comes.
    pub(super) fn note_failures(
        &mut self,
        cluster: &Cluster,
        seats: &BTreeSet<Seat>,
        node: NodeId,
        now: Millis,
    ) {
        for seat in seats {
            let report = self.picture.report(*seat, node);
            let Some(report) = report.filter(|report| self.fails_here(report)) else {
                continue;
            };
            let id = self.names.id(&report.slot.job);
            let target = self.target(cluster, id);
            let is_wanted =
                |target: &Target| !target.is_wrong(cluster, report.slot.index, report.version);
            if !target.as_ref().is_some_and(is_wanted) {
                continue;
            }
            let (job, version) = (report.slot.job.clone(), report.version);
            if self.backoff.fails(&job, node, version, now) {
                self.note(Note::BadPair { job, node });
            }
        }
    }

    /// Do the job's tasks fail on this host lately, so that it should get none
    /// of them for a while?
    pub fn is_bad_pair(&self, job: &JobName, node: NodeId, now: Millis) -> bool {
        self.backoff.is_bad(job, node, now)
    }

    /// Hosts on which the job's tasks failed lately, each with when it may be
    /// tried again.
    pub fn bad_hosts(&self, job: &JobName, now: Millis) -> Vec<(NodeId, Millis)> {
        self.backoff
            .bad_hosts(job, now)
            .map(|(node, pair)| (node, pair.until))
            .collect()
    }

    /// May a failing slot of the job be tried elsewhere now, and is there an
    /// elsewhere?
    pub(super) fn may_try_elsewhere(&self, cluster: &Cluster, job: &JobName, now: Millis) -> bool {
        self.backoff.may_move(job, now) && self.good_hosts(cluster, job, now).next().is_some()
    }

    pub(super) fn tried_elsewhere(&mut self, job: &JobName, now: Millis) {
        self.backoff.moved(job, now);
    }

    fn good_hosts<'a>(
        &'a self,
        cluster: &'a Cluster,
        job: &'a JobName,
        now: Millis,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let hosts = self.picture.hosts.iter();
        hosts
            .filter(move |(node, host)| {
                is_fresh(host, self.began, now)
                    && !host.draining
                    && super::call::takes_work(cluster, **node)
                    && !self.backoff.is_bad(job, **node, now)
            })
            .map(|(node, _)| *node)
    }

    /// Does this version of the job fail wherever it is tried: on several
    /// hosts, or on all that there are?
    pub fn in_crash_loop(
        &self,
        cluster: &Cluster,
        job: &JobName,
        version: u64,
        now: Millis,
    ) -> bool {
        let bad = self.backoff.bad_hosts(job, now);
        let record = cluster.jobs().get(job);
        let is_of = |other| record.is_some_and(|r| r.runs_same_tasks(other, version));
        let bad = bad.filter(|(_, pair)| is_of(pair.version)).count();
        bad >= LOOP_HOSTS || (bad > 0 && self.good_hosts(cluster, job, now).next().is_none())
    }

    /// Says once of each version that it is in a crash loop.
    pub(super) fn watch_crash_loop(
        &mut self,
        cluster: &Cluster,
        job: &JobName,
        version: u64,
        now: Millis,
    ) -> bool {
        let looping = self.in_crash_loop(cluster, job, version, now);
        if looping && self.backoff.looping.insert(job.clone(), version) != Some(version) {
            let job = job.clone();
            self.note(Note::CrashLoop { job, version });
        }
        looping
    }

    /// A host that was thought gone is heard again.
    pub(super) fn came_back(&mut self, node: NodeId, from: SessionState, now: Millis) {
        let away = matches!(
            from,
            SessionState::Out | SessionState::Unreachable | SessionState::Dead
        );
        if away {
            self.backoff.came_back(node, now);
        }
    }

    /// Was the host away often lately? It then gets new work only where no
    /// steady one takes it.
    pub fn is_flapping(&self, node: NodeId, now: Millis) -> bool {
        self.backoff.flaps(node, now) >= FLAPS_BEFORE_DOUBT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(k: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&k.to_be_bytes());
        NodeId(id)
    }

    fn web() -> JobName {
        JobName::in_default("web")
    }

    #[test]
    fn a_pairs_pauses_grow_to_a_limit_and_begin_anew_after_a_rest() {
        let mut backoff = Backoff::default();
        let mut now = Millis(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(backoff.fails(&web(), node(1), 1, now));
            assert!(!backoff.fails(&web(), node(1), 1, now), "known already");
            let until = backoff.pairs[&(web(), node(1))].until;
            pauses.push(until.since(now).0 / 1_000);
            assert!(backoff.is_bad(&web(), node(1), now));
            assert!(!backoff.is_bad(&web(), node(2), now));
            assert!(!backoff.is_bad(&web(), node(1), until));
            now = until;
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        now = now + PAIR_FORGET;
        backoff.fails(&web(), node(1), 1, now);
        let until = backoff.pairs[&(web(), node(1))].until;
        assert_eq!(until, now + PAIR_FIRST);
    }

    #[test]
    fn another_version_is_tried_everywhere() {
        let mut backoff = Backoff::default();
        backoff.fails(&web(), node(1), 1, Millis(0));
        backoff.job_changed(&web(), Millis(10));
        assert!(!backoff.is_bad(&web(), node(1), Millis(10)));
        // The second time the pause is the longer one all the same.
        backoff.fails(&web(), node(1), 2, Millis(20));
        assert!(backoff.is_bad(&web(), node(1), Millis(20) + PAIR_FIRST));
    }

    #[test]
    fn pairs_are_bounded_and_the_one_that_ends_soonest_goes() {
        let mut backoff = Backoff::default();
        for k in 0..=PAIRS_MAX as u16 {
            backoff.fails(&web(), node(k), 1, Millis(u64::from(k)));
        }
        assert_eq!(backoff.pairs.len(), PAIRS_MAX);
        assert!(!backoff.is_bad(&web(), node(0), Millis(100)));
        assert!(backoff.is_bad(&web(), node(1), Millis(100)));
    }

    #[test]
    fn moves_of_a_job_slow_down() {
        let mut backoff = Backoff::default();
        let mut now = Millis(0);
        let mut waits = Vec::new();
        for _ in 0..11 {
            assert!(backoff.may_move(&web(), now));
            backoff.moved(&web(), now);
            let next = backoff.paces[&web()].next;
            assert!(!backoff.may_move(&web(), Millis(next.0 - 1)));
            waits.push(next.since(now).0 / 1_000);
            now = next;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        now = now + MOVE_LONGEST;
        backoff.moved(&web(), now);
        assert_eq!(backoff.paces[&web()].next, now + MOVE_FIRST);
    }

    #[test]
    fn flaps_age() {
        let mut backoff = Backoff::default();
        for k in 0..20 {
            backoff.came_back(node(1), Millis(k));
        }
        assert_eq!(backoff.flaps(node(1), Millis(20)), FLAPS_MAX);
        assert_eq!(backoff.flaps(node(2), Millis(20)), 0);
        assert_eq!(backoff.flaps(node(1), Millis(20) + FLAP_AGE), 0);
    }
}
