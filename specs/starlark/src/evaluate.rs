//! From the text of a spec file to job drafts.

use crate::{Problem, ProblemKind, collect::Collector, language::language, scan};
use potluck_specs::job::JobDraft;
use starlark::{
    Error, ErrorKind,
    codemap::FileSpan,
    environment::{Globals, GlobalsBuilder, Module},
    eval::Evaluator,
    syntax::{AstModule, Dialect, DialectTypes},
};
use std::{collections::BTreeSet, ops::Range};

/// Longest spec file: a thousand jobs of a kilobyte each.
pub(crate) const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Most calls and turns of loops. It ends the usual endless loop at the same
/// place on every machine; the limit on CPU time is for the rest.
const TICKS_MAX: u64 = 5_000_000;

/// What the interpreter may keep. Checked now and then, so no safeguard; it
/// gives the usual case a better message than the limit on address space.
const HEAP_BYTES_MAX: usize = 256 << 20;

/// Deepest calls of functions.
const CALLS_MAX: usize = 100;

/// The language: Starlark, with statements outside functions and formatted
/// strings. Type annotations are left to a later version.
const DIALECT: Dialect = Dialect {
    enable_keyword_only_arguments: true,
    enable_types: DialectTypes::Disable,
    enable_top_level_stmt: true,
    enable_f_strings: true,
    ..Dialect::Standard
};

/// Evaluates a spec file. Package paths stay as they are in the file: they are
/// relative to it.
///
/// Hermetic and deterministic, but the interpreter's memory and stack are not
/// bounded: for text of unknown origin use [`crate::sandboxed`].
///
/// # Errors
/// Everything that is wrong with the file, at least one problem.
pub fn evaluate(source: &str, file_name: &str) -> Result<Vec<JobDraft>, Vec<Problem>> {
    let file = File {
        name: file_name,
        source,
    };
    let ast = file.parse()?;
    let collector = Collector::new(file_name, source);
    let outcome = run(ast, &collector);
    let mut found = collector.into_found();
    if let Err(error) = outcome {
        found.problems.push(file.problem(&error));
    }
    if found.problems.is_empty() && found.jobs.is_empty() {
        let message = "the file has no job".into();
        let problem = Problem::of_file(file_name, ProblemKind::Invalid, message);
        let hint = "a job is declared by calling job(name = ..., package = ..., command = ...)";
        found.problems.push(problem.with_hint(Some(hint.into())));
    }
    match found.problems.is_empty() {
        true => Ok(found.jobs),
        false => Err(in_order(found.problems)),
    }
}

/// As a person reads the file, and once each: a call in a loop says the same
/// every time.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| (problem.line == 0, problem.line, problem.column));
    let mut told = BTreeSet::new();
    problems.retain(|p| told.insert((p.line, p.column, p.message.clone())));
    problems
}

fn run(ast: AstModule, collector: &Collector) -> starlark::Result<()> {
    Module::with_temp_heap(|module| {
        let mut eval = Evaluator::new(&module);
        eval.extra = Some(collector);
        eval.set_max_callstack_size(CALLS_MAX)?;
        eval.set_max_heap_size(HEAP_BYTES_MAX)?;
        eval.set_max_tick_count(TICKS_MAX)?;
        eval.eval_module(ast, &globals())?;
        Ok(())
    })
}

fn globals() -> Globals {
    GlobalsBuilder::standard().with(language).build()
}

struct File<'s> {
    name: &'s str,
    source: &'s str,
}

impl File<'_> {
    fn at(&self, bytes: Range<usize>, kind: ProblemKind, message: String) -> Problem {
        Problem::at(self.name, self.source, bytes, kind, message)
    }

    fn parse(&self) -> Result<AstModule, Vec<Problem>> {
        if self.source.len() > SOURCE_BYTES_MAX {
            return Err(vec![too_long(self.name)]);
        }
        scan::check_limits(self.source)
            .map_err(|limit| vec![self.at(limit.at, ProblemKind::Limit, limit.message)])?;
        let ast = AstModule::parse(self.name, self.source.to_owned(), &DIALECT)
            .map_err(|error| vec![self.problem(&error)])?;
        let loads: Vec<Problem> = ast
            .loads()
            .iter()
            .map(|load| {
                let message = "load() is not yet supported".into();
                let problem = self.at(bytes(&load.span), ProblemKind::NotYetSupported, message);
                problem.with_hint(Some("write the functions into this file".into()))
            })
            .collect();
        match loads.is_empty() {
            true => Ok(ast),
            false => Err(loads),
        }
    }

    fn problem(&self, error: &Error) -> Problem {
        let (kind, message) = match error.kind() {
            ErrorKind::Parser(message) => {
                let message = message.to_string();
                let message = message.strip_prefix("Parse error: ").unwrap_or(&message);
                (ProblemKind::Syntax, lower_first(message))
            }
            ErrorKind::Fail(message) => (
                ProblemKind::Evaluation,
                message.to_string().trim().to_owned(),
            ),
            ErrorKind::StackOverflow(_) => {
                let message = format!("functions call each other more than {CALLS_MAX} deep");
                (ProblemKind::Limit, message)
            }
            other => kind_of(other.to_string()),
        };
        match error.span() {
            Some(span) => self.at(bytes(span), kind, message),
            None => Problem::of_file(self.name, kind, message),
        }
    }
}

pub(crate) fn too_long(file_name: &str) -> Problem {
    let message = format!("the file is longer than {} MiB", SOURCE_BYTES_MAX >> 20);
    Problem::of_file(file_name, ProblemKind::Limit, message)
}

/// The interpreter's own limits have no kind of their own.
fn kind_of(message: String) -> (ProblemKind, String) {
    if message.contains("ticks has been exceeded") {
        let message = format!("the file takes more than {TICKS_MAX} calls and turns of loops");
        return (ProblemKind::Limit, message);
    }
    if message.contains("Heap memory limit") {
        let message = format!(
            "the file takes more than {} MiB of memory",
            HEAP_BYTES_MAX >> 20
        );
        return (ProblemKind::Limit, message);
    }
    (ProblemKind::Evaluation, lower_first(&message))
}

fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn bytes(span: &FileSpan) -> Range<usize> {
    span.span.begin().get() as usize..span.span.end().get() as usize
}
