//! The record of who went into which task: one line of JSON for each session
//! that begins, ends, or is refused.
//!
//! It lies in the data folder of the node that runs the task, under `audit/`,
//! and is bounded: when a file is full it becomes `….1`, and the oldest goes.
//! Refusals have a file of their own, so that nobody who may not enter can
//! push out the lines of those who did. A session whose beginning can't be
//! written, and synced, does not begin.

use potluck_specs::Millis;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

/// Length of one file: some ten thousand sessions.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Files of each kind, the present one included.
const FILES_MAX: u32 = 8;

/// Longest text of a person's in a line; the rest is cut and marked.
const TEXT_CHARS_MAX: usize = 1_000;

/// The file of those who entered.
const SESSIONS: &str = "sessions.jsonl";

/// What happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event")]
pub(super) enum Event {
    /// A session begins.
    #[serde(rename = "exec_begin")]
    Began {
        /// Names the session in its lines.
        session: String,
        /// What is done, for people.
        what: String,
        /// With a terminal.
        terminal: bool,
        /// May trace the task's processes.
        debug: bool,
        /// The connection of ssh that it is in.
        #[serde(skip_serializing_if = "Option::is_none")]
        ssh: Option<String>,
    },
    /// It is over.
    #[serde(rename = "exec_end")]
    Ended {
        /// Names the session in its lines.
        session: String,
        /// `ended`, or why it was cut off.
        how: String,
        /// The command's code.
        code: Option<u8>,
        /// Bytes that the person sent.
        bytes_in: u64,
        /// Bytes that the person got.
        bytes_out: u64,
        /// How long it took.
        took_ms: u64,
    },
    /// A connection of ssh begins.
    #[serde(rename = "ssh_begin")]
    SshBegan {
        /// Names it in its lines, and in those of its sessions.
        session: String,
    },
    /// A connection of ssh is over.
    #[serde(rename = "ssh_end")]
    SshEnded {
        /// Names it in its lines.
        session: String,
        /// Why.
        how: String,
        /// How many sessions it had.
        sessions: u64,
        /// How long it took.
        took_ms: u64,
    },
    /// Somebody was refused.
    #[serde(rename = "exec_denied")]
    Denied {
        /// What they wanted.
        what: String,
        /// Why not.
        why: String,
    },
}

/// Who, and where.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    /// By the certificate.
    pub(super) user: String,
    /// Of the person.
    pub(super) key: String,
    /// The task.
    pub(super) task: String,
    /// The node that was asked, if it was not this one.
    pub(super) via: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    #[serde(flatten)]
    about: &'a About,
    #[serde(flatten)]
    event: &'a Event,
}

/// What is read again of a line about a beginning.
#[derive(Deserialize)]
struct Begun {
    at_ms: u64,
    event: String,
    session: String,
}

impl Begun {
    fn is_beginning(&self) -> bool {
        matches!(&self.event[..], "exec_begin" | "ssh_begin")
    }
}

/// The record of one node.
#[derive(Debug)]
pub(super) struct Audit {
    entries: Mutex<Rotated>,
    denials: Mutex<Rotated>,
}

impl Audit {
    /// Of the node with this data folder.
    pub(super) fn new(data: &Path) -> Audit {
        let folder = data.join("audit");
        let of = |name: &str| Mutex::new(Rotated::new(&folder, name, FILE_BYTES_MAX));
        Audit {
            entries: of(SESSIONS),
            denials: of("denied.jsonl"),
        }
    }

    /// Sessions and connections of ssh that began at `since` or later, by the
    /// names in their lines: what a node that starts knows of its former life.
    /// Blocks. Lines that can't be read, as one that was cut short, are none.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn begun(data: &Path, since: Millis) -> io::Result<BTreeSet<String>> {
        let file = data.join("audit").join(SESSIONS);
        let mut begun = BTreeSet::new();
        // More than two files' worth in minutes is more than a node carries.
        for path in [aside(&file, 1), file] {
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let lines = text.split(|byte| *byte == b'\n');
            let lines = lines.filter_map(|line| serde_json::from_slice::<Begun>(line).ok());
            let recent = lines.filter(|line| line.at_ms >= since.0 && line.is_beginning());
            begun.extend(recent.map(|line| line.session));
        }
        Ok(begun)
    }

    /// Writes and syncs a line. Blocks.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write(&self, at: Millis, about: &About, event: &Event) -> io::Result<()> {
        let line = Line {
            at_ms: at.0,
            about,
            event,
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        let kind = match event {
            Event::Denied { .. } => &self.denials,
            _ => &self.entries,
        };
        let mut file = kind.lock().expect("no one panics with this lock");
        file.append(&bytes)
    }
}

