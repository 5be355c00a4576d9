//! `potluck quota`.

use super::{
    args::{Global, QuotaArgs, QuotaCommand},
    connect::connect,
    operate::wrong_answer,
    output,
};
use crate::api::{
    change::Change,
    error::ApiError,
    operate::{OperateAnswer, OperateQuery, Operation},
};
use potluck_core::cluster::{Countable, NamespaceView, Quota};
use std::process::ExitCode;

/// `potluck quota …`.
pub(super) async fn quota(command: QuotaCommand, global: &Global) -> Result<ExitCode, ApiError> {
    match command {
        QuotaCommand::List => list(global).await,
        QuotaCommand::Set(args) => {
            let quota = quota_of(&args);
            set(args.namespace, Some(quota), global).await
        }
        QuotaCommand::Remove { namespace } => set(namespace, None, global).await,
    }
}

fn quota_of(args: &QuotaArgs) -> Quota {
    let bytes = |mebibytes: Option<u64>| mebibytes.map(|count| count << 20);
    Quota {
        jobs: args.jobs,
        tasks: args.tasks,
        cpu_millis: args.cpu,
        memory_bytes: bytes(args.memory),
        disk_bytes: bytes(args.disk),
    }
}

async fn set(
    namespace: String,
    quota: Option<Quota>,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let operation = Operation::SetQuota {
        namespace: namespace.clone(),
        quota,
    };
    let mut session = connect(global).await?;
    session
        .change(Change::Operate { operation }, |_| {})
        .await?;
    let done = serde_json::json!({ "namespace": namespace, "quota": quota });
    output::print(global.output, &done, |_| match quota {
        Some(_) => format!(
            "jobs of {namespace} are held to the quota from here on; what runs is left alone"
        ),
        None => format!("jobs of {namespace} are held to no quota"),
    });
    Ok(ExitCode::SUCCESS)
}

async fn list(global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let OperateAnswer::Namespaces(namespaces) = session.operate(OperateQuery::Namespaces).await?
    else {
        return Err(wrong_answer());
    };
    output::print(global.output, &namespaces, |namespaces| {
        output::table(
            ["NAMESPACE", "JOBS", "TASKS", "CPU", "MEMORY", "DISK"],
            namespaces.iter().map(row),
        )
    });
    Ok(ExitCode::SUCCESS)
}

/// What is asked for, of what may be.
fn row(view: &NamespaceView) -> [String; 6] {
    let cell = |what: Countable| {
        let amount = |count: u64| match what {
            Countable::Jobs | Countable::Tasks => count.to_string(),
            Countable::Cpu => what.text(count),
            Countable::Memory | Countable::Disk => output::bytes(count),
        };
        let asked = amount(view.asked.of(what));
        match view.quota.limit(what) {
            Some(limit) => format!("{asked} of {}", amount(limit)),
            None => asked,
        }
    };
    let [jobs, tasks, cpu, memory, disk] = Countable::ALL.map(cell);
    [view.namespace.clone(), jobs, tasks, cpu, memory, disk]
}
