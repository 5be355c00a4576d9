//! Logs: followed from another node over whatever happens to the task and its
//! node, selected, and merged.

use potluck_testnet::{client::Client, demo::get, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT, exit_code, failure},
    status::{Task, await_healthy},
};
use std::{
    fs::Permissions,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Child,
    sync::mpsc::{Receiver, channel},
    time::{Duration, UNIX_EPOCH},
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
    let mut follower = Follower::start(&fleet, &leader, &[&task.slot]);
    ask(task);
    follower.await_lines(REQUESTS);
    fleet.kill_agent(&task.node).unwrap();
    ask(task);
    fleet.start(&task.node).unwrap();
    ask(task);
    follower.await_lines(3 * REQUESTS);
}

/// Waits until the node's agent reads a log for somebody: its helper writes it,
/// the agent opens it to read only.
fn await_reader(fleet: &Fleet, node: &str) {
    let agent = fleet.processes(node).agent.expect("it runs");
    let reads = || {
        let open = std::fs::read_dir(format!("/proc/{agent}/fd")).into_iter();
        let mut links = open
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok());
        match links.any(|path| path.to_string_lossy().ends_with(".log.zst")) {
            true => Ok(()),
            false => Err("no log is open".to_owned()),
        }
    };
    until("somebody reads the log", WAIT, reads).unwrap();
}

#[test]
fn a_follower_that_was_shown_nothing_yet_loses_nothing() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("steady", 3));
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let tasks = await_healthy(&fleet.client(&leader), "steady", &[]);
    let task = tasks.iter().find(|task| task.node != leader).unwrap();
    ask(task);
    let wanted = "^(11[0-9]|12[0-9]) ";
    let args = ["--tail", "0", "--grep", wanted, &task.slot];
    let mut follower = Follower::start(&fleet, &leader, &args);
    follower.last = 109;
    await_reader(&fleet, &task.node);
    // The connection breaks before a line that matches, which come while there
    // is none; what comes behind them does not match.
    fleet.kill_agent(&task.node).unwrap();
    ask(task);
    ask(task);
    ask(task);
    fleet.start(&task.node).unwrap();
    follower.await_lines(128);
    assert_eq!(follower.last, 129);
}

#[test]
fn a_follower_goes_on_over_the_death_of_the_asked_node() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("steady", 3));
    fleet.voters(3, &[]);
    let client = fleet.client("r1h1");
    let tasks = await_healthy(&client, "steady", &[]);
    let task = tasks.iter().find(|task| task.node != "r1h1").unwrap();
    let mut follower = Follower::start(&fleet, "r1h1", &[&task.slot]);
    ask(task);
    follower.await_lines(REQUESTS);
    fleet.kill_agent("r1h1").unwrap();
    ask(task);
    fleet.start("r1h1").unwrap();
    ask(task);
    follower.await_lines(3 * REQUESTS);
}

#[test]
fn a_follower_goes_on_where_a_lost_host_s_task_begins_again() {
    let fleet = Fleet::up(4, 4);
    let asker = "r1h1";
    let client = fleet.client(asker);
    // The host that dies is not to be the one that is asked.
    client.json(&["cordon", asker]).unwrap();
    fleet.run(asker, &fleet.hello("steady", 1));
    fleet.voters(3, &[]);
    let tasks = await_healthy(&client, "steady", &[asker]);
    let task = &tasks[0];
    ask(task);
    // One sees only what is new, and of that the first line of a task: the next
    // task's log is new from there on. The other sees all.
    let first = ["--tail", "0", "--grep", " listens on ", &task.slot];
    let mut new = Follower::start(&fleet, asker, &first);
    await_reader(&fleet, &task.node);
    let mut all = Follower::start(&fleet, asker, &[&task.slot]);
    all.await_lines(REQUESTS);
    fleet.kill(&task.node).unwrap();
    let moved = await_healthy(&client, "steady", &[&task.node]);
    ask(&moved[0]);
    // Health checks are lines, too.
    let last = all.await_restart();
    assert!(last > REQUESTS, "what was told before: {last}");
    all.await_lines(REQUESTS);
    new.await_lines(0);
}

#[test]
fn a_followed_job_shows_tasks_that_come_later_and_ends_with_it() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("web", 1));
    let client = fleet.client("r2h1");
    let first = await_healthy(&client, "web", &[]);
    let mut follower = client.start(&["logs", "-f", "--tail", "0", "web"]).unwrap();
    let output = follower.stdout.take().unwrap();
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    await_reader(&fleet, &first[0].node);
    fleet.run("r1h1", &fleet.hello("web", 2));
    let tasks = await_healthy(&client, "web", &[]);
    let later = tasks
        .iter()
        .find(|task| task.slot.ends_with("[1]"))
        .unwrap();
    ask(later);
    let mut seen = 0;
    let come = until("lines of the later task", WAIT, || {
        seen += lines
            .try_iter()
            .filter(|line| line.starts_with("web[1]"))
            .count() as u64;
        match seen {
            // One says that it listens, others tell of health checks.
            seen if seen > REQUESTS => Ok(()),
            seen => Err(format!("{seen} lines")),
        }
    });
    // Before the follower may wait for an end that does not come.
    let stopped = client.json(&["stop", "web"]);
    let code = exit_code(follower);
    come.unwrap();
    stopped.unwrap();
    assert_eq!(code, 0, "it ends with its job");
    // What is kept of it can still be read by the job's name.
    let kept = client.text(&["logs", "web"]).unwrap();
    let of_later = kept.lines().filter(|line| line.starts_with("web[1]"));
    assert!(of_later.count() as u64 > REQUESTS, "{kept}");
}

