//! `potluck exec`: a command in a task, from any node, with streams or with
//! the person's terminal.

use super::{
    args::{ExecArgs, Global},
    connect::{Session, connect},
    output,
    session::{self, End, Input, Output, Wish},
    terminal::{self, Raw},
};
use crate::{
    api::{
        client::unexpected,
        error::{ApiError, ErrorCode},
        exec::{CHUNK_BYTES, Wanted},
        logs::LogTarget,
        protocol::{ApiAnswer, ApiRequest},
    },
    spawn::spawn,
};
use potluck_helper::session::{CODE_LOST, WindowSize};
use potluck_specs::{JobName, SlotId};
use std::{
    io::{IsTerminal, Read, Write},
    process::ExitCode,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Chunks that wait between a thread and the connection.
const CHUNKS_WAITING: usize = 2;

/// Signals that end this program, and with it the session; the terminal is
/// set right first.
const ENDING: [SignalKind; 4] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
    SignalKind::quit(),
];

/// `potluck exec TASK -- COMMAND`.
pub(super) async fn exec(args: ExecArgs, global: &Global) -> Result<ExitCode, ApiError> {
    if args.tty && !std::io::stdin().is_terminal() {
        let message = "standard input is not a terminal, so -t can't be had";
        return Err(ApiError::new(ErrorCode::BadRequest, message)
            .hint("leave -t away; -i alone passes standard input on"));
    }
    let mut session = connect(global).await?;
    let slot = the_task(&mut session, &args.task).await?;
    let wish = Wish {
        slot: slot.clone(),
        work: Wanted::Command(args.command.clone()),
        terminal: args.tty.then(terminal::size),
        term: args.tty.then(|| std::env::var("TERM").ok()).flatten(),
        tools: args.tools,
        debug: args.debug,
    };
    let mut signals = Vec::new();
    for kind in ENDING {
        signals.push((kind, signal(kind).map_err(|error| no_signal(&error))?));
    }
    let raw = match args.tty && args.interactive {
        true => Some(Raw::enter()?),
        false => None,
    };
    let sizes = match args.tty {
        true => resizes()?,
        false => mpsc::channel(1).1,
    };
    let (printer, printed) = printer();
    let carried = session::carry(session, wish, input(args.interactive), sizes, printer);
    let signalled = futures::future::select_all(signals.iter_mut().map(|(kind, signal)| {
        Box::pin(async move {
            signal.recv().await;
            *kind
        })
    }));
    let end = tokio::select! {
        end = carried => end,
        (kind, ..) = signalled => {
            drop(raw);
            let code = 128 + kind.as_raw_value();
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(CODE_LOST)));
        }
    };
    // All output is out before the code says that it is.
    let _ = printed.await;
    drop(raw);
    Ok(tell(end?, &slot, args.tools, global))
}

/// The task that is meant: of a job with one task, that one.
async fn the_task(session: &mut Session, target: &LogTarget) -> Result<SlotId, ApiError> {
    let LogTarget { job, index } = target.clone();
    if let Some(index) = index {
        return Ok(SlotId { job, index });
    }
    let asked = ApiRequest::Jobs {
        job: Some(job.clone()),
    };
    match session.client.ask(&asked).await? {
        ApiAnswer::Jobs(jobs) => {
            let tasks = jobs.into_iter().flat_map(|job| job.tasks);
            only(&job, tasks.map(|task| task.slot).collect())
        }
        other => Err(unexpected(&other)),
    }
}

fn only(job: &JobName, tasks: Vec<SlotId>) -> Result<SlotId, ApiError> {
    match &tasks[..] {
        [one] => Ok(one.clone()),
        [] => Err(
            ApiError::new(ErrorCode::NotFound, format!("job {job} has no tasks now"))
                .hint(format!("see why with: potluck status {job}")),
        ),
        [first, ..] => {
            let message = format!("job {job} has {} tasks: name one of them", tasks.len());
            Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint(format!("for example: potluck exec '{first}' -- COMMAND")))
        }
    }
}

fn no_signal(error: &std::io::Error) -> ApiError {
    ApiError::new(
        ErrorCode::Internal,
        format!("signals can't be watched: {error}"),
    )
}

fn tell(end: End, slot: &SlotId, tools: bool, global: &Global) -> ExitCode {
    match end {
        End::Code(code) => ExitCode::from(code),
        // Nobody reads: as a program that writes into a closed pipe.
        End::Unwanted => ExitCode::from(128 + 13),
        End::Failed { why, code } => {
            let mut error = ApiError::new(ErrorCode::Failed, format!("{slot}: {why}"));
            if code == potluck_helper::session::CODE_NOT_FOUND && !tools {
                error = error.hint(
                    "a task whose files have no such program can be given the node's: \
                     potluck exec --tools",
                );
            }
            super::exit::fail_as(&error, code, global.output)
        }
        End::Lost(why) => {
            let message = format!("the connection was lost: {why}");
            let error = ApiError::new(ErrorCode::Unavailable, message)
                .hint("the command has been ended, or its node is gone; how it ended is not known");
            super::exit::fail_as(&error, CODE_LOST, global.output)
        }
    }
}

/// Standard input, read by a thread that nobody waits for: a read of a
/// terminal can't be taken back.
pub(super) fn input(wanted: bool) -> mpsc::Receiver<Input> {
    let (to, input) = mpsc::channel(CHUNKS_WAITING);
    if !wanted {
        // Its end is the end of input.
        return input;
    }
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if to
                        .blocking_send(Input::Bytes(buffer[..length].to_vec()))
                        .is_err()
                    {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    output::warn(&format!("standard input can't be read: {error}"));
                    break;
                }
            }
        }
    };
    std::thread::spawn(read);
    input
}

/// The terminal's new sizes.
fn resizes() -> Result<mpsc::Receiver<WindowSize>, ApiError> {
    let (to, sizes) = mpsc::channel(1);
    let mut changes = signal(SignalKind::window_change()).map_err(|error| no_signal(&error))?;
    spawn("window size", async move {
        while changes.recv().await.is_some() {
            if to.send(terminal::size()).await.is_err() {
                return;
            }
        }
    });
    Ok(sizes)
}

/// Prints what comes, in a thread: writing may wait for as long as a person
/// looks at a page. Ends when all is printed, or nobody reads.
fn printer() -> (mpsc::Sender<Output>, tokio::task::JoinHandle<()>) {
    let (to, mut outputs) = mpsc::channel::<Output>(CHUNKS_WAITING);
    let print = move || {
        while let Some(next) = outputs.blocking_recv() {
            let written = match next {
                Output::Out(bytes) => write(std::io::stdout().lock(), &bytes),
                Output::Err(bytes) => write(std::io::stderr().lock(), &bytes),
                Output::Host(_) => Ok(()),
            };
            if written.is_err() {
                return;
            }
        }
    };
    (to, tokio::task::spawn_blocking(print))
}

fn write(mut to: impl Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_name_stands_for_its_only_task() {
        let job: JobName = "web".parse().unwrap();
        let slots = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let one = only(&job, slots(&["web[3]"])).unwrap();
        assert_eq!(one.to_string(), "web[3]");
        let none = only(&job, slots(&[])).unwrap_err();
        assert_eq!(none.code, ErrorCode::NotFound);
        let two = only(&job, slots(&["web[0]", "web[1]"])).unwrap_err();
        assert_eq!(two.code, ErrorCode::BadRequest);
        assert!(two.hint.unwrap().contains("'web[0]'"));
    }
}
