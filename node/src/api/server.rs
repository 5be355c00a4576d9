//! The node's end of a session: handshake, then one request at a time.

use super::{
    client::Transport,
    error::{ApiError, ErrorCode},
    frame::{self, FrameError},
    protocol::{API_VERSION, ApiFrame, ApiRequest, Hello, Proof, Welcome},
};
use async_trait::async_trait;
use potluck_specs::{
    Millis,
    trust::{Context, UserCertificate},
};
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, sync::mpsc, time::timeout};

/// How long a client may take for its part of the handshake: it holds a slot
/// of the session table meanwhile.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// Frames of an answer that wait for a slow client before the work behind
/// them waits too.
const FRAMES_QUEUED_MAX: usize = 16;

/// What the runtime does for sessions.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Who this node is; the challenge is fresh for each call.
    fn welcome(&self) -> Welcome;

    /// The present time, Unix.
    fn now(&self) -> Millis;

    /// Carries out a request, answering in `frames`. Ends when the client is
    /// gone (`frames` closed).
    async fn serve(&self, who: &UserCertificate, request: ApiRequest, frames: Frames);
}

/// Where the answer to a request goes.
pub type Frames = mpsc::Sender<ApiFrame>;

/// Serves one session until the client leaves.
///
/// # Errors
/// Whatever ended it other than the client's leaving.
pub async fn serve(
    mut stream: Box<dyn Transport>,
    operations: Arc<dyn Operations>,
) -> Result<(), FrameError> {
    let who = match timeout(HANDSHAKE_WAIT, handshake(&mut stream, &*operations)).await {
        Ok(Ok(Ok(who))) => who,
        Ok(Ok(Err(refusal))) => {
            return frame::write(&mut stream, &Err::<(), _>(refusal)).await;
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(FrameError::Closed),
    };
    frame::write(&mut stream, &Ok::<(), ApiError>(())).await?;
    loop {
        let request = match frame::read::<ApiRequest>(&mut stream).await {
            Ok(request) => request,
            Err(FrameError::Closed) => return Ok(()),
            Err(FrameError::Malformed(_)) => {
                frame::write(&mut stream, &ApiFrame::Unsupported).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        answer(&mut stream, &operations, &who, request).await?;
    }
}

async fn answer(
    stream: &mut Box<dyn Transport>,
    operations: &Arc<dyn Operations>,
    who: &UserCertificate,
    request: ApiRequest,
) -> Result<(), FrameError> {
    let (frames, mut queue) = mpsc::channel(FRAMES_QUEUED_MAX);
    let (mut read, mut write) = tokio::io::split(stream);
    let work = operations.serve(who, request, frames);
    let written = async {
        while let Some(frame) = queue.recv().await {
            frame::write(&mut write, &frame).await?;
        }
        Ok(())
    };
    // One request at a time: a client that says anything now has left, or
    // breaks the protocol. Its leaving, or a failed write, drops the work:
    // nothing goes on for nobody.
    tokio::select! {
        ((), written) = futures::future::join(work, written) => written,
        _ = read.read_u8() => Err(FrameError::Closed),
    }
}

async fn handshake(
    stream: &mut Box<dyn Transport>,
    operations: &dyn Operations,
) -> Result<Result<UserCertificate, ApiError>, FrameError> {
    let hello: Hello = frame::read(stream).await?;
    let welcome = operations.welcome();
    if hello.version != API_VERSION {
        let message = format!(
            "this node speaks API version {API_VERSION}, not {}",
            hello.version
        );
        return Ok(Err(ApiError::new(ErrorCode::BadRequest, message)));
    }
    let who = match hello.credential.verify(welcome.fleet, operations.now()) {
        Ok(who) => who,
        Err(error) => {
            return Ok(Err(ApiError::new(ErrorCode::Denied, error.to_string())
                .hint("ask an admin of this fleet for a new certificate")));
        }
    };
    frame::write(stream, &Ok::<_, ApiError>(&welcome)).await?;
    let proof: Proof = frame::read(stream).await?;
    let signed = [&welcome.challenge[..], &welcome.node.0].concat();
    if who
        .key
        .verify(Context::Session, &signed, &proof.signature)
        .is_err()
    {
        return Ok(Err(ApiError::new(
            ErrorCode::Denied,
            "the session's key does not match",
        )));
    }
    Ok(Ok(who))
}
