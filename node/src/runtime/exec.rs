//! Sessions in tasks: from whichever node is asked to the one that runs the
//! task, which alone decides who may enter.
//!
//! The asked node finds the task's node and passes bytes on, unread. There
//! the request's signature, age and right are checked, it is written down
//! ([`super::audit`]), and the session's bytes are carried ([`pump`]) between
//! the person and the task. Whatever ends, the connection, the person's
//! client, this node, takes the session with it; only an `Ended` frame tells
//! of an end in order.

mod pump;

use super::{
    audit::{self, Audit, cut},
    holder,
    shared::Shared,
};
use crate::{
    agent::{EnterError, SessionWish},
    api::{
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::{EXEC_AGE_MAX, ExecRequest, SessionOutput, SignedExec, right_of},
        frame,
        protocol::ApiFrame,
    },
    cli::chain,
    clock,
    network::{Holder, Purpose},
};
use potluck_helper::{
    description::Profile,
    session::{COMMAND_BYTES_MAX, Work},
};
use potluck_specs::{ChangeId, Millis, NodeId, trust::UserCertificate};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncWriteExt, copy, split},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};

/// Sessions in tasks of this node at the same time: each has a process, three
/// pipes, and at most 512 KiB of buffers here.
const SESSIONS_MAX: usize = 128;

/// How long it may take to reach the task's node, and for another node to
/// send the request that it announced.
const ASK_WAIT: Duration = Duration::from_secs(10);

/// Requests that are remembered: a hundred a second for as long as a request
/// is valid. When there are more, new ones wait until some are too old.
const SEEN_MAX: usize = 12_000;

/// What a node knows of sessions in its tasks.
pub(super) struct Exec {
    audit: Arc<Audit>,
    places: Arc<Semaphore>,
    seen: Mutex<Seen>,
}

impl Exec {
    /// Of the node with this data folder.
    pub(super) fn new(data: &Path) -> Exec {
        Exec {
            audit: Arc::new(Audit::new(data)),
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            seen: Mutex::default(),
        }
    }
}

/// Requests that have been here, so that one that was overheard by a node on
/// the way is not carried out twice.
#[derive(Debug, Default)]
struct Seen(BTreeMap<[u8; 16], Millis>);

