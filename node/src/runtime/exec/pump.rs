//! Carries the bytes of one session between the person's connection and the
//! near ends of the task's pipes, or of a server of ssh.
//!
//! ```text
//! connection ─▶ hear ─▶ (at most a window) ─▶ feed ─▶ standard input
//! connection ◀─ tell ◀─ (a few chunks) ◀─ drain ×2 ◀─ output, errors
//!                 ▲─ taken, alive, end
//! ```
//!
//! Each part waits for one thing only, so none holds up another: `hear` goes
//! on while the command does not read, and the task is held up, by its full
//! pipe, while the person does not. All run in one future; whatever ends it
//! drops the near ends, and with them the session.

use crate::{
    agent::{Pipe, TaskSession},
    api::{
        client::Transport,
        exec::{
            ALIVE_EVERY, CHUNK_BYTES, INPUT_COST_MIN, INPUT_WINDOW_BYTES, SILENCE_MAX,
            SessionInput, SessionOutput, input_cost,
        },
        frame,
        protocol::ApiFrame,
    },
};
use potluck_helper::session::{CODE_LOST, SessionReport, WindowSize};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, split},
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Chunks of output that wait for the connection.
const CHUNKS_QUEUED_MAX: usize = 4;

/// For how long no output may come when the session is over: nobody of it
/// lives, but somebody else in the task may hold its pipe.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How a session went that ended with its command.
const ENDED: &str = "ended";

/// Messages of input at most in the window, and some ends of it.
const INPUTS_MAX: usize = INPUT_WINDOW_BYTES / INPUT_COST_MIN + 16;

/// How a session went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// `ended`, or why it was cut off.
    pub(super) how: String,
    /// The command's code.
    pub(super) code: Option<u8>,
    /// Bytes that the person sent.
    pub(super) bytes_in: u64,
    /// Bytes that the person got.
    pub(super) bytes_out: u64,
}

/// What the parts share.
#[derive(Default)]
struct Counts {
    /// What the input cost that the command has taken.
    taken: AtomicU64,
    /// The same, as far as the person has been told.
    told: AtomicU64,
    /// Input that has come.
    come: AtomicU64,
    out: AtomicU64,
    is_taken: Notify,
    /// The command's code, or why there is none; once it is over.
    end: Mutex<Option<Result<u8, String>>>,
}

/// The near ends of what a person's bytes go to.
pub(super) struct Pipes {
    pub(super) input: Option<Pipe>,
    pub(super) output: Option<Pipe>,
    pub(super) errors: Option<Pipe>,
}

/// Carries a session in a task to its end.
pub(super) async fn carry_task(mut task: TaskSession, stream: Box<dyn Transport>) -> Outcome {
    let pipes = Pipes {
        input: task.input.take(),
        output: task.output.take(),
        errors: task.errors.take(),
    };
    let resize = |size| task.control.resize(size);
    carry(pipes, ended(&task), resize, stream).await
}

/// Carries a session until `ended` tells its code, or why there is none.
pub(super) async fn carry(
    pipes: Pipes,
    ended: impl Future<Output = Result<u8, String>>,
    resize: impl Fn(WindowSize),
    stream: Box<dyn Transport>,
) -> Outcome {
    let (mut read, mut write) = split(stream);
    let counts = Counts::default();
    let (to_input, input) = mpsc::channel(INPUTS_MAX);
    let (to_person, output) = mpsc::channel(CHUNKS_QUEUED_MAX);
    let hear = hear(&mut read, resize, to_input, &counts);
    let feed = feed(pipes.input, input, &counts);
    let over = CancellationToken::new();
    let drained = futures::future::join(
        drain(
            pipes.output,
            SessionOutput::Output,
            to_person.clone(),
            &over,
        ),
        drain(
            pipes.errors,
            SessionOutput::Errors,
            to_person.clone(),
            &over,
        ),
    );
    let ending = async {
        let ended = async {
            let ended = ended.await;
            over.cancel();
            ended
        };
        // Its writers are gone then: what is in the pipes is all there is.
        let (ended, _) = futures::future::join(ended, drained).await;
        *counts.end.lock().expect("no one panics with this lock") = Some(ended.clone());
        drop(to_person);
        ended
    };
    let work = async {
        // `tell` ends when all output is told, which `ending` lets go of.
        let (ended, told) = futures::future::join(ending, tell(&mut write, output, &counts)).await;
        match (ended, told) {
            (Ok(_), Ok(())) => ENDED.to_string(),
            (Err(why), Ok(())) => why,
            (_, Err(why)) => why,
        }
    };
    let how = tokio::select! {
        biased;
        how = work => how,
        why = hear => why,
        () = feed => unreachable!("feeding ends with hearing"),
    };
    // What was said is said to the end before the connection goes.
    let _ = write.shutdown().await;
    let end = counts.end.lock().expect("no one panics with this lock");
    let code = end.as_ref().and_then(|end| end.as_ref().ok().copied());
    Outcome {
        code: code.filter(|_| how == ENDED),
        how,
        bytes_in: counts.come.load(Ordering::Relaxed),
        bytes_out: counts.out.load(Ordering::Relaxed),
    }
}

