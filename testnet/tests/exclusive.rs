//! Exclusive slots: scripted faults of the holder and of the scheduler, each
//! over many seeds. What must never happen is watched at each step (see
//! `sim::check::exclusive`); here stands when a slot must move, and when it
//! must not.

use potluck_core::session::TaskState;
use potluck_specs::JobName;
use potluck_testnet::{
    scenario::Scenario,
    sim::{self, Action, Options, Whom, World, client::LEASE_MS, helper::Directive, hosts::only},
};

const SEEDS: u64 = 12;

/// The faults begin here: the task has run for some seconds.
const BEGIN: u64 = 15_000;

/// The latest at which the slot's next task may be started after the last
/// renewal: the lease with what is waited for beyond it, and a second in which
/// hosts bid, are awarded and start.
const MOVED_WITHIN: u64 = LEASE_MS * 101 / 100 + 4_000 + 2_500;

const JOB: &str = "only-db";

struct Script {
    world: World,
    seed: u64,
}

impl Script {
    /// Six hosts, and the one task of an exclusive job on one of them.
    fn new(seed: u64) -> Script {
        let mut script = Script::begun(seed);
        script.run(BEGIN);
        script
    }

    fn begun(seed: u64) -> Script {
        let options = Options {
            hosts: 6,
            ..Options::calm()
        };
        let mut script = Script {
            world: World::new(seed, options, true),
            seed,
        };
        script.submit(1_000);
        script.run(BEGIN - 7_000);
        script
    }

    /// The same; if it `moves`, another job is accepted and then the holder is
    /// drained.
    fn with_drain(seed: u64, moves: bool) -> Script {
        let mut script = Script::begun(seed);
        if moves {
            let mark = Action::Submit {
                name: "mark".into(),
                replicas: 1,
                cpu: 100,
                directive: Directive::default(),
            };
            script.world.at(BEGIN - 6_000, mark);
            let host = script.holder();
            let draining = true;
            let drain = Action::Drain { host, draining };
            script.world.at(BEGIN - 4_000, drain);
        }
        script.run(BEGIN);
        script
    }

    fn submit(&mut self, ms: u64) {
        let action = Action::Submit {
            name: JOB.into(),
            replicas: 1,
            cpu: 200,
            directive: Directive::default(),
        };
        self.world.at(ms, action);
    }

    fn run(&mut self, until_ms: u64) {
        if let Err(violation) = self.world.run_until(until_ms) {
            self.fail(&violation.to_string());
        }
    }

    #[track_caller]
    fn fail(&mut self, why: &str) -> ! {
        let trace = std::mem::take(&mut self.world.trace).about(why);
        panic!("{}\nseed {}: {why}", trace.join("\n"), self.seed);
    }

    /// Where the task's process is, with its token.
    fn process(&self) -> Option<(usize, String)> {
        let machines = self.world.machines.iter().enumerate();
        let mut live = machines.flat_map(|(host, machine)| {
            let live = machine.live().filter(|one| one.run.slot.job.name == JOB);
            live.map(move |process| (host, process.generation.to_string()))
        });
        live.next()
    }

    #[track_caller]
    fn holder(&mut self) -> usize {
        match self.process() {
            Some((host, _)) => host,
            None => self.fail("the task runs nowhere"),
        }
    }

    fn leader(&self) -> usize {
        self.world.control.leader().expect("somebody leads")
    }

    /// Is the task of this host over, and none anywhere?
    #[track_caller]
    fn expect_nowhere(&mut self, when: &str) {
        if let Some((host, token)) = self.process() {
            self.fail(&format!("{when}: h{host} runs it as {token}"));
        }
    }

    #[track_caller]
    fn expect_moved(&mut self, from: usize) {
        if self.holder() == from {
            self.fail("it has not moved");
        }
        let name = JobName::in_default(JOB);
        let mut agents = self.world.machines.iter().filter_map(|m| m.host.as_ref());
        let serves = agents.any(|agent| {
            let mut slots = agent.slots().into_iter();
            slots.any(|r| r.slot.job == name && r.state == TaskState::Running && r.healthy)
        });
        if !serves {
            self.fail("it does not serve where it moved to");
        }
    }

