//! Whole conversations over bytes, on real files.

use super::*;
use std::os::unix::fs::MetadataExt;

/// A client that asks one thing after another.
struct Client {
    server: Server,
    id: u32,
}

/// An answer's kind, and its fields behind the id.
struct Got {
    kind: u8,
    fields: Vec<u8>,
}

impl Got {
    fn status(&self) -> u32 {
        assert_eq!(self.kind, kind::STATUS);
        Fields(&self.fields).number().unwrap()
    }

    fn text(&self) -> Vec<u8> {
        Fields(&self.fields).text().unwrap().to_vec()
    }
}

impl Client {
    fn new() -> Client {
        let mut server = Server::default();
        let hello = Answer::new(kind::INIT).number(3).bytes();
        let version = server.answer(&hello[4..]).unwrap().bytes();
        assert_eq!(version[4..9], [kind::VERSION, 0, 0, 0, 3]);
        Client { server, id: 0 }
    }

    fn ask(&mut self, kind: u8, fields: impl FnOnce(Answer) -> Answer) -> Got {
        self.id += 1;
        let packet = fields(Answer::new(kind).number(self.id)).bytes();
        let answer = self.server.answer(&packet[4..]).unwrap().bytes();
        let mut rest = Fields(&answer[4..]);
        let kind = rest.byte().unwrap();
        assert_eq!(rest.number(), Some(self.id));
        Got {
            kind,
            fields: rest.0.into(),
        }
    }

    fn path(&mut self, kind: u8, path: &Path) -> Got {
        self.ask(kind, |fields| fields.text(path.as_os_str().as_bytes()))
    }

    fn open(&mut self, path: &Path, flags: u32, mode: Option<u32>) -> Got {
        let attributes = Attributes {
            mode,
            ..Attributes::default()
        };
        self.ask(kind::OPEN, |fields| {
            let fields = fields.text(path.as_os_str().as_bytes());
            fields.number(flags).attributes(&attributes)
        })
    }
}

fn long(fields: Answer, number: u64) -> Answer {
    fields.number((number >> 32) as u32).number(number as u32)
}

const NEW: u32 = open::WRITE | open::CREATE | open::TRUNCATE;

#[test]
fn a_file_comes_back_as_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b");
    let mut client = Client::new();
    let handle = client.open(&path, NEW, Some(0o640)).text();
    for (at, bytes) in [(4, b"efgh"), (0, b"abcd")] {
        let got = client.ask(kind::WRITE, |fields| {
            long(fields.text(&handle), at).text(bytes)
        });
        assert_eq!(got.status(), 0);
    }
    let times = Attributes {
        times: Some((1_000, 2_000)),
        mode: Some(0o600),
        ..Attributes::default()
    };
    let got = client.ask(kind::FSETSTAT, |fields| {
        fields.text(&handle).attributes(&times)
    });
    assert_eq!(got.status(), 0);
    assert_eq!(
        client
            .ask(kind::CLOSE, |fields| fields.text(&handle))
            .status(),
        0
    );
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & MODE_BITS, found.mtime()), (0o600, 2_000));
    let got = client.path(kind::STAT, &path);
    let told = Fields(&got.fields).attributes().unwrap();
    assert_eq!((told.size, told.times), (Some(8), Some((1_000, 2_000))));
    // Not before, since reading changes a time.
    assert_eq!(fs::read(&path).unwrap(), b"abcdefgh");
    let handle = client.open(&path, open::READ, None).text();
    let mut read = |at| {
        client.ask(kind::READ, |fields| {
            long(fields.text(&handle), at).number(1 << 30)
        })
    };
    assert_eq!(read(2).text(), b"cdefgh");
    assert_eq!(read(8).status(), 1, "the end");
    // A handle that is closed, and one that never was.
    for handle in [&handle[..], b"what"] {
        client.ask(kind::CLOSE, |fields| fields.text(handle));
        let got = client.ask(kind::FSTAT, |fields| fields.text(handle));
        assert_eq!(got.status(), 4);
    }
}

