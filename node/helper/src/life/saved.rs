//! A life as one program hands it to the next in the same process
//! ([`crate::resume`]). A type of its own: what is in memory may change, what
//! was handed on must be read.

use super::{Life, Link};
use crate::{end::ExitReason, lease::Leases, protocol::Hello};
use potluck_specs::{Millis, job::StopPolicy};
use serde::{Deserialize, Serialize};

/// A life between two programs. Times are on the boot-time clock. The
/// connection is one on which orders are obeyed, else there was none to do
/// this; a task that has ended or was killed is not handed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedLife {
    hello: Hello,
    stop: StopPolicy,
    start_untold: bool,
    ping_at: Millis,
    agent_lease_until: Millis,
    scheduler_lease_until: Option<Millis>,
    stopping: bool,
    kill_at: Option<Millis>,
    memory: Option<String>,
    disk: Option<String>,
}

impl Life {
    /// What the next program needs of it. `None` if it is not one to hand on.
    pub(crate) fn save(&self) -> Option<SavedLife> {
        let Link::Up { ping_at, .. } = self.link else {
            return None;
        };
        self.may_upgrade().ok()?;
        let (agent_lease_until, scheduler_lease_until) = self.leases.both();
        Some(SavedLife {
            hello: self.hello.clone(),
            stop: self.stop,
            start_untold: self.start_untold,
            ping_at,
            agent_lease_until,
            scheduler_lease_until,
            stopping: self.stopping,
            kill_at: self.kill_at,
            memory: self.memory.clone(),
            disk: self.disk.clone(),
        })
    }

    /// Goes on with it, as a program that says this of itself.
    pub(crate) fn resume(saved: SavedLife, helper_version: &str, hands_on: u32) -> Life {
        Life {
            hello: Hello {
                protocol: crate::protocol::PROTOCOL_VERSION,
                helper_version: helper_version.into(),
                hands_on: Some(hands_on),
                ..saved.hello
            },
            stop: saved.stop,
            link: Link::Up {
                ping_at: saved.ping_at,
                repeat_at: saved.ping_at,
            },
            start_untold: saved.start_untold,
            leases: Leases::new(saved.agent_lease_until, saved.scheduler_lease_until),
            stopping: saved.stopping,
            kill_at: saved.kill_at,
            killed: None::<ExitReason>,
            memory: saved.memory,
            disk: saved.disk,
            refused: false,
            leave_at: None,
            left: false,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        life::{Effect, Event, Gone, How},
        protocol::{AgentMessage, HelperMessage, Phase, TaskKey},
    };

    /// A running task whose agent lease ends at 60 s and whose scheduler's at
    /// 20 s, connected to an agent.
    pub(crate) fn running() -> Life {
        let hello = Hello {
            protocol: 1,
            key: TaskKey {
                slot: "web[0]".parse().unwrap(),
                generation: Default::default(),
                start: 1,
            },
            boot_id: "boot".into(),
            helper_pid: 7,
            helper_version: "0".into(),
            agent_generation: 1,
            phase: Phase::Starting,
            isolation_missing: Vec::new(),
            hands_on: Some(1),
        };
        let leases = Leases::new(Millis(60_000), Some(Millis(20_000)));
        let mut life = Life::new(hello, StopPolicy::default(), leases, Millis(0));
        life.step(Event::Tick, Millis(0));
        life.step(Event::Connected, Millis(0));
        let welcome = AgentMessage::Welcome {
            agent_generation: 4,
            lease_ms: 60_000,
        };
        life.step(Event::Agent(welcome), Millis(1));
        life.step(Event::Started { pid: 9 }, Millis(2));
        life
    }

    fn resumed(life: &Life) -> Life {
        Life::resume(life.save().unwrap(), "9", 2)
    }

    fn exited(life: &mut Life, how: How) -> crate::end::TaskExit {
        let gone = Gone {
            how,
            at: Millis(0),
            memory_peak_bytes: None,
            memory_kill: false,
        };
        let effects = life.step(Event::Gone(gone), Millis(5_000));
        match &effects[0] {
            Effect::Record(crate::TaskEnd::Exited(exit)) => exit.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whatever_comes_next_is_answered_as_if_nothing_had_been() {
        let stop = AgentMessage::Stop {
            signal: 2,
            grace_ms: 3_000,
        };
        let full = AgentMessage::StopAtDiskLimit {
            signal: 2,
            grace_ms: 3_000,
            note: "3 of 2".into(),
        };
        let pong = AgentMessage::Pong {
            sent_at: Millis(10),
            lease_ms: 70_000,
            scheduler_lease_ms: Some(30_000),
        };
        // What came before, and what comes after, of many.
        let befores = [
            vec![],
            vec![Event::Agent(stop.clone())],
            vec![Event::Agent(full.clone())],
            vec![Event::MemoryReached("a lot".into())],
            vec![Event::Agent(pong.clone()), Event::Agent(stop.clone())],
        ];
        let afters = [
            (Event::Tick, 4_000),
            (Event::Tick, 20_100),
            (Event::Tick, 70_100),
            (Event::Agent(pong), 15_000),
            (Event::Agent(stop), 100),
            (Event::Agent(full), 100),
            (Event::Agent(AgentMessage::Kill), 100),
            (Event::MemoryReached("more".into()), 100),
            (Event::Terminate, 100),
            (Event::Disconnected, 100),
        ];
        for before in &befores {
            for (after, at) in &afters {
                let mut life = running();
                for event in before {
                    life.step(event.clone(), Millis(50));
                }
                let mut other = resumed(&life);
                assert_eq!(life.next_deadline(), other.next_deadline(), "{before:?}");
                assert_eq!(life.lease_until(), other.lease_until());
                let at = Millis(*at);
                let effects = life.step(after.clone(), at);
                assert_eq!(
                    effects,
                    other.step(after.clone(), at),
                    "{before:?} {after:?}"
                );
                let ends = [How::Exited(3), How::Silent].map(|how| {
                    let mut copies = [life.clone(), other.clone()];
                    copies.each_mut().map(|one| exited(one, how.clone()))
                });
                for [one, another] in ends {
                    assert_eq!(one, another, "{before:?} {after:?}");
                }
            }
        }
    }

    #[test]
    fn the_next_greeting_is_that_of_the_new_program() {
        let mut life = resumed(&running());
        life.step(Event::Disconnected, Millis(100));
        life.step(Event::Tick, Millis(200));
        let effects = life.step(Event::Connected, Millis(200));
        let [Effect::Send(HelperMessage::Hello(hello))] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!((&hello.helper_version[..], hello.hands_on), ("9", Some(2)));
        assert_eq!(hello.phase, Phase::Running { pid: 9 });
        assert_eq!(hello.agent_generation, 4);
    }

    #[test]
    fn an_upgrade_is_ordered_and_not_while_a_task_ends() {
        let upgrade = || {
            Event::Agent(AgentMessage::Upgrade {
                program: "/new".into(),
            })
        };
        let mut life = running();
        let effects = life.step(upgrade(), Millis(5));
        assert_eq!(effects, [Effect::Upgrade("/new".into())]);
        life.step(Event::Agent(AgentMessage::Kill), Millis(6));
        assert_eq!(life.save(), None);
        let effects = life.step(upgrade(), Millis(7));
        let [Effect::Send(HelperMessage::UpgradeRefused { why })] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert!(why.contains("ended"), "{why}");
        // And by nobody who has not said who it is.
        let mut life = running();
        life.step(Event::Disconnected, Millis(8));
        assert_eq!(life.step(upgrade(), Millis(9)), []);
        assert_eq!(life.save(), None);
    }
}
