//! Times of a measurement: on the clock, and on the processors, which tells
//! more where others use the machine, too.

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use std::time::{Duration, Instant};

/// Times each is taken; the median is told.
pub(crate) const ROUNDS: usize = 5;

/// Runs it so often, and tells its times.
pub(crate) fn measure(what: &str, run: impl Fn()) {
    let mut clock = Vec::new();
    let mut processors = Vec::new();
    for _ in 0..ROUNDS {
        let (start, before) = (Instant::now(), used());
        run();
        clock.push(start.elapsed());
        processors.push(used() - before);
    }
    println!(
        "{what}: {} of processors, {} on the clock",
        told(processors),
        told(clock)
    );
}

/// Processor time of this process and of its children that have ended.
fn used() -> Duration {
    let of = |who| {
        let usage = getrusage(who).expect("our own usage");
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    };
    let all = of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN);
    Duration::from_micros(all as u64)
}

fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    format!(
        "{:.1} ms ({:.1} to {:.1})",
        ms(times[ROUNDS / 2]),
        ms(times[0]),
        ms(times[ROUNDS - 1])
    )
}
