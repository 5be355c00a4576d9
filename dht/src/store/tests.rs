//! The store: hashes are kept, damage is found, clean-ups spare what is needed.

use super::*;
use potluck_specs::package::{FileEntry, FileNode};

fn hash(bytes: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(bytes).as_bytes())
}

fn one_file(name: &str, pieces: &[&[u8]]) -> Manifest {
    let chunk = |piece: &&[u8]| Chunk {
        hash: hash(piece),
        bytes: piece.len() as u32,
    };
    Manifest {
        files: vec![FileEntry {
            path: name.into(),
            node: FileNode::File {
                executable: false,
                chunks: pieces.iter().map(chunk).collect(),
            },
        }],
    }
}

fn add(store: &ChunkStore, name: &str, pieces: &[&[u8]]) -> PackageId {
    for piece in pieces {
        store.put(hash(piece), piece).unwrap();
    }
    let (id, bytes) = one_file(name, pieces).encode();
    store.put_manifest(id, &bytes).unwrap();
    id
}

fn files_below(folder: &Path) -> usize {
    let entries = list(folder).unwrap().into_iter();
    entries
        .map(|(_, path)| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}

#[test]
fn only_the_bytes_of_the_hash_are_taken() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let refused = store.put(hash(b"a"), b"b");
    assert!(matches!(refused, Err(PutError::Mismatch(h)) if h == hash(b"a")));
    let other = PackedChunk(zstd::bulk::compress(b"b", 1).unwrap());
    assert!(store.put_packed(hash(b"a"), &other).is_err());
    assert!(!store.has(hash(b"a")));
    assert_eq!(files_below(folder.path()), 0);
}

#[test]
fn a_bomb_is_refused_within_bounds() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let large = vec![0; 64 << 20];
    let bomb = PackedChunk(zstd::bulk::compress(&large, 1).unwrap());
    assert!(bomb.0.len() < PACKED_BYTES_MAX);
    assert!(store.put_packed(hash(&large), &bomb).is_err());
}

#[test]
fn chunks_and_their_count_survive_a_restart() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let id = add(&store, "a", &[b"one", b"two", b"one"]);
    store.put(hash(b"one"), b"one").unwrap();
    let bytes = store.total_bytes();
    assert!(bytes > 0);
    let store = ChunkStore::open(folder.path()).unwrap();
    assert_eq!(store.total_bytes(), bytes);
    assert_eq!(store.get(hash(b"two")).unwrap(), b"two");
    assert!(store.complete(id));
    assert_eq!(store.packages().unwrap(), [id]);
    store.sync(id, &store.manifest(id).unwrap()).unwrap();
}

#[test]
fn damage_on_the_disk_is_found_and_counts_as_missing() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let id = add(&store, "a", &[b"one"]);
    fs::write(store.chunk_path(hash(b"one")), b"torn").unwrap();
    assert!(matches!(store.get(hash(b"one")), Err(GetError::Damaged(_))));
    assert!(matches!(store.get(hash(b"one")), Err(GetError::Missing(_))));
    let manifest = store.manifest(id).unwrap();
    assert_eq!(store.missing(&manifest).len(), 1);
    fs::write(store.manifest_path(id), b"torn").unwrap();
    assert!(matches!(
        store.manifest(id),
        Err(ManifestStoreError::Missing(_))
    ));
    assert!(store.packages().unwrap().is_empty());
}

#[test]
fn what_an_earlier_process_left_is_removed() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let leaving = folder.path().join("tmp/1x1-0");
    fs::write(&leaving, b"half").unwrap();
    let build = store.0.trees.join(".build-1x1-0");
    fs::create_dir(&build).unwrap();
    let old_boot = folder.path().join("trees/an-earlier-boot");
    fs::create_dir(&old_boot).unwrap();
    let ours = folder.path().join("tmp").join(files::unique_name());
    fs::write(&ours, b"half").unwrap();
    ChunkStore::open(folder.path()).unwrap();
    assert!(!leaving.exists() && !build.exists() && !old_boot.exists());
    assert!(ours.exists());
}

#[test]
fn pins_hold_and_the_longest_unused_goes_first() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let used_at = |id, seconds| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let times = fs::FileTimes::new().set_modified(time);
        fs::File::open(store.manifest_path(id))
            .unwrap()
            .set_times(times)
            .unwrap();
    };
    let pinned = add(&store, "pinned", &[b"shared", b"pinned"]);
    let old = add(&store, "old", &[b"shared", b"old"]);
    let new = add(&store, "new", &[b"new"]);
    for (id, seconds) in [(pinned, 1), (old, 2), (new, 3)] {
        used_at(id, seconds);
    }
    let keep = store.total_bytes() - 1;
    let removed = store
        .remove_unpinned(&[pinned].into(), keep, ORPHAN_GRACE)
        .unwrap();
    assert_eq!(removed.packages, [old]);
    assert_eq!(removed.chunks, 1);
    assert!(store.complete(pinned) && store.complete(new) && !store.has(hash(b"old")));
    let removed = store
        .remove_unpinned(&[pinned].into(), 0, ORPHAN_GRACE)
        .unwrap();
    assert_eq!(removed.packages, [new]);
    assert!(store.complete(pinned));
}

#[test]
fn chunks_of_an_upload_are_kept_for_a_while() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    store.put(hash(b"early"), b"early").unwrap();
    let none = BTreeSet::new();
    store
        .remove_unpinned(&none, u64::MAX, ORPHAN_GRACE)
        .unwrap();
    assert!(store.has(hash(b"early")));
    let removed = store
        .remove_unpinned(&none, u64::MAX, Duration::ZERO)
        .unwrap();
    assert_eq!(removed.chunks, 1);
    assert_eq!(store.total_bytes(), 0);
}

#[test]
fn a_disk_that_refuses_leaves_no_torn_file() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    // A file where the chunk's folder should be fails the rename, after the
    // bytes were written beside.
    let name = hash(b"x").to_hex();
    fs::write(folder.path().join("chunks").join(&name[..2]), b"in the way").unwrap();
    let refused = store.put(hash(b"x"), b"x");
    assert!(
        matches!(refused, Err(PutError::Store(StoreError::Io { .. }))),
        "{refused:?}"
    );
    assert!(list(&folder.path().join("tmp")).unwrap().is_empty());
    assert_eq!(store.total_bytes(), 0);
}

#[test]
fn a_full_disk_is_told_apart() {
    // Writing to this device gives ENOSPC, on every Linux.
    let error = fs::write("/dev/full", b"x").unwrap_err();
    let error = at(Path::new("chunks/ab/x"))(error);
    assert!(matches!(error, StoreError::DiskFull { .. }));
    assert_eq!(
        error.to_string(),
        "no space left on the disk for chunks/ab/x"
    );
}

#[test]
fn many_writers_of_one_chunk_count_it_once() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let bytes = vec![7; 100_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.put(hash(&bytes), &bytes).unwrap());
        }
    });
    let counted = store.total_bytes();
    assert_eq!(
        ChunkStore::open(folder.path()).unwrap().total_bytes(),
        counted
    );
}
