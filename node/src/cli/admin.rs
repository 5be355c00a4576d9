//! `potluck init` and `token create`.

use super::{
    args::{Global, InitArgs, PORT_DEFAULT},
    connect::{config_folder, connect, data_folder},
    exit::chain,
    node::reachable,
    output,
};
use crate::{
    api::{
        change::Change,
        error::{ApiError, ErrorCode},
    },
    clock,
    identity::{self, InitError, InitOptions},
};
use potluck_specs::{Millis, NodeName, Topology, ids::check_name, trust::NodeRole};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

/// `potluck init`.
pub(super) fn init(args: &InitArgs, global: &Global) -> Result<ExitCode, ApiError> {
    // As the node will be reached that is started next, unless it is told
    // otherwise: for commands on other hosts.
    let unspecified = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT_DEFAULT));
    let address = Some(args.advertise.unwrap_or_else(|| reachable(unspecified)))
        .filter(|address| !address.ip().is_unspecified());
    let options = InitOptions {
        data: data_folder(global),
        config: config_folder(global),
        name: NodeName(args.name.clone().unwrap_or_else(host_name)),
        topology: Topology::in_rack(&args.cluster, &args.rack),
        user: args.user.clone(),
        addresses: address.into_iter().collect(),
        gossip: None,
        now: clock::unix_now(),
    };
    let ceremony = identity::init(&options).map_err(|error| init_failed(&error))?;
    let shown = serde_json::json!({
        "fleet": ceremony.fleet.to_hex(),
        "cluster": args.cluster,
        "node": ceremony.node.to_hex(),
        "data": options.data,
        "config": options.config,
        "address": address,
        "root_key": ceremony.root_key,
    });
    output::print(global.output, &shown, |_| {
        format!(
            "fleet {} is born, with cluster {} and this host as its first node\n\
             your admin key is in {}\n\
             move {} to a safe place: it is the root of the fleet\n\
             next: potluck node, then potluck token create for the other hosts",
            ceremony.fleet,
            args.cluster,
            options.config.display(),
            ceremony.root_key.display(),
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn init_failed(error: &InitError) -> ApiError {
    match error {
        InitError::Exists { .. } => ApiError::new(ErrorCode::Conflict, chain(error)).hint(
            "to join a fleet use potluck node --join; to begin a second one name other folders \
             with --data and --config",
        ),
        InitError::Name(_) => ApiError::new(ErrorCode::BadRequest, chain(error))
            .hint("names are DNS labels; choose one with --name, --rack, --cluster or --user"),
        _ => ApiError::new(ErrorCode::Failed, chain(error))
            .hint("choose folders that you may write with --data and --config"),
    }
}

/// The host's name as a DNS label.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let label: String = name
        .unwrap_or_default()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(potluck_specs::ids::NAME_BYTES_MAX)
        .collect();
    let label = label.trim_matches('-').to_owned();
    if label.is_empty() {
        "node".into()
    } else {
        label
    }
}

/// `potluck token create`.
pub(super) async fn create_token(
    uses: u32,
    ttl_minutes: u64,
    rack: Option<String>,
    no_voter: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    if let Some(rack) = &rack {
        check_name(rack)
            .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    }
    let mut session = connect(global).await?;
    let roles = match no_voter {
        true => vec![NodeRole::Agent],
        false => vec![NodeRole::Agent, NodeRole::VoterEligible],
    };
    let expires = clock::unix_now() + Millis(ttl_minutes.saturating_mul(60_000));
    let cluster = session.client.welcome.cluster.clone();
    let token = identity::create_token(session.profile.fleet, &cluster, roles, rack, uses, expires);
    let change = Change::CreateToken {
        id: token.id.clone(),
        secret_hash: token.secret_hash(),
        roles: token.roles.clone(),
        rack: token.rack.clone(),
        uses,
        expires,
    };
    session.change(change, |_| {}).await?;
    let shown = serde_json::json!({
        "id": token.id, "token": token.to_string(), "uses": uses, "expires": expires.0,
    });
    output::print(global.output, &shown, |_| token.to_string());
    let note =
        format!("this token admits {uses} host(s) for {ttl_minutes} min; it is shown only once");
    output::note(global.output, "note", &note);
    Ok(ExitCode::SUCCESS)
}
