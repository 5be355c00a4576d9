//! The command line, in four layers: arguments (`args`), how to reach a node
//! (`connect`), one file per command, and one place for exit codes (`exit`).

mod admin;
mod args;
mod connect;
mod exit;
mod jobs;
mod logs;
mod node;
mod nodes;
mod operate;
mod output;
mod run;
mod services;
mod testnet;

use crate::api::error::{ApiError, ErrorCode};
use args::{Cli, Command, TokenCommand};
use clap::Parser;
use std::process::ExitCode;

pub use exit::chain;

/// Reads the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::InternalEvaluate { file } => run::evaluate_child(&file),
        Command::Testnet { args } => testnet::exec(&args),
        command => {
            let runtime = match tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    let message = format!("can't start: {error}");
                    return exit::fail(&ApiError::new(ErrorCode::Internal, message));
                }
            };
            let outcome = runtime.block_on(dispatch(command, &cli.global));
            // Blocking work of a cancelled command must not hold the exit up.
            runtime.shutdown_background();
            outcome.unwrap_or_else(|error| exit::fail(&error))
        }
    }
}

async fn dispatch(command: Command, global: &args::Global) -> Result<ExitCode, ApiError> {
    match command {
        Command::Init(args) => admin::init(&args, global),
        Command::Node(args) => node::run(args, global).await,
        Command::Token(TokenCommand::Create {
            uses,
            ttl,
            rack,
            no_voter,
        }) => admin::create_token(uses, ttl, rack, no_voter, global).await,
        Command::Run(args) => run::run(&args, global).await,
        Command::Status { job } => jobs::status(job, global).await,
        Command::Nodes => nodes::nodes(global).await,
        Command::Info => nodes::info(global).await,
        Command::Logs {
            task,
            follow,
            tail,
            timestamps,
        } => logs::logs(task, follow, tail, timestamps, global).await,
        Command::Stop { job, no_wait } => jobs::stop(job, no_wait, global).await,
        Command::Resolve { service, fresh } => services::resolve(service, fresh, global).await,
        Command::Explain { task } => jobs::explain(task, global).await,
        Command::Packages => services::packages(global).await,
        Command::Drain {
            name, undo: true, ..
        } => nodes::drain(&name, false, global).await,
        Command::Drain {
            name,
            deadline,
            wait,
            ..
        } => operate::drain(&name, deadline, wait, global).await,
        Command::Cordon { name } => operate::cordon(&name, true, global).await,
        Command::Uncordon { name } => operate::cordon(&name, false, global).await,
        Command::Decommission { name, deadline } => {
            operate::decommission(&name, deadline, global).await
        }
        Command::Rollout(command) => operate::rollout(command, global).await,
        Command::WhyBlocked { job } => operate::why_blocked(job, global).await,
        Command::Rebalance { dry_run } => operate::rebalance(dry_run, global).await,
        Command::Leave { wait } => nodes::leave(wait, global).await,
        Command::InternalEvaluate { .. } | Command::Testnet { .. } => {
            unreachable!("handled before the runtime was started")
        }
    }
}