/// Takes what the person says; why there is no more.
async fn hear(
    read: &mut (impl AsyncRead + Unpin),
    resize: impl Fn(WindowSize),
    to_input: mpsc::Sender<Option<Vec<u8>>>,
    counts: &Counts,
) -> String {
    let broken = || "the client broke the protocol".to_string();
    let mut cost = 0;
    loop {
        let heard = match timeout(SILENCE_MAX, frame::read::<SessionInput>(read)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(error)) => return format!("the client is gone: {error}"),
            Err(_) => return "the client fell silent".into(),
        };
        let sent = match heard {
            SessionInput::Input(bytes) => {
                counts.come.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                cost += input_cost(bytes.len());
                let open = cost.saturating_sub(counts.taken.load(Ordering::Relaxed));
                if open > INPUT_WINDOW_BYTES as u64 {
                    return broken();
                }
                to_input.try_send(Some(bytes))
            }
            SessionInput::End => to_input.try_send(None),
            SessionInput::Resize(size) => {
                resize(size);
                Ok(())
            }
            SessionInput::Alive | SessionInput::Unknown => Ok(()),
        };
        if sent.is_err() {
            return broken();
        }
    }
}

/// Gives the command its input. Never ends by itself, since a command that
/// does not read any more may still work.
async fn feed(mut pipe: Option<Pipe>, mut input: mpsc::Receiver<Option<Vec<u8>>>, counts: &Counts) {
    while let Some(next) = input.recv().await {
        let Some(bytes) = next else {
            if let Some(pipe) = pipe.take() {
                pipe.end();
            }
            continue;
        };
        if let Some(open) = &pipe
            && open.write_all(&bytes).await.is_err()
        {
            pipe = None;
        }
        counts
            .taken
            .fetch_add(input_cost(bytes.len()), Ordering::Relaxed);
        counts.is_taken.notify_one();
    }
    std::future::pending().await
}

