//! An agent of another build that finds helpers of the one before, as after a
//! node's program was replaced.

use super::{Node, generation, job, lines, poll, slot};
use potluck_node::agent::{HelperBuild, LogQuery};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Prints numbers until it is told to stop, then how far it came.
const NUMBERS: &str = r#"#!/bin/sh
trap 'stop=1' TERM
cat "$POTLUCK_GENERATION_FILE"
n=0
while [ -z "$stop" ]; do n=$((n+1)); echo "$n"; sleep 0.002; done
echo "last $n"
exit 4
"#;

/// Another build: the same program, but for its bytes.
fn build(folder: &TempDir, number: u8) -> PathBuf {
    let mut bytes = fs::read(super::helper()).expect("the helper");
    bytes.push(number);
    install(folder, number, &bytes)
}

/// One that can start tasks and go on with none.
fn build_that_goes_on_with_none(folder: &TempDir, number: u8) -> PathBuf {
    let real = super::helper();
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --can-resume ] && exit 1\nexec {} \"$@\"\n",
        real.display()
    );
    install(folder, number, script.as_bytes())
}

fn install(folder: &TempDir, number: u8, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(format!("potluck-helper-{number}"));
    fs::write(&path, bytes).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The only helper, and its task's process: init's first child.
fn helper_and_task(node: &Node) -> (i32, i32) {
    let is_helper = |pid: &i32| {
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == b"potluck-helper\n"
    };
    let helpers: Vec<i32> = node.processes().into_iter().filter(is_helper).collect();
    assert_eq!(helpers.len(), 1, "{helpers:?}");
    let init = first_child(helpers[0]);
    (helpers[0], first_child(init))
}

fn first_child(pid: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.expect("a process");
    let first = children.split_whitespace().next().expect("a child");
    first.parse().expect("a number")
}

/// Waits until all helpers' builds are as wanted.
async fn until_builds(node: &Node, wanted: impl Fn(&[HelperBuild]) -> bool) -> Vec<HelperBuild> {
    poll("the builds of helpers", || {
        wanted(&node.agent.helper_builds())
    })
    .await;
    node.agent.helper_builds()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_agent_brings_helpers_to_its_build_and_tasks_notice_nothing() {
    let programs = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(NUMBERS).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let (helper, task) = helper_and_task(&node);
    let first = program(helper).expect("a program");
    let builds = until_builds(&node, |builds| builds.len() == 1).await;
    assert!(builds[0].is_current && builds[0].helpers == 1, "{builds:?}");

    // Told to leave them alone, then not able to, then able to.
    node.helper = (build(&programs, 1), true);
    node.restart().await;
    let why = |words: &'static str| {
        move |builds: &[HelperBuild]| {
            let mut whys = builds.iter().filter_map(|build| build.why.as_deref());
            whys.any(|why| why.contains(words))
        }
    };
    let builds = until_builds(&node, why("--keep-helpers")).await;
    assert!(!builds[0].is_current, "{builds:?}");
    node.helper = (build_that_goes_on_with_none(&programs, 2), false);
    node.restart().await;
    until_builds(&node, why("can't go on")).await;
    assert_eq!(program(helper), Some(first.clone()));
    for number in [3, 4] {
        node.helper = (build(&programs, number), false);
        node.restart().await;
        let is_current = |builds: &[HelperBuild]| builds.iter().all(|build| build.is_current);
        let builds = until_builds(&node, |builds| !builds.is_empty() && is_current(builds)).await;
        assert_eq!(builds.len(), 1, "{builds:?}");
        let now = program(helper).expect("the same process");
        assert_ne!(now, first);
        let name = now.parent().and_then(Path::file_name).expect("a folder");
        assert!(name.to_string_lossy().starts_with(&builds[0].build));
    }
    assert_eq!(helper_and_task(&node), (helper, task));
    assert_eq!(node.until_running(&job, 0).await.starts, 1);

    node.stop(&job, 0, 1).await;
    let report = node.until_stopped(&job, 0).await;
    assert_eq!(report.last_end.as_deref(), Some("exited with code 4"));
    let lines = lines(&node, &job, LogQuery::default()).await;
    assert_eq!(lines[0], generation(1).to_string());
    let last = lines.last().expect("lines").strip_prefix("last ");
    let last: usize = last.expect("the last").parse().expect("a number");
    // Between them the shell may tell that its sleep was signalled too.
    let numbers: Vec<usize> = lines[1..]
        .iter()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{}", slot(&job, 0));
    node.assert_nothing_left().await;
    node.end().await;
}
