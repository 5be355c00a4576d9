//! How hard this host works, for the price of placing a task here.
//!
//! One actor: looks every few seconds, and tells the agent when it changed by a
//! step. Where the kernel counts pressure, it is the worst share of time in
//! which something waited; else what the load says of processors. It waits for
//! nothing but time and its token.

use super::actor::Command;
use crate::spawn::spawn;
use std::{fs, time::Duration};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::interval,
};
use tokio_util::sync::CancellationToken;

/// Between two looks: half of the time that the kernel's shortest average
/// covers.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Steps in which it is told: a price that wavers would move tasks about.
const STEP: u8 = 10;

/// Where the kernel counts pressure, if it does.
const KINDS: [&str; 3] = ["cpu", "memory", "io"];

/// Begins to look, until the token is cancelled.
pub(super) fn watch(commands: mpsc::Sender<Command>, token: CancellationToken) -> JoinHandle<()> {
    spawn("pressure sampler", async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = 0;
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let look = spawn_blocking(look).await;
            let now = look.expect("a look does not panic");
            if now != told {
                told = now;
                if commands.send(Command::SetPressure(now)).await.is_err() {
                    return;
                }
            }
        }
    })
}

/// In hundredths, in steps; 0 where nothing can be read.
fn look() -> u8 {
    let read = |kind: &str| fs::read_to_string(format!("/proc/pressure/{kind}")).ok();
    let kinds = KINDS.iter().filter_map(|kind| waited(&read(kind)?));
    let load = || {
        let text = fs::read_to_string("/proc/loadavg").ok()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        of_load(&text, cores as u64)
    };
    let found = kinds.max().or_else(load).unwrap_or(0);
    found.min(100) / STEP * STEP
}

/// The share of the last ten seconds in which something waited, in hundredths:
/// `some avg10=12.34 avg60=…`.
fn waited(text: &str) -> Option<u8> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let average = some
        .split(' ')
        .find_map(|word| word.strip_prefix("avg10="))?;
    average.split('.').next()?.parse().ok()
}

/// The share of what wants to run that had to wait in the last minute, in
/// hundredths: with a load of three on one core two of three.
fn of_load(text: &str, cores: u64) -> Option<u8> {
    let (whole, rest) = text.split(' ').next()?.split_once('.')?;
    let load = whole.parse::<u64>().ok()?.checked_mul(100)? + rest.parse::<u64>().ok()?;
    let waits = load.saturating_sub(cores.checked_mul(100)?);
    Some(waits.checked_mul(100)?.checked_div(load).unwrap_or(0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_and_load_are_read() {
        let pressure = "some avg10=37.91 avg60=1.00 avg300=0.00 total=1\n\
                        full avg10=90.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(waited(pressure), Some(37));
        assert_eq!(waited("full avg10=1.00"), None);
        assert_eq!(waited(""), None);
        for (load, cores, expected) in [
            ("0.00", 2, Some(0)),
            ("2.00", 2, Some(0)),
            ("4.00", 2, Some(50)),
            ("3.00", 1, Some(66)),
            ("20.00", 1, Some(95)),
            ("many", 1, None),
        ] {
            let text = format!("{load} 1.00 1.00 3/300 77\n");
            assert_eq!(of_load(&text, cores), expected, "{load}");
        }
        assert!(look() <= 100 && look() % STEP == 0);
    }
}