/// Lines that a task of [`NUMBERS`] writes as fast as it can: more than one
/// segment of a log takes.
const BURST: u64 = 450_000;

/// Writes numbered lines: many at once, then some each second until it is told
/// to end, and one last.
const NUMBERS: &str = r#"#!/bin/sh
# What the shell says of its killed sleep is none of the numbers.
exec 2>/dev/null
trap 'echo $((i + 1)) last; exit 0' TERM
awk 'BEGIN { srand(7); while (n < 450000) {
    printf "%d %09d%09d%09d%09d%09d%09d%09d%09d%09d\n", ++n, rand() * 1e9, rand() * 1e9,
        rand() * 1e9, rand() * 1e9, rand() * 1e9, rand() * 1e9, rand() * 1e9,
        rand() * 1e9, rand() * 1e9 } }'
i=450000
while :; do
    i=$((i + 1))
    echo "$i slow"
    sleep 0.02
done
"#;

fn numbers(fleet: &Fleet) -> String {
    let spec = fleet.spec(
        "numbers",
        "job(name = \"numbers\", package = \"numbers.sh\", command = \"numbers.sh\",\n\
         cpu = 0.05, memory = \"64MiB\")\n",
    );
    let script = Path::new(&spec).with_file_name("numbers.sh");
    std::fs::write(&script, NUMBERS).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    spec
}

/// Where the one task of a job runs.
fn node_of(client: &Client, job: &str) -> String {
    let jobs = client.json(&["status", job]).unwrap();
    let node = jobs[0]["tasks"][0]["node"].as_str();
    node.unwrap_or_else(|| panic!("{jobs}")).to_owned()
}

#[test]
fn no_line_is_lost_or_told_twice() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &numbers(&fleet));
    fleet.voters(3, &[]);
    let leader = fleet.leader().unwrap();
    let client = fleet.client(&leader);
    let node = node_of(&client, "numbers");
    let asker = fleet.other(&[&node]);
    let mut follower = Follower::start(&fleet, &asker, &["numbers[0]"]);
    // In the burst, over the rotation of the log, the agent dies.
    follower.await_lines(1_000);
    fleet.kill_agent(&node).unwrap();
    fleet.start(&node).unwrap();
    follower.await_lines(BURST + 50);
    let segments = fleet.segments(&node);
    assert!(segments > 1, "the log was not rotated: {segments}");

    // Then the task moves.
    fleet.await_up(&node);
    client.json(&["drain", &node]).unwrap();
    let told = follower.await_restart();
    let last = client.text(&["logs", "--previous", "--tail", "1", "numbers[0]"]);
    assert_eq!(last.unwrap(), format!("{told} last\n"));
    assert_ne!(node_of(&client, "numbers"), node);
    follower.await_lines(1_000);
}

