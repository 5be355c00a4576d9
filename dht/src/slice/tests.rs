//! Slices: what is refused, which revision wins, what readers see.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use potluck_specs::{
    Epoch, FleetId, JobName, Millis, NodeId, NodeName, Reign, SlotId, Topology, codec,
    trust::{
        Context, IssuerCertificate, IssuerKind, NodeCertificate, NodeCredential, NodeRole,
        SecretKey, Signed,
    },
};
use proptest::prelude::*;

use super::*;

const NOW: Millis = Millis(1_800_000_000_000);

struct Fleet {
    root: SecretKey,
    issuer: SecretKey,
}

impl Fleet {
    fn new() -> Fleet {
        Fleet {
            root: SecretKey::from_seed([1; 32]),
            issuer: SecretKey::from_seed([2; 32]),
        }
    }

    fn id(&self) -> FleetId {
        self.root.public().fleet()
    }

    fn credential(&self, key: &SecretKey, cluster: &str, roles: Vec<NodeRole>) -> NodeCredential {
        let issuer = IssuerCertificate {
            fleet: self.id(),
            kind: IssuerKind::Admission,
            key: self.issuer.public(),
        };
        let issuer = Signed::new(&self.root, Context::Issuer, codec::encode(&issuer));
        let certificate = NodeCertificate {
            fleet: self.id(),
            node: key.node(),
            name: NodeName("n".repeat(63)),
            topology: Topology {
                region: "r".repeat(63),
                datacenter: "d".repeat(63),
                cluster: cluster.into(),
                rack: "k".repeat(63),
            },
            roles,
            serial: u64::MAX,
            not_before: NOW,
            not_after: NOW + Millis::DAY,
        };
        NodeCredential::issue(self.root.public(), issuer, &self.issuer, &certificate)
    }

    fn sign(&self, slice: &Slice) -> SignedSlice {
        let key = SecretKey::from_seed([3; 32]);
        let roles = vec![NodeRole::Agent, NodeRole::VoterEligible];
        let credential = self.credential(&key, &slice.name.cluster, roles);
        SignedSlice::sign(slice, &key, credential).unwrap()
    }
}

fn name() -> ServiceName {
    ServiceName {
        cluster: "main".into(),
        namespace: "default".into(),
        service: "web".into(),
    }
}

fn endpoint(n: u32) -> Endpoint {
    Endpoint {
        slot: SlotId {
            job: JobName::in_default("web"),
            index: n,
        },
        node: NodeId([n as u8; 32]),
        address: IpAddr::from([10, 0, (n >> 8) as u8, n as u8]),
        port: 8_080,
        rack: "r1".into(),
        healthy: true,
        weight: 100,
    }
}

fn slice(counter: u64, endpoints: Vec<Endpoint>) -> Slice {
    Slice {
        fleet: Fleet::new().id(),
        name: name(),
        revision: Revision {
            epoch: Epoch(1),
            reign: Reign(7),
            counter,
        },
        published: NOW,
        expires: NOW + Millis::MINUTE,
        part: 0,
        parts: 1,
        endpoints,
    }
}

fn endpoints(n: u32) -> Vec<Endpoint> {
    (0..n).map(endpoint).collect()
}

#[test]
fn a_full_slice_fits_and_comes_back() {
    let fleet = Fleet::new();
    let whole = slice(1, endpoints(100));
    let bytes = fleet.sign(&whole).encode();
    assert!(bytes.len() <= SIGNED_SLICE_BYTES_MAX, "{}", bytes.len());
    let read = SignedSlice::decode(&bytes).unwrap();
    assert_eq!(read.verify(fleet.id(), NOW).unwrap(), whole);
}

