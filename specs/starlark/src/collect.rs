//! What the functions of the language leave behind while a file is evaluated:
//! jobs, parameters and findings.

use crate::{
    call::Call,
    finding::Finding,
    param::{Parameter, Settings},
};
use potluck_specs::{JobName, job::JobDraft};
use starlark::{any::ProvidesStaticType, eval::Evaluator};
use std::{cell::RefCell, collections::BTreeSet};

/// Most jobs of a file, and most findings that are told at once: after these
/// nobody reads on, and a loop must not fill the memory.
const JOBS_MAX: usize = 1_000;
const FINDINGS_MAX: usize = 100;

/// Handed to every function through the evaluator.
#[derive(Debug, ProvidesStaticType)]
pub(crate) struct Collector {
    /// Is the file loaded by another?
    pub(crate) is_library: bool,
    /// What the person set.
    pub(crate) settings: Settings,
    found: RefCell<Found>,
    names: RefCell<BTreeSet<JobName>>,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) jobs: Vec<Declared>,
    /// Of jobs with findings, what others see of them.
    pub(crate) refused: Vec<Declared>,
    pub(crate) params: Vec<Parameter>,
    pub(crate) findings: Vec<Finding>,
}

/// A job with the call that declared it.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) draft: JobDraft,
    pub(crate) call: Call,
}

/// Ends the evaluation: there is enough to tell already.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("a file has at most {JOBS_MAX} jobs")]
    Jobs,
    #[error("there are more than {FINDINGS_MAX} findings; the rest is not shown")]
    Findings,
}

impl From<TooMany> for starlark::Error {
    fn from(error: TooMany) -> starlark::Error {
        starlark::Error::new_native(error)
    }
}

impl Collector {
    pub(crate) fn new(is_library: bool, settings: &Settings) -> Collector {
        Collector {
            is_library,
            settings: settings.clone(),
            found: RefCell::default(),
            names: RefCell::default(),
        }
    }

    /// That of this evaluation.
    pub(crate) fn of<'a>(eval: &Evaluator<'_, 'a, '_>) -> &'a Collector {
        eval.extra
            .and_then(|extra| extra.downcast_ref())
            .expect("every evaluation sets the collector")
    }

    pub(crate) fn into_found(self) -> Found {
        self.found.into_inner()
    }

    /// Remembers the name of a job, also of a wrong one; false if it was there.
    pub(crate) fn name(&self, name: &JobName) -> bool {
        self.names.borrow_mut().insert(name.clone())
    }

    pub(crate) fn declare(&self, job: Declared) -> Result<(), TooMany> {
        let jobs = &mut self.found.borrow_mut().jobs;
        if jobs.len() == JOBS_MAX {
            return Err(TooMany::Jobs);
        }
        jobs.push(job);
        Ok(())
    }

    /// Remembers a job that has findings, of which there are not too many.
    pub(crate) fn refuse(&self, job: Declared) {
        self.found.borrow_mut().refused.push(job);
    }

    /// Remembers a param; false if there is one of its name, declared in
    /// another place.
    pub(crate) fn add_param(&self, param: Parameter) -> bool {
        let params = &mut self.found.borrow_mut().params;
        match params.iter().find(|known| known.name == param.name) {
            Some(known) => known.at == param.at,
            None => {
                params.push(param);
                true
            }
        }
    }

    pub(crate) fn tell(&self, finding: Finding) -> Result<(), TooMany> {
        let findings = &mut self.found.borrow_mut().findings;
        if findings.len() == FINDINGS_MAX {
            return Err(TooMany::Findings);
        }
        findings.push(finding);
        Ok(())
    }
}