#[test]
fn logs_are_merged_and_selected() {
    let fleet = Fleet::up(3, 3);
    fleet.run("r1h1", &fleet.hello("web", 3));
    let client = fleet.client("r2h1");
    let tasks = await_healthy(&client, "web", &[]);
    for round in 0..20 {
        let task = &tasks[round % 3];
        get(task.address, &format!("/?round-{round}")).unwrap();
    }
    let rounds = |args: &[&str]| -> Vec<serde_json::Value> {
        let args = [&["logs", "-o", "json", "--grep", "round-[0-9]+"], args].concat();
        let text = client.text(&args).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    };
    let all = until("all lines", WAIT, || match rounds(&["web"]) {
        all if all.len() == 20 => Ok(all),
        all => Err(format!("{} lines", all.len())),
    });
    let all = all.unwrap();
    let times: Vec<u64> = all.iter().filter_map(|line| line["at"].as_u64()).collect();
    assert!(times.is_sorted() && times.len() == 20, "{times:?}");
    for task in &tasks {
        let of_it = all.iter().filter(|line| line["task"] == task.slot.as_str());
        assert!(of_it.count() >= 6, "{all:?}");
    }
    assert_eq!(rounds(&["--tail", "2", "web"]).len(), 6);
    let one = [tasks[0].slot.as_str()];
    assert_eq!(rounds(&one).len(), 7);

    let middle = times[10];
    let (since, until) = (rfc3339(middle), rfc3339(middle - 1));
    let later = times.iter().filter(|at| **at >= middle).count();
    assert_eq!(rounds(&["--since", &since, "web"]).len(), later);
    assert_eq!(rounds(&["--until", &until, "web"]).len(), 20 - later);
    assert!(rounds(&["--since", "0s", "web"]).is_empty());

    // Each line says whose it is, if there can be several.
    let named = client.text(&["logs", "--tail", "1", "web"]).unwrap();
    assert!(named.lines().all(|line| line.contains("] | ")), "{named}");
    for (args, code, words) in [
        (&["logs", "--grep", "(", "web"][..], 2, "--grep"),
        (&["logs", "--tail", "20000", "web"], 2, "--tail 20000"),
        (&["logs", "nothing"], 3, "nothing"),
        (&["logs", "web[7]"], 3, "web[7]"),
        (
            &["logs", "--previous", "web[0]"],
            3,
            "before its present one",
        ),
        (&["logs", "--since", "soon", "web"], 2, "how long ago"),
    ] {
        let failed = failure(&client, args);
        assert_eq!(failed.code, Some(code), "{failed}");
        assert!(failed.to_string().contains(words), "{failed}");
    }

    // What a stopped task said can still be read.
    client.json(&["stop", "web"]).unwrap();
    assert_eq!(rounds(&one).len(), 7);
    assert_eq!(rounds(&["web"]).len(), 20);
}

/// A line longer than a log's lines may be, and one that is no text.
const LONG: &str = r#"#!/bin/sh
head -c 150000 /dev/zero | tr '\0' x
echo
printf 'a\377b\n'
exec sleep 100000
"#;

#[test]
fn long_lines_are_one_and_bytes_are_not_lost() {
    let fleet = Fleet::up(1, 1);
    let spec = fleet.spec(
        "long",
        "job(name = \"long\", package = \"long.sh\", command = \"long.sh\",\n\
         cpu = 0.05, memory = \"64MiB\")\n",
    );
    let script = Path::new(&spec).with_file_name("long.sh");
    std::fs::write(&script, LONG).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fleet.run("r1h1", &spec);
    let client = fleet.client("r1h1");
    let lines = || -> Vec<serde_json::Value> {
        let text = client.text(&["logs", "-o", "json", "long[0]"]).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    };
    let all = until("all lines", WAIT, || match lines() {
        all if all.len() == 4 => Ok(all),
        all => Err(format!("{} lines", all.len())),
    });
    let all = all.unwrap();
    let partial: Vec<_> = all.iter().map(|line| &line["partial"]).collect();
    assert_eq!(partial, [true, true, false, false]);
    assert_eq!(all[3]["base64"], "Yf9i");
    assert!(all[0].get("base64").is_none());
    let text = client.text(&["logs", "long[0]"]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "the long one is one");
    assert_eq!(lines[0].len(), 150_000);
    // A job with one task needs no index, an empty command is a bad request.
    let said = client.text(&["exec", "long", "--", "echo", "hello"]);
    assert_eq!(said.unwrap(), "hello\n");
    let failed = failure(&client, &["exec", "long", "--", ""]);
    assert_eq!(failed.code, Some(2), "{failed}");
    let failed = failure(&client, &["ssh", "long"]);
    assert!(failed.to_string().contains("long[0]"), "{failed}");
}

fn rfc3339(ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(ms);
    humantime::format_rfc3339_millis(at).to_string()
}

/// `potluck logs -f`, ended with the test.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    /// The last number.
    last: u64,
}

impl Follower {
    fn start(fleet: &Fleet, asker: &str, args: &[&str]) -> Follower {
        let args = [&["logs", "-f"], args].concat();
        let mut child = fleet.client(asker).start(&args).unwrap();
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
            last: 0,
        }
    }

    /// Waits for more than `count` lines, numbered from 1 on without a gap.
    fn await_lines(&mut self, count: u64) {
        let come = until("lines of a followed log", WAIT, || {
            for line in self.lines.try_iter() {
                let number = number(&line);
                assert_eq!(number, self.last + 1, "{line:?}");
                self.last = number;
            }
            match self.last > count {
                true => Ok(()),
                false => Err(format!("{} lines", self.last)),
            }
        });
        come.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Waits until the numbers begin again, and says which was the last before.
    fn await_restart(&mut self) -> u64 {
        let come = until("the task's first line elsewhere", WAIT, || {
            for line in self.lines.try_iter() {
                let number = number(&line);
                let last = std::mem::replace(&mut self.last, number);
                if number == 1 {
                    return Ok(last);
                }
                assert_eq!(number, last + 1, "{line:?}");
            }
            Err(format!("still at {}", self.last))
        });
        come.unwrap_or_else(|error| panic!("{error}"))
    }
}

fn number(line: &str) -> u64 {
    let number = line.split(' ').next().and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no number in {line:?}"))
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
