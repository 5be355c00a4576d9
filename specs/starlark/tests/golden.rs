//! What people read when a spec is wrong: each `tests/findings/*.star` beside
//! its expected text. A file may hold others, each after a line
//! `### path.star`; `# --set a=b` on the first line sets values.
//!
//! `POTLUCK_BLESS=1 cargo test -p potluck-starlark --test golden` writes the
//! expected texts anew; read the difference before you commit it.

mod common;

use common::{evaluate_with, text};
use std::{env, fs, path::Path};

#[test]
fn findings_read_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/findings");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "star"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 15, "the files were not found");
    let bless = env::var_os("POTLUCK_BLESS").is_some();
    let mut wrong = Vec::new();
    for path in paths {
        let shown = show(&fs::read_to_string(&path).unwrap());
        let expected = path.with_extension("txt");
        if bless {
            fs::write(&expected, &shown).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn show(source: &str) -> String {
    let mut parts = source.split("### ");
    let main = parts.next().unwrap();
    let others: Vec<(&str, &str)> = parts.map(|part| part.split_once('\n').unwrap()).collect();
    let first = main.lines().next().unwrap_or_default();
    let set: Vec<&str> = first.split("--set ").skip(1).map(str::trim).collect();
    let evaluated = evaluate_with(main, &others, &set);
    // What is wrong is told the same way each time.
    assert_eq!(evaluated, evaluate_with(main, &others, &set));
    assert!(
        !evaluated.findings.is_empty(),
        "nothing is wrong with:\n{main}"
    );
    text(&evaluated.findings) + "\n"
}
