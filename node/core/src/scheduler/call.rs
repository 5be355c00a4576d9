//! Calls: asking hosts for bids, and closing the auction.
//!
//! ```text
//! open --all answered, or 500 ms--> closed: awards to the best, the others'
//!                                   reservations cancelled
//! ```

use super::{
    Effect, Note, Scheduler,
    feasible::{Ask, Suits, is_fresh_entry},
    gang::is_gang,
    names::{JobId, Seat},
    rank,
    rollout::Target,
    score::Offer,
};
use crate::{
    auction::{Authority, Bid, Call, CallAnswer, Refusal},
    cluster::Cluster,
};
use potluck_specs::{
    Job, Millis, NodeId,
    job::{GANG_MAX, MountSource},
    trust::NodeRole,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// How long bids are waited for: a live host answers within its network's
/// round trip, and a hung one must not hold up the others.
const CALL_DEADLINE: Millis = Millis(500);

/// A new scheduler waits this long for the hosts' first words before it calls,
/// unless all have told: whoever answers first would get everything.
const SETTLE: Millis = Millis(300);

/// Most slots in one call; a larger job takes several in a row, each of which
/// sees the spread that the ones before made. What a call costs for all its
/// slots together is small beside them from here on, and its awards are still
/// out within a few milliseconds. A gang is called as a whole, so that no gang is
/// larger.
const SLOTS_PER_CALL: usize = GANG_MAX as usize;

/// A host may be given twice its even share of a call, so that others may
/// refuse, and reserves no more than that.
const SHARES: usize = 2;

/// First and longest pause after a call that left slots unfilled.
const RETRY_FIRST: Millis = Millis(200);
const RETRY_LONGEST: Millis = Millis(5_000);

/// When a host has more free, jobs that wait are called again, but not sooner
/// than this after their last call.
pub(super) const RETRY_GROWN: Millis = Millis(1_000);

/// How long a host that refused an award is left alone by that job: it bid
/// and then refused, so its next bid says little.
const AVOID: Millis = Millis(10_000);

/// The same for a host that does not trust the job's author, which only a new
/// policy changes.
const AVOID_UNTRUSTED: Millis = Millis(300_000);

/// A call under way.
#[derive(Debug)]
pub(super) struct OpenCall {
    pub(super) job: JobId,
    pub(super) slots: Vec<Seat>,
    version: u64,
    /// Who has not answered, with their numbers in the index.
    waiting: BTreeMap<NodeId, u32>,
    bids: BTreeMap<NodeId, (u32, Bid)>,
    deadline: Millis,
}

/// The calls that are open.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<u64, OpenCall>,
    /// Answered by all that were called.
    complete: BTreeSet<u64>,
    /// Until when the others are waited for.
    deadlines: BTreeSet<(Millis, u64)>,
}

impl Calls {
    pub(super) fn get(&self, number: u64) -> Option<&OpenCall> {
        self.open.get(&number)
    }

    fn put(&mut self, number: u64, call: OpenCall) {
        self.deadlines.insert((call.deadline, number));
        self.open.insert(number, call);
    }

    /// One that was called need not be waited for; its number in the index if
    /// it was.
    fn heard(&mut self, call: u64, node: NodeId) -> Option<(u32, &mut OpenCall)> {
        let open = self.open.get_mut(&call)?;
        let number = open.waiting.remove(&node)?;
        if open.waiting.is_empty() {
            self.complete.insert(call);
        }
        Some((number, open))
    }

    /// A call that is answered, or was waited for long enough.
    fn pop_ready(&mut self, now: Millis) -> Option<(u64, OpenCall)> {
        let over = self.deadlines.first().filter(|(at, _)| now >= *at);
        let number = self.complete.first().copied().or(over.map(|(_, n)| *n))?;
        self.complete.remove(&number);
        let open = self.open.remove(&number)?;
        self.deadlines.remove(&(open.deadline, number));
        Some((number, open))
    }
}

