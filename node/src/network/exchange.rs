//! One message out, one back, on a substream: requests and joins. A substream
//! of requests carries one after the other; the asking side keeps a few.
//!
//! ```text
//! message: length (u32, big endian), bytes
//! answer:  status (u8), and for `Answer`: length, bytes
//! ```
//!
//! Every length is checked before anything is read. Unlike libp2p's own
//! request-response, a full queue or a message that is too large is said to
//! the caller instead of ending its substream.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use potluck_specs::{codec, trust::NodeCertificate};
use tokio::sync::{mpsc, oneshot};

use super::{
    ExchangeError, Holder, InboundJoin, InboundRequest, LinkError, Refusal, RefusalCode,
    RequestError, gate::Gate, shared::Shared,
};
use crate::wire::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response};

/// A token, a key and an address one way; certificates, gossip keys and the
/// list of members the other.
pub(super) const JOIN_BYTES_MAX: u64 = 64 << 10;

/// How long a peer may take to send its message: one MiB at 100 KB/s.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// How long a substream may wait for its next request.
const NEXT_LIMIT: Duration = Duration::from_secs(60);

/// How long we may take to answer; longer than any caller waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long a peer may take to read our answer.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// What comes before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// It follows.
    Answer = 0,
    /// The queue is full; nothing was done.
    Busy = 1,
    /// The message is too large; it was not read.
    TooLarge = 2,
    /// Nobody serves this protocol now; nothing was done.
    NotServed = 3,
    /// Whoever took the message gave no answer.
    NoAnswer = 4,
}

impl Status {
    fn from_byte(byte: u8) -> Option<Status> {
        [
            Status::Answer,
            Status::Busy,
            Status::TooLarge,
            Status::NotServed,
            Status::NoAnswer,
        ]
        .into_iter()
        .find(|status| *status as u8 == byte)
    }
}

pub(super) async fn write_frame<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> io::Result<()> {
    stream.write_all(&frame(&[], bytes)).await?;
    stream.flush().await
}

pub(super) async fn read_frame<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes_max: u64,
) -> io::Result<Vec<u8>> {
    let length = read_length(stream).await?;
    if length > bytes_max {
        let text = format!("a message of {length} bytes, at most {bytes_max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    read_body(stream, length).await
}

/// One buffer, so that a small message is one packet.
fn frame(head: &[u8], bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("sizes were checked against small limits");
    [head, &length.to_be_bytes(), bytes].concat()
}

async fn read_length<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<u64> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    Ok(u32::from_be_bytes(length).into())
}

async fn read_body<S: AsyncRead + Unpin>(stream: &mut S, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

pub(super) fn check_size(bytes: usize, bytes_max: u64) -> Result<(), ExchangeError> {
    if bytes as u64 > bytes_max {
        return Err(ExchangeError::TooLarge { bytes, bytes_max });
    }
    Ok(())
}

pub(super) fn encode_request(request: &Request) -> Result<Vec<u8>, RequestError> {
    let bytes = codec::encode(request);
    check_size(bytes.len(), REQUEST_BYTES_MAX)?;
    Ok(bytes)
}

/// The asking side of `/potluck/rpc/1`.
pub(super) async fn request(
    stream: &mut libp2p::Stream,
    request: &[u8],
) -> Result<Response, RequestError> {
    let answer = exchange(stream, request, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX).await?;
    codec::decode("response", &answer, answer.len())
        .map_err(|error| ExchangeError::Malformed(error.to_string()))
}

/// The asking side of either protocol, with the protocol's limits.
pub(super) async fn exchange(
    stream: &mut libp2p::Stream,
    message: &[u8],
    message_bytes_max: u64,
    answer_bytes_max: u64,
) -> Result<Vec<u8>, ExchangeError> {
    write_frame(stream, message)
        .await
        .map_err(ExchangeError::Lost)?;
    let mut status = [0];
    let read = stream.read_exact(&mut status).await;
    read.map_err(ExchangeError::Lost)?;
    match Status::from_byte(status[0]) {
        Some(Status::Answer) => read_frame(stream, answer_bytes_max)
            .await
            .map_err(ExchangeError::Lost),
        Some(Status::Busy) => Err(ExchangeError::Busy),
        Some(Status::TooLarge) => Err(ExchangeError::TooLarge {
            bytes: message.len(),
            bytes_max: message_bytes_max,
        }),
        Some(Status::NotServed) => Err(ExchangeError::NotServed),
        Some(Status::NoAnswer) => Err(ExchangeError::NoAnswer),
        None => Err(ExchangeError::Malformed(format!("status {}", status[0]))),
    }
}

/// A request to ourselves: the same queue, without the wire.
pub(super) async fn request_self(
    shared: &Shared,
    request: Request,
) -> Result<Response, RequestError> {
    let certificate = shared.gatekeeper.own_certificate().ok_or_else(|| {
        let text = "this process has no node certificate";
        LinkError::NotAdmitted(Refusal::new(RefusalCode::Stranger, text))
    })?;
    let place = reserve(&shared.requests).map_err(|status| match status {
        Status::Busy => ExchangeError::Busy,
        _ => ExchangeError::NotServed,
    })?;
    let (answer, answered) = oneshot::channel();
    place.send(InboundRequest {
        from: shared.me,
        certificate,
        request,
        answer,
    });
    answered.await.map_err(|_| ExchangeError::NoAnswer)
}

fn reserve<T>(queue: &mpsc::Sender<T>) -> Result<mpsc::Permit<'_, T>, Status> {
    queue.try_reserve().map_err(|error| match error {
        mpsc::error::TrySendError::Full(()) => Status::Busy,
        mpsc::error::TrySendError::Closed(()) => Status::NotServed,
    })
}

/// The answering side of `/potluck/rpc/1`: one request after the other, each
/// of a peer that is admitted at that moment.
pub(super) async fn serve_requests(
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    mut stream: libp2p::Stream,
) {
    let mut first_byte_limit = READ_LIMIT;
    loop {
        let length = tokio::time::timeout(first_byte_limit, read_length(&mut stream)).await;
        let Ok(Ok(length)) = length else {
            return; // Not kept by the asking side, or gone.
        };
        let Some(bytes) = receive(&mut stream, length, REQUEST_BYTES_MAX).await else {
            return;
        };
        let holder = gate.holder();
        let Some(Holder::Node(certificate)) = holder.as_deref() else {
            return; // The gate closed, or never was open to this protocol.
        };
        if !serve_request(&shared, certificate, &mut stream, &bytes).await {
            return;
        }
        first_byte_limit = NEXT_LIMIT;
    }
}

/// Is the substream good for another request?
async fn serve_request(
    shared: &Shared,
    certificate: &NodeCertificate,
    stream: &mut libp2p::Stream,
    bytes: &[u8],
) -> bool {
    let request = match codec::decode("request", bytes, bytes.len()) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(%error, from = %certificate.node, "request not understood");
            send_last(stream, Ok(codec::encode(&Response::Unsupported))).await;
            return false;
        }
    };
    let (answer, answered) = oneshot::channel();
    match reserve(&shared.requests) {
        Ok(place) => place.send(InboundRequest {
            from: certificate.node,
            certificate: certificate.clone(),
            request,
            answer,
        }),
        Err(status) => {
            refuse(shared, stream, status).await;
            return false;
        }
    }
    shared.counters.requests_in.add();
    let answer = wait(answered)
        .await
        .map(|response| codec::encode(&response));
    match limit(answer, RESPONSE_BYTES_MAX) {
        Ok(answer) => send(stream, Ok(answer)).await,
        Err(status) => {
            send_last(stream, Err(status)).await;
            false
        }
    }
}

