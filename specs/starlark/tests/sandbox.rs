//! Evaluation in a child: whatever a spec does, the caller gets its jobs or a
//! clear error, within bounds.
//!
//! The children are this very program: run with the hidden argument, it
//! evaluates; otherwise it runs the tests. So it has no harness, and no
//! further binary is shipped.

use potluck_specs::codec;
use potluck_starlark::{
    EvalError, Evaluated, Evaluator, FindingKind, Limit, Look, Root, RootError, Sandbox, Wanted,
    child_main, render,
};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

const EVALUATE: &str = "internal-evaluate";
/// Children that misbehave in their own way, not the spec's.
const FLOOD: &str = "internal-flood";
const FAIL: &str = "internal-fail";

const TESTS: &[(&str, fn())] = &[
    ("examples_evaluate", examples_evaluate),
    (
        "a_child_answers_what_the_evaluator_does",
        a_child_answers_what_the_evaluator_does,
    ),
    ("a_bad_spec_among_good_ones", a_bad_spec_among_good_ones),
    ("files_are_bounded", files_are_bounded),
    ("each_limit_has_its_own_error", each_limit_has_its_own_error),
    ("limits_say_where", limits_say_where),
    ("bombs_end_in_a_clear_error", bombs_end_in_a_clear_error),
    ("files_that_are_none", files_that_are_none),
    ("children_that_misbehave", children_that_misbehave),
    (
        "no_text_crashes_the_evaluator",
        no_text_crashes_the_evaluator,
    ),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(EVALUATE) => ExitCode::from(child_main()),
        Some(FLOOD) => flood(),
        Some(FAIL) => {
            eprintln!("no such luck");
            ExitCode::from(7)
        }
        _ => run_tests(&args[1..]),
    }
}

/// The part of a harness that is needed: names to run, `--list`, and the names
/// of what passed.
fn run_tests(args: &[String]) -> ExitCode {
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    for (name, test) in TESTS {
        if args.iter().any(|arg| arg == "--list") {
            println!("{name}: test");
        } else if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let start = Instant::now();
            test();
            println!("test {name} ... ok ({} ms)", start.elapsed().as_millis());
        }
    }
    ExitCode::SUCCESS
}

fn flood() -> ExitCode {
    let endless = io::copy(&mut io::repeat(b'x'), &mut io::stdout());
    ExitCode::from(u8::from(endless.is_err()))
}

fn sandbox(role: &str) -> Sandbox {
    Sandbox {
        executable: env::current_exe().unwrap(),
        args: vec![role.into()],
    }
}

fn run_as(role: &str, path: &Path) -> Result<Evaluated, EvalError> {
    sandbox(role).evaluate(path, &Wanted::default())
}

fn spec(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.star");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn evaluate_file(text: impl AsRef<[u8]>) -> Result<Evaluated, EvalError> {
    let (_folder, path) = spec(text);
    run_as(EVALUATE, &path)
}

/// The file names of the examples, with the number of their jobs.
const EXAMPLES: &[(&str, usize)] = &[
    ("batch.star", 1),
    ("dependencies.star", 3),
    ("hello.star", 1),
    ("logship.star", 1),
    ("metrics.star", 1),
    ("minimal.star", 1),
    ("params.star", 2),
    ("postgres.star", 1),
    ("rollout.star", 1),
    ("shop.star", 3),
    ("sidecar-files.star", 1),
    ("worker.star", 1),
];

fn examples_evaluate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "star"))
        .collect();
    paths.sort();
    let names: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
    let found: Vec<String> = paths
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, names);
    let wanted = Wanted {
        values: true,
        ..Wanted::default()
    };
    let outcomes = sandbox(EVALUATE).evaluate_all(&paths, &wanted);
    for ((name, count), outcome) in EXAMPLES.iter().zip(outcomes) {
        let evaluated = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        let findings = EvalError::Findings(evaluated.findings);
        assert_eq!(findings.to_string(), "", "{name}");
        assert_eq!(evaluated.jobs.len(), *count, "{name}");
        for job in &evaluated.jobs {
            assert!(job.values.len() > 30, "{name}");
        }
    }
}

