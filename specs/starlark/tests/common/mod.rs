//! Files in memory, and evaluation of one spec among them.
#![allow(dead_code, reason = "each test program uses its part")]

use potluck_specs::job::JobDraft;
use potluck_starlark::{
    Evaluated, Evaluator, Files, Finding, Label, Look, Settings, Text, Wanted, render,
};
use std::collections::BTreeMap;

pub(crate) struct Memory(pub(crate) BTreeMap<String, String>);

impl Files for Memory {
    fn read(&mut self, label: &Label) -> Result<Text, String> {
        let path = label.to_string()[2..].to_owned();
        match self.0.get(&path) {
            Some(text) => Ok(Text {
                name: path,
                text: text.clone(),
            }),
            None => Err("there is no such file".into()),
        }
    }
}

/// Evaluates `a.star` beside other files.
pub(crate) fn evaluate_with(source: &str, files: &[(&str, &str)], set: &[&str]) -> Evaluated {
    let mut memory = Memory(BTreeMap::from([("a.star".into(), source.into())]));
    for (path, text) in files {
        memory.0.insert((*path).into(), (*text).into());
    }
    let wanted = Wanted {
        settings: Settings::parse(set.iter().copied()).unwrap(),
        values: true,
        may_be_library: false,
    };
    Evaluator::new(&mut memory, wanted).evaluate(&"//a.star".parse().unwrap())
}

pub(crate) fn evaluate(source: &str) -> Evaluated {
    evaluate_with(source, &[], &[])
}

pub(crate) fn jobs(source: &str) -> Vec<JobDraft> {
    let evaluated = evaluate(source);
    assert!(!evaluated.is_refused(), "{}", text(&evaluated.findings));
    evaluated.jobs.into_iter().map(|job| job.draft).collect()
}

pub(crate) fn text(findings: &[Finding]) -> String {
    render(findings, Look::PLAIN)
}

/// All findings as a person reads them.
pub(crate) fn told(source: &str) -> String {
    text(&evaluate(source).findings)
}

/// A good job with one more argument.
pub(crate) fn with(more: &str) -> String {
    format!("job(name = 'a', package = 'p', command = 'c', {more})")
}
