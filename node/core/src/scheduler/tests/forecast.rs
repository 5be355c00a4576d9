//! A forecast says what then happens, and changes nothing.

use super::*;

impl World {
    /// Every host has told what it has.
    fn settled(racks: &str) -> World {
        let mut world = World::new(racks);
        world.until("all hosts up", |world| {
            let hosts = world.scheduler.hosts(&world.cluster);
            world.scheduler.has_asked() && hosts.iter().all(|h| h.session == SessionState::Up)
        });
        world
    }

    fn forecast(&self, job: &Job, restarts: bool, room: &mut Room) -> Forecast {
        let now = Millis(self.now);
        let before = format!("{:?}", self.scheduler);
        let keep = (!restarts).then_some(1);
        let forecast = self.scheduler.forecast(&self.cluster, job, keep, room, now);
        assert_eq!(format!("{:?}", self.scheduler), before);
        forecast
    }

    fn look(&self, job: &Job, restarts: bool) -> Forecast {
        self.forecast(job, restarts, &mut Room::default())
    }

    fn rack_of(&self, node: NodeId) -> String {
        self.cluster.members()[&node].topology.rack.clone()
    }

    fn racks_of(&self, forecast: &Forecast) -> BTreeMap<String, u32> {
        let mut racks = BTreeMap::new();
        for task in &forecast.tasks {
            *racks.entry(self.rack_of(task.node)).or_default() += 1;
        }
        racks
    }

    /// Slots of the job that serve at this version, with their nodes.
    fn serves_at(&self, version: u64) -> BTreeMap<u32, NodeId> {
        let views = self.scheduler.slots(&self.cluster);
        let all = views.into_iter().flat_map(|view| {
            let holders = view.holders.into_iter();
            holders.map(move |(node, report)| (view.slot.index, node, report))
        });
        all.filter(|(_, _, report)| report.healthy && report.version == version)
            .map(|(index, node, _)| (index, node))
            .collect()
    }
}

fn named(name: &str, replicas: u32, cpu_millis: u32) -> Job {
    let mut job = job(1, replicas, cpu_millis);
    job.name = JobName::in_default(name);
    job
}

fn indices(forecast: &Forecast) -> Vec<u32> {
    forecast.tasks.iter().map(|task| task.index).collect()
}

#[test]
fn what_is_forecast_then_happens() {
    for (racks, replicas) in [("aabbcc", 6), ("abc", 7), ("aaaab", 4), ("a", 3)] {
        let mut world = World::settled(racks);
        let said = world.look(&job(1, replicas, 100), false);
        assert_eq!(indices(&said), (0..replicas).collect::<Vec<_>>());
        assert!(said.unplaced.is_empty() && said.obstacles.is_empty() && !said.waits_for_hosts);
        world.submit(1, replicas, 100);
        world.until("all serve", |w| w.serves_at(1).len() == replicas as usize);
        let mut happened: BTreeMap<String, u32> = BTreeMap::new();
        for node in world.serves_at(1).values() {
            *happened.entry(world.rack_of(*node)).or_default() += 1;
        }
        assert_eq!(world.racks_of(&said), happened, "{racks}");
    }
}

#[test]
fn what_does_not_fit_has_its_reasons() {
    let mut world = World::settled("abb");
    let (need, total) = (job(1, 4, 3_000), FakeHost::total());
    let said = world.look(&need, false);
    assert_eq!(
        (indices(&said), said.unplaced.clone()),
        (vec![0, 1, 2], vec![3])
    );
    let small = |k| {
        let lacks = Obstacle::Lacks {
            what: Resource::Cpu,
            need: 3_000,
            free: 1_000,
            total: total.cpu_millis.into(),
        };
        (node(k), vec![lacks])
    };
    let mut obstacles = said.obstacles;
    obstacles.sort_by_key(|(node, _)| *node);
    assert_eq!(obstacles, [small(1), small(2), small(3)]);
    // And so it happens.
    world.submit(1, 4, 3_000);
    world.until("three serve", |w| w.serves_at(1).len() == 3);
    world.run(20_000);
    assert_eq!(world.serves_at(1).len(), 3);

    let said = world.look(&named("large", 1, 5_000), false);
    assert_eq!((said.tasks.len(), said.unplaced), (0, vec![0]));
    assert_eq!(said.obstacles.len(), 3);
}

#[test]
fn hosts_that_take_nothing_are_not_counted_on() {
    let mut world = World::settled("abc");
    world.host(2).alive = false;
    let drain = Command::SetDraining {
        change: ChangeId([77; 16]),
        node: node(3),
        draining: true,
    };
    world.propose(&drain);
    world.run(10_000);
    let said = world.look(&job(1, 2, 3_000), false);
    assert_eq!(said.tasks.len(), 1);
    assert_eq!(said.tasks[0].node, node(1));
    let why: BTreeMap<NodeId, Vec<Obstacle>> = said.obstacles.into_iter().collect();
    assert!(
        matches!(why[&node(2)][0], Obstacle::Session { .. }),
        "{why:?}"
    );
    assert_eq!(why[&node(3)][0], Obstacle::Draining);
}

