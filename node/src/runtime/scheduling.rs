//! The scheduler's driver: one actor that, while this node leads, commits a
//! reign, feeds `potluck_core::scheduler` with what happens and carries its
//! effects out.
//!
//! ```text
//! idle ──we lead──▶ proposing Reign ──applied──▶ reigning
//!   ▲                  ▲  │ fails                 │ │ we lead no longer
//!   │                  └──│──a recording is asked─┘ │
//!   └─────────────────────┴─────────────────────────┘
//! ```
//!
//! Inputs: leadership and applied index (control group), heartbeats and
//! queries (dispatch), answers to its own requests, ticks. Outputs: requests
//! to agents, proposals, slices to publish. It never waits for a peer: each
//! request is an actor of its own whose answer comes back as an event.

use super::{
    claims,
    discovery::Outbox,
    recording::{Began, Recorder, TAP_BYTES_MAX},
    relay,
    shared::Shared,
};
use crate::{
    clock,
    recording::Wish,
    spawn::spawn,
    wire::{Request, Response},
};
use potluck_core::{
    cluster::{Cluster, Command},
    scheduler::{Effect, Event, Note, Scheduler, SchedulerConfig},
    session::{Heartbeat, HeartbeatAnswer},
};
use potluck_specs::{Millis, NodeId};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

/// How often the scheduler looks at the time.
const TICK: Duration = Duration::from_millis(100);

/// A tick that comes this late shows that this host lags: it then accuses
/// nobody.
const LAG: Duration = Duration::from_millis(1_000);

/// Inputs that wait: heartbeats of 1,000 nodes come in one burst after a
/// pause. When full, senders wait; heartbeats are then simply late.
const INPUTS_QUEUED_MAX: usize = 4_096;

/// How long an agent may take to answer a call, an award or a stop: they need
/// one disk sync at most.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// How long a probe may take, its own wait included.
const PROBE_WAIT: Duration = Duration::from_millis(1_200);

/// How long a node may take to tell all that it runs.
const GREET_WAIT: Duration = Duration::from_millis(1_500);

/// Pause before a failed `Reign` is proposed again.
const REIGN_PAUSE: Duration = Duration::from_millis(50);

/// A look at the scheduler and the state that it decides on.
type Look = Box<dyn FnOnce(&Scheduler, &Cluster) + Send>;

enum Input {
    Heartbeat(Heartbeat, oneshot::Sender<HeartbeatAnswer>),
    Happened(u64, Event),
    Look(Look),
    Record(Wish),
}

/// Handle of the driver.
#[derive(Clone)]
pub(super) struct Scheduling {
    inputs: mpsc::Sender<Input>,
}

/// What the driver is started with.
pub(super) struct Driver {
    inputs: mpsc::Receiver<Input>,
    back: mpsc::WeakSender<Input>,
}

/// A handle and the driver that it reaches.
pub(super) fn channel() -> (Scheduling, Driver) {
    let (sender, inputs) = mpsc::channel(INPUTS_QUEUED_MAX);
    let back = sender.downgrade();
    (Scheduling { inputs: sender }, Driver { inputs, back })
}

impl Scheduling {
    /// Hands a heartbeat on; nothing if this node does not reign.
    pub(super) async fn heartbeat(&self, heartbeat: Heartbeat) -> Option<HeartbeatAnswer> {
        let (answer, answered) = oneshot::channel();
        self.inputs
            .send(Input::Heartbeat(heartbeat, answer))
            .await
            .ok()?;
        answered.await.ok()
    }

    /// Looks at the scheduler; nothing if this node does not reign.
    pub(super) async fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Scheduler, &Cluster) -> R + Send + 'static,
    ) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        let look: Look = Box::new(move |scheduler, cluster| {
            // The asker may have left.
            let _ = answer.send(look(scheduler, cluster));
        });
        self.inputs.send(Input::Look(look)).await.ok()?;
        answered.await.ok()
    }
}

impl Scheduling {
    /// Asks for a recording: the driver begins a new reign for it. The wish is
    /// dropped if this node does not reign.
    pub(super) async fn record(&self, wish: Wish) {
        // A driver that is gone has dropped it.
        let _ = self.inputs.send(Input::Record(wish)).await;
    }
}

/// Drives until told to stop.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut driver: Driver,
    published: Outbox,
    token: CancellationToken,
) {
    let mut leadership = shared.control.leadership();
    let mut wish = None;
    loop {
        let leads = leadership.borrow_and_update().we_lead;
        if leads {
            tokio::select! {
                () = token.cancelled() => return,
                () = reign(&shared, &mut driver, &published, &mut leadership, &mut wish) => continue,
            }
        }
        wish = None;
        tokio::select! {
            () = token.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            // Nobody reigns here: the answer's sender is dropped, the asker is
            // told to look elsewhere.
            input = driver.inputs.recv() => if input.is_none() { return },
        }
    }
}

