//! The interpreter's own errors in the form of ours.

use super::{
    CALLS_MAX, HEAP_BYTES_MAX, TICKS_MAX,
    words::{self, Words},
};
use crate::{
    finding::{Finding, FindingKind, Spot},
    label::Label,
    scan,
};
use potluck_specs::suggestion::nearest;
use starlark::{
    Error, ErrorKind,
    analysis::{AstModuleLint, Lint},
    codemap::{CodeMap, FileSpan, Pos, Span},
    environment::{FrozenModule, Globals},
    syntax::{AstLoad, AstModule},
};
use std::{
    collections::{BTreeSet, HashSet},
    ops::Range,
};

/// How many callers are told with an error.
const CALLERS_MAX: usize = 4;

/// What people who come from elsewhere call what we have.
const ELSEWHERE: &[(&str, &str)] = &[
    ("true", "True"),
    ("false", "False"),
    ("none", "None"),
    ("null", "None"),
    ("nil", "None"),
    ("service_check", "http"),
    ("healthcheck", "http"),
    ("container", "task"),
    ("deployment", "job"),
    ("group", "task"),
    ("mount", "bind"),
    ("template", "file"),
    ("constraint", "prefer"),
    ("affinity", "prefer"),
];

/// Functions of Python that a spec has no use of, and why.
const HERMETIC: &[&str] = &[
    "open", "import", "os", "time", "random", "input", "exec", "eval",
];

/// An error of the interpreter.
pub(super) fn finding(error: &Error, file_name: &str) -> Finding {
    let (kind, message) = match error.kind() {
        ErrorKind::Parser(message) => {
            let message = message.to_string();
            let message = message.strip_prefix("Parse error: ").unwrap_or(&message);
            (FindingKind::Syntax, lower_first(message))
        }
        ErrorKind::Fail(message) => (
            FindingKind::Evaluation,
            message.to_string().trim().to_owned(),
        ),
        ErrorKind::StackOverflow(_) => {
            let message = format!("functions call each other more than {CALLS_MAX} deep");
            (FindingKind::Limit, message)
        }
        other => kind_of(other.to_string()),
    };
    let at = error
        .span()
        .map_or_else(|| Spot::file(file_name), Spot::new);
    let words = match kind {
        FindingKind::Syntax | FindingKind::Evaluation if !is_own(error) => words::plain(&message),
        _ => Words {
            message,
            hint: None,
        },
    };
    let mut finding = Finding::error(at, kind, words.message);
    finding.hint = words.hint;
    let mut frames = error.call_stack().clone().into_frames();
    frames.reverse();
    let callers = frames.iter().filter_map(|frame| frame.location.as_ref());
    let own = finding.at.clone();
    let callers = callers.map(Spot::new).filter(|spot| *spot != own);
    finding.through = callers.take(CALLERS_MAX).collect();
    // Deep recursion says the same at each level.
    finding.through.dedup();
    finding
}

/// Did the spec itself say it, by `fail`?
fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Fail(_))
}

/// An error of the parser. What it stumbles over is often not what is wrong:
/// that stands before.
pub(super) fn syntax(error: &Error, file_name: &str, source: &str) -> Finding {
    let found = finding(error, file_name);
    let Some(span) = error.span() else {
        return found;
    };
    let begin = span.span.begin().get() as usize;
    let told = error.kind().to_string().to_lowercase();
    let moved = |bytes: Range<usize>| Spot::new(&span_of(&span.file, bytes));
    if told.contains("tabs are not allowed")
        && let Some(tab) = source.get(begin..).and_then(|rest| rest.find('\t'))
    {
        let tab = begin + tab;
        let mut finding = Finding::error(
            moved(tab..tab + 1),
            FindingKind::Syntax,
            "a tab indents this line",
        );
        finding.hint = Some("indent with spaces, four for each level".into());
        return finding;
    }
    let closes = [")", "]", "}"]
        .iter()
        .any(|symbol| told.ends_with(&format!("expected symbol '{symbol}'")));
    let value = [
        "identifier",
        "string literal",
        "integer literal",
        "float literal",
    ]
    .iter()
    .any(|kind| told.contains(&format!("unexpected {kind}")));
    match scan::last_before(source, begin) {
        Some(last) if closes && value => {
            let next = span.source_span().to_owned();
            Finding::error(
                moved(last),
                FindingKind::Syntax,
                "a comma is missing behind this",
            )
            .why(format!("{next} follows"))
        }
        _ => found,
    }
}

