//! Evaluation in a child: whatever a spec does, the caller gets its jobs or a
//! clear error, within bounds.
//!
//! The children are this very program: run with the hidden argument, it
//! evaluates; otherwise it runs the tests. So it has no harness, and no
//! further binary is shipped.

use potluck_specs::codec;
use potluck_starlark::{EvalError, child_main, evaluate, sandboxed};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    env,
    ffi::OsStr,
    fs, io,
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
        "a_child_answers_what_evaluate_does",
        a_child_answers_what_evaluate_does,
    ),
    ("each_limit_has_its_own_error", each_limit_has_its_own_error),
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
        Some(EVALUATE) => ExitCode::from(child_main(Path::new(&args[2]))),
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

fn run_as(role: &str, path: &Path) -> Result<Vec<potluck_specs::job::JobDraft>, EvalError> {
    sandboxed(&env::current_exe().unwrap(), &[OsStr::new(role)], path)
}

fn spec(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.star");
    fs::write(&path, text).unwrap();
    (folder, path)
}

fn evaluate_file(text: impl AsRef<[u8]>) -> Result<Vec<potluck_specs::job::JobDraft>, EvalError> {
    let (_folder, path) = spec(text);
    run_as(EVALUATE, &path)
}

fn examples_evaluate() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let jobs = run_as(EVALUATE, &path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(jobs.len(), 1, "{}", path.display());
        count += 1;
    }
    assert!(count >= 3);
}

fn a_child_answers_what_evaluate_does() {
    let good = "[job(name = 'a%d' % k, package = 'p', command = 'c') for k in range(20)]";
    let in_child = evaluate_file(good).unwrap();
    let here = evaluate(good, "a.star").unwrap();
    assert_eq!(codec::encode(&in_child), codec::encode(&here));

    let (_folder, path) = spec("job(name = 'A')\n");
    let Err(EvalError::Problems(in_child)) = run_as(EVALUATE, &path) else {
        panic!("accepted");
    };
    let here = evaluate("job(name = 'A')\n", &path.to_string_lossy()).unwrap_err();
    assert_eq!(in_child, here);
    let shown = EvalError::Problems(in_child).to_string();
    assert!(
        shown.contains("a.star:1:12\n  |\n1 | job(name = 'A')\n"),
        "{shown}"
    );
}

/// What a spec does, and whether the error is the right one.
type Case<'a> = (&'a str, String, fn(&EvalError) -> bool);

fn each_limit_has_its_own_error() {
    let cases: &[Case] = &[
        ("one huge string", "x = 'a' * 2000000000".into(), |error| {
            matches!(error, EvalError::Memory { .. })
        }),
        ("slow without a step", slow(), |error| {
            matches!(error, EvalError::CpuTime { .. })
        }),
        ("values nested too deep", nested_value(), |error| {
            matches!(error, EvalError::Stack)
        }),
        ("too many bytes of jobs", big_jobs(), |error| {
            matches!(error, EvalError::Output { .. })
        }),
    ];
    run_cases(cases);
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
    "[job(name = 'a%d' % k, package = 'p', command = 'c', args = ['x' * 100000]) for k in range(60)]"
        .into()
}

fn bombs_end_in_a_clear_error() {
    let problem: fn(&EvalError) -> bool = |error| matches!(error, EvalError::Problems(_));
    let bounded: fn(&EvalError) -> bool = |error| {
        matches!(
            error,
            EvalError::Problems(_) | EvalError::Memory { .. } | EvalError::CpuTime { .. }
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
        matches!(missing, Err(EvalError::Read { .. })),
        "{missing:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    let folder = run_as(EVALUATE, folder.path());
    assert!(matches!(folder, Err(EvalError::Read { .. })), "{folder:?}");

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
    assert!(matches!(flood, Err(EvalError::Output { .. })), "{flood:?}");
    let fail = run_as(FAIL, &path).unwrap_err();
    let EvalError::Crashed { status, stderr } = &fail else {
        panic!("{fail:?}");
    };
    assert_eq!(
        (status.as_str(), stderr.as_str()),
        ("exit status: 7", "no such luck")
    );
    let nothing = sandboxed(Path::new("/nothing/here"), &[], &path);
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
        Ok(_) | Err(EvalError::Problems(_)) => Ok(()),
        Err(error) => Err(TestCaseError::fail(format!("{error:?}"))),
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
