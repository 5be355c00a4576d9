//! The plan against peers that lie, stall and fail, in virtual time.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Honest,
    /// Claims everything and denies each chunk.
    Liar,
    /// Claims everything and gives wrong bytes.
    Corrupt,
    /// Claims everything and never gives anything.
    Staller,
    /// Never answers at all.
    Silent,
    /// Every request fails at once.
    Dead,
    /// Has what it says, is busy half of the time.
    Busy,
}

#[derive(Clone, Debug)]
struct SimPeer {
    conduct: Conduct,
    holds: Vec<bool>,
    latency: u64,
    same_rack: bool,
    answers: u64,
}

impl SimPeer {
    fn gives(&self) -> bool {
        matches!(self.conduct, Conduct::Honest | Conduct::Busy)
    }
}

fn chunks(count: usize) -> Vec<Chunk> {
    let chunk = |n: usize| Chunk {
        hash: ChunkHash(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        bytes: 1 + (n as u32 * 7_919) % 600_000,
    };
    (0..count).map(chunk).collect()
}

fn node(n: usize) -> NodeId {
    NodeId([n as u8 + 1; 32])
}

/// Runs a fetch to its end, answering for the peers.
struct Sim {
    plan: FetchPlan,
    all: Vec<Chunk>,
    peers: Vec<SimPeer>,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    asked_for: BTreeMap<(NodeId, ChunkHash), u32>,
}

impl Sim {
    fn new(all: Vec<Chunk>, missing: &[Chunk], peers: Vec<SimPeer>, salt: u64) -> Sim {
        let plan = FetchPlan::new(&all, missing, Limits::default(), salt, Millis(0));
        Sim {
            plan,
            all,
            peers,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            asked_for: BTreeMap::new(),
        }
    }

    fn run(&mut self) -> Progress {
        let hints = (0..self.peers.len()).map(|n| PeerHint {
            node: node(n),
            same_rack: self.peers[n].same_rack,
        });
        let hints = hints.collect();
        self.tell(Event::Peers(hints));
        loop {
            let progress = self.plan.progress(Millis(self.now));
            if progress != Progress::Running {
                return progress;
            }
            assert!(self.now < 600_000, "no end in ten minutes: {:?}", self.plan);
            let tick = (self.now / 100 + 1) * 100;
            match self.queue.first_key_value() {
                Some((&(at, _), _)) if at < tick => {
                    let ((at, _), event) = self.queue.pop_first().unwrap();
                    self.now = at;
                    self.tell(event);
                }
                _ => {
                    self.now = tick;
                    self.tell(Event::Tick);
                }
            }
        }
    }

    fn tell(&mut self, event: Event) {
        for effect in self.plan.step(event, Millis(self.now)) {
            match effect {
                Effect::AskHave(node) => self.answer_have(node),
                Effect::AskChunks {
                    request,
                    node,
                    hashes,
                } => self.answer_chunks(request, node, &hashes),
            }
        }
        self.check();
    }

    fn later(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), event);
    }

    fn answer_have(&mut self, node: NodeId) {
        let peer = &self.peers[usize::from(node.0[0]) - 1];
        let (latency, limits) = (peer.latency, Limits::default());
        match peer.conduct {
            Conduct::Silent => self.later(limits.answer_within.0, Event::HaveFailed(node)),
            Conduct::Dead => self.later(0, Event::HaveFailed(node)),
            Conduct::Honest | Conduct::Busy => {
                let have = Have::from_bits(peer.holds.iter().copied());
                self.later(latency, Event::Have(node, have));
            }
            Conduct::Liar | Conduct::Corrupt | Conduct::Staller => {
                self.later(latency, Event::Have(node, Have::All));
            }
        }
    }

    fn answer_chunks(&mut self, request: RequestId, node: NodeId, hashes: &[ChunkHash]) {
        assert!(!hashes.is_empty() && hashes.len() <= REQUEST_CHUNKS_MAX);
        for hash in hashes {
            *self.asked_for.entry((node, *hash)).or_default() += 1;
        }
        let peer = &mut self.peers[usize::from(node.0[0]) - 1];
        peer.answers += 1;
        let latency = peer.latency;
        let event = match peer.conduct {
            Conduct::Silent | Conduct::Staller => {
                let limit = Limits::default().chunks_within.0;
                return self.later(limit, Event::Failed(request));
            }
            Conduct::Dead => Event::Failed(request),
            Conduct::Busy if peer.answers.is_multiple_of(2) => Event::Busy(request),
            Conduct::Honest | Conduct::Busy => {
                let place = |hash| self.all.iter().position(|chunk| chunk.hash == hash);
                let holds = |hash: &ChunkHash| peer.holds[place(*hash).unwrap()];
                assert!(hashes.iter().all(holds), "asked for what it has not got");
                Event::Arrived(request, vec![Received::Stored; hashes.len()])
            }
            Conduct::Liar => Event::Arrived(request, vec![Received::Denied; hashes.len()]),
            Conduct::Corrupt => Event::Arrived(request, vec![Received::Corrupt; hashes.len()]),
        };
        self.later(latency, event);
    }

    /// The plan's books agree with themselves, whatever happened.
    fn check(&self) {
        let plan = &self.plan;
        let mut flights = vec![0u8; plan.chunks.len()];
        let mut in_flight: BTreeMap<NodeId, usize> = BTreeMap::new();
        for request in plan.requests.values() {
            *in_flight.entry(request.node).or_default() += 1;
            for k in &request.chunks {
                flights[*k] += 1;
            }
        }
        for (k, wanted) in plan.chunks.iter().enumerate() {
            assert_eq!(wanted.flights, flights[k]);
            assert!(wanted.flights <= FLIGHTS_MAX);
            assert_eq!(
                plan.open.contains(&k),
                !wanted.stored && wanted.flights == 0
            );
            assert_eq!(plan.needed.contains(&k), !wanted.stored);
            let active = |peer: &&Peer| peer.state == PeerState::Active && peer.holds(k, wanted);
            let holders = plan.peers.values().filter(active).count();
            assert_eq!(wanted.holders as usize, holders);
            let in_rack = plan
                .peers
                .values()
                .filter(active)
                .filter(|peer| peer.counts_in_rack());
            assert_eq!(wanted.rack_holders as usize, in_rack.count());
        }
        let mut engaged = 0;
        for (node, peer) in &plan.peers {
            assert_eq!(peer.in_flight, in_flight.get(node).copied().unwrap_or(0));
            assert!(peer.in_flight <= plan.limits.pipeline);
            engaged += usize::from(peer.is_engaged());
        }
        assert!(engaged <= plan.limits.peers_max);
    }

    /// Chunks that a peer which gives what it has could give.
    fn reachable(&self) -> BTreeSet<ChunkHash> {
        let given = |k: usize| self.peers.iter().any(|peer| peer.gives() && peer.holds[k]);
        (0..self.all.len())
            .filter(|k| given(*k))
            .map(|k| self.all[k].hash)
            .collect()
    }
}

