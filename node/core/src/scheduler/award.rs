//! Awards that have left and are not yet seen in a report.
//!
//! ```text
//! decided --the log names no other holder--> sent
//!  \--its index is done, or its work over--> (nothing)
//! sent --Ok--> committed --a report has it--> (held)
//!  |  \--no answer--> unknown, repeated while the session is up
//!  |--refused--> (missing)
//!  committed, unknown --later reports lack it--> (missing)
//!  any --its host is lost--> (missing)
//! ```
//!
//! Unknown is never taken for free: until it is resolved the slot stays with
//! that node.
//!
//! An exclusive slot's award waits for its own record alone (`exclusive`).
//!
//! A slot that the log places on another host is awarded only once the log
//! names the new one: whoever reigns next would hear the other one say that it
//! has ended, take the slot for free, and fill it twice. A first placement
//! waits for nothing: without a record all hosts are asked.
//!
//! Work that ends may be done by a host that was thought lost while another one
//! is to take it up. An award whose index the log has counted is never sent, nor
//! repeated; one that is sent by then may have been committed, which reports
//! tell. Until an end that is told is counted, its index's award waits.

use super::{
    Effect, Note, Scheduler, SessionState,
    call::package_bytes,
    host_map::HostMap,
    names::{JobId, Seat, SlotMap},
    picture::Host,
};
use crate::{
    auction::{Award, AwardAnswer, Refusal},
    cluster::{Cluster, Placement},
    session::TaskState,
};
use potluck_specs::{Generation, Job, Millis, NodeId, job::SignedJob};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// First pause before an unanswered award is repeated, and the longest.
const REPEAT_FIRST: Millis = Millis(1_000);
const REPEAT_LONGEST: Millis = Millis(5_000);

/// A report may have been made before the award came and arrive after it was
/// sent. So many reports later, and this much time after the last sending, no
/// such one can be under way any more.
const REPORTS_LATER: u64 = 2;
const LATER: Millis = Millis(3_000);

/// After so many unanswered repeats the reports alone decide: the host can
/// reach the scheduler, and the scheduler can't reach it.
const REPEATS_BEFORE_REPORTS: u32 = 3;

/// Awards that are not yet seen in a report.
#[derive(Debug, Default)]
pub(super) struct Awards {
    by_slot: SlotMap<Pending>,
    /// By host; a member keeps its list when that is empty, for the next.
    on: HostMap<Vec<Seat>>,
    /// Those that wait for the log, and perhaps some that are over.
    unsent: BTreeSet<Seat>,
    /// Those that have no answer yet, and perhaps some that are over.
    unanswered: BTreeSet<Seat>,
    /// As the last award had it.
    parcel: Option<Parcel>,
}

/// What all awards of a job's version have in common, by one state of the log.
#[derive(Debug)]
struct Parcel {
    job: JobId,
    version: u64,
    applied: u64,
    signed: Arc<SignedJob>,
    package_bytes: u64,
    holders: Vec<NodeId>,
}

impl Awards {
    /// These are members.
    pub(super) fn meet<'n>(&mut self, nodes: impl Iterator<Item = &'n NodeId>) {
        for node in nodes {
            self.on.get_or_insert_with(*node, Vec::new);
        }
    }

    /// This one is no member any more, and has none.
    pub(super) fn part(&mut self, node: NodeId) {
        self.on.remove(&node);
    }

    fn insert(&mut self, seat: Seat, pending: Pending) {
        self.remove(seat);
        let on = self.on.get_or_insert_with(pending.node, Vec::new);
        on.push(seat);
        if !pending.committed {
            self.unanswered.insert(seat);
        }
        self.by_slot.insert(seat, pending);
    }

    fn remove(&mut self, seat: Seat) {
        let Some(pending) = self.by_slot.remove(seat) else {
            return;
        };
        self.unanswered.remove(&seat);
        if let Some(on) = self.on.get_mut(&pending.node) {
            on.retain(|other| *other != seat);
        }
    }

    pub(super) fn get(&self, seat: Seat) -> Option<&Pending> {
        self.by_slot.get(seat)
    }

    pub(super) fn has_any_of(&self, job: JobId) -> bool {
        self.by_slot.count_of(job) > 0
    }

    pub(super) fn contains(&self, seat: Seat) -> bool {
        self.by_slot.contains(seat)
    }

    /// Those that wait for the log, and perhaps some that are over.
    pub(super) fn unsent(&self) -> impl Iterator<Item = Seat> + '_ {
        self.unsent.iter().copied()
    }

    /// Nodes that have any, or may.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.on.keys().copied()
    }

    fn on(&self, node: NodeId) -> impl Iterator<Item = (Seat, &Pending)> {
        let seats = self.on.get(&node).into_iter().flatten();
        seats.filter_map(|seat| Some((*seat, self.by_slot.get(*seat)?)))
    }

    /// Those of one call to one node.
    fn of_call(&self, node: NodeId, call: u64) -> Vec<Seat> {
        self.on(node)
            .filter(|(_, pending)| pending.call == call)
            .map(|(seat, _)| seat)
            .collect()
    }

    /// The job that a call was for, if any award of it to the node is pending.
    fn job_of_call(&self, node: NodeId, call: u64) -> Option<JobId> {
        let mut on = self.on(node);
        let of_call = on.find(|(_, pending)| pending.call == call);
        of_call.map(|(seat, _)| seat.job)
    }
}

