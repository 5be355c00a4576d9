//! Whom to ask for what: the plan of one fetch, as a plain value.
//!
//! ```text
//! chunk:  open ──asked──▶ in flight ──arrived whole──▶ stored
//!           ▲                 │ failed, denied, corrupt
//!           └─────────────────┘
//!
//! peer:   waiting ──asked what it has──▶ asked ──▶ active ──corrupt, lies──▶ dropped
//!            ▲                             │          │
//!            └────────── a while ──────────┴──────────┘
//!                                    failed, or of no use now
//! ```
//!
//! A peer that fails or stalls waits longer each time and is then on probation
//! until it gives a chunk: it is tried last, with one chunk, and its claims keep
//! nobody else from anything. It is never given up, since it may be the only
//! one that holds a chunk; one that gives wrong bytes, or again and again claims
//! what it has not got, is. So every chunk that some
//! honest peer holds is fetched, whatever the others do. No clock, randomness
//! or IO here: the driver is `fetch`.

use std::collections::{BTreeMap, BTreeSet};

use potluck_specs::{ChunkHash, Millis, NodeId, package::Chunk};
use serde::{Deserialize, Serialize};

use super::{
    source::PeerHint,
    wire::{Have, REQUEST_CHUNKS_MAX},
};

/// What a fetch may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Peers asked at a time. More bring little speed and many connections.
    pub peers_max: usize,
    /// Requests open at each peer: enough that it never waits for us.
    pub pipeline: usize,
    /// Bytes asked for in one request, if more than one chunk: with the two
    /// above it bounds the memory of a fetch to some 40 MB.
    pub request_bytes: u64,
    /// Time for one answer with chunks.
    pub chunks_within: Millis,
    /// Time for one answer without.
    pub answer_within: Millis,
    /// The fetch fails after this long without a new chunk, once everybody has
    /// been asked.
    pub stall: Millis,
    /// How soon a peer that had nothing for us is asked again.
    pub ask_again: Millis,
    /// A chunk in flight for this long is also asked for from a peer that has
    /// nothing else to do, and the peer that lets us wait for it keeps nobody
    /// outside our rack from the other chunks that it has.
    pub hedge_after: Millis,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            peers_max: 10,
            pipeline: 4,
            request_bytes: 1 << 20,
            chunks_within: Millis(5_000),
            answer_within: Millis(2_000),
            stall: Millis(30_000),
            ask_again: Millis(500),
            hedge_after: Millis(500),
        }
    }
}

/// Peers remembered by one fetch: a tracker hands out ten, callers some more.
const PEERS_KNOWN_MAX: usize = 256;

/// Open chunks looked at to find the rarest for one request: the choice gets
/// hardly better with more, and a fetch of 80,000 chunks must not be quadratic.
const CHOICE_MAX: usize = 256;

/// Open chunks looked at in vain in one step.
const SCAN_MAX: usize = 4_096;

/// The same chunk from so many peers at a time at most.
const FLIGHTS_MAX: u8 = 3;

/// Answers in a row that lack what the peer claimed to have; an honest one that
/// just cleaned up gets there only by great misfortune.
const DENIALS_MAX: u32 = 8;

/// Longest wait before a failing peer is asked again.
const REST_MAX: Millis = Millis(10_000);

/// Why a peer is not asked any more in this fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DropReason {
    /// It gave bytes that are not the chunk's.
    CorruptChunk,
    /// It gave a manifest that is not the package's.
    CorruptManifest,
    /// It kept claiming chunks that it did not give.
    FalseClaims,
}

/// Names a request within one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What came of one chunk of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Verified, and in the store now.
    Stored,
    /// The peer has not got it.
    Denied,
    /// Other bytes than the hash's.
    Corrupt,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Peers became known.
    Peers(Vec<PeerHint>),
    /// A peer gave a wrong manifest before the plan began.
    BadManifest(NodeId),
    /// A peer says what it has.
    Have(NodeId, Have),
    /// It did not say.
    HaveFailed(NodeId),
    /// A request was answered, for each of its chunks in order.
    Arrived(RequestId, Vec<Received>),
    /// A request was not answered in time, or its answer is of no use.
    Failed(RequestId),
    /// A peer has too much to do: no fault of its.
    Busy(RequestId),
    /// Time went by.
    Tick,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a peer what it has.
    AskHave(NodeId),
    /// Ask a peer for chunks.
    AskChunks {
        /// To be named in the event.
        request: RequestId,
        /// Whom.
        node: NodeId,
        /// For what.
        hashes: Vec<ChunkHash>,
    },
}