fn a_child_answers_what_the_evaluator_does() {
    let source = "load('//lib/a.star', 'a')\n[a('a%d' % k) for k in range(20)]";
    let library = "def a(name): job(name = name, package = 'p', command = 'c')";
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lib")).unwrap();
    fs::write(folder.path().join("lib/a.star"), library).unwrap();
    fs::write(folder.path().join("a.star"), source).unwrap();
    fs::write(
        folder.path().join("b.star"),
        "job(name = 'A', package = 'p', command = 'c')\n",
    )
    .unwrap();
    let wanted = Wanted {
        values: true,
        ..Wanted::default()
    };
    let paths = ["a.star", "b.star"].map(|name| folder.path().join(name));
    let in_child = sandbox(EVALUATE).evaluate_all(&paths, &wanted);
    for (path, in_child) in paths.iter().zip(in_child) {
        let (mut root, label) = Root::of(path).unwrap();
        let here = Evaluator::new(&mut root, wanted.clone()).evaluate(&label);
        assert_eq!(codec::encode(&in_child.unwrap()), codec::encode(&here));
    }
    let refused = sandbox(EVALUATE).evaluate(&paths[1], &wanted).unwrap_err();
    let shown = refused.to_string();
    assert!(shown.contains("b.star:1:12"), "{shown}");
    assert!(shown.contains("job(name = 'A', "), "{shown}");
}

/// One that ends the child does not take the others with it.
fn a_bad_spec_among_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    let good = "job(name = 'a', package = 'p', command = 'c')".to_owned();
    let texts = [
        good.clone(),
        "x = 'a' * 2000000000".into(),
        good.clone(),
        slow(),
        good,
    ];
    let mut paths = Vec::new();
    for (k, text) in texts.iter().enumerate() {
        paths.push(folder.path().join(format!("{k}.star")));
        fs::write(&paths[k], text).unwrap();
    }
    paths.push(folder.path().join("gone.star"));
    let outcomes = sandbox(EVALUATE).evaluate_all(&paths, &Wanted::default());
    assert!(
        matches!(
            &outcomes[..],
            [
                Ok(a),
                Err(EvalError::Limit { limit: Limit::Memory { .. }, .. }),
                Ok(b),
                Err(EvalError::Limit { limit: Limit::CpuTime { .. }, .. }),
                Ok(c),
                Err(EvalError::Root(RootError::Read { .. })),
            ] if [a, b, c].iter().all(|evaluated| evaluated.jobs.len() == 1)
        ),
        "{outcomes:?}"
    );
}

fn files_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    // One more than a chain may be long.
    for k in 0..22 {
        write(
            &format!("deep{k}.star"),
            format!("load(':deep{}.star', 'x')", k + 1),
        );
    }
    write("deep22.star", "x = 1".into());
    // Together more than may be loaded.
    let loads: Vec<String> = (0..18)
        .map(|k| format!("load(':big{k}.star', x{k} = 'x')"))
        .collect();
    for k in 0..18 {
        write(
            &format!("big{k}.star"),
            format!("x = 1\n#{}", "x".repeat((1 << 20) - 10)),
        );
    }
    write("wide.star", loads.join("\n"));
    for (name, said) in [
        ("deep0.star", "more than 20 deep"),
        ("wide.star", "more than 16 MiB"),
    ] {
        let error = run_as(EVALUATE, &folder.path().join(name)).unwrap_err();
        let EvalError::Findings(findings) = &error else {
            panic!("{name}: {error:?}");
        };
        assert!(
            findings.iter().any(|f| f.kind == FindingKind::Limit),
            "{error}"
        );
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// What a spec does, and whether the error is the right one.
type Case<'a> = (&'a str, String, fn(&EvalError) -> bool);

fn each_limit_has_its_own_error() {
    let cases: &[Case] = &[
        ("one huge string", "x = 'a' * 2000000000".into(), |error| {
            matches!(
                error,
                EvalError::Limit {
                    limit: Limit::Memory { .. },
                    ..
                }
            )
        }),
        ("slow without a step", slow(), |error| {
            matches!(
                error,
                EvalError::Limit {
                    limit: Limit::CpuTime { .. },
                    ..
                }
            )
        }),
        ("values nested too deep", nested_value(), |error| {
            matches!(
                error,
                EvalError::Limit {
                    limit: Limit::Stack,
                    ..
                }
            )
        }),
        ("too many bytes of jobs", big_jobs(), |error| {
            matches!(
                error,
                EvalError::Limit {
                    limit: Limit::Output { .. },
                    ..
                }
            )
        }),
    ];
    run_cases(cases);
}

