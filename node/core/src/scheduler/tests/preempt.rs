//! Room that more important jobs get from less important ones.

use super::{change::web, *};

/// Every host is full of one task of low priority.
fn full(hosts: u8, change: impl Fn(&mut Job)) -> World {
    let racks: String = (0..hosts)
        .map(|k| ['a', 'b', 'c'][k as usize % 3])
        .collect();
    let mut world = World::new(&racks);
    let mut low = job(1, u32::from(hosts), 3_500);
    low.priority = 10;
    low.change.budget = Some(potluck_specs::job::Amount::Count(u32::from(hosts)));
    change(&mut low);
    world.submit_job(&low);
    world.until("full", |w| w.serving("web", None) == usize::from(hosts));
    world
}

fn important(replicas: u32, cpu_millis: u32) -> Job {
    let mut high = job(1, replicas, cpu_millis);
    high.name = JobName::in_default("paying");
    high.priority = 90;
    high.task.services.clear();
    high
}

#[test]
fn room_is_found_on_every_host_however_many_have_none() {
    let mut world = full(120, |_| {});
    world.submit_job(&important(100, 3_500));
    let start = world.now;
    while world.serving("paying", None) < 100 {
        let placed = world.serving("paying", None);
        assert!(world.now < start + 300_000, "{placed} of 100 are placed");
        world.run(1_000);
    }
    assert_eq!(world.serving("web", None), 20);
}

/// Hosts with two devices each.
fn with_devices(world: &mut World) {
    for host in world.hosts.values_mut() {
        host.facts.devices.insert("gpu".into(), 2);
    }
}

#[test]
fn devices_are_taken_from_who_has_them() {
    let mut world = World::new("abc");
    with_devices(&mut world);
    let mut low = job(1, 3, 100);
    low.priority = 10;
    low.task.devices.insert("gpu".into(), 2);
    world.submit_job(&low);
    let mut bystander = job(1, 6, 100);
    bystander.name = JobName::in_default("bystander");
    bystander.priority = 5;
    bystander.task.services.clear();
    world.submit_job(&bystander);
    world.until("placed", |w| {
        w.serving("web", None) == 3 && w.serving("bystander", None) == 6
    });
    let mut high = important(1, 100);
    high.task.devices.insert("gpu".into(), 1);
    world.submit_job(&high);
    world.until("placed", |w| w.serving("paying", None) == 1);
    // The next slot of the victim finds no device, and nobody else had to go.
    world.run(60_000);
    assert_eq!(world.serving("paying", None), 1);
    assert_eq!(world.serving("web", None), 2);
    assert_eq!(world.serving("bystander", None), 6);
}

#[test]
fn a_fixed_port_is_taken_from_who_has_it() {
    let mut world = World::new("abc");
    let fixed = |job: &mut Job| job.task.ports[0].number = Some(8_080);
    let mut low = job(1, 3, 100);
    low.priority = 10;
    fixed(&mut low);
    world.submit_job(&low);
    world.until("placed", |w| w.serving("web", None) == 3);
    let mut high = important(1, 100);
    fixed(&mut high);
    world.submit_job(&high);
    world.until("placed", |w| w.serving("paying", None) == 1);
    world.run(60_000);
    assert_eq!(world.serving("paying", None), 1);
    assert_eq!(world.serving("web", None), 2);
}

#[test]
fn nobody_goes_for_a_device_that_no_host_has() {
    let mut world = full(6, |_| {});
    let mut high = important(1, 3_500);
    high.task.devices.insert("gpu".into(), 1);
    world.submit_job(&high);
    world.run(30_000);
    assert_eq!(world.serving("web", None), 6);
    let why = world
        .scheduler
        .ledger(&world.cluster, &web())
        .expect("runs");
    assert!(why.used.is_empty(), "{why:?}");
}

/// Room may be on a host that has not told yet; and an order to stop would leave
/// when that is known, long after it was decided.
#[test]
fn a_new_scheduler_asks_before_it_puts_anybody_out() {
    let mut world = full(6, |_| {});
    world.host(6).alive = false;
    world.reign(2);
    world.submit_job(&important(1, 3_500));
    let put_out = |world: &World| {
        let ledger = world.scheduler.ledger(&world.cluster, &web());
        let used = ledger.map(|ledger| ledger.used).unwrap_or_default();
        let mut used = used.into_values();
        used.any(|why| matches!(why, Use::Stopping { .. }))
    };
    while !world.scheduler.has_asked() {
        assert!(!put_out(&world));
        world.run(100);
    }
    world.until("it has its room", |w| w.serving("paying", None) == 1);
}
