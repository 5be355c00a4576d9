//! Fetching from peers in memory that lie, stall and break, through the same
//! frames as over a network.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::scratch::Scratch;
use async_trait::async_trait;
use futures::io::Cursor;
use tokio::sync::watch;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::*;
use crate::{
    exchange::{
        Ask, Asking, DropReason, Server, ask_over, frame,
        wire::{
            CHUNK_REQUEST_BYTES_MAX, CHUNK_RESPONSE_BYTES_MAX, ChunkRequest, ChunkResponse,
            REQUEST_CHUNKS_MAX,
        },
    },
    pack::pack,
    unpack::unpack,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Honest,
    /// Every chunk has one bit turned.
    CorruptChunks,
    /// The manifest has one byte more.
    CorruptManifest,
    /// Says that it has everything, gives nothing.
    Liar,
    /// Never answers a request for chunks.
    Stalls,
    /// Never answers at all.
    Silent,
    /// Answers with fewer chunks than asked for.
    Short,
    /// Not reachable so many times, then honest.
    FailsFirst(usize),
}

/// Peers with stores of their own.
#[derive(Default)]
pub(crate) struct World {
    peers: BTreeMap<NodeId, (Conduct, Server, AtomicUsize)>,
    folders: Vec<Scratch>,
    /// Every chunk asked for, with whom.
    pub(crate) asked: Mutex<Vec<(NodeId, ChunkHash)>>,
    /// Nobody else gives chunks before a corrupt peer has.
    corrupt_first: bool,
    corrupt_gave: watch::Sender<bool>,
}

impl World {
    /// Adds a peer with an empty store, which is returned.
    pub(crate) fn add(&mut self, conduct: Conduct) -> (NodeId, ChunkStore) {
        let folder = crate::scratch::folder();
        let store = ChunkStore::open(folder.path()).unwrap();
        let node = NodeId([self.peers.len() as u8 + 1; 32]);
        let server = Server::new(store.clone());
        self.peers
            .insert(node, (conduct, server, AtomicUsize::new(0)));
        self.folders.push(folder);
        (node, store)
    }

    pub(crate) fn hints(&self) -> Vec<PeerHint> {
        let hint = |node: &NodeId| PeerHint {
            node: *node,
            same_rack: false,
        };
        self.peers.keys().map(hint).collect()
    }

    pub(crate) fn times_asked(&self) -> BTreeMap<ChunkHash, usize> {
        let mut times = BTreeMap::new();
        for (_, hash) in self.asked.lock().unwrap().iter() {
            *times.entry(*hash).or_default() += 1;
        }
        times
    }
}

/// Through a frame and back, as over a stream.
async fn carried<T>(message: &T, bytes_max: usize) -> T
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let mut stream = Cursor::new(Vec::new());
    frame::write(&mut stream, message, bytes_max).await.unwrap();
    stream.set_position(0);
    frame::read(&mut stream, "message", bytes_max)
        .await
        .unwrap()
        .unwrap()
}

#[async_trait]
impl Ask for World {
    async fn ask(&self, to: NodeId, request: ChunkRequest) -> Result<ChunkResponse, SourceError> {
        let request = carried(&request, CHUNK_REQUEST_BYTES_MAX).await;
        let (conduct, server, times) = &self.peers[&to];
        let time = times.fetch_add(1, Ordering::Relaxed);
        let is_chunks = matches!(request, ChunkRequest::Chunks { .. });
        if let ChunkRequest::Chunks { hashes, .. } = &request {
            let pairs = hashes.iter().map(|hash| (to, *hash));
            self.asked.lock().unwrap().extend(pairs);
        }
        match *conduct {
            Conduct::Silent => std::future::pending().await,
            Conduct::Stalls if is_chunks => std::future::pending().await,
            Conduct::FailsFirst(failures) if time < failures => {
                return Err(SourceError::Unreachable("it fails".into()));
            }
            _ => {}
        }
        let is_corrupt = *conduct == Conduct::CorruptChunks;
        if is_chunks && self.corrupt_first && !is_corrupt {
            let mut gave = self.corrupt_gave.subscribe();
            gave.wait_for(|gave| *gave).await.expect("we hold its end");
        }
        let lies = is_corrupt || *conduct == Conduct::Liar;
        let response = match (server.answer(request.clone()).await, request) {
            (ChunkResponse::Have(_), _) if lies => ChunkResponse::Have(Have::All),
            (ChunkResponse::Chunks(chunks), ChunkRequest::Chunks { hashes, .. }) => {
                ChunkResponse::Chunks(spoil(*conduct, chunks, &hashes))
            }
            (ChunkResponse::Manifest(Some(mut bytes)), _)
                if *conduct == Conduct::CorruptManifest =>
            {
                bytes.push(0);
                ChunkResponse::Manifest(Some(bytes))
            }
            (response, _) => response,
        };
        let response = carried(&response, CHUNK_RESPONSE_BYTES_MAX).await;
        if is_chunks && is_corrupt {
            self.corrupt_gave.send_replace(true);
        }
        Ok(response)
    }
}