#[test]
fn running_tasks_stay_or_are_restarted() {
    let mut world = World::settled("abc");
    world.submit(1, 3, 100);
    world.until("all serve", |w| w.serves_at(1).len() == 3);
    let grown = world.look(&job(2, 4, 100), false);
    assert_eq!((grown.restarts, grown.stops.len()), (0, 0));
    let stays: Vec<bool> = grown.tasks.iter().map(|task| task.stays).collect();
    assert_eq!(stays, [true, true, true, false]);
    for task in &grown.tasks[..3] {
        assert_eq!(world.serves_at(1)[&task.index], task.node);
    }
    let shrunk = world.look(&job(2, 1, 100), true);
    assert_eq!((shrunk.restarts, shrunk.stops.len()), (1, 2));
    let stopped: Vec<u32> = shrunk.stops.iter().map(|(index, _)| *index).collect();
    assert_eq!(stopped, [1, 2]);
    for (index, node) in &shrunk.stops {
        assert_eq!(world.serves_at(1).get(index), Some(node));
    }
    assert_eq!(indices(&shrunk), [0]);
    // One at a time, each restarted task finds the room that it leaves.
    let full = world.look(&job(2, 3, 4_000), true);
    assert_eq!((full.restarts, full.unplaced.len()), (3, 0));
    assert_eq!(world.racks_of(&full).len(), 3);
}

#[test]
fn jobs_of_one_look_share_the_room() {
    let world = World::settled("ab");
    let mut room = Room::default();
    let other = named("other", 2, 3_000);
    assert!(
        world
            .forecast(&job(1, 2, 3_000), false, &mut room)
            .unplaced
            .is_empty()
    );
    assert_eq!(world.forecast(&other, false, &mut room).unplaced, [0, 1]);
    assert!(world.look(&other, false).unplaced.is_empty());
}

#[test]
fn a_fixed_port_is_had_once_on_a_host() {
    let world = World::settled("ab");
    let mut fixed = job(1, 3, 100);
    fixed.task.ports[0].number = Some(8_080);
    let said = world.look(&fixed, false);
    assert_eq!((said.tasks.len(), said.unplaced), (2, vec![2]));
    for (host, why) in said.obstacles {
        assert_eq!(why, [Obstacle::Port { port: 8_080 }], "{host:?}");
    }
}

#[test]
fn at_most_so_many_go_to_one_place() {
    let world = World::settled("aab");
    let mut narrow = named("narrow", 4, 100);
    narrow.placement.at_most = vec![potluck_specs::job::AtMost {
        level: potluck_specs::job::Level::Rack,
        count: 1,
    }];
    let said = world.look(&narrow, false);
    assert_eq!((said.tasks.len(), said.unplaced.len()), (2, 2));
    for (host, why) in said.obstacles {
        assert!(
            matches!(why[..], [Obstacle::AtMost { .. }]),
            "{host:?} {why:?}"
        );
    }
}

#[test]
fn one_on_each_node_is_one_on_each_node() {
    let world = World::settled("aab");
    let mut each = named("each", 1, 100);
    each.kind = potluck_specs::job::JobKind::PerNode;
    let said = world.look(&each, false);
    let nodes: Vec<NodeId> = said.tasks.iter().map(|task| task.node).collect();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes.iter().copied().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn a_new_scheduler_says_that_it_asks_first() {
    let mut world = World::settled("abc");
    world.submit(1, 3, 100);
    world.until("all serve", |w| w.serves_at(1).len() == 3);
    for host in world.hosts.values_mut() {
        host.linked = false;
    }
    world.reign(2);
    world.run(200);
    let said = world.look(&job(2, 3, 100), false);
    assert!(said.waits_for_hosts, "{said:?}");
    for host in world.hosts.values_mut() {
        host.linked = true;
    }
    world.until("asked", |w| w.scheduler.has_asked());
    assert!(!world.look(&job(2, 3, 100), false).waits_for_hosts);
}

#[test]
fn very_large_jobs_are_looked_at_in_part() {
    let world = World::settled("abc");
    let mut room = Room::default();
    let said = world.forecast(&job(1, FORECAST_SLOTS_MAX + 5, 1), false, &mut room);
    assert_eq!(said.not_looked_at, 5);
    assert_eq!(
        world
            .forecast(&job(1, 7, 1), false, &mut room)
            .not_looked_at,
        7
    );
}

#[test]
fn tasks_of_one_per_node_are_counted_before_they_are_placed() {
    let mut world = World::settled("aab");
    let mut each = named("each", 1, 100);
    each.kind = potluck_specs::job::JobKind::PerNode;
    let count = |world: &World, job: &Job| {
        let now = Millis(world.now);
        world.scheduler.count_per_node(&world.cluster, job, now)
    };
    assert_eq!(count(&world, &each), Some(3));
    let never = "os == \"plan9\"".parse().unwrap();
    let mut none = each.clone();
    none.placement.requirements = vec![never];
    assert_eq!(count(&world, &none), Some(0));
    for host in world.hosts.values_mut() {
        host.linked = false;
    }
    world.reign(2);
    world.run(200);
    assert_eq!(count(&world, &each), None, "the hosts are still asked");
}

#[test]
fn what_a_job_waits_for_is_told_with_what_it_lacks() {
    let mut world = World::settled("ab");
    let mut front = named("front", 1, 100);
    front.change.depends_on = vec![potluck_specs::job::Dependency {
        job: job(1, 1, 1).name,
        ..Default::default()
    }];
    let lack = |world: &World| {
        let waits = world.look(&front, false).waits_for_jobs;
        waits.first().map(|unmet| unmet.lack.to_string())
    };
    assert_eq!(lack(&world).as_deref(), Some("does not exist"));
    world.submit(1, 2, 100);
    world.run(10);
    let few = lack(&world).unwrap();
    assert!(few.ends_with("of 2 tasks healthy"), "{few}");
    world.until("all serve", |w| w.serves_at(1).len() == 2);
    assert_eq!(lack(&world), None);
}