#[test]
fn the_largest_names_fit_after_splitting() {
    let fleet = Fleet::new();
    let long = "x".repeat(63);
    let mut whole = slice(1, Vec::new());
    whole.name.cluster = long.clone();
    whole.name.namespace = long.clone();
    whole.name.service = long.clone();
    let large = |n: u32| {
        let mut endpoint = endpoint(n);
        endpoint.slot.job.namespace = long.clone();
        endpoint.slot.job.name = long.clone();
        endpoint.slot.index = u32::MAX - n;
        endpoint.address = IpAddr::from([0xffff; 8]);
        endpoint.port = u16::MAX;
        endpoint.rack = long.clone();
        endpoint.weight = u16::MAX;
        endpoint
    };
    whole.endpoints = (0..250).map(large).collect();
    let parts = split(whole.clone()).unwrap();
    let mut all = Vec::new();
    for (part, n) in parts.iter().zip(0..) {
        assert_eq!((part.part, usize::from(part.parts)), (n, parts.len()));
        let bytes = fleet.sign(part).encode();
        assert!(bytes.len() <= SIGNED_SLICE_BYTES_MAX, "{}", bytes.len());
        all.extend(part.endpoints.clone());
    }
    whole.endpoints.sort_unstable();
    assert_eq!(all, whole.endpoints);
    assert!(matches!(
        split(slice(1, vec![endpoint(1); 6_401])),
        Err(SliceError::Rule(_))
    ));
}

#[test]
fn who_may_not_lead_may_not_publish() {
    let fleet = Fleet::new();
    let key = SecretKey::from_seed([3; 32]);
    let voter = || vec![NodeRole::VoterEligible];
    let sign = |slice: &Slice, credential| SignedSlice::sign(slice, &key, credential).unwrap();
    let good = slice(1, endpoints(2));

    let agent = sign(&good, fleet.credential(&key, "main", vec![NodeRole::Agent]));
    assert!(matches!(
        agent.verify(fleet.id(), NOW),
        Err(SliceError::NotVoter(_))
    ));

    let elsewhere = sign(&good, fleet.credential(&key, "other", voter()));
    let refused = elsewhere.verify(fleet.id(), NOW);
    assert!(matches!(refused, Err(SliceError::OtherCluster { .. })));

    let someone = SecretKey::from_seed([4; 32]);
    let stolen = sign(&good, fleet.credential(&someone, "main", voter()));
    assert!(matches!(
        stolen.verify(fleet.id(), NOW),
        Err(SliceError::Signature(_))
    ));

    let signed = fleet.sign(&good);
    let other_fleet = FleetId([0; 32]);
    assert!(matches!(
        signed.verify(other_fleet, NOW),
        Err(SliceError::Signer(_))
    ));
    let after = NOW + Millis::DAY + Millis::DAY;
    assert!(signed.verify(fleet.id(), after).is_ok(), "within grace");
    let long_after = NOW + Millis(9 * Millis::DAY.0);
    assert!(matches!(
        signed.verify(fleet.id(), long_after),
        Err(SliceError::Signer(_))
    ));

    let mut foreign = good.clone();
    foreign.fleet = other_fleet;
    let foreign = fleet.sign(&foreign);
    assert!(matches!(
        foreign.verify(fleet.id(), NOW),
        Err(SliceError::OtherFleet(_))
    ));

    let mut future = good.clone();
    future.published = NOW + Millis::DAY;
    future.expires = future.published + Millis::MINUTE;
    let future = fleet.sign(&future);
    assert!(matches!(
        future.verify(fleet.id(), NOW),
        Err(SliceError::Rule(_))
    ));
}

#[test]
fn broken_rules_are_neither_signed_nor_accepted() {
    type Break = fn(&mut Slice);
    let breaks: [(&str, Break); 7] = [
        ("endpoints", |s| s.endpoints = endpoints(101)),
        ("part", |s| s.part = 1),
        ("parts", |s| s.parts = PARTS_MAX + 1),
        ("life", |s| s.expires = s.published),
        ("long life", |s| {
            s.expires = s.published + LIFE_MAX + Millis(1)
        }),
        ("name", |s| s.name.service = "a.b".into()),
        ("namespace", |s| {
            s.endpoints[0].slot.job.namespace = "other".into()
        }),
    ];
    let fleet = Fleet::new();
    let key = SecretKey::from_seed([3; 32]);
    for (what, break_it) in breaks {
        let mut bad = slice(1, endpoints(2));
        break_it(&mut bad);
        let credential = fleet.credential(&key, "main", vec![NodeRole::VoterEligible]);
        let signed = SignedSlice::sign(&bad, &key, credential);
        assert!(
            matches!(signed, Err(SliceError::Rule(_) | SliceError::Name(_))),
            "{what}"
        );
    }
}