/// The answering side of `/potluck/join/1`.
pub(super) async fn serve_join(
    shared: Arc<Shared>,
    from: potluck_specs::NodeId,
    address: std::net::SocketAddr,
    mut stream: libp2p::Stream,
) {
    let length = tokio::time::timeout(READ_LIMIT, read_length(&mut stream)).await;
    let Ok(Ok(length)) = length else {
        return;
    };
    let Some(payload) = receive(&mut stream, length, JOIN_BYTES_MAX).await else {
        return;
    };
    let (answer, answered) = oneshot::channel();
    match reserve(&shared.joins) {
        Ok(place) => place.send(InboundJoin {
            from,
            address,
            payload,
            answer,
        }),
        Err(status) => return refuse(&shared, &mut stream, status).await,
    }
    let answer = wait(answered).await;
    send_last(&mut stream, limit(answer, JOIN_BYTES_MAX)).await;
}

/// Says `busy` without reading the message.
pub(super) async fn serve_busy(shared: Arc<Shared>, mut stream: libp2p::Stream) {
    refuse(&shared, &mut stream, Status::Busy).await;
}

async fn refuse(shared: &Shared, stream: &mut libp2p::Stream, status: Status) {
    if status == Status::Busy {
        shared.counters.busy.add();
    }
    send_last(stream, Err(status)).await;
}

/// The rest of a message; none if the peer is too slow, gone, or sent too much, of
/// which it is told.
async fn receive(stream: &mut libp2p::Stream, length: u64, bytes_max: u64) -> Option<Vec<u8>> {
    if length > bytes_max {
        send_last(stream, Err(Status::TooLarge)).await;
        return None;
    }
    match tokio::time::timeout(READ_LIMIT, read_body(stream, length)).await {
        Ok(Ok(bytes)) => Some(bytes),
        Ok(Err(error)) => {
            tracing::debug!(%error, "message broke off");
            None
        }
        Err(_) => {
            tracing::debug!("message took too long");
            None
        }
    }
}

async fn wait<T>(answered: oneshot::Receiver<T>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER_LIMIT, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(Status::NoAnswer),
    }
}

fn limit(answer: Result<Vec<u8>, Status>, bytes_max: u64) -> Result<Vec<u8>, Status> {
    let answer = answer?;
    if answer.len() as u64 > bytes_max {
        tracing::error!(
            bytes = answer.len(),
            bytes_max,
            "answer is too large to send"
        );
        return Err(Status::NoAnswer);
    }
    Ok(answer)
}

/// Sends an answer, or the status that stands for none. Did it leave?
async fn send(stream: &mut libp2p::Stream, answer: Result<Vec<u8>, Status>) -> bool {
    let bytes = match answer {
        Ok(answer) => frame(&[Status::Answer as u8], &answer),
        Err(status) => vec![status as u8],
    };
    let sent = tokio::time::timeout(WRITE_LIMIT, async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    });
    match sent.await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "answer not sent");
            false
        }
        Err(_) => {
            tracing::debug!("answer not read in time");
            false
        }
    }
}

/// The same, and nothing after it.
async fn send_last(stream: &mut libp2p::Stream, answer: Result<Vec<u8>, Status>) {
    if send(stream, answer).await {
        let closed = tokio::time::timeout(WRITE_LIMIT, stream.close());
        let _ = closed.await;
    }
}
