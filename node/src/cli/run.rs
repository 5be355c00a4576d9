//! `potluck run`: evaluate, upload, sign, submit, wait; or go back to an
//! earlier version. What the cluster has already is left as it is.

use super::{
    args::{Expected, Global, RunArgs},
    awaited::{Stand, failure, stand},
    connect::{Session, connect},
    evaluate::{Wanted, evaluate},
    origin,
    output::{self, Waiting},
    plan, spec,
    upload::{Package, Packages},
};
use crate::api::{
    change::{About, Change},
    client::unexpected,
    error::{ApiError, ErrorCode},
    operate::RolloutStatus,
    plan::is_same,
    protocol::{Changed, JobStatus},
};
use potluck_core::cluster::Origin;
use potluck_specs::{
    Job, JobName, PackageId,
    finding::{Severity, refused},
    job::{JobDraft, SignedJob},
    plan::JobPlan,
};
use potluck_starlark::Finding;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    time::Duration,
};

/// Times that a version race with another submitter is tried again.
const VERSION_TRIES: u32 = 5;

/// How long the first look at a job is tried again without a leader.
const LOOK_WAIT: Duration = Duration::from_secs(30);

/// How long healthy tasks are waited for, unless it is said otherwise.
const WAIT: Duration = Duration::from_secs(120);

/// How long the end of work is waited for: longer than any work.
const WAIT_DONE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A job that is to be submitted, under whatever version comes next.
struct Wish {
    job: Job,
    package: Package,
    further: Vec<Package>,
    about: About,
}