#[test]
fn any_changed_byte_is_noticed() {
    let fleet = Fleet::new();
    let bytes = fleet.sign(&slice(1, endpoints(1))).encode();
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let verified = SignedSlice::decode(&changed).and_then(|s| s.verify(fleet.id(), NOW));
        assert!(verified.is_err(), "byte {place}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut store = SliceStore::new(Fleet::new().id());
        let put = SliceRequest::Put(bytes.clone().into());
        prop_assert!(matches!(store.answer(put, NOW), SliceResponse::Refused(_)));
        let _ = codec::decode::<SliceRequest>("request", &bytes, 16 << 10);
        let _ = codec::decode::<SliceResponse>("response", &bytes, 16 << 10);
    }

    #[test]
    fn the_highest_revision_stays_in_whatever_order_they_come(
        order in Just((0..6u64).collect::<Vec<_>>()).prop_shuffle(),
        repeats in prop::collection::vec(0..6usize, 0..4),
        twin_first in any::<bool>(),
    ) {
        let fleet = Fleet::new();
        let signed: Vec<SignedSlice> =
            (0..6).map(|n| fleet.sign(&slice(n, endpoints(n as u32)))).collect();
        let mut store = SliceStore::new(fleet.id());
        let mut cache = ServiceCache::default();
        let mut highest = None;
        let order = order.into_iter().map(|n| n as usize);
        for n in order.chain(repeats) {
            let value = signed[n].verify(fleet.id(), NOW).unwrap();
            let answer = store.store(&value, &signed[n], NOW);
            cache.insert(value, NOW);
            if highest.is_none_or(|highest| n >= highest) {
                prop_assert_eq!(answer, StoreAnswer::Stored);
                highest = Some(n);
            } else {
                let newer = signed[highest.unwrap()].encode();
                prop_assert_eq!(answer, StoreAnswer::Older(newer));
            }
            let seen = known(&mut cache, NOW).revision.counter;
            prop_assert_eq!(Some(seen as usize), highest);
        }
        prop_assert_eq!(store.get(slice(0, Vec::new()).key(), NOW).unwrap(), signed[5].encode());
        // Two of one revision are a publisher's fault: all holders keep the same.
        let twins = [slice(9, endpoints(1)), slice(9, endpoints(2))].map(|twin| fleet.sign(&twin));
        let mut kept = BTreeSet::new();
        for first in [usize::from(twin_first), usize::from(!twin_first)] {
            let mut store = SliceStore::new(fleet.id());
            for n in [first, 1 - first] {
                let value = twins[n].verify(fleet.id(), NOW).unwrap();
                store.store(&value, &twins[n], NOW);
            }
            kept.insert(store.get(slice(0, Vec::new()).key(), NOW).unwrap().to_vec());
        }
        prop_assert_eq!(kept.len(), 1);
    }
}

#[test]
fn a_full_table_refuses_new_keys_until_old_ones_end() {
    let fleet = Fleet::new();
    let mut store = SliceStore::with_limit(fleet.id(), 2);
    let mut put = |service: &str, counter, now: Millis| {
        let mut value = slice(counter, endpoints(1));
        value.name.service = service.into();
        store.store(&value, &fleet.sign(&value), now)
    };
    assert_eq!(put("a", 1, NOW), StoreAnswer::Stored);
    assert_eq!(put("b", 1, NOW), StoreAnswer::Stored);
    assert_eq!(put("c", 1, NOW), StoreAnswer::Full);
    assert_eq!(put("a", 2, NOW), StoreAnswer::Stored);
    let end = NOW + Millis::MINUTE + KEPT_PAST_END;
    assert_eq!(put("d", 1, end), StoreAnswer::Expired);
    assert!(store.get(slice(1, Vec::new()).key(), end).is_none());
    assert!(store.is_empty());
}

