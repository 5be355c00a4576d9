//! Requests between two nodes that don't reach each other, carried by a third.
//!
//! ```text
//! sender --Relay(to, letter)--> carrier --Relayed(letter)--> receiver
//! sender <--Relayed(letter)---- carrier <--Relayed(letter)-- receiver
//! ```
//!
//! Answers for carrying within bounds, for one hop, what belongs to a session:
//! heartbeats one way, orders the other. The carrier is not believed: each
//! letter is signed by who wrote it (`letter`), and what it asks is judged as
//! if its writer had asked itself. Leaves to `potluck_core::relay` when a
//! session goes this way, and what comes too late. What a carrier can do is what
//! a network can: delay for a moment, and lose.

mod letter;

pub use letter::Letter;
use letter::{Content, Kind, LETTER_BYTES_MAX, Seen};

use super::{claims, dispatch, shared::Shared};
use crate::{
    clock,
    network::{ExchangeError, RequestError},
    wire::{Request, Response},
};
use potluck_core::relay::{
    Vias, Way,
    carrier::{Carrier, LETTERS_MAX, SESSIONS_EACH_MAX, SESSIONS_MAX},
    echo::{Token, Tokens},
};
use potluck_specs::{NodeId, codec, trust::NodeCertificate};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a carrier waits for the receiver: less than any sender waits for
/// the carrier.
const CARRY_WAIT: Duration = Duration::from_millis(1_200);

/// What a node knows of carried requests, in each of the three parts.
#[derive(Default)]
pub(super) struct Relays {
    /// As a scheduler: through whom hosts are reached.
    vias: Mutex<Vias>,
    /// As a receiver: letters that came.
    seen: Mutex<Seen>,
    /// As a sender: the last letter's number.
    last: AtomicU64,
    /// As a sender: what receivers want echoed.
    tokens: Mutex<Tokens>,
    /// As a carrier.
    carrier: Mutex<Carrier>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Relays {
    /// Who carries this host's session, if this node heard it so just now.
    pub(super) fn via(&self, host: NodeId) -> Option<NodeId> {
        lock(&self.vias).of(host, clock::boot_now())
    }

    /// Rises with each letter and from process to process, as time does.
    fn number(&self) -> u64 {
        let least = clock::unix_now().0 << 16;
        let next = |last: u64| Some((last + 1).max(least));
        let before = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        (before.unwrap_or(0) + 1).max(least)
    }
}

/// Why a letter is refused.
#[derive(Debug, thiserror::Error)]
enum NotCarried {
    #[error(
        "this node carries as many sessions as it may ({SESSIONS_MAX}, {SESSIONS_EACH_MAX} of one \
         node)"
    )]
    Full,
    #[error("as many letters are under way as may be ({LETTERS_MAX}, shared out by sender)")]
    Busy,
    #[error("the letter has {0} bytes, {LETTER_BYTES_MAX} may be carried")]
    TooLarge(usize),
    #[error("a node carries letters of others between others")]
    NotBetweenOthers,
    #[error("the receiver can't be reached from here either")]
    NotReached(#[source] RequestError),
    #[error("the receiver does not take letters")]
    NotTaken,
}

/// May this be carried? What a session is made of; nothing that asks on.
fn may_be_carried(request: &Request) -> bool {
    matches!(
        request,
        Request::Heartbeat { .. }
            | Request::Introduce(_)
            | Request::Revocations
            | Request::Greet(_)
            | Request::Call(_)
            | Request::Award(_)
            | Request::Cancel { .. }
            | Request::Stop(_)
    )
}

/// Asks a node; one whose session is carried is asked the same way.
///
/// # Errors
/// The network's.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    to: NodeId,
    request: Request,
    limit: Duration,
) -> Result<Response, RequestError> {
    match shared.relays.via(to) {
        Some(by) if may_be_carried(&request) => ask_through(shared, by, to, request, limit).await,
        _ => shared.ask(to, request, limit).await,
    }
}

/// Asks a node this way.
///
/// # Errors
/// The network's.
pub(super) async fn ask_by(
    shared: &Arc<Shared>,
    way: Way,
    to: NodeId,
    request: Request,
    limit: Duration,
) -> Result<Response, RequestError> {
    match way {
        Way::Straight => shared.ask(to, request, limit).await,
        Way::Through(by) => ask_through(shared, by, to, request, limit).await,
    }
}