/// How far the fetch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Chunks are missing, peers may have them.
    Running,
    /// Everything is stored.
    Done,
    /// Nobody who is left gives what is missing.
    Stuck,
}

/// The plan of one fetch.
#[derive(Debug)]
pub struct FetchPlan {
    limits: Limits,
    salt: u64,
    /// In an order of our own, so that nodes which fetch the same package at
    /// the same time take different chunks first.
    chunks: Vec<Wanted>,
    /// Wanted and not in flight.
    open: BTreeSet<usize>,
    /// Not stored: open or in flight.
    needed: BTreeSet<usize>,
    peers: BTreeMap<NodeId, Peer>,
    requests: BTreeMap<RequestId, Request>,
    next_request: u64,
    last_progress: Millis,
    bytes_by_source: BTreeMap<NodeId, u64>,
}

#[derive(Debug)]
struct Wanted {
    chunk: Chunk,
    /// Its place among the package's different chunks.
    bit: usize,
    stored: bool,
    flights: u8,
    asked_at: Millis,
    /// Active peers that have it.
    holders: u32,
    /// Of them, those in our rack that are neither late nor on probation.
    rack_holders: u32,
}

#[derive(Debug)]
struct Peer {
    same_rack: bool,
    state: PeerState,
    have: Have,
    /// Claimed and then not given.
    denied: BTreeSet<usize>,
    /// It has let a request wait for long.
    late: bool,
    /// Its claims are counted among the rack's.
    counted_in_rack: bool,
    /// Where its next look through the open chunks begins.
    cursor: usize,
    in_flight: usize,
    /// Times asked what it has: who was asked least is asked next.
    asked: u32,
    /// In a row.
    failures: u32,
    /// In a row.
    denials: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerState {
    Waiting { until: Millis },
    Asked,
    Active,
    Dropped(DropReason),
}

#[derive(Debug)]
struct Request {
    node: NodeId,
    chunks: Vec<usize>,
    asked_at: Millis,
}

impl FetchPlan {
    /// A plan for the `missing` ones of a package's `distinct` chunks. `salt`
    /// differs between nodes.
    pub fn new(
        distinct: &[Chunk],
        missing: &[Chunk],
        limits: Limits,
        salt: u64,
        now: Millis,
    ) -> FetchPlan {
        let wanted: BTreeSet<ChunkHash> = missing.iter().map(|chunk| chunk.hash).collect();
        let mut chunks: Vec<Wanted> = (0..)
            .zip(distinct)
            .filter(|(_, chunk)| wanted.contains(&chunk.hash))
            .map(|(bit, chunk)| Wanted::new(*chunk, bit))
            .collect();
        chunks.sort_by_cached_key(|wanted| shuffle(salt, &wanted.chunk.hash.0));
        FetchPlan {
            limits,
            salt,
            open: (0..chunks.len()).collect(),
            needed: (0..chunks.len()).collect(),
            chunks,
            peers: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            last_progress: now,
            bytes_by_source: BTreeMap::new(),
        }
    }

    /// Takes in what happened, says what to do.
    pub fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        match event {
            Event::Peers(hints) => self.learn(hints, now),
            Event::BadManifest(node) => self.drop_peer(node, DropReason::CorruptManifest),
            Event::Have(node, have) => self.heard(node, have),
            Event::HaveFailed(node) => self.rest_after_failure(node, PeerState::Asked, now),
            Event::Arrived(request, received) => self.arrived(request, &received, now),
            Event::Failed(request) => self.failed(request, now),
            Event::Busy(request) => self.busy(request, now),
            Event::Tick => {}
        }
        if self.needed.is_empty() {
            return Vec::new();
        }
        self.note_late(now);
        self.retire_useless(now);
        let mut effects = self.ask_more_peers(now);
        self.ask_for_chunks(now, &mut effects);
        effects
    }

    /// How far the fetch is.
    pub fn progress(&self, now: Millis) -> Progress {
        if self.needed.is_empty() {
            return Progress::Done;
        }
        let hopeless = self.peers.values().all(|peer| peer.is_dropped());
        let all_asked = self
            .peers
            .values()
            .all(|peer| peer.asked > 0 || peer.is_dropped());
        let stalled = all_asked && now.since(self.last_progress) >= self.limits.stall;
        if hopeless || stalled {
            return Progress::Stuck;
        }
        Progress::Running
    }

    /// Chunks not yet stored.
    pub fn left(&self) -> usize {
        self.needed.len()
    }

    /// Uncompressed bytes by the peer that gave them first.
    pub fn bytes_by_source(&self) -> &BTreeMap<NodeId, u64> {
        &self.bytes_by_source
    }

