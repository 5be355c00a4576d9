//! The command line, in four layers: arguments (`args`), how to reach a node
//! (`connect`), one file per command, and one place for exit codes (`exit`).

mod admin;
mod args;
mod awaited;
mod beside;
mod cluster;
mod connect;
mod copy;
mod debug;
mod evaluate;
mod exec;
mod exit;
mod explain;
mod jobs;
mod logs;
mod node;
mod nodes;
mod operate;
mod origin;
mod output;
mod plan;
mod quota;
mod run;
mod services;
mod session;
mod spec;
mod ssh;
mod terminal;
mod testnet;
mod time;
mod tokens;
mod upload;
mod usage;
mod versions;

use crate::api::error::{ApiError, ErrorCode};
use args::{Cli, ClusterCommand, Command, DebugCommand, Format, TokenCommand};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

pub use exit::chain;

/// Reads the arguments, does what they say, and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let format = cli.global.output;
    match cli.command {
        Command::InternalEvaluate => ExitCode::from(potluck_starlark::child_main()),
        Command::Spec(command) => {
            spec::run(command, &cli.global).unwrap_or_else(|error| exit::fail(&error, format))
        }
        Command::Testnet { args } => testnet::exec(&args, format),
        Command::Ssh(args) => {
            ssh::ssh(&args, &cli.global).unwrap_or_else(|error| exit::fail(&error, format))
        }
        Command::SshConfig => {
            ssh::config(&cli.global).unwrap_or_else(|error| exit::fail(&error, format))
        }
        command => {
            let answers_by_code = matches!(command, Command::Plan(_) | Command::Diff { .. });
            let runtime = match tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    let message = format!("can't start: {error}");
                    return exit::fail(&ApiError::new(ErrorCode::Internal, message), format);
                }
            };
            let outcome = runtime.block_on(dispatch(command, &cli.global));
            // Blocking work of a cancelled command must not hold the exit up.
            runtime.shutdown_background();
            outcome.unwrap_or_else(|error| match answers_by_code {
                true => exit::fail_as(&error, 1, format),
                false => exit::fail(&error, format),
            })
        }
    }
}

/// Arguments that can't be read, or a wish for help.
fn misread(error: &clap::Error) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (is_json, code) = hints(&words);
    if !error.use_stderr() || !is_json {
        // Nobody reads it: nothing to be done.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { code } else { 0 });
    }
    let text = error.render().to_string();
    let text = text.trim().trim_start_matches("error: ");
    exit::fail_as(
        &ApiError::new(ErrorCode::BadRequest, text),
        code,
        Format::Json,
    )
}

/// What arguments that could not be read say of how to fail: whether JSON is
/// wanted, and the exit code, which for `plan` and `diff` must not mean that
/// there are changes.
fn hints(words: &[String]) -> (bool, u8) {
    let is_json = words
        .windows(2)
        .any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
        || words
            .iter()
            .any(|word| word == "-ojson" || word == "--output=json");
    let commands = Cli::command();
    let command = words
        .iter()
        .find(|word| commands.find_subcommand(word).is_some());
    let answers_by_code = command.is_some_and(|word| word == "plan" || word == "diff");
    (is_json, if answers_by_code { 1 } else { 2 })
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
        Command::Plan(args) => plan::plan(&args, global).await,
        Command::Token(TokenCommand::List) => tokens::list(global).await,
        Command::Token(TokenCommand::Revoke { id }) => tokens::revoke(id, global).await,
        Command::Status { jobs, all } => jobs::status(&jobs, all, global).await,
        Command::Usage { job } => usage::usage(job, global).await,
        Command::History { job } => versions::history(job, global).await,
        Command::Diff { job, from, to } => versions::diff(job, from, to, global).await,
        Command::Nodes => nodes::nodes(global).await,
        Command::Info => nodes::info(global).await,
        Command::Logs(args) => logs::logs(args, global).await,
        Command::Exec(args) => exec::exec(args, global).await,
        Command::SshProxy { host } => ssh::proxy(&host, global).await,
        Command::Cp { from, to } => copy::copy(&from, &to, global).await,
        Command::Stop { job, no_wait } => jobs::stop(job, no_wait, global).await,
        Command::Resolve { service, fresh } => services::resolve(service, fresh, global).await,
        Command::Explain { target } => explain::explain(target, global).await,
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
        Command::Quota(command) => quota::quota(command, global).await,
        Command::Rollout(command) => operate::rollout(command, global).await,
        Command::WhyBlocked { job } => operate::why_blocked(job, global).await,
        Command::Rebalance { dry_run } => operate::rebalance(dry_run, global).await,
        Command::Cluster(ClusterCommand::Recover {
            yes,
            force,
            dry_run,
        }) => {
            let wish = cluster::Wish {
                yes,
                force,
                dry_run,
            };
            cluster::recover(wish, global).await
        }
        Command::Debug(DebugCommand::Record {
            of,
            seconds,
            size,
            file,
        }) => debug::record(of, (seconds, size << 20), &file, global).await,
        Command::Debug(DebugCommand::Replay { file, all }) => debug::replay(&file, all, global),
        Command::Leave { wait } => nodes::leave(wait, global).await,
        Command::InternalEvaluate
        | Command::Spec(_)
        | Command::Ssh(_)
        | Command::SshConfig
        | Command::Testnet { .. } => {
            unreachable!("handled before the runtime was started")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misread_arguments_fail_as_their_command_does() {
        for (line, is_json, code) in [
            ("status --bogus", false, 2),
            ("plan --bogus -o json", true, 1),
            ("-ojson diff", true, 1),
            ("--output=json run", true, 2),
            ("-o table status plan x", false, 2),
            ("", false, 2),
        ] {
            let words: Vec<String> = line.split_whitespace().map(String::from).collect();
            assert_eq!(hints(&words), (is_json, code), "{line}");
        }
    }

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
