//! What a helper decides: when to ping, when to kill, what to report and when
//! to leave. Pure: it is told the time (boot-time clock) and says what is to
//! be done; [`crate::supervise`] does it.

mod saved;

pub(crate) use saved::SavedLife;
#[cfg(test)]
pub(crate) use saved::tests as tests_saved;

use crate::{
    end::{ExitReason, TaskEnd, TaskExit, WHY_BYTES_MAX},
    group::Limits,
    inner::Part,
    lease::Leases,
    protocol::{AgentMessage, Hello, HelperMessage, MissingIsolation, PING_INTERVAL_MS, Phase},
};
use potluck_specs::{Millis, job::StopPolicy};
use std::path::PathBuf;

/// First pause before the agent is dialled again; doubles.
const RETRY_MS: u64 = 50;

/// Longest such pause: a new agent waits only seconds for its helpers.
const RETRY_MS_MAX: u64 = 200;

/// Time for the answer to `Hello`. An agent with a thousand tasks answers
/// them all within it.
const GREETING_MS: u64 = 10_000;

/// Pause between reports of the end.
const REPEAT_MS: u64 = 1_000;

/// Longest wait for the acknowledgement of the end. The record is on disk, so
/// an agent that comes later loses nothing.
const ACK_WAIT_MS: u64 = 600_000;

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Nothing but time.
    Tick,
    /// The agent's socket accepted.
    Connected,
    /// It refused, or the connection was lost.
    Disconnected,
    /// A message came.
    Agent(AgentMessage),
    /// The sandbox lacks something.
    Missing(MissingIsolation),
    /// The task's program runs.
    Started {
        /// On the host.
        pid: i32,
    },
    /// Our process group is being ended: someone signalled the helper.
    Terminate,
    /// The task's memory is used up, by whom; there is a little room to end.
    MemoryReached(String),
    /// That room is used up too.
    MemoryGone,
    /// All of the task is gone, its last output is in the log.
    Gone(Gone),
}

/// What is known of the end.
#[derive(Clone, Debug)]
pub(crate) struct Gone {
    /// How the task's own process ended.
    pub(crate) how: How,
    /// Unix time.
    pub(crate) at: Millis,
    /// Highest use of memory.
    pub(crate) memory_peak_bytes: Option<u64>,
    /// The kernel has killed for want of memory.
    pub(crate) memory_kill: bool,
}

/// How the task's own process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It returned a code.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// Init let the lease run out, since this helper did not feed it.
    Starved,
    /// Init ended without a word: killed, by us or by others.
    Silent,
    /// It never ran.
    NotStarted(String),
    /// This helper could not go on, and killed it.
    Abandoned(String),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Dial the agent.
    Connect,
    /// Close the connection.
    Disconnect,
    /// To the agent.
    Send(HelperMessage),
    /// Tell init how long the lease lasts.
    Feed(Millis),
    /// Signal the task.
    Signal(i32),
    /// A line of ours into the task's log.
    Say(String),
    /// Change what the task may use, and tell how that went.
    SetLimits(Limits),
    /// Become this program, or tell why not.
    Upgrade(PathBuf),
    /// Kill init and with it all of the task.
    Kill,
    /// Write the record; before anything else that follows.
    Record(TaskEnd),
    /// End the helper.
    Leave,
}

