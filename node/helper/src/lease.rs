//! The two leases of a task, never confused.
//!
//! The *agent's* is had by every task: renewed by the agent alone, whatever
//! the scheduler does. The *scheduler's* is had by tasks of exclusive slots
//! only: the agent passes on what is left of what it was granted, and nothing
//! where it was granted nothing. The task ends with the first that ends. An
//! agent that says nothing of the second one prolongs the first alone.

use potluck_specs::Millis;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Leases {
    agent: Millis,
    /// `None`: the slot is not exclusive.
    scheduler: Option<Millis>,
}

impl Leases {
    /// Both as the description has them: the agent's counts from now, and the
    /// scheduler's ends at a time, since it began before this helper did.
    pub(crate) fn new(agent: Millis, scheduler: Option<Millis>) -> Leases {
        Leases { agent, scheduler }
    }

    /// Until when each lasts, as [`Self::new`] takes them.
    pub(crate) fn both(&self) -> (Millis, Option<Millis>) {
        (self.agent, self.scheduler)
    }

    /// Until when the task may run.
    pub(crate) fn until(&self) -> Millis {
        let scheduler = self.scheduler.unwrap_or(self.agent);
        self.agent.min(scheduler)
    }

    /// The agent passes leases on, counted from when it was asked. None is
    /// ever shortened: a grant holds until its end. The end of both, if that
    /// is later than before.
    pub(crate) fn prolong(
        &mut self,
        asked_at: Millis,
        agent_ms: u64,
        scheduler_ms: Option<u64>,
    ) -> Option<Millis> {
        let before = self.until();
        self.agent = self.agent.max(asked_at + Millis(agent_ms));
        if let (Some(until), Some(left)) = (&mut self.scheduler, scheduler_ms) {
            *until = (*until).max(asked_at + Millis(left));
        }
        Some(self.until()).filter(|until| *until > before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lease_to_end_counts_and_neither_is_shortened() {
        // At the begin: until when the scheduler's lasts (the agent's: 60).
        // Then: asked at, what the agent passes on of both; until then.
        let table = [
            (None, (10, 60, None), 70),
            (None, (10, 60, Some(5)), 70),
            (None, (10, 5, None), 60),
            (Some(15), (10, 60, Some(12)), 22),
            (Some(15), (10, 60, Some(0)), 15),
            // A restarted agent, or one of before there were exclusive slots.
            (Some(15), (10, 60, None), 15),
            (Some(15), (10, 5, Some(99)), 60),
        ];
        for (scheduler, (asked, agent, passed), until) in table {
            let mut leases = Leases::new(Millis(60), scheduler.map(Millis));
            let before = leases.until();
            let grown = leases.prolong(Millis(asked), agent, passed);
            assert_eq!(leases.until(), Millis(until), "{scheduler:?} {passed:?}");
            assert_eq!(grown.is_some(), leases.until() > before);
        }
    }
}