    #[track_caller]
    fn expect_same(&mut self, before: &Option<(usize, String)>) {
        let now = self.process();
        if now != *before {
            self.fail(&format!("it was {before:?} and is {now:?}"));
        }
    }

    fn healed(&mut self) {
        if let Err(violation) = self.world.heal_within(60_000) {
            self.fail(&violation.to_string());
        }
    }
}

/// A script whose holder does not lead, so that both can fail apart.
fn with_holder_apart() -> impl Iterator<Item = (Script, usize)> {
    (0..SEEDS).filter_map(|seed| {
        let mut script = Script::new(seed);
        let holder = script.holder();
        (holder != script.leader()).then_some((script, holder))
    })
}

#[test]
fn whatever_happens_no_slot_is_filled_twice() {
    for seed in 0..60 {
        let options = Options {
            scenario: Scenario::Exclusive,
            ..Options::drawn(seed)
        };
        if let Err(failure) = sim::run(seed, &options) {
            panic!("{failure}");
        }
    }
}

/// Something befalls the holder for longer than its lease: its task is over
/// before anybody else may begin, and is started elsewhere soon after.
fn lets_go(befalls: impl Fn(usize) -> Action) {
    for (mut script, holder) in with_holder_apart() {
        script.world.at(BEGIN, befalls(holder));
        script.run(BEGIN + LEASE_MS + 100);
        script.expect_nowhere("when its lease is over");
        script.run(BEGIN + MOVED_WITHIN);
        script.expect_moved(holder);
        script.healed();
    }
}

#[test]
fn a_holder_that_is_cut_off_ends_by_its_lease_and_the_slot_moves_after() {
    lets_go(|holder| Action::Part {
        side: only(holder),
        inward: true,
        outward: true,
        ms: 60_000,
    });
}

#[test]
fn the_helper_goes_by_the_lease_when_its_agent_is_stopped() {
    lets_go(|holder| Action::Pause {
        whom: Whom::Host(holder),
        ms: 40_000,
    });
}

/// It hears nobody and is heard by nobody, and runs on as if nothing were.
#[test]
fn a_holder_whose_agent_hangs_ends_by_its_lease_and_the_slot_moves_after() {
    lets_go(|host| Action::Hang { host, ms: 40_000 });
}

#[test]
fn a_short_silence_of_the_holder_or_the_leader_moves_nothing() {
    for (mut script, holder) in with_holder_apart() {
        let before = script.process();
        let leader = Whom::Leader;
        let ms = LEASE_MS / 2;
        let whom = Whom::Host(holder);
        script.world.at(BEGIN, Action::Pause { whom, ms });
        let whole = false;
        let down_ms = 20_000;
        let dies = Action::Crash {
            whom: leader,
            whole,
            down_ms,
        };
        script.world.at(BEGIN + 10_000, dies);
        script.run(BEGIN + 40_000);
        // It may lead by now.
        if script.leader() != holder {
            let isolated = Action::IsolateLeader { ms: 20_000 };
            script.world.at(BEGIN + 40_000, isolated);
        }
        script.run(BEGIN + 70_000);
        script.expect_same(&before);
    }
}

/// While nobody leads nobody can know that no other host was told to run it.
#[test]
fn without_a_scheduler_the_task_ends_and_starts_again_when_there_is_one() {
    for (mut script, holder) in with_holder_apart() {
        let voters = script.world.options.voters;
        if holder < voters {
            continue;
        }
        for voter in 0..voters {
            let dies = Action::Crash {
                whom: Whom::Host(voter),
                whole: false,
                down_ms: 30_000,
            };
            script.world.at(BEGIN, dies);
        }
        script.run(BEGIN + LEASE_MS + 100);
        script.expect_nowhere("when its lease is over");
        script.run(BEGIN + 29_000);
        script.expect_nowhere("while nobody leads");
        script.run(BEGIN + 40_000);
        // Its record is still its own: no other had to wait for.
        if script.holder() != holder {
            script.fail("it moved for no reason");
        }
        script.healed();
    }
}