fn known(cache: &mut ServiceCache, now: Millis) -> Resolution {
    match cache.look(&name(), now) {
        CachedService::Known { resolution, .. } => resolution,
        other => panic!("{other:?}"),
    }
}

fn slots(resolution: &Resolution) -> Vec<u32> {
    let slot = |resolved: &ResolvedEndpoint| resolved.endpoint.slot.index;
    resolution.endpoints.iter().map(slot).collect()
}

#[test]
fn the_dead_are_left_out_unless_nobody_is_left() {
    let mut cache = ServiceCache::default();
    cache.insert(slice(1, endpoints(3)), NOW);
    let dead = |nodes: &[u8]| nodes.iter().map(|n| NodeId([*n; 32])).collect();
    cache.set_dead(dead(&[1]));
    assert_eq!(slots(&known(&mut cache, NOW)), [0, 2]);
    cache.set_dead(dead(&[0, 1, 2]));
    let all = known(&mut cache, NOW);
    assert_eq!(slots(&all), [0, 1, 2]);
    assert!(all.endpoints.iter().all(|resolved| resolved.suspect));
    cache.set_dead(dead(&[]));
    assert!(
        known(&mut cache, NOW)
            .endpoints
            .iter()
            .all(|resolved| !resolved.suspect)
    );
    // An unhealthy one that lives is no reason to leave the dead healthy out.
    let mut endpoints = endpoints(2);
    endpoints[0].healthy = false;
    cache.insert(slice(2, endpoints), NOW);
    cache.set_dead(dead(&[1]));
    let both = known(&mut cache, NOW);
    assert_eq!(
        both.healthy()
            .map(|r| r.endpoint.slot.index)
            .collect::<Vec<_>>(),
        [1]
    );
    // That nobody serves is knowledge, not suspicion.
    cache.insert(slice(3, Vec::new()), NOW);
    assert!(known(&mut cache, NOW).endpoints.is_empty());
}

#[test]
fn an_answer_ages_goes_stale_and_is_forgotten() {
    let mut cache = ServiceCache::default();
    cache.insert(slice(1, endpoints(1)), NOW);
    let at = |cache: &mut ServiceCache, ms| match cache.look(&name(), NOW + Millis(ms)) {
        CachedService::Known { resolution, ageing } => Some((resolution.stale, ageing)),
        CachedService::Absent | CachedService::Unknown => None,
    };
    assert_eq!(at(&mut cache, 1_000), Some((false, false)));
    assert_eq!(at(&mut cache, 31_000), Some((false, true)));
    assert_eq!(at(&mut cache, 61_000), Some((true, true)));
    assert_eq!(
        at(&mut cache, 60_000 + KEPT_PAST_END.0 - 1),
        Some((true, true))
    );
    assert_eq!(at(&mut cache, 60_000 + KEPT_PAST_END.0), None);
    assert!(cache.is_empty());
}

#[test]
fn absence_is_believed_for_a_second_and_tables_are_bounded() {
    let mut cache = ServiceCache::with_limit(3);
    cache.insert_absent(name(), NOW);
    assert_eq!(cache.look(&name(), NOW), CachedService::Absent);
    assert_eq!(
        cache.look(&name(), NOW + ABSENT_FOR),
        CachedService::Unknown
    );
    cache.insert_absent(name(), NOW);
    cache.insert(slice(1, endpoints(1)), NOW);
    known(&mut cache, NOW);
    for n in 0..10 {
        let mut value = slice(1, endpoints(1));
        value.name.service = format!("s{n}");
        cache.insert(value, NOW + Millis(1 + n));
        // Asked for each time, so the others go.
        known(&mut cache, NOW + Millis(1 + n));
    }
    assert_eq!(cache.len(), 3);
}