/// The file, the line, and the line itself, also in a loaded file.
fn limits_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    write(
        "lib.star",
        "def double(n):\n    text = 'a'\n    return text * n\n",
    );
    let nested = format!("x = 1\ny = {}{}\n", "[".repeat(300), "]".repeat(300));
    let cases = [
        (
            "memory.star",
            "n = 1\nfor k in range(30): n += n\ny = 'a' * n\n",
            "memory.star:3:1",
            "y = 'a' * n",
        ),
        (
            "far.star",
            "load(':lib.star', 'double')\nx = double(2000000000)\n",
            "lib.star:3:5",
            "return text * n",
        ),
        ("slow.star", &slow(), "slow.star:3:26", "x.count(y)"),
        (
            "stack.star",
            &nested_value(),
            "stack.star:3:1",
            "y = str(x)",
        ),
        (
            "turns.star",
            "x = 1\ndef f():\n    for i in range(1000000000):\n        pass\n\nf()\n",
            "turns.star:",
            "turns of loops",
        ),
        ("nested.star", &nested, "nested.star:2:105", "…[[["),
    ];
    for (name, text, at, quoted) in cases {
        let path = write(name, text);
        let error = run_as(EVALUATE, &path).unwrap_err();
        let findings = error.findings().expect("the author's to mend");
        let told = render(&findings, Look::PLAIN);
        println!("{told}");
        assert!(told.contains(at), "{name}: {told}");
        assert!(told.contains(quoted), "{name}: {told}");
        assert!(findings[0].at.line > 0, "{name}");
        assert_eq!(findings[0].kind, FindingKind::Limit, "{name}");
    }
    let path = write("output.star", &big_jobs());
    let findings = run_as(EVALUATE, &path).unwrap_err().findings().unwrap();
    assert_eq!(findings[0].at.file, path.to_string_lossy());
}

/// Each search compares some 20 million bytes and counts as one step.
fn slow() -> String {
    "x = 'a' * 100000\ny = ('a' * 200) + 'b'\nfor i in range(4000000): x.count(y)".into()
}

/// Printing a list of lists of lists recurses.
fn nested_value() -> String {
    "x = []\nfor i in range(2000000): x = [x]\ny = str(x)".into()
}

fn big_jobs() -> String {
    "[job(name = 'a%d' % k, package = 'p', command = 'c', args = ['x' * 100000]) for k in range(1000)]"
        .into()
}

