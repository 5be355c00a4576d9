//! The repository's rules that no compiler checks. Each has its own test,
//! which names file and line of whatever breaks it.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
};

/// Lines from the top within which a module says what it answers for.
const HEAD_LINES: usize = 12;

/// Crates without clock, IO, async and randomness, with everything that they
/// may depend on.
const PURE: [(&str, &str, &[&str]); 2] = [
    (
        "potluck-specs",
        "specs",
        &[
            "blake3",
            "cbor4ii",
            "chacha20poly1305",
            "data-encoding",
            "ed25519-dalek",
            "schemars",
            "serde",
            "serde_bytes",
            "serde_json",
            "thiserror",
            "x25519-dalek",
            "zeroize",
        ],
    ),
    (
        "potluck-core",
        "node/core",
        &["potluck-specs", "serde", "serde_bytes", "thiserror"],
    ),
];

/// What a pure crate's code may not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::io::stdin",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "HashMap",
    "HashSet",
    "async fn",
    "async move",
    "tokio::",
    "libp2p::",
    "getrandom",
    "rand::",
];

/// The arrows between the crates of this workspace, as drawn in the design.
const ARROWS: &[(&str, &[&str])] = &[
    ("potluck-specs", &[]),
    ("potluck-starlark", &["potluck-specs"]),
    ("potluck-core", &["potluck-specs"]),
    ("potluck-gossip", &["potluck-specs"]),
    ("potluck-dht", &["potluck-specs"]),
    ("potluck-helper", &["potluck-specs"]),
    ("potluck-sshd", &["potluck-specs", "potluck-helper"]),
    (
        "potluck-node",
        &[
            "potluck-specs",
            "potluck-starlark",
            "potluck-core",
            "potluck-gossip",
            "potluck-dht",
            "potluck-helper",
        ],
    ),
    (
        "potluck-testnet",
        &["potluck-core", "potluck-specs", "potluck-node"],
    ),
    ("potluck-tests", &["potluck-testnet", "potluck-specs"]),
    ("hello", &[]),
];

/// Where clocks other than tokio's are read, each with its reason.
const CLOCKS: &[(&str, &str)] = &[
    ("node/src/clock.rs", "the one clock of the node"),
    (
        "node/helper/src/supervise.rs",
        "another program: outlives the node and keeps its lease",
    ),
    (
        "gossip/src/socket.rs",
        "a budget of datagrams, on a thread of its own",
    ),
    (
        "dht/src/store/files.rs",
        "times of files, which the kernel takes from the same clock",
    ),
    (
        "dht/src/store/mod.rs",
        "ages of files, which the kernel takes from the same clock",
    ),
    (
        "testnet/src/",
        "a tool beside the product: limits of waits, and how long things took",
    ),
    (
        "node/src/agent/folders.rs",
        "compares times of folders, and reads no clock",
    ),
];

/// Where tests wait, each with its reason.
const WAITS: &[(&str, &str)] = &[];

/// One line that breaks a rule.
struct Breach {
    file: String,
    line: usize,
    text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text.trim())
    }
}

fn judge(rule: &str, breaches: &[Breach]) {
    let list: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "{rule}:\n{}", list.join("\n"));
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests is in the root").into()
}

fn metadata() -> Metadata {
    let manifest = root().join("Cargo.toml");
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).no_deps();
    command.exec().expect("cargo metadata works")
}

/// A file of the repository.
struct File {
    /// From the root.
    path: String,
    text: String,
}

impl File {
    /// In a `src` folder of some crate.
    fn is_source(&self) -> bool {
        self.path.contains("/src/")
    }

    /// Whether all of it is for tests.
    fn is_test(&self) -> bool {
        let names = ["tests.rs", "testing.rs", "build.rs"];
        let parts: Vec<&str> = self.path.split('/').collect();
        // The crate `tests` has a source folder of its own.
        let below_source = parts.iter().position(|part| *part == "src");
        parts[below_source.unwrap_or(0)..].contains(&"tests")
            || parts.last().is_some_and(|name| names.contains(name))
    }