#[test]
fn parts_make_one_answer() {
    let mut cache = ServiceCache::default();
    let whole = slice(1, (0..250).map(endpoint).collect());
    let parts = split(whole).unwrap();
    assert_eq!(parts.len(), 3);
    cache.insert(parts[1].clone(), NOW);
    assert!(known(&mut cache, NOW).stale);
    assert_eq!(cache.parts(&name()), 3);
    for part in &parts {
        cache.insert(part.clone(), NOW);
    }
    let all = known(&mut cache, NOW);
    assert!(!all.stale);
    assert_eq!(all.endpoints.len(), 250);
    cache.insert(slice(2, endpoints(5)), NOW);
    assert_eq!(known(&mut cache, NOW).endpoints.len(), 5);
}

/// Holders in memory.
struct Dht {
    holders: BTreeMap<NodeId, Mutex<SliceStore>>,
    down: Mutex<BTreeSet<NodeId>>,
    requests: AtomicUsize,
    now: Arc<AtomicU64>,
}

impl Dht {
    fn new(count: u8, now: &Arc<AtomicU64>) -> Arc<Dht> {
        let store = || Mutex::new(SliceStore::new(Fleet::new().id()));
        Arc::new(Dht {
            holders: (0..count).map(|n| (NodeId([n; 32]), store())).collect(),
            down: Mutex::default(),
            requests: AtomicUsize::new(0),
            now: Arc::clone(now),
        })
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn all_down(&self) {
        self.down.lock().unwrap().extend(self.holders.keys());
    }
}

#[async_trait]
impl SliceLookup for Dht {
    async fn closest(&self, key: SliceKey) -> Vec<NodeId> {
        let distance = |node: &NodeId| {
            let hash = blake3::hash(&node.0);
            std::array::from_fn::<u8, 32, _>(|n| hash.as_bytes()[n] ^ key.0[n])
        };
        let mut nodes: Vec<NodeId> = self.holders.keys().copied().collect();
        nodes.sort_by_key(distance);
        nodes
    }

    async fn ask(&self, to: NodeId, request: SliceRequest) -> Result<SliceResponse, LookupError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        if self.down.lock().unwrap().contains(&to) {
            return Err(LookupError::Unreachable("down".into()));
        }
        let request = codec::decode("request", &codec::encode(&request), 16 << 10).unwrap();
        let now = Millis(self.now.load(Ordering::SeqCst));
        let response = self.holders[&to].lock().unwrap().answer(request, now);
        Ok(codec::decode("response", &codec::encode(&response), 16 << 10).unwrap())
    }
}

fn clock() -> (Arc<AtomicU64>, Clock) {
    let now = Arc::new(AtomicU64::new(NOW.0));
    let read = Arc::clone(&now);
    (now, Arc::new(move || Millis(read.load(Ordering::SeqCst))))
}

fn resolver(dht: &Arc<Dht>, clock: &Clock) -> Resolver {
    Resolver::new(Fleet::new().id(), dht.clone(), clock.clone())
}

#[tokio::test]
async fn a_published_service_is_found_and_then_known() {
    let (now, clock) = clock();
    let dht = Dht::new(30, &now);
    let fleet = Fleet::new();
    let report = resolver(&dht, &clock)
        .publish(&fleet.sign(&slice(1, endpoints(3))))
        .await
        .unwrap();
    assert_eq!(
        (report.asked, report.stored, report.newer),
        (HOLDERS_MAX, HOLDERS_MAX, None)
    );
    let reader = resolver(&dht, &clock);
    let before = dht.requests();
    let many = futures::future::join_all((0..50).map(|_| async { reader.resolve(&name()).await }));
    for resolved in many.await {
        let resolved = resolved.unwrap();
        assert_eq!(resolved.resolution.endpoints.len(), 3);
    }
    assert_eq!(
        dht.requests() - before,
        3,
        "one of fifty asks three holders"
    );
    let again = reader.resolve(&name()).await.unwrap();
    assert_eq!((again.source, again.asked), (Source::Cache, 0));
    assert_eq!(dht.requests() - before, 3);
}