    /// Peers that are not asked any more, and why.
    pub fn dropped(&self) -> BTreeMap<NodeId, DropReason> {
        let dropped = self
            .peers
            .iter()
            .filter_map(|(node, peer)| match peer.state {
                PeerState::Dropped(reason) => Some((*node, reason)),
                _ => None,
            });
        dropped.collect()
    }

    fn learn(&mut self, hints: Vec<PeerHint>, now: Millis) {
        for hint in hints {
            if self.peers.len() >= PEERS_KNOWN_MAX {
                return;
            }
            let fresh = || Peer::new(hint.same_rack, now);
            self.peers.entry(hint.node).or_insert_with(fresh);
        }
    }

    fn heard(&mut self, node: NodeId, have: Have) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if peer.state != PeerState::Asked {
            return;
        }
        peer.have = have;
        peer.denied.clear();
        peer.state = PeerState::Active;
        count_in(&mut self.chunks, peer);
    }

    fn arrived(&mut self, request: RequestId, received: &[Received], now: Millis) {
        let Some(Request { node, chunks, .. }) = self.land(request) else {
            return;
        };
        debug_assert_eq!(chunks.len(), received.len());
        let (mut good, mut denied, mut corrupt) = (false, false, false);
        for (k, received) in chunks.into_iter().zip(received) {
            match received {
                Received::Stored => {
                    good = true;
                    self.store(node, k, now);
                }
                Received::Denied => {
                    denied = true;
                    self.deny(node, k);
                }
                Received::Corrupt => corrupt = true,
            }
        }
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if good {
            peer.failures = 0;
            peer.denials = 0;
        } else if denied {
            peer.denials += 1;
        }
        recount(&mut self.chunks, peer);
        if corrupt {
            self.drop_peer(node, DropReason::CorruptChunk);
        } else if peer.denials >= DENIALS_MAX {
            self.drop_peer(node, DropReason::FalseClaims);
        }
    }

    fn store(&mut self, node: NodeId, k: usize, now: Millis) {
        let wanted = &mut self.chunks[k];
        if wanted.stored {
            return;
        }
        wanted.stored = true;
        self.open.remove(&k);
        self.needed.remove(&k);
        self.last_progress = now;
        *self.bytes_by_source.entry(node).or_default() += u64::from(wanted.chunk.bytes);
    }

    fn deny(&mut self, node: NodeId, k: usize) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let counted = peer.state == PeerState::Active && peer.holds(k, &self.chunks[k]);
        peer.denied.insert(k);
        if counted {
            self.chunks[k].holders -= 1;
            self.chunks[k].rack_holders -= u32::from(peer.counted_in_rack);
        }
    }

    fn failed(&mut self, request: RequestId, now: Millis) {
        if let Some(Request { node, .. }) = self.land(request) {
            // Of several requests that fail together, one counts.
            self.rest_after_failure(node, PeerState::Active, now);
        }
    }

    fn busy(&mut self, request: RequestId, now: Millis) {
        let landed = self.land(request).map(|request| request.node);
        let active = |node: &NodeId| self.peers.get(node).is_some_and(Peer::is_engaged);
        if let Some(node) = landed.filter(active) {
            self.rest(node, now + self.limits.ask_again);
        }
    }

    /// Takes a request out of the air; what it asked for is open again.
    fn land(&mut self, request: RequestId) -> Option<Request> {
        let landed = self.requests.remove(&request)?;
        if let Some(peer) = self.peers.get_mut(&landed.node) {
            peer.in_flight -= 1;
        }
        for k in &landed.chunks {
            let wanted = &mut self.chunks[*k];
            wanted.flights -= 1;
            if wanted.flights == 0 && !wanted.stored {
                self.open.insert(*k);
            }
        }
        Some(landed)
    }

    fn rest_after_failure(&mut self, node: NodeId, from: PeerState, now: Millis) {
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.state == from) else {
            return;
        };
        peer.failures += 1;
        let doublings = peer.failures.min(6) - 1;
        let wait = Millis((self.limits.ask_again.0 << doublings).min(REST_MAX.0));
        self.rest(node, now + wait);
    }

    /// The peer's other requests stay in the air: they may yet be answered.
    fn rest(&mut self, node: NodeId, until: Millis) {
        self.leave(node, PeerState::Waiting { until });
    }

    fn drop_peer(&mut self, node: NodeId, reason: DropReason) {
        self.leave(node, PeerState::Dropped(reason));
        let of_node = |(id, request): (&RequestId, &Request)| (request.node == node).then_some(*id);
        let doomed: Vec<RequestId> = self.requests.iter().filter_map(of_node).collect();
        for request in doomed {
            self.land(request);
        }
    }

    fn leave(&mut self, node: NodeId, state: PeerState) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if peer.is_dropped() {
            return;
        }
        if peer.state == PeerState::Active {
            count_out(&mut self.chunks, peer);
        }
        peer.state = state;
    }

    /// A peer that lets us wait keeps nobody else from its chunks.
    fn note_late(&mut self, now: Millis) {
        let late = |request: &&Request| now.since(request.asked_at) >= self.limits.hedge_after;
        let late: BTreeSet<NodeId> = self
            .requests
            .values()
            .filter(late)
            .map(|request| request.node)
            .collect();
        for (node, peer) in &mut self.peers {
            peer.late = late.contains(node);
            recount(&mut self.chunks, peer);
        }
    }

    /// Active peers without anything that we need make room for others.
    fn retire_useless(&mut self, now: Millis) {
        let useless = |peer: &Peer| {
            peer.state == PeerState::Active
                && peer.in_flight == 0
                && !self.needed.iter().any(|k| peer.holds(*k, &self.chunks[*k]))
        };
        let retired: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| useless(peer))
            .map(|(node, _)| *node)
            .collect();
        for node in retired {
            self.rest(node, now + self.limits.ask_again);
        }
    }

    /// Those asked least come first, of these our rack's. A failure weighs like
    /// some questions.
    fn ask_more_peers(&mut self, now: Millis) -> Vec<Effect> {
        let busy = self.peers.values().filter(|peer| peer.is_engaged()).count();
        let room = self.limits.peers_max.saturating_sub(busy);
        let mut waiting: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| matches!(peer.state, PeerState::Waiting { until } if until <= now))
            .map(|(node, peer)| {
                (
                    peer.asked,
                    !peer.same_rack,
                    shuffle(self.salt, &node.0),
                    *node,
                )
            })
            .collect();
        waiting.sort_unstable();
        waiting.truncate(room);
        for (_, _, _, node) in &waiting {
            let peer = self.peers.get_mut(node).expect("listed above");
            peer.asked = peer.asked.saturating_add(1);
            peer.state = PeerState::Asked;
        }
        waiting
            .into_iter()
            .map(|(_, _, _, node)| Effect::AskHave(node))
            .collect()
    }

    /// One request for each peer in turn, so that the first does not take all.
    fn ask_for_chunks(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let active = self.active_rack_first();
        loop {
            let before = effects.len();
            for node in &active {
                let batch = self.pick(*node, active.len());
                let batch = if batch.is_empty() {
                    self.pick_again(*node, now)
                } else {
                    batch
                };
                if !batch.is_empty() {
                    effects.push(self.launch(*node, batch, now));
                }
            }
            if effects.len() == before {
                return;
            }
        }
    }

    /// Those on probation come last.
    fn active_rack_first(&self) -> Vec<NodeId> {
        let mut active: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.state == PeerState::Active)
            .map(|(node, peer)| {
                let order = (peer.on_probation(), !peer.same_rack);
                (order, shuffle(self.salt, &node.0), *node)
            })
            .collect();
        active.sort_unstable();
        active.into_iter().map(|(_, _, node)| node).collect()
    }

    /// The rarest open chunks that the peer has. What somebody in our rack has
    /// is not taken from outside.
    fn pick(&mut self, node: NodeId, active: usize) -> Vec<usize> {
        let peer = self
            .peers
            .get_mut(&node)
            .expect("only called for known peers");
        let (pipeline, chunks_max) = match peer.on_probation() {
            true => (1, 1),
            false => (self.limits.pipeline, REQUEST_CHUNKS_MAX),
        };
        if peer.in_flight >= pipeline {
            return Vec::new();
        }
        let fits = |k: &usize| {
            let wanted = &self.chunks[*k];
            peer.holds(*k, wanted) && (peer.same_rack || wanted.rack_holders == 0)
        };
        // From where the last vain look ended, once around.
        let around = self
            .open
            .range(peer.cursor..)
            .chain(self.open.range(..peer.cursor));
        let seen = around.take(SCAN_MAX).copied().collect::<Vec<_>>();
        let mut choice: Vec<usize> = seen.iter().copied().filter(fits).take(CHOICE_MAX).collect();
        if choice.is_empty() {
            peer.cursor = seen.last().map_or(0, |last| last + 1);
            return choice;
        }
        choice.sort_by_key(|k| (self.chunks[*k].holders, *k));
        let share = self.open.len().div_ceil(active.max(1));
        choice.truncate(share.clamp(1, chunks_max));
        self.cut_to_size(choice)
    }

    /// For a peer that would be idle: chunks that are long in flight elsewhere.
    fn pick_again(&self, node: NodeId, now: Millis) -> Vec<usize> {
        let peer = &self.peers[&node];
        if peer.in_flight > 0 || peer.on_probation() {
            return Vec::new();
        }
        let late = |k: &usize| {
            let wanted = &self.chunks[*k];
            !wanted.stored
                && wanted.flights < FLIGHTS_MAX
                && now.since(wanted.asked_at) >= self.limits.hedge_after
                && peer.holds(*k, wanted)
        };
        let in_flight = self.requests.values().flat_map(|request| &request.chunks);
        let again: BTreeSet<usize> = in_flight.copied().filter(late).collect();
        self.cut_to_size(again.into_iter().take(REQUEST_CHUNKS_MAX).collect())
    }

    /// As many as fit into one request, at least one.
    fn cut_to_size(&self, mut batch: Vec<usize>) -> Vec<usize> {
        let mut bytes = 0;
        let fitting = batch.iter().take_while(|k| {
            bytes += u64::from(self.chunks[**k].chunk.bytes);
            bytes <= self.limits.request_bytes
        });
        let fitting = fitting.count();
        batch.truncate(fitting.max(1));
        batch
    }

    fn launch(&mut self, node: NodeId, chunks: Vec<usize>, now: Millis) -> Effect {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        for k in &chunks {
            let wanted = &mut self.chunks[*k];
            wanted.flights += 1;
            wanted.asked_at = now;
            self.open.remove(k);
        }
        let hashes = chunks.iter().map(|k| self.chunks[*k].chunk.hash).collect();
        let peer = self
            .peers
            .get_mut(&node)
            .expect("only called for known peers");
        peer.in_flight += 1;
        let asked_at = now;
        self.requests.insert(
            request,
            Request {
                node,
                chunks,
                asked_at,
            },
        );
        Effect::AskChunks {
            request,
            node,
            hashes,
        }
    }
}

