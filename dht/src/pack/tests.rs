//! Packing: the same tree gives the same id, and odd trees are refused.

use super::*;
use std::os::unix::fs::symlink;

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_be_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn order_times_and_modes_do_not_matter() {
    let (a, b) = (crate::scratch::folder(), crate::scratch::folder());
    for (root, order) in [(a.path(), [0, 1, 2]), (b.path(), [2, 1, 0])] {
        fs::create_dir(root.join("d")).unwrap();
        for n in order {
            fs::write(root.join(format!("d/{n}")), noise(n, 100)).unwrap();
        }
    }
    fs::set_permissions(b.path().join("d/1"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(scan(a.path()).unwrap().id, scan(b.path()).unwrap().id);
    fs::set_permissions(b.path().join("d/1"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_ne!(scan(a.path()).unwrap().id, scan(b.path()).unwrap().id);
}

#[test]
fn the_id_of_a_known_tree_never_changes() {
    let folder = crate::scratch::folder();
    fs::write(folder.path().join("data"), noise(1, 2_000_000)).unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    symlink("data", folder.path().join("link")).unwrap();
    let scan = scan(folder.path()).unwrap();
    assert_eq!(
        scan.id.to_hex(),
        "798dc16d4ce6b06b78666592f4a814e8cc134e8e4fe794a7db28f440ba0b0932"
    );
    assert_eq!(scan.manifest.total_bytes(), 2_000_000);
}

#[test]
fn an_insertion_changes_few_chunks() {
    let folder = crate::scratch::folder();
    let path = folder.path().join("binary");
    let mut bytes = noise(2, 8 << 20);
    fs::write(&path, &bytes).unwrap();
    let before = scan(&path).unwrap();
    bytes.splice(3_000_000..3_000_000, *b"inserted");
    fs::write(&path, &bytes).unwrap();
    let after = scan(&path).unwrap();
    let old: Vec<Chunk> = before.manifest.chunks().collect();
    let new = after
        .manifest
        .chunks()
        .filter(|chunk| !old.contains(chunk))
        .count();
    assert!(old.len() > 10 && new <= 3, "{new} new of {}", old.len());
    for chunk in &old {
        assert!(chunk.bytes <= CHUNK_BYTES_MAX);
    }
}

#[test]
fn a_scan_gives_its_chunks_and_notices_changes() {
    let folder = crate::scratch::folder();
    let path = folder.path().join("file");
    fs::write(&path, noise(3, 1_500_000)).unwrap();
    let scan = scan(&path).unwrap();
    assert_eq!(scan.manifest.files[0].path, "file");
    for chunk in scan.manifest.chunks() {
        let bytes = scan.read(chunk.hash).unwrap().unwrap();
        assert_eq!(bytes.len(), chunk.bytes as usize);
    }
    assert!(scan.read(ChunkHash([0; 32])).unwrap().is_none());
    fs::write(&path, noise(4, 1_500_000)).unwrap();
    let first = scan.manifest.chunks().next().unwrap();
    assert!(matches!(scan.read(first.hash), Err(PackError::Changed(_))));
}

#[test]
fn what_no_package_may_hold_is_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = crate::scratch::folder();
    let path = folder.path().join("socket");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(scan(folder.path()), Err(PackError::Special(p)) if p == path));
    drop(socket);
    fs::remove_file(&path).unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"\xff"));
    fs::write(&odd, b"").unwrap();
    assert!(matches!(scan(folder.path()), Err(PackError::NotUtf8(_))));
    fs::remove_file(&odd).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), folder.path().join("link")).unwrap();
    assert!(matches!(scan(folder.path()), Err(PackError::NotUtf8(_))));
    let absent = folder.path().join("absent");
    assert!(matches!(scan(&absent), Err(PackError::Read { .. })));
}

#[test]
fn too_many_entries_end_the_walk() {
    let mut sink = |_: &Path, _: u64, _: Chunk, _: &[u8]| Ok(());
    let mut walk = Walk {
        files: Vec::new(),
        bytes_least: 0,
        sink: &mut sink,
    };
    let name = "x".repeat(4_000);
    let refused = (0..2_000).find_map(|_| walk.push(name.clone(), FileNode::Directory).err());
    assert!(matches!(refused, Some(PackError::TooLarge)));
    assert!(walk.files.len() <= MANIFEST_BYTES_MAX / name.len());
}