fn spoil(
    conduct: Conduct,
    mut chunks: Vec<Option<PackedChunk>>,
    hashes: &[ChunkHash],
) -> Vec<Option<PackedChunk>> {
    match conduct {
        Conduct::Liar => vec![None; hashes.len()],
        Conduct::Short => {
            chunks.pop();
            chunks
        }
        Conduct::CorruptChunks => {
            let other = zstd::bulk::compress(b"something else", 1).unwrap();
            vec![Some(PackedChunk(other)); hashes.len()]
        }
        _ => chunks,
    }
}

/// For peers that must be given up: short, but long beside what honest ones
/// take on a busy machine.
pub(crate) fn quick() -> Limits {
    Limits {
        chunks_within: Millis(1_000),
        answer_within: Millis(500),
        stall: Millis(10_000),
        ask_again: Millis(30),
        hedge_after: Millis(100),
        ..Limits::default()
    }
}

/// For tests that count questions: nothing is asked twice because the machine
/// is slow.
pub(crate) fn patient() -> Limits {
    Limits {
        chunks_within: Millis(60_000),
        hedge_after: Millis(60_000),
        ask_again: Millis(30),
        ..Limits::default()
    }
}

/// A folder with some files of noise, together `bytes`.
pub(crate) fn files(bytes: usize) -> Scratch {
    let folder = crate::scratch::folder();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    for n in 0..4u8 {
        let mut noise = vec![0; bytes / 4];
        blake3::Hasher::new()
            .update(&[n])
            .finalize_xof()
            .fill(&mut noise);
        let path = folder.path().join(format!("bin/{n}"));
        std::fs::write(path, noise).unwrap();
    }
    folder
}

/// Gives `store` the package, or only every `part`-th chunk of it.
fn give(store: &ChunkStore, from: &ChunkStore, id: PackageId, part: impl Fn(usize) -> bool) {
    let (bytes, manifest) = from.manifest_bytes(id).unwrap();
    store.put_manifest(id, &bytes).unwrap();
    for (k, chunk) in distinct_chunks(&manifest).iter().enumerate() {
        if part(k) {
            store
                .put(chunk.hash, &from.get(chunk.hash).unwrap())
                .unwrap();
        }
    }
}

struct Setup {
    world: World,
    origin: ChunkStore,
    id: PackageId,
    manifest: Manifest,
    _folders: (Scratch, Scratch),
}

fn setup(bytes: usize) -> Setup {
    let (files, folder) = (files(bytes), crate::scratch::folder());
    let origin = ChunkStore::open(folder.path()).unwrap();
    let (id, manifest) = pack(&origin, files.path()).unwrap();
    Setup {
        world: World::default(),
        origin,
        id,
        manifest,
        _folders: (files, folder),
    }
}

fn empty_store() -> (Scratch, ChunkStore) {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    (folder, store)
}

#[tokio::test]
async fn lies_stalls_and_failures_do_not_keep_a_package_away() {
    let mut setup = setup(8 << 20);
    setup.world.corrupt_first = true;
    let conducts = [
        Conduct::CorruptChunks,
        Conduct::CorruptManifest,
        Conduct::Liar,
        Conduct::Stalls,
        Conduct::Silent,
        Conduct::Short,
        Conduct::FailsFirst(3),
        Conduct::Honest,
        Conduct::Honest,
    ];
    let mut nodes = BTreeMap::new();
    for (n, conduct) in conducts.into_iter().enumerate() {
        let (node, store) = setup.world.add(conduct);
        // The two honest ones hold a half each.
        let part = |k: usize| n < 7 || k % 2 == n % 2;
        give(&store, &setup.origin, setup.id, part);
        nodes.insert(node, conduct);
    }
    let (_folder, store) = empty_store();
    let peers = setup.world.hints();
    let source = Arc::new(Asking(setup.world));
    let report = fetch(&store, setup.id, peers, source, quick())
        .await
        .unwrap();
    assert!(store.complete(setup.id));
    assert_eq!(report.bytes(), setup.manifest.total_bytes());
    assert_eq!(report.resumed_chunks, 0);
    for (node, reason) in &report.dropped {
        let expected = match reason {
            DropReason::CorruptChunk => Conduct::CorruptChunks,
            DropReason::CorruptManifest => Conduct::CorruptManifest,
            DropReason::FalseClaims => Conduct::Liar,
        };
        assert_eq!(nodes[node], expected);
    }
    let corrupt = NodeId([1; 32]);
    assert_eq!(
        report.dropped.get(&corrupt),
        Some(&DropReason::CorruptChunk)
    );
    assert!(!report.bytes_by_source.contains_key(&corrupt));
    assert_eq!(FetchReport::stored(&store, setup.id), Some(report));
    unpack(&store, setup.id).unwrap();
    store.remove_tree(setup.id).unwrap();
}

