//! From spec files to jobs. What a file loads is evaluated once for all the
//! files that load it.

mod errors;

use crate::{
    collect::{Collector, Declared, Found},
    fields,
    finding::{Finding, FindingKind, Severity, Spot, in_order},
    label::Label,
    language::{self, language},
    param::{Parameter, Settings},
    scan,
    show::{self, Shown},
};
use potluck_specs::{job::JobDraft, support};
use serde::{Deserialize, Serialize};
use starlark::{
    codemap::CodeMap,
    environment::{FrozenModule, Globals, GlobalsBuilder, LibraryExtension, Module},
    eval::{Evaluator as Interpreter, FileLoader},
    syntax::{AstModule, Dialect, DialectTypes},
};
use std::collections::BTreeMap;

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
}

/// A job, and where its values come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluatedJob {
    /// The job.
    pub draft: JobDraft,
    /// Where it is declared.
    pub at: Spot,
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
    loaded_bytes: usize,
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
            loaded_bytes: 0,
        }
    }

    /// Evaluates one spec file.
    pub fn evaluate(&mut self, label: &Label) -> Evaluated {
        let file = match self.files.read(label) {
            Ok(file) => file,
            Err(why) => {
                let at = Spot::file(label.path());
                return Evaluated::of(vec![Finding::error(at, FindingKind::Load, why)]);
            }
        };
        let collector = Collector::new(false, &self.wanted.settings);
        let outcome = self.run(label, &file, &collector, &mut Vec::new());
        let mut found = collector.into_found();
        if let Err(errors) = outcome {
            found.findings.extend(errors);
        }
        self.conclude(&file.name, found)
    }

    fn conclude(&self, name: &str, found: Found) -> Evaluated {
        let Found {
            jobs,
            params,
            mut findings,
        } = found;
        // A file that ended early may not have come to its params.
        if !findings.iter().any(Finding::is_error) {
            findings.extend(self.wanted.settings.unknown(&params));
        }
        if findings.is_empty() && jobs.is_empty() && !self.wanted.may_be_library {
            let message = "the file declares no job";
            let hint = "a job is declared by calling job(name = ..., package = ..., command = ...)";
            findings
                .push(Finding::error(Spot::file(name), FindingKind::Invalid, message).hint(hint));
        }
        Evaluated {
            jobs: jobs.into_iter().map(|job| self.finish(job)).collect(),
            findings: in_order(findings),
            params,
        }
    }

    fn finish(&self, job: Declared) -> EvaluatedJob {
        let Declared { draft, call } = job;
        let at = language::at(&call, &[], FindingKind::Invalid, String::new()).at;
        let values = match self.wanted.values {
            true => show::values(&call, &draft),
            false => Vec::new(),
        };
        let not_yet = support::unsupported(&draft).into_iter().map(|found| {
            let field = fields::argument(&found.path, &call);
            let kind = FindingKind::NotYetSupported;
            let mut finding = language::finding_of(&call, &field, kind, &found);
            finding.severity = Severity::Warning;
            finding.why("`potluck run` refuses a job that uses it")
        });
        let not_yet = not_yet.collect();
        EvaluatedJob {
            draft,
            at,
            values,
            not_yet,
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
        let ast = parse(file)?;
        stack.push(label.clone());
        let loads = self.load_all(label, &ast, stack);
        stack.pop();
        let loads = loads?;
        errors::undefined_names(&ast, &self.globals, &file.text)?;
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
                interpreter.eval_module(ast, &self.globals)?;
            }
            match collector.is_library {
                true => Ok(Some(module.freeze()?)),
                false => Ok(None),
            }
        });
        outcome.map_err(|error: starlark::Error| vec![errors::finding(&error, &file.name)])
    }

    /// Loads everything that a file asks for, or tells everything that can't
    /// be loaded.
    fn load_all(
        &mut self,
        from: &Label,
        ast: &AstModule,
        stack: &mut Vec<Label>,
    ) -> Result<Loaded, Vec<Finding>> {
        let mut loaded = Loaded::default();
        let mut findings = Vec::new();
        for load in ast.loads() {
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
                    findings.extend(errors::missing_symbols(&load, &module, &label));
                    loaded.0.insert(load.module_id.to_owned(), module);
                }
                Err(inner) => findings.extend(inner),
            }
        }
        match findings.is_empty() {
            true => Ok(loaded),
            false => Err(findings),
        }
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
        let file = match self.files.read(label) {
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

/// The names of the language: the interpreter's own, and ours.
pub(crate) fn globals() -> Globals {
    GlobalsBuilder::extended_by(&[
        LibraryExtension::StructType,
        LibraryExtension::Json,
        LibraryExtension::Typing,
    ])
    .with(language)
    .build()
}

/// What a file loads, by the names that it uses.
#[derive(Default)]
struct Loaded(BTreeMap<String, FrozenModule>);

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

fn parse(file: &Text) -> Result<AstModule, Vec<Finding>> {
    if file.text.len() > SOURCE_BYTES_MAX {
        let message = format!("the file is longer than {} MiB", SOURCE_BYTES_MAX >> 20);
        let at = Spot::file(&file.name);
        return Err(vec![Finding::error(at, FindingKind::Limit, message)]);
    }
    scan::check_limits(&file.text).map_err(|limit| {
        let code = CodeMap::new(file.name.clone(), file.text.clone());
        let at = errors::spot_of(&code, limit.at);
        vec![Finding::error(at, FindingKind::Limit, limit.message)]
    })?;
    AstModule::parse(&file.name, file.text.clone(), &DIALECT)
        .map_err(|error| vec![errors::finding(&error, &file.name)])
}
