//! What happened, for the reader of a failure: who, what, what was decided and
//! why, in lines, of which those are shown that tell of the failure.

use potluck_core::auction::{CallAnswer, Refusal};
use std::collections::{BTreeSet, VecDeque};

/// Lines kept: a minute of a small cluster, a second of a large one.
const LINES_MAX: usize = 100_000;

/// Lines shown: what a person can follow.
const SHOWN_MAX: usize = 600;

/// How to read the lines.
pub const LEGEND: &str = "\
# seconds, then who and what. hN is a host, \"hN <- hM\" what hN was asked by hM and
# answered, \"--\" what people or misfortune did, \"hN notes\" why its scheduler acts.
# Generations are epoch.reign.sequence. Of many lines only those are shown that tell
# of what the failure names, of leaders, and of what befell the cluster.";

/// A bounded ring of lines; off, it costs nothing.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// Kept or not.
    pub fn new(on: bool) -> Trace {
        Trace {
            on,
            lines: VecDeque::new(),
        }
    }

    /// One line, made only if it is kept.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        self.lines
            .push_back(format!("{seconds:>4}.{micros:06} {}", line()));
    }

    /// The last lines, oldest first, that tell of the hosts and slots that
    /// `failure` names; all of them if they are few.
    pub fn about(self, failure: &str) -> Vec<String> {
        let named: BTreeSet<&str> = words(failure).filter(|word| is_name(word)).collect();
        let few = self.lines.len() <= SHOWN_MAX || named.is_empty();
        let tells = |line: &String| {
            let of_all = [
                "-- ", " reign", " leads", "Brake", "loses", "dies", " starts",
            ];
            few || words(line).any(|word| named.contains(word))
                || of_all.iter().any(|word| line.contains(word)) && !line.contains('@')
        };
        let mut shown: Vec<String> = self.lines.into_iter().filter(tells).collect();
        shown.split_off(shown.len().saturating_sub(SHOWN_MAX))
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let between = |c: char| c.is_whitespace() || matches!(c, ',' | ':' | '@' | '(' | ')' | '\'');
    text.split(between)
}

/// `h17` or `web[3]`; leaders name too much.
fn is_name(word: &str) -> bool {
    let host = word.strip_prefix('h');
    let host =
        host.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    host || (word.ends_with(']') && word.contains('['))
}

/// An answer to a call, for people.
pub(super) fn bid(answer: &CallAnswer) -> String {
    match answer {
        CallAnswer::Bid(bid) => format!(
            "bids {} slots, {} millis and {} MiB are free",
            bid.slots,
            bid.free.cpu_millis,
            bid.free.memory_bytes >> 20
        ),
        CallAnswer::Refusal(refusal) => no(refusal),
    }
}

/// A refusal, for people.
pub(super) fn no(refusal: &Refusal) -> String {
    match refusal {
        Refusal::StaleAuthority { highest } => {
            format!("no: it has heard of reign {}", highest.reign.0)
        }
        Refusal::StaleGeneration { holds } => format!("no: it holds or ended {holds}"),
        other => format!("no: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_story_is_cut_to_what_it_is_about() {
        let mut trace = Trace::new(true);
        for k in 0..5_000u64 {
            trace.line(k, || format!("h{k} <- h0 award: web[{}] ok", k % 500));
        }
        trace.line(6_000, || "-- Heal".into());
        let lines = trace.about("h0 awards web[3] to h7");
        assert!(lines.len() <= SHOWN_MAX, "{}", lines.len());
        assert!(lines.iter().any(|line| line.ends_with("-- Heal")));
        let of_slot = lines.iter().filter(|line| line.contains("web[3] "));
        assert_eq!(of_slot.count(), 1, "only the last lines");
    }

    #[test]
    fn a_short_story_is_told_whole() {
        let mut trace = Trace::new(true);
        for k in 0..10 {
            trace.line(k, || "nothing".into());
        }
        assert_eq!(trace.about("h1").len(), 10);
        let mut off = Trace::new(false);
        off.line(1, || unreachable!());
        assert!(off.about("h1").is_empty());
    }
}
