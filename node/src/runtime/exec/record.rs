//! The lines of one session, or of one connection of ssh, in the audit log.

use super::{enter::Visit, pump};
use crate::{
    agent::SessionWish,
    clock,
    runtime::{
        audit::{self, Audit, cut},
        shared::Shared,
    },
};
use potluck_specs::{ChangeId, trust::UserCertificate};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The lines of one session in the audit log.
pub(super) struct Record {
    audit: Arc<Audit>,
    about: audit::About,
    session: String,
    what: String,
    /// The connection of ssh that it is in.
    ssh: Option<String>,
}

impl Record {
    /// The name of what it is about, in its lines.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Of a visit that is asked for.
    pub(super) fn new(
        shared: &Arc<Shared>,
        visit: &Visit,
        author: &UserCertificate,
        via: Option<&str>,
    ) -> Record {
        Record {
            audit: shared.exec.audit.clone(),
            session: name_of(visit.id),
            what: cut(&visit.asked),
            ssh: visit.ssh.clone(),
            about: audit::About {
                user: author.user.clone(),
                key: author.key.to_string(),
                task: visit.slot.to_string(),
                via: via.map(String::from),
            },
        }
    }

    /// A session begins; it must not, if this fails.
    pub(super) async fn begins(&self, wish: &SessionWish) -> std::io::Result<()> {
        let event = audit::Event::Began {
            session: self.session.clone(),
            what: self.what.clone(),
            terminal: wish.terminal.is_some(),
            debug: wish.debug,
            ssh: self.ssh.clone(),
        };
        self.write(event).await
    }

    /// A connection of ssh begins; it must not, if this fails.
    pub(super) async fn ssh_begins(&self) -> std::io::Result<()> {
        let session = self.session.clone();
        self.write(audit::Event::SshBegan { session }).await
    }

    /// A connection of ssh is over.
    pub(super) async fn ssh_ended(&self, how: &str, sessions: u64, took_ms: u64) {
        let event = audit::Event::SshEnded {
            session: self.session.clone(),
            how: cut(how),
            sessions,
            took_ms,
        };
        note(self.write(event).await);
    }

    /// Somebody is refused.
    pub(super) async fn denied(&self, why: &str) {
        let event = audit::Event::Denied {
            what: self.what.clone(),
            why: cut(why),
        };
        note(self.write(event).await);
    }

    /// It began on paper only.
    pub(super) async fn cut_off(&self, why: &str) {
        let outcome = pump::Outcome {
            how: cut(why),
            code: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        self.ended(&outcome, 0).await;
    }

    /// A session is over.
    pub(super) async fn ended(&self, outcome: &pump::Outcome, took_ms: u64) {
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

/// The name of a request in its lines: enough of its id to tell it apart.
pub(super) fn name_of(id: ChangeId) -> String {
    let bytes = id.0[..8].iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn note(written: std::io::Result<()>) {
    if let Err(error) = written {
        tracing::error!(%error, "audit log can't be written");
    }
}
