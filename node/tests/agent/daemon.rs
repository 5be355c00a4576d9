//! A task without isolation: a daemon of the host, and yet a task.

use super::*;
use potluck_specs::job::Isolation;

/// It sees the host, and is limited, logged and ended as any other task: what
/// it started and left alone too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_of_the_host_is_in_its_groups_and_ends_with_all_that_it_started() {
    let script = r#"#!/bin/sh
setsid sleep 1000 > /dev/null 2>&1 &
echo "pid namespace $(readlink /proc/self/ns/pid), root $(ls -di / | cut -d' ' -f1)"
cat /proc/self/cgroup
while true; do sleep 0.05; done
"#;
    let node = Node::start(script).await;
    let mut job = job(1);
    job.task.isolation = Isolation::None;
    job.task.stop.grace_ms = 100;
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let own = fs::read_link("/proc/self/ns/pid").expect("our own");
    let root = std::os::unix::fs::MetadataExt::ino(&fs::metadata("/").expect("a root"));
    let line = format!("pid namespace {}, root {root}", own.display());
    until_line(&node, &job, &line).await;
    let names = ["memory", "cpu", "pids"];
    let missing = node.agent.isolation_missing();
    let said = |name: &&str| missing.iter().any(|line| line.starts_with(*name));
    if !names.iter().any(said) {
        let group = format!("/potluck/{}/", node_id(node.seed).short());
        until_line(&node, &job, &group).await;
    }
    assert!(node.processes().len() >= 3, "helper, task and what it left");
    node.stop(&job, 0, 1).await;
    node.until_stopped(&job, 0).await;
    node.assert_nothing_left().await;
    node.end().await;
}