/// ```text
///            Welcome, Pong: lease = time of Hello, Ping + length
///            Stop: signal, kill after the grace
///            Kill, Refused, lease over, grace over: kill
///               +--+
///               v  |
/// Starting -> Running ------> Ended ------> (left)
///     |               all       ^    Ack, ACK_WAIT_MS,
///     +-----------------gone----+    refused
///
/// Down -> Greeting -> Up        the connection, in every phase
///   ^--------+---------+
/// ```
///
/// What of it an upgrade hands to the next program is in [`saved`].
#[derive(Clone, Debug)]
pub(crate) struct Life {
    hello: Hello,
    stop: StopPolicy,
    link: Link,
    /// What this connection's `Hello` said was that the task is starting, and
    /// nothing was said since.
    start_untold: bool,
    leases: Leases,
    /// A `Stop` came.
    stopping: bool,
    kill_at: Option<Millis>,
    killed: Option<ExitReason>,
    /// The memory limit was reached before anyone asked the task to stop.
    memory: Option<String>,
    /// So was the disk limit.
    disk: Option<String>,
    refused: bool,
    leave_at: Option<Millis>,
    left: bool,
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Down {
        retry_at: Millis,
        wait_ms: u64,
    },
    /// `Effect::Connect` is on its way.
    Dialling {
        wait_ms: u64,
    },
    Greeting {
        hello_at: Millis,
        wait_ms: u64,
    },
    Up {
        ping_at: Millis,
        repeat_at: Millis,
    },
}

impl Life {
    /// A life that begins now.
    pub(crate) fn new(hello: Hello, stop: StopPolicy, leases: Leases, now: Millis) -> Life {
        Life {
            hello,
            stop,
            link: Link::Down {
                retry_at: now,
                wait_ms: RETRY_MS,
            },
            start_untold: true,
            leases,
            stopping: false,
            kill_at: None,
            killed: None,
            memory: None,
            disk: None,
            refused: false,
            leave_at: None,
            left: false,
        }
    }

    /// Until when the task may run.
    pub(crate) fn lease_until(&self) -> Millis {
        self.leases.until()
    }

    /// When a [`Event::Tick`] is needed at the latest.
    pub(crate) fn next_deadline(&self) -> Millis {
        let ended = self.is_ended();
        let link = match self.link {
            Link::Down { retry_at, .. } => Some(retry_at),
            Link::Dialling { .. } => None,
            Link::Greeting { hello_at, .. } => Some(hello_at + Millis(GREETING_MS)),
            Link::Up { repeat_at, .. } if ended => Some(repeat_at),
            Link::Up { ping_at, .. } => Some(ping_at),
        };
        let lease = (!ended && self.killed.is_none()).then_some(self.lease_until());
        let kill = if ended { None } else { self.kill_at };
        [link, lease, kill, self.leave_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Millis(u64::MAX))
    }

