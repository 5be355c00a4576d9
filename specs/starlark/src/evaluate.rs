//! From spec files to jobs. What a file loads is evaluated once for all the
//! files that load it.

mod errors;
mod position;
mod words;

use crate::{
    call::steps,
    collect::{Collector, Declared, Found},
    fields,
    finding::{Finding, FindingKind, Severity, Spot, in_order},
    label::Label,
    language::{self, language},
    param::{Parameter, Settings},
    place::Step,
    scan,
    show::{self, Shown},
    unknown::Unknown,
};
use position::Position;
pub(crate) use position::Tell;
use potluck_specs::{job::JobDraft, path::FieldPath, support, validate};
use serde::{Deserialize, Serialize};
use starlark::{
    codemap::CodeMap,
    environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module},
    eval::{Evaluator as Interpreter, FileLoader},
    syntax::{AstLoad, AstModule, Dialect, DialectTypes},
};
use std::collections::{BTreeMap, BTreeSet};

/// Longest spec file: a thousand jobs of a kilobyte each.
pub(crate) const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Most calls and turns of loops of a file. It ends the usual endless loop at
/// the same place on every machine; the limit on CPU time is for the rest.
const TICKS_MAX: u64 = 5_000_000;

/// What the interpreter may keep. Checked now and then, so no safeguard; it
/// gives the usual case a better message than the limit on address space.
const HEAP_BYTES_MAX: usize = 256 << 20;

/// Deepest calls of functions.
const CALLS_MAX: usize = 100;

/// Most files that are loaded, and their bytes together, for all files of one
/// evaluation: a large repository has some hundred small libraries.
const LOADED_FILES_MAX: usize = 1_000;
const LOADED_BYTES_MAX: usize = 16 << 20;

/// Deepest that a loaded file loads another: each level takes its share of the
/// stack.
const LOAD_DEPTH_MAX: usize = 20;

/// The language: Starlark, with statements outside functions, formatted
/// strings and types, which are checked when a function is called.
const DIALECT: Dialect = Dialect {
    enable_keyword_only_arguments: true,
    enable_types: DialectTypes::Enable,
    enable_top_level_stmt: true,
    enable_f_strings: true,
    ..Dialect::Standard
};

/// Where the text of files comes from.
pub trait Files {
    /// The text of a file, and what people call it; or why it can't be read.
    ///
    /// # Errors
    /// What to tell the author: lower case, no full stop.
    fn read(&mut self, label: &Label) -> Result<Text, String>;
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// What people call it: the path from where they are.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// What a spec file evaluates to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The jobs that nothing is wrong with, in the order of their declaration.
    pub jobs: Vec<EvaluatedJob>,
    /// Everything that is to be said, in the order of the file.
    pub findings: Vec<Finding>,
    /// What the file lets people set.
    pub params: Vec<Parameter>,
    /// The file and all that it loads, by their paths below the root.
    pub files: Vec<String>,
}

/// A job, and where its values come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluatedJob {
    /// The job.
    pub draft: JobDraft,
    /// Where it is declared.
    pub at: Spot,
    /// Where its package is named.
    pub package_at: Spot,
    /// Where each job that it waits for is named.
    pub depends_on_at: Vec<Spot>,
    /// Every value after defaults; empty unless it was asked for.
    pub values: Vec<Shown>,
    /// What of it nobody carries out yet.
    pub not_yet: Vec<Finding>,
}

impl Evaluated {
    /// Is anything wrong?
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }

    fn of(findings: Vec<Finding>) -> Evaluated {
        Evaluated {
            findings,
            ..Evaluated::default()
        }
    }
}

/// What is wanted of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// What the person set.
    pub settings: Settings,
    /// With all values, and where they come from.
    pub values: bool,
    /// A file without a job is no mistake.
    pub may_be_library: bool,
}

