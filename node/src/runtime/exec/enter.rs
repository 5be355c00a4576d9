//! One session in a task of this node: judged, written down, opened, carried.
//!
//! ```text
//! visit ─▶ judge: right, bounds, does it run ─▶ open: audit, then the task ─▶ run
//! ```

use super::{denied, pump, record::Record};
use crate::{
    agent::{EnterError, Entrance, SessionWish, TaskSession},
    api::{
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::{ExecRequest, SessionOutput, Wanted, right_of},
        protocol::ApiFrame,
    },
    cli::chain,
    clock,
    runtime::shared::Shared,
};
use potluck_helper::{
    description::Profile,
    session::{CODE_LOST, COMMAND_BYTES_MAX, Work},
};
use potluck_specs::{ChangeId, SlotId, trust::UserCertificate};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What is wanted in which task.
pub(super) struct Visit {
    /// Names it in the audit log.
    pub(super) id: ChangeId,
    /// In which task.
    pub(super) slot: SlotId,
    /// What.
    pub(super) wish: SessionWish,
    /// What the person wrote, for the record.
    pub(super) asked: String,
    /// The connection of ssh that it is in.
    pub(super) ssh: Option<String>,
}

impl Visit {
    /// As the person signed it.
    pub(super) fn of(request: &ExecRequest, wanted: &Wanted) -> Visit {
        let asked = match wanted {
            Wanted::Command(words) => words.join(" "),
            Wanted::Receive(path) => format!("copy to {path}"),
            Wanted::Send { path, .. } => format!("copy from {path}"),
            Wanted::Ssh { .. } => "ssh".into(),
        };
        Visit {
            id: request.id,
            slot: request.slot.clone(),
            wish: SessionWish {
                // The work of a connection of ssh is what its client asks for.
                work: wanted.work().unwrap_or(Work::Command(Vec::new())),
                terminal: request.terminal,
                term: request.term.clone(),
                tools: request.tools,
                debug: request.debug,
                env: Vec::new(),
            },
            asked,
            ssh: None,
        }
    }
}

/// A session that has begun.
pub(super) struct Session {
    task: TaskSession,
    record: Record,
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// Carries it to its end.
    pub(super) async fn run(self, stream: Box<dyn Transport>) {
        let begun = clock::boot_now();
        let outcome = pump::carry_task(self.task, stream).await;
        let took_ms = clock::boot_now().since(begun).0;
        self.record.ended(&outcome, took_ms).await;
    }
}

/// The way into the task, if this person may go and it runs.
pub(super) async fn judge(
    shared: &Arc<Shared>,
    visit: &Visit,
    author: &UserCertificate,
    record: &Record,
) -> Result<Entrance, ApiFrame> {
    // What runs here at all is not told to those who may not enter anyway.
    if let Err(error) = may(author, visit, true) {
        record.denied(&error.message).await;
        return Err(ApiFrame::Failure(error));
    }
    bounded(&visit.wish).map_err(ApiFrame::Failure)?;
    let entrance = shared.agent.entrance(visit.slot.clone()).await;
    let entrance = entrance.map_err(|error| refusal(&visit.slot, error))?;
    if let Err(error) = may(author, visit, entrance.profile != Profile::None) {
        record.denied(&error.message).await;
        return Err(ApiFrame::Failure(error));
    }
    Ok(entrance)
}

/// Writes it down, and begins it.
pub(super) async fn open(
    visit: Visit,
    entrance: Entrance,
    record: Record,
    place: OwnedSemaphorePermit,
) -> Result<Session, ApiFrame> {
    let written = record.begins(&visit.wish).await;
    written.map_err(|error| not_written(&error))?;
    match entrance.open(visit.wish).await {
        Ok(task) => Ok(Session {
            task,
            record,
            _place: place,
        }),
        Err(error) => {
            record.cut_off(&chain(&error)).await;
            Err(refusal(&visit.slot, error))
        }
    }
}

/// Nothing happens in a task that is not on disk before.
pub(super) fn not_written(error: &std::io::Error) -> ApiFrame {
    let message = format!("the session can't be written down: {error}");
    let error = ApiError::new(ErrorCode::Failed, message);
    ApiFrame::Failure(error.hint("is the disk of the task's node full?"))
}

fn may(author: &UserCertificate, visit: &Visit, is_isolated: bool) -> Result<(), ApiError> {
    let (may, need) = right_of(author, &visit.slot, visit.wish.debug, is_isolated);
    if may {
        return Ok(());
    }
    let what = match (is_isolated, visit.wish.debug) {
        (false, _) => "enter a task that is not isolated from its host",
        (true, true) => "trace a task's processes",
        (true, false) => "enter this task",
    };
    let message = format!("user {:?} may not {what}", author.user);
    Err(denied(message).hint(format!("the role {need} is needed")))
}

fn bounded(wish: &SessionWish) -> Result<(), ApiError> {
    if let Work::Command(words) = &wish.work {
        if words.first().is_some_and(String::is_empty) {
            return Err(ApiError::new(ErrorCode::BadRequest, "the command is empty")
                .hint("name a program, as in: potluck exec 'web[0]' -- sh -c 'echo $HOME'"));
        }
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

fn refusal(slot: &SlotId, error: EnterError) -> ApiFrame {
    let text = chain(&error);
    let (code, hint) = match error {
        // It never began, so that nothing was lost.
        EnterError::Refused {
            code: CODE_LOST, ..
        } => (
            ErrorCode::Unavailable,
            "sessions that end make room; the log of the task's node says more".into(),
        ),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> SessionWish {
        SessionWish {
            work: Work::Command(words.iter().map(ToString::to_string).collect()),
            terminal: None,
            term: None,
            tools: false,
            debug: false,
            env: Vec::new(),
        }
    }

    #[test]
    fn a_command_without_a_name_is_a_bad_request() {
        for bad in [&[""][..], &["", "x"]] {
            let error = bounded(&command(bad)).unwrap_err();
            assert_eq!(error.code, ErrorCode::BadRequest, "{error:?}");
        }
        // A login shell, and an argument that is empty.
        for good in [&[][..], &["echo", ""]] {
            bounded(&command(good)).unwrap();
        }
    }

    #[test]
    fn a_session_that_never_began_was_not_lost() {
        let slot: SlotId = "web[0]".parse().unwrap();
        let refused = |why: &str, code| {
            let why = why.into();
            refusal(&slot, EnterError::Refused { why, code })
        };
        let ApiFrame::Failure(full) = refused("it has 16 sessions", CODE_LOST) else {
            panic!("its end is not that of a command");
        };
        assert_eq!(full.code, ErrorCode::Unavailable);
        assert_eq!(full.message, "it has 16 sessions");
        let missing = refused("no such program", 127);
        let ApiFrame::Session(SessionOutput::Failed { code, .. }) = missing else {
            panic!("a command that is not there has a code");
        };
        assert_eq!(code, 127);
    }
}