#[tokio::test]
async fn a_corrupt_manifest_is_refused_and_its_peer_dropped() {
    let mut setup = setup(1 << 20);
    let (liar, store) = setup.world.add(Conduct::CorruptManifest);
    give(&store, &setup.origin, setup.id, |_| true);
    let (_, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |_| true);
    let (_folder, store) = empty_store();
    let peers = setup.world.hints();
    let source = Arc::new(Asking(setup.world));
    let report = fetch(&store, setup.id, peers, source, quick())
        .await
        .unwrap();
    assert_eq!(report.dropped, [(liar, DropReason::CorruptManifest)].into());
    assert!(!report.bytes_by_source.contains_key(&liar));
}

#[tokio::test]
async fn a_later_fetch_takes_only_what_is_missing() {
    let mut setup = setup(4 << 20);
    let (half, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |k| k % 2 == 0);
    let (whole, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |_| true);
    let (_folder, store) = empty_store();
    let hint = |node| PeerHint {
        node,
        same_rack: true,
    };
    let world = Arc::new(Asking(setup.world));
    let limits = Limits {
        stall: Millis(2_000),
        ..patient()
    };
    let stuck = fetch(&store, setup.id, vec![hint(half)], world.clone(), limits).await;
    let distinct = distinct_chunks(&setup.manifest).len();
    match stuck {
        Err(FetchError::Stuck { chunks, .. }) => assert_eq!(chunks, distinct / 2),
        other => panic!("{other:?}"),
    }
    let report = fetch(&store, setup.id, vec![hint(whole)], world.clone(), limits)
        .await
        .unwrap();
    assert_eq!(report.resumed_chunks as usize, distinct.div_ceil(2));
    assert_eq!(report.fetched_chunks as usize, distinct / 2);
    assert!(world.0.times_asked().values().all(|times| *times == 1));
    let sum = FetchReport::stored(&store, setup.id).unwrap();
    assert_eq!(sum.bytes(), setup.manifest.total_bytes());
    assert_eq!(
        sum.bytes_by_source.keys().copied().collect::<Vec<_>>(),
        [half, whole]
    );
    let again = fetch(&store, setup.id, Vec::new(), world, limits)
        .await
        .unwrap();
    assert_eq!(again.fetched_chunks, 0);
}

#[tokio::test]
async fn a_dropped_fetch_keeps_what_it_has() {
    let mut setup = setup(4 << 20);
    let (_, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |k| k % 2 == 0);
    let (_folder, store) = empty_store();
    let peers = setup.world.hints();
    let source = Arc::new(Asking(setup.world));
    {
        let fetching = fetch(&store, setup.id, peers.clone(), source.clone(), patient());
        tokio::pin!(fetching);
        let half = distinct_chunks(&setup.manifest).len() / 2;
        let limit = Instant::now() + Duration::from_secs(10);
        while store
            .manifest(setup.id)
            .map_or(true, |m| store.missing(&m).len() > half)
        {
            assert!(Instant::now() < limit, "half of it never came");
            let _ = timeout(Duration::from_millis(5), &mut fetching).await;
        }
    }
    let asked_before = source.0.times_asked().len();
    assert!(asked_before > 0);
    give(&store, &setup.origin, setup.id, |k| k % 2 == 1);
    let report = fetch(&store, setup.id, peers, source.clone(), patient())
        .await
        .unwrap();
    assert_eq!(report.fetched_chunks, 0);
    assert_eq!(source.0.times_asked().len(), asked_before);
}

