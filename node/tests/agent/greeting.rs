//! Helpers of other versions, and who is none: an agent finds a helper again
//! that speaks its protocol as the first did; one of another protocol, or one
//! that is not what it says, is told why it is not wanted, and a task whose
//! name it bears goes on.
//!
//! There is one protocol so far. What other versions say is said by a process
//! of this program, `helper_main`, which plays a helper that outlived its
//! agent.

use super::{apart::*, *};
use potluck_helper::{
    AgentMessage, Channel, ExitReason, HelperMessage, TaskEnd, TaskExit, TaskKey,
    protocol::{Hello, PROTOCOL_VERSION, Phase, ReceiveError},
};
use std::process::{Command, Stdio};

/// The socket that the played helper dials.
const SOCKET: &str = "POTLUCK_TEST_SOCKET";
/// What it says of its protocol.
const PROTOCOL: &str = "POTLUCK_TEST_PROTOCOL";
/// A file: having told the end, it loses its connection, and dials again when
/// the file is there.
const AGAIN: &str = "POTLUCK_TEST_AGAIN";

fn hello(job: &Job, helper_pid: i32) -> Hello {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    Hello {
        protocol: PROTOCOL_VERSION,
        key: TaskKey {
            slot: slot(job, 0),
            generation: generation(1),
            start: 1,
        },
        boot_id: boot_id.trim().into(),
        helper_pid,
        helper_version: "0".into(),
        agent_generation: 1,
        phase: Phase::Starting,
        isolation_missing: Vec::new(),
        hands_on: None,
    }
}

