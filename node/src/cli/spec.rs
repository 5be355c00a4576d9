//! `potluck spec …`: checks, values and descriptions of spec files. Nothing
//! here asks a node. What is right and wrong is decided by `potluck_starlark`
//! and the checks of `potluck_specs`; this file finds files and prints.

use super::{
    args::{Format, Global, NewArgs, SchemaPart, SpecCommand},
    exit::chain,
    output,
};
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::{job::JobDraft, schema::of_a_job};
use potluck_starlark::{
    EvalError, Evaluated, EvaluatedJob, Finding, Look, Outcome, Parameter, Sandbox, Settings,
    Shown, Starting, Wanted, describe_functions, render, starting_file,
};
use serde::Serialize;
use serde_json::json;
use std::{
    fs, io,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Most files that a folder may hold: more are a mistake in the path.
const FILES_MAX: usize = 20_000;

/// Columns that findings are wrapped at.
const COLUMNS: usize = 100;

/// Exit code of a check that found something wrong: that of a bad request.
const WRONG: u8 = 2;

/// Carries out one of the commands.
///
/// # Errors
/// Bad requests, and specs that are wrong.
pub(super) fn run(command: SpecCommand, global: &Global) -> Result<ExitCode, ApiError> {
    match command {
        SpecCommand::Check { paths, set } => check(&paths, &settings(&set)?, global),
        SpecCommand::Show { file, set } => show(&file, &settings(&set)?, global),
        SpecCommand::Schema { part } => schema(part),
        SpecCommand::New(args) => new(args),
    }
}

/// Evaluates the spec of `potluck run` and `potluck plan`: its drafts, once
/// warnings are told.
///
/// # Errors
/// All that is wrong with the spec, rendered.
pub(super) fn evaluate(file: &Path, set: &[String]) -> Result<Vec<JobDraft>, ApiError> {
    let wanted = Wanted {
        settings: settings(set)?,
        ..Wanted::default()
    };
    let evaluated = sandbox()?.evaluate(file, &wanted).map_err(refused)?;
    tell(&evaluated.findings);
    let jobs = evaluated.jobs.into_iter();
    let not_yet: Vec<Finding> = jobs.clone().flat_map(|job| job.not_yet).collect();
    if !not_yet.is_empty() {
        tell(&not_yet);
        let message = "the spec asks for what this version does not carry out yet";
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    Ok(jobs.map(|job| job.draft).collect())
}

/// This program as the child that evaluates.
fn sandbox() -> Result<Sandbox, ApiError> {
    let executable = std::env::current_exe()
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(Sandbox {
        executable,
        args: vec!["internal-evaluate".into()],
    })
}

fn settings(set: &[String]) -> Result<Settings, ApiError> {
    Settings::parse(set.iter().map(String::as_str))
        .map_err(|why| ApiError::new(ErrorCode::BadRequest, why))
}

/// Findings are drawn here; the error that ends the command only counts them.
fn refused(error: EvalError) -> ApiError {
    match error {
        EvalError::Findings(findings) => {
            tell(&findings);
            let wrong = findings.iter().filter(|finding| finding.is_error()).count();
            let message = format!("the spec is refused: {}", counted(wrong, "error"));
            ApiError::new(ErrorCode::BadRequest, message)
        }
        EvalError::Root(error) => ApiError::new(ErrorCode::NotFound, chain(&error)),
        EvalError::Start { .. } | EvalError::Crashed { .. } => {
            ApiError::new(ErrorCode::Internal, chain(&error))
        }
        other => ApiError::new(ErrorCode::BadRequest, chain(&other)),
    }
}

/// Draws findings on standard error.
fn tell(findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let stderr = io::stderr();
    let look = Look {
        colours: stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        width: COLUMNS,
    };
    // Who does not read it does not need it.
    let _ = writeln!(stderr.lock(), "{}\n", render(findings, look));
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// What a check of one file came to.
#[derive(Debug, Serialize)]
struct Checked {
    file: PathBuf,
    /// Names of its good jobs.
    jobs: Vec<String>,
    findings: Vec<Finding>,
    /// What ended its evaluation, if that was not a finding.
    error: Option<String>,
}

impl Checked {
    fn of(file: &Path, outcome: Outcome) -> Checked {
        let mut checked = Checked {
            file: file.into(),
            jobs: Vec::new(),
            findings: Vec::new(),
            error: None,
        };
        match outcome {
            Ok(Evaluated { jobs, findings, .. }) => {
                checked.jobs = jobs.iter().map(|job| job.draft.name.to_string()).collect();
                checked.findings = findings;
                let not_yet = jobs.into_iter().flat_map(|job| job.not_yet);
                checked.findings.extend(not_yet);
            }
            Err(error) => checked.error = Some(chain(&error)),
        }
        checked
    }

    fn errors(&self) -> usize {
        let wrong = self.findings.iter().filter(|finding| finding.is_error());
        wrong.count() + usize::from(self.error.is_some())
    }
}

fn check(paths: &[PathBuf], settings: &Settings, global: &Global) -> Result<ExitCode, ApiError> {
    let mut named = Vec::new();
    let mut found = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => walk(path, &mut found)?,
            false if !path.exists() => {
                let message = format!("there is no {}", path.display());
                return Err(ApiError::new(ErrorCode::NotFound, message));
            }
            false => named.push(path.clone()),
        }
    }
    found.retain(|path| !named.contains(path));
    if named.is_empty() && found.is_empty() {
        let message = "there is no *.star file";
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    let sandbox = sandbox()?;
    let mut wanted = Wanted {
        settings: settings.clone(),
        ..Wanted::default()
    };
    let mut outcomes = sandbox.evaluate_all(&named, &wanted);
    // A file that a folder happens to hold may be a library.
    wanted.may_be_library = true;
    outcomes.extend(sandbox.evaluate_all(&found, &wanted));
    let files = named.iter().chain(&found).zip(outcomes);
    let checked: Vec<Checked> = files
        .map(|(file, outcome)| Checked::of(file, outcome))
        .collect();
    report(&checked, global);
    let wrong = checked.iter().any(|file| file.errors() > 0);
    Ok(if wrong {
        ExitCode::from(WRONG)
    } else {
        ExitCode::SUCCESS
    })
}

fn report(checked: &[Checked], global: &Global) {
    if global.output == Format::Table {
        // A library's mistakes are found through each file that loads it.
        let mut told: Vec<&Finding> = Vec::new();
        for finding in checked.iter().flat_map(|file| &file.findings) {
            if !told.contains(&finding) {
                told.push(finding);
            }
        }
        let told: Vec<Finding> = told.into_iter().cloned().collect();
        tell(&told);
        for file in checked {
            if let Some(error) = &file.error {
                eprintln!("error: {}: {error}\n", file.file.display());
            }
        }
    }
    output::print(global.output, &checked, |checked| {
        let jobs = checked.iter().map(|file| file.jobs.len()).sum();
        let errors = checked.iter().map(Checked::errors).sum();
        let all = checked
            .iter()
            .map(|file| file.findings.len())
            .sum::<usize>();
        let in_findings: usize = checked
            .iter()
            .map(|file| file.errors() - usize::from(file.error.is_some()))
            .sum();
        format!(
            "{}, {}: {}, {}",
            counted(checked.len(), "file"),
            counted(jobs, "job"),
            counted(errors, "error"),
            counted(all - in_findings, "warning"),
        )
    });
}

/// The spec files in a folder and below, in order; hidden folders, links and
/// what cargo builds are left out.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), ApiError> {
    let unreadable = |error: &io::Error| {
        let message = format!("can't read {}: {error}", folder.display());
        ApiError::new(ErrorCode::NotFound, message)
    };
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(|error| unreadable(&error))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type().map_err(|error| unreadable(&error))?;
        let path = entry.path();
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.') || name == "target";
        if kind.is_dir() && !hidden {
            walk(&path, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|end| end == "star") {
            found.push(path);
        }
        if found.len() > FILES_MAX {
            let message = format!("there are more than {FILES_MAX} spec files");
            return Err(ApiError::new(ErrorCode::BadRequest, message));
        }
    }
    Ok(())
}

/// What `potluck spec show -o json` prints.
#[derive(Debug, Serialize)]
struct Shows<'a> {
    jobs: &'a [EvaluatedJob],
    params: &'a [Parameter],
}