#[tokio::test]
async fn nobody_with_the_manifest_is_said_at_once() {
    let mut setup = setup(1 << 20);
    setup.world.add(Conduct::Honest);
    setup.world.add(Conduct::FailsFirst(9));
    let (_folder, store) = empty_store();
    let peers = setup.world.hints();
    let source = Arc::new(Asking(setup.world));
    match fetch(&store, setup.id, peers, source, quick()).await {
        Err(FetchError::NoManifest {
            peers: 2,
            last: Some(SourceError::Unreachable(_)),
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn our_own_disk_failing_ends_the_fetch() {
    let mut setup = setup(2 << 20);
    let (_, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |_| true);
    let (folder, store) = empty_store();
    let chunk = distinct_chunks(&setup.manifest)[0];
    let in_the_way = folder.path().join("chunks").join(&chunk.hash.to_hex()[..2]);
    std::fs::write(in_the_way, b"").unwrap();
    let peers = setup.world.hints();
    let source = Arc::new(Asking(setup.world));
    let failed = fetch(&store, setup.id, peers, source, quick()).await;
    assert!(
        matches!(failed, Err(FetchError::Store(StoreError::Io { .. }))),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_chain_of_peers_fetches_while_it_fills() {
    let mut setup = setup(6 << 20);
    let (origin, store) = setup.world.add(Conduct::Honest);
    give(&store, &setup.origin, setup.id, |_| true);
    let mut chain = vec![origin];
    let mut stores = Vec::new();
    for _ in 0..3 {
        let (node, store) = setup.world.add(Conduct::Honest);
        // They have the manifest, as who was told of a package has.
        give(&store, &setup.origin, setup.id, |_| false);
        chain.push(node);
        stores.push(store);
    }
    let source = Arc::new(Asking(setup.world));
    let fetches = stores.iter().zip(&chain).map(|(store, before)| {
        let peers = vec![PeerHint {
            node: *before,
            same_rack: true,
        }];
        fetch(store, setup.id, peers, source.clone(), patient())
    });
    for report in futures::future::join_all(fetches).await {
        assert_eq!(report.unwrap().bytes(), setup.manifest.total_bytes());
    }
    let from_origin = source.0.asked.lock().unwrap().clone();
    let from_origin = from_origin.iter().filter(|(node, _)| *node == origin);
    assert_eq!(from_origin.count(), distinct_chunks(&setup.manifest).len());
}

#[tokio::test]
async fn servers_hold_their_bounds() {
    let setup = setup(1 << 20);
    let server = Server::new(setup.origin.clone());
    let chunks = |count| ChunkRequest::Chunks {
        package: setup.id,
        hashes: vec![ChunkHash([0; 32]); count],
    };
    let refused = server.answer(chunks(REQUEST_CHUNKS_MAX + 1)).await;
    assert!(matches!(refused, ChunkResponse::Refused(_)));
    let absent = server.answer(chunks(2)).await;
    assert_eq!(absent, ChunkResponse::Chunks(vec![None, None]));
    let unknown = server.answer(ChunkRequest::Unknown).await;
    assert_eq!(unknown, ChunkResponse::Unsupported);
    let other = PackageId([0; 32]);
    let have = server.answer(ChunkRequest::Have(other)).await;
    assert_eq!(have, ChunkResponse::Have(Have::Nothing));
    // With a thousand at once, those beyond the bound are told to go elsewhere.
    let all = (0..1_000).map(|_| server.answer(ChunkRequest::Manifest(other)));
    let answers = futures::future::join_all(all).await;
    let busy = answers
        .iter()
        .filter(|answer| **answer == ChunkResponse::Busy)
        .count();
    assert!(busy > 0 && busy < 1_000, "{busy}");
}

#[tokio::test]
async fn one_stream_carries_many_requests() {
    let setup = setup(1 << 20);
    let server = Server::new(setup.origin.clone());
    let (ours, theirs) = tokio::io::duplex(4 << 10);
    let (mut ours, mut theirs) = (ours.compat(), theirs.compat());
    let client = async move {
        let have = ask_over(&mut ours, &ChunkRequest::Have(setup.id))
            .await
            .unwrap();
        assert_eq!(have, Some(ChunkResponse::Have(Have::All)));
        // A message that the server does not know leaves the stream usable.
        frame::write(&mut ours, &"news", 64).await.unwrap();
        let answer = frame::read(&mut ours, "response", CHUNK_RESPONSE_BYTES_MAX)
            .await
            .unwrap();
        assert_eq!(answer, Some(ChunkResponse::Unsupported));
        for chunk in distinct_chunks(&setup.manifest) {
            let request = ChunkRequest::Chunks {
                package: setup.id,
                hashes: vec![chunk.hash],
            };
            let answer = ask_over(&mut ours, &request).await.unwrap();
            assert!(matches!(answer, Some(ChunkResponse::Chunks(c)) if c[0].is_some()));
        }
    };
    let (_, served) = tokio::join!(client, server.serve(&mut theirs));
    served.unwrap();
}
