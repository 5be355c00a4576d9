//! `potluck resolve` and `packages`.

use super::{args::Global, connect::connect, output};
use crate::api::{
    client::unexpected,
    error::ApiError,
    protocol::{ApiAnswer, ApiRequest, PackageStatus},
};
use potluck_specs::JobName;
use std::process::ExitCode;

/// `potluck resolve SERVICE`.
pub(super) async fn resolve(
    service: JobName,
    fresh: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let request = ApiRequest::Resolve {
        namespace: service.namespace,
        service: service.name,
        fresh,
    };
    let resolved = match session.client.ask(&request).await? {
        ApiAnswer::Resolved(resolved) => resolved,
        other => return Err(unexpected(&other)),
    };
    if resolved.stale {
        let text = "this answer is stale: there was no newer one to be had";
        output::note(global.output, "warning", text);
    }
    output::print(global.output, &resolved, |resolved| {
        output::table(
            ["ADDRESS", "TASK", "RACK", "NODE"],
            resolved.endpoints.iter().map(|endpoint| {
                [
                    endpoint.address.to_string(),
                    endpoint.slot.to_string(),
                    endpoint.rack.clone(),
                    endpoint.node.to_string(),
                ]
            }),
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// Where no peer is known that bytes came from.
const NOT_FETCHED: &str = "-";

/// `potluck packages`.
pub(super) async fn packages(global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let packages = match session.client.ask(&ApiRequest::Packages).await? {
        ApiAnswer::Packages(packages) => packages,
        other => return Err(unexpected(&other)),
    };
    output::print(global.output, &packages, |packages| {
        let table = output::table(
            ["PACKAGE", "SIZE", "COMPLETE", "FETCHED FROM"],
            packages.iter().map(|package| {
                let sources: Vec<String> = package
                    .bytes_by_source
                    .iter()
                    .map(|(node, count)| format!("{node} {}", output::bytes(*count)))
                    .collect();
                [
                    package.package.to_string(),
                    output::bytes(package.bytes),
                    if package.complete { "yes" } else { "no" }.into(),
                    if sources.is_empty() {
                        NOT_FETCHED.into()
                    } else {
                        sources.join(", ")
                    },
                ]
            }),
        );
        let some = |package: &PackageStatus| package.bytes_by_source.is_empty();
        match packages.iter().any(some) {
            true => format!(
                "{table}\n{NOT_FETCHED} put in through this node, or here before its process began"
            ),
            false => table,
        }
    });
    Ok(ExitCode::SUCCESS)
}
