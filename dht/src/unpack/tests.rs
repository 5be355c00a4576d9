//! Unpacking: what was packed comes back, whatever its shape.

use super::*;
use crate::{pack::pack, store::distinct_chunks};
use potluck_specs::package::FileEntry;
use proptest::prelude::*;
use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Thing {
    Folder,
    File(Vec<u8>, bool),
    Link(String),
}

type Tree = BTreeMap<String, Thing>;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}",
        Just("ü €".to_owned()),
        Just("-rf".to_owned()),
        Just(" ".to_owned()),
        Just("new\nline".to_owned()),
        Just("...".to_owned()),
        "[a-z]{255}",
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let bytes = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 1..300),
        (any::<u8>(), 60_000..2_500_000usize).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let target = prop_oneof![
        "[a-z./]{1,20}",
        Just("/etc/passwd".into()),
        Just("../../..".into())
    ];
    prop_oneof![
        1 => Just(Thing::Folder),
        3 => (bytes, any::<bool>()).prop_map(|(bytes, x)| Thing::File(bytes, x)),
        1 => target.prop_map(Thing::Link),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    let path = prop::collection::vec(name(), 1..5).prop_map(|parts| parts.join("/"));
    prop::collection::btree_map(path, thing(), 0..12).prop_map(|mut things| {
        // What lies below a file or a link can't be; what lies above is a folder.
        let paths: Vec<String> = things.keys().cloned().collect();
        for path in &paths {
            for (end, _) in path.match_indices('/') {
                things.insert(path[..end].to_owned(), Thing::Folder);
            }
        }
        things
    })
}

fn make(root: &Path, tree: &Tree) {
    for (path, thing) in tree {
        let path = root.join(path);
        match thing {
            Thing::Folder => fs::create_dir(&path).unwrap(),
            Thing::Link(target) => symlink(target, &path).unwrap(),
            Thing::File(bytes, executable) => {
                fs::write(&path, bytes).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// Reads a tree back and checks every mode on the way.
fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o555);
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let thing = if meta.is_dir() {
                folders.push(path);
                Thing::Folder
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                Thing::Link(target.to_str().unwrap().to_owned())
            } else {
                let executable = meta.mode() & 0o111 != 0;
                let mode = if executable { 0o555 } else { 0o444 };
                assert_eq!(meta.mode() & 0o7777, mode);
                Thing::File(fs::read(&path).unwrap(), executable)
            };
            tree.insert(name, thing);
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_packed_comes_back(tree in tree()) {
        let (files, folder) = (crate::scratch::folder(), crate::scratch::folder());
        make(files.path(), &tree);
        let store = ChunkStore::open(folder.path()).unwrap();
        let (id, manifest) = pack(&store, files.path()).unwrap();
        prop_assert_eq!(&store.manifest(id).unwrap(), &manifest);
        let place = unpack(&store, id).unwrap();
        prop_assert_eq!(read(&place), tree);
        prop_assert_eq!(unpack(&store, id).unwrap(), place);
        // The tree packs to itself, read-only as it is.
        let (again, _) = pack(&store, &store.tree(id).unwrap()).unwrap();
        prop_assert_eq!(again, id);
        store.remove_tree(id).unwrap();
        prop_assert!(store.tree(id).is_none());
    }
}

#[test]
fn equal_contents_are_stored_once() {
    let (files, folder) = (crate::scratch::folder(), crate::scratch::folder());
    for name in ["a", "b", "c"] {
        fs::write(files.path().join(name), vec![1; 3_000_000]).unwrap();
    }
    let store = ChunkStore::open(folder.path()).unwrap();
    let (_, manifest) = pack(&store, files.path()).unwrap();
    assert!(manifest.chunks().count() >= 9);
    assert!(distinct_chunks(&manifest).len() <= 2);
    assert!(store.total_bytes() < 10_000);
}

#[test]
fn two_at_once_give_one_tree() {
    let (files, folder) = (crate::scratch::folder(), crate::scratch::folder());
    fs::create_dir(files.path().join("d")).unwrap();
    fs::write(files.path().join("d/f"), vec![1; 300_000]).unwrap();
    let store = ChunkStore::open(folder.path()).unwrap();
    let (id, _) = pack(&store, files.path()).unwrap();
    let places: BTreeSet<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| unpack(&store, id).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(places.len(), 1);
    let trees = store.tree_path(id).parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(trees).unwrap().count(), 1);
    store.remove_tree(id).unwrap();
}

#[test]
fn a_missing_chunk_leaves_nothing_behind() {
    let (files, folder) = (crate::scratch::folder(), crate::scratch::folder());
    fs::create_dir(files.path().join("d")).unwrap();
    fs::write(files.path().join("d/f"), b"bytes").unwrap();
    let store = ChunkStore::open(folder.path()).unwrap();
    let (id, bytes) = crate::pack::scan(files.path())
        .map(|scan| (scan.id, scan.manifest_bytes))
        .unwrap();
    store.put_manifest(id, &bytes).unwrap();
    let refused = unpack(&store, id);
    assert!(matches!(
        refused,
        Err(UnpackError::Chunk {
            source: GetError::Missing(_),
            ..
        })
    ));
    let trees = store.tree_path(id).parent().unwrap().to_owned();
    assert_eq!(fs::read_dir(trees).unwrap().count(), 0);
}

#[test]
fn a_manifest_that_lies_about_sizes_is_found_out() {
    let folder = crate::scratch::folder();
    let store = ChunkStore::open(folder.path()).unwrap();
    let hash = ChunkHash(*blake3::hash(b"bytes").as_bytes());
    store.put(hash, b"bytes").unwrap();
    let chunks = vec![Chunk { hash, bytes: 4 }];
    let node = FileNode::File {
        executable: false,
        chunks,
    };
    let manifest = Manifest {
        files: vec![FileEntry {
            path: "f".into(),
            node,
        }],
    };
    let (id, bytes) = manifest.encode();
    store.put_manifest(id, &bytes).unwrap();
    assert!(matches!(unpack(&store, id), Err(UnpackError::Size { .. })));
}

#[test]
fn nothing_is_written_through_a_link() {
    let (outside, folder) = (crate::scratch::folder(), crate::scratch::folder());
    let store = ChunkStore::open(folder.path()).unwrap();
    let link = FileNode::Link {
        target: outside.path().to_str().unwrap().into(),
    };
    let file = FileNode::File {
        executable: false,
        chunks: Vec::new(),
    };
    let entry = |path: &str, node: &FileNode| FileEntry {
        path: path.into(),
        node: node.clone(),
    };
    let manifest = Manifest {
        files: vec![entry("l", &link), entry("l/f", &file)],
    };
    let (id, bytes) = manifest.encode();
    assert!(store.put_manifest(id, &bytes).is_err());
    // Even if the manifest's check were to miss it.
    let build = Build::new(&store).unwrap();
    assert!(build.write(&store, &manifest).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