#[tokio::test]
async fn holders_that_are_down_or_behind_do_not_hide_a_service() {
    let (now, clock) = clock();
    let dht = Dht::new(30, &now);
    let fleet = Fleet::new();
    let publisher = resolver(&dht, &clock);
    publisher
        .publish(&fleet.sign(&slice(1, endpoints(1))))
        .await
        .unwrap();
    let key = slice(1, Vec::new()).key();
    let nearest = dht.closest(key).await;
    // The second nearest misses the second publication, the four nearest but
    // it are down when it is read.
    dht.down.lock().unwrap().insert(nearest[1]);
    publisher
        .publish(&fleet.sign(&slice(2, endpoints(2))))
        .await
        .unwrap();
    *dht.down.lock().unwrap() = [nearest[0], nearest[2], nearest[3]].into();
    let resolved = resolver(&dht, &clock).resolve(&name()).await.unwrap();
    assert_eq!(
        resolved.resolution.revision.counter, 1,
        "an old answer beats none"
    );
    *dht.down.lock().unwrap() = [nearest[0]].into();
    let resolved = resolver(&dht, &clock).resolve(&name()).await.unwrap();
    assert_eq!(resolved.resolution.revision.counter, 2);
    *dht.down.lock().unwrap() = nearest[..5].iter().copied().collect();
    let resolved = resolver(&dht, &clock).resolve(&name()).await.unwrap();
    assert_eq!(resolved.resolution.revision.counter, 2);
    assert!(resolved.asked > 3);
}

#[tokio::test]
async fn a_replaced_publisher_hears_of_its_successor() {
    let (now, clock) = clock();
    let dht = Dht::new(25, &now);
    let fleet = Fleet::new();
    let successor = resolver(&dht, &clock);
    successor
        .publish(&fleet.sign(&slice(9, endpoints(2))))
        .await
        .unwrap();
    let old = resolver(&dht, &clock);
    let report = old
        .publish(&fleet.sign(&slice(8, endpoints(1))))
        .await
        .unwrap();
    assert_eq!(report.stored, 0);
    assert_eq!(report.newer.map(|revision| revision.counter), Some(9));
    assert_eq!(old.known(&name()).unwrap().revision.counter, 9);
}

#[tokio::test]
async fn without_holders_an_old_answer_is_given_and_flagged() {
    let (now, clock) = clock();
    let dht = Dht::new(25, &now);
    let reader = resolver(&dht, &clock);
    reader
        .publish(&Fleet::new().sign(&slice(1, endpoints(2))))
        .await
        .unwrap();
    dht.all_down();
    now.store(NOW.0 + 61_000, Ordering::SeqCst);
    let stale = reader.resolve(&name()).await.unwrap();
    assert!(stale.resolution.stale);
    assert_eq!(
        (stale.source, stale.resolution.endpoints.len()),
        (Source::Cache, 2)
    );
    // Within the second it is not asked for again.
    let before = dht.requests();
    reader.resolve(&name()).await.unwrap();
    assert_eq!(dht.requests(), before);
    // Back up, with a newer one.
    dht.down.lock().unwrap().clear();
    let mut newer = slice(2, endpoints(3));
    newer.published = NOW + Millis(61_000);
    newer.expires = newer.published + Millis::MINUTE;
    resolver(&dht, &clock)
        .publish(&Fleet::new().sign(&newer))
        .await
        .unwrap();
    now.store(NOW.0 + 63_000, Ordering::SeqCst);
    let fresh = reader.resolve(&name()).await.unwrap();
    assert_eq!((fresh.resolution.stale, fresh.source), (false, Source::Dht));
    assert_eq!(fresh.resolution.revision.counter, 2);
}

