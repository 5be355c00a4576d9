//! `potluck token list` and `token revoke`.

use super::{args::Global, connect::connect, operate::wrong_answer, output, time};
use crate::{
    api::{
        change::Change,
        error::ApiError,
        operate::{OperateAnswer, OperateQuery, TokenStatus},
    },
    clock,
};
use potluck_specs::{Millis, trust::NodeRole};
use std::process::ExitCode;

/// `potluck token list`.
pub(super) async fn list(global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let OperateAnswer::Tokens(tokens) = session.operate(OperateQuery::Tokens).await? else {
        return Err(wrong_answer());
    };
    output::print(global.output, &tokens, |tokens| {
        if tokens.is_empty() {
            return "no tokens; make one with: potluck token create".into();
        }
        let now = clock::unix_now();
        output::table(
            ["TOKEN", "LETS IN", "RACK", "VOTERS", "ENDS", "LET IN"],
            tokens.iter().map(|token| row(token, now)),
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn row(token: &TokenStatus, now: Millis) -> [String; 6] {
    let votes = token.roles.contains(&NodeRole::VoterEligible);
    [
        token.id.clone(),
        match token.expires > now {
            true => format!("{} more", token.uses_left),
            false => "nobody".into(),
        },
        token.rack.clone().unwrap_or_else(|| "any".into()),
        if votes { "yes" } else { "no" }.into(),
        match token.expires > now {
            true => format!("in {}", time::span(token.expires.since(now))),
            false => "ended".into(),
        },
        match token.nodes.is_empty() {
            true => "-".into(),
            false => token.nodes.join(", "),
        },
    ]
}

/// `potluck token revoke ID`.
pub(super) async fn revoke(id: String, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let change = Change::RevokeToken { id: id.clone() };
    session.change(change, |_| {}).await?;
    let done = serde_json::json!({ "id": id, "revoked": true });
    output::print(global.output, &done, |_| {
        format!("token {id} lets nobody else in; who came with it stays")
    });
    Ok(ExitCode::SUCCESS)
}
