//! The steps of a script, brought about on processes.

use super::{Outcome, people::People};
use crate::{
    net::{NodePlace, Testnet},
    sim::{
        hosts::HostSet,
        script::{Action, Whom},
    },
};
use nix::sys::signal::Signal;
use std::{collections::BTreeMap, thread::Scope, time::Instant};

/// What is to be done at a time.
#[derive(Debug)]
pub(super) enum Step {
    /// A line of the script.
    Script(Action),
    /// A node starts again.
    Start(String),
    /// A node that was stopped goes on.
    Continue(String),
}

/// Can this be done to processes?
pub(super) fn can(action: &Action) -> bool {
    match action {
        Action::Submit { .. }
        | Action::Run { .. }
        | Action::Stop { .. }
        | Action::Rollout { .. }
        | Action::Drain { .. }
        | Action::Crash { .. }
        | Action::Admit { .. }
        | Action::Start { .. }
        | Action::IsolateLeader { .. }
        | Action::Pause { .. }
        | Action::Heal => true,
        Action::Part {
            inward, outward, ..
        } => *inward && *outward,
        Action::CrashBetween { .. }
        | Action::Wish { .. }
        | Action::Cordon { .. }
        | Action::Decommission { .. }
        | Action::Work { .. }
        | Action::Cut { .. }
        | Action::Estrange { .. }
        | Action::Join { .. }
        | Action::Weather { .. }
        | Action::Mute { .. }
        | Action::Hush { .. }
        | Action::Hang { .. }
        | Action::Limit { .. }
        | Action::Exit { .. }
        | Action::Sicken { .. }
        | Action::Recover { .. } => false,
    }
}

/// Who goes through a script.
pub(super) struct Stepper<'scope, 'env> {
    net: &'env Testnet,
    people: &'env People<'env>,
    scope: &'scope Scope<'scope, 'env>,
    began: Instant,
    /// By time and the order of its coming.
    due: BTreeMap<(u64, usize), Step>,
    planned: usize,
    changes: Vec<super::people::Waiting<'scope>>,
}

impl<'scope, 'env> Stepper<'scope, 'env> {
    pub(super) fn new(
        net: &'env Testnet,
        people: &'env People<'env>,
        scope: &'scope Scope<'scope, 'env>,
        began: Instant,
    ) -> Stepper<'scope, 'env> {
        Stepper {
            net,
            people,
            scope,
            began,
            due: BTreeMap::new(),
            planned: 0,
            changes: Vec::new(),
        }
    }

    pub(super) fn plan(&mut self, script: Vec<(u64, Action)>) {
        for (ms, action) in script {
            self.at(ms, Step::Script(action));
        }
    }

    fn at(&mut self, ms: u64, step: Step) {
        self.planned += 1;
        self.due.insert((ms, self.planned), step);
    }

    fn after(&mut self, ms: u64, step: Step) {
        let now = self.began.elapsed().as_millis() as u64;
        self.at(now + ms, step);
    }

    /// The next step and its time.
    pub(super) fn next(&mut self) -> Option<(u64, Step)> {
        let ((ms, _), step) = self.due.pop_first()?;
        Some((ms, step))
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn node(&self, host: usize) -> &'env NodePlace {
        &self.net.nodes()[host]
    }

    /// Who it happens to; nobody while nobody leads.
    fn whom(&self, whom: Whom) -> Option<String> {
        match whom {
            Whom::Host(host) => Some(self.node(host).name.clone()),
            Whom::Leader => self.people.leader(),
        }
    }

    pub(super) fn carry_out(&mut self, step: Step) -> Outcome<()> {
        match step {
            Step::Script(action) => self.act(action),
            Step::Start(name) => {
                if self.net.processes(&name).agent.is_none() {
                    self.say(&format!("{name} starts"));
                    self.net.start(&name)?;
                }
                Ok(())
            }
            Step::Continue(name) => {
                self.say(&format!("{name} goes on"));
                self.people.go_on(&name)?;
                Ok(())
            }
        }
    }

    fn act(&mut self, action: Action) -> Outcome<()> {
        match action {
            Action::Crash {
                whom,
                whole,
                down_ms,
            } => {
                let Some(name) = self.whom(whom) else {
                    return Ok(());
                };
                self.crash(&name, whole)?;
                self.after(down_ms, Step::Start(name));
            }
            Action::Pause { whom, ms } => {
                if let Some(name) = self.whom(whom) {
                    self.pause(name, ms)?;
                }
            }
            Action::IsolateLeader { ms } => {
                if let Some(name) = self.whom(Whom::Leader) {
                    self.pause(name, ms)?;
                }
            }
            Action::Part { side, ms, .. } => self.pause_all(&side, ms)?,
            Action::Admit { host } => {
                let name = &self.node(host).name;
                let token = self.net.token(1)?;
                self.say(&format!("{name} joins"));
                self.net.start_joining(name, &token)?;
            }
            Action::Start { host } => {
                let name = self.node(host).name.clone();
                self.carry_out(Step::Start(name))?;
            }
            Action::Submit { .. }
            | Action::Run { .. }
            | Action::Stop { .. }
            | Action::Rollout { .. }
            | Action::Drain { .. } => self.ask(&action)?,
            Action::Heal => {}
            action => return Err(format!("{action:?} can't be done to processes").into()),
        }
        Ok(())
    }

    fn crash(&mut self, name: &str, whole: bool) -> Outcome<()> {
        let what = match whole {
            true => "dies whole",
            false => "loses its agent",
        };
        self.say(&format!("{name} {what}"));
        self.people.go_on(name)?;
        match whole {
            true => self.net.kill(name)?,
            false => self.net.kill_agent(name)?,
        }
        Ok(())
    }

    fn pause(&mut self, name: String, ms: u64) -> Outcome<()> {
        self.say(&format!("{name} is stopped for {ms} ms"));
        self.people.hold(&name);
        self.net.signal_agent(&name, Signal::SIGSTOP)?;
        self.after(ms, Step::Continue(name));
        Ok(())
    }

    fn pause_all(&mut self, side: &HostSet, ms: u64) -> Outcome<()> {
        for host in side.iter().filter(|host| *host < self.net.nodes().len()) {
            self.pause(self.node(host).name.clone(), ms)?;
        }
        Ok(())
    }

    /// A person asks, beside all else, until there is an answer.
    fn ask(&mut self, action: &Action) -> Outcome<()> {
        let change = self.people.change(action)?;
        self.say(&change.words());
        let people = self.people;
        self.changes
            .push(self.scope.spawn(move || people.insist(change)));
        Ok(())
    }

    /// Ends all faults: all go on, all start, nothing is drained or paused.
    pub(super) fn heal(&mut self) -> Outcome<()> {
        for name in self.net.names() {
            self.people.go_on(&name)?;
        }
        while let Some((_, step)) = self.next() {
            if let Step::Start(_) = step {
                self.carry_out(step)?;
            }
        }
        for name in self.net.names() {
            if self.people.is_member(&name) {
                self.carry_out(Step::Start(name))?;
            }
        }
        Ok(())
    }

    /// What became of the changes, once all are answered.
    pub(super) fn answers(&mut self) -> Outcome<Vec<super::people::Change>> {
        let changes = std::mem::take(&mut self.changes);
        let answers = changes.into_iter().map(|waiting| match waiting.join() {
            Ok(answer) => Ok(answer?),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        answers.collect()
    }
}
