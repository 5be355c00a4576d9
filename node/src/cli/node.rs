//! `potluck node`: this host's node, until SIGTERM or SIGINT.

use super::{
    admin::host_name,
    args::{Global, NodeArgs},
    connect::data_folder,
    exit::chain,
};
use crate::{
    agent::{LogRetention, disk, facts::facts},
    api::error::{ApiError, ErrorCode},
    runtime::{JoinWish, Node, NodeSettings, StartError},
};
use nix::net::if_::InterfaceFlags;
use potluck_specs::{Millis, job::Resources};
use std::{
    io::IsTerminal, net::SocketAddr, ops::RangeInclusive, os::unix::process::CommandExt,
    path::Path, process::ExitCode, time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Memory of the host that is not offered to tasks by default: the agent, the
/// helpers and the kernel need some.
const MEMORY_KEPT: u64 = 512 << 20;

/// `potluck node`.
pub(super) async fn run(args: NodeArgs, global: &Global) -> Result<ExitCode, ApiError> {
    start_logging();
    end_on_panic();
    let settings = resolve(args, global)?;
    let node = Node::start(settings)
        .await
        .map_err(|error| start_failed(&error))?;
    let ended = tokio::select! {
        signal = wait_for_signal() => signal.map(|()| None)?,
        ended = node.ended() => Some(ended),
    };
    if let Some(why) = ended {
        node.stop().await;
        return Err(match why.starts_anew() {
            true => start_anew(),
            false => why.to_api_error(),
        });
    }
    tracing::info!("node stops; its tasks go on and are adopted by the next start");
    node.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Replaces this process by a fresh start of the same program with the same
/// arguments: its pid stays, whoever watches it sees no end, and tasks are
/// adopted as after any restart. Returns only if that fails.
fn start_anew() -> ApiError {
    tracing::info!("node starts anew");
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    // Its file was replaced meanwhile: the kernel still has the one that runs.
    let program = program.unwrap_or_else(|| "/proc/self/exe".into());
    let mut again = std::process::Command::new(program);
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    let error = again.args(words).exec();
    ApiError::new(
        ErrorCode::Unavailable,
        format!("the node can't start itself anew: {error}"),
    )
    .hint("start it again: its tasks go on")
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("POTLUCK_LOG")
        .unwrap_or_else(|_| "info,libp2p=warn,openraft=warn,chitchat=warn".into());
    // A second subscriber can only be there in a test.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// A panic anywhere ends the process: also in threads and actors that
/// libraries start, which `spawn` does not see.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

async fn wait_for_signal() -> Result<(), ApiError> {
    let failed = |error: std::io::Error| ApiError::new(ErrorCode::Internal, error.to_string());
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Arguments with their defaults filled in.
fn resolve(args: NodeArgs, global: &Global) -> Result<NodeSettings, ApiError> {
    let bad = |message: String| ApiError::new(ErrorCode::BadRequest, message);
    let join = match (args.join, &args.token) {
        (Some(address), Some(token)) => Some(JoinWish {
            address,
            token: token
                .parse()
                .map_err(|error: potluck_specs::trust::TokenError| {
                    bad(error.to_string()).hint("make one on a member with: potluck token create")
                })?,
        }),
        _ => None,
    };
    let advertise = args.advertise.unwrap_or_else(|| reachable(args.listen));
    if advertise.ip().is_unspecified() {
        return Err(bad(format!(
            "{advertise} is no address that others can reach this host at"
        ))
        .hint("give one with --advertise IP:PORT, or listen on one with --listen IP:PORT"));
    }
    let data = data_folder(global);
    let host = host_resources(&data);
    Ok(NodeSettings {
        join,
        name: args.name.unwrap_or_else(host_name),
        rack: args.rack,
        listen: args.listen,
        advertise,
        data,
        total: Resources {
            cpu_millis: args.cpu.unwrap_or(host.cpu_millis),
            memory_bytes: args.memory.map_or(host.memory_bytes, |mib| mib << 20),
            disk_bytes: args.disk.map_or(host.disk_bytes, |mib| mib << 20),
            // What the wire gives can't be asked of the host.
            uplink_bits_per_s: args.uplink.unwrap_or(0) * 1_000_000,
        },
        facts: facts(&args.labels, &args.devices),
        ports: parse_ports(&args.ports).ok_or_else(|| {
            bad(format!("{:?} is no range of ports", args.ports))
                .hint("write FIRST-LAST, such as 20000-29999")
        })?,
        agent_lease: Millis(args.agent_lease * 1_000),
        upgrade_helpers: !args.keep_helpers,
        ssh: args.ssh,
        logs: LogRetention {
            bytes: args.logs_keep << 20,
            age: args
                .logs_keep_days
                .map(|days| Duration::from_secs(days * 86_400)),
        },
        replace_voter_after: Duration::from_secs(args.replace_voter_after),
    })
}

/// An address of this host for one that listens on all of them.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    addresses
        .filter(|ip| !ip.is_loopback() && !ip.is_link_local())
        .map(|ip| SocketAddr::from((ip, listen.port())))
        .next()
        .unwrap_or(listen)
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (1..=last).contains(&first).then_some(first..=last)
}

fn host_resources(data: &Path) -> Resources {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = nix::sys::sysinfo::sysinfo().map_or(1 << 30, |info| info.ram_total());
    // One that can't be asked has none to offer.
    let disk = disk::file_system(data).map_or(0, |(total, _)| total);
    Resources {
        cpu_millis: u32::try_from(cores * 1_000).unwrap_or(u32::MAX),
        memory_bytes: memory.saturating_sub(MEMORY_KEPT),
        disk_bytes: disk.saturating_sub(disk::kept(disk)),
        ..Resources::ZERO
    }
}

fn start_failed(error: &StartError) -> ApiError {
    let mut shown = ApiError::new(error.code(), chain(error));
    shown.hint = error.hint();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_ordered() {
        assert_eq!(parse_ports("20000-20010"), Some(20_000..=20_010));
        for bad in ["", "1", "2-1", "0-5", "1-70000", "a-b"] {
            assert_eq!(parse_ports(bad), None, "{bad}");
        }
    }
}