    /// The one step.
    pub(crate) fn step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {}
            Event::Connected => self.greet(now, &mut effects),
            Event::Disconnected => self.disconnected(now),
            Event::Agent(message) => self.hear(message, now, &mut effects),
            Event::Missing(missing) => {
                // Each process of a task tells it.
                if !self.hello.isolation_missing.contains(&missing) {
                    self.hello.isolation_missing.push(missing);
                }
            }
            Event::Started { pid } => self.started(pid, &mut effects),
            Event::Terminate => self.begin_stop(self.stop, now, &mut effects),
            Event::MemoryReached(note) => {
                if !self.stopping && self.killed.is_none() {
                    self.memory = Some(note);
                }
                self.begin_stop(self.stop, now, &mut effects);
            }
            Event::MemoryGone => self.kill(ExitReason::MemoryLimit, &mut effects),
            Event::Gone(gone) => self.gone(gone, now, &mut effects),
        }
        self.tick(now, &mut effects);
        effects
    }

    /// May a session be opened in the task? If not, why, for people.
    pub(crate) fn may_enter(&self) -> Result<(), &'static str> {
        match (self.link, &self.hello.phase) {
            // As all orders.
            (Link::Up { .. }, _) => {}
            _ => return Err("its helper has not been welcomed by the agent yet"),
        }
        match &self.hello.phase {
            Phase::Running { .. } if self.killed.is_none() => Ok(()),
            Phase::Starting => Err("it is starting; try again in a moment"),
            Phase::Running { .. } | Phase::Ended(_) => Err("it has ended"),
        }
    }

    /// Whoever is about to end ends as it is.
    fn may_upgrade(&self) -> Result<(), &'static str> {
        match self.is_ended() || self.killed.is_some() {
            true => Err("its task has ended"),
            false => Ok(()),
        }
    }

    /// Does the task lack one of these?
    pub(crate) fn misses(&self, parts: &[Part]) -> bool {
        let missing = self.hello.isolation_missing.iter();
        let names = missing.map(|one| one.kind.as_str());
        names
            .into_iter()
            .any(|name| parts.iter().any(|part| part.name() == name))
    }

    fn is_ended(&self) -> bool {
        matches!(self.hello.phase, Phase::Ended(_))
    }

    fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.left {
            return;
        }
        if !self.is_ended() {
            if now >= self.lease_until() {
                self.kill(ExitReason::LeaseExpired, effects);
            }
            if self.kill_at.is_some_and(|at| now >= at) {
                self.kill(ExitReason::StoppedByKill, effects);
            }
        }
        self.tick_link(now, effects);
        let done = self.is_ended() && self.refused;
        if done || self.leave_at.is_some_and(|at| now >= at) {
            self.leave(effects);
        }
    }

    fn tick_link(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        match self.link {
            Link::Down { retry_at, wait_ms } if now >= retry_at && !self.refused => {
                self.link = Link::Dialling { wait_ms };
                effects.push(Effect::Connect);
            }
            Link::Greeting { hello_at, .. } if now >= hello_at + Millis(GREETING_MS) => {
                self.hang_up(now, effects);
            }
            Link::Up { ping_at, repeat_at } if self.is_ended() && now >= repeat_at => {
                self.link = Link::Up {
                    ping_at,
                    repeat_at: now + Millis(REPEAT_MS),
                };
                effects.extend(self.report().map(Effect::Send));
            }
            Link::Up { ping_at, repeat_at } if !self.is_ended() && now >= ping_at => {
                self.link = Link::Up {
                    ping_at: now + Millis(PING_INTERVAL_MS),
                    repeat_at,
                };
                effects.push(Effect::Send(HelperMessage::Ping { sent_at: now }));
            }
            _ => {}
        }
    }

    fn greet(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let wait_ms = self.wait_ms();
        self.link = Link::Greeting {
            hello_at: now,
            wait_ms,
        };
        self.start_untold = self.hello.phase == Phase::Starting;
        effects.push(Effect::Send(HelperMessage::Hello(self.hello.clone())));
    }

    fn wait_ms(&self) -> u64 {
        match self.link {
            Link::Down { wait_ms, .. }
            | Link::Dialling { wait_ms }
            | Link::Greeting { wait_ms, .. } => wait_ms,
            Link::Up { .. } => RETRY_MS,
        }
    }

    fn disconnected(&mut self, now: Millis) {
        let wait_ms = self.wait_ms();
        self.link = Link::Down {
            retry_at: now + Millis(wait_ms),
            wait_ms: (wait_ms * 2).min(RETRY_MS_MAX),
        };
    }

    fn hang_up(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        effects.push(Effect::Disconnect);
        self.disconnected(now);
    }

    fn hear(&mut self, message: AgentMessage, now: Millis, effects: &mut Vec<Effect>) {
        match (self.link, message) {
            (
                Link::Greeting { .. },
                AgentMessage::Welcome {
                    agent_generation, ..
                }
                | AgentMessage::Refused {
                    agent_generation, ..
                },
            ) if agent_generation < self.hello.agent_generation => self.hang_up(now, effects),
            (
                Link::Greeting { hello_at, .. },
                AgentMessage::Welcome {
                    agent_generation,
                    lease_ms,
                },
            ) => {
                self.hello.agent_generation = agent_generation;
                self.link = Link::Up {
                    ping_at: now,
                    repeat_at: now,
                };
                self.prolong(hello_at, lease_ms, None, effects);
                self.tell_start(effects);
            }
            (Link::Greeting { .. }, AgentMessage::Refused { .. }) => {
                self.refused = true;
                self.hang_up(now, effects);
                self.kill(ExitReason::Killed, effects);
            }
            // Before it has said who it is, nobody gives orders.
            (Link::Up { .. }, message) => self.obey(message, now, effects),
            _ => {}
        }
    }

    fn obey(&mut self, message: AgentMessage, now: Millis, effects: &mut Vec<Effect>) {
        match message {
            AgentMessage::Pong {
                sent_at,
                lease_ms,
                scheduler_lease_ms,
            } if sent_at <= now => {
                self.prolong(sent_at, lease_ms, scheduler_lease_ms, effects);
            }
            AgentMessage::Stop { signal, grace_ms } => {
                self.begin_stop(StopPolicy { signal, grace_ms }, now, effects);
            }
            AgentMessage::StopAtDiskLimit {
                signal,
                grace_ms,
                note,
            } => {
                let note: String = note.chars().take(WHY_BYTES_MAX / 4).collect();
                if !self.stopping && self.killed.is_none() && !self.is_ended() {
                    effects.push(Effect::Say(format!("disk limit reached: {note}")));
                    self.disk = Some(note);
                }
                self.begin_stop(StopPolicy { signal, grace_ms }, now, effects);
            }
            AgentMessage::Kill => self.kill(ExitReason::Killed, effects),
            AgentMessage::SetLimits(limits) => effects.push(Effect::SetLimits(limits)),
            AgentMessage::Upgrade { program } => effects.push(match self.may_upgrade() {
                Ok(()) => Effect::Upgrade(program),
                Err(why) => {
                    let why = why.to_string();
                    Effect::Send(HelperMessage::UpgradeRefused { why })
                }
            }),
            AgentMessage::Ack if self.is_ended() => self.leave(effects),
            _ => {}
        }
    }

    fn prolong(
        &mut self,
        asked_at: Millis,
        lease_ms: u64,
        scheduler_lease_ms: Option<u64>,
        effects: &mut Vec<Effect>,
    ) {
        if self.killed.is_some() {
            return;
        }
        let until = self.leases.prolong(asked_at, lease_ms, scheduler_lease_ms);
        effects.extend(until.map(Effect::Feed));
    }

    fn started(&mut self, pid: i32, effects: &mut Vec<Effect>) {
        self.hello.phase = Phase::Running { pid };
        self.tell_start(effects);
        if self.stopping {
            effects.push(Effect::Signal(self.stop.signal));
        }
    }

    /// A start that falls between `Hello` and `Welcome` is told after both.
    fn tell_start(&mut self, effects: &mut Vec<Effect>) {
        if let (Link::Up { .. }, Phase::Running { pid }, true) =
            (self.link, &self.hello.phase, self.start_untold)
        {
            self.start_untold = false;
            effects.push(Effect::Send(HelperMessage::Started {
                pid: *pid,
                isolation_missing: self.hello.isolation_missing.clone(),
            }));
        }
    }

    /// A second `Stop` signals again and can only shorten the grace.
    fn begin_stop(&mut self, stop: StopPolicy, now: Millis, effects: &mut Vec<Effect>) {
        if self.is_ended() {
            return;
        }
        self.stop = stop;
        self.stopping = true;
        let kill_at = now + Millis(stop.grace_ms);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
        if let Phase::Running { .. } = self.hello.phase {
            effects.push(Effect::Signal(stop.signal));
        }
    }

    fn kill(&mut self, reason: ExitReason, effects: &mut Vec<Effect>) {
        if !self.is_ended() && self.killed.is_none() {
            self.killed = Some(reason);
            self.kill_at = None;
            effects.push(Effect::Kill);
        }
    }

    fn gone(&mut self, gone: Gone, now: Millis, effects: &mut Vec<Effect>) {
        if self.is_ended() {
            return;
        }
        let end = self.end(gone);
        self.hello.phase = Phase::Ended(end.clone());
        self.leave_at = Some(now + Millis(ACK_WAIT_MS));
        effects.push(Effect::Record(end));
        if let Link::Up { repeat_at, .. } = &mut self.link {
            *repeat_at = now;
        }
    }

    fn end(&self, gone: Gone) -> TaskEnd {
        let mut note = self.memory.clone().or_else(|| self.disk.clone());
        let own_end = if self.stopping {
            ExitReason::Stopped
        } else {
            ExitReason::Exited
        };
        let (code, signal, reason) = match gone.how {
            How::NotStarted(why) => return TaskEnd::NotStarted { why, at: gone.at },
            How::Exited(code) => (Some(code), None, own_end),
            How::Signalled(libc::SIGKILL) => {
                (None, Some(libc::SIGKILL), self.killed.unwrap_or(own_end))
            }
            How::Signalled(signal) => (None, Some(signal), own_end),
            How::Starved => (None, Some(libc::SIGKILL), ExitReason::LeaseExpired),
            How::Abandoned(why) => {
                note = Some(why);
                (None, Some(libc::SIGKILL), ExitReason::InitLost)
            }
            How::Silent => {
                let reason = self.killed.unwrap_or(ExitReason::InitLost);
                (None, Some(libc::SIGKILL), reason)
            }
        };
        let by_kernel = gone.memory_kill && signal.is_some() && self.killed.is_none();
        let out_of_memory = self.memory.is_some() || by_kernel;
        TaskEnd::Exited(TaskExit {
            code,
            signal,
            reason: match (out_of_memory, &self.disk) {
                (true, _) => ExitReason::MemoryLimit,
                (false, Some(_)) => ExitReason::DiskLimit,
                (false, None) => reason,
            },
            at: gone.at,
            memory_peak_bytes: gone.memory_peak_bytes,
            note,
        })
    }

    fn report(&self) -> Option<HelperMessage> {
        match &self.hello.phase {
            Phase::Ended(TaskEnd::Exited(exit)) => Some(HelperMessage::Exited(exit.clone())),
            Phase::Ended(TaskEnd::NotStarted { why, .. }) => {
                Some(HelperMessage::StartFailed { why: why.clone() })
            }
            Phase::Starting | Phase::Running { .. } => None,
        }
    }

    fn leave(&mut self, effects: &mut Vec<Effect>) {
        self.left = true;
        effects.push(Effect::Leave);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{PROTOCOL_VERSION, TaskKey};
    use potluck_specs::Generation;

    const LEASE_MS: u64 = 30_000;

    fn at(ms: u64) -> Millis {
        Millis(100_000 + ms)
    }

    fn life() -> Life {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            key: TaskKey {
                slot: "web[0]".parse().unwrap(),
                generation: Generation::default(),
                start: 1,
            },
            boot_id: "boot".into(),
            helper_pid: 1,
            helper_version: "0".into(),
            agent_generation: 5,
            phase: Phase::Starting,
            isolation_missing: Vec::new(),
            hands_on: None,
        };
        Life::new(
            hello,
            StopPolicy::default(),
            Leases::new(at(LEASE_MS), None),
            at(0),
        )
    }

    fn welcome(agent_generation: u64) -> Event {
        Event::Agent(AgentMessage::Welcome {
            agent_generation,
            lease_ms: LEASE_MS,
        })
    }

    /// Running and welcomed, at time 0.
    fn running() -> Life {
        let mut life = life();
        assert_eq!(life.step(Event::Tick, at(0)), [Effect::Connect]);
        life.step(Event::Connected, at(0));
        life.step(welcome(5), at(0));
        life.step(Event::Started { pid: 9 }, at(0));
        life
    }

    fn gone(how: How) -> Event {
        Event::Gone(Gone {
            how,
            at: Millis(7),
            memory_peak_bytes: None,
            memory_kill: false,
        })
    }

    fn exit_of(effects: &[Effect]) -> (Option<i32>, Option<i32>, ExitReason) {
        match effects {
            [Effect::Record(TaskEnd::Exited(exit)), ..] => (exit.code, exit.signal, exit.reason),
            other => panic!("no end in {other:?}"),
        }
    }

    /// Ticks at each deadline up to `until`; what is done on the way.
    fn idle(life: &mut Life, until: Millis) -> Vec<(Millis, Effect)> {
        let mut done = Vec::new();
        while life.next_deadline() <= until {
            let now = life.next_deadline();
            let effects = life.step(Event::Tick, now);
            assert!(!effects.is_empty(), "a deadline without need: {life:?}");
            done.extend(effects.into_iter().map(|effect| (now, effect)));
        }
        done
    }

    #[test]
    fn pings_each_second_and_the_lease_counts_from_the_ping() {
        let mut life = running();
        let pings = idle(&mut life, at(3_500));
        let times: Vec<Millis> = pings.iter().map(|(now, _)| *now).collect();
        assert_eq!(times, [at(1_000), at(2_000), at(3_000)]);
        // The answer to the ping of 2,000 comes late.
        let pong = AgentMessage::Pong {
            sent_at: at(2_000),
            lease_ms: LEASE_MS,
            scheduler_lease_ms: None,
        };
        assert_eq!(
            life.step(Event::Agent(pong), at(3_500)),
            [Effect::Feed(at(2_000 + LEASE_MS))]
        );
        let effects = idle(&mut life, at(2_000 + LEASE_MS));
        let kills: Vec<_> = effects.iter().filter(|(_, e)| *e == Effect::Kill).collect();
        assert_eq!(kills, [&(at(2_000 + LEASE_MS), Effect::Kill)]);
        assert_eq!(
            exit_of(&life.step(gone(How::Silent), at(40_000))),
            (None, Some(9), ExitReason::LeaseExpired)
        );
    }

    #[test]
    fn an_answer_from_the_future_or_a_shorter_lease_changes_nothing() {
        let mut life = running();
        for (sent_at, lease_ms) in [(at(60_000), LEASE_MS), (at(1_000), 10)] {
            let scheduler_lease_ms = None;
            let pong = AgentMessage::Pong {
                sent_at,
                lease_ms,
                scheduler_lease_ms,
            };
            let effects = life.step(Event::Agent(pong), at(1_500));
            assert!(!effects.iter().any(|e| matches!(e, Effect::Feed(_))));
        }
        assert_eq!(life.lease_until(), at(LEASE_MS));
    }

    #[test]
    fn an_older_agent_is_hung_up_on_whatever_it_says() {
        for message in [
            AgentMessage::Welcome {
                agent_generation: 4,
                lease_ms: u64::MAX,
            },
            AgentMessage::Refused {
                agent_generation: 4,
                why: "old".into(),
            },
        ] {
            let mut life = life();
            life.step(Event::Tick, at(0));
            life.step(Event::Connected, at(0));
            assert_eq!(
                life.step(Event::Agent(message), at(0)),
                [Effect::Disconnect]
            );
            assert_eq!(life.lease_until(), at(LEASE_MS));
            // It keeps trying.
            assert_eq!(idle(&mut life, at(500)), [(at(50), Effect::Connect)]);
        }
    }

    #[test]
    fn nobody_gives_orders_before_a_welcome() {
        let mut life = life();
        life.step(Event::Tick, at(0));
        life.step(Event::Connected, at(0));
        for message in [
            AgentMessage::Kill,
            AgentMessage::Ack,
            AgentMessage::Stop {
                signal: 15,
                grace_ms: 0,
            },
            AgentMessage::Pong {
                sent_at: at(0),
                lease_ms: u64::MAX,
                scheduler_lease_ms: None,
            },
        ] {
            assert_eq!(life.step(Event::Agent(message), at(1)), []);
        }
    }

    #[test]
    fn a_stop_signals_and_kills_when_the_grace_is_over() {
        let mut life = running();
        let stop = |grace_ms| {
            Event::Agent(AgentMessage::Stop {
                signal: 2,
                grace_ms,
            })
        };
        assert_eq!(life.step(stop(500), at(10)), [Effect::Signal(2)]);
        // A repeated stop does not prolong.
        assert_eq!(life.step(stop(500), at(400)), [Effect::Signal(2)]);
        assert_eq!(idle(&mut life, at(900)), [(at(510), Effect::Kill)]);
        assert_eq!(
            exit_of(&life.step(gone(How::Silent), at(600))),
            (None, Some(9), ExitReason::StoppedByKill)
        );
    }

    #[test]
    fn a_stop_at_the_disk_limit_is_a_stop_with_its_reason() {
        let full = |note: &str| {
            Event::Agent(AgentMessage::StopAtDiskLimit {
                signal: 15,
                grace_ms: 500,
                note: note.into(),
            })
        };
        let mut life = running();
        let said = Effect::Say("disk limit reached: 2 of 1".into());
        assert_eq!(
            life.step(full("2 of 1"), at(10)),
            [said, Effect::Signal(15)]
        );
        // Told again while it ends: nothing new, and no longer grace.
        assert_eq!(life.step(full("3 of 1"), at(400)), [Effect::Signal(15)]);
        assert_eq!(idle(&mut life, at(900)), [(at(510), Effect::Kill)]);
        let effects = life.step(gone(How::Silent), at(600));
        assert_eq!(exit_of(&effects), (None, Some(9), ExitReason::DiskLimit));
        let [Effect::Record(TaskEnd::Exited(exit)), ..] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(exit.note.as_deref(), Some("2 of 1"));

        // Whoever was told to stop before ends for that.
        let mut stopped = running();
        let stop = AgentMessage::Stop {
            signal: 15,
            grace_ms: 500,
        };
        stopped.step(Event::Agent(stop), at(1));
        stopped.step(full("2 of 1"), at(2));
        let effects = stopped.step(gone(How::Exited(0)), at(3));
        assert_eq!(exit_of(&effects).2, ExitReason::Stopped);
    }

    #[test]
    fn a_start_is_told_once_whenever_it_happens() {
        let starts = |effects: &[Effect]| {
            let is_start = |e: &&Effect| matches!(e, Effect::Send(HelperMessage::Started { .. }));
            effects.iter().filter(is_start).count()
        };
        let mut between = life();
        between.step(Event::Tick, at(0));
        between.step(Event::Connected, at(0));
        assert_eq!(starts(&between.step(Event::Started { pid: 9 }, at(1))), 0);
        assert_eq!(starts(&between.step(welcome(5), at(2))), 1);

        let mut after = life();
        after.step(Event::Tick, at(0));
        after.step(Event::Connected, at(0));
        assert_eq!(starts(&after.step(welcome(5), at(1))), 0);
        assert_eq!(starts(&after.step(Event::Started { pid: 9 }, at(2))), 1);
        // The next connection's `Hello` says it.
        after.step(Event::Disconnected, at(3));
        after.step(Event::Connected, at(60));
        assert_eq!(starts(&after.step(welcome(5), at(61))), 0);
    }

    #[test]
    fn a_stop_before_the_start_is_not_forgotten() {
        let mut life = life();
        life.step(Event::Tick, at(0));
        life.step(Event::Connected, at(0));
        life.step(welcome(6), at(0));
        let stop = AgentMessage::Stop {
            signal: 2,
            grace_ms: 500,
        };
        assert_eq!(life.step(Event::Agent(stop), at(1)), []);
        let effects = life.step(Event::Started { pid: 3 }, at(2));
        assert_eq!(effects.last(), Some(&Effect::Signal(2)));
        assert_eq!(
            exit_of(&life.step(gone(How::Exited(3)), at(3))),
            (Some(3), None, ExitReason::Stopped)
        );
    }

    #[test]
    fn the_end_is_recorded_then_repeated_until_acknowledged() {
        let mut life = running();
        let effects = life.step(gone(How::Exited(0)), at(10));
        assert!(matches!(
            effects[..],
            [
                Effect::Record(_),
                Effect::Send(HelperMessage::Exited(TaskExit { code: Some(0), .. }))
            ]
        ));
        assert_eq!(idle(&mut life, at(2_500)).len(), 2);
        // A new agent hears it in `Hello`, and again after its welcome.
        life.step(Event::Disconnected, at(2_500));
        life.step(Event::Tick, at(2_550));
        let effects = life.step(Event::Connected, at(2_550));
        let [Effect::Send(HelperMessage::Hello(hello))] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert!(matches!(hello.phase, Phase::Ended(_)));
        let effects = life.step(welcome(6), at(2_551));
        assert!(matches!(
            effects[..],
            [.., Effect::Send(HelperMessage::Exited(_))]
        ));
        let effects = life.step(Event::Agent(AgentMessage::Ack), at(2_552));
        assert_eq!(effects, [Effect::Leave]);
    }

    #[test]
    fn without_an_agent_it_leaves_in_the_end() {
        let mut life = life();
        life.step(gone(How::NotStarted("no such file".into())), at(0));
        let mut now = at(0);
        loop {
            now = life.next_deadline().max(now);
            assert!(now <= at(ACK_WAIT_MS), "{life:?}");
            let effects = life.step(Event::Tick, now);
            if effects.contains(&Effect::Leave) {
                break;
            }
            if effects.contains(&Effect::Connect) {
                life.step(Event::Disconnected, now);
            }
        }
        assert_eq!(now, at(ACK_WAIT_MS));
    }

    #[test]
    fn sessions_are_for_running_tasks_of_a_welcome_agent() {
        let mut early = life();
        assert!(early.may_enter().unwrap_err().contains("welcomed"));
        early.step(Event::Tick, at(0));
        early.step(Event::Connected, at(0));
        early.step(welcome(5), at(0));
        assert!(early.may_enter().unwrap_err().contains("starting"));
        early.step(Event::Started { pid: 9 }, at(0));
        assert_eq!(early.may_enter(), Ok(()));
        // Its grace is its own: a person may still look.
        let stop = AgentMessage::Stop {
            signal: 15,
            grace_ms: 1_000,
        };
        early.step(Event::Agent(stop), at(1));
        assert_eq!(early.may_enter(), Ok(()));
        early.step(Event::Agent(AgentMessage::Kill), at(2));
        assert!(early.may_enter().unwrap_err().contains("ended"));

        let mut over = running();
        over.step(gone(How::Exited(0)), at(3));
        assert!(over.may_enter().unwrap_err().contains("ended"));
        let mut lost = running();
        lost.step(Event::Disconnected, at(4));
        assert!(lost.may_enter().is_err());
    }

    #[test]
    fn a_refused_helper_kills_and_leaves() {
        let mut life = life();
        life.step(Event::Started { pid: 1 }, at(0));
        life.step(Event::Connected, at(0));
        let refused = AgentMessage::Refused {
            agent_generation: 5,
            why: "unknown slot".into(),
        };
        assert_eq!(
            life.step(Event::Agent(refused), at(1)),
            [Effect::Disconnect, Effect::Kill]
        );
        let effects = life.step(gone(How::Silent), at(2));
        assert_eq!(exit_of(&effects).2, ExitReason::Killed);
        assert_eq!(effects.last(), Some(&Effect::Leave));
    }

    #[test]
    fn a_task_that_was_faster_than_the_kill_keeps_its_code() {
        let mut life = running();
        assert_eq!(
            life.step(Event::Agent(AgentMessage::Kill), at(1)),
            [Effect::Kill]
        );
        assert_eq!(
            exit_of(&life.step(gone(How::Exited(4)), at(2))),
            (Some(4), None, ExitReason::Exited)
        );
    }
}