impl Wanted {
    fn new(chunk: Chunk, bit: usize) -> Wanted {
        Wanted {
            chunk,
            bit,
            stored: false,
            flights: 0,
            asked_at: Millis(0),
            holders: 0,
            rack_holders: 0,
        }
    }
}

impl Peer {
    fn new(same_rack: bool, now: Millis) -> Peer {
        Peer {
            same_rack,
            state: PeerState::Waiting { until: now },
            have: Have::Nothing,
            denied: BTreeSet::new(),
            late: false,
            counted_in_rack: false,
            cursor: 0,
            in_flight: 0,
            asked: 0,
            failures: 0,
            denials: 0,
        }
    }

    fn holds(&self, k: usize, wanted: &Wanted) -> bool {
        self.have.holds(wanted.bit) && !self.denied.contains(&k)
    }

    /// Has it failed us since it last gave something?
    fn on_probation(&self) -> bool {
        self.failures > 0 || self.denials > 0
    }

    fn counts_in_rack(&self) -> bool {
        self.same_rack && !self.late && !self.on_probation()
    }

    fn is_dropped(&self) -> bool {
        matches!(self.state, PeerState::Dropped(_))
    }

    fn is_engaged(&self) -> bool {
        matches!(self.state, PeerState::Asked | PeerState::Active)
    }
}

