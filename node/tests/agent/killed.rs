//! An agent killed at each step of its task's start and stop: whatever was
//! begun, the next one finds it or ends it, and what it tells is so.
//!
//! A step is a system call by which the agent changes or hears the world
//! outside, between its first award and forgetting the task; one whole life is
//! watched for them first. There are more of them than CI has time for: one in
//! [`STRIDE`] is tried, so that all kinds are met. `POTLUCK_EVERY_STEP=1`
//! tries all of them.

#[path = "../../helper/tests/support/tracer.rs"]
mod tracer;

use super::{apart::*, *};
use std::{sync::Mutex, thread};
use tracer::{Aim, Outcome, Whose};

/// Steps from one that is tried to the next; no divisor of how often the steps
/// of one kind come.
const STRIDE: usize = 7;

const EVERY_STEP: &str = "POTLUCK_EVERY_STEP";

/// Lives that are cut short side by side: the next agent often waits five
/// seconds for helpers that are not there, and works for a tenth of one.
const AT_ONCE: usize = 12;

/// One agent's life from its first award on, to the end or to the kill.
fn live(ground: &Ground, aim: Option<&Aim>) -> Outcome {
    let words = ground.words();
    let mut command = ground.command(FAR);
    tracer::run(&mut command, Whose::Program, Some(BEGUN), &words, aim)
}

/// The next agent, on what a killed one left.
async fn judge(ground: Ground, aim: &Aim) {
    let said = |text| ground.has_said(text);
    let (awarded, ordered) = (said(AWARDED), said(ORDERED));
    let (stopped, forgotten) = (said(STOPPED), said(FORGOTTEN));
    let node = ground.next().await;
    let settled = |report: Option<&SlotReport>| {
        report.is_none_or(|report| report.state == TaskState::Stopped || is_running(report))
    };
    let report = until_state(&node.agent, settled).await;
    match &report {
        // Answers are durable. Of a slot that is stopped the journal keeps
        // nothing: that it is not there says so.
        None => assert!(!awarded || ordered, "{aim:?}: an award is forgotten"),
        Some(report) if report.state == TaskState::Stopped => {
            assert!(awarded, "{aim:?}: stopped without an order");
        }
        Some(report) => {
            assert!(!ordered && !stopped, "{aim:?}: runs in spite of a stop");
            assert_eq!(node.helpers().len(), 1, "{aim:?}: {report:?}");
        }
    }
    assert!(!forgotten || report.is_none(), "{aim:?}: {report:?}");
    if !report.as_ref().is_some_and(is_running) {
        node.assert_nothing_left().await;
    }
    node.assert_nothing_leaks();
    node.end().await;
}

/// A life cut short at a step, and what the next agent made of it. False: it
/// never came to that step.
fn cut_short(aim: &Aim) -> bool {
    let ground = Ground::new();
    let outcome = live(&ground, Some(aim));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(judge(ground, aim));
    outcome.hit
}

/// Runs every step's life, several at once; those that were never reached.
fn cut_all(aims: &[Aim]) -> Vec<&Aim> {
    let (next, missed) = (Mutex::new(aims.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(aim) = next.lock().expect("no one panics with it").next() else {
                        return;
                    };
                    if !cut_short(aim) {
                        missed.lock().expect("no one panics with it").push(aim);
                    }
                }
            });
        }
    });
    missed.into_inner().expect("no one panics with it")
}

#[test]
fn an_agent_killed_at_any_step_is_followed_by_one_that_tells_the_truth() {
    let whole = Ground::new();
    let outcome = live(&whole, None);
    assert!(whole.has_said(FORGOTTEN), "{}", whole.said());
    let all: Vec<Aim> = outcome.steps.into_iter().filter(matters).collect();
    assert!(all.len() > 40, "only {all:?}");
    let stride = match std::env::var_os(EVERY_STEP) {
        Some(_) => 1,
        None => STRIDE,
    };
    let aims: Vec<Aim> = all.iter().step_by(stride).cloned().collect();
    let missed = cut_all(&aims);
    println!("missed {missed:?}");
    println!(
        "killed at {} of {} steps, of which one in {stride} was tried ({EVERY_STEP}=1: all)",
        aims.len() - missed.len(),
        all.len()
    );
    // Messages, looks at groups and writes of pages come as often as they
    // come; the first of each kind always does, but for kills of those who
    // were gone already.
    let always = |aim: &&&Aim| aim.1 == 1 && !aim.0.ends_with("cgroup.kill");
    let never: Vec<_> = missed.iter().filter(always).collect();
    assert!(never.is_empty(), "never came to {never:?}");
    assert!(missed.len() < aims.len() / 2, "missed most: {missed:?}");
}

/// Not what samples a task's use, which goes by the clock.
fn matters((name, _): &Aim) -> bool {
    !name.contains("usage")
}
