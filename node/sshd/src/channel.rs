//! One session's bytes, between the client's channel and the agent's stream.
//!
//! ```text
//! channel ─▶ input ─▶ speak ─▶ stream      by the agent's credit
//! channel ◀─────────── hear ◀─ stream      by the client's window
//! ```
//!
//! As in `potluck exec`, the two directions don't wait for each other. What a
//! client has to wait for is decided in [`crate::input`].

use crate::{
    frame,
    input::{INPUT_BYTES_MAX, Input},
};
use potluck_helper::session::{
    CODE_LOST, WindowSize,
    ssh::ToServer,
    stream::{
        ALIVE_EVERY, CHUNK_BYTES, INPUT_WINDOW_BYTES, SILENCE_MAX, SessionInput, SessionOutput,
        input_cost,
    },
};
use russh::{ChannelWriteHalf, server::Msg};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::{Semaphore, watch},
    time::{MissedTickBehavior, interval, timeout},
};

/// Standard error's number in the protocol.
const STDERR: Option<u32> = Some(1);

/// Carries a session to its end, and tells the client of it.
pub(crate) async fn carry(
    client: ChannelWriteHalf<Msg>,
    stream: UnixStream,
    input: Arc<Input>,
    sizes: watch::Receiver<Option<WindowSize>>,
) {
    let (mut read, mut write) = stream.into_split();
    let window = Semaphore::new(INPUT_WINDOW_BYTES);
    let mut errors = client.make_writer_ext(STDERR);
    let heard = tokio::select! {
        heard = hear(&mut read, &window, client.make_writer(), &mut errors) => heard,
        error = speak(&mut write, &window, &input, sizes) => Err(error),
        () = input.too_much() => Ok((CODE_LOST, Some(format!(
            "the command does not read: more than {} MiB wait for it",
            INPUT_BYTES_MAX >> 20
        )))),
    };
    input.close();
    let (code, why) = match heard {
        Ok(end) => end,
        Err(error) => (CODE_LOST, Some(format!("the session was lost: {error}"))),
    };
    // A client that is gone needs to know nothing.
    if let Some(why) = why {
        let _ = errors
            .write_all(format!("potluck: {why}\r\n").as_bytes())
            .await;
    }
    let _ = client.exit_status(code.into()).await;
    let _ = client.eof().await;
    let _ = client.close().await;
}

/// What comes of the session, to its end: its code, and what a person should
/// know beside it.
async fn hear(
    read: &mut (impl AsyncRead + Unpin),
    window: &Semaphore,
    mut output: impl AsyncWrite + Unpin,
    errors: &mut (impl AsyncWrite + Unpin),
) -> io::Result<(u8, Option<String>)> {
    loop {
        let heard = timeout(SILENCE_MAX, frame::read::<ToServer>(read)).await;
        let heard = heard.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let ToServer::Session(heard) = heard else {
            continue;
        };
        match heard {
            SessionOutput::Output(bytes) => output.write_all(&bytes).await?,
            SessionOutput::Errors(bytes) => errors.write_all(&bytes).await?,
            SessionOutput::Taken(cost) => {
                let room = INPUT_WINDOW_BYTES - window.available_permits();
                window.add_permits((cost as usize).min(room));
            }
            SessionOutput::Failed { why, code } => return Ok((code, Some(why))),
            SessionOutput::Ended { code } => return Ok((code, None)),
            SessionOutput::Started | SessionOutput::Alive | SessionOutput::Unknown => {}
        }
    }
}

/// What the client says; the error that ends it. The end of the stream is
/// heard of by `hear`, which may still find there why.
async fn speak(
    write: &mut (impl AsyncWrite + Unpin),
    window: &Semaphore,
    input: &Input,
    mut sizes: watch::Receiver<Option<WindowSize>>,
) -> io::Error {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut has_ended, mut has_sizes) = (false, true);
    loop {
        let say = tokio::select! {
            _ = alive.tick() => SessionInput::Alive,
            changed = sizes.changed(), if has_sizes => {
                has_sizes = changed.is_ok();
                match *sizes.borrow_and_update() {
                    Some(size) => SessionInput::Resize(size),
                    None => continue,
                }
            }
            bytes = next(input, window), if !has_ended => match bytes {
                Some(bytes) => SessionInput::Input(bytes),
                None => {
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

/// Waits for input and for the agent's credit for it; `None` at the end. Can
/// be dropped at any time.
async fn next(input: &Input, window: &Semaphore) -> Option<Vec<u8>> {
    let bytes = input.some().await.min(CHUNK_BYTES);
    if bytes == 0 {
        return None;
    }
    let cost = u32::try_from(input_cost(bytes)).unwrap_or(u32::MAX);
    let room = window.acquire_many(cost).await;
    room.expect("the window is never closed").forget();
    Some(input.take(bytes))
}