/// What is remembered of a job between two calls.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The call that is open.
    pub(super) call: Option<u64>,
    /// Not called before this.
    pub(super) retry_at: Millis,
    pub(super) called_at: Option<Millis>,
    /// Calls in a row that left slots unfilled.
    pub(super) rounds_failed: u32,
    /// The last answer of each host that refused, for `explain`.
    pub(super) refusals: BTreeMap<NodeId, Refusal>,
    /// Hosts left alone until then.
    pub(super) avoid: BTreeMap<NodeId, Millis>,
    /// What each group of hosts is to the job's present version.
    pub(super) suits: Vec<Suits>,
    /// Slots found missing that are not called yet.
    queue: VecDeque<u32>,
    /// Slots of a job of which not always the first so many are wanted, as last
    /// chosen.
    pub(super) chosen: BTreeSet<u32>,
    /// When the job was last looked at.
    pub(super) looked_at: Option<Millis>,
}

impl Work {
    pub(super) fn avoids(&self, node: NodeId, now: Millis) -> bool {
        self.avoid.get(&node).is_some_and(|until| now < *until)
    }

    pub(super) fn avoid(&mut self, node: NodeId, refusal: Option<&Refusal>, now: Millis) {
        let pause = match refusal {
            Some(Refusal::Untrusted { .. }) => AVOID_UNTRUSTED,
            _ => AVOID,
        };
        self.avoid.retain(|_, until| now < *until);
        self.avoid.insert(node, now + pause);
    }

    fn fail(&mut self, now: Millis) {
        let pause = RETRY_FIRST.0 << self.rounds_failed.min(8);
        self.retry_at = now + Millis(pause.min(RETRY_LONGEST.0));
        self.rounds_failed = self.rounds_failed.saturating_add(1);
    }
}

impl Scheduler {
    /// Opens a call for slots of one job that are to be filled.
    pub(super) fn call(
        &mut self,
        cluster: &Cluster,
        id: JobId,
        job: &Arc<Job>,
        missing: &[Seat],
        now: Millis,
    ) {
        if !self.asked && now.since(self.began) < SETTLE {
            self.deferred.insert(id);
            return;
        }
        let work = self.work_of(id);
        if work.call.is_some() || now < work.retry_at {
            return;
        }
        work.queue = missing.iter().map(|seat| seat.index).collect();
        self.call_next(cluster, id, job, now);
    }

    /// Opens a call for the next of the slots that were found missing. Without
    /// any, the job is looked at again.
    fn call_next(&mut self, cluster: &Cluster, id: JobId, job: &Arc<Job>, now: Millis) {
        let slots = self.next_slots(cluster, id, job);
        if slots.is_empty() {
            self.dirty.insert(id);
            return;
        }
        self.last_call += 1;
        let number = self.last_call;
        self.count_tasks();
        let ask = self.ask(id, job);
        let limit = rank::candidates(slots.len());
        let chosen = self.candidates(cluster, &ask, &slots, limit, number, now);
        let each_most = ask.each_most();
        let work = self.works.of(id);
        work.called_at = Some(now);
        if chosen.is_empty() {
            let missing = slots.len() + work.queue.len();
            work.queue.clear();
            if self.failed_round(id, now) {
                self.unplaced(job, missing);
            }
            self.make_room(cluster, id, job, missing, now);
            return;
        }
        work.call = Some(number);
        let share = match is_gang(job) {
            // All of it must be found in this one call.
            true => slots.len(),
            false => slots.len().div_ceil(chosen.len()) * SHARES,
        };
        self.note_gang_call(job, number);
        let call = Arc::new(Call {
            authority: self.authority,
            call: number,
            job: job.name.clone(),
            version: job.version,
            wanted: slots.len() as u32,
            each_most: Some((share as u32).min(each_most)),
            resources: job.task.resources,
            devices: job.task.devices.clone(),
            ports: job.task.ports.clone(),
            package: job.package,
            package_bytes: package_bytes(cluster, job),
        });
        self.out.reserve(chosen.len());
        for (to, _) in &chosen {
            self.out.push(Effect::Call {
                to: *to,
                call: call.clone(),
            });
        }
        let open = OpenCall {
            job: id,
            slots,
            version: job.version,
            waiting: chosen.into_iter().collect(),
            bids: BTreeMap::new(),
            deadline: now + CALL_DEADLINE,
        };
        self.calls.put(number, open);
    }

