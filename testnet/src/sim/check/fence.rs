//! The fence: no host commits an award or obeys a stop of an authority lower
//! than one that it has heard, restarts included; and it has stored what it
//! heard before it answers.

use super::{Seen, Violation, World, broken};
use potluck_core::auction::Authority;

const NAME: &str = "the fence";

/// What each host has let pass, as seen from outside.
#[derive(Debug, Default)]
pub struct Fence {
    heard: Vec<Authority>,
}

impl Fence {
    fn heard_by(&mut self, at: usize) -> &mut Authority {
        if at >= self.heard.len() {
            self.heard.resize(at + 1, Authority::default());
        }
        &mut self.heard[at]
    }

    pub(super) fn see(&mut self, world: &World, seen: &Seen<'_>) -> Result<(), Violation> {
        match *seen {
            Seen::Answered {
                at,
                authority,
                heard,
                obeyed,
                ..
            } => self.answered(world, at, authority, heard, obeyed),
            Seen::Started { at } | Seen::Stepped { at, .. } => self.remembers(world, at),
            _ => Ok(()),
        }
    }

    fn answered(
        &mut self,
        world: &World,
        at: usize,
        authority: Authority,
        heard: bool,
        obeyed: bool,
    ) -> Result<(), Violation> {
        let known = self.heard_by(at);
        if obeyed && authority < *known {
            let what = format!("h{at} obeyed {authority:?} and had heard {known:?}");
            return broken(NAME, what);
        }
        if !heard {
            return Ok(());
        }
        *known = authority.max(*known);
        let stored = world.machines[at].journal.highest;
        if stored < *known {
            let what = format!("h{at} answered {authority:?} and has stored {stored:?} only");
            return broken(NAME, what);
        }
        Ok(())
    }

    fn remembers(&mut self, world: &World, at: usize) -> Result<(), Violation> {
        let Some(host) = &world.machines[at].host else {
            return Ok(());
        };
        let known = self.heard_by(at);
        let highest = host.highest();
        if highest < *known {
            let what = format!("h{at} had heard {known:?} and goes by {highest:?}");
            return broken(NAME, what);
        }
        *known = highest;
        Ok(())
    }
}
