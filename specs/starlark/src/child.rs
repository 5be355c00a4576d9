//! The child's side of an evaluation: it limits itself, evaluates, and knows
//! nothing but its standard streams.

use crate::{
    evaluate::{Evaluator, Files, Text},
    finding::Spot,
    label::Label,
    protocol::{self, DOCUMENT_BYTES_MAX, Reply, Say, TalkError, Task},
};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use potluck_specs::codec;
use std::{io, thread};

/// Address space of the child: the program, [`STACK_BYTES`], and some 700 MiB
/// for specs, of which good ones use ten.
pub(crate) const ADDRESS_SPACE_BYTES_MAX: u64 = 1 << 30;

/// Stack of the evaluation. The deepest text that the limits before the parser
/// let pass needs less than a tenth; deeply nested values need the rest.
const STACK_BYTES: usize = 256 << 20;

/// CPU time for each spec. Good ones take milliseconds, and the interpreter's
/// own limit on steps comes within half a second.
pub(crate) const CPU_SECONDS_MAX: u64 = 3;

/// Descriptors of the child: its streams and a few for the runtime.
const DESCRIPTORS_MAX: u64 = 16;

/// A spec whose evaluation is longer than a document is told by this code.
pub(crate) const EXIT_OUTPUT: u8 = 3;

/// The child's side of [`crate::Sandbox`]: limits itself, does what its parent
/// asks over standard input and output, and returns the exit code. Call it
/// first thing in `main`, before any runtime or thread is started.
pub fn child_main() -> u8 {
    match child() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", potluck_specs::cause::chain(&error));
            1
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ChildError {
    #[error("the evaluator can't limit itself")]
    Limit(#[source] nix::Error),
    #[error("the evaluator can't start")]
    Start(#[source] io::Error),
    #[error("the evaluator panicked")]
    Panicked,
    #[error("the evaluator can't talk to its parent")]
    Talk(#[from] TalkError),
}

fn child() -> Result<u8, ChildError> {
    let limit = |resource, most| setrlimit(resource, most, most).map_err(ChildError::Limit);
    limit(Resource::RLIMIT_AS, ADDRESS_SPACE_BYTES_MAX)?;
    limit(Resource::RLIMIT_NOFILE, DESCRIPTORS_MAX)?;
    limit(Resource::RLIMIT_CORE, 0)?;
    allow_cpu_time()?;
    let evaluation = thread::Builder::new()
        .name("evaluate".into())
        .stack_size(STACK_BYTES)
        .spawn(evaluate)
        .map_err(ChildError::Start)?;
    evaluation.join().map_err(|_| ChildError::Panicked)?
}

/// So much CPU time from now: counted in whole seconds, so up to one more.
fn allow_cpu_time() -> Result<(), ChildError> {
    let used = getrusage(UsageWho::RUSAGE_SELF).map_err(ChildError::Limit)?;
    let seconds = used.user_time().tv_sec() + used.system_time().tv_sec();
    // Never negative; only the soft limit is lowered, so that it can rise
    // again, up to what our parent was allowed itself.
    let most = u64::try_from(seconds).unwrap_or(0) + CPU_SECONDS_MAX;
    let (_, hard) = getrlimit(Resource::RLIMIT_CPU).map_err(ChildError::Limit)?;
    setrlimit(Resource::RLIMIT_CPU, most.min(hard), hard).map_err(ChildError::Limit)
}

fn evaluate() -> Result<u8, ChildError> {
    let task: Option<Task> = protocol::receive(&mut io::stdin(), DOCUMENT_BYTES_MAX)?;
    let Some(task) = task else {
        return Ok(0);
    };
    let mut files = Asking;
    let mut evaluator = match task.telling {
        true => Evaluator::telling(&mut files, task.wanted, tell),
        false => Evaluator::new(&mut files, task.wanted),
    };
    for path in &task.specs {
        allow_cpu_time()?;
        protocol::send(&mut io::stdout(), &Say::Begin)?;
        let Some(label) = Label::from_path(path) else {
            continue;
        };
        let evaluated = Say::Done(Box::new(evaluator.evaluate(&label)));
        // Not encoded whole: that may take more memory than there is.
        if codec::encode_within(&evaluated, DOCUMENT_BYTES_MAX as usize).is_none() {
            return Ok(EXIT_OUTPUT);
        }
        protocol::send(&mut io::stdout(), &evaluated)?;
    }
    Ok(0)
}

/// Says where the evaluation is. Whether the parent is still there shows when
/// it is asked for something.
fn tell(spot: Spot) {
    let _ = protocol::send(&mut io::stdout(), &Say::At(spot));
}

/// The parent's files.
struct Asking;

impl Files for Asking {
    fn read(&mut self, label: &Label) -> Result<Text, String> {
        let ask = || -> Result<Option<Reply>, TalkError> {
            protocol::send(&mut io::stdout(), &Say::read(label))?;
            protocol::receive(&mut io::stdin(), DOCUMENT_BYTES_MAX)
        };
        match ask() {
            Ok(Some(reply)) => reply,
            Ok(None) => Err("the parent is gone".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
