//! Is a letter of now? Clocks of two nodes need not agree, so its receiver's
//! own clock says it.
//!
//! ```text
//! writer --letter, echoes nothing----------> receiver: not taken, token 1
//! writer --letter, echoes token 1----------> receiver: taken, token 2
//! writer --letter, echoes token 2----------> receiver: taken, token 3
//! carrier -a letter that it kept, token 2--> receiver: not taken, it is too old
//! ```
//!
//! Law: a letter is taken at most [`HOLDS`] after its receiver gave the token
//! that it echoes, so whoever carries it can delay it for no longer, and one
//! that was written for an earlier process of the receiver is never taken.

use potluck_specs::{Millis, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a token may be echoed. Two heartbeats and the longest way of a
/// letter: a session goes on without a letter that is written twice, and a
/// host that died looks alive for no longer.
pub const HOLDS: Millis = Millis(3_500);

/// Receivers whose tokens are kept: the most members that a cluster may have.
const RECEIVERS_MAX: usize = 1_000;

/// Given with each answer, echoed by the next letter. Not secret: the letters
/// that bear it are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The process that gave it: random, new with each start.
    pub process: u64,
    /// When, on that node's boot clock.
    pub at: Millis,
}

impl Token {
    /// Does it come from this process, and not too long ago?
    pub fn is_fresh(self, process: u64, now: Millis) -> bool {
        self.process == process && self.at <= now && now.since(self.at) < HOLDS
    }
}

/// The last token of each receiver, as its letters' writer keeps them.
#[derive(Debug, Default)]
pub struct Tokens(BTreeMap<NodeId, Token>);

impl Tokens {
    /// A receiver gave one. An answer that was overtaken takes nothing back.
    pub fn given(&mut self, by: NodeId, token: Token) {
        let newer = |known: &Token| known.process != token.process || known.at <= token.at;
        if self.0.get(&by).is_some_and(|known| !newer(known)) {
            return;
        }
        if !self.0.contains_key(&by) && self.0.len() >= RECEIVERS_MAX {
            // Any: a lost one costs a letter that is written twice.
            self.0.pop_first();
        }
        self.0.insert(by, token);
    }

    /// What the next letter to this receiver echoes.
    pub fn of(&self, receiver: NodeId) -> Option<Token> {
        self.0.get(&receiver).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn token(process: u64, at: u64) -> Token {
        Token {
            process,
            at: Millis(at),
        }
    }

    #[test]
    fn a_token_is_good_for_a_moment_and_for_one_process() {
        let given = token(7, 10_000);
        let table = [
            (7, 10_000, true),
            (7, 10_000 + HOLDS.0 - 1, true),
            (7, 10_000 + HOLDS.0, false),
            // Of a time that has not come: another boot.
            (7, 9_999, false),
            (8, 10_000, false),
        ];
        for (process, now, fresh) in table {
            assert_eq!(
                given.is_fresh(process, Millis(now)),
                fresh,
                "{process} {now}"
            );
        }
    }

    #[test]
    fn the_latest_token_is_echoed() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut tokens = Tokens::default();
        assert_eq!(tokens.of(a), None);
        tokens.given(a, token(1, 500));
        tokens.given(a, token(1, 400));
        assert_eq!(tokens.of(a), Some(token(1, 500)), "one that was overtaken");
        tokens.given(a, token(2, 3));
        assert_eq!(tokens.of(a), Some(token(2, 3)), "it was started anew");
        assert_eq!(tokens.of(b), None);
        for number in 0..=RECEIVERS_MAX as u64 {
            let mut id = [9; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            tokens.given(NodeId(id), token(1, 1));
        }
        assert_eq!(tokens.0.len(), RECEIVERS_MAX);
    }
}
