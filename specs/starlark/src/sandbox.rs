//! Evaluation in a child process that may use little and sees nothing: no
//! environment, no file but its standard streams, bounded memory, CPU time and
//! output. A hostile spec ends the child, with an error that says which limit
//! it met; never the caller.
//!
//! The parent opens the file and gives it to the child as standard input; the
//! child answers on standard output with one CBOR document. Plain threads read
//! the pipes: this crate knows no async runtime.

use crate::{
    Problem, ProblemKind,
    evaluate::{SOURCE_BYTES_MAX, evaluate, too_long},
};
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};
use potluck_specs::{codec, job::JobDraft};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Address space of the child: the program, [`STACK_BYTES`], and some 700 MiB
/// for a spec, of which good ones use ten.
const ADDRESS_SPACE_BYTES_MAX: u64 = 1 << 30;

/// Stack of the evaluation. The deepest text that the limits before the parser
/// let pass needs less than a tenth; deeply nested values need the rest.
const STACK_BYTES: usize = 256 << 20;

/// CPU time of the child. Good specs take milliseconds, and the interpreter's
/// own limit on steps comes within half a second.
const CPU_SECONDS_MAX: u64 = 3;

/// Wall-clock time of the child: its CPU time, on a machine that is very busy
/// with other things.
const TIME_MAX: Duration = Duration::from_secs(60);

/// Descriptors of the child: its streams and a few for the runtime.
const DESCRIPTORS_MAX: u64 = 16;

/// Longest answer: sixteen of the largest jobs, thousands of usual ones.
const OUTPUT_BYTES_MAX: u64 = 4 << 20;

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

/// The child's answer.
type Answer = Result<Vec<JobDraft>, Vec<Problem>>;

/// Why a spec gave no jobs. `Display` of [`EvalError::Problems`] is the whole
/// rendered list, ready for the terminal.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The spec file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
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
    #[error("{}", render(.0))]
    Problems(Vec<Problem>),
    /// More memory than a spec may use.
    #[error("evaluating the spec took more than {} MiB of memory", bytes_max >> 20)]
    Memory {
        /// The limit.
        bytes_max: u64,
    },
    /// More CPU time than a spec may use.
    #[error("evaluating the spec took more than {seconds_max} s of CPU time")]
    CpuTime {
        /// The limit.
        seconds_max: u64,
    },
    /// No answer in time.
    #[error("evaluating the spec took longer than {} s", .limit.as_secs())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// More jobs than a spec may yield.
    #[error("the spec evaluates to more than {} MiB of jobs", bytes_max >> 20)]
    Output {
        /// The limit.
        bytes_max: u64,
    },
    /// Values nested deeper than the stack allows.
    #[error("the spec nests too deep to be evaluated")]
    Stack,
    /// The evaluator ended in another way.
    #[error("the evaluator ended without a result ({status}): {stderr}")]
    Crashed {
        /// How it ended.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
}

fn render(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    texts.join("\n\n")
}

/// Evaluates the spec file at `path` in a child: `executable args... path`,
/// which must do nothing but call [`child_main`] and exit with its answer.
/// Blocks for at most 60 s: call it from a thread that may wait.
///
/// # Errors
/// Any [`EvalError`].
pub fn sandboxed(
    executable: &Path,
    args: &[&OsStr],
    path: &Path,
) -> Result<Vec<JobDraft>, EvalError> {
    let spec = open(path).map_err(|source| EvalError::Read {
        path: path.into(),
        source,
    })?;
    let mut child = Command::new(executable)
        .args(args)
        .arg(path)
        .env_clear()
        .stdin(spec)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| EvalError::Start {
            executable: executable.into(),
            source,
        })?;
    let ended = wait(&mut child);
    if !ended.in_time {
        return Err(EvalError::Timeout { limit: TIME_MAX });
    }
    if ended.stdout.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(EvalError::Output {
            bytes_max: OUTPUT_BYTES_MAX,
        });
    }
    if !ended.status.as_ref().is_ok_and(ExitStatus::success) {
        return Err(ended.error());
    }
    match codec::decode("answer", &ended.stdout, OUTPUT_BYTES_MAX as usize) {
        Ok(Ok(jobs)) => Ok(jobs),
        Ok(Err(problems)) => Err(EvalError::Problems(problems)),
        Err(_) => Err(ended.error()),
    }
}