/// One reign, from its entry in the log to the loss of leadership.
async fn reign(
    shared: &Arc<Shared>,
    driver: &mut Driver,
    published: &Outbox,
    leadership: &mut watch::Receiver<crate::control::Leadership>,
    wish: &mut Option<Wish>,
) {
    let leader = shared.me.node;
    let applied = match shared.control.propose(Command::Reign { leader }).await {
        Ok(applied) => applied,
        Err(error) => {
            tracing::debug!(error = %error, "reign was not committed");
            tokio::time::sleep(REIGN_PAUSE).await;
            return;
        }
    };
    let authority = shared.control.read(Cluster::authority);
    if authority.reign.0 != applied.index {
        // Before genesis there is nothing to reign over.
        tokio::time::sleep(REIGN_PAUSE).await;
        return;
    }
    tracing::info!(
        reign = applied.index,
        epoch = authority.epoch.0,
        "reign begins"
    );
    shared.directory.greeted(authority, leader);
    let config = SchedulerConfig {
        election_timeout: shared.control.quorum_lease(),
        unix_offset: clock::unix_now().since(clock::boot_now()),
    };
    let now = clock::boot_now();
    let recorder = wish.take().and_then(|wish| {
        let cluster = shared.control.open_tap(TAP_BYTES_MAX, Cluster::clone);
        let began = Began {
            config,
            authority,
            me: leader,
            now,
            cluster: &cluster,
        };
        Recorder::begin(wish, &began)
    });
    let mut court = Court {
        shared,
        published,
        back: driver.back.clone(),
        reign: applied.index,
        scheduler: Scheduler::new(config, authority, leader, now),
        recorder,
    };
    *wish = court.sit(&mut driver.inputs, leadership).await;
    shared.control.close_tap();
    tracing::info!(reign = applied.index, "reign ends");
}

/// The scheduler of one reign with its hands.
struct Court<'a> {
    shared: &'a Arc<Shared>,
    published: &'a Outbox,
    back: mpsc::WeakSender<Input>,
    reign: u64,
    scheduler: Scheduler,
    recorder: Option<Recorder>,
}

