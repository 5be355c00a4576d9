//! What the functions of the language leave behind while a file is evaluated:
//! jobs and problems.

use crate::{Problem, ProblemKind, scan};
use potluck_specs::job::JobDraft;
use starlark::{any::ProvidesStaticType, eval::Evaluator};
use std::{cell::RefCell, ops::Range};

/// Most jobs of a file, and most problems that are told at once: after these
/// nobody reads on, and a loop must not fill the memory.
const JOBS_MAX: usize = 1_000;
const PROBLEMS_MAX: usize = 100;

/// Handed to every function through the evaluator.
#[derive(Debug, ProvidesStaticType)]
pub(crate) struct Collector {
    file: String,
    source: String,
    found: RefCell<Found>,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) jobs: Vec<JobDraft>,
    pub(crate) problems: Vec<Problem>,
}

/// Ends the evaluation: there is enough to tell already.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("a file has at most {JOBS_MAX} jobs")]
    Jobs,
    #[error("there are more than {PROBLEMS_MAX} problems; the rest is not shown")]
    Problems,
}

impl From<TooMany> for starlark::Error {
    fn from(error: TooMany) -> starlark::Error {
        starlark::Error::new_native(error)
    }
}

impl Collector {
    pub(crate) fn new(file: &str, source: &str) -> Collector {
        Collector {
            file: file.into(),
            source: source.into(),
            found: RefCell::default(),
        }
    }

    /// That of this evaluation.
    pub(crate) fn of<'a>(eval: &Evaluator<'_, 'a, '_>) -> &'a Collector {
        eval.extra
            .and_then(|extra| extra.downcast_ref())
            .expect("evaluate() sets the collector")
    }

    pub(crate) fn into_found(self) -> Found {
        self.found.into_inner()
    }

    pub(crate) fn has_job(&self, draft: &JobDraft) -> bool {
        let found = self.found.borrow();
        found.jobs.iter().any(|job| job.name == draft.name)
    }

    pub(crate) fn add_job(&self, draft: JobDraft) -> Result<(), TooMany> {
        let jobs = &mut self.found.borrow_mut().jobs;
        if jobs.len() == JOBS_MAX {
            return Err(TooMany::Jobs);
        }
        jobs.push(draft);
        Ok(())
    }

    pub(crate) fn add_problem(
        &self,
        bytes: Range<usize>,
        kind: ProblemKind,
        message: String,
        hint: Option<String>,
    ) -> Result<(), TooMany> {
        let problems = &mut self.found.borrow_mut().problems;
        if problems.len() == PROBLEMS_MAX {
            return Err(TooMany::Problems);
        }
        let problem = Problem::at(&self.file, &self.source, bytes, kind, message);
        problems.push(problem.with_hint(hint));
        Ok(())
    }

    /// Where the running call stands in the file.
    pub(crate) fn call_place(eval: &Evaluator) -> Range<usize> {
        match eval.call_stack_top_location() {
            Some(place) => place.span.begin().get() as usize..place.span.end().get() as usize,
            None => 0..0,
        }
    }

    /// Where one argument of the call at `call` stands, if it is written there.
    pub(crate) fn argument_place(&self, call: &Range<usize>, name: &str) -> Option<scan::Argument> {
        let found = scan::find_argument(self.source.get(call.clone())?, name)?;
        let shift = |range: Range<usize>| range.start + call.start..range.end + call.start;
        Some(scan::Argument {
            name: shift(found.name),
            value: shift(found.value),
        })
    }
}