/// The interpreter's own limits have no kind of their own.
fn kind_of(message: String) -> (FindingKind, String) {
    if message.contains("ticks has been exceeded") {
        let message = format!("the file takes more than {TICKS_MAX} calls and turns of loops");
        return (FindingKind::Limit, message);
    }
    if message.contains("Heap memory limit") {
        let mib = HEAP_BYTES_MAX >> 20;
        let message = format!("the file takes more than {mib} MiB of memory");
        return (FindingKind::Limit, message);
    }
    (FindingKind::Evaluation, lower_first(&message))
}

fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Names that stand for nothing, all of them: the interpreter would stop at
/// the first. One finding each, with the name.
pub(super) fn undefined_names(
    ast: &AstModule,
    globals: &Globals,
    source: &str,
) -> Vec<(String, Finding)> {
    let known: HashSet<String> = globals
        .names()
        .map(|name| name.as_str().to_owned())
        .collect();
    let lints = ast.lint(Some(&known));
    let undefined = lints
        .iter()
        .filter(|lint| lint.short_name == "using-undefined");
    let mut candidates: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    candidates.extend(defined(source));
    let loads = ast.loads();
    candidates.extend(
        loads
            .iter()
            .flat_map(|load| load.symbols.iter().map(|(local, _)| *local)),
    );
    let tell = |lint: &Lint| {
        let name = lint.location.source_span().to_owned();
        (name, unknown_name(&lint.location, &candidates))
    };
    undefined.map(tell).collect()
}

fn unknown_name(at: &FileSpan, candidates: &BTreeSet<&str>) -> Finding {
    let name = at.source_span();
    let finding = Finding::error(
        Spot::new(at),
        FindingKind::UnknownName,
        format!("there is no function or variable {name}"),
    );
    let meant = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name);
    let meant = meant.map(|(_, ours)| *ours);
    if name == "print" {
        return finding.hint(
            "nothing is printed; `potluck spec show` shows values, fail(...) ends with them",
        );
    }
    if HERMETIC.contains(&name) {
        return finding.hint("a spec sees no file, clock, network or environment; let people set values by param(...)");
    }
    match meant.or_else(|| nearest(name, candidates.iter().copied())) {
        Some(meant) => finding.hint(format!("did you mean {meant}?")),
        None => finding,
    }
}

/// Names that a file gives at the beginning of a line.
fn defined(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let line = line.trim_start();
        let (name, is_def) = match line.strip_prefix("def ") {
            Some(rest) => (rest.split('(').next()?, true),
            None => (line.split('=').next()?, false),
        };
        let name = name.trim();
        (scan::is_name(name) && (is_def || line.len() > name.len())).then_some(name)
    })
}

/// What a loaded file does not have.
pub(super) fn missing_symbols(
    load: &AstLoad,
    module: &FrozenModule,
    label: &Label,
) -> Vec<Finding> {
    let names: Vec<String> = module
        .names()
        .map(|name| name.as_str().to_owned())
        .collect();
    let public = || {
        names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.starts_with('_'))
    };
    let missing = load
        .symbols
        .iter()
        .filter(|(_, theirs)| !public().any(|name| name == **theirs));
    let tell = |(_, theirs): (&&str, &&str)| {
        let theirs = *theirs;
        let at = symbol(&load.span, theirs);
        if theirs.starts_with('_') {
            let message = format!("{theirs} is private to {label}: its name begins with '_'");
            return Finding::error(Spot::new(&at), FindingKind::Load, message);
        }
        let message = format!("{label} has no {theirs}");
        let finding = Finding::error(Spot::new(&at), FindingKind::UnknownName, message);
        match nearest(theirs, public()) {
            Some(near) => finding.hint(format!("did you mean {near}?")),
            None if names.is_empty() => finding,
            None => finding.hint(format!(
                "it has {}",
                public().collect::<Vec<_>>().join(", ")
            )),
        }
    };
    missing.map(tell).collect()
}

/// Where a symbol stands in a load statement, after the file's name.
fn symbol(module: &FileSpan, name: &str) -> FileSpan {
    let source = module.file.source();
    let from = module.span.end().get() as usize;
    let quoted = [format!("\"{name}\""), format!("'{name}'")];
    let found = quoted.iter().find_map(|quoted| {
        let at = source.get(from..)?.find(quoted.as_str())?;
        Some(from + at..from + at + quoted.len())
    });
    match found {
        Some(bytes) => span_of(&module.file, bytes),
        None => module.clone(),
    }
}

/// Bytes of a file.
pub(super) fn spot_of(code: &CodeMap, bytes: Range<usize>) -> Spot {
    Spot::new(&span_of(code, bytes))
}

fn span_of(code: &CodeMap, bytes: Range<usize>) -> FileSpan {
    // A file has at most 1 MiB.
    let pos = |byte: usize| Pos::new(byte as u32);
    FileSpan {
        file: code.clone(),
        span: Span::new(pos(bytes.start), pos(bytes.end)),
    }
}