/// Opening a pipe or a device could block, or give another text each time.
fn open(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// How the child ended.
struct Ended {
    in_time: bool,
    status: io::Result<ExitStatus>,
    stdout: Vec<u8>,
    stderr: String,
}

/// Reads both pipes to their ends or limits, then makes sure that the child is
/// gone. A child that closed its pipes has its exit code already: the kill
/// then changes nothing.
fn wait(child: &mut Child) -> Ended {
    let (done, all_done) = mpsc::channel();
    let stdout = read(child.stdout.take(), OUTPUT_BYTES_MAX, done.clone());
    let stderr = read(child.stderr.take(), STDERR_BYTES_MAX, done);
    let end = Instant::now() + TIME_MAX;
    let in_time = (0..2).all(|_pipe| {
        let left = end.saturating_duration_since(Instant::now());
        all_done.recv_timeout(left).is_ok()
    });
    // Fails only if the child is gone, which is what is wanted.
    let _ = child.kill();
    let status = child.wait();
    let stderr = stderr.join().unwrap_or_default();
    Ended {
        in_time,
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Reads one byte more than allowed, so that too much is known as such, then
/// closes the pipe and says so.
fn read(
    pipe: Option<impl Read + Send + 'static>,
    bytes_max: u64,
    done: mpsc::Sender<()>,
) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What came before an error is still worth reading.
            let _ = pipe.take(bytes_max + 1).read_to_end(&mut bytes);
        }
        // The receiver is gone once the time is over.
        let _ = done.send(());
        bytes
    })
}

impl Ended {
    /// Which limit did it meet? The Rust runtime says so on standard error
    /// before it aborts; a spec can't write there.
    fn error(self) -> EvalError {
        let said = |text: &str| self.stderr.contains(text);
        let signal = self.status.as_ref().ok().and_then(ExitStatus::signal);
        if signal == Some(Signal::SIGXCPU as i32) {
            return EvalError::CpuTime {
                seconds_max: CPU_SECONDS_MAX,
            };
        }
        if said("overflowed its stack") {
            return EvalError::Stack;
        }
        if OUT_OF_MEMORY.iter().any(|text| said(text)) {
            return EvalError::Memory {
                bytes_max: ADDRESS_SPACE_BYTES_MAX,
            };
        }
        let skipped = self
            .stderr
            .chars()
            .count()
            .saturating_sub(STDERR_CHARS_TOLD);
        EvalError::Crashed {
            status: match self.status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            stderr: self.stderr.trim_end().chars().skip(skipped).collect(),
        }
    }
}

/// The child's side: sets its own limits, evaluates the text on standard input
/// (`path` is only its name), writes the result to standard output and returns
/// the exit code. Call it first thing in `main`, before any runtime or thread
/// is started.
pub fn child_main(path: &Path) -> u8 {
    match child(path.to_string_lossy().into_owned()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn child(name: String) -> io::Result<()> {
    setrlimit(
        Resource::RLIMIT_AS,
        ADDRESS_SPACE_BYTES_MAX,
        ADDRESS_SPACE_BYTES_MAX,
    )?;
    setrlimit(Resource::RLIMIT_CPU, CPU_SECONDS_MAX, CPU_SECONDS_MAX + 1)?;
    setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX, DESCRIPTORS_MAX)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let evaluation = thread::Builder::new()
        .name("evaluate".into())
        .stack_size(STACK_BYTES)
        .spawn(move || answer(&name))?;
    let answer = evaluation
        .join()
        .map_err(|_| io::Error::other("the evaluator panicked"))??;
    io::stdout().write_all(&codec::encode(&answer))
}

fn answer(name: &str) -> io::Result<Answer> {
    let mut source = Vec::new();
    io::stdin()
        .take(SOURCE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut source)?;
    if source.len() > SOURCE_BYTES_MAX {
        return Ok(Err(vec![too_long(name)]));
    }
    let Ok(source) = String::from_utf8(source) else {
        let message = "the file is not UTF-8 text".into();
        return Ok(Err(vec![Problem::of_file(
            name,
            ProblemKind::Syntax,
            message,
        )]));
    };
    Ok(evaluate(&source, name))
}