#[test]
fn folders_are_listed_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3 * ENTRIES_MAX {
        fs::write(folder.path().join(format!("file-{number}")), "").unwrap();
    }
    let mut client = Client::new();
    let handle = client.path(kind::OPENDIR, folder.path()).text();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let got = client.ask(kind::READDIR, |fields| fields.text(&handle));
        if got.kind == kind::STATUS {
            break assert_eq!(got.status(), 1);
        }
        let mut fields = Fields(&got.fields);
        for _ in 0..fields.number().unwrap() {
            let name = fields.text().unwrap().to_vec();
            assert!(fields.text().unwrap().ends_with(&name));
            fields.attributes().unwrap();
            assert!(seen.insert(name));
        }
    }
    assert_eq!(seen.len(), 3 * ENTRIES_MAX);
}

#[test]
fn names_change_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("one"), "1").unwrap();
    fs::write(at("two"), "2").unwrap();
    let mut client = Client::new();
    let mut two = |kind: u8, from: &Path, to: &Path| {
        let (from, to) = (from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
        client
            .ask(kind, |fields| fields.text(from).text(to))
            .status()
    };
    assert_eq!(
        two(kind::RENAME, &at("one"), &at("two")),
        4,
        "nothing is replaced"
    );
    assert_eq!(fs::read(at("two")).unwrap(), b"2");
    assert_eq!(two(kind::RENAME, &at("one"), &at("three")), 0);
    assert_eq!(two(kind::SYMLINK, Path::new("three"), &at("link")), 0);
    let replaced = client.ask(kind::EXTENDED, |fields| {
        let fields = fields.text(RENAME.as_bytes());
        let fields = fields.text(at("three").as_os_str().as_bytes());
        fields.text(at("two").as_os_str().as_bytes())
    });
    assert_eq!(replaced.status(), 0);
    assert_eq!(fs::read(at("two")).unwrap(), b"1");
    let got = client.path(kind::READLINK, &at("link"));
    assert_eq!(Fields(&got.fields[4..]).text().unwrap(), b"three");
    let made = client.ask(kind::MKDIR, |fields| {
        let fields = fields.text(at("sub").as_os_str().as_bytes());
        fields.attributes(&Attributes {
            mode: Some(0o700),
            ..Attributes::default()
        })
    });
    assert_eq!(made.status(), 0);
    let real = client.path(kind::REALPATH, &at("sub/../missing/x"));
    let expected = folder.path().canonicalize().unwrap().join("missing/x");
    assert_eq!(
        Fields(&real.fields[4..]).text().unwrap(),
        expected.as_os_str().as_bytes()
    );
    assert_eq!(client.path(kind::RMDIR, &at("sub")).status(), 0);
    assert_eq!(client.path(kind::REMOVE, &at("two")).status(), 0);
    assert_eq!(client.path(kind::LSTAT, &at("two")).status(), 2);
    assert_eq!(client.path(kind::LSTAT, &at("link")).kind, kind::ATTRS);
}

#[test]
fn what_is_open_is_bounded_and_nonsense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::new();
    let kinds: Vec<u8> = (0..HANDLES_MAX + 1)
        .map(|_| client.path(kind::OPENDIR, folder.path()).kind)
        .collect();
    assert_eq!(kinds[HANDLES_MAX - 1], kind::HANDLE);
    assert_eq!(kinds[HANDLES_MAX], kind::STATUS);
    assert_eq!(client.ask(kind::OPEN, |fields| fields).status(), 5);
    assert_eq!(client.ask(99, |fields| fields).status(), 8);
    let unknown = client.ask(kind::EXTENDED, |fields| fields.text(b"what@nobody"));
    assert_eq!(unknown.status(), 8);
    // Before the version is settled nothing is served.
    assert!(Server::default().answer(&[kind::STAT, 0, 0, 0, 1]).is_err());
    assert!(Server::default().answer(&[kind::INIT]).is_err());
}
