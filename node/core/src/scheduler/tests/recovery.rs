//! A log that lags behind its hosts, as after a recovery: what it lacks is
//! left alone until it has been told, whatever reigned before.

use super::*;
use crate::cluster::Recovery;

fn unsigned(job: &Job) -> SignedJob {
    SignedJob {
        job: signed(job.encode()),
        author: UserCredential {
            root: PublicKey([1; 32]),
            issuer: signed(vec![]),
            certificate: signed(vec![]),
        },
    }
}

impl World {
    /// Node 1 goes on from this earlier log, whose last entry was `index`,
    /// while hosts have heard of later reigns.
    fn recover(&mut self, earlier: Cluster, index: u64) {
        self.cluster = earlier;
        self.index = index;
        self.queue.clear();
        let recovery = Recovery {
            epoch: Epoch(2),
            survivor: node(1),
            author: "ada".into(),
            at: Millis(0),
            order: vec![1],
        };
        let command = Command::Recover {
            recovery: Box::new(recovery),
        };
        assert_eq!(self.propose(&command), Reply::Done);
        let highest = self.hosts.values().map(|host| host.highest).max();
        self.reign(1);
        let authority = self.scheduler.authority();
        assert!(
            Some(authority) > highest,
            "a later epoch outranks any reign"
        );
        assert!(
            Some(authority.reign) < highest.map(|highest| highest.reign),
            "the hosts know of later reigns"
        );
    }

    fn recover_job(&mut self, job: &Job) -> Reply {
        let holders = self.scheduler.hosts_running(&job.name, job.version);
        self.propose(&Command::RecoverJob {
            job: Box::new(unsigned(job)),
            author: "ada".into(),
            holders,
            package_bytes: 1_000,
            now: Millis(0),
        })
    }

    /// What runs where, under which instruction.
    fn running(&self) -> BTreeMap<(NodeId, SlotId), (Generation, u64)> {
        let all = self.hosts.iter().flat_map(|(node, host)| {
            let slots = host.slots.iter();
            slots.map(move |(slot, report)| ((*node, slot.clone()), report))
        });
        all.filter(|(_, report)| report.state == TaskState::Running)
            .map(|(key, report)| (key, (report.generation, report.version)))
            .collect()
    }

    fn stops(&self) -> usize {
        let stops = self.seen.iter();
        stops
            .filter(|(_, effect)| matches!(effect, Effect::Stop { .. }))
            .count()
    }

    /// Three of version 1 by the log, five of version 2 by the hosts, and some
    /// reigns that the log knows nothing of.
    fn ahead_of_its_log() -> World {
        let mut world = World::new("abc");
        world.submit(1, 3, 100);
        world.until("version 1 runs", |world| world.healthy(3) == 3);
        let (earlier, index) = (world.cluster.clone(), world.index);
        // Other resources: with the same ones the tasks of version 1 would stay.
        world.submit(2, 5, 150);
        world.until("version 2 runs", |world| {
            let running = world.running();
            running.len() == 5 && running.values().all(|(_, version)| *version == 2)
        });
        for _ in 0..40 {
            world.reign(2);
        }
        world.run(3_000);
        world.recover(earlier, index);
        world
    }
}

#[test]
fn a_later_version_than_the_log_knows_is_left_alone() {
    let mut world = World::ahead_of_its_log();
    let (before, stops) = (world.running(), world.stops());
    world.run(30_000);
    assert!(world.scheduler.has_asked());
    assert_eq!(world.running(), before, "nothing was touched");
    assert_eq!(world.stops(), stops, "nothing was stopped");
    let unknown = world.scheduler.unknown_jobs(&world.cluster);
    let (version, _) = unknown[&JobName::in_default("web")];
    assert_eq!((unknown.len(), version), (1, 2));
}

#[test]
fn a_recovered_version_is_a_job_like_others() {
    let mut world = World::ahead_of_its_log();
    world.run(2_000);
    let before = world.running();
    let reply = world.recover_job(&job(2, 5, 150));
    assert_eq!(reply, Reply::Accepted { version: 2 });
    world.run(30_000);
    assert_eq!(world.running(), before, "it runs already");
    assert!(world.scheduler.unknown_jobs(&world.cluster).is_empty());
    // It heals.
    world.host(3).alive = false;
    world.until("all run on two hosts", |world| world.healthy(5) == 5);
    // And a person stops it.
    world.propose(&Command::StopJob {
        change: ChangeId([77; 16]),
        job: JobName::in_default("web"),
        author: "ada".into(),
        now: Millis(0),
    });
    world.until("nothing runs", |world| {
        let hosts = world.hosts.values().filter(|host| host.alive);
        hosts
            .flat_map(|host| host.slots.values())
            .all(|report| report.state == TaskState::Stopped)
    });
}

