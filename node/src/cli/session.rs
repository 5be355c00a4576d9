//! The person's end of a session in a task: signs the request, and carries
//! bytes between the connection and whoever uses the session.
//!
//! `speak` and `hear` are independent of each other: a command that does not
//! read holds up neither signs of life nor changes of the terminal's size, and
//! a person who does not read holds up nothing but output.

use super::connect::Session;
use crate::{
    api::{
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::{
            ALIVE_EVERY, CHUNK_BYTES, ExecRequest, INPUT_WINDOW_BYTES, SILENCE_MAX, SessionInput,
            SessionOutput, SignedExec, SshHost, SshHostError, Wanted, input_cost,
        },
        frame,
        protocol::{ApiFrame, ApiRequest},
    },
    clock,
    identity::random,
};
use potluck_helper::session::WindowSize;
use potluck_specs::{ChangeId, SlotId, trust::PublicKey};
use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    sync::{Semaphore, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};

/// What is asked for.
pub(super) struct Wish {
    pub(super) slot: SlotId,
    pub(super) work: Wanted,
    pub(super) terminal: Option<WindowSize>,
    pub(super) term: Option<String>,
    pub(super) tools: bool,
    pub(super) debug: bool,
}

impl Wish {
    /// A copy, with nothing around it.
    pub(super) fn copy(slot: SlotId, work: Wanted) -> Wish {
        Wish {
            slot,
            work,
            terminal: None,
            term: None,
            tools: false,
            debug: false,
        }
    }
}

/// What the person's side gives.
pub(super) enum Input {
    /// At most [`CHUNK_BYTES`].
    Bytes(Vec<u8>),
    /// No more bytes.
    End,
}

/// What the person's side gets. Each may wait; output waits then.
pub(super) enum Output {
    Out(Vec<u8>),
    Err(Vec<u8>),
    /// The key that the node's server of ssh shows, believed.
    Host(PublicKey),
}

/// How a session ended that did not fail before it began.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the command's code.
    Code(u8),
    /// It could not begin in the task.
    Failed { why: String, code: u8 },
    /// The connection is gone: what became of the command is known to be its
    /// end, but not which.
    Lost(String),
    /// Nobody wants the output any more.
    Unwanted,
}

/// Asks for a session and carries it to its end.
///
/// # Errors
/// The refusal, if it does not begin.
pub(super) async fn carry(
    session: Session,
    wish: Wish,
    input: mpsc::Receiver<Input>,
    sizes: mpsc::Receiver<WindowSize>,
    output: mpsc::Sender<Output>,
) -> Result<End, ApiError> {
    let request = ExecRequest {
        id: ChangeId(random()),
        fleet: session.profile.fleet,
        cluster: session.client.welcome.cluster.clone(),
        made: clock::unix_now(),
        slot: wish.slot,
        work: wish.work,
        terminal: wish.terminal,
        term: wish.term,
        tools: wish.tools,
        debug: wish.debug,
    };
    let profile = &session.profile;
    let signed = SignedExec::new(&profile.key, profile.credential.clone(), &request);
    // The session's network lives as long as its stream.
    let Session {
        mut client,
        _network,
        ..
    } = session;
    client.send(&ApiRequest::Exec(Box::new(signed))).await?;
    let host_key = |host: &SshHost| host.verify(request.fleet, request.id, clock::unix_now());
    exchange(client.into_stream(), host_key, input, sizes, output).await
}

async fn exchange(
    stream: Box<dyn Transport>,
    host_key: impl Fn(&SshHost) -> Result<PublicKey, SshHostError>,
    input: mpsc::Receiver<Input>,
    sizes: mpsc::Receiver<WindowSize>,
    output: mpsc::Sender<Output>,
) -> Result<End, ApiError> {
    let (mut read, mut write) = split(stream);
    let window = Semaphore::new(INPUT_WINDOW_BYTES);
    tokio::select! {
        end = hear(&mut read, &window, host_key, output) => end,
        () = speak(&mut write, &window, input, sizes) => unreachable!("it waits for the end"),
    }
}

/// What the node says, to the end.
async fn hear(
    read: &mut (impl AsyncRead + Unpin),
    window: &Semaphore,
    host_key: impl Fn(&SshHost) -> Result<PublicKey, SshHostError>,
    output: mpsc::Sender<Output>,
) -> Result<End, ApiError> {
    let mut has_begun = false;
    loop {
        let lost = |why: String| match has_begun {
            true => Ok(End::Lost(why)),
            false => Err(ApiError::new(
                ErrorCode::Unavailable,
                format!("the connection was lost before the session began: {why}"),
            )
            .hint("is the task's node up? see potluck nodes")),
        };
        let heard = match timeout(SILENCE_MAX, frame::read::<ApiFrame>(read)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(error)) => return lost(super::exit::chain(&error)),
            Err(_) => return lost(format!("nothing was heard for {} s", SILENCE_MAX.as_secs())),
        };
        let output_of = match heard {
            ApiFrame::Session(SessionOutput::Output(bytes)) => Output::Out(bytes),
            ApiFrame::Session(SessionOutput::Errors(bytes)) => Output::Err(bytes),
            ApiFrame::Session(SessionOutput::Taken(cost)) => {
                let room = INPUT_WINDOW_BYTES - window.available_permits();
                window.add_permits((cost as usize).min(room));
                continue;
            }
            ApiFrame::Session(SessionOutput::Started) => {
                has_begun = true;
                continue;
            }
            ApiFrame::Session(SessionOutput::Ended { code }) => return Ok(End::Code(code)),
            ApiFrame::Session(SessionOutput::Failed { why, code }) => {
                return Ok(End::Failed { why, code });
            }
            ApiFrame::Session(SessionOutput::Alive | SessionOutput::Unknown) => continue,
            ApiFrame::Ssh(host) => match host_key(&host) {
                Ok(key) => Output::Host(key),
                Err(error) => {
                    return Err(ApiError::new(ErrorCode::Denied, super::exit::chain(&error))
                        .hint("is the clock of this host right? see date"));
                }
            },
            ApiFrame::Failure(error) => return Err(error),
            ApiFrame::Unsupported => {
                let message = "the node does not know sessions in tasks";
                return Err(ApiError::new(ErrorCode::BadRequest, message)
                    .hint("its version of potluck is older than this one: upgrade it"));
            }
            other => return Err(crate::api::client::unexpected(&other)),
        };
        if output.send(output_of).await.is_err() {
            return Ok(End::Unwanted);
        }
    }
}

