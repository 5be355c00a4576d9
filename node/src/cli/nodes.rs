//! `potluck nodes`, `info`, `drain` and `leave`.

use super::{
    args::Global,
    connect::{Session, connect},
    output::{self, Waiting},
};
use crate::{
    agent::HelperBuild,
    api::{
        change::Change,
        client::unexpected,
        error::{ApiError, ErrorCode},
        protocol::{ApiAnswer, ApiRequest, Info, NodeStatus},
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_core::auction::bits;
use std::{process::ExitCode, time::Duration};

/// Pause between two looks at a node that is being drained.
const POLL: Duration = Duration::from_millis(200);

impl Session {
    pub(super) async fn nodes(&mut self) -> Result<Vec<NodeStatus>, ApiError> {
        match self.client.ask(&ApiRequest::Nodes).await? {
            ApiAnswer::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected(&other)),
        }
    }

    async fn info(&mut self) -> Result<Info, ApiError> {
        match self.client.ask(&ApiRequest::Info).await? {
            ApiAnswer::Info(info) => Ok(*info),
            other => Err(unexpected(&other)),
        }
    }
}

/// `potluck nodes`.
pub(super) async fn nodes(global: &Global) -> Result<ExitCode, ApiError> {
    let nodes = connect(global).await?.nodes().await?;
    output::print(global.output, &nodes, |nodes| {
        output::table(
            [
                "NODE",
                "RACK",
                "STATE",
                "ROLE",
                "TASKS",
                "FREE CPU",
                "FREE MEMORY",
                "FREE DISK",
                "FREE UPLINK",
                "ADDRESS",
            ],
            nodes.iter().map(node_row),
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn node_row(node: &NodeStatus) -> [String; 10] {
    let free = |show: fn(&potluck_specs::job::Resources) -> String| {
        node.free.as_ref().map_or_else(|| "-".into(), show)
    };
    [
        node.name.clone(),
        node.topology.rack.clone(),
        node_state(node),
        node.role.clone().unwrap_or_default(),
        node.tasks.to_string(),
        free(|free| format!("{:.2}", f64::from(free.cpu_millis) / 1000.0)),
        free(|free| output::bytes(free.memory_bytes)),
        free(|free| output::bytes(free.disk_bytes)),
        uplink(node),
        node.address
            .map_or_else(|| "-".into(), |address| address.to_string()),
    ]
}

/// Hosts whose operator has set none have none to give.
fn uplink(node: &NodeStatus) -> String {
    let has = node.total.is_some_and(|total| total.uplink_bits_per_s > 0);
    match node.free.filter(|_| has) {
        Some(free) => bits(free.uplink_bits_per_s),
        None => "-".into(),
    }
}

/// Its session, and what else keeps it from being like the others.
fn node_state(node: &NodeStatus) -> String {
    let mut state = node.state.clone();
    if let Some(by) = &node.relayed_by {
        state.push_str(&format!(", relayed by {by}"));
    }
    // A node that is drained takes no new work anyway.
    match (node.draining, node.cordoned) {
        (true, _) => state.push_str(", draining"),
        (false, true) => state.push_str(", cordoned"),
        (false, false) => {}
    }
    state
}

/// `potluck info`.
pub(super) async fn info(global: &Global) -> Result<ExitCode, ApiError> {
    let info = connect(global).await?.info().await?;
    output::print(global.output, &info, |info| {
        let mut lines = vec![
            format!(
                "node     {} ({}) at {}, pid {}",
                info.name, info.node, info.topology, info.pid
            ),
            format!(
                "fleet    {}  cluster {}  version {}",
                info.fleet, info.cluster, info.version
            ),
            format!("leader   {}", info.leader.as_deref().unwrap_or("none")),
            format!("voters   {}", info.voters.join(", ")),
            format!("reign    {}.{}", info.authority.0, info.authority.1),
            format!("gossip   {} datagrams dropped", info.gossip_dropped),
        ];
        lines.extend(info.helpers.iter().map(helper_line));
        lines.extend(
            info.warnings
                .iter()
                .map(|warning| format!("warning: {warning}")),
        );
        lines.join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

/// How many helpers there are of a build, and why they are not of another.
fn helper_line(build: &HelperBuild) -> String {
    let which = match build.is_current {
        true => "this node's build",
        false => "another build",
    };
    let why = build.why.iter().map(|why| format!(": {why}"));
    let why: String = why.collect();
    format!(
        "helpers  {} of {which} ({}){why}",
        build.helpers, build.build
    )
}

/// `potluck drain NODE`.
pub(super) async fn drain(
    name: &str,
    draining: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let nodes = session.nodes().await?;
    let Some(node) = nodes.iter().find(|node| node.name == name) else {
        let known: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(
            ApiError::new(ErrorCode::NotFound, format!("there is no node {name:?}"))
                .hint(format!("nodes are: {}", known.join(", "))),
        );
    };
    session
        .change(
            Change::Drain {
                node: node.node,
                draining,
            },
            |_| {},
        )
        .await?;
    let done = serde_json::json!({ "node": name, "draining": draining });
    output::print(global.output, &done, |_| match draining {
        true => format!("{name} takes no new work; its tasks move away"),
        false => format!("{name} takes work again"),
    });
    Ok(ExitCode::SUCCESS)
}

/// `potluck leave`.
pub(super) async fn leave(wait: u64, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let info = session.info().await?;
    if !session.is_local {
        let message = format!(
            "{} is asked over the network, and can't be stopped from here",
            info.name
        );
        return Err(ApiError::new(ErrorCode::BadRequest, message)
            .hint("run leave on the node's own host; to empty it from here use potluck drain"));
    }
    let waiting = output::waiting(global.output, &format!("draining {}", info.name));
    waiting
        .during(empty_and_remove(&mut session, &info, wait, &waiting))
        .await?;
    stop_process(&info)?;
    let done = serde_json::json!({ "node": info.name, "left": true });
    output::print(global.output, &done, |_| {
        format!("{} has left the cluster", info.name)
    });
    Ok(ExitCode::SUCCESS)
}

async fn empty_and_remove(
    session: &mut Session,
    info: &Info,
    wait: u64,
    waiting: &Waiting,
) -> Result<(), ApiError> {
    let drain = Change::Drain {
        node: info.node,
        draining: true,
    };
    session.change(drain, |text| waiting.tell(text)).await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(wait);
    loop {
        let nodes = session.nodes().await?;
        let left = nodes
            .iter()
            .find(|node| node.node == info.node)
            .map_or(0, |node| node.tasks);
        if left == 0 {
            break;
        }
        waiting.tell(&format!("{left} tasks still on {}", info.name));
        if tokio::time::Instant::now() >= end {
            let message = format!("{left} tasks are still on {} after {wait} s", info.name);
            return Err(ApiError::new(ErrorCode::Timeout, message)
                .hint("it stays draining; see why with potluck explain, or undo with potluck drain --undo"));
        }
        tokio::time::sleep(POLL).await;
    }
    session
        .change(Change::Remove { node: info.node }, |text| {
            waiting.tell(text);
        })
        .await?;
    Ok(())
}

fn stop_process(info: &Info) -> Result<(), ApiError> {
    kill(Pid::from_raw(info.pid.cast_signed()), Signal::SIGTERM).map_err(|error| {
        let message = format!(
            "the node has left, but its process {} can't be stopped: {error}",
            info.pid
        );
        ApiError::new(ErrorCode::Denied, message).hint("leave works on the node's own host")
    })
}