fn peer(count: usize) -> impl Strategy<Value = SimPeer> {
    let conduct = prop_oneof![
        4 => Just(Conduct::Honest),
        1 => Just(Conduct::Liar),
        1 => Just(Conduct::Corrupt),
        1 => Just(Conduct::Staller),
        1 => Just(Conduct::Silent),
        1 => Just(Conduct::Dead),
        1 => Just(Conduct::Busy),
    ];
    let holds = prop_oneof![
        Just(vec![true; count]),
        prop::collection::vec(any::<bool>(), count),
        prop::collection::vec(prop::bool::weighted(0.1), count),
    ];
    (conduct, holds, 1..80u64, any::<bool>()).prop_map(|(conduct, holds, latency, same_rack)| {
        SimPeer {
            conduct,
            holds,
            latency,
            same_rack,
            answers: 0,
        }
    })
}

fn worlds() -> impl Strategy<Value = (usize, Vec<SimPeer>, Vec<bool>, u64)> {
    (1..60usize).prop_flat_map(|count| {
        let peers = prop::collection::vec(peer(count), 1..24);
        let stored = prop::collection::vec(prop::bool::weighted(0.2), count);
        (Just(count), peers, stored, any::<u64>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_an_honest_peer_holds_is_fetched_and_nothing_else((count, peers, stored, salt) in worlds()) {
        let all = chunks(count);
        let missing: Vec<Chunk> =
            (0..count).filter(|k| !stored[*k]).map(|k| all[k]).collect();
        let mut sim = Sim::new(all, &missing, peers, salt);
        let progress = sim.run();
        let reachable = sim.reachable();
        let beyond = missing.iter().filter(|chunk| !reachable.contains(&chunk.hash)).count();
        prop_assert_eq!(sim.plan.left(), beyond);
        prop_assert_eq!(progress == Progress::Done, beyond == 0);
        let wanted: BTreeSet<ChunkHash> = missing.iter().map(|chunk| chunk.hash).collect();
        prop_assert!(sim.asked_for.keys().all(|(_, hash)| wanted.contains(hash)));
        let fetched: u64 = missing
            .iter()
            .filter(|chunk| reachable.contains(&chunk.hash))
            .map(|chunk| u64::from(chunk.bytes))
            .sum();
        prop_assert_eq!(sim.plan.bytes_by_source().values().sum::<u64>(), fetched);
        for (dropped, reason) in sim.plan.dropped() {
            let conduct = sim.peers[usize::from(dropped.0[0]) - 1].conduct;
            let expected = match reason {
                DropReason::CorruptChunk => Conduct::Corrupt,
                DropReason::FalseClaims => Conduct::Liar,
                DropReason::CorruptManifest => unreachable!("no manifest in this test"),
            };
            prop_assert_eq!(conduct, expected);
        }
    }
}

fn honest(count: usize, same_rack: bool) -> SimPeer {
    SimPeer {
        conduct: Conduct::Honest,
        holds: vec![true; count],
        latency: 5,
        same_rack,
        answers: 0,
    }
}

#[test]
fn what_the_rack_has_is_not_taken_from_outside() {
    let mut peers = vec![honest(200, false), honest(200, false), honest(200, true)];
    peers[2].holds = (0..200).map(|k| k < 150).collect();
    peers[2].latency = 50;
    let bits = Have::from_bits(peers[2].holds.iter().copied());
    let all = chunks(200);
    let mut sim = Sim::new(all.clone(), &all, peers, 1);
    // It is slower, but has said what it has before those outside do.
    let hint = PeerHint {
        node: node(2),
        same_rack: true,
    };
    sim.tell(Event::Peers(vec![hint]));
    sim.tell(Event::Have(node(2), bits));
    assert_eq!(sim.run(), Progress::Done);
    for (k, chunk) in all.iter().enumerate() {
        let from_rack = sim.asked_for.contains_key(&(node(2), chunk.hash));
        let outside =
            [node(0), node(1)].map(|node| sim.asked_for.contains_key(&(node, chunk.hash)));
        assert_eq!(
            (from_rack, outside.contains(&true)),
            (k < 150, k >= 150),
            "chunk {k}"
        );
    }
}

#[test]
fn a_peer_that_stalls_costs_half_a_second() {
    let all = chunks(40);
    let mut peers = vec![honest(40, true), honest(40, false)];
    peers[0].conduct = Conduct::Staller;
    peers[0].latency = 1;
    let mut sim = Sim::new(all.clone(), &all, peers, 1);
    assert_eq!(sim.run(), Progress::Done);
    assert!(sim.now < 1_500, "took {} ms", sim.now);
}

#[test]
fn equal_peers_share_the_work() {
    let all = chunks(60);
    let peers = vec![
        honest(60, true),
        honest(60, true),
        honest(60, true),
        honest(60, true),
    ];
    let mut sim = Sim::new(all.clone(), &all, peers, 3);
    assert_eq!(sim.run(), Progress::Done);
    let total: u64 = all.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    for bytes in sim.plan.bytes_by_source().values() {
        assert!(
            *bytes * 10 >= total && *bytes * 2 <= total,
            "{bytes} of {total}"
        );
    }
    assert!(sim.asked_for.values().all(|times| *times == 1));
}

#[test]
fn nodes_with_other_salts_begin_with_other_chunks() {
    let all = chunks(50);
    let first = |salt| {
        let mut sim = Sim::new(all.clone(), &all, vec![honest(50, false)], salt);
        sim.tell(Event::Peers(vec![PeerHint {
            node: node(0),
            same_rack: false,
        }]));
        let effects = sim.plan.step(Event::Have(node(0), Have::All), Millis(1));
        match &effects[0] {
            Effect::AskChunks { hashes, .. } => hashes[0],
            other @ Effect::AskHave(_) => panic!("{other:?}"),
        }
    };
    let firsts: BTreeSet<ChunkHash> = (0..10).map(first).collect();
    assert!(firsts.len() > 3);
}

#[test]
fn a_peer_that_gets_more_is_asked_again() {
    let all = chunks(3);
    let mut sim = Sim::new(all.clone(), &all, vec![honest(3, false)], 1);
    sim.peers[0].holds = vec![true, false, false];
    let hint = PeerHint {
        node: node(0),
        same_rack: false,
    };
    sim.tell(Event::Peers(vec![hint]));
    while sim.plan.left() > 2 {
        let ((at, _), event) = sim.queue.pop_first().expect("an answer is due");
        sim.now = at;
        sim.tell(event);
    }
    sim.peers[0].holds = vec![true; 3];
    assert_eq!(sim.run(), Progress::Done);
    assert!(sim.now < 2_000, "took {} ms", sim.now);
}

#[test]
fn without_peers_the_fetch_ends_at_once() {
    let all = chunks(3);
    let mut plan = FetchPlan::new(&all, &all, Limits::default(), 0, Millis(0));
    assert_eq!(plan.progress(Millis(0)), Progress::Stuck);
    assert!(plan.step(Event::Tick, Millis(1)).is_empty());
}
