//! Every decoder of what strangers send, fed with arbitrary bytes and with
//! good bytes that were damaged: never a panic, and what is accepted is the
//! one encoding of a valid value.

mod common;

use common::{Fleet, NOW};
use potluck_specs::{
    ChunkHash, FleetId, Millis, PackageId, codec,
    job::{Job, SignedJob},
    package::{Chunk, FileEntry, FileNode, MANIFEST_BYTES_MAX, Manifest},
    trust::{
        Context, NodeCredential, NodeRole, SecretKey, Signed, TOKEN_TEXT_BYTES_MAX, Token,
        UserCredential, open,
    },
};
use proptest::{prelude::*, sample::Index};
use serde::{Serialize, de::DeserializeOwned};

/// Longest credential or signed job that the tests decode.
const BYTES_MAX: usize = 512 << 10;

fn token() -> Token {
    Token {
        fleet: FleetId([7; 32]),
        cluster: "main".into(),
        id: "k3x9".into(),
        secret: [5; 16],
        roles: vec![NodeRole::Agent],
        rack: Some("r1".into()),
        uses: 3,
        expires: Millis(9),
    }
}

fn manifest() -> Manifest {
    let chunk = Chunk {
        hash: ChunkHash([4; 32]),
        bytes: 77,
    };
    let entry = |path: &str, node: FileNode| FileEntry {
        path: path.into(),
        node,
    };
    Manifest {
        files: vec![
            entry("bin", FileNode::Directory),
            entry(
                "bin/web",
                FileNode::File {
                    executable: true,
                    chunks: vec![chunk, chunk],
                },
            ),
            entry(
                "latest",
                FileNode::Link {
                    target: "bin/web".into(),
                },
            ),
        ],
    }
}

/// A manifest whose hash is right, whatever its bytes are.
fn decode_manifest(bytes: &[u8]) -> Option<Manifest> {
    Manifest::decode(PackageId(*blake3::hash(bytes).as_bytes()), bytes).ok()
}

/// What was done to good bytes on the way.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Remove(Index),
    Append(Vec<u8>),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<Index>(), 1u8..).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        prop::collection::vec(any::<u8>(), 1..20).prop_map(Damage::Append),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: &Index, len: usize| at.index(len.max(1)).min(len);
        match damage {
            Damage::Flip(at, mask) => {
                let at = place(at, bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= mask;
                }
            }
            Damage::Cut(at) => bytes.truncate(place(at, bytes.len())),
            Damage::Insert(at, byte) => bytes.insert(place(at, bytes.len()), *byte),
            Damage::Remove(at) if !bytes.is_empty() => drop(bytes.remove(place(at, bytes.len()))),
            Damage::Remove(_) => {}
            Damage::Append(more) => bytes.extend(more),
        }
    }
    bytes
}

/// Decodes as a stranger's message: what is accepted encodes to the same bytes.
fn accept<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = codec::decode_canonical("document", bytes, BYTES_MAX).ok()?;
    assert_eq!(codec::encode(&value), bytes);
    Some(value)
}

/// The same for a job, whose bytes begin with the number of their format.
fn accept_job(bytes: &[u8]) -> Option<Job> {
    let job = Job::decode(bytes).ok()?;
    assert_eq!(job.encode(), bytes);
    Some(job)
}