    /// Slots that are alike: one that has volumes somewhere is called alone,
    /// since that host is worth more to it.
    fn next_slots(&mut self, cluster: &Cluster, id: JobId, job: &Job) -> Vec<Seat> {
        let Some(work) = self.works.get_mut(id) else {
            return Vec::new();
        };
        if !has_volumes(job) || is_gang(job) {
            let count = work.queue.len().min(SLOTS_PER_CALL);
            // Whether it still is missing is asked when the call is closed.
            let next = work.queue.drain(..count);
            return next.map(|index| id.seat(index)).collect();
        }
        let mut queue = std::mem::take(&mut work.queue);
        let mut slots = Vec::new();
        while slots.len() < SLOTS_PER_CALL
            && let Some(index) = queue.pop_front()
        {
            let seat = id.seat(index);
            if self.former_node(cluster, job, seat).is_some() {
                match slots.is_empty() {
                    true => slots.push(seat),
                    false => queue.push_front(index),
                }
                break;
            }
            slots.push(seat);
        }
        self.works.of(id).queue = queue;
        slots
    }

    /// Where a slot with volumes was before.
    pub(super) fn former_node(&self, cluster: &Cluster, job: &Job, seat: Seat) -> Option<NodeId> {
        if !has_volumes(job) {
            return None;
        }
        let former = self.tallies.former(seat);
        former.or_else(|| self.recorded(cluster, seat).map(|placed| placed.node))
    }

    /// Brings the tallies up to date, and what groups of hosts have free.
    pub(super) fn count_tasks(&mut self) {
        self.index.measure();
        let catalog = &self.catalog;
        self.tallies.settle(
            &self.picture,
            &self.awards,
            &self.index,
            |job| catalog.is_heavy(job),
            |job| catalog.has_volumes(job),
        );
    }

    pub(super) fn call_answered(&mut self, node: NodeId, number: u64, answer: CallAnswer) {
        if let CallAnswer::Refusal(Refusal::StaleAuthority { highest }) = &answer {
            self.heard_of(*highest);
        }
        let Some((at, open)) = self.calls.heard(number, node) else {
            // Too late, or said twice.
            let expected = self.calls.get(number);
            let counted = expected.is_some_and(|open| open.bids.contains_key(&node));
            if matches!(answer, CallAnswer::Bid(_)) && !counted {
                // What it reserved is needed no more, unless it was awarded.
                self.cancel_unawarded(node, number);
            }
            return;
        };
        let work = self.works.of(open.job);
        match answer {
            CallAnswer::Bid(bid) => {
                self.index.set_free(at, node, bid.free);
                open.bids.insert(node, (at, bid));
                work.refusals.remove(&node);
            }
            CallAnswer::Refusal(refusal) => {
                work.refusals.insert(node, refusal);
            }
        }
    }

    pub(super) fn call_lost(&mut self, node: NodeId, number: u64) {
        self.calls.heard(number, node);
    }

    /// Closes the calls that are answered, or were waited for long enough.
    pub(super) fn close_calls(&mut self, cluster: &Cluster, now: Millis) {
        while let Some((number, open)) = self.calls.pop_ready(now) {
            self.close(cluster, number, open, now);
        }
    }