impl Seen {
    /// True the first time; `None` if too many came to tell.
    fn is_new(&mut self, id: ChangeId, now: Millis) -> Option<bool> {
        if self.0.len() >= SEEN_MAX {
            // Older ones are refused for their age. Twice, since a request may
            // be signed as far in the future as in the past.
            let age = Millis(2 * EXEC_AGE_MAX.0);
            self.0.retain(|_, at| now.since(*at) <= age);
        }
        if self.0.contains_key(&id.0) {
            return Some(false);
        }
        if self.0.len() >= SEEN_MAX {
            return None;
        }
        self.0.insert(id.0, now);
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

/// Checks, writes down and carries a session in a task of this node.
async fn serve(
    shared: &Arc<Shared>,
    signed: &SignedExec,
    via: Option<&str>,
    mut stream: Box<dyn Transport>,
) {
    let frame = match admit(shared, signed, via).await {
        Ok(session) => return session.run(stream).await,
        Err(frame) => frame,
    };
    // The client may have left.
    let _ = frame::write(&mut stream, &frame).await;
    let _ = stream.shutdown().await;
}

/// A session that has begun.
struct Session {
    task: crate::agent::TaskSession,
    record: Record,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl Session {
    async fn run(self, stream: Box<dyn Transport>) {
        let begun = clock::boot_now();
        let outcome = pump::carry(self.task, stream).await;
        let took_ms = clock::boot_now().since(begun).0;
        self.record.ended(&outcome, took_ms).await;
    }
}

async fn admit(
    shared: &Arc<Shared>,
    signed: &SignedExec,
    via: Option<&str>,
) -> Result<Session, ApiFrame> {
    let (request, author) = check(shared, signed).map_err(ApiFrame::Failure)?;
    let record = Record::new(shared, &request, &author, via);
    let place = shared.exec.places.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        let message = format!("this node has {SESSIONS_MAX} sessions, which is the most");
        ApiFrame::Failure(ApiError::new(ErrorCode::Unavailable, message))
    })?;
    let refuse = |error: EnterError| refusal(&request, error);
    // What runs here at all is not told to those who may not enter anyway.
    if let Err(error) = may(&author, &request, true) {
        record.denied(&error.message).await;
        return Err(ApiFrame::Failure(error));
    }
    bounded(&request).map_err(ApiFrame::Failure)?;
    let entrance = shared.agent.entrance(request.slot.clone()).await;
    let entrance = entrance.map_err(refuse)?;
    if let Err(error) = may(&author, &request, entrance.profile != Profile::None) {
        record.denied(&error.message).await;
        return Err(ApiFrame::Failure(error));
    }
    let now = clock::unix_now();
    let is_new = {
        let mut seen = shared
            .exec
            .seen
            .lock()
            .expect("no one panics with this lock");
        seen.is_new(request.id, now)
    };
    match is_new {
        Some(true) => {}
        Some(false) => {
            let why = "the request has been here before";
            record.denied(why).await;
            return Err(ApiFrame::Failure(denied(why)));
        }
        None => {
            let message = "this node has had too many requests for sessions";
            let error = ApiError::new(ErrorCode::Unavailable, message);
            return Err(ApiFrame::Failure(error.hint("try again in some minutes")));
        }
    }
    record.begins(&request).await.map_err(|error| {
        let message = format!("the session can't be written down: {error}");
        let error = ApiError::new(ErrorCode::Failed, message);
        ApiFrame::Failure(error.hint("is the disk of the task's node full?"))
    })?;
    let wish = SessionWish {
        work: request.work.clone(),
        terminal: request.terminal,
        term: request.term.clone(),
        tools: request.tools,
        debug: request.debug,
    };
    match entrance.open(wish).await {
        Ok(task) => Ok(Session {
            task,
            record,
            _place: place,
        }),
        Err(error) => {
            record.cut_off(&chain(&error)).await;
            Err(refuse(error))
        }
    }
}

fn may(author: &UserCertificate, request: &ExecRequest, is_isolated: bool) -> Result<(), ApiError> {
    let (may, need) = right_of(author, request, is_isolated);
    if may {
        return Ok(());
    }
    let what = match (is_isolated, request.debug) {
        (false, _) => "enter a task that is not isolated from its host",
        (true, true) => "trace a task's processes",
        (true, false) => "enter this task",
    };
    let message = format!("user {:?} may not {what}", author.user);
    Err(denied(message).hint(format!("the role {need} is needed")))
}

fn bounded(request: &ExecRequest) -> Result<(), ApiError> {
    if let Work::Command(words) = &request.work {
        // What a word costs beside its letters.
        let bytes: usize = words.iter().map(|word| word.len() + 3).sum();
        if bytes > COMMAND_BYTES_MAX {
            let message = format!("a command of {bytes} bytes is more than {COMMAND_BYTES_MAX}");
            return Err(ApiError::new(ErrorCode::BadRequest, message)
                .hint("copy a script into the task with potluck cp, and run that"));
        }
    }
    Ok(())
}

fn refusal(request: &ExecRequest, error: EnterError) -> ApiFrame {
    let slot = &request.slot;
    let text = chain(&error);
    let (code, hint) = match error {
        EnterError::Refused { why, code } => {
            return ApiFrame::Session(SessionOutput::Failed { why, code });
        }
        EnterError::NotHere(_) => (
            ErrorCode::NotFound,
            format!("it may just have moved; see potluck explain '{slot}'"),
        ),
        EnterError::NotRunning { .. } => (
            ErrorCode::Unavailable,
            format!(
                "see why with: potluck explain '{slot}'; what it last said: potluck logs '{slot}'"
            ),
        ),
        EnterError::NoTools(_) => (
            ErrorCode::Failed,
            "install a static busybox on the task's node (Debian: busybox-static)".into(),
        ),
        EnterError::Silent => (
            ErrorCode::Unavailable,
            "tasks that were started by an older potluck can be entered after their next start"
                .into(),
        ),
        EnterError::Io(_) | EnterError::Stopped(_) => (
            ErrorCode::Unavailable,
            "the log of the task's node says more".into(),
        ),
    };
    ApiFrame::Failure(ApiError::new(code, text).hint(hint))
}

/// The lines of one session in the audit log.
struct Record {
    audit: Arc<Audit>,
    about: audit::About,
    session: String,
    what: String,
}

impl Record {
    fn new(
        shared: &Arc<Shared>,
        request: &ExecRequest,
        author: &UserCertificate,
        via: Option<&str>,
    ) -> Record {
        let session = request.id.0[..8].iter();
        Record {
            audit: shared.exec.audit.clone(),
            session: session.map(|byte| format!("{byte:02x}")).collect(),
            what: what(&request.work),
            about: audit::About {
                user: author.user.clone(),
                key: author.key.to_string(),
                task: request.slot.to_string(),
                via: via.map(String::from),
            },
        }
    }

    async fn begins(&self, request: &ExecRequest) -> std::io::Result<()> {
        let event = audit::Event::Began {
            session: self.session.clone(),
            what: self.what.clone(),
            terminal: request.terminal.is_some(),
            debug: request.debug,
        };
        self.write(event).await
    }

    async fn denied(&self, why: &str) {
        let event = audit::Event::Denied {
            what: self.what.clone(),
            why: cut(why),
        };
        note(self.write(event).await);
    }

    async fn cut_off(&self, why: &str) {
        let outcome = pump::Outcome {
            how: cut(why),
            code: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        self.ended(&outcome, 0).await;
    }

    async fn ended(&self, outcome: &pump::Outcome, took_ms: u64) {
        let event = audit::Event::Ended {
            session: self.session.clone(),
            how: outcome.how.clone(),
            code: outcome.code,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            took_ms,
        };
        note(self.write(event).await);
    }

    async fn write(&self, event: audit::Event) -> std::io::Result<()> {
        let (user, task, via) = (&self.about.user, &self.about.task, &self.about.via);
        tracing::info!(user, task, via, ?event, "session in a task");
        let (audit, about) = (self.audit.clone(), self.about.clone());
        let write = move || audit.write(clock::unix_now(), &about, &event);
        spawn_blocking(write)
            .await
            .expect("writing a line does not panic")
    }
}

fn note(written: std::io::Result<()>) {
    if let Err(error) = written {
        tracing::error!(%error, "audit log can't be written");
    }
}

/// For people.
fn what(work: &Work) -> String {
    cut(&match work {
        Work::Command(words) => words.join(" "),
        Work::Receive(path) => format!("copy to {path}"),
        Work::Send { path, .. } => format!("copy from {path}"),
    })
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
        let later = Millis(2 * EXEC_AGE_MAX.0 + 2);
        assert_eq!(seen.is_new(id(SEEN_MAX), later), Some(true));
    }
}
