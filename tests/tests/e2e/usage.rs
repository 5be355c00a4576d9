//! What a task uses, as `potluck usage` tells it.

use potluck_testnet::{client::Client, wait::until};
use potluck_tests::{
    fleet::{Fleet, WAIT},
    status::pids,
};
use serde_json::Value;

/// What the task holds in memory, in a file of its own `/tmp`.
const HELD_BYTES: u64 = 40 << 20;

/// What the shell and its loop may need beside that.
const SPARE_BYTES: u64 = 24 << 20;

/// The task is never idle and may use a tenth of a core.
const QUOTA_MILLIS: u64 = 100;

/// How much more than its quota a short sample may show: the kernel gives it
/// out each tenth of a second, and counts by ticks.
const QUOTA_SLACK_MILLIS: u64 = 60;

fn usage(client: &Client) -> Result<Value, String> {
    let said = client.json(&["usage", "busy"]);
    let mut tasks = said.map_err(|error| error.to_string())?;
    let first = tasks.as_array_mut().and_then(Vec::pop);
    first
        .map(|mut task| task["usage"].take())
        .ok_or("no figures".into())
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// Values in a histogram.
fn count(histogram: &Value) -> u64 {
    let buckets = histogram["buckets"].as_object().expect("buckets");
    buckets.values().map(number).sum()
}

/// Waits until the last sample shows what the task is known to use.
fn await_known(client: &Client, later_than: u64) -> Value {
    let known = until("the usage of a known task", WAIT, || {
        let usage = usage(client)?;
        let now = &usage["now"];
        let memory = now["memory_bytes"].as_u64().unwrap_or(0);
        let cpu = now["cpu_millis"].as_u64().unwrap_or(0);
        let memory_fits = (HELD_BYTES..HELD_BYTES + SPARE_BYTES).contains(&memory);
        let cpu_fits = (1..=QUOTA_MILLIS + QUOTA_SLACK_MILLIS).contains(&cpu);
        match memory_fits && cpu_fits && number(&usage["at"]) > later_than {
            true => Ok(usage),
            false => Err(usage.to_string()),
        }
    });
    known.unwrap()
}

#[test]
fn a_known_use_is_told_and_outlives_the_agent() {
    let fleet = Fleet::found(1, 1);
    let client = fleet.client("r1h1");
    let spec = fleet.spec(
        "busy",
        &format!(
            "job(name = \"busy\", package = \"potluck-hello\", command = \"/bin/sh\",\n\
             args = [\"-c\", \"head -c {HELD_BYTES} /dev/zero > /tmp/held; while :; do :; done\"],\n\
             cpu = 0.05, memory = \"128MiB\", limits = limits(cpu = 0.1))\n"
        ),
    );
    fleet.run("r1h1", &spec);
    let info = client.json(&["info"]).unwrap();
    let warnings = info["warnings"].as_array().cloned().unwrap_or_default();
    let mut warnings = warnings.iter().filter_map(Value::as_str);
    let missing = |why: &str| why.starts_with("memory:") || why.starts_with("cpu:");
    if let Some(why) = warnings.find(|why| missing(why)) {
        return super::exec::skip("usage", &format!("this host can't measure: {why}"));
    }
    let before = await_known(&client, 0);
    let processes = pids(&fleet, &["r1h1"]);
    fleet.kill_agent("r1h1").unwrap();
    fleet.start("r1h1").unwrap();
    fleet.await_answer("r1h1").unwrap();
    let after = await_known(&client, number(&before["at"]));
    assert_eq!(pids(&fleet, &["r1h1"]), processes, "the task is the same");
    // Killed, it may have forgotten the last half minute; a stop forgets
    // nothing.
    fleet.stop_agent("r1h1").unwrap();
    fleet.start("r1h1").unwrap();
    fleet.await_answer("r1h1").unwrap();
    let last = await_known(&client, number(&after["at"]));
    assert_eq!(last["since"], after["since"]);
    assert!(
        count(&last["cpu_millis"]) > count(&after["cpu_millis"]),
        "{last}"
    );
    let peak = |usage: &Value| number(&usage["memory_peak_bytes"]);
    assert!(peak(&last) >= HELD_BYTES, "{last}");
    let table = client.text(&["usage", "busy"]).unwrap();
    assert!(
        table.contains("busy[0]") && table.contains("r1h1"),
        "{table}"
    );
}
