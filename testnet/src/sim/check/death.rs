//! Dead needs three: a scheduler calls a host dead only when its session is
//! out, gossip of it stands still, and those that were asked don't reach it;
//! and it accuses nobody when it was itself away.
//!
//! Source: "Dead needs three", "a scheduler that lags itself accuses nobody".
//! Seen from outside: what reached the scheduler's host counts, whatever it made
//! of it. One member that reaches the host outweighs those that don't; only the
//! last answer is held against a verdict, since what came before may be over.

use super::{Seen, Violation, World, broken};
use crate::sim::queue::{MS, SECOND};
use potluck_core::scheduler::{Effect, Note, SessionState};
use potluck_specs::NodeId;
use std::collections::BTreeMap;

const NAME: &str = "dead needs three";

/// Clocks differ by some hundredths of a per cent.
const CLOCKS: u64 = 10 * MS;

/// Silence that ends a session.
const OUT: u64 = 4 * SECOND - CLOCKS;

/// A gossip counter that has not moved for this long stands still.
const STILL: u64 = 3 * SECOND - CLOCKS;

/// For how long an answer of a member is held against the verdict: by then
/// others have been asked and may have said otherwise, or nothing.
const REACHED: u64 = 2_500 * MS;

/// A scheduler that was stopped for longer than a second has missed what came:
/// every live host is heard in so long.
const AWAY: u64 = SECOND;
const HEARD_AGAIN: u64 = 5 * SECOND - CLOCKS;

/// What reached each scheduler's host, by reign and host.
#[derive(Debug, Default)]
pub struct Death {
    heard: BTreeMap<(u64, usize), u64>,
    probed: BTreeMap<(u64, usize), (u64, bool)>,
    /// The last step of each reign, and when it last came back after a gap.
    turned: BTreeMap<u64, (u64, Option<u64>)>,
}

impl Death {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        let reign = |at: &usize| world.courts.get(at).map(|court| court.reign);
        let now = world.now();
        match seen {
            Seen::Reigns { .. } => {
                let reigns: Vec<u64> = world.courts.values().map(|court| court.reign).collect();
                self.heard.retain(|(of, _), _| reigns.contains(of));
                self.probed.retain(|(of, _), _| reigns.contains(of));
                self.turned.retain(|of, _| reigns.contains(of));
            }
            Seen::Heard { to, from } => {
                if let Some(reign) = reign(to) {
                    self.heard.insert((reign, *from), now);
                }
            }
            Seen::Probed { to, about, reaches } => {
                if let Some(reign) = reign(to) {
                    self.probed.insert((reign, *about), (now, *reaches));
                }
            }
            Seen::Decided { at, effects } => {
                let Some(reign) = reign(at) else {
                    return Ok(());
                };
                self.turns(reign, now);
                for effect in *effects {
                    if let Effect::Note {
                        note:
                            Note::Session {
                                node,
                                state: SessionState::Dead,
                            },
                    } = effect
                    {
                        self.condemned(world, (*at, reign), *node)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn turns(&mut self, reign: u64, now: u64) {
        let turned = self.turned.entry(reign).or_insert((now, None));
        if now - turned.0 > AWAY {
            turned.1 = Some(now);
        }
        turned.0 = now;
    }

    fn condemned(
        &self,
        world: &World,
        (at, reign): (usize, u64),
        node: NodeId,
    ) -> Result<(), Violation> {
        let (host, now) = (world.index[&node], world.now());
        let within = |since: u64, span: u64| now < since + span;
        let heard = self.heard.get(&(reign, host));
        let moved = world.gossip.moved(at, host);
        let probed = self.probed.get(&(reign, host));
        let back = self.turned.get(&reign).and_then(|(_, back)| *back);
        let against = [
            heard
                .is_some_and(|heard| within(*heard, OUT))
                .then_some("its session is not out"),
            moved
                .is_some_and(|moved| within(moved, STILL))
                .then_some("its gossip moves"),
            probed
                .is_some_and(|(when, reaches)| *reaches && within(*when, REACHED))
                .then_some("a member reaches it"),
            back.is_some_and(|back| within(back, HEARD_AGAIN))
                .then_some("it was itself away"),
        ];
        match against.into_iter().flatten().next() {
            None => Ok(()),
            Some(why) => broken(NAME, format!("h{at} calls h{host} dead, and {why}")),
        }
    }
}