/// Evaluates spec files that share what they load.
///
/// Hermetic and deterministic, but the interpreter's memory and stack are not
/// bounded: for text of unknown origin use [`crate::Sandbox`].
pub struct Evaluator<'f> {
    files: &'f mut dyn Files,
    wanted: Wanted,
    globals: Globals,
    libraries: BTreeMap<Label, Library>,
    /// What each file loads, and what that loads.
    closures: BTreeMap<Label, BTreeSet<Label>>,
    /// What people call the files. The interpreter knows them by their
    /// labels, so that no path of this machine gets into a value.
    names: BTreeMap<String, String>,
    loaded_bytes: usize,
    /// Where it is, once that is wanted.
    position: Option<Position>,
    /// Whom to tell where it is, from the beginning.
    tell: Option<Tell>,
}

/// A loaded file: its names, or what is wrong with it.
type Library = Result<FrozenModule, Vec<Finding>>;

impl<'f> Evaluator<'f> {
    /// Nothing is loaded yet.
    pub fn new(files: &'f mut dyn Files, wanted: Wanted) -> Evaluator<'f> {
        Evaluator {
            files,
            wanted,
            globals: globals(),
            libraries: BTreeMap::new(),
            closures: BTreeMap::new(),
            names: BTreeMap::new(),
            loaded_bytes: 0,
            position: None,
            tell: None,
        }
    }

    /// The same, and tells which statement comes next, each time.
    pub(crate) fn telling(files: &'f mut dyn Files, wanted: Wanted, tell: Tell) -> Evaluator<'f> {
        let mut evaluator = Evaluator::new(files, wanted);
        evaluator.position = Some(Position::default());
        evaluator.tell = Some(tell);
        evaluator
    }

    /// Evaluates one spec file.
    pub fn evaluate(&mut self, label: &Label) -> Evaluated {
        let evaluated = self.evaluate_once(label);
        let lost = |finding: &Finding| finding.kind == FindingKind::Limit && finding.at.line == 0;
        if self.position.is_some() || !evaluated.findings.iter().any(lost) {
            return evaluated;
        }
        // The interpreter does not say where it met a limit, so it is asked to
        // tell where it is. Libraries are compiled anew for that.
        self.position = Some(Position::default());
        let libraries = std::mem::take(&mut self.libraries);
        let loaded_bytes = std::mem::take(&mut self.loaded_bytes);
        let again = self.evaluate_once(label);
        self.position = None;
        self.libraries = libraries;
        self.loaded_bytes = loaded_bytes;
        again
    }

    fn evaluate_once(&mut self, label: &Label) -> Evaluated {
        let file = match self.read(label) {
            Ok(file) => file,
            Err(why) => {
                let at = Spot::file(label.path());
                return Evaluated::of(vec![Finding::error(at, FindingKind::Load, why)]);
            }
        };
        let collector = Collector::new(false, &self.wanted.settings);
        let outcome = self.run(label, &file, &collector, &mut Vec::new());
        let mut found = collector.into_found();
        // One that ended early may not have come to its params.
        let ended_early = outcome.is_err();
        if let Err(errors) = outcome {
            found.findings.extend(errors);
        }
        let mut evaluated = self.conclude(&file.name, found, ended_early);
        let loaded = self.closures.get(label).into_iter().flatten();
        let files = [label].into_iter().chain(loaded);
        evaluated.files = files.map(|label| label.path().to_owned()).collect();
        evaluated
    }

    /// The text of a file, without the mark that some editors begin it with.
    fn read(&mut self, label: &Label) -> Result<Text, String> {
        let mut file = self.files.read(label)?;
        if let Some(rest) = file.text.strip_prefix('\u{feff}') {
            file.text = rest.to_owned();
        }
        self.names.insert(label.to_string(), file.name.clone());
        Ok(file)
    }

    /// What people call the file of a spot.
    fn name(&self, spot: &mut Spot) {
        if let Some(name) = self.names.get(&spot.file) {
            spot.file.clone_from(name);
        }
    }

    fn name_all(&self, findings: &mut [Finding]) {
        for finding in findings {
            self.name(&mut finding.at);
            for spot in &mut finding.through {
                self.name(spot);
            }
            finding.why = finding.why.take().map(|why| self.name_in(why));
        }
    }

    /// A place in a sentence: `goes to job() at //web.star:3:1`.
    fn name_in(&self, why: String) -> String {
        let Some((before, at)) = why.rsplit_once(" at //") else {
            return why;
        };
        let Some((path, place)) = at.split_once(':') else {
            return why;
        };
        match self.names.get(&format!("//{path}")) {
            Some(name) => format!("{before} at {name}:{place}"),
            None => why,
        }
    }

    fn conclude(&self, name: &str, found: Found, ended_early: bool) -> Evaluated {
        let Found {
            jobs,
            refused,
            mut params,
            mut findings,
        } = found;
        findings.extend(together(&jobs, &refused));
        if !ended_early {
            findings.extend(self.wanted.settings.unknown(&params));
        }
        if findings.is_empty() && jobs.is_empty() && !self.wanted.may_be_library {
            let message = "the file declares no job";
            let hint = "a job is declared by calling job(name = ..., package = ..., command = ...)";
            findings
                .push(Finding::error(Spot::file(name), FindingKind::Invalid, message).hint(hint));
        }
        self.name_all(&mut findings);
        for param in &mut params {
            self.name(&mut param.at);
        }
        Evaluated {
            jobs: jobs.into_iter().map(|job| self.finish(job)).collect(),
            findings: in_order(findings),
            params,
            files: Vec::new(),
        }
    }

    fn finish(&self, job: Declared) -> EvaluatedJob {
        let Declared { draft, call } = job;
        let spot = |field: &[Step]| {
            let mut at = language::at(&call, field, FindingKind::Invalid, String::new()).at;
            self.name(&mut at);
            at
        };
        let named = (0..draft.change.depends_on.len()).map(|index| {
            let path = FieldPath::of("change.depends_on").index(index).field("job");
            spot(&fields::argument(&path, &call))
        });
        let depends_on_at = named.collect();
        let (at, package_at) = (spot(&[]), spot(&steps("package")));
        let mut values = match self.wanted.values {
            true => show::values(&call, &draft),
            false => Vec::new(),
        };
        for at in values.iter_mut().filter_map(|value| value.at.as_mut()) {
            self.name(at);
        }
        let not_yet = support::unsupported(&draft).into_iter().map(|found| {
            let field = fields::argument(&found.path, &call);
            let kind = FindingKind::NotYetSupported;
            let mut finding = language::finding_of(&call, &field, kind, &found);
            finding.severity = Severity::Warning;
            finding.why("`potluck run` refuses a job that uses it")
        });
        let mut not_yet: Vec<Finding> = not_yet.collect();
        self.name_all(&mut not_yet);
        EvaluatedJob {
            draft,
            at,
            package_at,
            depends_on_at,
            values,
            not_yet: in_order(not_yet),
        }
    }

    /// Runs a file up to its end, and freezes it if it is a library.
    fn run(
        &mut self,
        label: &Label,
        file: &Text,
        collector: &Collector,
        stack: &mut Vec<Label>,
    ) -> Result<Option<FrozenModule>, Vec<Finding>> {
        let ast = parse(label, file)?;
        stack.push(label.clone());
        let (loads, mut findings) = self.load_all(label, &ast, stack);
        stack.pop();
        let undefined = errors::undefined_names(&ast, &self.globals, &file.text);
        let globals = match undefined.is_empty() {
            true => self.globals.clone(),
            false => globals_with(undefined.iter().map(|(name, _)| name.as_str())),
        };
        findings.extend(undefined.into_iter().map(|(_, finding)| finding));
        let position = self.position.clone();
        let tell = self.tell;
        let outcome = Module::with_temp_heap(|module| {
            {
                let mut interpreter = Interpreter::new(&module);
                interpreter.extra = Some(collector);
                interpreter.set_loader(&loads);
                interpreter
                    .set_max_callstack_size(CALLS_MAX)
                    .map_err(starlark::Error::new_other)?;
                interpreter
                    .set_max_heap_size(HEAP_BYTES_MAX)
                    .map_err(starlark::Error::new_other)?;
                interpreter
                    .set_max_tick_count(TICKS_MAX)
                    .map_err(starlark::Error::new_other)?;
                if let Some(position) = &position {
                    position.follow(&mut interpreter, tell);
                }
                interpreter.eval_module(ast, &globals)?;
            }
            match collector.is_library {
                true => Ok(Some(module.freeze()?)),
                false => Ok(None),
            }
        });
        let outcome = outcome.map_err(|error: starlark::Error| {
            let mut finding = errors::finding(&error, &label.to_string());
            if finding.at.line == 0
                && let Some(at) = position.and_then(|position| position.spot())
            {
                finding.at = at;
            }
            finding
        });
        match outcome {
            Ok(module) if findings.is_empty() => Ok(module),
            Err(error) if findings.is_empty() => Err(vec![error]),
            // It may follow from what is told already.
            _ => Err(findings),
        }
    }

    /// Loads everything that a file asks for, and tells everything that can't
    /// be loaded: something unknown stands for it.
    fn load_all(
        &mut self,
        from: &Label,
        ast: &AstModule,
        stack: &mut Vec<Label>,
    ) -> (Loaded, Vec<Finding>) {
        let mut loaded = Loaded::default();
        let mut findings = Vec::new();
        let mut closure = BTreeSet::new();
        for load in ast.loads() {
            loaded.stand_in(&load);
            let at = Spot::new(&load.span);
            let refuse = |message: String| Finding::error(at.clone(), FindingKind::Load, message);
            let label = match Label::parse(load.module_id, from) {
                Ok(label) => label,
                Err(error) => {
                    findings.push(refuse(error.to_string()).hint(error.hint));
                    continue;
                }
            };
            if let Some(first) = stack.iter().position(|known| *known == label) {
                let mut path: Vec<&str> = stack[first..].iter().map(Label::path).collect();
                path.push(label.path());
                let message = format!("files load each other in a circle: {}", path.join(" -> "));
                let hint = "move what both need into a third file";
                findings.push(refuse(message).hint(hint));
                continue;
            }
            if stack.len() > LOAD_DEPTH_MAX {
                let message = format!("files load each other more than {LOAD_DEPTH_MAX} deep");
                findings.push(Finding::error(at, FindingKind::Limit, message));
                continue;
            }
            match self.library(&label, stack, &at) {
                Ok(module) => {
                    closure.extend(self.closures.get(&label).into_iter().flatten().cloned());
                    closure.insert(label.clone());
                    let missing = errors::missing_symbols(&load, &module, &label);
                    if missing.is_empty() {
                        loaded.0.insert(load.module_id.to_owned(), module);
                    }
                    findings.extend(missing);
                }
                Err(inner) => findings.extend(inner),
            }
        }
        self.closures.insert(from.clone(), closure);
        (loaded, findings)
    }

    fn library(&mut self, label: &Label, stack: &mut Vec<Label>, at: &Spot) -> Library {
        if let Some(known) = self.libraries.get(label) {
            return known.clone();
        }
        let refuse = |kind, message: String| Err(vec![Finding::error(at.clone(), kind, message)]);
        if self.libraries.len() == LOADED_FILES_MAX {
            let message = format!("more than {LOADED_FILES_MAX} files are loaded");
            return refuse(FindingKind::Limit, message);
        }
        let file = match self.read(label) {
            Ok(file) => file,
            Err(why) => return refuse(FindingKind::Load, format!("can't load {label}: {why}")),
        };
        self.loaded_bytes += file.text.len();
        if self.loaded_bytes > LOADED_BYTES_MAX {
            let message = format!("more than {} MiB are loaded", LOADED_BYTES_MAX >> 20);
            return refuse(FindingKind::Limit, message);
        }
        let collector = Collector::new(true, &self.wanted.settings);
        let outcome = self.run(label, &file, &collector, stack);
        let mut findings = collector.into_found().findings;
        let library = match outcome {
            Ok(Some(module)) if findings.is_empty() => Ok(module),
            Ok(_) => Err(findings),
            Err(errors) => {
                findings.extend(errors);
                Err(findings)
            }
        };
        self.libraries.insert(label.clone(), library.clone());
        library
    }
}

/// What is to be said about the jobs of a file together, also about those that
/// are refused for something else.
fn together(jobs: &[Declared], refused: &[Declared]) -> Vec<Finding> {
    let all: Vec<&Declared> = jobs.iter().chain(refused).collect();
    let drafts: Vec<JobDraft> = all.iter().map(|job| job.draft.clone()).collect();
    let found = validate::check_set(&drafts).into_iter();
    let told = found.map(|(index, found)| {
        let call = &all[index].call;
        let field = fields::argument(&found.path, call);
        let kind = match validate::is_stranger(&found) {
            true => FindingKind::UnknownJob,
            false => FindingKind::Invalid,
        };
        language::finding_of(call, &field, kind, &found)
    });
    told.collect()
}

/// The names of the language: the interpreter's own, and ours.
pub(crate) fn globals() -> Globals {
    GlobalsBuilder::extended_by(EXTENSIONS)
        .with(language)
        .build()
}

const EXTENSIONS: &[LibraryExtension] = &[
    LibraryExtension::StructType,
    LibraryExtension::Json,
    LibraryExtension::Typing,
];

/// The same, and unknown things of these names.
fn globals_with<'a>(unknown: impl Iterator<Item = &'a str>) -> Globals {
    let mut builder = GlobalsBuilder::extended_by(EXTENSIONS).with(language);
    for name in unknown {
        builder.set(name, Unknown);
    }
    builder.build()
}

/// What a file loads, by the names that it uses.
#[derive(Default)]
struct Loaded(BTreeMap<String, FrozenModule>);

impl Loaded {
    /// What a statement loads as unknown, until it is loaded.
    fn stand_in(&mut self, load: &AstLoad) {
        let module = Module::with_temp_heap(|module| {
            for (_, name) in &load.symbols {
                module.set(name, module.heap().alloc(Unknown));
            }
            module.freeze()
        });
        if let Ok(module) = module {
            self.0.insert(load.module_id.to_owned(), module);
        }
    }
}

impl FileLoader for Loaded {
    fn load(&self, path: &str) -> starlark::Result<FrozenModule> {
        let found = self.0.get(path).cloned();
        // Everything was loaded before the file runs.
        found.ok_or_else(|| starlark::Error::new_native(NotLoaded(path.into())))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} was not loaded")]
struct NotLoaded(String);

fn parse(label: &Label, file: &Text) -> Result<AstModule, Vec<Finding>> {
    let name = label.to_string();
    if file.text.len() > SOURCE_BYTES_MAX {
        let message = format!("the file is longer than {} MiB", SOURCE_BYTES_MAX >> 20);
        let at = Spot::file(&name);
        return Err(vec![Finding::error(at, FindingKind::Limit, message)]);
    }
    scan::check_limits(&file.text).map_err(|limit| {
        let code = CodeMap::new(name.clone(), file.text.clone());
        let at = errors::spot_of(&code, limit.at);
        vec![Finding::error(at, FindingKind::Limit, limit.message)]
    })?;
    AstModule::parse(&name, file.text.clone(), &DIALECT)
        .map_err(|error| vec![errors::syntax(&error, &name, &file.text)])
}
