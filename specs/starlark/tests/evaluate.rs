//! What spec files evaluate to, and what people read when they don't.

use potluck_specs::{
    JobName, codec,
    job::{HealthCheck, JobDraft, PackageSource, PortSpec, RestartPolicy, ServiceSpec, StopPolicy},
};
use potluck_starlark::{Problem, evaluate};

fn jobs(source: &str) -> Vec<JobDraft> {
    evaluate(source, "a.star").unwrap_or_else(|problems| panic!("{}", texts(&problems).join("\n")))
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// All problems as a person reads them.
fn problems(source: &str) -> String {
    texts(&evaluate(source, "a.star").unwrap_err()).join("\n\n")
}

/// A job with more arguments.
fn with(more: &str) -> String {
    format!("job(name = 'a', package = 'p', command = 'c',\n    {more})")
}

#[test]
fn x() {
    for s in [
        "job(\n    name = \"web\",\n    replicsa = 2,\n    update = 3,\n    command = 7, env={'A': 1}, ports={'http': 70000}, health = 'x', cpu='x', stop=stop(grace=3, foo=2))",
        "x = (",
        "load('a.star', 'b')",
        "foo()",
        "1/0",
        "fail('no')",
        "",
        "def f():\n  f()\nf()",
        "def f():\n  job(name='A', package='p', command='c', replicas=0, **{'count': 2})\nf()",
        "for i in range(10000000):\n  pass",
        "'a'+1",
    ] {
        println!("{}\n--------", problems(s));
    }
}
