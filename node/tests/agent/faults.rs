//! What befalls a host beside kills: an agent or a helper stopped for longer
//! than its lease, another boot, a pid that is another's by now, a full disk.
//! After each: nothing is left of what should not be there, and what the agent
//! tells is so.

use super::{apart::*, *};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::process::Command;

/// Short enough to wait for, long enough for a busy machine.
const SHORT_LEASE: Millis = Millis(1_500);

/// The next agent finds the second start, and all ends with it.
fn assert_adopts_second_start(ground: Ground) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let node = ground.next().await;
        let report = node.until_running(&job(1), 0).await;
        assert_eq!(report.starts, 2, "the second was found again");
        assert_eq!(node.helpers().len(), 1);
        node.assert_nothing_leaks();
        node.end().await;
    });
}

#[test]
fn an_agent_stopped_beyond_its_lease_finds_its_task_ended() {
    let ground = Ground::new();
    let agent = ground.running(SHORT_LEASE);
    let start = ground.data().join("tasks/default.web.0");
    let record = start.join(generation(1).to_string()).join("1/exit");
    kill(agent.pid(), Signal::SIGSTOP).expect("it is ours");
    // Nobody but the helper is awake.
    wait(|| record.is_file(), || "its task lives on".into());
    kill(agent.pid(), Signal::SIGCONT).expect("it is ours");
    ground.until_told(&["starts: 2", "healthy: true", "lease ran out"]);
    drop(agent);
    assert_adopts_second_start(ground);
}

#[test]
fn a_helper_stopped_beyond_its_lease_is_given_up_and_another_starts() {
    let ground = Ground::new();
    let agent = ground.running(SHORT_LEASE);
    let [helper] = helpers(ground.data())[..] else {
        panic!("not one helper: {:?}", helpers(ground.data()));
    };
    kill(Pid::from_raw(helper), Signal::SIGSTOP).expect("it is ours");
    // Its init ends the task; the agent must not go on telling that it runs.
    ground.until_told(&["starts: 2", "healthy: true", "helper lost"]);
    let gone = || !helpers(ground.data()).contains(&helper);
    wait(gone, || "the stopped helper is left".into());
    drop(agent);
    assert_adopts_second_start(ground);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_boot_the_journal_alone_is_believed() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    node.token.cancel();
    node.agent.stopped().await;
    // What a boot does: no process is left, and it has another name.
    kill_all(&node).await;
    let journal = node.data.path().join("agent.redb");
    super::journal::set_boot_id(&journal, "of another boot");
    node.restart().await;
    let report = node
        .until(&job, 0, |report| report.starts == 2 && report.healthy)
        .await;
    assert_eq!(report.last_end.as_deref(), Some("helper lost"));
    assert_eq!(node.helpers().len(), 1);
    node.assert_nothing_leaks();
    node.end().await;
}

/// All that a node's tasks are made of ends at once.
pub(super) async fn kill_all(node: &Node) {
    for pid in node.processes() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    poll("processes are left", || node.processes().is_empty()).await;
}

/// Nobody has the number for a pid or, as zombies do until they are reaped, for
/// their group or session.
fn is_free(pid: i32) -> bool {
    let number = pid.to_string();
    let takes = |stat: String| {
        // After the name: state, parent, group, session.
        let after_name = stat.rsplit_once(") ").unwrap_or_default().1;
        let mut fields = after_name.split(' ').skip(2).take(2);
        fields.any(|field| field == number)
    };
    let mut entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    !entries.any(|entry| {
        entry.file_name().to_str() == Some(&number)
            || fs::read_to_string(entry.path().join("stat")).is_ok_and(takes)
    })
}

/// A process with this pid, which is free, by the kernel's own counter of
/// them. It names the folder of a start among its arguments, as a helper does.
/// `None` where the counter can't be set.
fn bystander(pid: i32, pipe: &Path) -> Option<Killed> {
    /// Others may take the number in between.
    const TRIES: u32 = 1_000;
    for _ in 0..TRIES {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let started = Command::new("/bin/cat").arg(pipe).spawn();
        let started = Killed(started.expect("cat can be started"));
        if started.pid().as_raw() == pid {
            return Some(started);
        }
    }
    panic!("pid {pid} is never free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pid_that_was_a_helpers_may_be_anybodys() {
    let mut node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let helper = node.helpers()[0];
    node.token.cancel();
    node.agent.stopped().await;
    kill_all(&node).await;
    poll("the helper's number is taken", || is_free(helper)).await;
    let folder = node.data.path().join("tasks/default.web.0");
    let pipe = folder.join(generation(1).to_string()).join("1/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let Some(mut bystander) = bystander(helper, &pipe) else {
        node.restart().await;
        node.end().await;
        return skip("agent::faults: needs root, to choose the pid of a process");
    };
    node.restart().await;
    let report = node
        .until(&job, 0, |report| report.starts == 2 && report.healthy)
        .await;
    assert_eq!(report.last_end.as_deref(), Some("helper lost"));
    let ended = bystander.0.try_wait().expect("our own child");
    assert_eq!(ended, None, "a bystander was killed");
    drop(bystander);
    node.assert_nothing_leaks();
    node.end().await;
}

/// A file system of its own, taken away on drop.
struct Disk(TempDir);

impl Disk {
    /// So many bytes; `None` where nobody may mount.
    fn of(bytes: u64) -> Option<Disk> {
        use nix::mount::{MsFlags, mount};
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("size={bytes},mode=0755");
        let kind = Some("tmpfs");
        let none = MsFlags::empty();
        mount(kind, folder.path(), kind, none, Some(&*options)).ok()?;
        Some(Disk(folder))
    }

    /// Takes all room that there is, until it is dropped.
    fn fill(&self) -> tempfile::NamedTempFile {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new_in(self.0.path()).expect("a file");
        for size in [64 << 10, 1] {
            let bytes = vec![1_u8; size];
            while file.write_all(&bytes).is_ok() {}
        }
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detach = nix::mount::MntFlags::MNT_DETACH;
        let _ = nix::mount::umount2(self.0.path(), detach);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_up_what_it_should_and_nothing_else() {
    /// Twice the time between two tries of the journal.
    const SILENCE: Duration = Duration::from_secs(2);
    let Some(disk) = Disk::of(48 << 20) else {
        return skip("agent::faults: needs root, for a small file system of its own");
    };
    let (package, seed) = ground(SERVER);
    let data = tempfile::tempdir_in(disk.0.path()).expect("a folder");
    let node = Node::on(data, package, seed).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    let before = node.helpers();
    let full = disk.fill();
    let award = Award {
        authority: authority(),
        call: 2,
        slots: vec![(slot(&job, 1), generation(2))],
        job: signed(&job).into(),
        package_bytes: 1,
        holders: vec![],
    };
    let agent = node.agent.clone();
    let mut answer = std::pin::pin!(agent.award(award));
    let early = tokio::time::timeout(SILENCE, &mut answer).await;
    assert!(early.is_err(), "answered and not written: {early:?}");
    assert_eq!(node.helpers(), before, "the task that runs is harmed");
    drop(full);
    let answer = answer.await.expect("the agent answers");
    assert_eq!(answer.slots, [(slot(&job, 1), Ok(()))]);
    node.until_running(&job, 1).await;
    let report = node.until_running(&job, 0).await;
    assert_eq!(report.starts, 1);
    node.assert_nothing_leaks();
    node.end().await;
}