impl Court<'_> {
    /// Until the leadership ends, or a recording is asked for that begins with
    /// the next reign.
    async fn sit(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        leadership: &mut watch::Receiver<crate::control::Leadership>,
    ) -> Option<Wish> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut applied = self.shared.control.applied();
        let mut members = self.shared.gossip.members();
        let mut last_tick = Instant::now();
        self.confirm_quorum().await;
        self.step(Event::ClusterChanged, None).await;
        loop {
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Record(wish)) => return Some(wish),
                    Some(input) => self.take(input).await,
                    None => return None,
                },
                _ = applied.changed() => self.step(Event::ClusterChanged, None).await,
                _ = members.changed() => self.see_members().await,
                _ = ticks.tick() => {
                    let late = last_tick.elapsed().saturating_sub(TICK);
                    last_tick = Instant::now();
                    if late > LAG {
                        let lag = Millis(late.as_millis() as u64);
                        self.step(Event::LaggedFor { lag }, None).await;
                    }
                    self.confirm_quorum().await;
                    self.step(Event::Tick, None).await;
                }
                _ = leadership.changed() => {
                    if !leadership.borrow_and_update().we_lead { return None }
                }
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Heartbeat(heartbeat, answer) => {
                self.step(Event::Heartbeat { heartbeat }, Some(answer))
                    .await;
            }
            Input::Happened(reign, event) if reign == self.reign => self.step(event, None).await,
            // The answer to a request of an earlier reign of this node.
            Input::Happened(..) => {}
            Input::Look(look) => self
                .shared
                .control
                .read(|state| look(&self.scheduler, state)),
            // Taken before it comes here.
            Input::Record(_) => {}
        }
    }

    async fn confirm_quorum(&mut self) {
        if let Some(at) = self.shared.control.last_quorum_ack() {
            self.step(Event::QuorumConfirmed { at }, None).await;
        }
    }

    async fn see_members(&mut self) {
        let members = self.shared.directory.views();
        self.step(Event::Members { members }, None).await;
    }

    async fn step(&mut self, event: Event, mut answer: Option<oneshot::Sender<HeartbeatAnswer>>) {
        let now = clock::boot_now();
        let effects = match self.recorder.is_some() {
            true => self.recorded_step(event, now),
            false => {
                let scheduler = &mut self.scheduler;
                let step = |state: &Cluster| scheduler.step(state, event, now);
                self.shared.control.read(step)
            }
        };
        for effect in effects {
            if let Effect::AnswerHeartbeat { answer: said, .. } = effect {
                if let Some(answer) = answer.take() {
                    // The agent may have given this heartbeat up.
                    let _ = answer.send(said);
                }
                continue;
            }
            self.carry_out(effect).await;
        }
    }

    fn recorded_step(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let scheduler = &mut self.scheduler;
        let (effects, applied) = self
            .shared
            .control
            .read_tapped(TAP_BYTES_MAX, |state, applied| {
                (scheduler.step(state, event.clone(), now), applied)
            });
        let recorder = self.recorder.as_mut();
        let goes_on = recorder.is_some_and(|r| r.step(applied, event, &effects, now));
        if !goes_on {
            self.recorder = None;
            self.shared.control.close_tap();
        }
        effects
    }

    async fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::AnswerHeartbeat { .. } => {}
            Effect::Greet { node, authority } => {
                self.ask(
                    node,
                    Request::Greet(authority),
                    GREET_WAIT,
                    move |answer| match answer {
                        Some(Response::Inventory(heartbeat)) => Event::Greeted { heartbeat },
                        _ => Event::GreetFailed { node },
                    },
                );
            }
            Effect::Call { to, call } => {
                let number = call.call;
                self.ask(
                    to,
                    Request::Call(std::sync::Arc::unwrap_or_clone(call)),
                    ANSWER_WAIT,
                    move |answer| match answer {
                        Some(Response::Call(answer)) => Event::CallAnswered {
                            node: to,
                            call: number,
                            answer,
                        },
                        _ => Event::CallLost {
                            node: to,
                            call: number,
                        },
                    },
                );
            }
            Effect::Award { to, award } => {
                let call = award.call;
                if !self.scheduler.may_act(clock::boot_now()) {
                    return self.report(Event::AwardLost { node: to, call });
                }
                self.ask(
                    to,
                    Request::Award(*award),
                    ANSWER_WAIT,
                    move |answer| match answer {
                        Some(Response::Award(answer)) => Event::AwardAnswered {
                            node: to,
                            answer,
                            call,
                        },
                        _ => Event::AwardLost { node: to, call },
                    },
                );
            }
            Effect::Cancel {
                to,
                authority,
                call,
            } => {
                self.ask(to, Request::Cancel { authority, call }, ANSWER_WAIT, |_| {
                    Event::Tick
                });
            }
            Effect::Stop { to, order } => {
                let slot = order.slot.clone();
                if !self.scheduler.may_act(clock::boot_now()) {
                    return self.report(Event::StopLost { node: to, slot });
                }
                self.ask(
                    to,
                    Request::Stop(*order),
                    ANSWER_WAIT,
                    move |answer| match answer {
                        Some(Response::Done) => Event::StopAnswered { node: to, slot },
                        _ => Event::StopLost { node: to, slot },
                    },
                );
            }
            Effect::Probe { via, about } => {
                self.ask(
                    via,
                    Request::Probe(about),
                    PROBE_WAIT,
                    move |answer| match answer {
                        Some(Response::Probe { reachable }) => Event::Probed {
                            by: via,
                            about,
                            reachable,
                        },
                        _ => Event::ProbeLost { by: via, about },
                    },
                );
            }
            Effect::Propose { command } => self.propose(*command),
            Effect::Publish { service } => {
                self.published.put(self.scheduler.authority(), service);
            }
            Effect::Note { note } => log(&note),
        }
    }

    /// Sends a request; its answer, or its loss, comes back as an event.
    fn ask(
        &self,
        to: NodeId,
        request: Request,
        limit: Duration,
        event: impl FnOnce(Option<Response>) -> Event + Send + 'static,
    ) {
        let (shared, back, reign) = (self.shared.clone(), self.back.clone(), self.reign);
        spawn("scheduler request", async move {
            let answer = relay::ask(&shared, to, request, limit).await.ok();
            let answer = answer.filter(|answer| is_taken(&shared, to, answer));
            if let Some(back) = back.upgrade() {
                let _ = back.send(Input::Happened(reign, event(answer))).await;
            }
        });
    }

    fn report(&self, event: Event) {
        let (back, reign) = (self.back.clone(), self.reign);
        spawn("scheduler report", async move {
            if let Some(back) = back.upgrade() {
                let _ = back.send(Input::Happened(reign, event)).await;
            }
        });
    }

    fn propose(&self, command: Command) {
        let shared = self.shared.clone();
        spawn("scheduler proposal", async move {
            if let Err(error) = shared.control.propose(command).await {
                tracing::debug!(error = %error, "scheduler's proposal was not committed");
            }
        });
    }
}

/// An answer that would silence this scheduler, and every other, is none.
fn is_taken(shared: &Shared, from: NodeId, answer: &Response) -> bool {
    let known = shared.known();
    let taken = claims::may_answer(from, answer, &known);
    if let Err(why) = &taken {
        shared.epochs.refused(from, why, known.epoch);
        tracing::error!(%from, why = %why, "a node's answer is not believed");
    }
    taken.is_ok()
}

fn log(note: &Note) {
    match note {
        Note::BrakeOn { suspects } => {
            tracing::error!(
                suspects,
                "many hosts are silent at once, held as a partition"
            );
        }
        Note::Double { .. }
        | Note::Superseded { .. }
        | Note::Silent
        | Note::VolumesLeft { .. }
        | Note::BadPair { .. }
        | Note::CrashLoop { .. } => {
            tracing::warn!(note = ?note, "scheduler");
        }
        Note::AwardRefused { .. } | Note::Unplaced { .. } => {
            tracing::debug!(note = ?note, "scheduler");
        }
        _ => tracing::info!(note = ?note, "scheduler"),
    }
}