#[test]
fn a_holder_that_comes_back_from_its_boot_within_the_lease_keeps_the_slot() {
    for (mut script, holder) in with_holder_apart() {
        let reboot = Action::Crash {
            whom: Whom::Host(holder),
            whole: true,
            down_ms: 3_000,
        };
        script.world.at(BEGIN, reboot);
        script.run(BEGIN + 6_000);
        if script.holder() != holder {
            script.fail("it moved");
        }
    }
}

/// Death is not enough: the lease of a host that is dead beyond doubt is
/// waited for, since doubt is all that others have.
#[test]
fn a_dead_holder_is_waited_for_like_a_silent_one() {
    for (mut script, holder) in with_holder_apart() {
        let dies = Action::Crash {
            whom: Whom::Host(holder),
            whole: true,
            down_ms: 300_000,
        };
        script.world.at(BEGIN, dies);
        // The last renewal may have been a second old.
        script.run(BEGIN + LEASE_MS + 3_000 - 100);
        script.expect_nowhere("before its lease can be known to be over");
        script.run(BEGIN + MOVED_WITHIN);
        script.expect_moved(holder);
    }
}

#[test]
fn a_drain_and_a_new_version_stop_before_they_start_and_wait_for_no_lease() {
    for (mut script, holder) in with_holder_apart() {
        let drain = Action::Drain {
            host: holder,
            draining: true,
        };
        script.world.at(BEGIN, drain);
        script.run(BEGIN + 6_000);
        script.expect_moved(holder);
        let before = script.process();
        script.submit(BEGIN + 20_000);
        script.submit(BEGIN + 20_500);
        script.run(BEGIN + 30_000);
        if script.process() == before {
            script.fail("the new version does not run");
        }
        script.holder();
        script.healed();
    }
}

/// Two of three voters die for good, and the third goes on from its log, which
/// ends just before that job was accepted.
fn recovers(script: &mut Script, without: &str) {
    for host in [0, 1] {
        let dies = Action::Crash {
            whom: Whom::Host(host),
            whole: true,
            down_ms: 3_600_000,
        };
        script.world.at(BEGIN, dies);
    }
    let recover = Action::Recover {
        survivor: 2,
        without: without.into(),
    };
    script.world.at(BEGIN + 2_000, recover);
}

/// The task of the later epoch; fails if there is none.
fn of_the_later_epoch(script: &mut Script) {
    let (_, token) = match script.process() {
        Some(process) => process,
        None => script.fail("it runs nowhere"),
    };
    if !token.starts_with("2.") {
        script.fail(&format!("its token {token} is of the epoch before"));
    }
}

/// The log of the survivor may lack who holds what: nothing of the epoch
/// before goes on, nothing begins while it may still run, and tokens rise.
#[test]
fn a_recovery_waits_for_what_its_log_may_lack() {
    for seed in 0..SEEDS {
        let mut script = Script::new(seed);
        recovers(&mut script, "nothing");
        script.run(BEGIN + 2_000 + 2_000 + MOVED_WITHIN);
        of_the_later_epoch(&mut script);
    }
}

/// The slot changed hands after what the survivor's log has, or the log has
/// nothing of the job at all, and a person hands it in again at once.
#[test]
fn a_recovery_whose_log_lacks_the_holder_fills_nothing_twice() {
    for seed in 0..SEEDS {
        for moves in [false, true] {
            let mut script = Script::with_drain(seed, moves);
            let without = if moves { "mark" } else { JOB };
            recovers(&mut script, without);
            // The holder may be cut off as well, and runs on for a while.
            let holder = script.holder();
            if holder > 2 {
                let apart = Action::Part {
                    side: only(holder),
                    inward: true,
                    outward: true,
                    ms: 20_000,
                };
                script.world.at(BEGIN, apart);
            }
            script.submit(BEGIN + 4_000);
            script.run(BEGIN + 4_000 + 2_000 + 2 * MOVED_WITHIN);
            of_the_later_epoch(&mut script);
        }
    }
}
