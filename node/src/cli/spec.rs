//! `potluck spec …`: checks, values and descriptions of spec files. Nothing
//! here asks a node. What is right and wrong is decided by `potluck_starlark`
//! and the checks of `potluck_specs`; this file finds files and prints.

use super::{
    args::{Format, Global, NewArgs, SchemaPart, SpecCommand},
    exit::chain,
    output,
};
use crate::api::error::{ApiError, ErrorCode};
use potluck_specs::schema::of_a_job;
use potluck_starlark::{
    EvalError, Evaluated, EvaluatedJob, Evaluator, Files, Finding, Label, Look, Outcome, Parameter,
    Sandbox, Settings, Shown, Starting, Text, Wanted, describe_functions, render, starting_file,
};
use serde::Serialize;
use serde_json::json;
use std::{
    fs, io,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

mod across;

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
        SpecCommand::New(args) => new(args, global),
    }
}

/// Evaluates the spec of `potluck run` and `potluck plan`.
///
/// # Errors
/// All that is wrong with the spec, told.
pub(super) fn evaluate(asked: &super::evaluate::Wanted) -> Result<Evaluated, ApiError> {
    let wanted = Wanted {
        settings: settings(asked.set)?,
        may_be_library: asked.may_be_empty,
        ..Wanted::default()
    };
    let evaluated = sandbox()?
        .evaluate(asked.file, &wanted)
        .map_err(|error| refused(error, asked.format))?;
    let jobs = evaluated.jobs.iter();
    let not_yet: Vec<Finding> = jobs.flat_map(|job| job.not_yet.clone()).collect();
    if !not_yet.is_empty() {
        let all = [evaluated.findings, not_yet].concat();
        tell(&all, asked.format);
        let message = "the spec asks for what this version does not carry out yet";
        return Err(ApiError::new(ErrorCode::BadRequest, message).findings(json!(all)));
    }
    Ok(evaluated)
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

/// What ended an evaluation, for the person.
fn refused(error: EvalError, format: Format) -> ApiError {
    if let Some(findings) = error.findings() {
        return refuse(&findings, format);
    }
    match error {
        EvalError::Root(error) => ApiError::new(ErrorCode::NotFound, chain(&error)),
        EvalError::Start { .. } | EvalError::Crashed { .. } => {
            ApiError::new(ErrorCode::Internal, chain(&error))
        }
        other => ApiError::new(ErrorCode::BadRequest, chain(&other)),
    }
}

/// Findings are drawn here; the error that ends the command counts them, and
/// holds them for programs.
pub(super) fn refuse(findings: &[Finding], format: Format) -> ApiError {
    tell(findings, format);
    let wrong = findings.iter().filter(|finding| finding.is_error()).count();
    let message = format!("the spec is refused: {}", counted(wrong, "error"));
    ApiError::new(ErrorCode::BadRequest, message).findings(json!(findings))
}

/// Draws findings on standard error; who reads JSON gets them there.
pub(super) fn tell(findings: &[Finding], format: Format) {
    if findings.is_empty() || format == Format::Json {
        return;
    }
    let stderr = io::stderr();
    let drawn = draw(findings, stderr.is_terminal());
    // Who does not read it does not need it.
    let _ = writeln!(stderr.lock(), "{drawn}\n");
}

fn draw(findings: &[Finding], terminal: bool) -> String {
    let look = Look {
        colours: terminal && std::env::var_os("NO_COLOR").is_none(),
        width: COLUMNS,
    };
    render(findings, look)
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
                checked.findings.sort_by(|a, b| {
                    let place = |f: &Finding| (f.at.file.clone(), f.at.line, f.at.column);
                    place(a).cmp(&place(b))
                });
            }
            Err(error) => match error.findings() {
                Some(findings) => checked.findings = findings,
                None => checked.error = Some(chain(&error)),
            },
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
    let mut gone = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => walk(path, &mut found)?,
            false if !path.exists() => gone.push(path.clone()),
            false => named.push(path.clone()),
        }
    }
    found.retain(|path| !named.contains(path));
    if named.is_empty() && found.is_empty() {
        let message = match gone.first() {
            Some(path) => format!("there is no {}", path.display()),
            None => "there is no *.star file".into(),
        };
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
    let files: Vec<PathBuf> = named.into_iter().chain(found).collect();
    let across = across::check(
        outcomes
            .iter_mut()
            .filter_map(|outcome| outcome.as_mut().ok()),
    );
    let mut checked: Vec<Checked> = files
        .iter()
        .zip(outcomes)
        .map(|(file, outcome)| Checked::of(file, outcome))
        .collect();
    checked.extend(gone.into_iter().map(|file| Checked {
        file,
        jobs: Vec::new(),
        findings: Vec::new(),
        error: Some("there is no such file".into()),
    }));
    report(&checked, &across, global);
    let wrong = checked.iter().any(|file| file.errors() > 0);
    Ok(match wrong || across.iter().any(Finding::is_error) {
        true => ExitCode::from(WRONG),
        false => ExitCode::SUCCESS,
    })
}

