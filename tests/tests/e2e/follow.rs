//! A log that is followed from another node, over the death of the agent that
//! serves it.

use potluck_testnet::{demo::get, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::{Task, await_healthy},
};
use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::mpsc::{Receiver, channel},
};

/// Requests at each step; each writes a numbered line into the task's log.
const REQUESTS: u64 = 50;

fn ask(task: &Task) {
    for _ in 0..REQUESTS {
        get(task.address, "/").unwrap_or_else(|error| panic!("{task:?}: {error}"));
    }
}

#[test]
fn a_followed_log_goes_on_over_the_death_of_the_agent() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("steady", 3));
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let tasks = await_healthy(&fleet.client(&leader), "steady", &[]);
    let task = tasks.iter().find(|task| task.node != leader).unwrap();
    let mut follower = Follower::start(&fleet, &leader, &task.slot);
    ask(task);
    follower.await_lines(REQUESTS);
    fleet.kill_agent(&task.node).unwrap();
    ask(task);
    fleet.start(&task.node).unwrap();
    ask(task);
    follower.await_lines(3 * REQUESTS);
}

/// `potluck logs -f`, ended with the test.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    numbers: Vec<u64>,
}

impl Follower {
    fn start(fleet: &Fleet, asker: &str, slot: &str) -> Follower {
        let mut child = fleet.client(asker).start(&["logs", "-f", slot]).unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        // Ends with its pipe, which ends with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Follower {
            child,
            lines,
            numbers: Vec::new(),
        }
    }

    /// Waits for more than `count` lines, numbered from 1 on without a gap.
    fn await_lines(&mut self, count: u64) {
        let come = until("lines of a followed log", WAIT, || {
            for line in self.lines.try_iter() {
                let number = line.split(' ').next().and_then(|word| word.parse().ok());
                let number = number.unwrap_or_else(|| panic!("no number in {line:?}"));
                assert_eq!(number, self.numbers.len() as u64 + 1, "{line:?}");
                self.numbers.push(number);
            }
            match self.numbers.len() as u64 > count {
                true => Ok(()),
                false => Err(format!("{} lines", self.numbers.len())),
            }
        });
        come.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