    /// Its lines with their numbers, without whole-line comments.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.text.lines().enumerate().map(|(k, line)| (k + 1, line));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The number of the line where its inner test module begins: one that is
    /// written out here, not one that has a file of its own.
    fn tests_begin(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().map(str::trim).collect();
        let is_module = |line: &str| {
            let line = line.trim_start_matches("pub(crate) ");
            line.starts_with("mod ") && line.ends_with('{')
        };
        let begin = lines
            .windows(2)
            .position(|pair| pair[0] == "#[cfg(test)]" && is_module(pair[1]));
        begin.map_or(usize::MAX, |k| k + 1)
    }

    /// Lines of code that is not for tests only.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = if self.is_test() {
            0
        } else {
            self.tests_begin()
        };
        self.lines().take_while(move |(number, _)| *number < end)
    }

    /// Lines of code for tests only.
    fn test_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let begin = if self.is_test() {
            0
        } else {
            self.tests_begin()
        };
        self.lines().skip_while(move |(number, _)| *number < begin)
    }

    fn breach(&self, line: usize, text: &str) -> Breach {
        Breach {
            file: self.path.clone(),
            line,
            text: text.into(),
        }
    }

    fn breaches<'a>(
        &'a self,
        lines: impl Iterator<Item = (usize, &'a str)>,
        wrong: impl Fn(&str) -> bool,
    ) -> Vec<Breach> {
        lines
            .filter(|(_, line)| wrong(line))
            .map(|(number, line)| self.breach(number, line))
            .collect()
    }
}

