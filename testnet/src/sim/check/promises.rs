//! A bid is kept: within the time that it holds, an award of no more than was
//! bid is not refused for lack of room.
//!
//! Source: "A bid reserves for a few seconds." Two calls that overlap must not
//! be promised the same room, or one of the two awards is refused and its slot
//! starts a second late, again and again on a cluster that is nearly full.

use super::{Seen, Violation, World, broken};
use crate::sim::{exchange::Request, queue::MS};
use potluck_core::{
    auction::{Authority, Award, AwardAnswer, CallAnswer, Refusal},
    host::Answer,
};
use std::collections::BTreeMap;

const NAME: &str = "bids are kept";

/// Clocks drift and deliveries round: this much before its end a bid is no
/// longer counted on.
const MARGIN: u64 = 50 * MS;

/// Bids that were made: until when they hold, for how many slots.
#[derive(Debug, Default)]
pub struct Promises {
    made: BTreeMap<(usize, Authority, u64), (u64, usize)>,
}

impl Promises {
    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match seen {
            Seen::Started { at } => {
                self.made.retain(|(host, ..), _| host != at);
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Call(call),
                answer,
                ..
            } => {
                let key = (*at, call.authority, call.call);
                match answer {
                    Answer::Call(CallAnswer::Bid(bid)) => {
                        let until = world.now() + bid.holds.0 * MS - MARGIN;
                        self.made.insert(key, (until, bid.slots as usize));
                    }
                    _ => {
                        self.made.remove(&key);
                    }
                }
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Cancel(authority, call),
                ..
            } => {
                self.made.remove(&(*at, *authority, *call));
                Ok(())
            }
            Seen::Answered {
                at,
                request: Request::Award(award),
                answer: Answer::Award(answer),
                ..
            } => self.awarded(world, *at, award, answer),
            _ => Ok(()),
        }
    }

    fn awarded(
        &mut self,
        world: &World,
        at: usize,
        award: &Award,
        answer: &AwardAnswer,
    ) -> Result<(), Violation> {
        let made = self.made.remove(&(at, award.authority, award.call));
        let Some((until, bid)) = made else {
            return Ok(());
        };
        if world.now() > until || award.slots.len() > bid {
            return Ok(());
        }
        let lacking = |refusal: &Refusal| {
            matches!(
                refusal,
                Refusal::Cpu { .. } | Refusal::Memory { .. } | Refusal::PortTaken { .. }
            )
        };
        for (slot, answer) in &answer.slots {
            if let Err(refusal) = answer
                && lacking(refusal)
            {
                let what = format!(
                    "h{at} bid for {slot} in call {} and refuses it: {refusal:?}",
                    award.call
                );
                return broken(NAME, what);
            }
        }
        Ok(())
    }
}
