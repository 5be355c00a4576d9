//! Evaluation in a child process that may use little and sees nothing: no
//! environment, no file but its standard streams, bounded memory, CPU time and
//! output. A hostile spec ends the child, with an error that says which limit
//! it met; never the caller.
//!
//! The child asks for files by name; this side alone reads them, below the
//! root folder. Plain threads serve the pipes: this crate knows no async
//! runtime.

use crate::{
    child::{ADDRESS_SPACE_BYTES_MAX, CPU_SECONDS_MAX, EXIT_OUTPUT},
    evaluate::{Evaluated, Files, Wanted},
    finding::{Finding, FindingKind, Spot},
    label::Label,
    protocol::{self, DOCUMENT_BYTES_MAX, Reply, Say, TalkError, Task},
    render::{Look, render},
    root::{Root, RootError},
};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

/// Wall-clock time between two words of the child: its CPU time for a spec, on
/// a machine that is very busy with other things.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How much of the child's error output is read, and how much is told.
const STDERR_BYTES_MAX: u64 = 64 << 10;
const STDERR_CHARS_TOLD: usize = 400;

/// What Rust, its collections, the interpreter's arena and its sizes say when
/// something does not fit into memory.
const OUT_OF_MEMORY: &[&str] = &[
    "memory allocation of",
    "capacity overflow",
    "out of memory",
    "AlignedSize must not exceed",
];

/// Why a spec gave no jobs. `Display` of [`EvalError::Findings`] is the whole
/// rendered list without colours.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The file can't be taken.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The evaluator can't be started.
    #[error("can't start the evaluator {}", executable.display())]
    Start {
        /// The program.
        executable: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is wrong: this is the author's to mend.
    #[error("{}", render(.0, Look::PLAIN))]
    Findings(Vec<Finding>),
    /// More than a spec may use: the author's to mend, too.
    #[error("{at}: {limit}")]
    Limit {
        /// Which.
        limit: Limit,
        /// The statement that met it, or the file as a whole.
        at: Spot,
    },
    /// The evaluator ended in another way.
    #[error("the evaluator ended without a result ({status}): {stderr}")]
    Crashed {
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
}

/// What a spec may use. A spec that uses more is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// Memory.
    #[error("evaluating the spec takes more than {} MiB of memory", bytes_max >> 20)]
    Memory {
        /// The most.
        bytes_max: u64,
    },
    /// CPU time.
    #[error("evaluating the spec takes more than {seconds_max} s of CPU time")]
    CpuTime {
        /// The most.
        seconds_max: u64,
    },
    /// Time to an answer.
    #[error("evaluating the spec takes longer than {} s", most.as_secs())]
    Time {
        /// The most.
        most: Duration,
    },
    /// Jobs of one spec, in bytes.
    #[error("the spec evaluates to more than {} MiB of jobs", bytes_max >> 20)]
    Output {
        /// The most.
        bytes_max: u64,
    },
    /// How deep values nest, by the stack.
    #[error("the spec makes a value that nests too deep")]
    Stack,
}

impl Limit {
    /// What an author does about it.
    fn hint(self) -> &'static str {
        match self {
            Limit::Memory { .. } => {
                "good specs take some MiB: look for text or a list that doubles"
            }
            Limit::CpuTime { .. } | Limit::Time { .. } => {
                "good specs take milliseconds: look for a loop over far too much"
            }
            Limit::Output { .. } => {
                "put long arguments into files of the package, or cut the spec in two"
            }
            Limit::Stack => "look for a list or dictionary that holds itself again and again",
        }
    }

    /// What is known of the place: constants are computed when a statement is
    /// compiled, which is before it begins.
    fn why(self) -> &'static str {
        match self {
            Limit::Memory { .. } => "this began last: it takes too much, or what comes next",
            _ => "this began last",
        }
    }

    /// Is one statement to blame?
    fn has_a_place(self) -> bool {
        !matches!(self, Limit::Output { .. })
    }
}

impl EvalError {
    /// What is to be told to the author: the findings, or the limit as one.
    /// None if the spec is not to blame.
    pub fn findings(&self) -> Option<Vec<Finding>> {
        match self {
            EvalError::Findings(findings) => Some(findings.clone()),
            EvalError::Limit { limit, at } => {
                let message = limit.to_string();
                let finding = Finding::error(at.clone(), FindingKind::Limit, message);
                let finding = finding.hint(limit.hint());
                Some(vec![match at.line {
                    0 => finding,
                    _ => finding.why(limit.why()),
                }])
            }
            _ => None,
        }
    }
}

/// A program that does nothing but call [`crate::child_main`] and exit with
/// its answer, when it is started with these arguments.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The program.
    pub executable: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// What one spec file came to: also one with findings is `Ok`.
