//! The short answer and the full one: whom a call considers, and what people
//! are told is in the way.

use super::{change::web, *};
use potluck_specs::job::{AtMost, Isolation, Level, Neighbour};
use proptest::prelude::*;

/// One of the things that can be in the way, or of those that move.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Dies(u8),
    Returns(u8),
    Drained(u8),
    Cordoned(u8),
    SaysDraining(u8),
    Refuses(u8),
    Fails(u8),
    Wait(u16),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let host = 2u8..7;
    prop_oneof![
        host.clone().prop_map(Trouble::Dies),
        host.clone().prop_map(Trouble::Returns),
        host.clone().prop_map(Trouble::Drained),
        host.clone().prop_map(Trouble::Cordoned),
        host.clone().prop_map(Trouble::SaysDraining),
        host.clone().prop_map(Trouble::Refuses),
        host.prop_map(Trouble::Fails),
        (10u16..6_000).prop_map(Trouble::Wait),
    ]
}

/// What is asked for beside room.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Port,
    Device(u32),
    Strict,
    Rack(u8),
    Host(u8),
    AtMost(u32, bool),
    Apart(bool),
    Together(bool),
    Large,
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        Just(Wish::Port),
        (1u32..4).prop_map(Wish::Device),
        Just(Wish::Strict),
        (0u8..3).prop_map(Wish::Rack),
        (1u8..7).prop_map(Wish::Host),
        (1u32..3, any::<bool>()).prop_map(|(count, by_rack)| Wish::AtMost(count, by_rack)),
        any::<bool>().prop_map(Wish::Apart),
        any::<bool>().prop_map(Wish::Together),
        Just(Wish::Large),
    ]
}

fn level(by_rack: bool) -> Level {
    if by_rack { Level::Rack } else { Level::Node }
}

fn wishes(job: &mut Job, wishes: &[Wish]) {
    let other = |by_rack| Neighbour {
        job: JobName::in_default("other"),
        level: level(by_rack),
    };
    for wish in wishes {
        let placement = &mut job.placement;
        match *wish {
            Wish::Port => job.task.ports[0].number = Some(8_000),
            Wish::Device(count) => {
                job.task.devices.insert("gpu".into(), count);
            }
            Wish::Strict => job.task.isolation = Isolation::Strict,
            Wish::Rack(k) => {
                let rack = ["a", "b", "c"][usize::from(k)];
                let requirement = format!("rack = {rack}").parse().unwrap();
                placement.requirements.push(requirement);
            }
            Wish::Host(k) => {
                let requirement = format!("node != n{k}").parse().unwrap();
                placement.requirements.push(requirement);
            }
            Wish::AtMost(count, by_rack) => placement.at_most.push(AtMost {
                count,
                level: level(by_rack),
            }),
            Wish::Apart(by_rack) => placement.apart_from = vec![other(by_rack)],
            Wish::Together(by_rack) => placement.together_with = vec![other(by_rack)],
            Wish::Large => job.task.resources = Resources::new(3_900, GIB),
        }
    }
}

impl World {
    fn suffer(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Dies(k) => self.host(k).alive = false,
            Trouble::Returns(k) => self.host(k).alive = true,
            Trouble::Drained(k) => self.drain(k, None),
            Trouble::Cordoned(k) => {
                let cordoned = true;
                let node = node(k);
                self.change(|change| Command::Cordon {
                    change,
                    node,
                    cordoned,
                });
            }
            Trouble::SaysDraining(k) => self.host(k).draining = true,
            Trouble::Refuses(k) => self.host(k).refuse_awards = Some(Refusal::Busy),
            Trouble::Fails(k) => self.run_failing(2_000, |id, _| id == node(k)),
            Trouble::Wait(ms) => self.run(u64::from(ms)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing is in the way exactly of those hosts that a call considers.
    #[test]
    fn nothing_is_in_the_way_of_whom_a_call_considers(
        asked in proptest::collection::vec(wish(), 0..3),
        troubles in proptest::collection::vec(trouble(), 0..6),
    ) {
        let mut world = World::new("abcabc");
        for k in 1..7 {
            let facts = &mut world.host(k).facts;
            facts.devices.insert("gpu".into(), u32::from(k % 4));
            let isolation = ["strict", "partial", "none"][usize::from(k) % 3];
            let attribute = crate::scheduler::ISOLATION.to_owned();
            facts.attributes.insert(attribute, isolation.to_owned());
        }
        let mut other = job(1, 2, 1_500);
        other.name = JobName::in_default("other");
        other.task.services.clear();
        world.submit_job(&other);
        world.run(2_000);
        let mut wanted = job(1, 4, 500);
        wishes(&mut wanted, &asked);
        world.submit_job(&wanted);
        world.run(1_500);
        for trouble in troubles {
            world.suffer(trouble);
        }
        world.run(100);
        let now = Millis(world.now);
        let scheduler = &world.scheduler;
        let id = scheduler.names.id(&web());
        let ask = scheduler.ask(id, &wanted);
        for entry in scheduler.index.entries() {
            let obstacles = scheduler.obstacles(&world.cluster, &ask, entry, None, now);
            let considered = scheduler.considers(&world.cluster, &ask, entry.node, now);
            prop_assert_eq!(
                obstacles.is_empty(),
                considered,
                "{}: {:?}", entry.name, obstacles
            );
        }
    }
}