/// An award of one slot.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) node: NodeId,
    pub(super) generation: Generation,
    pub(super) call: u64,
    pub(super) version: u64,
    /// It has left; else it waits for the log.
    sent: bool,
    /// When it was sent last, or answered.
    at: Millis,
    /// No answer came.
    lost: bool,
    repeats: u32,
    /// The host said that it has committed it.
    pub(super) committed: bool,
    /// Reports taken from the host by then.
    reports: u64,
}

impl Scheduler {
    pub(super) fn award(
        &mut self,
        cluster: &Cluster,
        (node, number): (NodeId, u32),
        call: u64,
        job: &Job,
        seats: &[Seat],
        now: Millis,
    ) {
        let reports = self.reports_of(node);
        for seat in seats {
            let seat = *seat;
            self.sequence += 1;
            let generation = self.authority.generation(self.sequence);
            let pending = Pending {
                node,
                generation,
                call,
                version: job.version,
                sent: false,
                at: now,
                lost: false,
                repeats: 0,
                committed: false,
                reports,
            };
            self.note(Note::Placed {
                slot: self.names.slot(seat),
                node,
                generation,
            });
            let former = self.former_node(cluster, job, seat);
            if let Some(from) = former.filter(|former| *former != node) {
                self.tallies.leaves(seat, from, node);
                let slot = self.names.slot(seat);
                self.note(Note::VolumesLeft {
                    slot,
                    from,
                    to: node,
                });
            }
            self.tallies.touch(seat);
            self.claim_used(node, &job.name);
            self.awards.insert(seat, pending);
        }
        let all = (seats.len() as u64).try_into().unwrap_or(u32::MAX);
        self.index
            .promise(number, node, job.task.resources.times(all));
        if let Some(first) = seats.first() {
            self.send_award(cluster, node, call, first.job);
        }
    }

    fn reports_of(&self, node: NodeId) -> u64 {
        self.picture.hosts.get(&node).map_or(0, |host| host.reports)
    }

    pub(super) fn awards_of(&self, job: JobId) -> impl Iterator<Item = (Seat, &Pending)> {
        self.awards.by_slot.of_job(job)
    }

    pub(super) fn awards_on(&self, node: NodeId) -> impl Iterator<Item = (Seat, &Pending)> {
        self.awards.on(node)
    }