/// Findings are the answer of a check, so they go to standard output, as those
/// of other checkers do.
fn report(checked: &[Checked], across: &[Finding], global: &Global) {
    let shown: Vec<serde_json::Value> = checked.iter().map(|file| json!(file)).collect();
    let mut shown = json!(shown);
    if let (Some(list), false) = (shown.as_array_mut(), across.is_empty()) {
        // What is about several files stands with none of them.
        list.push(json!({ "file": null, "jobs": [], "findings": across, "error": null }));
    }
    output::print(global.output, &shown, |_| {
        // A library's mistakes are found through each file that loads it.
        let mut told: Vec<&Finding> = Vec::new();
        for finding in checked.iter().flat_map(|file| &file.findings).chain(across) {
            if !told.contains(&finding) {
                told.push(finding);
            }
        }
        let told: Vec<Finding> = told.into_iter().cloned().collect();
        let mut text = String::new();
        if !told.is_empty() {
            text += &draw(&told, io::stdout().is_terminal());
            text += "\n\n";
        }
        for file in checked {
            if let Some(error) = &file.error {
                text += &format!("error: {}: {error}\n\n", file.file.display());
            }
        }
        text + &summary(checked, &told)
    });
}

fn summary(checked: &[Checked], told: &[Finding]) -> String {
    let jobs: usize = checked.iter().map(|file| file.jobs.len()).sum();
    let ended = checked.iter().filter(|file| file.error.is_some()).count();
    let errors = told.iter().filter(|finding| finding.is_error()).count();
    // Those that something is wrong with are not counted.
    let good = if errors + ended > 0 {
        "good job"
    } else {
        "job"
    };
    format!(
        "{}, {}: {}, {}",
        counted(checked.len(), "file"),
        counted(jobs, good),
        counted(errors + ended, "error"),
        counted(told.len() - errors, "warning"),
    )
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
        } else if !kind.is_dir() && path.extension().is_some_and(|end| end == "star") {
            let what = if kind.is_symlink() {
                "a link"
            } else {
                "no regular file"
            };
            eprintln!("warning: {} is {what}, and is not checked", path.display());
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
    let evaluated = sandbox()?
        .evaluate(file, &wanted)
        .map_err(|error| refused(error, global.output))?;
    tell(&evaluated.findings, global.output);
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

fn new(args: NewArgs, global: &Global) -> Result<ExitCode, ApiError> {
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
    if let Some(file) = file
        .as_ref()
        .filter(|file| file.extension().is_none_or(|end| end != "star"))
    {
        let message = format!(
            "{} is not the name of a spec: it ends in .star",
            file.display()
        );
        return Err(ApiError::new(ErrorCode::BadRequest, message));
    }
    let mut written = Written(text.clone());
    let label = "//new.star".parse().expect("a constant label");
    let evaluated = Evaluator::new(&mut written, Wanted::default()).evaluate(&label);
    if evaluated.is_refused() {
        return Err(refuse(&evaluated.findings, global.output).hint("nothing was written"));
    }
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

/// The file that is to be written: what `check` would refuse is not.
struct Written(String);

impl Files for Written {
    fn read(&mut self, _label: &Label) -> Result<Text, String> {
        Ok(Text {
            name: "the new spec".into(),
            text: self.0.clone(),
        })
    }
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
