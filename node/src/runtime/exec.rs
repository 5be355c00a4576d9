//! Sessions in tasks: from whichever node is asked to the one that runs the
//! task, which alone decides who may enter.
//!
//! The asked node finds the task's node and passes bytes on, unread. There
//! the request's signature, age and right are checked, it is written down
//! ([`super::audit`]), and the session's bytes are carried ([`pump`]) between
//! the person and the task. Whatever ends, the connection, the person's
//! client, this node, takes the session with it; only an `Ended` frame tells
//! of an end in order.

mod enter;
mod pump;
mod record;
mod ssh;

use super::{audit::Audit, holder, shared::Shared};
use crate::{
    api::{
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::{EXEC_AGE_MAX, ExecRequest, SignedExec, Wanted},
        frame,
        protocol::ApiFrame,
    },
    cli::chain,
    clock,
    network::{Holder, Purpose},
};
use enter::{Session, Visit, judge, open};
use potluck_specs::{ChangeId, Millis, NodeId, trust::UserCertificate};
use record::Record;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy, split},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Sessions in tasks of this node at the same time: each has a process, three
/// pipes, and at most 512 KiB of buffers here.
const SESSIONS_MAX: usize = 128;

/// How long it may take to reach the task's node, and for another node to
/// send the request that it announced.
const ASK_WAIT: Duration = Duration::from_secs(10);

/// How long a request is remembered: twice what it is valid, since it may be
/// signed as far in the future as in the past.
const REMEMBERED: Millis = Millis(2 * EXEC_AGE_MAX.0);

/// Requests that are remembered: a hundred a second for as long as a request
/// is valid. When there are more, new ones wait until some are too old.
const SEEN_MAX: usize = 12_000;

/// What a node knows of sessions in its tasks.
pub(super) struct Exec {
    audit: Arc<Audit>,
    places: Arc<Semaphore>,
    seen: Mutex<Seen>,
    ssh: Option<ssh::Servers>,
}

impl Exec {
    /// Of the node with this data folder; with the program that speaks ssh, if
    /// the operator has switched that on.
    pub(super) fn new(data: &Path, ssh: Option<PathBuf>) -> Exec {
        let now = clock::unix_now();
        let since = Millis(now.0.saturating_sub(REMEMBERED.0));
        let begun = Audit::begun(data, since).unwrap_or_else(|error| {
            tracing::error!(%error, "audit log can't be read, sessions of before may be repeated");
            BTreeSet::new()
        });
        Exec {
            audit: Arc::new(Audit::new(data)),
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            seen: Mutex::new(Seen::after(begun, now)),
            ssh: ssh.map(ssh::Servers::new),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, ApiFrame> {
        self.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("this node has {SESSIONS_MAX} sessions, which is the most");
            ApiFrame::Failure(ApiError::new(ErrorCode::Unavailable, message))
        })
    }

    /// Refuses a request that has been here before.
    async fn once(&self, id: ChangeId, record: &Record) -> Result<(), ApiFrame> {
        let now = clock::unix_now();
        let is_new = {
            let mut seen = self.seen.lock().expect("no one panics with this lock");
            seen.is_new(id, now)
        };
        match is_new {
            Some(true) => Ok(()),
            Some(false) => {
                let why = "the request has been here before";
                record.denied(why).await;
                Err(ApiFrame::Failure(denied(why)))
            }
            None => {
                let message = "this node has had too many requests for sessions";
                let error = ApiError::new(ErrorCode::Unavailable, message);
                Err(ApiFrame::Failure(error.hint("try again in some minutes")))
            }
        }
    }
}

/// Requests that have been here, so that one that was overheard by a node on
/// the way is not carried out twice.
#[derive(Debug, Default)]
struct Seen {
    ids: BTreeMap<[u8; 16], Millis>,
    /// Of the process before, by their names in the audit log, which has each
    /// before anything happens in a task. Bounded by its files.
    before: BTreeSet<String>,
    /// When those are all too old.
    before_until: Millis,
}

impl Seen {
    /// Of a process that starts now.
    fn after(before: BTreeSet<String>, now: Millis) -> Seen {
        Seen {
            ids: BTreeMap::new(),
            before,
            before_until: now + REMEMBERED,
        }
    }

    /// True the first time; `None` if too many came to tell.
    fn is_new(&mut self, id: ChangeId, now: Millis) -> Option<bool> {
        if self.ids.len() >= SEEN_MAX {
            // Older ones are refused for their age.
            self.ids.retain(|_, at| now.since(*at) <= REMEMBERED);
        }
        if now > self.before_until {
            self.before.clear();
        }
        if self.ids.contains_key(&id.0) || self.before.contains(&record::name_of(id)) {
            return Some(false);
        }
        if self.ids.len() >= SEEN_MAX {
            return None;
        }
        self.ids.insert(id.0, now);
        Some(true)
    }
}

/// Carries out the request of a person who asks this node.
pub(super) async fn take_over(
    shared: &Arc<Shared>,
    who: &UserCertificate,
    signed: &SignedExec,
    mut stream: Box<dyn Transport>,
) {
    let checked = check(shared, signed).and_then(|(request, author)| match author == *who {
        true => Ok(request),
        false => Err(denied("the request was signed by another user")),
    });
    let found = match checked {
        Ok(request) => holder::running(shared, &request.slot)
            .await
            .map(|node| (request, node)),
        Err(error) => Err(error),
    };
    let refused = match found {
        Ok((_, node)) if node == shared.me.node => {
            return serve(shared, signed, None, stream).await;
        }
        Ok((request, node)) => match pass_on(shared, node, &request, signed, &mut stream).await {
            Ok(()) => return,
            Err(error) => error,
        },
        Err(error) => error,
    };
    // The client may have left.
    let _ = frame::write(&mut stream, &ApiFrame::Failure(refused)).await;
}

