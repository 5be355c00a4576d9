//! Many who want the same package at once.

use super::*;
use crate::exchange::{
    Asking,
    test_world::{Conduct, World, files, patient, quick},
};
use crate::scratch::Scratch;
use futures::future::join_all;
use std::time::Duration;

struct Setup {
    packages: Packages,
    world: Arc<Asking<World>>,
    id: PackageId,
    manifest: Manifest,
    peers: Vec<PeerHint>,
    _folder: Scratch,
}

fn setup(conducts: &[Conduct], limits: Limits) -> Setup {
    let (mut world, files, folder) = (World::default(), files(3 << 20), crate::scratch::folder());
    let mut packed = None;
    for conduct in conducts {
        let (_, store) = world.add(*conduct);
        packed = Some(pack::pack(&store, files.path()).unwrap());
    }
    let (id, manifest) = packed.expect("there is a peer");
    let peers = world.hints();
    let world = Arc::new(Asking(world));
    let store = ChunkStore::open(folder.path()).unwrap();
    Setup {
        packages: Packages::new(store, world.clone(), limits),
        world,
        id,
        manifest,
        peers,
        _folder: folder,
    }
}

#[tokio::test]
async fn however_many_ask_it_is_fetched_once() {
    let setup = setup(&[Conduct::Honest, Conduct::Honest], patient());
    let asks = (0..20).map(|n| {
        let peers = setup.peers.clone();
        let packages = setup.packages.clone();
        async move {
            match n % 2 {
                0 => packages.ensure(setup.id, peers).await.map(Some),
                _ => packages.fetch(setup.id, peers).await.map(|_| None),
            }
        }
    });
    let trees: BTreeSet<PathBuf> = join_all(asks)
        .await
        .into_iter()
        .filter_map(Result::unwrap)
        .collect();
    assert_eq!(trees.len(), 1);
    assert!(
        setup
            .world
            .0
            .times_asked()
            .values()
            .all(|times| *times == 1)
    );
    let report = setup.packages.report(setup.id).await.unwrap();
    assert_eq!(report.bytes(), setup.manifest.total_bytes());
    assert_eq!(setup.packages.missing_bytes(setup.id).await, Some(0));
    setup.packages.store().remove_tree(setup.id).unwrap();
}

#[tokio::test]
async fn damage_that_unpacking_finds_is_fetched_again() {
    let setup = setup(&[Conduct::Honest], patient());
    setup
        .packages
        .hold(setup.id, setup.peers.clone())
        .await
        .unwrap();
    let hash = setup.manifest.chunks().next().unwrap().hash.to_hex();
    let store = setup.packages.store();
    let path = store.root().join("chunks").join(&hash[..2]).join(&hash);
    std::fs::write(path, b"torn").unwrap();
    setup
        .packages
        .ensure(setup.id, setup.peers.clone())
        .await
        .unwrap();
    let twice = setup
        .world
        .0
        .times_asked()
        .values()
        .filter(|times| **times == 2)
        .count();
    assert_eq!(twice, 1);
    store.remove_tree(setup.id).unwrap();
}

#[tokio::test]
async fn peers_named_later_help_a_fetch_that_runs() {
    let setup = setup(&[Conduct::Stalls, Conduct::Honest], quick());
    let [stalls, honest] = setup.peers[..] else {
        panic!("two peers")
    };
    let first = setup.packages.ensure(setup.id, vec![stalls]);
    let second = async {
        let limit = tokio::time::Instant::now() + Duration::from_secs(5);
        while setup.world.0.asked.lock().unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < limit, "nothing is asked for");
            tokio::task::yield_now().await;
        }
        setup.packages.ensure(setup.id, vec![honest]).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap(), second.unwrap());
    setup.packages.store().remove_tree(setup.id).unwrap();
}

#[tokio::test]
async fn failing_is_told_to_all() {
    let setup = setup(&[Conduct::Silent], quick());
    let both = (0..2).map(|_| setup.packages.ensure(setup.id, setup.peers.clone()));
    for result in join_all(both).await {
        let error = result.unwrap_err();
        assert!(matches!(
            *error,
            EnsureError::Fetch(FetchError::NoManifest { .. })
        ));
    }
}

#[tokio::test]
async fn what_failed_may_be_tried_again() {
    let setup = setup(&[Conduct::FailsFirst(1)], patient());
    setup
        .packages
        .ensure(setup.id, setup.peers.clone())
        .await
        .unwrap_err();
    setup
        .packages
        .ensure(setup.id, setup.peers.clone())
        .await
        .unwrap();
}

#[tokio::test]
async fn cleaning_up_spares_what_is_being_fetched() {
    let setup = setup(&[Conduct::Stalls], patient());
    let fetching = setup.packages.fetch(setup.id, setup.peers.clone());
    let cleaning = async {
        let limit = tokio::time::Instant::now() + Duration::from_secs(5);
        while setup.packages.store().manifest(setup.id).is_err() {
            assert!(tokio::time::Instant::now() < limit, "no manifest came");
            tokio::task::yield_now().await;
        }
        setup
            .packages
            .remove_unpinned(BTreeSet::new(), 0)
            .await
            .unwrap()
    };
    tokio::select! {
        biased;
        removed = cleaning => assert_eq!(removed.packages, []),
        fetched = fetching => panic!("{fetched:?}"),
    }
    let store = setup.packages.store();
    let other = files(1 << 20);
    let (idle, _) = pack::pack(store, other.path()).unwrap();
    let removed = setup
        .packages
        .remove_unpinned(BTreeSet::new(), 0)
        .await
        .unwrap();
    assert!(removed.packages.contains(&idle));
}

#[tokio::test]
async fn an_upload_sends_only_what_is_missing() {
    let setup = setup(&[Conduct::Honest], patient());
    let packages = &setup.packages;
    let files = files(2 << 20);
    let scan = pack::scan(files.path()).unwrap();
    let missing = packages
        .begin_upload(scan.id, scan.manifest_bytes.clone())
        .await
        .unwrap();
    assert_eq!(missing.len(), scan.manifest.chunks().count());
    let (first, rest) = missing.split_first().unwrap();
    for chunk in rest {
        let bytes = scan.read(chunk.hash).unwrap().unwrap();
        packages.put_chunk(chunk.hash, bytes).await.unwrap();
    }
    assert_eq!(packages.end_upload(scan.id).await.unwrap(), [*first]);
    assert!(!packages.complete(scan.id).await);
    assert!(
        packages
            .put_chunk(first.hash, b"other".to_vec())
            .await
            .is_err()
    );
    let bytes = scan.read(first.hash).unwrap().unwrap();
    packages.put_chunk(first.hash, bytes).await.unwrap();
    assert_eq!(packages.end_upload(scan.id).await.unwrap(), []);
    assert!(packages.complete(scan.id).await);
    // A second package of the same bytes has nothing to send.
    let again = packages
        .begin_upload(scan.id, scan.manifest_bytes.clone())
        .await
        .unwrap();
    assert_eq!(again, []);
}
