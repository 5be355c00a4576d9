//! The join token: what a person carries from a cluster to a new host.

use super::NodeRole;
use crate::{FleetId, Millis, codec};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest token as text; ours are under 300 bytes.
pub const TOKEN_TEXT_BYTES_MAX: usize = 1_024;

/// First part of a token's text: says what it is and the version of its form.
const PREFIX: &str = "potluck1-";

/// Bytes of BLAKE3 at the end, so that a typing error is told from a refusal.
const CHECK_BYTES: usize = 4;

/// A join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Pins the root, before the secret leaves the joiner.
    pub fleet: FleetId,
    /// The cluster to join.
    pub cluster: String,
    /// Names the token in the log and in listings; not secret.
    pub id: String,
    /// Shown once; the log holds its hash.
    #[serde(with = "serde_bytes")]
    pub secret: [u8; 16],
    /// What its nodes may be chosen for.
    pub roles: Vec<NodeRole>,
    /// The only rack that it admits to, if it names one.
    pub rack: Option<String>,
    /// How many nodes it admits.
    pub uses: u32,
    /// Its end, Unix time.
    pub expires: Millis,
}

/// BLAKE3 of a token's secret.
pub type TokenSecretHash = [u8; 32];

/// Text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not made by `potluck token create`.
    #[error("this is not a join token: one starts with \"potluck1-\"")]
    NotAToken,
    /// Cut off or mistyped.
    #[error("the join token is damaged: was it copied whole?")]
    Damaged,
}

impl Token {
    /// What the log keeps of the secret.
    pub fn secret_hash(&self) -> TokenSecretHash {
        *blake3::hash(&self.secret).as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = codec::encode(self);
        let check = blake3::hash(&bytes);
        bytes.extend(&check.as_bytes()[..CHECK_BYTES]);
        write!(
            f,
            "{PREFIX}{}",
            BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        )
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Damaged);
        }
        let bytes = BASE32_NOPAD
            .decode(body.to_ascii_uppercase().as_bytes())
            .map_err(|_| TokenError::Damaged)?;
        let (bytes, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(TokenError::Damaged)?;
        if blake3::hash(bytes).as_bytes()[..CHECK_BYTES] != check[..] {
            return Err(TokenError::Damaged);
        }
        codec::decode_canonical("join token", bytes, TOKEN_TEXT_BYTES_MAX)
            .map_err(|_| TokenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            fleet: FleetId([7; 32]),
            cluster: "main".into(),
            id: "k3x9".into(),
            secret: [5; 16],
            roles: vec![NodeRole::Agent, NodeRole::VoterEligible],
            rack: None,
            uses: 1,
            expires: Millis(1),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let text = token().to_string();
        assert!(text.len() < 400, "{}", text.len());
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
    }

    #[test]
    fn tells_damage_from_nonsense() {
        let text = token().to_string();
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NotAToken));
        for end in PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<Token>(), Err(TokenError::Damaged));
        }
    }
}