/// `potluck run FILE`, `potluck run --version N JOB`.
pub(super) async fn run(args: &RunArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let mut told = Vec::new();
    let (mut session, wishes) = match args.version {
        Some(version) => go_back(args, version, global).await?,
        None => from_spec(args, global, &mut told).await?,
    };
    let names: Vec<JobName> = wishes.iter().map(|wish| wish.job.name.clone()).collect();
    let mut accepted = Vec::new();
    for wish in wishes {
        let waiting = output::waiting(global.output, &format!("submitting {}", wish.job.name));
        let work = submit(&mut session, wish, &waiting);
        match waiting.during(work).await {
            Ok(done) => accepted.push(done),
            Err(error) => {
                let left = &names[accepted.len()..];
                return Err(half_done(error, &accepted, left, global));
            }
        }
    }
    let statuses = match args.no_wait {
        true => Ok(Vec::new()),
        false => wait(&mut session, args, &accepted, global).await,
    };
    let (statuses, failed) = match statuses {
        Ok(statuses) => (statuses, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let shown = serde_json::json!({
        "accepted": accepted,
        "jobs": statuses,
        "findings": told,
    });
    output::print(global.output, &shown, |_| {
        let bakes = |job: &&Accepted| job.staged && !job.unchanged;
        let goes_on = accepted.iter().filter(bakes).filter_map(|job| {
            let status = statuses.iter().find(|status| status.name == job.job)?;
            let rollout = status
                .rollout
                .as_ref()
                .filter(|rollout| !rollout.is_over())?;
            Some(goes_on(&job.job, rollout))
        });
        let parts = [show_all(&accepted, &statuses)].into_iter().chain(goes_on);
        parts.collect::<Vec<_>>().join("\n")
    });
    match failed {
        Some(error) => Err(error),
        None => match statuses.iter().find_map(failure).filter(|_| args.wait_done) {
            Some(error) => Err(error),
            None => Ok(ExitCode::SUCCESS),
        },
    }
}

/// Healthy tasks may still bake, and what then follows is not over.
fn goes_on(job: &JobName, status: &RolloutStatus) -> String {
    let why = status.why.as_ref();
    let why = why.map_or(String::new(), |why| format!(" ({why})"));
    format!(
        "{job}: the rollout of version {} is not over: stage {} of {}, {}{why}; \
         watch it with: potluck rollout status {job}",
        status.version, status.stage, status.stages, status.phase
    )
}

fn show_all(accepted: &[Accepted], statuses: &[JobStatus]) -> String {
    let shown = accepted.iter().map(|job| show(job, statuses));
    shown.collect::<Vec<_>>().join("\n")
}

/// A refusal after others were accepted: what was changed is told as if all
/// had been, and the error says what was not.
fn half_done(
    mut error: ApiError,
    accepted: &[Accepted],
    left: &[JobName],
    global: &Global,
) -> ApiError {
    if accepted.is_empty() {
        return error;
    }
    let shown = serde_json::json!({ "accepted": accepted, "jobs": [], "not_submitted": left });
    output::print(global.output, &shown, |_| show_all(accepted, &[]));
    let changed: Vec<String> = accepted
        .iter()
        .map(|job| format!("{} is at version {}", job.job, job.version))
        .collect();
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    error.message = format!(
        "{}; before that, {}; not submitted: {}",
        error.message,
        changed.join(", "),
        left.join(", ")
    );
    error
}

/// The jobs of a spec file, those that others wait for first. Nothing is
/// changed yet, and what could refuse one of them is asked for all.
async fn from_spec(
    args: &RunArgs,
    global: &Global,
    told: &mut Vec<Finding>,
) -> Result<(Session, Vec<Wish>), ApiError> {
    let file = Path::new(&args.what);
    let spec = evaluate(&Wanted {
        file,
        set: &args.set,
        replicas: args.replicas,
        allow_outside: args.allow_outside,
        may_be_empty: false,
        format: global.output,
    })?;
    let drafts = first_the_needed(&spec.drafts);
    let names: Vec<&JobName> = drafts.iter().map(|draft| &draft.name).collect();
    check_expected(&args.expect_version, &names)?;
    let (origin, session) = tokio::join!(origin::of(file, &spec.inputs), connect(global));
    let (origin, mut session) = (origin?, session?);
    let mut packages = Packages::of(file);
    let wishes = drafts.into_iter().map(|draft| {
        let package = packages.program(&draft)?;
        let about = about(args, &draft.name, origin.clone());
        let further = packages.further(&draft)?;
        let job = bind(&session, draft, package.id, &further);
        Ok(Wish {
            job,
            package,
            further,
            about,
        })
    });
    let wishes: Vec<Wish> = wishes.collect::<Result<_, ApiError>>()?;
    told.extend(spec.findings.iter().cloned());
    let alone = wishes.len() == 1 && wishes[0].job.change.depends_on.is_empty();
    if !alone {
        let waiting = output::waiting(global.output, "asking the scheduler");
        let plans = waiting.during(look_ahead(&mut session, &wishes, &waiting));
        let plans = plans.await?;
        refuse_any(&wishes, &plans)?;
        let missing = spec.missing(&plan::missing(&plans));
        spec::tell(&missing, global.output);
        told.extend(missing);
    }
    Ok((session, wishes))
}

/// What the leader says to all of the jobs, again and again until there is
/// one.
async fn look_ahead(
    session: &mut Session,
    wishes: &[Wish],
    waiting: &Waiting,
) -> Result<Vec<JobPlan>, ApiError> {
    let jobs: Vec<Job> = wishes.iter().map(|wish| wish.job.clone()).collect();
    let end = tokio::time::Instant::now() + LOOK_WAIT;
    loop {
        match plan::ask(session, &jobs).await {
            Err(error) if error.is_worth_a_retry() && tokio::time::Instant::now() < end => {
                waiting.tell(&format!("{}{}", error.message, output::AGAIN));
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// An error if any of the jobs would be refused: then none is submitted.
fn refuse_any(wishes: &[Wish], plans: &[JobPlan]) -> Result<(), ApiError> {
    let nothing = "nothing was changed";
    for (wish, plan) in wishes.iter().zip(plans) {
        let current = plan.version.unwrap_or(0);
        if let Some(expected) = wish.about.expected_version.filter(|v| *v != current) {
            let message = format!(
                "job {} is at version {current}, and was expected to be at version {expected}; \
                 {nothing}",
                plan.job
            );
            return Err(ApiError::new(ErrorCode::Conflict, message).hint(format!(
                "it moved on since you looked; see potluck history {}, and plan again",
                plan.job
            )));
        }
    }
    let (mut wrong, mut hints) = (Vec::new(), BTreeSet::new());
    for plan in plans.iter().filter(|plan| refused(&plan.findings)) {
        let errors = plan.findings.iter();
        for found in errors.filter(|found| found.severity == Severity::Error) {
            wrong.push(format!("job {}: {}", plan.job, found.message));
            hints.extend(found.hint.as_deref());
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!("{}; {nothing}", wrong.join("; "));
    let mut error = ApiError::new(ErrorCode::BadRequest, message);
    if !hints.is_empty() {
        error = error.hint(hints.into_iter().collect::<Vec<_>>().join("; "));
    }
    Err(error)
}

/// Drafts in their order, but each behind those that it waits for: so one that
/// stands ready when the next comes, and a circle that an earlier version
/// closed is open before its other end is submitted.
fn first_the_needed(drafts: &[JobDraft]) -> Vec<JobDraft> {
    let places: BTreeMap<&JobName, usize> = drafts.iter().map(|d| &d.name).zip(0..).collect();
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    for start in 0..drafts.len() {
        // Each with how many of those it waits for were looked at.
        let mut way = vec![(start, 0)];
        while let Some((at, next)) = way.pop() {
            if done.contains(&at) {
                continue;
            }
            match drafts[at].change.depends_on.get(next) {
                Some(needed) => {
                    way.push((at, next + 1));
                    let known = places.get(&needed.job).copied();
                    // The checks refused circles.
                    let fresh = |to: &usize| way.iter().all(|(known, _)| known != to);
                    way.extend(known.filter(fresh).map(|to| (to, 0)));
                }
                None => {
                    done.insert(at);
                    order.push(drafts[at].clone());
                }
            }
        }
    }
    order
}

/// The job of a draft, under the first version.
pub(super) fn bind(
    session: &Session,
    draft: JobDraft,
    package: PackageId,
    further: &[Package],
) -> Job {
    let cluster = session.client.welcome.cluster.clone();
    let further: Vec<PackageId> = further.iter().map(|one| one.id).collect();
    draft.bind(session.profile.fleet, &cluster, 1, package, &further)
}

/// What an earlier version was, to be signed again by who goes back.
async fn go_back(
    args: &RunArgs,
    version: u64,
    global: &Global,
) -> Result<(Session, Vec<Wish>), ApiError> {
    let name: JobName = args.what.parse().map_err(|error| {
        let message = format!("with --version, run takes the name of a job: {error}");
        ApiError::new(ErrorCode::BadRequest, message)
            .hint("write potluck run --version N JOB; see potluck history JOB")
    })?;
    check_expected(&args.expect_version, &[&name])?;
    let mut session = connect(global).await?;
    let (content, job) = session.version(&name, Some(version)).await?;
    let origin = Origin {
        back_to: Some(version),
        ..content.about.origin
    };
    let wish = Wish {
        package: Package::known(job.package),
        further: Vec::new(),
        about: about(args, &name, origin),
        job,
    };
    Ok((session, vec![wish]))
}

fn about(args: &RunArgs, job: &JobName, origin: Origin) -> About {
    let expected = args.expect_version.iter();
    About {
        message: args.message.clone().unwrap_or_default(),
        expected_version: expected
            .filter(|expected| expected.job.as_ref().is_none_or(|name| name == job))
            .map(|expected| expected.version)
            .next(),
        origin,
    }
}

/// A version without a name is for the one job that there is.
fn check_expected(expected: &[Expected], jobs: &[&JobName]) -> Result<(), ApiError> {
    let bad = |message: String| {
        ApiError::new(ErrorCode::BadRequest, message)
            .hint("write --expect-version JOB=N for each job that you have looked at")
    };
    for expected in expected {
        match &expected.job {
            None if jobs.len() != 1 => {
                let message = format!("--expect-version N is for one job, here are {}", jobs.len());
                return Err(bad(message));
            }
            Some(name) if !jobs.contains(&name) => {
                return Err(bad(format!(
                    "--expect-version names {name}, which is not here"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What was accepted, or was there already.
#[derive(Debug, serde::Serialize)]
struct Accepted {
    job: JobName,
    version: u64,
    unchanged: bool,
    package: PackageId,
    holders: Vec<String>,
    /// It comes in stages.
    #[serde(skip)]
    staged: bool,
}

fn show(job: &Accepted, statuses: &[JobStatus]) -> String {
    let accepted = match job.unchanged {
        true => format!("{} is unchanged, version {}", job.job, job.version),
        false => format!(
            "{} version {} is accepted; its package {} is on {}",
            job.job,
            job.version,
            job.package,
            job.holders.join(", "),
        ),
    };
    match statuses.iter().find(|status| status.name == job.job) {
        Some(status) => format!("{accepted}\n{}", status.progress()),
        None => accepted,
    }
}

async fn submit(
    session: &mut Session,
    wish: Wish,
    waiting: &Waiting,
) -> Result<Accepted, ApiError> {
    let package = wish.package.id;
    let staged = !wish.job.change.update.stages.is_empty();
    let mut tries = 0;
    let changed = loop {
        match sign_and_send(session, &wish, waiting).await {
            // Somebody else submitted between our look and our change.
            Err(error)
                if error.code == ErrorCode::Conflict
                    && wish.about.expected_version.is_none()
                    && tries < VERSION_TRIES =>
            {
                tries += 1;
            }
            outcome => break outcome?,
        }
    };
    match changed {
        Changed::JobAccepted {
            job,
            version,
            holders,
        } => Ok(Accepted {
            job,
            version,
            unchanged: false,
            package,
            holders,
            staged,
        }),
        Changed::JobUnchanged { job, version } => Ok(Accepted {
            job,
            version,
            unchanged: true,
            package,
            holders: Vec::new(),
            staged,
        }),
        other => Err(unexpected(&other)),
    }
}

async fn sign_and_send(
    session: &mut Session,
    wish: &Wish,
    waiting: &Waiting,
) -> Result<Changed, ApiError> {
    let current = look(session, &wish.job.name, waiting).await?;
    // What the cluster has needs no upload. Whether it has it says the leader.
    if !current.is_running(&wish.job) {
        wish.package.upload(session, waiting).await?;
        for further in &wish.further {
            further.upload(session, waiting).await?;
        }
    }
    let mut job = wish.job.clone();
    job.version = current.version + 1;
    let signed = SignedJob::new(
        &session.profile.key,
        session.profile.credential.clone(),
        &job,
    );
    let change = Change::RunJob {
        job: Box::new(signed),
        about: wish.about.clone(),
    };
    session.change(change, |text| waiting.tell(text)).await
}

/// What the cluster has of a job.
#[derive(Default)]
struct Present {
    version: u64,
    stopped: bool,
    job: Option<Job>,
}

impl Present {
    fn is_running(&self, wish: &Job) -> bool {
        let same = self.job.as_ref().is_some_and(|job| is_same(job, wish));
        same && !self.stopped
    }
}

/// Looks at the job, again and again until there is a leader to tell of it.
async fn look(
    session: &mut Session,
    job: &JobName,
    waiting: &Waiting,
) -> Result<Present, ApiError> {
    let end = tokio::time::Instant::now() + LOOK_WAIT;
    loop {
        match session.content(job, None).await {
            Ok(content) => {
                return Ok(Present {
                    version: content.about.version,
                    stopped: content.stopped,
                    // One of a newer program: not the same, whatever it is.
                    job: Job::decode(&content.job).ok(),
                });
            }
            Err(error) if error.code == ErrorCode::NotFound => return Ok(Present::default()),
            Err(error) if error.is_worth_a_retry() && tokio::time::Instant::now() < end => {
                waiting.tell(&format!("{}{}", error.message, output::AGAIN));
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn wait(
    session: &mut Session,
    args: &RunArgs,
    accepted: &[Accepted],
    global: &Global,
) -> Result<Vec<JobStatus>, ApiError> {
    let usual = match args.wait_done {
        true => WAIT_DONE,
        false => WAIT,
    };
    let limit = args.wait.map_or(usual, Duration::from_secs);
    let mut statuses = Vec::new();
    for job in accepted {
        let waiting = output::waiting(global.output, &format!("waiting for {}", job.job));
        let seen = |status: &JobStatus| {
            waiting.tell(&format!("{}: {}", job.job, status.progress()));
            !matches!(stand(status, job.version, args.wait_done), Stand::Goes)
        };
        let what = match args.wait_done {
            true => "done",
            false => "healthy",
        };
        let work = session.wait_for(&job.job, limit, what, seen);
        let status = waiting.during(work).await?;
        if let Stand::Lost(error) = stand(&status, job.version, args.wait_done) {
            return Err(error);
        }
        statuses.push(status);
    }
    Ok(statuses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::operate::RolloutPhase;
    use potluck_specs::job::Dependency;

    fn wish(name: &str, on: &[&str], expected: Option<u64>) -> Wish {
        let dependency = |on: &&str| Dependency {
            job: JobName::in_default(on),
            ..Dependency::default()
        };
        let mut job = Job {
            name: JobName::in_default(name),
            ..Job::default()
        };
        job.change.depends_on = on.iter().map(dependency).collect();
        Wish {
            package: Package::known(job.package),
            further: Vec::new(),
            about: About {
                expected_version: expected,
                ..About::default()
            },
            job,
        }
    }

    #[test]
    fn nothing_is_submitted_if_one_would_be_refused() {
        let plan = |name: &str, version| {
            let mut plan = JobPlan::of(None, Some(&wish(name, &[], None).job)).unwrap();
            plan.version = version;
            plan
        };
        let wishes = [wish("web", &[], Some(7)), wish("api", &[], Some(9))];
        let plans = [plan("web", Some(7)), plan("api", Some(9))];
        assert_eq!(refuse_any(&wishes, &plans), Ok(()));
        let error = refuse_any(&wishes, &[plan("web", Some(7)), plan("api", Some(1))]).unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        for words in [
            "job api is at version 1",
            "at version 9",
            "nothing was changed",
        ] {
            assert!(error.message.contains(words), "{}", error.message);
        }
        let mut circle = plan("api", Some(9));
        let path = potluck_specs::path::FieldPath::of("change.depends_on");
        circle.findings = vec![potluck_specs::finding::Finding::error(
            path,
            "cycle: api -> web -> api",
        )];
        let error = refuse_any(&wishes, &[plan("web", Some(7)), circle]).unwrap_err();
        assert!(
            error.message.contains("job api: cycle"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_rollout_that_goes_on_says_how_to_watch_it() {
        let status = RolloutStatus {
            version: 7,
            from: 6,
            stage: 2,
            stages: 2,
            place: None,
            phase: RolloutPhase::Rolling,
            why: None,
        };
        assert_eq!(
            goes_on(&JobName::in_default("web"), &status),
            "web: the rollout of version 7 is not over: stage 2 of 2, rolling; \
             watch it with: potluck rollout status web"
        );
    }

    #[test]
    fn the_needed_are_submitted_first() {
        let draft = |name: &str, on: &[&str]| {
            let source = potluck_specs::job::PackageSource::Path("p".into());
            let mut draft = JobDraft::new(JobName::in_default(name), source, "c");
            draft.change = wish(name, on, None).job.change;
            draft
        };
        let order = |drafts: &[JobDraft]| -> Vec<String> {
            let ordered = first_the_needed(drafts);
            ordered
                .iter()
                .map(|draft| draft.name.name.clone())
                .collect()
        };
        let drafts = [
            draft("a", &["c", "x"]),
            draft("b", &[]),
            draft("c", &["b"]),
            draft("d", &[]),
        ];
        assert_eq!(order(&drafts), ["b", "c", "a", "d"]);
        assert_eq!(order(&drafts[1..2]), ["b"]);
    }

    fn expected(texts: &[&str]) -> Vec<Expected> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn expected_versions_are_for_jobs_that_are_there() {
        let (web, db) = (JobName::in_default("web"), JobName::in_default("db"));
        let one = [&web];
        let two = [&web, &db];
        for (texts, jobs, good) in [
            (&["3"][..], &one[..], true),
            (&["3"], &two, false),
            (&["web=3"], &two, true),
            (&["web=3", "default/db=0"], &two, true),
            (&["other=3"], &two, false),
            (&[], &two, true),
        ] {
            assert_eq!(
                check_expected(&expected(texts), jobs).is_ok(),
                good,
                "{texts:?}"
            );
        }
        for bad in ["", "web=", "=3", "web=x", "-1"] {
            assert!(bad.parse::<Expected>().is_err(), "{bad:?}");
        }
    }
}
