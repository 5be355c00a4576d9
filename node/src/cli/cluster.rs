//! `potluck cluster recover`: a survivor goes on alone after most voters were
//! lost for good.

use super::{
    args::{Format, Global},
    connect::{Session, connect},
    output,
};
use crate::{
    api::{
        change::{Change, ChangeRequest, SignedChange},
        client::unexpected,
        error::{ApiError, ErrorCode},
        protocol::{ApiAnswer, ApiRequest},
        recovery::{LogCopy, RecoveryView},
    },
    clock,
    identity::random,
    runtime::recovery::{impossible, objected},
};
use potluck_specs::{ChangeId, Epoch};
use std::{
    io::{BufRead, IsTerminal},
    process::ExitCode,
    time::Duration,
};

/// How long the node may take to start anew and lead: it adopts its tasks on
/// the way.
const LEADS_WAIT: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Without asking.
    pub yes: bool,
    /// Whatever speaks against it.
    pub force: bool,
    /// Only show it.
    pub dry_run: bool,
}

/// `potluck cluster recover`.
pub(super) async fn recover(wish: Wish, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect_here(global).await?;
    let view = session.recovery(None, wish.force).await?;
    if let Some(why) = &view.impossible {
        return Err(impossible(&view, why));
    }
    if wish.dry_run {
        output::print(global.output, &view, describe);
        return Ok(ExitCode::SUCCESS);
    }
    if global.output == Format::Table {
        eprintln!("{}", describe(&view));
    }
    if !view.objections.is_empty() && !wish.force {
        return Err(objected(&view));
    }
    if !wish.yes {
        confirm(&view)?;
    }
    let order = session.order(&view);
    let view = session.recovery(Some(order), wish.force).await?;
    drop(session);
    await_leading(&view, global).await?;
    output::print(global.output, &view, |view| {
        format!(
            "epoch {} of cluster {} has begun, {} is its scheduler and only voter\n\
             other nodes follow by themselves; voters are added as they come\n\
             jobs marked recovered in potluck status were taken from hosts: look at them",
            view.next_epoch, view.cluster, view.name
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// The node of this host, and no other: whoever may enter its data folder
/// decides about its log.
async fn connect_here(global: &Global) -> Result<Session, ApiError> {
    let session = connect(global).await?;
    match session.is_local {
        true => Ok(session),
        false => Err(
            ApiError::new(ErrorCode::BadRequest, "this host's node does not run").hint(
                "start it, as always: it needs no majority for that; then repeat this, \
                 with --data DIR if its folder is elsewhere",
            ),
        ),
    }
}

impl Session {
    async fn recovery(
        &mut self,
        order: Option<Box<SignedChange>>,
        force: bool,
    ) -> Result<RecoveryView, ApiError> {
        match self
            .client
            .ask(&ApiRequest::Recover { order, force })
            .await?
        {
            ApiAnswer::Recovery(view) => Ok(*view),
            other => Err(unexpected(&other)),
        }
    }

    fn order(&self, view: &RecoveryView) -> Box<SignedChange> {
        let request = ChangeRequest {
            id: ChangeId(random()),
            fleet: self.profile.fleet,
            cluster: view.cluster.clone(),
            made: clock::unix_now(),
            change: Change::Recover {
                epoch: Epoch(view.next_epoch),
                survivor: view.node,
            },
        };
        let credential = self.profile.credential.clone();
        Box::new(SignedChange::new(&self.profile.key, credential, &request))
    }
}

/// What would be, for a person who decides.
fn describe(view: &RecoveryView) -> String {
    let heard = match view.leader_heard_ms {
        Some(ms) => format!("{} s ago", ms / 1_000),
        None => "not since this node was started".into(),
    };
    let voters: Vec<String> = view
        .voters
        .iter()
        .map(|voter| match voter.is_there {
            true => voter.name.clone(),
            false => format!("{} (away)", voter.name),
        })
        .collect();
    let mut lines = vec![
        format!(
            "{} would go on alone as epoch {} of cluster {}, its only voter",
            view.name, view.next_epoch, view.cluster
        ),
        format!(
            "  its log     ends at entry {} (term {}), as {}; {} members, {} jobs",
            view.log_index, view.log_term, view.role, view.members, view.jobs
        ),
        format!("  scheduler   last heard {heard}"),
        format!("  voters      {}", list(&voters)),
        format!("  copies      {}", list(&copies(&view.copies))),
        format!(
            "  lost        what was accepted after entry {} and runs on no host that is left; \
             stops and drains after it are forgotten",
            view.log_index
        ),
        "  for ever    voters of before are refused; when they come back they put their log \
         aside and follow"
            .into(),
    ];
    if !view.signs_in {
        lines.push(
            "  warning     this node lacks the admission key: it can't let nodes in or renew \
             certificates"
                .into(),
        );
    }
    let objections = view.objections.iter();
    lines.extend(objections.map(|objection| format!("  against it  {objection}")));
    lines.join("\n")
}

fn copies(copies: &[LogCopy]) -> Vec<String> {
    let line = |copy: &LogCopy| format!("{} up to entry {}", copy.name, copy.log_index);
    copies.iter().map(line).collect()
}

fn list(words: &[String]) -> String {
    match words.is_empty() {
        true => "none that can be reached".into(),
        false => words.join(", "),
    }
}

/// A person types the cluster's name.
fn confirm(view: &RecoveryView) -> Result<(), ApiError> {
    let not_confirmed = || {
        ApiError::new(ErrorCode::BadRequest, "not confirmed, nothing was changed")
            .hint("type the cluster's name, or give --yes")
    };
    if !std::io::stdin().is_terminal() {
        return Err(not_confirmed());
    }
    eprint!("type the cluster's name to go on: ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    match read.is_ok() && line.trim() == view.cluster {
        true => Ok(()),
        false => Err(not_confirmed()),
    }
}

/// Waits until the node leads the epoch that was ordered.
async fn await_leading(view: &RecoveryView, global: &Global) -> Result<(), ApiError> {
    let end = tokio::time::Instant::now() + LEADS_WAIT;
    loop {
        let info = async {
            connect_here(global)
                .await?
                .client
                .ask(&ApiRequest::Info)
                .await
        };
        if let Ok(ApiAnswer::Info(info)) = info.await
            && info.authority.0 >= view.next_epoch
            && info.leader.is_some()
        {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            let message = format!("{} was ordered to go on and does not lead yet", view.name);
            return Err(ApiError::new(ErrorCode::Timeout, message)
                .hint("the order is kept: see the node's own log, and potluck info"));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::recovery::VoterView;
    use potluck_specs::NodeId;

    #[test]
    fn a_person_is_told_what_is_lost() {
        let voter = |name: &str, is_there| VoterView {
            name: name.into(),
            is_there,
        };
        let view = RecoveryView {
            node: NodeId([1; 32]),
            name: "c".into(),
            cluster: "main".into(),
            epoch: 1,
            next_epoch: 2,
            role: "voter".into(),
            log_index: 40,
            log_term: 3,
            jobs: 2,
            members: 5,
            leader_heard_ms: Some(73_500),
            voters: vec![voter("a", false), voter("b", false), voter("c", true)],
            copies: vec![LogCopy {
                name: "d".into(),
                log_index: 39,
                log_term: 3,
            }],
            signs_in: false,
            objections: vec!["d has a longer copy".into()],
            impossible: None,
        };
        assert_eq!(
            describe(&view),
            "c would go on alone as epoch 2 of cluster main, its only voter\n  \
               its log     ends at entry 40 (term 3), as voter; 5 members, 2 jobs\n  \
               scheduler   last heard 73 s ago\n  \
               voters      a (away), b (away), c\n  \
               copies      d up to entry 39\n  \
               lost        what was accepted after entry 40 and runs on no host that is left; \
             stops and drains after it are forgotten\n  \
               for ever    voters of before are refused; when they come back they put their \
             log aside and follow\n  \
               warning     this node lacks the admission key: it can't let nodes in or renew \
             certificates\n  \
               against it  d has a longer copy"
        );
    }
}
