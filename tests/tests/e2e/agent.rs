//! An agent that is killed or stopped, and started again: its tasks don't
//! notice, and their logs are whole.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use potluck_testnet::{demo::get, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, exit_code},
    status::{Task, await_healthy, line_numbers, pids},
};

/// Requests at each step; each writes a numbered line into the task's log.
const REQUESTS: u64 = 50;

fn ask(task: &Task) {
    for _ in 0..REQUESTS {
        get(task.address, "/").unwrap_or_else(|error| panic!("{task:?}: {error}"));
    }
}

/// Every number from 1 on, once: no line is lost or told twice.
fn assert_whole_log(fleet: &Fleet, asker: &str, task: &Task) {
    let client = fleet.client(asker);
    until("a whole log", WAIT, || {
        let numbers = line_numbers(&client, &task.slot)?;
        // The first line is of the start; health checks add to the requests.
        let enough = numbers.len() as u64 > 3 * REQUESTS;
        let whole = numbers.iter().copied().eq(1..=numbers.len() as u64);
        assert!(whole, "the log has gaps or repeats: {numbers:?}");
        match enough {
            true => Ok(()),
            false => Err(format!("{} lines", numbers.len())),
        }
    })
    .unwrap();
}

#[test]
fn a_killed_agent_finds_its_task_again_with_a_whole_log() {
    let fleet = Fleet::up(2, 2);
    fleet.run("r1h1", &fleet.hello("steady", 1));
    let task = await_healthy(&fleet.client("r1h1"), "steady", &[]).remove(0);
    let before = pids(&fleet, &[&task.node]);
    assert!(
        before
            .values()
            .all(|(helpers, tasks)| !helpers.is_empty() && !tasks.is_empty())
    );
    ask(&task);
    fleet.kill_agent(&task.node).unwrap();
    ask(&task);
    assert_eq!(pids(&fleet, &[&task.node]), before);
    fleet.start(&task.node).unwrap();
    fleet.await_answer(&task.node).unwrap();
    ask(&task);
    let asker = fleet.other(&[&task.node]);
    // With one of two voters, a leader may have to be found first.
    let after = await_healthy(&fleet.client(&asker), "steady", &[]);
    assert_eq!(after, std::slice::from_ref(&task));
    assert_eq!(pids(&fleet, &[&task.node]), before);
    assert_whole_log(&fleet, &asker, &task);
    assert_whole_log(&fleet, &task.node, &task);
}

#[test]
fn a_stopped_node_exits_cleanly_and_adopts_at_its_next_start() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    // A node of ours, to see how it ends.
    fleet.stop_agent("r1h1").unwrap();
    let child = fleet.node_command("r1h1", &[]).unwrap().spawn().unwrap();
    fleet.await_answer("r1h1").unwrap();
    fleet.run("r1h1", &fleet.hello("steady", 2));
    let tasks = await_healthy(&client, "steady", &[]);
    let before = pids(&fleet, &["r1h1"]);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exit_code(child), 0, "{}", fleet.log("r1h1"));
    assert_eq!(fleet.processes("r1h1").agent, None);
    assert_eq!(pids(&fleet, &["r1h1"]), before);
    for task in &tasks {
        ask(task);
    }
    fleet.start("r1h1").unwrap();
    fleet.await_answer("r1h1").unwrap();
    assert_eq!(await_healthy(&client, "steady", &[]), tasks);
    assert_eq!(pids(&fleet, &["r1h1"]), before);
}