    /// Sends what of a call's award is not answered yet. A slot that another
    /// host has shown to hold by now, or whose work is done, is left out: the
    /// award may still be committed, which the host's reports tell, but needs no
    /// help to be.
    fn send_award(&mut self, cluster: &Cluster, node: NodeId, call: u64, job: JobId) {
        let mut open = Vec::new();
        let mut waiting = Vec::new();
        let mut needless = Vec::new();
        let mut for_their_ends = Vec::new();
        for (seat, pending) in self.awards_on(node) {
            let of_call = pending.call == call && seat.job == job && !pending.committed;
            // An exclusive slot may still be reported where its lease is over.
            let exclusive = self.lease_ms(seat.job, pending.version).is_some();
            if !of_call || (!exclusive && self.is_held_elsewhere(seat, node)) {
                continue;
            }
            if self.is_counted(cluster, seat) {
                needless.extend((!pending.sent).then_some(seat));
                continue;
            }
            if self.has_open_end(cluster, seat) {
                for_their_ends.extend((!pending.sent).then_some(seat));
                continue;
            }
            let slot = self.names.slot(seat);
            let waits = match exclusive {
                true => self.awaits_record(cluster, seat, pending),
                false => self.misleads(cluster.placements().get(&slot), seat, node),
            };
            match waits {
                true => waiting.push(seat),
                false => open.push((seat, pending.version, (slot, pending.generation))),
            }
        }
        for seat in needless {
            self.take_back(seat);
        }
        self.awards.unsent.extend(for_their_ends);
        for seat in waiting {
            self.behind.hurry(seat);
            self.awards.unsent.insert(seat);
        }
        for (seat, ..) in &open {
            if let Some(pending) = self.awards.by_slot.get_mut(*seat) {
                pending.sent = true;
            }
        }
        // In the order of their numbers, whichever was decided first.
        open.sort_unstable_by_key(|(seat, ..)| *seat);
        let Some((_, version, _)) = open.first() else {
            return;
        };
        let authority = self.authority;
        let Some(parcel) = self.parcel(cluster, job, *version) else {
            return;
        };
        let award = Award {
            authority,
            call,
            slots: open.into_iter().map(|(.., slot)| slot).collect(),
            job: parcel.signed.clone(),
            package_bytes: parcel.package_bytes,
            holders: parcel.holders.clone(),
        };
        self.out.push(Effect::Award {
            to: node,
            award: Box::new(award),
        });
    }

    /// What an award of the version takes along; kept for the next one, which
    /// mostly is of the same.
    fn parcel(&mut self, cluster: &Cluster, job: JobId, version: u64) -> Option<&Parcel> {
        let applied = cluster.applied();
        let key = (job, version, applied);
        let known = self.awards.parcel.take();
        let known = known.filter(|p| (p.job, p.version, p.applied) == key);
        self.awards.parcel = known.or_else(|| {
            let kept = self.catalog.kept(job, version)?;
            Some(Parcel {
                job,
                version,
                applied,
                signed: kept.signed.clone(),
                package_bytes: package_bytes(cluster, &kept.job),
                holders: holders(cluster, &kept.job),
            })
        });
        self.awards.parcel.as_ref()
    }

    /// An award that has not left is needed no more.
    fn take_back(&mut self, seat: Seat) {
        let Some(pending) = self.awards.get(seat) else {
            return;
        };
        let (node, call) = (pending.node, pending.call);
        self.awards.remove(seat);
        self.cancel_unawarded(node, call);
        self.touch(seat);
    }

    /// Does somebody else hold it, other than the task whose next one this is?
    fn is_held_elsewhere(&self, seat: Seat, node: NodeId) -> bool {
        let from = self.surges.get(seat).map(|surge| surge.from);
        self.picture
            .holders(seat)
            .any(|(holder, _)| holder != node && Some(holder) != from)
    }

    /// Does the log name a holder that is neither this node nor has the slot?
    fn record_misleads(&self, cluster: &Cluster, seat: Seat, node: NodeId) -> bool {
        self.misleads(self.recorded(cluster, seat), seat, node)
    }

    fn misleads(&self, recorded: Option<&Placement>, seat: Seat, node: NodeId) -> bool {
        recorded.is_some_and(|recorded| {
            let mut holders = self.picture.holders(seat);
            recorded.node != node && !holders.any(|(holder, _)| holder == recorded.node)
        })
    }