/// Feeds every decoder, and checks what only the owner of a key can make.
fn feed(bytes: &[u8]) {
    let fleet = Fleet::new(1);
    if let Some(manifest) = decode_manifest(bytes) {
        assert_eq!(manifest.encode().1, bytes);
    }
    if let Some(node) = accept::<NodeCredential>(bytes)
        && let Ok(certificate) = node.verify(fleet.id(), NOW, Millis(0))
    {
        assert_eq!(certificate, fleet.node_certificate());
    }
    if let Some(user) = accept::<UserCredential>(bytes)
        && let Ok(certificate) = user.verify(fleet.id(), NOW)
    {
        assert_eq!(certificate, fleet.user_certificate());
    }
    if let Some(signed) = accept::<SignedJob>(bytes) {
        let _ = signed.decode_unchecked();
        if let Ok((job, _)) = signed.verify(fleet.id(), "main", NOW) {
            assert_eq!(job, fleet.job());
        }
    }
    if let Some(job) = accept_job(bytes) {
        let _ = potluck_specs::validate::check_job(&job);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(read) = text.parse::<Token>()
    {
        assert_eq!(read, token());
    }
    let _ = open(&fleet.root, bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        feed(&bytes);
    }

    #[test]
    fn damaged_documents(damages in damages(), which in 0usize..6) {
        let fleet = Fleet::new(1);
        let good = match which {
            0 => manifest().encode().1,
            1 => codec::encode(&fleet.node()),
            2 => codec::encode(&fleet.user()),
            3 => codec::encode(&fleet.signed_job()),
            4 => fleet.job().encode(),
            _ => token().to_string().into_bytes(),
        };
        feed(&damaged(good, &damages));
    }

    /// Bytes that a trusted user signed are still only accepted if canonical.
    #[test]
    fn damaged_jobs_that_are_well_signed(damages in damages()) {
        let fleet = Fleet::new(1);
        let good = fleet.job().encode();
        let changed = damaged(good.clone(), &damages);
        let signed = SignedJob {
            job: Signed::new(&common::key(110), Context::Job, changed.clone()),
            author: fleet.user(),
        };
        if let Ok((job, _)) = signed.verify(fleet.id(), "main", NOW) {
            prop_assert_eq!(job.encode(), changed);
        }
    }

    #[test]
    fn tokens_of_any_text(text in "\\PC{0,80}") {
        prop_assert!(text.parse::<Token>().is_err());
        let prefixed = format!("potluck1-{text}");
        prop_assert!(prefixed.parse::<Token>().is_err());
    }
}

#[test]
fn good_documents_pass() {
    let fleet = Fleet::new(1);
    assert_eq!(decode_manifest(&manifest().encode().1), Some(manifest()));
    assert!(accept::<NodeCredential>(&codec::encode(&fleet.node())).is_some());
    assert!(accept::<UserCredential>(&codec::encode(&fleet.user())).is_some());
    assert!(accept::<SignedJob>(&codec::encode(&fleet.signed_job())).is_some());
    assert!(accept_job(&fleet.job().encode()).is_some());
    assert_eq!(token().to_string().parse(), Ok(token()));
}

/// A few bytes that claim to be a huge or deep document.
#[test]
fn small_bombs_are_refused_quickly() {
    let huge: &[&[u8]] = &[
        // An array, a map, a text and bytes of 2^63 entries.
        &[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        // A manifest that claims 2^32 files.
        &[
            0xa1, 0x65, b'f', b'i', b'l', b'e', b's', 0x9a, 0xff, 0xff, 0xff, 0xff,
        ],
    ];
    for bytes in huge {
        feed(bytes);
        assert!(decode_manifest(bytes).is_none());
    }
    for byte in [0x81, 0x9f, 0xa1, 0xbf, 0xc0, 0xd8] {
        feed(&vec![byte; 200_000]);
    }
    feed(&[&[0xa1, 0x65], &b"files"[..], &vec![0x81; 200_000]].concat());
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    let long = vec![0; MANIFEST_BYTES_MAX + 1];
    let refused = Manifest::decode(PackageId([0; 32]), &long).unwrap_err();
    assert!(format!("{refused:?}").contains("TooLarge"), "{refused:?}");
    let refused = Job::decode(&long).unwrap_err();
    assert!(format!("{refused:?}").contains("TooLarge"), "{refused:?}");
    let text = format!("potluck1-{}", "a".repeat(TOKEN_TEXT_BYTES_MAX));
    assert!(text.parse::<Token>().is_err());
}

/// Each rule about a manifest's paths, broken alone.
#[test]
fn manifests_that_point_outside_their_tree() {
    let directory = |path: &str| FileEntry {
        path: path.into(),
        node: FileNode::Directory,
    };
    let link = |path: &str| FileEntry {
        path: path.into(),
        node: FileNode::Link {
            target: "/etc".into(),
        },
    };
    let file = |bytes: u32| FileEntry {
        path: "f".into(),
        node: FileNode::File {
            executable: false,
            chunks: vec![Chunk {
                hash: ChunkHash([0; 32]),
                bytes,
            }],
        },
    };
    let long = "x".repeat(256);
    let cases = [
        ("up", vec![directory("../a")]),
        ("up inside", vec![directory("a/../b")]),
        ("absolute", vec![directory("/a")]),
        ("empty", vec![directory("")]),
        ("here", vec![directory("a/./b")]),
        ("trailing slash", vec![directory("a/")]),
        ("zero byte", vec![directory("a\0b")]),
        ("long part", vec![directory(&long)]),
        ("long path", vec![directory(&"x/".repeat(3_000))]),
        ("twice", vec![directory("a"), directory("a")]),
        ("out of order", vec![directory("b"), directory("a")]),
        ("through a link", vec![link("a"), directory("a/b")]),
        (
            "through a link, further down",
            vec![link("a"), directory("a-b"), directory("a/b/c")],
        ),
        ("an empty chunk", vec![file(0)]),
        ("a huge chunk", vec![file(u32::MAX)]),
    ];
    for (what, files) in cases {
        let bytes = codec::encode(&Manifest { files });
        assert!(decode_manifest(&bytes).is_none(), "{what}");
    }
}

/// Keys are compared as they are: no text form has two spellings.
#[test]
fn key_files_of_any_text() {
    let key = SecretKey::from_seed([0xab; 32]);
    let text = key.to_hex();
    assert_eq!(SecretKey::from_hex(&text).unwrap().public(), key.public());
    for bad in [
        "",
        "00",
        &text[1..],
        &"g".repeat(64),
        &text.to_uppercase(),
        &text.repeat(2),
    ] {
        assert!(SecretKey::from_hex(bad).is_none(), "{bad}");
    }
}