/// Asks a node through another.
///
/// # Errors
/// The network's, of the way to the carrier; [`ExchangeError::NoAnswer`] if
/// the carrier brings none that the receiver signed.
async fn ask_through(
    shared: &Arc<Shared>,
    by: NodeId,
    to: NodeId,
    request: Request,
    limit: Duration,
) -> Result<Response, RequestError> {
    let body = codec::encode(&request);
    if body.len() > LETTER_BYTES_MAX {
        return Err(ExchangeError::TooLarge {
            bytes: body.len(),
            bytes_max: LETTER_BYTES_MAX as u64,
        });
    }
    let asked = async {
        // Without a token that is fresh it comes back with one.
        match exchange(shared, by, to, body.clone(), limit).await? {
            Some(response) => Ok(response),
            None => {
                let again = exchange(shared, by, to, body, limit).await?;
                again.ok_or(ExchangeError::NoAnswer)
            }
        }
    };
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| ExchangeError::Timeout)?
}

/// One letter and its answer; nothing if it was not taken for lack of a fresh
/// token, which has come with the answer.
async fn exchange(
    shared: &Arc<Shared>,
    by: NodeId,
    to: NodeId,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Option<Response>, RequestError> {
    let number = shared.relays.number();
    let echo = lock(&shared.relays.tokens).of(to);
    let letter = write(shared, to, number, Kind::Request { echo }, body);
    let asked = Request::Relay {
        to,
        letter: Box::new(letter),
    };
    let letter = match shared.network.request(by, asked, limit).await? {
        Response::Relayed(letter) => letter,
        other => {
            tracing::debug!(%by, %to, answer = ?other, "a session's letter was not carried");
            return Err(ExchangeError::NoAnswer);
        }
    };
    let malformed = |why: String| ExchangeError::Malformed(why);
    let (content, _) = read(shared, &letter).map_err(malformed)?;
    let Kind::Answer { token, served } = content.kind else {
        return Err(malformed("the letter is no answer".into()));
    };
    if content.from != to || content.number != number {
        return Err(malformed("the letter answers another one".into()));
    }
    lock(&shared.relays.tokens).given(to, token);
    if !served {
        return Ok(None);
    }
    codec::decode("response", &content.body, LETTER_BYTES_MAX)
        .map(Some)
        .map_err(|error| malformed(error.to_string()))
}

/// Carries a letter to who it is for, and the answer back.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    from: NodeId,
    to: NodeId,
    letter: Box<Letter>,
) -> Response {
    match try_carry(shared, from, to, letter).await {
        Ok(answer) => Response::Relayed(answer),
        Err(why) => Response::Refused(crate::cli::chain(&why)),
    }
}

async fn try_carry(
    shared: &Arc<Shared>,
    from: NodeId,
    to: NodeId,
    letter: Box<Letter>,
) -> Result<Box<Letter>, NotCarried> {
    let me = shared.me.node;
    if from == to || to == me || from == me {
        return Err(NotCarried::NotBetweenOthers);
    }
    if letter.bytes() > LETTER_BYTES_MAX {
        return Err(NotCarried::TooLarge(letter.bytes()));
    }
    if !lock(&shared.relays.carrier).admit(from, to, clock::boot_now()) {
        return Err(NotCarried::Full);
    }
    let _place = Place::take(&shared.relays.carrier, from).ok_or(NotCarried::Busy)?;
    let asked = shared
        .network
        .request(to, Request::Relayed(letter), CARRY_WAIT);
    match asked.await.map_err(NotCarried::NotReached)? {
        Response::Relayed(answer) => Ok(answer),
        _ => Err(NotCarried::NotTaken),
    }
}

/// The place of one of the letters under way; comes back when it is dropped.
struct Place<'a> {
    carrier: &'a Mutex<Carrier>,
    from: NodeId,
}

impl Place<'_> {
    fn take(carrier: &Mutex<Carrier>, from: NodeId) -> Option<Place<'_>> {
        let has_one = lock(carrier).take_place(from);
        has_one.then_some(Place { carrier, from })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(self.carrier).give_place_back(self.from);
    }
}