#[tokio::test]
async fn an_ageing_answer_is_renewed_behind_the_reader() {
    let (now, clock) = clock();
    let dht = Dht::new(25, &now);
    let reader = resolver(&dht, &clock);
    reader
        .publish(&Fleet::new().sign(&slice(1, endpoints(2))))
        .await
        .unwrap();
    let mut newer = slice(2, endpoints(3));
    newer.published = NOW + Millis(20_000);
    newer.expires = newer.published + Millis::MINUTE;
    now.store(NOW.0 + 31_000, Ordering::SeqCst);
    resolver(&dht, &clock)
        .publish(&Fleet::new().sign(&newer))
        .await
        .unwrap();
    let cached = reader.resolve(&name()).await.unwrap();
    assert_eq!(
        (cached.source, cached.resolution.revision.counter),
        (Source::Cache, 1)
    );
    let limit = tokio::time::Instant::now() + Duration::from_secs(5);
    while reader.known(&name()).unwrap().revision.counter != 2 {
        assert!(tokio::time::Instant::now() < limit, "it is not renewed");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn unknown_and_unanswered_are_told_apart() {
    let (now, clock) = clock();
    let dht = Dht::new(25, &now);
    let reader = resolver(&dht, &clock);
    let unknown = reader.resolve(&name()).await;
    assert_eq!(unknown, Err(ResolveError::Unknown(name())));
    let before = dht.requests();
    assert_eq!(reader.resolve(&name()).await, unknown);
    assert_eq!(dht.requests(), before, "believed for a second");
    dht.all_down();
    now.store(NOW.0 + 2_000, Ordering::SeqCst);
    let asked = HOLDERS_MAX;
    let silent = reader.resolve(&name()).await;
    assert_eq!(
        silent,
        Err(ResolveError::NoAnswer {
            name: name(),
            asked
        })
    );
}

#[tokio::test]
async fn a_service_of_many_parts_is_found_whole() {
    let (now, clock) = clock();
    let dht = Dht::new(25, &now);
    let publisher = resolver(&dht, &clock);
    for part in split(slice(1, (0..250).map(endpoint).collect())).unwrap() {
        publisher.publish(&Fleet::new().sign(&part)).await.unwrap();
    }
    let found = resolver(&dht, &clock).resolve(&name()).await.unwrap();
    assert_eq!(found.resolution.endpoints.len(), 250);
    assert!(!found.resolution.stale);
}

#[tokio::test]
async fn a_holder_that_gives_another_services_slice_is_not_believed() {
    let (now, clock) = clock();
    let dht = Dht::new(3, &now);
    let fleet = Fleet::new();
    let mut other = slice(5, endpoints(1));
    other.name.service = "other".into();
    let reader = resolver(&dht, &clock);
    let taken = Lying(fleet.sign(&other).encode());
    let liar = Resolver::new(fleet.id(), Arc::new(taken), clock.clone());
    assert_eq!(
        liar.resolve(&name()).await,
        Err(ResolveError::Unknown(name()))
    );
    assert!(reader.learn(&fleet.sign(&slice(1, endpoints(1)))).unwrap());
    assert!(!reader.learn(&fleet.sign(&slice(1, endpoints(1)))).unwrap());
    reader.set_dead([NodeId([0; 32])].into());
    assert!(reader.known(&name()).unwrap().endpoints[0].suspect);
}

/// Gives the same bytes for every key.
struct Lying(Vec<u8>);

#[async_trait]
impl SliceLookup for Lying {
    async fn closest(&self, _: SliceKey) -> Vec<NodeId> {
        vec![NodeId([1; 32])]
    }

    async fn ask(&self, _: NodeId, _: SliceRequest) -> Result<SliceResponse, LookupError> {
        Ok(SliceResponse::Found(Some(self.0.clone().into())))
    }
}
