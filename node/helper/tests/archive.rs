//! The stream of copies: what a hostile one can't do, and what an honest one
//! keeps.

use potluck_helper::archive::{receive, receive_named, send};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};
use tar::{Builder, EntryType, Header};

/// An archive of these entries, as nobody honest would make it.
fn made_up(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, text) in entries {
        let mut header = Header::new_old();
        // Past the checks of the library.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let is_file = *kind == EntryType::Regular;
        if !is_file {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(if is_file { text.len() as u64 } else { 0 });
        header.set_cksum();
        let content = if is_file { text.as_bytes() } else { &[] };
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_hostile_stream_writes_below_its_name_and_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let file = EntryType::Regular;
    let cases: [&[(&str, EntryType, &str)]; 9] = [
        &[("../x", file, "evil")],
        &[("/x", file, "evil")],
        &[("name/../../x", file, "evil")],
        &[("other", file, "evil")],
        &[
            ("name", EntryType::Symlink, target),
            ("name/x", file, "evil"),
        ],
        &[
            ("name", EntryType::Directory, ""),
            ("name/l", EntryType::Symlink, target),
            ("name/l/x", file, "evil"),
        ],
        &[
            ("name", EntryType::Directory, ""),
            ("name/l", EntryType::Symlink, target),
            ("name/l", EntryType::Directory, ""),
        ],
        &[("name", EntryType::Link, "/etc/passwd")],
        &[("name", EntryType::Fifo, "")],
    ];
    for case in cases {
        let folder = outside.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let outcome = receive_named(&made_up(case)[..], &folder, "name");
        assert!(outcome.is_err(), "{case:?}");
        let here: Vec<_> = fs::read_dir(outside.path()).unwrap().flatten().collect();
        assert_eq!(here.len(), 1, "{case:?}: {here:?}");
        assert!(!Path::new("/x").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "keep").unwrap();
    symlink(&precious, folder.path().join("name")).unwrap();
    let stream = made_up(&[("name", EntryType::Regular, "new")]);
    receive_named(&stream[..], folder.path(), "name").unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep");
    assert_eq!(
        fs::read_to_string(folder.path().join("name")).unwrap(),
        "new"
    );
}

#[test]
fn a_stream_that_is_cut_short_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), vec![1; 5_000]).unwrap();
    let mut whole = Vec::new();
    send(&mut whole, &from, "name").unwrap();
    // Nothing, in the middle of a header, and in that of a file.
    for length in [0, 700, 3_000] {
        let cut = receive_named(&whole[..length], folder.path(), "name");
        assert!(cut.is_err(), "{length}");
    }
    receive_named(&whole[..], folder.path(), "name").unwrap();
}

#[test]
fn names_of_any_length_and_folders_without_rights_survive() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    let deep = from.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "content").unwrap();
    let closed = from.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("file"), "kept").unwrap();
    let mode = PermissionsExt::from_mode;
    fs::set_permissions(&closed, mode(0o500)).unwrap();
    let mut stream = Vec::new();
    send(&mut stream, &from, "name").unwrap();
    let to = folder.path().join("name");
    receive(&stream[..], &to).unwrap();
    let there = to.join("d".repeat(200)).join("e".repeat(200)).join("file");
    assert_eq!(fs::read_to_string(there).unwrap(), "content");
    assert_eq!(fs::read_to_string(to.join("closed/file")).unwrap(), "kept");
    assert_eq!(
        fs::metadata(to.join("closed")).unwrap().mode() & 0o777,
        0o500
    );
    for path in [&closed, &to.join("closed")] {
        fs::set_permissions(path, mode(0o700)).unwrap();
    }
}

#[test]
fn a_file_goes_into_a_folder_or_gets_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let stream = made_up(&[("name", EntryType::Regular, "content")]);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    receive(&stream[..], folder.path()).unwrap();
    assert_eq!(read("name"), "content");
    receive(&stream[..], &folder.path().join("other")).unwrap();
    assert_eq!(read("other"), "content");
    fs::remove_file(folder.path().join("name")).unwrap();
    receive_named(&stream[..], folder.path(), "name").unwrap();
    assert_eq!(read("name"), "content");
}
