//! Proof that the simulator bites: every bug that is put back on purpose is
//! noticed, by the check that is there for it, within so many seeds.

use potluck_testnet::{
    scenario::Scenario,
    sim::{self, Failure, Options, Sabotage},
};

/// The first failure of that check among so many worlds; panics with what
/// else was found if there is none.
#[track_caller]
fn noticed(sabotage: Sabotage, scenario: Scenario, check: &str, seeds: u64) -> Box<Failure> {
    noticed_with(sabotage, check, seeds, |seed| Options {
        scenario,
        ..Options::drawn(seed)
    })
}

#[track_caller]
fn noticed_with(
    sabotage: Sabotage,
    check: &str,
    seeds: u64,
    world: impl Fn(u64) -> Options,
) -> Box<Failure> {
    let mut others = Vec::new();
    for seed in 0..seeds {
        let options = Options {
            sabotage: Some(sabotage),
            ..world(seed)
        };
        match sim::run(seed, &options) {
            Err(failure) if failure.violation.invariant == check => {
                println!("{sabotage:?}: seed {seed}: {}", failure.violation);
                return failure;
            }
            Err(failure) => others.push(format!("seed {seed}: {}", failure.violation)),
            Ok(_) => {}
        }
    }
    panic!("\"{check}\" did not notice {sabotage:?} in {seeds} seeds; found: {others:#?}");
}

macro_rules! is_noticed {
    ($($name:ident: $sabotage:ident in $scenario:ident by $check:literal within $seeds:literal;)*) => {
        $(
            #[test]
            fn $name() {
                noticed(Sabotage::$sabotage, Scenario::$scenario, $check, $seeds);
            }
        )*
    };
}

is_noticed! {
    hosts_without_a_fence: IgnoresFence in Random by "the fence" within 200;
    forgetting_ends: ForgetsEnds in Batch by "done is done" within 20;
    forgetting_authority: ForgetsAuthority in Random by "the fence" within 1;
    forgetting_reservations: ForgetsReservations in Overload by "bids are kept" within 20;
    counting_double: CountsDouble in Overload by "no host takes more than it has" within 5;
    starting_before_the_end: StartsBeforeEnd in RolloutDuringFailure by "one process of a slot on a host" within 10;
    dropping_stops: DropsStops in Random by "all heals" within 5;
    calling_started_healthy: CallsStartedHealthy in RolloutDuringFailure by "the budget" within 60;
    acting_without_a_quorum: ActsWithoutQuorum in LeaderLoss by "no quorum, no word" within 10;
    placing_before_asking: PlacesBeforeAsking in LeaderLoss by "no slot twice for lack of asking" within 10;
    freeing_the_unknown: FreesUnknown in Random by "unknown is never free" within 400;
    not_trimming_doubles: SkipsTrimming in Churn by "all heals" within 10;
    keeping_endpoints: KeepsEndpoints in RolloutDuringFailure by "no endpoint of a stopped task" within 5;
    hiding_crashes: HidesCrashes in RolloutDuringFailure by "the budget" within 100;
    forgetting_the_adopted: ForgetsAdopted in LeaderLoss by "no slot twice for lack of asking" within 50;
    recording_elsewhere: RecordsElsewhere in LeaderLoss by "no slot twice for lack of asking" within 50;
    acknowledging_early: AcknowledgesEarly in Batch by "done is done" within 10;
    counting_leases_from_the_answer: CountsFromReceipt in Exclusive by "no exclusive slot twice" within 300;
    awarding_before_the_record: AwardsBeforeRecord in Exclusive by "exclusive holders are in the log first" within 2;
    taking_death_for_the_end_of_a_lease: TakesDeathForTheEnd in Exclusive by "no exclusive slot twice" within 20;
    forgetting_earlier_leases: ForgetsEarlierLeases in Exclusive by "no exclusive slot twice" within 100;
    gossip_alone_kills: GossipAloneKills in Random by "dead needs three" within 10;
    not_asking_who_reaches_it: IgnoresProbes in Random by "dead needs three" within 20;
    not_asking_gossip: IgnoresGossip in Random by "dead needs three" within 10;
    waiting_for_ever: WaitsForEver in Random by "one hung host blocks nobody" within 10;
    taking_records_for_reports: TakesRecordsForReports in LeaderLoss by "no slot twice for lack of asking" within 60;
    taking_old_slices: TakesOldSlices in LeaderLoss by "all heals" within 20;
    keeping_the_younger: KeepsTheYounger in Churn by "the better double stays" within 5;
    accepting_early: AcceptsEarly in LeaderLoss by "no accepted job is lost" within 50;
}

/// The second copy of an award has to come after the stop of what the first
/// one filled: most of them come twice here.
#[test]
fn obeying_older_generations() {
    let check = "no older generation is obeyed";
    noticed_with(Sabotage::ObeysOlderGenerations, check, 300, |seed| {
        Options {
            twice: 900,
            ..Options::drawn(seed)
        }
    });
}

#[test]
fn a_failure_tells_its_story_and_how_to_see_it_again() {
    let failure = noticed(Sabotage::ForgetsAuthority, Scenario::Churn, "the fence", 1);
    let text = failure.to_string();
    assert!(
        text.contains("potluck testnet sim --seed 0 --scenario churn"),
        "{text}"
    );
    let lines = failure.trace.len();
    assert!((1..=600).contains(&lines), "{lines} lines");
    assert!(
        failure.trace.iter().any(|line| line.contains("greet")),
        "{text}"
    );
}