/// What the person says. A connection that fails is heard of by `hear`, which
/// may still find there why.
async fn speak(
    write: &mut (impl AsyncWrite + Unpin),
    window: &Semaphore,
    mut input: mpsc::Receiver<Input>,
    mut sizes: mpsc::Receiver<WindowSize>,
) {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = None;
    let mut has_ended = false;
    loop {
        let say = tokio::select! {
            _ = alive.tick() => SessionInput::Alive,
            Some(size) = sizes.recv() => SessionInput::Resize(size),
            () = ready(&mut next, &mut input, window), if !has_ended => match next.take() {
                Some(Input::Bytes(bytes)) => SessionInput::Input(bytes),
                Some(Input::End) | None => {
                    has_ended = true;
                    SessionInput::End
                }
            },
        };
        if frame::write(write, &say).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Waits for input and for room in the window; can be dropped at any time.
async fn ready(next: &mut Option<Input>, input: &mut mpsc::Receiver<Input>, window: &Semaphore) {
    if next.is_none() {
        *next = Some(input.recv().await.unwrap_or(Input::End));
    }
    if let Some(Input::Bytes(bytes)) = next {
        debug_assert!(bytes.len() <= CHUNK_BYTES);
        let cost = u32::try_from(input_cost(bytes.len())).unwrap_or(u32::MAX);
        let room = window.acquire_many(cost).await;
        room.expect("the window is never closed").forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::duplex;

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    struct Person {
        input: mpsc::Sender<Input>,
        sizes: mpsc::Sender<WindowSize>,
        output: mpsc::Receiver<Output>,
    }

    fn person() -> (
        Person,
        mpsc::Receiver<Input>,
        mpsc::Receiver<WindowSize>,
        mpsc::Sender<Output>,
    ) {
        let (input, inputs) = mpsc::channel(64);
        let (sizes, resizes) = mpsc::channel(1);
        let (outputs, output) = mpsc::channel(1);
        let person = Person {
            input,
            sizes,
            output,
        };
        (person, inputs, resizes, outputs)
    }

    fn no_host(_: &SshHost) -> Result<PublicKey, SshHostError> {
        Err(SshHostError::Elsewhere)
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_a_word_is_never_a_success() {
        for begins in [false, true] {
            let (mut node, stream) = duplex(4_096);
            let (_person, inputs, sizes, outputs) = person();
            if begins {
                let started = ApiFrame::Session(SessionOutput::Started);
                frame::write(&mut node, &started).await.unwrap();
            }
            drop(node);
            let end = exchange(Box::new(stream), no_host, inputs, sizes, outputs);
            let end = timeout(LIMIT, end).await.expect("it ends");
            match begins {
                true => assert!(matches!(end, Ok(End::Lost(_))), "{end:?}"),
                false => assert_eq!(end.unwrap_err().code, ErrorCode::Unavailable),
            }
        }
    }

    #[tokio::test]
    async fn input_waits_for_room_and_sizes_do_not() {
        let (mut node, stream) = duplex(1 << 20);
        let (person, inputs, sizes, outputs) = person();
        let fill = INPUT_WINDOW_BYTES / CHUNK_BYTES;
        for _ in 0..=fill {
            person
                .input
                .send(Input::Bytes(vec![7; CHUNK_BYTES]))
                .await
                .unwrap();
        }
        let size = WindowSize {
            rows: 1,
            columns: 2,
        };
        let node = async {
            let mut bytes = 0;
            while bytes < fill * CHUNK_BYTES {
                if let SessionInput::Input(more) = frame::read(&mut node).await.unwrap() {
                    bytes += more.len();
                }
            }
            // The window is full: only other things come.
            person.sizes.send(size).await.unwrap();
            loop {
                match frame::read::<SessionInput>(&mut node).await.unwrap() {
                    SessionInput::Resize(got) => break assert_eq!(got, size),
                    SessionInput::Alive => {}
                    other => panic!("{other:?}"),
                }
            }
            let cost = input_cost(CHUNK_BYTES);
            let taken = ApiFrame::Session(SessionOutput::Taken(cost));
            frame::write(&mut node, &taken).await.unwrap();
            loop {
                match frame::read::<SessionInput>(&mut node).await.unwrap() {
                    SessionInput::Input(more) => break assert_eq!(more.len(), CHUNK_BYTES),
                    SessionInput::Alive => {}
                    other => panic!("{other:?}"),
                }
            }
            let ended = ApiFrame::Session(SessionOutput::Ended { code: 5 });
            frame::write(&mut node, &ended).await.unwrap();
        };
        let both = futures::future::join(
            exchange(Box::new(stream), no_host, inputs, sizes, outputs),
            node,
        );
        let (end, ()) = timeout(LIMIT, both).await.expect("it ends");
        assert_eq!(end.unwrap(), End::Code(5));
        drop(person.output);
    }
}
