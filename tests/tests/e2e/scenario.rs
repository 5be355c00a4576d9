//! Two scenarios of the simulator, played on real nodes: all must heal.

use potluck_testnet::{
    drill::{Drill, SECONDS_MIN},
    scenario::Scenario,
};
use potluck_tests::fleet::{Block, Turn};

#[track_caller]
fn heals(scenario: Scenario) {
    let (_turn, block) = (Turn::take(), Block::take());
    let drill = Drill {
        scenario,
        seed: 0,
        seconds: SECONDS_MIN,
        block: block.number,
        programs: None,
    };
    if let Err(error) = drill.run() {
        panic!("{}: {error}", scenario.name());
    }
}

#[test]
fn every_agent_is_restarted_one_after_the_other() {
    heals(Scenario::RollingRestart);
}

#[test]
fn all_hosts_go_down_and_come_up_together() {
    heals(Scenario::RestartOfAll);
}