fn bombs_end_in_a_clear_error() {
    let problem: fn(&EvalError) -> bool = |error| matches!(error, EvalError::Findings(_));
    let bounded: fn(&EvalError) -> bool = |error| {
        matches!(
            error,
            EvalError::Findings(_)
                | EvalError::Limit {
                    limit: Limit::Memory { .. },
                    ..
                }
                | EvalError::Limit {
                    limit: Limit::CpuTime { .. },
                    ..
                }
        )
    };
    let cases: &[Case] = &[
        ("brackets", "[".repeat(1 << 20), problem),
        (
            "closed brackets",
            format!("x = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
            problem,
        ),
        ("signs", format!("x = {}1", "-".repeat(500_000)), problem),
        ("not", format!("x = {}1", "not ".repeat(200_000)), problem),
        ("sums", format!("x = 1{}", "+1".repeat(400_000)), problem),
        (
            "the longest sum",
            format!("x = 1{}\nfail('end')", "+1".repeat(1_990)),
            problem,
        ),
        (
            "the longest row of signs",
            format!("x = {}1\nfail('end')", "-".repeat(3_990)),
            problem,
        ),
        (
            "elif",
            format!("if 1: pass\n{}fail('end')", "elif 1: pass\n".repeat(990)),
            problem,
        ),
        (
            "recursion",
            "def f(n):\n  return f(n + 1)\nf(0)".into(),
            problem,
        ),
        (
            "endless loop",
            "for i in range(1000000000): pass".into(),
            problem,
        ),
        (
            "loops in loops",
            "[0 for a in range(99999) for b in range(99999)]".into(),
            problem,
        ),
        ("a huge list", "x = list(range(2000000000))".into(), bounded),
        (
            "doubling",
            "x = 'a'\nfor i in range(60): x += x".into(),
            bounded,
        ),
        (
            "doubling lists",
            "x = [1]\nfor i in range(60): x = x + x".into(),
            bounded,
        ),
        ("a huge shift", "x = 1 << 100000000000".into(), bounded),
        (
            "a huge format",
            "x = '%s' * 1000000 % tuple(['a' * 1000] * 1000000)".into(),
            bounded,
        ),
        (
            "jobs without end",
            "for k in range(100000): job(name = 'a%d' % k, package = 'p', command = 'c')".into(),
            problem,
        ),
        (
            "problems without end",
            "for k in range(100000): job(name = 'A%d' % k)".into(),
            problem,
        ),
    ];
    run_cases(cases);
}

fn run_cases(cases: &[Case]) {
    for (what, text, right) in cases {
        let start = Instant::now();
        let error = evaluate_file(text).expect_err(what);
        let short: String = error.to_string().chars().take(300).collect();
        println!("  {what} ({} ms): {short}", start.elapsed().as_millis());
        assert!(right(&error), "{what}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(70), "{what}");
    }
}

fn files_that_are_none() {
    let missing = run_as(EVALUATE, Path::new("/nothing/here.star"));
    assert!(
        matches!(missing, Err(EvalError::Root(RootError::Read { .. }))),
        "{missing:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let folder = run_as(EVALUATE, folder.path());
    assert!(
        matches!(folder, Err(EvalError::Root(RootError::NoFile(_)))),
        "{folder:?}"
    );

    let binary = evaluate_file([0xff, 0xfe]).unwrap_err().to_string();
    assert!(binary.contains("not UTF-8"), "{binary}");
    let long = evaluate_file(vec![b'#'; (1 << 20) + 1])
        .unwrap_err()
        .to_string();
    assert!(long.contains("longer than 1 MiB"), "{long}");
    let limit = evaluate_file(vec![b'#'; 1 << 20]).unwrap_err().to_string();
    assert!(limit.contains("no job"), "{limit}");
}

fn children_that_misbehave() {
    let (_folder, path) = spec("");
    let flood = run_as(FLOOD, &path);
    assert!(
        matches!(
            flood,
            Err(EvalError::Limit {
                limit: Limit::Output { .. },
                ..
            })
        ),
        "{flood:?}"
    );
    let fail = run_as(FAIL, &path).unwrap_err();
    let EvalError::Crashed { status, stderr } = &fail else {
        panic!("{fail:?}");
    };
    assert_eq!(
        (status.as_str(), stderr.as_str()),
        ("exit status: 7", "no such luck")
    );
    let nothing = Sandbox {
        executable: "/nothing/here".into(),
        args: Vec::new(),
    };
    let nothing = nothing.evaluate(&path, &Wanted::default());
    assert!(
        matches!(nothing, Err(EvalError::Start { .. })),
        "{nothing:?}"
    );
}

/// Any text, and text that is nearly a spec, gives jobs or problems.
fn no_text_crashes_the_evaluator() {
    let word = prop::sample::select(vec![
        "job(",
        "name=",
        "'a'",
        "ports={",
        "'http':",
        "0",
        ")",
        "}",
        "[",
        "]",
        ",",
        "\n",
        "  ",
        "health=http(",
        "\"",
        "'''",
        "\\",
        "#",
        "for x in",
        "if",
        "else",
        "def f(",
        "):",
        "lambda",
        "*",
        "**",
        "%",
        "é",
        "\t",
        "=",
        ".",
        "x",
        "1e9",
        "load(",
        "restart(",
        "cpu=0.5",
        "f'{x}'",
    ]);
    let nearly = prop::collection::vec(word, 0..60).prop_map(|words| words.concat());
    let text = prop_oneof![any::<String>(), nearly];
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&text, |text| match evaluate_file(&text) {
        Ok(_) | Err(EvalError::Findings(_)) => Ok(()),
        Err(error) => Err(TestCaseError::fail(format!("{error:?}"))),
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