/// Why the agent refuses this greeting.
async fn refused(socket: &Path, hello: Hello) -> String {
    let channel = Channel::connect(socket).expect("the agent listens");
    let hello = HelperMessage::Hello(hello);
    channel.send(&hello).expect("it takes a greeting");
    let begun = Instant::now();
    loop {
        match channel.receive::<AgentMessage>() {
            Ok(AgentMessage::Refused { why, .. }) => return why,
            Ok(other) => panic!("{other:?}"),
            Err(_) => assert!(begun.elapsed() < LIMIT, "no answer"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_helper_or_of_another_protocol_is_told_so_and_harms_no_task() {
    let node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    let before = node.until_running(&job, 0).await;
    let helpers = node.helpers();
    let socket = node.data.path().join("agent.sock");
    let us = hello(&job, std::process::id().cast_signed());
    let pid_of_another = hello(&job, helpers[0]);
    let later = Hello {
        protocol: PROTOCOL_VERSION + 1,
        ..us.clone()
    };
    let earlier = Hello {
        protocol: 0,
        ..us.clone()
    };
    let of_later_agent = Hello {
        agent_generation: 2,
        ..us.clone()
    };
    // The pid of another; of other versions; of an agent that is not yet.
    for (hello, why) in [
        (pid_of_another, "not the process"),
        (later, "later protocol"),
        (earlier, "earlier protocol"),
        (of_later_agent, "later agent"),
    ] {
        let told = refused(&socket, hello).await;
        assert!(told.contains(why), "{told}");
    }
    assert_eq!(node.until_running(&job, 0).await, before);
    assert_eq!(node.helpers(), helpers);
    node.end().await;
}

/// Not a test: the played helper. Its task runs, ends with code 0 when it is
/// told to, and says nothing that helpers did not say from the first on.
#[test]
fn helper_main() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let protocol = std::env::var(PROTOCOL).expect("the one who starts it says so");
    let pid = std::process::id().cast_signed();
    let mut hello = Hello {
        protocol: protocol.parse().expect("a number"),
        phase: Phase::Running { pid },
        ..hello(&job(1), pid)
    };
    let exit = TaskExit {
        code: Some(0),
        signal: None,
        reason: ExitReason::Stopped,
        at: Millis(0),
        memory_peak_bytes: None,
        note: None,
    };
    let channel = dial(Path::new(&socket), &hello);
    if !obey(&channel, Some(&exit)) {
        return;
    }
    let Some(again) = std::env::var_os(AGAIN) else {
        assert!(!obey(&channel, None));
        return;
    };
    drop(channel);
    let again = Path::new(&again);
    wait(|| again.is_file(), || "nobody wants it again".into());
    hello.phase = Phase::Ended(TaskEnd::Exited(exit));
    let channel = dial(Path::new(&socket), &hello);
    assert!(!obey(&channel, None));
}

/// A connection with the agent, which may not be there yet.
fn dial(socket: &Path, hello: &Hello) -> Channel {
    let mut channel = None;
    wait(
        || {
            channel = Channel::connect(socket).ok();
            channel.is_some()
        },
        || "no agent".into(),
    );
    let channel = channel.expect("it is connected");
    let hello = HelperMessage::Hello(hello.clone());
    channel.send(&hello).expect("the agent reads");
    channel
}

/// Hears the agent until it is told to stop, and tells this end (true), or
/// until it may leave or is sent away (false).
fn obey(channel: &Channel, end: Option<&TaskExit>) -> bool {
    let mut told = None;
    wait(
        || {
            match channel.receive::<AgentMessage>() {
                Ok(AgentMessage::Stop { .. }) => told = end.map(|_| true),
                Ok(AgentMessage::Refused { .. } | AgentMessage::Ack) => told = Some(false),
                Ok(_) | Err(ReceiveError::WouldBlock) => {}
                Err(error) => panic!("{error}"),
            }
            told.is_some()
        },
        || "nobody sends it away".into(),
    );
    if told == Some(true) {
        let end = end.cloned().expect("told to end");
        let end = HelperMessage::Exited(end);
        channel.send(&end).expect("the agent reads");
    }
    told == Some(true)
}

/// A node whose agent is away, and whose task has got another helper: a played
/// one, of this protocol, that loses its connection if it is given a file.
async fn with_helper_of(protocol: u32, again: Option<fn(&Path) -> PathBuf>) -> (Node, Killed) {
    let node = Node::start(SERVER).await;
    let job = job(1);
    node.award(&job, &[(0, 1)]).await;
    node.until_running(&job, 0).await;
    node.token.cancel();
    node.agent.stopped().await;
    super::faults::kill_all(&node).await;
    let program = std::env::current_exe().expect("a test has a program");
    let helper = Command::new(program)
        .args(["greeting::helper_main", "--exact"])
        .env(SOCKET, node.data.path().join("agent.sock"))
        .env(PROTOCOL, protocol.to_string())
        .envs(again.map(|again| (AGAIN, again(node.data.path()))))
        .stdout(Stdio::null())
        .spawn();
    (node, Killed(helper.expect("the program can be started")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_speaks_as_the_first_did_is_found_again() {
    let (mut node, mut helper) = with_helper_of(1, None).await;
    node.restart().await;
    let job = job(1);
    let report = node.until_running(&job, 0).await;
    assert_eq!((report.starts, report.last_end), (1, None));
    node.stop(&job, 0, 1).await;
    let report = node.until_stopped(&job, 0).await;
    assert_eq!(report.last_end.as_deref(), Some("exited with code 0"));
    poll("the played helper does not end", || {
        helper.0.try_wait().expect("our own child").is_some()
    })
    .await;
    let ended = helper.0.wait().expect("our own child");
    assert!(ended.success(), "it was not let go: {ended}");
    node.assert_nothing_leaks();
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_missed_the_answer_to_its_end_is_answered_again() {
    let again = |data: &Path| data.join("again");
    let (mut node, mut helper) = with_helper_of(1, Some(again)).await;
    node.restart().await;
    let job = job(1);
    node.until_running(&job, 0).await;
    node.stop(&job, 0, 1).await;
    node.until_stopped(&job, 0).await;
    fs::write(again(node.data.path()), "").expect("a file");
    poll("the played helper does not end", || {
        helper.0.try_wait().expect("our own child").is_some()
    })
    .await;
    let ended = helper.0.wait().expect("our own child");
    assert!(ended.success(), "it was not let go: {ended}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_helper_speaks_another_protocol_starts_again_and_says_why() {
    for (protocol, why) in [
        (PROTOCOL_VERSION + 1, "it speaks a later protocol"),
        (0, "it speaks an earlier protocol"),
    ] {
        let (mut node, mut helper) = with_helper_of(protocol, None).await;
        node.restart().await;
        let job = job(1);
        let report = node
            .until(&job, 0, |report| report.starts == 2 && report.healthy)
            .await;
        let end = report.last_end.unwrap_or_default();
        assert!(
            end.starts_with("helper refused") && end.contains(why),
            "{end}"
        );
        let ended = helper.0.wait().expect("our own child");
        assert!(ended.success(), "it was not sent away: {ended}");
        assert_eq!(node.helpers().len(), 1);
        node.assert_nothing_leaks();
        node.end().await;
    }
}