pub type Outcome = Result<Evaluated, EvalError>;

impl Sandbox {
    /// Evaluates one spec file. Blocks for at most a minute: call it from a
    /// thread that may wait.
    ///
    /// # Errors
    /// Any [`EvalError`]; [`EvalError::Findings`] if there is an error among
    /// them.
    pub fn evaluate(&self, spec: &Path, wanted: &Wanted) -> Outcome {
        let mut outcomes = self.evaluate_all(&[spec.to_path_buf()], wanted);
        let evaluated = outcomes.pop().expect("one outcome for one spec")?;
        match evaluated.is_refused() {
            true => Err(EvalError::Findings(evaluated.findings)),
            false => Ok(evaluated),
        }
    }

    /// Evaluates many spec files, with one outcome for each in their order.
    /// What they load is evaluated once for all that lie below one root.
    pub fn evaluate_all(&self, specs: &[PathBuf], wanted: &Wanted) -> Vec<Outcome> {
        let specs_asked = specs;
        let mut outcomes: Vec<Option<Outcome>> = specs.iter().map(|_| None).collect();
        let mut by_root: BTreeMap<Root, Vec<(usize, Label)>> = BTreeMap::new();
        for (k, spec) in specs.iter().enumerate() {
            match Root::of(spec) {
                Ok((root, label)) => by_root.entry(root).or_default().push((k, label)),
                Err(error) => outcomes[k] = Some(Err(error.into())),
            }
        }
        for (mut root, mut specs) in by_root {
            while !specs.is_empty() {
                // A spec that ends the child is told, and the rest goes on in
                // a new one; each child does at least one spec.
                let done = self.run(&mut root, &specs, wanted, false);
                for ((k, label), mut outcome) in specs.drain(..done.len()).zip(done) {
                    match &mut outcome {
                        Ok(evaluated) => name_as_asked(evaluated, &label, &specs_asked[k]),
                        Err(EvalError::Limit { limit, at }) => {
                            let place = self.place(*limit, &mut root, &(k, label), wanted);
                            let file = || Spot::file(&specs_asked[k].to_string_lossy());
                            *at = place.unwrap_or_else(file);
                        }
                        Err(_) => {}
                    }
                    outcomes[k] = Some(outcome);
                }
            }
        }
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|outcome| outcome.expect("every spec has a root or an error"))
            .collect()
    }

    /// Which statement of a spec meets a limit: by another child, which says
    /// where it is until it ends in the same way.
    fn place(
        &self,
        limit: Limit,
        root: &mut Root,
        spec: &(usize, Label),
        wanted: &Wanted,
    ) -> Option<Spot> {
        if !limit.has_a_place() {
            return None;
        }
        let again = self.run(root, std::slice::from_ref(spec), wanted, true);
        match again.into_iter().next() {
            Some(Err(EvalError::Limit { limit: same, at })) if same == limit => {
                (at.line > 0).then_some(at)
            }
            _ => None,
        }
    }

    /// The outcomes of the first specs, at least of one: all of them, or up to
    /// the one that ended the child.
    fn run(
        &self,
        root: &mut Root,
        specs: &[(usize, Label)],
        wanted: &Wanted,
        telling: bool,
    ) -> Vec<Outcome> {
        let child = Command::new(&self.executable)
            .args(&self.args)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(source) => {
                let executable = self.executable.clone();
                return vec![Err(EvalError::Start { executable, source })];
            }
        };
        let task = Task {
            specs: specs
                .iter()
                .map(|(_, label)| label.path().to_owned())
                .collect(),
            wanted: wanted.clone(),
            telling,
        };
        let mut outcomes: Vec<Outcome> = Vec::new();
        let ended = converse(&mut child, root, task, specs.len(), &mut outcomes);
        if outcomes.len() < specs.len() {
            outcomes.push(Err(ended.error()));
        }
        outcomes
    }
}

/// A file that could not be read has no name yet but its label.
fn name_as_asked(evaluated: &mut Evaluated, label: &Label, asked: &Path) {
    for finding in &mut evaluated.findings {
        if finding.at.line == 0 && finding.at.file == label.path() {
            finding.at.file = asked.to_string_lossy().into_owned();
        }
    }
}

/// How the child ended.
struct Ended {
    talk: Talk,
    /// Where it said that it was, last.
    at: Option<Spot>,
    status: io::Result<ExitStatus>,
    stderr: String,
}

/// How the conversation ended.
enum Talk {
    Finished,
    Silent,
    TooLong,
}