fn show(file: &Path, settings: &Settings, global: &Global) -> Result<ExitCode, ApiError> {
    let wanted = Wanted {
        settings: settings.clone(),
        values: true,
        ..Wanted::default()
    };
    let evaluated = sandbox()?.evaluate(file, &wanted).map_err(refused)?;
    tell(&evaluated.findings);
    let shows = Shows {
        jobs: &evaluated.jobs,
        params: &evaluated.params,
    };
    output::print(global.output, &shows, |shows| {
        let params = (!shows.params.is_empty()).then(|| show_params(shows.params));
        let jobs = shows.jobs.iter().map(show_job);
        params
            .into_iter()
            .chain(jobs)
            .collect::<Vec<_>>()
            .join("\n\n")
    });
    Ok(ExitCode::SUCCESS)
}

fn show_params(params: &[Parameter]) -> String {
    let rows = params.iter().map(|param| {
        [
            param.name.clone(),
            param.kind.clone(),
            param.value.clone().unwrap_or_default(),
            param
                .default
                .clone()
                .unwrap_or_else(|| "must be set".into()),
            param.doc.clone(),
        ]
    });
    output::table(["PARAM", "TYPE", "VALUE", "DEFAULT", "MEANING"], rows)
}

fn show_job(job: &EvaluatedJob) -> String {
    let rows = job.values.iter().map(|shown| {
        let Shown {
            field,
            value,
            meaning,
            at,
        } = shown;
        let unset = || format!("- ({})", meaning.as_deref().unwrap_or("not set"));
        [
            field.clone(),
            value.clone().unwrap_or_else(unset),
            at.as_ref()
                .map_or_else(|| "default".into(), |at| format!("{}:{}", at.file, at.line)),
        ]
    });
    let mut text = format!("job {} ({})\n", job.draft.name, job.at);
    text += &output::table(["FIELD", "VALUE", "FROM"], rows);
    for finding in &job.not_yet {
        text += &format!("\nnot yet: {} ({})", finding.message, finding.at);
    }
    text
}