/// Counts what a peer has when it becomes active.
fn count_in(chunks: &mut [Wanted], peer: &mut Peer) {
    peer.counted_in_rack = peer.counts_in_rack();
    for (k, wanted) in chunks.iter_mut().enumerate() {
        if peer.holds(k, wanted) {
            wanted.holders += 1;
            wanted.rack_holders += u32::from(peer.counted_in_rack);
        }
    }
}

/// Counts an active peer anew if its standing has changed.
fn recount(chunks: &mut [Wanted], peer: &mut Peer) {
    if peer.state == PeerState::Active && peer.counted_in_rack != peer.counts_in_rack() {
        count_out(chunks, peer);
        count_in(chunks, peer);
    }
}

/// Takes back what [`count_in`] counted.
fn count_out(chunks: &mut [Wanted], peer: &Peer) {
    for (k, wanted) in chunks.iter_mut().enumerate() {
        if peer.holds(k, wanted) {
            wanted.holders -= 1;
            wanted.rack_holders -= u32::from(peer.counted_in_rack);
        }
    }
}

/// An order that looks random and differs with the salt.
fn shuffle(salt: u64, bytes: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&salt.to_be_bytes()).update(bytes);
    let hash = *hasher.finalize().as_bytes();
    *hash.first_chunk().expect("16 of 32 bytes")
}

#[cfg(test)]
mod tests;