/// Serves the child until it has done everything or is gone, then makes sure
/// that it is gone.
fn converse(
    child: &mut Child,
    root: &mut Root,
    task: Task,
    count: usize,
    outcomes: &mut Vec<Outcome>,
) -> Ended {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are pipes");
    };
    let stderr = thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth reading.
        let _ = stderr.take(STDERR_BYTES_MAX).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let words = listen(stdout);
    let mut place = Place::default();
    let talk = match protocol::send(&mut stdin, &task) {
        Ok(()) => answer(&words, stdin, root, &mut place, count, outcomes),
        // It is gone: its status tells why.
        Err(_) => Talk::Finished,
    };
    if outcomes.len() == count || !matches!(talk, Talk::Finished) {
        // Fails only if the child is gone, which is what is wanted.
        let _ = child.kill();
    }
    Ended {
        talk,
        at: place.named(),
        status: child.wait(),
        stderr: stderr.join().unwrap_or_default(),
    }
}

/// Where the child is, and what people call the files that it has read.
#[derive(Default)]
struct Place {
    at: Option<Spot>,
    names: BTreeMap<String, String>,
}

impl Place {
    fn named(self) -> Option<Spot> {
        let mut spot = self.at?;
        if let Some(name) = self.names.get(&spot.file) {
            spot.file.clone_from(name);
        }
        Some(spot)
    }
}

type Word = Result<Say, TalkError>;

/// What the child says, one by one; the channel closes at the end.
fn listen(mut stdout: ChildStdout) -> mpsc::Receiver<Word> {
    // One document waits while one is looked at: the child waits for answers
    // anyway.
    let (tell, words) = mpsc::sync_channel(1);
    thread::spawn(move || {
        loop {
            let word = match protocol::receive(&mut stdout, DOCUMENT_BYTES_MAX) {
                Ok(Some(word)) => Ok(word),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let last = word.is_err();
            if tell.send(word).is_err() || last {
                return;
            }
        }
    });
    words
}

fn answer(
    words: &mpsc::Receiver<Word>,
    mut stdin: ChildStdin,
    root: &mut Root,
    place: &mut Place,
    count: usize,
    outcomes: &mut Vec<Outcome>,
) -> Talk {
    while outcomes.len() < count {
        match words.recv_timeout(SILENCE_MAX) {
            Ok(Ok(Say::Begin)) => place.at = None,
            Ok(Ok(Say::At(spot))) => place.at = Some(spot),
            Ok(Ok(Say::Done(evaluated))) => outcomes.push(Ok(*evaluated)),
            Ok(Ok(Say::Read(path))) => {
                let reply: Reply = match Label::from_path(&path) {
                    Some(label) => {
                        let reply = root.read(&label);
                        if let Ok(text) = &reply {
                            place.names.insert(label.to_string(), text.name.clone());
                        }
                        reply
                    }
                    None => Err("this is no path below the root folder".into()),
                };
                if protocol::send(&mut stdin, &reply).is_err() {
                    return Talk::Finished;
                }
            }
            Ok(Err(TalkError::TooLong(_))) => return Talk::TooLong,
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Talk::Finished,
            Err(RecvTimeoutError::Timeout) => return Talk::Silent,
        }
    }
    Talk::Finished
}

impl Ended {
    /// Which limit did it meet? The Rust runtime says so on standard error
    /// before it aborts; a spec can't write there.
    fn limit(&self) -> Option<Limit> {
        let output = Limit::Output {
            bytes_max: DOCUMENT_BYTES_MAX,
        };
        match self.talk {
            Talk::Finished => {}
            Talk::Silent => return Some(Limit::Time { most: SILENCE_MAX }),
            Talk::TooLong => return Some(output),
        }
        let said = |text: &str| self.stderr.contains(text);
        let status = self.status.as_ref().ok();
        if status.and_then(|status| status.code()) == Some(EXIT_OUTPUT.into()) {
            return Some(output);
        }
        if status.and_then(|status| status.signal()) == Some(Signal::SIGXCPU as i32) {
            return Some(Limit::CpuTime {
                seconds_max: CPU_SECONDS_MAX,
            });
        }
        if said("overflowed its stack") {
            return Some(Limit::Stack);
        }
        let memory = OUT_OF_MEMORY.iter().any(|text| said(text));
        memory.then_some(Limit::Memory {
            bytes_max: ADDRESS_SPACE_BYTES_MAX,
        })
    }

    fn error(self) -> EvalError {
        if let Some(limit) = self.limit() {
            let at = self.at.unwrap_or_else(Spot::nowhere);
            return EvalError::Limit { limit, at };
        }
        let chars = self.stderr.trim_end().chars();
        let skipped = chars.clone().count().saturating_sub(STDERR_CHARS_TOLD);
        EvalError::Crashed {
            status: match &self.status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            stderr: chars.skip(skipped).collect(),
        }
    }
}
