//! The written reference is that of the definitions.

use potluck_starlark::{describe_functions, reference};
use std::{env, fs, path::Path};

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/spec/reference.md");
    let text = reference();
    if env::var_os("POTLUCK_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/spec/reference.md is old; POTLUCK_BLESS=1 cargo test -p potluck-starlark --test reference writes it anew"
    );
}

#[test]
fn descriptions_are_whole() {
    let all = describe_functions();
    let job = all.iter().find(|function| function.name == "job").unwrap();
    let required: Vec<&str> = job
        .params
        .iter()
        .filter(|param| param.required)
        .map(|param| param.name)
        .collect();
    assert_eq!(required, ["name", "package", "command"]);
    assert!(job.params.iter().all(|param| !param.group.is_empty()));
    assert!(all.iter().any(|function| function.name == "param"));
}
