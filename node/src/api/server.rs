//! The node's end of a session: handshake, then one request at a time.

use super::{
    client::Transport,
    error::{ApiError, ErrorCode},
    exec::SignedExec,
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

    /// Carries out a request that needs the connection itself, to its end.
    async fn take_over(
        &self,
        who: &UserCertificate,
        request: Box<SignedExec>,
        stream: Box<dyn Transport>,
    );
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
        if let ApiRequest::Exec(request) = request {
            operations.take_over(&who, request, stream).await;
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{client::Client, protocol::ApiAnswer},
        spawn::spawn,
        testing,
    };
    use potluck_specs::{NodeId, trust::Role};
    use std::future::pending;
    use tokio::{
        io::{DuplexStream, duplex},
        sync::watch,
        task::JoinHandle,
    };

    const NOW: Millis = Millis(1_800_000_000_000);

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Answers nothing for ever, and counts the requests that it works at.
    struct Patient(watch::Sender<usize>);

    struct Work<'a>(&'a watch::Sender<usize>);

    impl Drop for Work<'_> {
        fn drop(&mut self) {
            self.0.send_modify(|count| *count -= 1);
        }
    }

    #[async_trait]
    impl Operations for Patient {
        fn welcome(&self) -> Welcome {
            Welcome {
                fleet: testing::fleet(),
                cluster: "main".into(),
                node: NodeId([1; 32]),
                name: "n1".into(),
                challenge: [5; 32],
            }
        }

        fn now(&self) -> Millis {
            NOW
        }

        async fn serve(&self, _: &UserCertificate, request: ApiRequest, frames: Frames) {
            self.0.send_modify(|count| *count += 1);
            let _work = Work(&self.0);
            if let ApiRequest::Packages = request {
                let answer = Box::new(ApiAnswer::Packages(Vec::new()));
                let _ = frames.send(ApiFrame::Answer(answer)).await;
                return;
            }
            pending().await
        }

        async fn take_over(&self, _: &UserCertificate, _: Box<SignedExec>, _: Box<dyn Transport>) {
            unreachable!("no session in a task is asked for here")
        }
    }

    /// A session at work at a request that is never answered.
    async fn session() -> (
        Client,
        JoinHandle<Result<(), FrameError>>,
        watch::Receiver<usize>,
    ) {
        let (near, far): (DuplexStream, DuplexStream) = duplex(1 << 16);
        let (works, mut count) = watch::channel(0);
        let operations = Arc::new(Patient(works));
        let server = spawn("test session", serve(Box::new(far), operations));
        let (key, credential) = testing::person(Role::Viewer, NOW);
        let mut client = Client::open(Box::new(near), &key, credential)
            .await
            .unwrap();
        let first = client.ask(&ApiRequest::Packages).await;
        assert!(matches!(first, Ok(ApiAnswer::Packages(_))), "{first:?}");
        client.send(&ApiRequest::Info).await.unwrap();
        let at_work = count.wait_for(|count| *count == 1);
        timeout(LIMIT, at_work).await.expect("it works").unwrap();
        (client, server, count)
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_request_and_its_session() {
        let (client, server, mut count) = session().await;
        drop(client);
        let ended = timeout(LIMIT, server).await.expect("the session ends");
        assert!(matches!(ended.unwrap(), Err(FrameError::Closed)));
        let dropped = count.wait_for(|count| *count == 0);
        timeout(LIMIT, dropped)
            .await
            .expect("its work is dropped")
            .ok();
    }
}