/// Serves another node, which passes a session on.
pub(super) async fn serve_node(
    shared: Arc<Shared>,
    from: Holder,
    mut stream: impl Transport + 'static,
) {
    let Holder::Node(from) = from else {
        return;
    };
    let read = timeout(ASK_WAIT, frame::read::<SignedExec>(&mut stream)).await;
    if let Ok(Ok(signed)) = read {
        serve(&shared, &signed, Some(&from.name.0), Box::new(stream)).await;
    }
}

fn check(
    shared: &Arc<Shared>,
    signed: &SignedExec,
) -> Result<(ExecRequest, UserCertificate), ApiError> {
    let me = &shared.me;
    let checked = signed.verify(me.fleet, &me.cluster, clock::unix_now());
    checked.map_err(|error| {
        let error = denied(chain(&error));
        error.hint("is the clock of this host right? see date")
    })
}

fn denied(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Denied, message)
}

/// Hands the request on, then bytes in both directions until either side has
/// had enough.
async fn pass_on(
    shared: &Arc<Shared>,
    node: NodeId,
    request: &ExecRequest,
    signed: &SignedExec,
    stream: &mut Box<dyn Transport>,
) -> Result<(), ApiError> {
    let name = shared.directory.name(node);
    let lost = |error: &dyn std::error::Error| {
        let message = format!(
            "{} on {name} can't be reached: {}",
            request.slot,
            chain(error)
        );
        ApiError::new(ErrorCode::Unavailable, message)
            .hint("see the node's state with: potluck nodes")
    };
    let opened = shared
        .network
        .open_stream(node, Purpose::Exec, ASK_WAIT)
        .await;
    let mut far = opened.map_err(|error| lost(&error))?.into_tokio();
    frame::write(&mut far, signed)
        .await
        .map_err(|error| lost(&error))?;
    let (mut near_read, mut near_write) = split(stream);
    let (mut far_read, mut far_write) = split(far);
    // Neither side closes one direction alone: the first end is the end. What
    // the task's node has said until then has been passed on.
    let (ended, who) = tokio::select! {
        ended = copy(&mut near_read, &mut far_write) => (ended, "client"),
        ended = copy(&mut far_read, &mut near_write) => (ended, "node"),
    };
    tracing::debug!(who, error = ?ended.err(), task = %request.slot, "session passed on, ended");
    let _ = near_write.flush().await;
    Ok(())
}

/// Serves what is asked for in a task of this node.
async fn serve(
    shared: &Arc<Shared>,
    signed: &SignedExec,
    via: Option<&str>,
    mut stream: Box<dyn Transport>,
) {
    let begun = match check(shared, signed) {
        Ok((request, author)) => begin(shared, &request, &author, via).await,
        Err(error) => Err(ApiFrame::Failure(error)),
    };
    let frame = match begun {
        Ok(Begun::Session(session)) => return session.run(stream).await,
        Ok(Begun::Ssh(connection)) => return connection.run(shared, stream).await,
        Err(frame) => frame,
    };
    // The client may have left.
    let _ = frame::write(&mut stream, &frame).await;
    let _ = stream.shutdown().await;
}

/// What runs now.
enum Begun {
    Session(Box<Session>),
    Ssh(Box<ssh::Connection>),
}

async fn begin(
    shared: &Arc<Shared>,
    request: &ExecRequest,
    author: &UserCertificate,
    via: Option<&str>,
) -> Result<Begun, ApiFrame> {
    let visit = match &request.work {
        Wanted::Ssh { key } => {
            let connection = ssh::Connection::begin(shared, request, *key, author, via).await?;
            return Ok(Begun::Ssh(Box::new(connection)));
        }
        other => Visit::of(request, other),
    };
    let record = Record::new(shared, &visit, author, via);
    let place = shared.exec.place()?;
    let entrance = judge(shared, &visit, author, &record).await?;
    shared.exec.once(request.id, &record).await?;
    let session = open(visit, entrance, record, place).await?;
    Ok(Begun::Session(Box::new(session)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_new_once_and_forgotten_when_it_is_too_old() {
        let mut seen = Seen::default();
        let id = |n: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&n.to_be_bytes());
            ChangeId(id)
        };
        assert_eq!(seen.is_new(id(0), Millis(0)), Some(true));
        assert_eq!(seen.is_new(id(0), Millis(1)), Some(false));
        for n in 1..SEEN_MAX {
            assert_eq!(seen.is_new(id(n), Millis(1)), Some(true));
        }
        assert_eq!(seen.is_new(id(SEEN_MAX), Millis(2)), None, "bounded");
        assert_eq!(seen.is_new(id(5), Millis(2)), Some(false), "still known");
        let later = Millis(REMEMBERED.0 + 2);
        assert_eq!(seen.is_new(id(SEEN_MAX), later), Some(true));
    }

    #[test]
    fn a_request_is_not_new_to_the_process_after() {
        let id = ChangeId([7; 16]);
        let begun = BTreeSet::from([record::name_of(id)]);
        let mut seen = Seen::after(begun, Millis(1_000));
        assert_eq!(seen.is_new(id, Millis(1_001)), Some(false));
        assert_eq!(seen.is_new(ChangeId([8; 16]), Millis(1_001)), Some(true));
        let later = Millis(1_001 + REMEMBERED.0);
        seen.is_new(ChangeId([9; 16]), later);
        assert!(seen.before.is_empty(), "too old to be valid");
    }
}