/// Serves a request that was carried here.
pub(super) async fn serve(shared: &Arc<Shared>, by: NodeId, letter: &Letter) -> Response {
    let (content, certificate) = match read(shared, letter) {
        Ok(read) => read,
        Err(why) => return Response::Refused(why),
    };
    let (from, number) = (content.from, content.number);
    let Kind::Request { echo } = content.kind else {
        return Response::Refused("an answer is no request".into());
    };
    let (process, now) = (shared.me.process, clock::boot_now());
    let token = Token { process, at: now };
    if !echo.is_some_and(|echo| echo.is_fresh(process, now)) {
        let served = false;
        let kind = Kind::Answer { token, served };
        return Response::Relayed(Box::new(write(shared, from, number, kind, Vec::new())));
    }
    let answer = match admit(shared, &content, &certificate) {
        Ok(request) => {
            if matches!(request, Request::Heartbeat { .. }) {
                lock(&shared.relays.vias).heard(from, by, clock::boot_now());
            }
            Box::pin(dispatch::handle(shared.clone(), from, request)).await
        }
        Err(why) => {
            tracing::warn!(%from, %by, why = %why, "carried request refused");
            Response::Refused(why)
        }
    };
    let mut body = codec::encode(&answer);
    if body.len() > LETTER_BYTES_MAX {
        body = codec::encode(&Response::Refused("the answer is too large".into()));
    }
    // Of now: serving may have taken a while.
    let at = clock::boot_now();
    let kind = Kind::Answer {
        token: Token { process, at },
        served: true,
    };
    Response::Relayed(Box::new(write(shared, from, number, kind, body)))
}

/// The request of a letter, if its writer may say it.
fn admit(
    shared: &Shared,
    content: &Content,
    certificate: &NodeCertificate,
) -> Result<Request, String> {
    if !lock(&shared.relays.seen).is_new(content.from, content.number) {
        return Err("the letter has come before, or is too old".into());
    }
    let request: Request = codec::decode("request", &content.body, LETTER_BYTES_MAX)
        .map_err(|error| error.to_string())?;
    if !may_be_carried(&request) {
        return Err("only what a session is made of is carried".into());
    }
    let known = shared.known();
    claims::may_say(content.from, certificate, &request, &known).map_err(|why| {
        shared.epochs.refused(content.from, &why, known.epoch);
        why.to_string()
    })?;
    Ok(request)
}

fn write(shared: &Shared, to: NodeId, number: u64, kind: Kind, body: Vec<u8>) -> Letter {
    let content = Content {
        fleet: shared.me.fleet,
        from: shared.me.node,
        to,
        number,
        kind,
        body,
    };
    Letter::write(&content, &shared.me.key, shared.admission.credential())
}

/// What a letter to this node says, and the certificate of who wrote it.
fn read(shared: &Shared, letter: &Letter) -> Result<(Content, NodeCertificate), String> {
    let content = letter.read().map_err(|error| error.to_string())?;
    if content.to != shared.me.node || content.fleet != shared.me.fleet {
        return Err("the letter is for another node".into());
    }
    let certificate = shared
        .network
        .check_node(content.from, letter.credential())
        .map_err(|refusal| refusal.to_string())?;
    Ok((content, certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letters_place_comes_back() {
        let (carrier, from) = (Mutex::default(), NodeId([1; 32]));
        let places: Vec<_> = (0..LETTERS_MAX)
            .map_while(|_| Place::take(&carrier, from))
            .collect();
        assert_eq!(places.len(), LETTERS_MAX / 2);
        drop(places);
        let again = (0..LETTERS_MAX).map_while(|_| Place::take(&carrier, from));
        assert_eq!(again.collect::<Vec<_>>().len(), LETTERS_MAX / 2);
    }

    #[test]
    fn numbers_rise_whatever_the_clock_does() {
        let relays = Relays::default();
        let first = relays.number();
        assert!(first >= clock::unix_now().0 << 15);
        let ahead = u64::MAX / 2;
        relays.last.store(ahead, Ordering::Relaxed);
        assert_eq!(relays.number(), ahead + 1);
        assert_eq!(relays.number(), ahead + 2);
    }
}