/// A person's text as it goes into a line.
pub(super) fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(TEXT_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// A file that is set aside when it is full.
#[derive(Debug)]
struct Rotated {
    path: PathBuf,
    bytes_max: u64,
    open: Option<File>,
}

impl Rotated {
    fn new(folder: &Path, name: &str, bytes_max: u64) -> Rotated {
        Rotated {
            path: folder.join(name),
            bytes_max,
            open: None,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.open()?;
        if file.metadata()?.len() + bytes.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        let file = self.open()?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // Opened anew next time, perhaps on a disk that has room again.
            self.open = None;
        }
        written
    }

    fn open(&mut self) -> io::Result<&mut File> {
        use std::os::unix::fs::OpenOptionsExt;
        if self.open.is_none() {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut options = OpenOptions::new();
            let file = options.create(true).append(true).mode(0o600);
            self.open = Some(file.open(&self.path)?);
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let aside = |number| aside(&self.path, number);
        for number in (1..FILES_MAX - 1).rev() {
            match fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))
    }
}

/// Where a file goes when it is full.
fn aside(path: &Path, number: u32) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{number}"));
    PathBuf::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            user: "ann".into(),
            key: "k".into(),
            task: "default/web[0]".into(),
            via: None,
        }
    }

    #[test]
    fn lines_say_who_did_what_and_denials_are_apart() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::new(folder.path());
        let begin = Event::Began {
            session: "s".into(),
            what: "sh".into(),
            terminal: true,
            debug: false,
            ssh: None,
        };
        let denied = Event::Denied {
            what: "sh".into(),
            why: "viewer".into(),
        };
        audit.write(Millis(5), &about(), &begin).unwrap();
        audit.write(Millis(6), &about(), &denied).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join("audit").join(name)).unwrap();
        let line: serde_json::Value = serde_json::from_str(&read("sessions.jsonl")).unwrap();
        assert_eq!(line["event"], "exec_begin");
        assert_eq!(line["user"], "ann");
        assert_eq!(line["task"], "default/web[0]");
        assert_eq!(line["at_ms"], 5);
        let line: serde_json::Value = serde_json::from_str(&read("denied.jsonl")).unwrap();
        assert_eq!(line["event"], "exec_denied");
    }

    #[test]
    fn what_began_lately_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let begun = |since| Audit::begun(folder.path(), Millis(since)).unwrap();
        assert!(begun(0).is_empty(), "there is no file yet");
        let audit = Audit::new(folder.path());
        let began = |session: &str| Event::Began {
            session: session.into(),
            what: "sh".into(),
            terminal: false,
            debug: false,
            ssh: None,
        };
        let ssh = Event::SshBegan {
            session: "ssh".into(),
        };
        let ended = Event::SshEnded {
            session: "over".into(),
            how: "ended".into(),
            sessions: 1,
            took_ms: 1,
        };
        for (at, event) in [(5, began("old")), (6, began("s")), (7, ssh), (8, ended)] {
            audit.write(Millis(at), &about(), &event).unwrap();
        }
        // A file that was set aside counts, a line that was cut short does not.
        audit.entries.lock().unwrap().rotate().unwrap();
        audit.write(Millis(9), &about(), &began("t")).unwrap();
        let mut file = OpenOptions::new()
            .append(true)
            .open(folder.path().join("audit").join(SESSIONS))
            .unwrap();
        file.write_all(b"{\"at_ms\":9,\"event\":\"exec_be").unwrap();
        let names = ["s", "ssh", "t"].map(String::from);
        assert_eq!(begun(6), BTreeSet::from(names));
    }

    #[test]
    fn files_are_bounded_in_length_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = Rotated::new(folder.path(), "x", 100);
        for number in 0..1_000 {
            file.append(format!("{number:09}\n").as_bytes()).unwrap();
        }
        let mut lines = Vec::new();
        let entries: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(entries.len() as u32, FILES_MAX);
        for entry in entries {
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(text.len() <= 100);
            lines.extend(text.lines().map(|line| line.parse::<u32>().unwrap()));
        }
        lines.sort_unstable();
        let last = lines.len() as u32;
        assert_eq!(
            lines,
            (1_000 - last..1_000).collect::<Vec<_>>(),
            "none is lost"
        );
    }

    #[test]
    fn long_texts_are_cut_and_marked() {
        assert_eq!(cut("short"), "short");
        assert!(cut(&"é".repeat(2_000)).ends_with("é…"));
    }
}