    /// What the log says of a slot.
    pub(super) fn recorded<'c>(&self, cluster: &'c Cluster, seat: Seat) -> Option<&'c Placement> {
        match cluster.placements().is_empty() {
            true => None,
            false => cluster.placements().get(&self.names.slot(seat)),
        }
    }

    /// Sends awards that waited for the log.
    pub(super) fn send_recorded(&mut self, cluster: &Cluster, now: Millis) {
        if self.awards.unsent.is_empty() {
            return;
        }
        let mut ready: BTreeSet<(NodeId, u64, JobId)> = BTreeSet::new();
        for seat in std::mem::take(&mut self.awards.unsent) {
            let Some(pending) = self.awards.by_slot.get(seat).filter(|p| !p.sent) else {
                continue;
            };
            if self.is_counted(cluster, seat) {
                self.take_back(seat);
                continue;
            }
            let waits = match self.lease_ms(seat.job, pending.version) {
                Some(_) => self.awaits_record(cluster, seat, pending),
                None => self.record_misleads(cluster, seat, pending.node),
            };
            if waits || self.has_open_end(cluster, seat) {
                self.awards.unsent.insert(seat);
                continue;
            }
            let reports = self.reports_of(pending.node);
            ready.insert((pending.node, pending.call, seat.job));
            if let Some(pending) = self.awards.by_slot.get_mut(seat) {
                pending.at = now;
                pending.reports = reports;
            }
        }
        for (node, call, job) in ready {
            self.send_award(cluster, node, call, job);
        }
    }

    pub(super) fn award_answered(
        &mut self,
        node: NodeId,
        call: u64,
        answer: AwardAnswer,
        now: Millis,
    ) {
        let Some(job) = self.awards.job_of_call(node, call) else {
            return;
        };
        let reports = self.reports_of(node);
        for (slot, result) in answer.slots {
            if slot.job != *self.names.name(job) {
                continue;
            }
            let seat = job.seat(slot.index);
            let Some(pending) = self.awards.by_slot.get_mut(seat) else {
                continue;
            };
            if pending.node != node || pending.call != call || pending.committed {
                continue;
            }
            match result {
                Ok(()) => {
                    // Where it is was known: nothing is to be decided anew.
                    pending.committed = true;
                    pending.at = now;
                    pending.reports = reports;
                    self.awards.unanswered.remove(&seat);
                    self.behind.touch(seat);
                }
                Err(refusal) => {
                    self.award_refused(seat, node, refusal, now);
                    self.touch(seat);
                }
            }
        }
    }

    fn award_refused(&mut self, seat: Seat, node: NodeId, refusal: Refusal, now: Millis) {
        self.awards.remove(seat);
        match &refusal {
            Refusal::StaleAuthority { highest } => self.heard_of(*highest),
            // It runs something that the picture lacks.
            Refusal::StaleGeneration { .. } => {
                if let Some(host) = self.picture.hosts.get_mut(&node) {
                    host.doubt();
                    self.notable.add(node);
                }
            }
            _ => {}
        }
        let work = self.work_of(seat.job);
        work.avoid(node, Some(&refusal), now);
        work.refusals.insert(node, refusal);
        work.retry_at = now;
        let slot = self.names.slot(seat);
        self.note(Note::AwardRefused { slot, node });
    }

    pub(super) fn award_lost(&mut self, node: NodeId, call: u64) {
        for seat in self.awards.of_call(node, call) {
            if let Some(pending) = self.awards.by_slot.get_mut(seat)
                && !pending.committed
            {
                pending.lost = true;
            }
        }
    }

    /// Repeats awards that got no answer. Due with each tick.
    pub(super) fn repeat_awards(&mut self, cluster: &Cluster, now: Millis) {
        let mut due: BTreeMap<(NodeId, u64), JobId> = BTreeMap::new();
        let unanswered = self.awards.unanswered.iter();
        let unanswered = unanswered.filter_map(|seat| Some((*seat, self.awards.get(*seat)?)));
        for (seat, pending) in unanswered {
            let up = self
                .picture
                .hosts
                .get(&pending.node)
                .is_some_and(|host| host.state == SessionState::Up);
            let pause = REPEAT_FIRST.0 * u64::from(pending.repeats.saturating_add(1));
            let pause = Millis(pause.min(REPEAT_LONGEST.0));
            // An answer that is only slow is not chased: the driver says when
            // it is lost, and its own patience ends before ours.
            let silent = pending.lost || now.since(pending.at) >= REPEAT_LONGEST;
            if up && silent && pending.sent && now.since(pending.at) >= pause {
                due.insert((pending.node, pending.call), seat.job);
            }
        }
        for ((node, call), job) in due {
            let reports = self.reports_of(node);
            for seat in self.awards.of_call(node, call) {
                if let Some(pending) = self.awards.by_slot.get_mut(seat)
                    && !pending.committed
                {
                    pending.at = now;
                    pending.reports = reports;
                    pending.lost = false;
                    pending.repeats = pending.repeats.saturating_add(1);
                }
            }
            self.send_award(cluster, node, call, job);
        }
    }

    /// A host reported: which awards does that settle?
    pub(super) fn settle_awards(&mut self, node: NodeId, now: Millis) {
        let Some(host) = self.picture.hosts.get(&node) else {
            return;
        };
        let mut settled = Vec::new();
        let mut absent = Vec::new();
        for (seat, pending) in self.awards.on(node) {
            match self.picture.report(seat, node) {
                Some(report) if report.generation >= pending.generation => settled.push(seat),
                // An older task of the slot is still there.
                Some(report) if report.state != TaskState::Stopped => {}
                _ if lacks(host, pending, now) => absent.push((seat, pending.committed)),
                _ => {}
            }
        }
        for seat in settled {
            self.awards.remove(seat);
            self.touch(seat);
        }
        for (seat, committed) in absent {
            self.awards.remove(seat);
            if !committed {
                self.work_of(seat.job).avoid(node, None, now);
            }
            self.touch(seat);
        }
    }

    /// The host is lost, and with it what was awarded to it.
    pub(super) fn drop_awards_of(&mut self, node: NodeId) {
        let on = self.awards.on(node);
        let seats: Vec<Seat> = on.map(|(seat, _)| seat).collect();
        for seat in seats {
            self.awards.remove(seat);
            self.touch(seat);
        }
    }
}