#[test]
fn a_job_that_the_log_never_had_runs_on_until_it_is_taken_in() {
    let mut world = World::new("abc");
    world.run(3_000);
    let (earlier, index) = (world.cluster.clone(), world.index);
    world.submit(1, 3, 100);
    world.until("it runs", |world| world.healthy(3) == 3);
    for _ in 0..40 {
        world.reign(2);
    }
    world.run(3_000);
    world.recover(earlier, index);
    let before = world.running();
    world.run(20_000);
    assert_eq!(world.running(), before);
    let unknown = world.scheduler.unknown_jobs(&world.cluster);
    assert_eq!(unknown[&JobName::in_default("web")].0, 1);
    assert_eq!(
        world.recover_job(&job(1, 3, 100)),
        Reply::Accepted { version: 1 }
    );
    world.run(20_000);
    assert_eq!(world.running(), before, "taken in where it is");
    let record = &world.cluster.jobs()[&JobName::in_default("web")];
    assert!(record.recovered_at.is_some() && !record.stopped);
}

fn work(version: u64) -> Job {
    let mut work = job(version, 1, 100);
    work.kind = JobKind::Batch(potluck_specs::job::Batch {
        completions: 2,
        parallelism: 2,
        array: true,
        ..Default::default()
    });
    work.task.ports.clear();
    work.task.services.clear();
    work
}

/// Both tasks of work that the log will lack have ended, and no quorum counts
/// it before most voters are lost.
fn ended_and_lost() -> World {
    let mut world = World::new("abc");
    let (earlier, index) = (world.cluster.clone(), world.index);
    world.submit_job(&work(1));
    world.until("both run", |w| w.running().len() == 2);
    world.reign(1);
    world.run(3_000);
    world.quorum = false;
    world.run(1_000);
    let now = world.now;
    for host in world.hosts.values_mut() {
        for id in host.slots.keys().cloned().collect::<Vec<_>>() {
            host.set(&id, TaskState::Stopped, now);
            let ended = Some(crate::session::Outcome::Succeeded);
            host.slots.get_mut(&id).unwrap().ended = ended;
        }
    }
    world.run(2_000);
    world.recover(earlier, index);
    world.quorum = true;
    world
}

#[test]
fn work_of_which_hosts_have_the_ends_alone_is_known_too() {
    let mut world = ended_and_lost();
    world.run(15_000);
    let name = JobName::in_default("web");
    let unknown = world.scheduler.unknown_jobs(&world.cluster);
    assert_eq!(unknown.get(&name).map(|(version, _)| *version), Some(1));
    assert!(!world.scheduler.hosts_running(&name, 1).is_empty());
    assert_eq!(world.recover_job(&work(1)), Reply::Accepted { version: 1 });
    world.run(10_000);
    let batch = world.cluster.batch(&name).unwrap();
    assert!(batch.unknown, "nothing of it is started again");
    assert_eq!(batch.done(), 2, "and what hosts tell is noted");
    let kept: usize = world.hosts.values().map(|host| host.slots.len()).sum();
    assert_eq!(kept, 0, "hosts have forgotten what is counted");
}

#[test]
fn ends_of_another_job_of_the_same_number_do_not_count() {
    let mut world = ended_and_lost();
    // Before anybody has looked at what hosts have, a person runs it again.
    world.submit_job(&work(1));
    world.until("both run", |w| w.running().len() == 2);
    let name = JobName::in_default("web");
    assert_eq!(world.cluster.batch(&name).unwrap().done(), 0);
    world.run(10_000);
    assert_eq!(world.cluster.batch(&name).unwrap().done(), 0);
    assert_eq!(world.running().len(), 2);
    let kept: usize = world.hosts.values().map(|host| host.slots.len()).sum();
    assert_eq!(kept, 2, "the old ends are forgotten");
}
