//! Where things are written: the place of a call, and of each of its
//! arguments, elements and entries, followed outwards through the functions
//! that handed them on.

use crate::{
    finding::Spot,
    scan::{self, Argument},
};
use starlark::{
    codemap::{FileSpan, Pos, Span},
    eval::Evaluator,
};
use std::ops::Range;

/// How many callers are remembered: a service made by a function of a library
/// that uses another has two.
const CALLERS_MAX: usize = 4;

/// Where a function of the language was called, and from where its callers
/// were.
#[derive(Clone, Debug)]
pub(crate) struct CallPlace {
    /// The call itself first, then those around it.
    frames: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Frame {
    at: FileSpan,
    /// The function that is called there.
    function: String,
}

/// Where a value is written.
#[derive(Clone, Debug)]
pub(crate) struct ValuePlace {
    pub(crate) at: Spot,
    /// The calls that led to the one that it is written in, innermost first.
    pub(crate) through: Vec<Spot>,
    /// The call of the language that it was handed on to, if it is written in
    /// another.
    pub(crate) goes_to: Option<Spot>,
}

impl CallPlace {
    /// That of the call that is running.
    pub(crate) fn of(eval: &Evaluator) -> CallPlace {
        let mut stack = eval.call_stack().into_frames();
        stack.reverse();
        let frames = stack
            .into_iter()
            .filter_map(|frame| {
                Some(Frame {
                    at: frame.location?,
                    function: frame.name,
                })
            })
            .take(CALLERS_MAX);
        CallPlace {
            frames: frames.collect(),
        }
    }

    /// The call itself: `job(`.
    pub(crate) fn call(&self) -> ValuePlace {
        ValuePlace {
            at: self.head(0),
            through: (1..self.frames.len()).map(|k| self.head(k)).collect(),
            goes_to: None,
        }
    }

    fn head(&self, frame: usize) -> Spot {
        match self.frames.get(frame) {
            Some(frame) => Spot::new(&narrow(&frame.at, head_of(frame.at.source_span()))),
            None => Spot::nowhere(),
        }
    }

    /// The argument `name` of the call, which may also be given as its
    /// `position`th without a name. With `named`, the place of the name.
    pub(crate) fn argument(&self, name: &str, position: Option<usize>, named: bool) -> ValuePlace {
        let found = self.find(0, name, position);
        let Some((frame, argument)) = found else {
            return self.call();
        };
        let at = match (&argument.name, named) {
            (Some(name), true) => name.clone(),
            _ => argument.value,
        };
        self.value_place(frame, at)
    }

    /// The place inside the value of an argument that `steps` lead to.
    pub(crate) fn inside(&self, name: &str, position: Option<usize>, steps: &[Step]) -> ValuePlace {
        let Some((frame, argument)) = self.find(0, name, position) else {
            return self.call();
        };
        let text = self.frames[frame].at.source_span();
        let mut at = argument.value;
        // Of a value of several lines only the first bracket would be shown.
        if steps.is_empty()
            && text[at.clone()].contains('\n')
            && let Some(name) = argument.name
        {
            return self.value_place(frame, name);
        }
        for step in steps {
            match step.find(&text[at.clone()]) {
                Some(inner) => at = at.start + inner.start..at.start + inner.end,
                None => break,
            }
        }
        self.value_place(frame, at)
    }

    fn value_place(&self, frame: usize, at: Range<usize>) -> ValuePlace {
        ValuePlace {
            at: Spot::new(&narrow(&self.frames[frame].at, at)),
            through: (frame + 1..self.frames.len())
                .map(|k| self.head(k))
                .collect(),
            goes_to: (frame > 0).then(|| self.head(0)),
        }
    }

    /// The argument as it is written in the `from`th call; if that is only the
    /// name of a parameter of the function around it, or nothing at all, as it
    /// is written in the call of that function.
    fn find(&self, from: usize, name: &str, position: Option<usize>) -> Option<(usize, Argument)> {
        let text = self.frames.get(from)?.at.source_span();
        let all = scan::arguments(text);
        let named = |argument: &&Argument| {
            let at = argument.name.clone();
            at.is_some_and(|at| &text[at] == name)
        };
        let by_position = || {
            let mut unnamed = all.iter().filter(|argument| argument.name.is_none());
            unnamed.nth(position?)
        };
        let Some(here) = all.iter().find(named).or_else(by_position) else {
            return self.find_in_caller(from, name, "");
        };
        let value = &text[here.value.clone()];
        let outside = scan::is_name(value)
            .then(|| self.find_in_caller(from, value, value))
            .flatten();
        outside.or(Some((from, here.clone())))
    }

    /// What the caller gave for `name`, if it came in by the parameter
    /// `parameter` (`""` stands for `**more`).
    fn find_in_caller(
        &self,
        from: usize,
        name: &str,
        parameter: &str,
    ) -> Option<(usize, Argument)> {
        let caller = self.frames.get(from + 1)?;
        // The function stands in the file of the inner call.
        let source = self.frames[from].at.file.source();
        let parameters = scan::parameters(source, &caller.function)?;
        let position = parameters.iter().position(|known| known == parameter)?;
        self.find(from + 1, name, (!parameter.is_empty()).then_some(position))
    }
}

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Element(usize),
    Entry(String),
}

impl Step {
    fn find(&self, text: &str) -> Option<Range<usize>> {
        match self {
            Step::Element(index) => scan::elements(text)?.get(*index).cloned(),
            Step::Entry(key) => {
                let entries = scan::entries(text)?;
                let same = |quoted: &str| quoted.trim_matches(['"', '\'']) == key;
                let found = entries.into_iter().find(|(quoted, _)| same(quoted));
                found.map(|(_, at)| at)
            }
        }
    }
}

/// `job(` of `job(...)`.
fn head_of(call: &str) -> Range<usize> {
    0..call.find('(').map_or(call.len(), |at| at + 1)
}

/// Some bytes of a span.
fn narrow(span: &FileSpan, inner: Range<usize>) -> FileSpan {
    let begin = span.span.begin().get();
    // A file has at most 1 MiB.
    let pos = |byte: usize| Pos::new(begin + byte as u32);
    FileSpan {
        file: span.file.clone(),
        span: Span::new(pos(inner.start), pos(inner.end)),
    }
}
