//! What a task may have on disk, and a disk that is full.

use super::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::io::Write;

const MIB: u64 = 1 << 20;

/// Memory in the place of a disk, gone again with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where it can't be mounted.
    fn mount(at: &Path, bytes: u64) -> Option<SmallDisk> {
        let options = format!("size={bytes}");
        let none: Option<&str> = None;
        let mounted = mount(
            none,
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        mounted.is_ok().then(|| SmallDisk(at.into()))
    }

    /// Leaves nothing free.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut file = fs::File::create(&path).expect("a file");
        for size in [1 << 20, 4_096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Helpers of a failed test may still look at it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_uses_too_much_disk_ends_by_its_limit() {
    let script = r#"#!/bin/sh
trap 'echo in order; exit 0' TERM
dd if=/dev/zero of=big bs=1048576 count=9 2>/dev/null
while true; do sleep 0.05; done
"#;
    let node = Node::start(script).await;
    let mut job = job(1);
    job.task.resources.disk_bytes = 20 * MIB;
    node.award(&job, &[(1, 1)]).await;
    job.version = 2;
    job.task.resources.disk_bytes = 5 * MIB;
    node.award(&job, &[(0, 2)]).await;
    let failed = |report: &SlotReport| report.last_end.is_some();
    let report = node.until(&job, 0, failed).await;
    let why = report.last_end.unwrap_or_default();
    assert!(
        why.starts_with("disk-limit: 9 MiB of 5 MiB: folder 9 MiB"),
        "{why}"
    );
    assert_eq!(report.failures, 1, "counted as any failure");
    until_line(&node, &job, "in order").await;
    until_line(&node, &job, "-- disk limit reached: 9 MiB of 5 MiB").await;
    let other = node.until_running(&job, 1).await;
    assert_eq!(
        (other.starts, other.last_end),
        (1, None),
        "it is within its limit"
    );
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gives_no_more_disk_than_it_has() {
    let node = Node::start(SERVER).await;
    let mut job = job(1);
    job.task.resources.disk_bytes = 600 * MIB;
    node.award(&job, &[(0, 1)]).await;
    let call = Call {
        authority: authority(),
        call: 2,
        job: job.name.clone(),
        version: 1,
        wanted: 1,
        each_most: None,
        resources: job.task.resources,
        devices: BTreeMap::new(),
        ports: vec![],
        package: job.package,
        package_bytes: 1,
    };
    let answer = node.agent.call(call).await.expect("an answer");
    let CallAnswer::Refusal(refusal) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(
        refusal.to_string(),
        "needs 600 MiB of disk, 424 MiB are free"
    );
    node.end().await;
}

/// The task goes on; the node says why it is silent; what it acknowledged is there after its next start, and what it could not write
/// is answered when it could.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_nothing_that_was_acknowledged() {
    let data = tempfile::tempdir().expect("a folder for data");
    let Some(disk) = SmallDisk::mount(data.path(), 24 * MIB) else {
        return skip("a full disk: needs a tmpfs of its own, so root");
    };
    let script = r#"#!/bin/sh
trap 'exit 0' TERM
while true; do head -c 3000 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo; sleep 0.02; done
"#;
    let mut node = Node::start_on(data, script).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    let before = node.until_running(&job, 0).await;
    assert_eq!(node.agent.disk_concern().await, None);
    let ballast = disk.fill();
    let concern = node.agent.disk_concern().await.unwrap_or_default();
    assert!(concern.contains("of 24 MiB are left"), "{concern}");

    // Some may still fit into what the journal's file has.
    let mut taken = vec![0];
    let mut waiting = None;
    for index in 1..50_u32 {
        let award = Award {
            authority: authority(),
            call: 1,
            slots: vec![(slot(&job, index), generation(u64::from(index) + 1))],
            job: signed(&job).into(),
            package_bytes: 1,
            holders: vec![],
        };
        let agent = node.agent.clone();
        let mut answer = Box::pin(async move { agent.award(award).await });
        match tokio::time::timeout(Duration::from_secs(2), &mut answer).await {
            Ok(answered) => {
                let slots = answered.expect("an answer").slots;
                taken.extend(
                    slots
                        .iter()
                        .filter(|(_, r)| r.is_ok())
                        .map(|(s, _)| s.index),
                );
            }
            Err(_) => {
                waiting = Some((index, answer));
                break;
            }
        }
    }
    let (index, waiting) = waiting.expect("a full disk refuses the journal");
    fs::remove_file(ballast).expect("room again");
    let answer = tokio::time::timeout(LIMIT, waiting).await;
    let answer = answer.expect("an answer, now that there is room");
    let slots = answer.expect("an answer").slots;
    assert_eq!(slots, [(slot(&job, index), Ok(()))]);
    taken.push(index);

    let after = node.until_running(&job, 0).await;
    assert_eq!(
        (after.starts, after.last_end),
        (before.starts, None),
        "the task went on"
    );
    node.restart().await;
    let slots = node.agent.slots().await.expect("the agent answers");
    let held: Vec<u32> = slots.iter().map(|report| report.slot.index).collect();
    assert_eq!(held, taken);
    node.end().await;
}