    fn close(&mut self, cluster: &Cluster, number: u64, mut open: OpenCall, now: Millis) {
        let id = open.job;
        self.works.of(id).call = None;
        // One that did not answer may have reserved all the same.
        let silent = std::mem::take(&mut open.waiting);
        self.cancel_all(silent.keys(), number);
        let asked = open.slots.len();
        let Some((job, wanted)) = self.still_wanted(cluster, &mut open) else {
            self.dirty.insert(id);
            self.cancel_all(open.bids.keys(), number);
            return;
        };
        self.count_tasks();
        let ask = self.ask(id, &job);
        let offers = self.offers_of(cluster, &ask, &open, &wanted, now);
        let mut chosen = rank::assign(&offers, &ask.terms(number), wanted.len());
        let found = chosen.len();
        if is_gang(&job) && found < asked {
            chosen.clear();
        }
        let count = wanted.len();
        let (takers, seats) = self.give_out(&offers, wanted, &chosen);
        let filled = seats.len();
        self.cancel_unused(&open, number, &offers, &takers);
        let mut seats = seats.as_slice();
        for alike in takers.chunk_by(|one, next| one == next) {
            let (these, others) = seats.split_at(alike.len());
            seats = others;
            let taker = &offers[alike[0]];
            let host = (taker.node, taker.number);
            self.award(cluster, host, number, &job, these, now);
        }
        self.account(id, &job, count, filled, now);
        if filled == count {
            self.call_next(cluster, id, &job, now);
        } else {
            // A gang's bids are all given back: it lacks room as a whole.
            let lacking = count - if is_gang(&job) { 0 } else { filled };
            self.make_room(cluster, id, &job, lacking.max(1), now);
            self.dirty.insert(id);
        }
    }

    /// The version that was called for and those of its slots that are still to
    /// be filled with it; `None` if it is not to run any more.
    fn still_wanted(
        &mut self,
        cluster: &Cluster,
        open: &mut OpenCall,
    ) -> Option<(Arc<Job>, Vec<Seat>)> {
        let target: Target = self.target(cluster, open.job)?;
        let job = target.version(open.version).cloned()?;
        let mut wanted = std::mem::take(&mut open.slots);
        wanted.retain(|seat| {
            self.is_wanted(&target, seat.index)
                && target.job_for(seat.index).version == job.version
                && self.is_missing(cluster, *seat)
        });
        Some((job, wanted))
    }

    /// The bids as offers, in the same order, but for those of hosts that may not
    /// have the slots any more.
    fn offers_of(
        &self,
        cluster: &Cluster,
        ask: &Ask<'_>,
        open: &OpenCall,
        wanted: &[Seat],
        now: Millis,
    ) -> Vec<Offer> {
        let former = wanted
            .first()
            .and_then(|seat| self.former_node(cluster, ask.job, *seat));
        let bids = open.bids.iter();
        bids.filter_map(|(node, (at, bid))| self.offer_of(ask, (*node, *at), bid, former, now))
            .collect()
    }

    /// Which offer is given which slot, by offer.
    fn give_out(
        &self,
        offers: &[Offer],
        wanted: Vec<Seat>,
        chosen: &[usize],
    ) -> (Vec<usize>, Vec<Seat>) {
        let given = chosen.iter().copied().zip(wanted);
        let mut given: Vec<(usize, Seat)> = given
            .filter(|(at, seat)| {
                let from = self.surges.get(*seat).map(|surge| surge.from);
                // Its own host would end the task to start the next.
                from != Some(offers[*at].node)
            })
            .collect();
        given.sort_by_key(|(at, _)| *at);
        given.into_iter().unzip()
    }

    /// Ends the reservations of bids that get nothing. Bids and offers of them
    /// stand in the same order.
    fn cancel_unused(&mut self, open: &OpenCall, number: u64, offers: &[Offer], takers: &[usize]) {
        let mut takes = vec![false; offers.len()];
        for at in takers {
            takes[*at] = true;
        }
        let mut offered = offers.iter().zip(takes).peekable();
        for node in open.bids.keys() {
            let offer = offered.next_if(|(offer, _)| offer.node == *node);
            if offer.is_none_or(|(_, takes)| !takes) {
                self.cancel(*node, number);
            }
        }
    }

