//! `potluck run`: evaluate, upload, sign, submit, wait.

use super::{
    args::{Global, RunArgs},
    connect::{Session, connect},
    exit::chain,
    output,
};
use crate::api::{
    change::Change,
    client::unexpected,
    error::{ApiError, ErrorCode},
    protocol::{ApiAnswer, ApiRequest, Changed, ChunkUpload, JobStatus},
};
use indicatif::ProgressBar;
use potluck_dht::pack::{Scan, scan};
use potluck_specs::{
    JobName, PackageId,
    job::{JobDraft, JobKind, PackageSource, SignedJob},
    support,
};
use std::{ffi::OsStr, path::Path, process::ExitCode, time::Duration};

/// Bytes of chunks in one upload: one frame holds them with room to spare.
const UPLOAD_BYTES: usize = 512 << 10;

/// Times that a version race with another submitter is tried again.
const VERSION_TRIES: u32 = 5;

/// `potluck run FILE`.
pub(super) async fn run(args: &RunArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let drafts = evaluate(&args.file)?;
    refuse_unsupported(&drafts)?;
    let mut session = connect(global).await?;
    let mut accepted = Vec::new();
    for mut draft in drafts {
        if let Some(replicas) = args.replicas {
            set_replicas(&mut draft, replicas)?;
        }
        accepted.push(submit(&mut session, draft, &args.file).await?);
    }
    let statuses = if args.no_wait {
        Vec::new()
    } else {
        wait(&mut session, args, &accepted).await?
    };
    let shown = serde_json::json!({ "accepted": accepted, "jobs": statuses });
    output::print(global.output, &shown, |_| {
        accepted
            .iter()
            .map(|job| show(job, &statuses))
            .collect::<Vec<_>>()
            .join("\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn set_replicas(draft: &mut JobDraft, wanted: u32) -> Result<(), ApiError> {
    let JobKind::Service { replicas } = &mut draft.kind else {
        let message = format!("{} is not a service: it has no replicas", draft.name);
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    };
    *replicas = wanted;
    Ok(())
}

/// What was accepted.
#[derive(Debug, serde::Serialize)]
struct Accepted {
    job: JobName,
    version: u64,
    package: PackageId,
    holders: Vec<String>,
}

fn show(job: &Accepted, statuses: &[JobStatus]) -> String {
    let accepted = format!(
        "{} version {} is accepted; its package {} is on {}",
        job.job,
        job.version,
        job.package,
        job.holders.join(", "),
    );
    match statuses.iter().find(|status| status.name == job.job) {
        Some(status) => format!("{accepted}\n{}/{} healthy", status.healthy, status.replicas),
        None => accepted,
    }
}

/// Evaluates a spec in a child process with limits: a spec can't hurt the
/// process that holds the person's keys.
fn evaluate(file: &Path) -> Result<Vec<JobDraft>, ApiError> {
    let bad = |text: String| ApiError::new(ErrorCode::BadRequest, text);
    let program = std::env::current_exe()
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    potluck_starlark::sandboxed(&program, &[OsStr::new("internal-evaluate")], file)
        // The list of problems begins each with "error:", as we do.
        .map_err(|error| bad(chain(&error).trim_start_matches("error: ").into()))
}

/// What nobody executes yet is said before anything is uploaded.
fn refuse_unsupported(drafts: &[JobDraft]) -> Result<(), ApiError> {
    let findings = drafts.iter().flat_map(|draft| {
        let about = |finding| format!("job {}: {finding}", draft.name);
        support::unsupported(draft).into_iter().map(about)
    });
    let findings: Vec<String> = findings.collect();
    match findings.is_empty() {
        true => Ok(()),
        false => Err(ApiError::new(ErrorCode::BadRequest, findings.join("\n"))),
    }
}

/// The child's side of [`evaluate`].
pub(super) fn evaluate_child(file: &Path) -> ExitCode {
    ExitCode::from(potluck_starlark::child_main(file))
}

async fn submit(session: &mut Session, draft: JobDraft, file: &Path) -> Result<Accepted, ApiError> {
    let bar = output::spinner(&format!("submitting {}", draft.name));
    let package = match &draft.package {
        PackageSource::Id(id) => *id,
        PackageSource::Path(path) => {
            let base = file.parent().unwrap_or_else(|| Path::new("."));
            upload(session, &base.join(path), &bar).await?
        }
        PackageSource::Oci(_) => return Err(not_yet(&draft, "a package from a registry")),
    };
    if !draft.packages.is_empty() {
        return Err(not_yet(&draft, "a second package"));
    }
    let mut tries = 0;
    let changed = loop {
        match sign_and_send(session, &draft, package, &bar).await {
            // Somebody else submitted between our look and our change.
            Err(error) if error.code == ErrorCode::Conflict && tries < VERSION_TRIES => tries += 1,
            outcome => break outcome?,
        }
    };
    bar.finish_and_clear();
    match changed {
        Changed::JobAccepted {
            job,
            version,
            holders,
        } => Ok(Accepted {
            job,
            version,
            package,
            holders,
        }),
        other => Err(unexpected(&other)),
    }
}

fn not_yet(draft: &JobDraft, what: &str) -> ApiError {
    let message = format!("job {}: {what} is not yet supported", draft.name);
    ApiError::new(ErrorCode::BadRequest, message)
}

async fn sign_and_send(
    session: &mut Session,
    draft: &JobDraft,
    package: PackageId,
    bar: &ProgressBar,
) -> Result<Changed, ApiError> {
    let current = match session.jobs(Some(draft.name.clone())).await {
        Ok(jobs) => jobs.first().map_or(0, |job| job.version),
        Err(error) if error.code == ErrorCode::NotFound => 0,
        // The change below waits for a leader; so may this look.
        Err(error) if error.is_worth_a_retry() => retry_version(session, &draft.name).await?,
        Err(error) => return Err(error),
    };
    let (fleet, cluster) = (
        session.profile.fleet,
        session.client.welcome.cluster.clone(),
    );
    let job = draft
        .clone()
        .bind(fleet, &cluster, current + 1, package, &[]);
    let signed = SignedJob::new(
        &session.profile.key,
        session.profile.credential.clone(),
        &job,
    );
    let change = Change::RunJob {
        job: Box::new(signed),
    };
    session
        .change(change, |text| bar.set_message(text.to_owned()))
        .await
}

/// The job's version, asked for until there is a leader to tell it.
async fn retry_version(session: &mut Session, job: &JobName) -> Result<u64, ApiError> {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match session.jobs(Some(job.clone())).await {
            Ok(jobs) => return Ok(jobs.first().map_or(0, |job| job.version)),
            Err(error) if error.code == ErrorCode::NotFound => return Ok(0),
            Err(error) if error.is_worth_a_retry() && tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Cuts a file or folder into chunks and sends those that the node lacks.
async fn upload(
    session: &mut Session,
    path: &Path,
    bar: &ProgressBar,
) -> Result<PackageId, ApiError> {
    bar.set_message(format!("packing {}", path.display()));
    let bad = |error: &dyn std::error::Error| {
        ApiError::new(
            ErrorCode::BadRequest,
            format!("can't pack {}: {}", path.display(), chain(error)),
        )
        .hint("a spec's package is a path beside the spec file")
    };
    let package = scan(path).map_err(|error| bad(&error))?;
    let manifest = ApiRequest::PutManifest(package.manifest_bytes.clone());
    let mut missing = missing(session.client.ask(&manifest).await?)?;
    let total = missing.len();
    while !missing.is_empty() {
        bar.set_message(format!(
            "uploading {}, {} of {total} chunks left",
            path.display(),
            missing.len()
        ));
        let chunks = batch(&package, &missing).map_err(|error| bad(&error))?;
        let sent = chunks.len();
        session.client.ask(&ApiRequest::PutChunks(chunks)).await?;
        missing.drain(..sent);
    }
    Ok(package.id)
}

fn missing(answer: ApiAnswer) -> Result<Vec<potluck_specs::ChunkHash>, ApiError> {
    match answer {
        ApiAnswer::Missing(missing) => Ok(missing),
        other => Err(unexpected(&other)),
    }
}

/// The first of the missing chunks, as many as fit in one upload.
fn batch(
    package: &Scan,
    missing: &[potluck_specs::ChunkHash],
) -> Result<Vec<ChunkUpload>, potluck_dht::pack::PackError> {
    let mut chunks = Vec::new();
    let mut bytes = 0;
    for hash in missing {
        let Some(content) = package.read(*hash)? else {
            continue;
        };
        bytes += content.len();
        if !chunks.is_empty() && bytes > UPLOAD_BYTES {
            break;
        }
        chunks.push(ChunkUpload {
            hash: *hash,
            bytes: content,
        });
    }
    Ok(chunks)
}

async fn wait(
    session: &mut Session,
    args: &RunArgs,
    accepted: &[Accepted],
) -> Result<Vec<JobStatus>, ApiError> {
    let limit = Duration::from_secs(args.wait);
    let mut statuses = Vec::new();
    for job in accepted {
        let bar = output::spinner(&format!("waiting for {}", job.job));
        let healthy = |status: &JobStatus| {
            bar.set_message(format!(
                "{}: {}/{} healthy",
                job.job, status.healthy, status.replicas
            ));
            status.version > job.version
                || status.healthy == status.replicas
                    && status
                        .tasks
                        .iter()
                        .all(|task| task.version == Some(job.version))
        };
        statuses.push(
            session
                .wait_for(&job.job, limit, "healthy", healthy)
                .await?,
        );
        bar.finish_and_clear();
    }
    Ok(statuses)
}
