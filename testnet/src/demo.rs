//! The main job, shown end to end with a line on each step: what `make demo`
//! runs. It fails if any step does.

use crate::{
    client::Client,
    net::{RunningTestnet, Testnet, TestnetOptions},
    wait::{end_waits_on_interrupt, until},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long any one step may take on a slow machine.
const STEP_WAIT: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Runs the demo in a folder of its own under the system's temporary folder.
///
/// # Errors
/// The step that failed.
pub fn run() -> Outcome<()> {
    let started = Instant::now();
    end_waits_on_interrupt();
    let root = std::env::temp_dir().join(format!("potluck-demo-{}", std::process::id()));
    say(
        1,
        "six nodes in three racks on 127.80.rack.host, joined through one address and a token",
    );
    let options = TestnetOptions {
        block: 80,
        ..TestnetOptions::new(&root)
    };
    let spec = spec()?;
    let running = RunningTestnet::up(&options)?;
    let net: &Testnet = &running;
    let leader = net.leader()?;
    told(&format!(
        "up after {}; {leader} is the scheduler",
        seconds(started)
    ));
    let submitter = other_than(net, &[&leader])?;
    submit(net, &submitter, &leader, &spec)?;
    let tasks = show_tasks(net, &submitter)?;
    show_isolation(net, &tasks[0].node)?;
    show_bytes(net, &tasks)?;
    show_service(net, &tasks)?;
    follow_logs(net, &tasks)?;
    kill_host(net, &leader)?;
    kill_scheduler(net, &spec)?;
    say(7, "everything is stopped");
    let folder = net.root().to_path_buf();
    let data: Vec<PathBuf> = net.names().iter().map(|name| net.data(name)).collect();
    drop(running);
    nothing_left(&folder, &data)?;
    println!("\nall of it took {}", seconds(started));
    Ok(())
}

fn say(step: u32, text: &str) {
    println!("\n{step}. {text}");
}

fn told(text: &str) {
    println!("   {text}");
    let _ = std::io::stdout().flush();
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// The example spec, found from the programs' folder up.
fn spec() -> Outcome<PathBuf> {
    let exe = std::env::current_exe()?;
    let found = exe
        .ancestors()
        .map(|folder| folder.join("specs/examples/hello.star"))
        .find(|path| path.exists());
    found.ok_or_else(|| "specs/examples/hello.star is not above this program".into())
}

/// What can't be had is known once a task has been started.
fn show_isolation(net: &Testnet, node: &str) -> Outcome<()> {
    let info = net.client(node).json(&["info"])?;
    let warnings = info["warnings"].as_array().cloned().unwrap_or_default();
    for warning in warnings {
        told(&format!(
            "this host can't isolate everything: {}",
            warning.as_str().unwrap_or("")
        ));
    }
    Ok(())
}

fn other_than(net: &Testnet, not: &[&str]) -> Outcome<String> {
    let names = net.names();
    let found = names
        .into_iter()
        .find(|name| !not.contains(&name.as_str()) && net.processes(name).agent.is_some());
    found.ok_or_else(|| "no other node runs".into())
}

fn submit(net: &Testnet, submitter: &str, leader: &str, spec: &Path) -> Outcome<()> {
    say(
        2,
        &format!("a job is submitted to {submitter}, which is not the scheduler ({leader})"),
    );
    let start = Instant::now();
    let spec = spec.to_string_lossy();
    let done = net
        .client(submitter)
        .json(&["run", &spec, "--replicas", "5"])?;
    let accepted = &done["accepted"][0];
    told(&format!(
        "accepted as version {}: its package {} is on {}",
        accepted["version"],
        short(&accepted["package"]),
        list(&accepted["holders"]),
    ));
    told(&format!(
        "submitted, packed, fetched, started and healthy in {}",
        seconds(start)
    ));
    Ok(())
}

fn short(value: &Value) -> String {
    let bytes = value.as_array().cloned().unwrap_or_default();
    match value.as_str() {
        Some(text) => text.chars().take(16).collect(),
        None => bytes
            .iter()
            .take(8)
            .map(|b| format!("{:02x}", b.as_u64().unwrap_or(0)))
            .collect(),
    }
}

fn list(value: &Value) -> String {
    let items = value.as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// One running task as `potluck status` shows it.
#[derive(Clone, Debug)]
struct Task {
    slot: String,
    node: String,
    rack: String,
    address: SocketAddr,
}

fn tasks_of(client: &Client) -> Outcome<Vec<Task>> {
    let jobs = client.json(&["status", "hello"])?;
    let tasks = jobs[0]["tasks"].as_array().cloned().unwrap_or_default();
    tasks.iter().map(task).collect()
}

fn task(task: &Value) -> Outcome<Task> {
    let text = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
    if task["healthy"] != Value::Bool(true) {
        return Err(format!("{} is not healthy", slot(&task["slot"])).into());
    }
    let address = task["ports"]["http"]
        .as_str()
        .ok_or("a task without its port")?;
    Ok(Task {
        slot: slot(&task["slot"]),
        node: text("node"),
        rack: text("rack"),
        address: address.parse()?,
    })
}

fn slot(value: &Value) -> String {
    format!(
        "{}[{}]",
        value["job"]["name"].as_str().unwrap_or("?"),
        value["index"]
    )
}

fn show_tasks(net: &Testnet, submitter: &str) -> Outcome<Vec<Task>> {
    say(3, "all replicas run, spread over the racks");
    let tasks = tasks_of(&net.client(submitter))?;
    let mut racks: BTreeMap<&str, u32> = BTreeMap::new();
    for task in &tasks {
        *racks.entry(&task.rack).or_default() += 1;
        told(&format!(
            "{} on {} in rack {} at {}",
            task.slot, task.node, task.rack, task.address
        ));
    }
    let (least, most) = (racks.values().min(), racks.values().max());
    if racks.len() != 3 || most.zip(least).is_none_or(|(most, least)| most - least > 1) {
        return Err(format!("the replicas are not spread over three racks: {racks:?}").into());
    }
    Ok(tasks)
}

fn show_bytes(net: &Testnet, tasks: &[Task]) -> Outcome<()> {
    told("bytes of the package by the peers they came from:");
    let nodes: BTreeSet<&str> = tasks.iter().map(|task| task.node.as_str()).collect();
    let mut fetched = false;
    for node in nodes {
        let packages = net.client(node).json(&["packages"])?;
        let sources = packages[0]["bytes_by_source"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        fetched |= !sources.is_empty();
        let parts: Vec<String> = sources
            .iter()
            .map(|(from, n)| format!("{n} from {from}"))
            .collect();
        let text = if parts.is_empty() {
            "uploaded to it".into()
        } else {
            parts.join(", ")
        };
        told(&format!("  {node}: {text}"));
    }
    if fetched {
        Ok(())
    } else {
        Err("no node has fetched anything from a peer".into())
    }
}

/// A node that runs no task of the job.
fn bystander(net: &Testnet, tasks: &[Task]) -> Outcome<String> {
    let busy: Vec<&str> = tasks.iter().map(|task| task.node.as_str()).collect();
    other_than(net, &busy)
}

fn show_service(net: &Testnet, tasks: &[Task]) -> Outcome<()> {
    let asker = bystander(net, tasks)?;
    let wanted: BTreeSet<SocketAddr> = tasks.iter().map(|task| task.address).collect();
    let resolved = until("the service in the DHT", STEP_WAIT, || {
        let (addresses, source) = resolve(&net.client(&asker))?;
        if addresses == wanted {
            Ok(source)
        } else {
            Err(format!("{addresses:?}"))
        }
    })?;
    told(&format!(
        "{asker}, which runs none of them, finds service hello by the {resolved}: {} endpoints",
        wanted.len()
    ));
    for address in wanted {
        let answer = get(address, "/").map_err(|error| format!("{address}: {error}"))?;
        told(&format!(
            "GET http://{address}/ answers: {}",
            answer.lines().last().unwrap_or("")
        ));
    }
    Ok(())
}

fn resolve(client: &Client) -> Result<(BTreeSet<SocketAddr>, String), String> {
    let resolved = client
        .json(&["resolve", "--fresh", "hello"])
        .map_err(|error| error.to_string())?;
    let endpoints = resolved["endpoints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let address = |endpoint: &Value| endpoint["address"].as_str()?.parse().ok();
    let source = resolved["source"].as_str().unwrap_or("?").to_owned();
    Ok((endpoints.iter().filter_map(address).collect(), source))
}

/// A GET over a connection of its own.
///
/// # Errors
/// No connection, or no answer of 200.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other(format!("answered {head:?}"))),
    }
}

fn follow_logs(net: &Testnet, tasks: &[Task]) -> Outcome<()> {
    let task = &tasks[0];
    let asker = other_than(net, &[&task.node])?;
    say(
        4,
        &format!(
            "the log of {} on {} is followed from {asker}",
            task.slot, task.node
        ),
    );
    let mut follower = net.client(&asker).start(&["logs", "-f", &task.slot])?;
    let output = follower.stdout.take().ok_or("no output")?;
    let (lines, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let mark = format!("/mark-{}", std::process::id());
    let outcome = until("the request's line in the followed log", STEP_WAIT, || {
        // Any path is logged, also one that is not found.
        let _ = get(task.address, &mark);
        match seen.try_iter().find(|line| line.contains(&mark)) {
            Some(line) => Ok(line),
            None => Err("other lines only".to_owned()),
        }
    });
    let _ = follower.kill();
    let _ = follower.wait();
    drop(seen);
    let _ = reader.join();
    told(&format!("a request to the task shows up: {}", outcome?));
    Ok(())
}

fn kill_host(net: &Testnet, leader: &str) -> Outcome<()> {
    let tasks = tasks_of(&net.client(leader))?;
    let victim = tasks
        .iter()
        .find(|task| task.node != leader)
        .ok_or("every task is on the scheduler's host")?;
    let lost: BTreeSet<SocketAddr> = tasks
        .iter()
        .filter(|task| task.node == victim.node)
        .map(|task| task.address)
        .collect();
    say(
        5,
        &format!("host {} dies with its {} task(s)", victim.node, lost.len()),
    );
    let start = Instant::now();
    net.kill(&victim.node)?;
    let client = net.client(leader);
    until("the replacement of the lost tasks", STEP_WAIT, || {
        let now = tasks_of(&client).map_err(|error| error.to_string())?;
        let replaced = now.iter().all(|task| task.node != victim.node);
        if replaced && now.len() == tasks.len() {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })?;
    told(&format!(
        "all replicas are healthy again after {}",
        seconds(start)
    ));
    until("the endpoints without the dead host", STEP_WAIT, || {
        let (addresses, _) = resolve(&client)?;
        let fresh = addresses.is_disjoint(&lost) && addresses.len() == tasks.len();
        if fresh {
            Ok(())
        } else {
            Err(format!("{addresses:?}"))
        }
    })?;
    told(&format!(
        "the service's endpoints are right after {}",
        seconds(start)
    ));
    Ok(())
}

/// The host that died may have been a voter. Until another has taken its
/// place, the scheduler's death would be the loss of a majority.
fn await_living_voters(net: &Testnet) -> Outcome<()> {
    let voters = until("three living voters", STEP_WAIT, || {
        let client = net.any_client().map_err(|error| error.to_string())?;
        let info = client.json(&["info"]).map_err(|error| error.to_string())?;
        let voters = list(&info["voters"]);
        let names: Vec<&str> = voters.split(", ").collect();
        let alive = names.iter().all(|name| net.processes(name).agent.is_some());
        if names.len() == 3 && alive {
            Ok(voters)
        } else {
            Err(voters)
        }
    })?;
    told(&format!("the voters are {voters}, all alive"));
    Ok(())
}

fn kill_scheduler(net: &Testnet, spec: &Path) -> Outcome<()> {
    await_living_voters(net)?;
    let leader = net.leader()?;
    say(6, &format!("the scheduler's host {leader} dies"));
    let start = Instant::now();
    net.kill(&leader)?;
    let asker = other_than(net, &[])?;
    let client = net.client(&asker);
    let worker = spec.with_file_name("worker.star");
    let worker = worker.to_string_lossy();
    let done = client.json(&["run", &worker])?;
    told(&format!(
        "{} leads; {asker} had a further job accepted and healthy after {} (version {})",
        net.leader()?,
        seconds(start),
        done["accepted"][0]["version"],
    ));
    until("the service whole again", STEP_WAIT, || {
        let now = tasks_of(&client).map_err(|error| error.to_string())?;
        let alive = now
            .iter()
            .all(|task| net.processes(&task.node).agent.is_some());
        if alive {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })?;
    told(&format!(
        "the first job's tasks from that host run elsewhere after {}",
        seconds(start)
    ));
    Ok(())
}

fn nothing_left(root: &Path, data: &[PathBuf]) -> Outcome<()> {
    for folder in data {
        let left = crate::net::host_processes(folder).all();
        if !left.is_empty() {
            return Err(format!("processes {left:?} of {} go on", folder.display()).into());
        }
    }
    if root.exists() {
        return Err(format!("{} is still there", root.display()).into());
    }
    told("no process, no control group and no file is left behind");
    Ok(())
}