    /// A bid as an offer; `None` if its host may not have the slots any more.
    fn offer_of(
        &self,
        ask: &Ask<'_>,
        (node, number): (NodeId, u32),
        bid: &Bid,
        former: Option<NodeId>,
        now: Millis,
    ) -> Option<Offer> {
        let entry = self.index.at(number, node)?;
        let tally = self.tallies.of(ask.id);
        if !is_fresh_entry(entry, now) || !ask.admits_neighbours(&entry.place) {
            return None;
        }
        let work = self.works.get(ask.id);
        let suits = work.and_then(|work| work.suits.get(entry.group));
        let preferred = match suits {
            Some(Suits::Yes(preferred)) => *preferred,
            _ => 0,
        };
        Some(Offer {
            node,
            number,
            place: entry.place,
            slots: bid.slots,
            free: bid.free,
            total: bid.total,
            tasks: ask.tasks_around(&entry.place, tally),
            heavy: self.heavy_around(ask, &entry.place),
            preference: preferred + ask.prefers(entry),
            former: former == Some(node),
            flapping: self.is_flapping(node, now),
            failures: bid.failures,
            missing_bytes: bid.missing_bytes,
            pressure: bid.pressure,
            age_ms: 0,
        })
    }

    fn account(&mut self, id: JobId, job: &Job, wanted: usize, filled: usize, now: Millis) {
        let work = self.works.of(id);
        if filled == wanted {
            work.rounds_failed = 0;
            work.retry_at = now;
            self.waiting.remove(&id);
            return;
        }
        work.queue.clear();
        if self.failed_round(id, now) {
            self.unplaced(job, wanted - filled);
        }
    }

    /// A call left slots unfilled; true if that is the first in a row.
    fn failed_round(&mut self, id: JobId, now: Millis) -> bool {
        let work = self.works.of(id);
        work.fail(now);
        self.waiting.insert(id);
        work.rounds_failed == 1
    }

    fn unplaced(&mut self, job: &Job, slots: usize) {
        self.note(Note::Unplaced {
            job: job.name.clone(),
            slots: slots as u32,
        });
    }

    fn cancel_all<'a>(&mut self, nodes: impl Iterator<Item = &'a NodeId>, call: u64) {
        for node in nodes {
            self.cancel(*node, call);
        }
    }

    fn cancel(&mut self, to: NodeId, call: u64) {
        let authority: Authority = self.authority;
        self.out.push(Effect::Cancel {
            to,
            authority,
            call,
        });
    }

    /// Ends a reservation, unless the call was awarded there: an award uses it
    /// or does without.
    pub(super) fn cancel_unawarded(&mut self, node: NodeId, call: u64) {
        if !self.awards_on(node).any(|(_, award)| award.call == call) {
            self.cancel(node, call);
        }
    }

    /// Some host has more room: jobs that wait for it need not wait longer.
    pub(super) fn retry_waiting(&mut self, now: Millis) {
        for job in &self.waiting {
            let work = self.works.of(*job);
            let rested = work.called_at.is_none_or(|at| now.since(at) >= RETRY_GROWN);
            if work.call.is_none() && rested && work.retry_at > now {
                work.retry_at = now;
                self.dirty.insert(*job);
            }
        }
    }

    /// Jobs whose pause after a failed call is over. Due with each tick.
    pub(super) fn take_rested(&mut self, now: Millis) {
        for job in &self.waiting {
            let work = self.works.get(*job);
            if work.is_some_and(|work| work.call.is_none() && now >= work.retry_at) {
                self.dirty.insert(*job);
            }
        }
    }
}

/// May the member be given work at all?
pub(super) fn takes_work(cluster: &Cluster, node: NodeId) -> bool {
    cluster
        .members()
        .get(&node)
        .is_some_and(|member| !member.draining && member.roles.contains(&NodeRole::Agent))
        && !cluster.is_cordoned(node)
}

pub(super) fn package_bytes(cluster: &Cluster, job: &Job) -> u64 {
    cluster
        .packages()
        .get(&job.package)
        .map_or(0, |package| package.bytes)
}

/// Does the job keep data on its nodes?
pub(super) fn has_volumes(job: &Job) -> bool {
    let mut mounts = job.task.mounts.iter();
    mounts.any(|mount| matches!(mount.source, MountSource::Volume { .. }))
}