fn lacks(host: &Host, pending: &Pending, now: Millis) -> bool {
    host.complete
        && host.reports >= pending.reports + REPORTS_LATER
        && now.since(pending.at) >= LATER
        && (pending.committed || pending.repeats >= REPEATS_BEFORE_REPORTS)
}

/// Who holds what a task of the job needs. A node that has only one of the
/// packages says so when it is asked for another.
fn holders(cluster: &Cluster, job: &Job) -> Vec<NodeId> {
    let packages = job.all_packages();
    let records = packages.iter().filter_map(|id| cluster.packages().get(id));
    let holders: BTreeSet<NodeId> = records
        .flat_map(|record| &record.holders)
        .copied()
        .collect();
    holders.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::names::Names;
    use potluck_specs::JobName;

    #[test]
    fn a_host_lacks_an_award_only_when_no_older_report_can_be_under_way() {
        // Whole inventory, reports since, time since, committed, repeats; lacks?
        let table = [
            (true, 2, 3_000, true, 0, true),
            (true, 1, 3_000, true, 0, false),
            (true, 2, 2_999, true, 0, false),
            (false, 2, 3_000, true, 0, false),
            (true, 9, 9_000, false, 2, false),
            (true, 2, 3_000, false, 3, true),
        ];
        for (complete, reports, after, committed, repeats, lacks_it) in table {
            let mut host = Host::new("a".into(), true);
            host.complete = complete;
            host.reports = 5 + reports;
            let pending = Pending {
                node: NodeId([1; 32]),
                generation: Generation::default(),
                call: 1,
                version: 1,
                sent: true,
                at: Millis(1_000),
                lost: false,
                repeats,
                committed,
                reports: 5,
            };
            let row = (complete, reports, after, committed, repeats);
            assert_eq!(
                lacks(&host, &pending, Millis(1_000 + after)),
                lacks_it,
                "{row:?}"
            );
        }
    }

    #[test]
    fn awards_are_found_by_host_until_they_are_gone() {
        let job = Names::default().meet(&JobName::in_default("web"));
        let slot = |index| job.seat(index);
        let pending = |host: u8, call| Pending {
            node: NodeId([host; 32]),
            generation: Generation::default(),
            call,
            version: 1,
            sent: false,
            at: Millis(0),
            lost: false,
            repeats: 0,
            committed: false,
            reports: 0,
        };
        let mut awards = Awards::default();
        awards.insert(slot(0), pending(1, 7));
        awards.insert(slot(1), pending(1, 8));
        // Awarded anew: the former host has it no longer.
        awards.insert(slot(0), pending(2, 9));
        assert_eq!(awards.of_call(NodeId([1; 32]), 7), []);
        assert_eq!(awards.of_call(NodeId([1; 32]), 8), [slot(1)]);
        assert_eq!(awards.of_call(NodeId([2; 32]), 9), [slot(0)]);
        awards.remove(slot(1));
        let count = |host| awards.on(NodeId([host; 32])).count();
        assert_eq!((count(1), count(2)), (0, 1));
    }
}