fn schema(part: Option<SchemaPart>) -> Result<ExitCode, ApiError> {
    let told = match part {
        Some(SchemaPart::Functions) => json!(describe_functions()),
        Some(SchemaPart::Job) => of_a_job(),
        None => json!({ "functions": describe_functions(), "job": of_a_job() }),
    };
    // The description is for programs, in either format.
    output::print(Format::Json, &told, |_| String::new());
    Ok(ExitCode::SUCCESS)
}

fn new(args: NewArgs) -> Result<ExitCode, ApiError> {
    let NewArgs {
        file,
        name,
        package,
        command,
        port,
        replicas,
    } = args;
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let missing = |what: &str| {
        ApiError::new(ErrorCode::BadRequest, format!("--{what} is missing"))
            .hint("on a terminal it would be asked for")
    };
    let ask = |given: Option<String>, what: &str, usual: &str| match given {
        Some(given) => Ok(given),
        None if terminal => question(what, usual),
        None if !usual.is_empty() => Ok(usual.to_owned()),
        None => Err(missing(what)),
    };
    let name = ask(name, "name", "")?;
    let package = ask(package, "package", ".")?;
    let command = ask(command, "command", &format!("bin/{name}"))?;
    let port = match port {
        Some(port) => Some(port),
        None if terminal => Some(question("port", "none")?).filter(|port| port != "none"),
        None => None,
    };
    let text = starting_file(&Starting {
        name,
        package,
        command,
        port,
        replicas,
    });
    let Some(file) = file else {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    };
    let mut created = fs::File::create_new(&file).map_err(|error| cannot_write(&file, &error))?;
    created
        .write_all(text.as_bytes())
        .map_err(|error| cannot_write(&file, &error))?;
    eprintln!(
        "wrote {0}; look at it with `potluck spec show {0}`",
        file.display()
    );
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(file: &Path, error: &io::Error) -> ApiError {
    let message = format!("can't write {}: {error}", file.display());
    let code = match error.kind() {
        io::ErrorKind::AlreadyExists => ErrorCode::Conflict,
        _ => ErrorCode::Other,
    };
    ApiError::new(code, message)
}

/// Asks on the terminal; an empty answer means the usual one.
fn question(what: &str, usual: &str) -> Result<String, ApiError> {
    let failed = |error: io::Error| ApiError::new(ErrorCode::Other, error.to_string());
    eprint!(
        "{what}{}: ",
        if usual.is_empty() {
            String::new()
        } else {
            format!(" [{usual}]")
        }
    );
    io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    let answer = line.trim();
    Ok(if answer.is_empty() { usual } else { answer }.to_owned())
}