/// Files of the repository whose name ends so, without what is built.
fn files(ends: &[&str]) -> Vec<File> {
    let root = root();
    let mut found = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let kind = entry.file_type().expect("a file of ours");
            if kind.is_dir() {
                if !["target", ".git"].contains(&name.as_str()) {
                    todo.push(path);
                }
            } else if kind.is_file() && ends.iter().any(|end| name.ends_with(end)) {
                let inner = path.strip_prefix(&root).expect("below the root");
                found.push(File {
                    path: inner.to_string_lossy().into_owned(),
                    text: fs::read_to_string(&path).expect("text"),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// All code, but this file, which has to name what it forbids.
fn code() -> Vec<File> {
    let mut all = files(&[".rs"]);
    all.retain(|file| file.path != "tests/tests/tidy.rs");
    assert!(all.len() > 50, "the code was not found");
    all
}

/// An allowed file that no longer needs it.
fn stale(allowed: &[(&str, &str)], used: &BTreeSet<String>) -> Vec<Breach> {
    let gone = allowed.iter().filter(|(path, _)| {
        !used.iter().any(|file| file.starts_with(path)) && root().join(path).exists()
    });
    gone.map(|(path, _)| Breach {
        file: (*path).into(),
        line: 1,
        text: "allowed without need".into(),
    })
    .collect()
}

#[test]
fn pure_crates_depend_on_little() {
    let metadata = metadata();
    let mut breaches = Vec::new();
    for (name, folder, allowed) in PURE {
        let found = metadata.packages.iter().find(|p| p.name == name);
        let package = found.unwrap_or_else(|| panic!("{name} is gone"));
        for dependency in &package.dependencies {
            let for_tests = dependency.kind == DependencyKind::Development;
            if !for_tests && !allowed.contains(&dependency.name.as_str()) {
                breaches.push(Breach {
                    file: format!("{folder}/Cargo.toml"),
                    line: line_of(&format!("{folder}/Cargo.toml"), &dependency.name),
                    text: dependency.name.clone(),
                });
            }
        }
    }
    judge(
        "a pure crate has a dependency that is not on its list",
        &breaches,
    );
}

fn line_of(file: &str, word: &str) -> usize {
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    text.lines()
        .position(|line| line.starts_with(word))
        .map_or(1, |at| at + 1)
}

#[test]
fn pure_crates_name_nothing_impure() {
    let mut breaches = Vec::new();
    for file in code() {
        let pure = PURE
            .iter()
            .any(|(_, folder, _)| file.path.starts_with(&format!("{folder}/src/")));
        if pure {
            let impure = |line: &str| IMPURE.iter().any(|word| line.contains(word));
            breaches.extend(file.breaches(file.product_lines(), impure));
        }
    }
    judge(
        "a pure crate has no clock, IO, async, randomness or unordered map",
        &breaches,
    );
}

#[test]
fn pure_crates_repeat_the_bans_of_the_root() {
    let bans = |path: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        let banned = text
            .lines()
            .filter_map(|line| line.split("path = \"").nth(1));
        banned
            .filter_map(|rest| rest.split('"').next())
            .map(str::to_owned)
            .collect()
    };
    let ours = bans("clippy.toml");
    assert!(ours.len() >= 3, "{ours:?}");
    let mut breaches = Vec::new();
    for file in [
        "specs/clippy.toml",
        "node/core/clippy.toml",
        "specs/starlark/clippy.toml",
    ] {
        for ban in ours.difference(&bans(file)) {
            breaches.push(Breach {
                file: file.into(),
                line: 1,
                text: format!("lacks {ban}"),
            });
        }
    }
    judge(
        "a crate's clippy.toml replaces the root's, so it repeats its bans",
        &breaches,
    );
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in metadata().packages {
        let name = package.name.to_string();
        let manifest = package
            .manifest_path
            .strip_prefix(root())
            .expect("below the root");
        let Some(targets) = allowed.get(name.as_str()) else {
            breaches.push(Breach {
                file: manifest.to_string(),
                line: 1,
                text: format!("{name} is not in the drawing"),
            });
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            if to.starts_with("potluck-") && !targets.contains(&to) {
                breaches.push(Breach {
                    file: manifest.to_string(),
                    line: line_of(manifest.as_str(), to),
                    text: format!("{name} -> {to}"),
                });
            }
        }
    }
    judge(
        "an arrow between crates that is not in the drawing",
        &breaches,
    );
}

/// The `use` statements of the standard library that name `word`, by line.
fn imports_from_std(file: &File, words: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut statement: Option<(usize, String)> = None;
    for (number, line) in file.product_lines() {
        let text = line.trim();
        if statement.is_none() && text.starts_with("use std::") {
            statement = Some((number, String::new()));
        }
        if let Some((_, so_far)) = &mut statement {
            so_far.push_str(text);
            so_far.push(' ');
        }
        if text.ends_with(';')
            && let Some((begin, whole)) = statement.take()
        {
            let mut parts = whole.split(|c: char| !c.is_alphanumeric() && c != '_');
            if parts.any(|part| words.contains(&part)) {
                found.push((begin, whole));
            }
        }
    }
    found
}

#[test]
fn there_is_one_clock() {
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for file in code().iter().filter(|file| file.is_source()) {
        let named = |line: &str| {
            [
                "std::time::Instant",
                "std::time::SystemTime",
                "SystemTime::now",
                "clock_gettime(",
            ]
            .iter()
            .any(|word| line.contains(word))
        };
        let mut here = file.breaches(file.product_lines(), named);
        let imports = imports_from_std(file, &["Instant", "SystemTime"]);
        here.extend(imports.iter().map(|(line, text)| file.breach(*line, text)));
        if here.is_empty() {
            continue;
        }
        if CLOCKS.iter().any(|(path, _)| file.path.starts_with(path)) {
            used.insert(file.path.clone());
        } else {
            breaches.extend(here);
        }
    }
    breaches.extend(stale(CLOCKS, &used));
    judge(
        "clocks are read in node/src/clock.rs; actors use tokio::time::Instant",
        &breaches,
    );
}

#[test]
fn each_crate_has_one_spawner() {
    let mut breaches = Vec::new();
    for file in code() {
        if !file.is_source() || file.path.ends_with("/spawn.rs") {
            continue;
        }
        let spawns = |line: &str| {
            [
                "tokio::spawn(",
                "task::spawn(",
                "spawn_local(",
                "::spawn_on(",
            ]
            .iter()
            .any(|call| line.contains(call))
        };
        breaches.extend(file.breaches(file.product_lines(), spawns));
    }
    judge("actors are started by the crate's spawn.rs", &breaches);
}

#[test]
fn every_module_says_what_it_answers_for() {
    let mut breaches = Vec::new();
    for file in code() {
        let head = file
            .text
            .lines()
            .take(HEAD_LINES)
            .any(|line| line.starts_with("//!"));
        if file.is_source() && !file.path.ends_with("/main.rs") && !head {
            breaches.push(file.breach(1, "no head"));
        }
        if let Some(line) = file
            .text
            .lines()
            .position(|line| line.contains("Placeholder head"))
        {
            breaches.push(file.breach(line + 1, "a placeholder"));
        }
    }
    judge("a module begins with what it answers for (//!)", &breaches);
}

#[test]
fn nothing_is_left_to_do_or_ignored() {
    let mut breaches = Vec::new();
    for file in code() {
        let unfinished = |line: &str| {
            // In two parts, so that this list is not what it looks for.
            [
                ["todo", "!("],
                ["unimplemented", "!("],
                ["#[", "ignore"],
                ["dbg", "!("],
            ]
            .iter()
            .any(|word| line.contains(&word.concat()))
        };
        breaches.extend(file.breaches(file.lines(), unfinished));
    }
    judge("unfinished code, or a test that is not run", &breaches);
}

#[test]
fn product_code_says_why_it_cannot_fail() {
    let mut breaches = Vec::new();
    for file in code().iter().filter(|file| file.is_source()) {
        breaches.extend(file.breaches(file.product_lines(), |line| line.contains(".unwrap()")));
    }
    breaches.retain(|breach| !breach.file.starts_with("tests/"));
    judge(
        "expect(\"why it can't fail\") instead of unwrap()",
        &breaches,
    );
}

#[test]
fn tests_wait_for_conditions() {
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for file in code() {
        let sleeps = |line: &str| line.contains("sleep(");
        let here = file.breaches(file.test_lines(), sleeps);
        if here.is_empty() {
            continue;
        }
        if WAITS.iter().any(|(path, _)| file.path.starts_with(path)) {
            used.insert(file.path.clone());
        } else {
            breaches.extend(here);
        }
    }
    breaches.extend(stale(WAITS, &used));
    judge("a test waits for a condition, with a limit", &breaches);
}

#[test]
fn no_path_of_one_machine() {
    let mut breaches = Vec::new();
    let ends = [
        ".rs", ".toml", ".md", ".star", ".sh", "Makefile", "run", ".yml", ".yaml", "tools",
    ];
    for file in files(&ends) {
        if file.path == "tests/tests/tidy.rs" {
            continue;
        }
        let lines = file.text.lines().enumerate().map(|(k, line)| (k + 1, line));
        breaches.extend(file.breaches(lines, names_a_machine));
    }
    judge("a path that is only on one machine", &breaches);
}

fn names_a_machine(line: &str) -> bool {
    let places = [concat!("/wo", "rk/"), "/home/", "/Users/", "/tmp/potluck"];
    places.iter().any(|place| {
        line.match_indices(place).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| !c.is_alphanumeric() && !"./_-})]>~*".contains(c))
        })
    })
}

#[test]
fn the_rules_can_be_broken() {
    assert!(names_a_machine("let path = \"/home/x\";"));
    assert!(!names_a_machine("see frame/home/x and ~/home/x"));
    let file = File {
        path: "node/src/x.rs".into(),
        text: "use std::{\n    fs,\n    time::{Duration, Instant},\n};\nfn f() {}\n\
               #[cfg(test)]\nmod tests {\n    sleep(1);\n}\n"
            .into(),
    };
    assert_eq!(imports_from_std(&file, &["Instant"]).len(), 1);
    assert_eq!(imports_from_std(&file, &["Inst"]).len(), 0);
    assert_eq!(file.product_lines().count(), 5);
    assert_eq!(file.test_lines().count(), 4);
    let file = File {
        path: "node/src/x/tests/y.rs".into(),
        text: "fn f() {}".into(),
    };
    assert!(file.is_test());
    assert_eq!(
        (file.product_lines().count(), file.test_lines().count()),
        (0, 1)
    );
}
