//! Any text as a spec: no panic, every finding can be drawn, and the same text
//! gives the same jobs.
//!
//! `cargo +nightly fuzz run evaluate -- -rss_limit_mb=0 -malloc_limit_mb=0`, in
//! `specs/`, under `ulimit -v`: a spec may ask the interpreter for any amount of
//! memory, and users' specs are evaluated in a child with a limit for that.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_starlark::{Evaluated, Evaluator, Files, Label, Look, Text, Wanted, render};

/// The one spec, and no other file.
struct One<'a>(&'a str);

impl Files for One<'_> {
    fn read(&mut self, label: &Label) -> Result<Text, String> {
        match label.to_string().as_str() {
            "//a.star" => Ok(Text {
                name: "a.star".into(),
                text: self.0.into(),
            }),
            _ => Err("there is no such file".into()),
        }
    }
}

fn evaluate(text: &str) -> Evaluated {
    let label = "//a.star".parse().expect("our own label");
    Evaluator::new(&mut One(text), Wanted::default()).evaluate(&label)
}

fuzz_target!(|text: &str| {
    let evaluated = evaluate(text);
    render(&evaluated.findings, Look::PLAIN);
    let drafts = |evaluated: Evaluated| -> Vec<_> {
        let jobs = evaluated.jobs.into_iter();
        jobs.map(|job| job.draft).collect()
    };
    assert_eq!(drafts(evaluate(text)), drafts(evaluated));
});
