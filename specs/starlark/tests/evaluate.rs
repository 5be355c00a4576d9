//! What spec files evaluate to, and what people read when they don't.

use potluck_specs::{
    JobName, codec,
    job::{
        HealthCheck, JobDraft, JobKind, PackageSource, PortSpec, Resources, RestartPolicy,
        ServiceSpec, StopPolicy, TaskTemplate,
    },
    validate,
};
use potluck_starlark::{Problem, ProblemKind, evaluate};
use proptest::prelude::*;

fn jobs(source: &str) -> Vec<JobDraft> {
    evaluate(source, "a.star").unwrap_or_else(|problems| panic!("{}", text(&problems)))
}

fn text(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    texts.join("\n\n")
}

/// All problems as a person reads them.
fn told(source: &str) -> String {
    text(&evaluate(source, "a.star").unwrap_err())
}

/// A good job with one more argument.
fn with(more: &str) -> String {
    format!("job(name = 'a', package = 'p', command = 'c', {more})")
}

#[test]
fn every_field_arrives() {
    let source = r#"
job(
    name = "web",
    namespace = "shop",
    package = "../web",
    command = "bin/web",
    args = ["--verbose", "x y"],
    env = {"B": "2", "A": "1"},
    replicas = 3,
    cpu = 0.5,
    memory = "1GiB",
    ports = {"http": 0, "admin": 8080},
    services = {"web": "http"},
    health = http("http", "/healthz"),
    restart = restart(backoff = "1s", backoff_max = "1m"),
    stop = stop(signal = "SIGINT", grace = "500ms"),
)
"#;
    let expected = JobDraft {
        name: JobName {
            namespace: "shop".into(),
            name: "web".into(),
        },
        kind: JobKind::service(3),
        package: PackageSource::Path("../web".into()),
        task: TaskTemplate {
            command: "bin/web".into(),
            args: vec!["--verbose".into(), "x y".into()],
            env: [("A", "1"), ("B", "2")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            resources: Resources::new(500, 1 << 30),
            ports: vec![
                PortSpec {
                    name: "http".into(),
                    number: None,
                },
                PortSpec {
                    name: "admin".into(),
                    number: Some(8080),
                },
            ],
            services: vec![ServiceSpec::new("web", "http")],
            health: vec![HealthCheck::http("http", "/healthz")],
            restart: RestartPolicy {
                backoff_ms: 1_000,
                backoff_max_ms: 60_000,
                ..RestartPolicy::default()
            },
            stop: StopPolicy {
                signal: 2,
                grace_ms: 500,
            },
            ..TaskTemplate::default()
        },
        ..JobDraft::default()
    };
    assert_eq!(jobs(source), [expected]);
}

#[test]
fn what_is_left_away_has_a_default() {
    let [job] = &jobs(&with(""))[..] else {
        panic!("one job");
    };
    assert_eq!(job.name, JobName::in_default("a"));
    assert_eq!(job.kind, JobKind::service(1));
    assert_eq!(job.task.resources.cpu_millis, 100);
    assert_eq!(job.task.resources.memory_bytes, 64 << 20);
    assert_eq!(job.task.restart, RestartPolicy::default());
    assert_eq!(job.task.stop, StopPolicy::default());
    assert_eq!(job.task.health, []);
    // None passes through wrappers as "not given".
    assert_eq!(
        jobs(&with("replicas = None, health = None, env = None")),
        std::slice::from_ref(job)
    );
}

#[test]
fn each_way_of_writing_a_quantity() {
    let task = |more: &str| jobs(&with(more)).remove(0).task;
    for (more, millis) in [
        ("cpu = 2", 2_000),
        ("cpu = 0.001", 1),
        ("cpu = '250m'", 250),
    ] {
        assert_eq!(task(more).resources.cpu_millis, millis, "{more}");
    }
    for (more, bytes) in [
        ("memory = 33554432", 32 << 20),
        ("memory = '64MB'", 64_000_000),
    ] {
        assert_eq!(task(more).resources.memory_bytes, bytes, "{more}");
    }
    for (more, signal) in [
        ("stop = stop(signal = 9)", 9),
        ("stop = stop(signal = 'HUP')", 1),
    ] {
        assert_eq!(task(more).stop.signal, signal, "{more}");
    }
    let tcp = vec![HealthCheck::tcp("x")];
    for health in ["tcp('x')", "tcp(port = 'x')"] {
        assert_eq!(
            task(&format!("ports = {{'x': 0}}, health = {health}")).health,
            tcp
        );
    }
}

#[test]
fn a_file_is_a_program() {
    let source = r#"
def web(name, replicas = 1, **more):
    job(name = name, package = "p", command = "c", replicas = replicas, **more)

for k in range(3):
    web(f"web-{k}" if k else "web", replicas = k + 1)
if True:
    web("last", args = [str(k) for k in range(2)])
"#;
    let names: Vec<(String, u32)> = jobs(source)
        .into_iter()
        .map(|job| (job.name.name, job.kind.slots().unwrap()))
        .collect();
    let expected = [("web", 1), ("web-1", 2), ("web-2", 3), ("last", 1)];
    assert_eq!(
        names,
        expected.map(|(name, replicas)| (name.to_owned(), replicas))
    );
}

#[test]
fn all_problems_come_at_once_where_they_are() {
    let source = "\
job(
    name = \"Web\",
    replicsa = 2,
    update = rolling,
    command = 7,
    ports = {\"http\": 0},
    services = {\"web\": \"htpp\"},
    stop = stop(grace = 10),
)
";
    // An unknown name ends the evaluation before job() is called.
    assert_eq!(
        told(source),
        "\
error: variable `rolling` not found
 --> a.star:4:14
  |
4 |     update = rolling,
  |              ^^^^^^^"
    );
    assert_eq!(
        told(&source.replace("rolling", "{}")),
        "\
error: job() needs package
 --> a.star:1:1
  |
1 | job(
  | ^^^^

error: job \"Web\" is not a valid name: only a-z, 0-9 and '-' are allowed
 --> a.star:2:12
  |
2 |     name = \"Web\",
  |            ^^^^^

error: job() has no argument replicsa
 --> a.star:3:5
  |
3 |     replicsa = 2,
  |     ^^^^^^^^
  hint: did you mean replicas?

error: update is not yet supported
 --> a.star:4:5
  |
4 |     update = {},
  |     ^^^^^^
  hint: this version would not carry it out; leave it away

error: command must be a string, this is 7
 --> a.star:5:15
  |
5 |     command = 7,
  |               ^

error: there is no port \"htpp\"
 --> a.star:7:16
  |
7 |     services = {\"web\": \"htpp\"},
  |                ^^^^^^^^^^^^^^^
  hint: did you mean \"http\"?

error: grace must be a duration (\"250ms\", \"10s\", \"5m\"), this is 10
 --> a.star:8:25
  |
8 |     stop = stop(grace = 10),
  |                         ^^"
    );
}

#[test]
fn each_kind_of_problem() {
    use ProblemKind::{Evaluation, Invalid, Limit, NotYetSupported, Syntax, UnknownArgument};
    for (source, kind, message, hint) in [
        (
            "x = (",
            Syntax,
            "unexpected new line, expected expression",
            "",
        ),
        ("x = 'a", Syntax, "unfinished string literal", ""),
        (
            "load('b.star', 'b')",
            NotYetSupported,
            "load() is not yet supported",
            "into this file",
        ),
        ("1 + 'a'", Evaluation, "operation `+` not supported", ""),
        ("fail('no', 'way')", Evaluation, "no way", ""),
        (
            "open('/etc/passwd')",
            Evaluation,
            "variable `open` not found",
            "",
        ),
        ("def f(): f()\nf()", Limit, "more than 100 deep", ""),
        ("", Invalid, "the file has no job", "job(name = ..."),
        (
            "job('web')",
            Invalid,
            "job() takes named arguments only",
            "name = ...",
        ),
        (
            "tcp('a', 'b')",
            Invalid,
            "tcp() takes at most 1 arguments",
            "",
        ),
        ("http('a', port = 'a')", Invalid, "port is given twice", ""),
        (
            "http(url = '/')",
            UnknownArgument,
            "http() has no argument url",
            "did you mean path?",
        ),
        (
            "restart(forever = 1)",
            UnknownArgument,
            "no argument forever",
            "takes backoff, backoff_max",
        ),
        (
            "http('a', timeout = '1s')",
            NotYetSupported,
            "timeout is not yet",
            "",
        ),
    ] {
        let problems = evaluate(source, "a.star").unwrap_err();
        let said = problems.iter().any(|problem| {
            let hinted = problem.hint.as_deref().unwrap_or_default();
            problem.kind == kind && problem.message.contains(message) && hinted.contains(hint)
        });
        assert!(said, "{source}\n{}", text(&problems));
    }
}

#[test]
fn each_argument_of_a_wrong_type() {
    for (more, message) in [
        (
            "replicas = 'x'",
            "replicas must be a whole number, this is a string",
        ),
        (
            "replicas = 1.5",
            "replicas must be a whole number, this is 1.5",
        ),
        ("replicas = -1", "replicas can't be -1"),
        (
            "replicas = 1 << 80",
            "replicas must be a whole number, this is 1208925819614629174706176",
        ),
        ("replicas = 0", "at least 1 replica"),
        (
            "args = 'x'",
            "args must be a list of strings, this is a string",
        ),
        ("args = ['x', 1]", "args[1] must be a string, this is 1"),
        (
            "env = ['x']",
            "env must be a dictionary of strings, this is a list",
        ),
        ("env = {'A': 1}", "put it in quotes: \"1\""),
        ("env = {1: 'A'}", "env's names must be strings, this is 1"),
        ("env = {'POTLUCK_X': '1'}", "set by potluck"),
        (
            "ports = {'http': 65536}",
            "up to 65535, or 0 for one that the node chooses, this is 65536",
        ),
        (
            "ports = [80]",
            "ports must be a dictionary of port numbers, this is a list",
        ),
        (
            "services = {'web': 80}",
            "services[\"web\"] must be a string, this is 80",
        ),
        (
            "health = '/up'",
            "health must be tcp(...) or http(...), this is a string",
        ),
        (
            "health = restart()",
            "health must be tcp(...) or http(...), this is what another function made",
        ),
        (
            "restart = 'always'",
            "restart must be restart(...), this is a string",
        ),
        (
            "stop = stop(signal = 'SIGFOO')",
            "signal must be a signal (\"SIGTERM\") or its number, this is \"SIGFOO\"",
        ),
        ("stop = stop(signal = 99)", "99 is not a signal"),
        (
            "cpu = '0.5'",
            "cpu must be a number of cores (0.5) or a string (\"500m\"), this is \"0.5\"",
        ),
        ("cpu = -1", "cpu must be a number of cores"),
        ("cpu = 0", "at least 0.001 cores"),
        (
            "memory = '64M'",
            "memory must be a size (\"64MiB\", \"1GiB\") or a number of bytes, this is \"64M\"",
        ),
        ("memory = 64", "write \"64MiB\""),
        ("name = 'b'", "name"),
    ] {
        let told = told(&with(more));
        assert!(told.contains(message), "{more}\n{told}");
        assert_eq!(told.matches("error:").count(), 1, "{more}\n{told}");
    }
}

/// What a check saw in place of a wrong value is not told as well.
#[test]
fn one_mistake_is_told_once() {
    for source in [
        with("ports = {'http': 'x'}, services = {'web': 'http'}, health = tcp('http')"),
        "job(package = 'p', command = 'c')".into(),
        "job(name = 'a', package = 'p', command = None)".into(),
        "for k in range(50): job(name = 'a%d' % k, package = 'p', command = '')".into(),
    ] {
        let told = told(&source);
        assert_eq!(told.matches("error:").count(), 1, "{source}\n{told}");
    }
}

#[test]
fn names_stand_once_in_a_file() {
    let source = format!("{}\n{}", with(""), with("namespace = 'b'"));
    assert_eq!(jobs(&source).len(), 2);
    let told = told(&format!("{source}\n{}", with("")));
    assert!(
        told.contains("job a stands twice\n --> a.star:3:12\n"),
        "{told}"
    );
}

#[test]
fn problems_in_functions_point_to_the_call() {
    let source = "def web(**more):\n    job(name = 'a', package = 'p', **more)\nweb(command = '', tags = [])\n";
    let told = told(source);
    assert!(
        told.contains("error: job() has no argument tags\n --> a.star:2:5"),
        "{told}"
    );
    assert!(
        told.contains("error: the command is empty\n --> a.star:2:5"),
        "{told}"
    );
}

/// Every planned argument is refused by its name, and none that works is.
#[test]
fn what_nobody_executes_yet_is_refused() {
    for name in [
        "update",
        "spread",
        "requirements",
        "mounts",
        "exclusive",
        "depends_on",
        "batch",
    ] {
        let told = told(&with(&format!("{name} = 1")));
        assert!(
            told.starts_with(&format!("error: {name} is not yet supported")),
            "{told}"
        );
    }
}

proptest! {
    /// The same file gives the same bytes, and what it gives passes the checks.
    #[test]
    fn evaluation_is_deterministic(
        replicas in 1u32..20,
        env in prop::collection::btree_map("[A-Z]{1,4}", "[a-z \"'\\\\\n]{0,8}", 0..5),
        ports in prop::collection::btree_map("[a-z]{1,5}", 0u16..2000, 0..4),
        millis in 1u32..8_000,
    ) {
        let quoted = |text: &str| format!("{text:?}");
        let env: Vec<String> = env.iter().map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect();
        let ports: Vec<String> = ports.iter().map(|(k, v)| format!("{}: {v}", quoted(k))).collect();
        let source = with(&format!(
            "replicas = {replicas}, cpu = {}, env = {{{}}}, ports = {{{}}}",
            f64::from(millis) / 1_000.0, env.join(", "), ports.join(", "),
        ));
        match (evaluate(&source, "a.star"), evaluate(&source, "a.star")) {
            (Ok(first), Ok(second)) => {
                prop_assert_eq!(codec::encode(&first), codec::encode(&second));
                prop_assert_eq!(first[0].task.resources.cpu_millis, millis);
                prop_assert!(!validate::refused(&validate::check(&first[0])));
            }
            // Two ports may have got the same number.
            (first, second) => {
                prop_assert!(text(&first.clone().unwrap_err()).contains("already"), "{}", source);
                prop_assert_eq!(first, second);
            }
        }
    }
}