/// Passes one stream of output on until it ends, or until the session is over
/// and nothing has come for a while.
async fn drain(
    pipe: Option<Pipe>,
    wrap: fn(Vec<u8>) -> SessionOutput,
    to_person: mpsc::Sender<SessionOutput>,
    over: &CancellationToken,
) {
    let Some(pipe) = pipe else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let quiet = async {
            over.cancelled().await;
            sleep(DRAIN_LIMIT).await;
        };
        let length = tokio::select! {
            read = pipe.read(&mut buffer) => read.unwrap_or(0),
            () = quiet => 0,
        };
        if length == 0 {
            return;
        }
        if to_person
            .send(wrap(buffer[..length].to_vec()))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The code of the command, or why there is none.
async fn ended(task: &TaskSession) -> Result<u8, String> {
    loop {
        match task.control.report().await {
            Ok(Some((SessionReport::Ended { code }, _))) => return Ok(code),
            Ok(Some(_)) => {}
            Ok(None) => return Err("the session was killed, or its task ended".into()),
            Err(error) => return Err(format!("the session's socket failed: {error}")),
        }
    }
}

/// Writes to the person until all is told.
async fn tell(
    write: &mut (impl AsyncWrite + Unpin),
    mut output: mpsc::Receiver<SessionOutput>,
    counts: &Counts,
) -> Result<(), String> {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    say(write, SessionOutput::Started).await?;
    loop {
        let next = tokio::select! {
            next = output.recv() => next,
            () = counts.is_taken.notified() => {
                tell_taken(write, counts).await?;
                continue;
            }
            _ = alive.tick() => Some(SessionOutput::Alive),
        };
        let Some(next) = next else { break };
        if let SessionOutput::Output(bytes) | SessionOutput::Errors(bytes) = &next {
            counts.out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        say(write, next).await?;
    }
    let end = counts
        .end
        .lock()
        .expect("no one panics with this lock")
        .clone();
    let last = match end {
        Some(Ok(code)) => SessionOutput::Ended { code },
        Some(Err(why)) => SessionOutput::Failed {
            why,
            code: CODE_LOST,
        },
        None => return Ok(()),
    };
    say(write, last).await
}

async fn tell_taken(write: &mut (impl AsyncWrite + Unpin), counts: &Counts) -> Result<(), String> {
    let taken = counts.taken.load(Ordering::Relaxed);
    let told = counts.told.swap(taken, Ordering::Relaxed);
    say(write, SessionOutput::Taken(taken - told)).await
}

/// A person who does not read may take long, a host that is gone for ever.
async fn say(write: &mut (impl AsyncWrite + Unpin), what: SessionOutput) -> Result<(), String> {
    let written = frame::write(write, &ApiFrame::Session(what)).await;
    written.map_err(|error| format!("the client is gone: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::{fd::OwnedFd, unix::net::UnixStream};
    use tokio::{io::AsyncReadExt, sync::oneshot};

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A person who types for long uses their window up key by key, and gets
    /// all of it back.
    #[tokio::test]
    async fn single_bytes_give_back_what_they_cost() {
        let keys = 2 * INPUT_WINDOW_BYTES / INPUT_COST_MIN;
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut command = tokio::net::UnixStream::from_std(theirs).unwrap();
        let pipes = Pipes {
            input: Some(Pipe::new(OwnedFd::from(ours)).unwrap()),
            output: None,
            errors: None,
        };
        let (end, ended) = oneshot::channel::<()>();
        let ended = async {
            let _ = ended.await;
            Ok(5)
        };
        let (stream, person) = tokio::io::duplex(1 << 20);
        let carried = carry(pipes, ended, |_| {}, Box::new(stream));
        let reads = async {
            let mut bytes = vec![0; keys];
            command.read_exact(&mut bytes).await.unwrap();
            // The end of input reaches a socket too.
            assert_eq!(command.read(&mut bytes).await.unwrap(), 0);
            end.send(()).unwrap();
        };
        let (mut from_node, mut to_node) = split(person);
        let types = async {
            let mut window = INPUT_WINDOW_BYTES as u64;
            for _ in 0..keys {
                while window < INPUT_COST_MIN as u64 {
                    let heard = frame::read::<ApiFrame>(&mut from_node).await.unwrap();
                    if let ApiFrame::Session(SessionOutput::Taken(cost)) = heard {
                        window += cost;
                    }
                }
                window -= INPUT_COST_MIN as u64;
                let key = SessionInput::Input(vec![b'x']);
                frame::write(&mut to_node, &key).await.unwrap();
            }
            frame::write(&mut to_node, &SessionInput::End)
                .await
                .unwrap();
            loop {
                let heard = frame::read::<ApiFrame>(&mut from_node).await.unwrap();
                if let ApiFrame::Session(SessionOutput::Ended { code }) = heard {
                    break code;
                }
            }
        };
        let all = futures::future::join3(carried, reads, types);
        let (outcome, (), code) = timeout(LIMIT, all).await.expect("it ends");
        assert_eq!((outcome.code, code), (Some(5), 5));
        assert_eq!(outcome.bytes_in, keys as u64);
    }
}
