//! Join tokens: made, counted, withdrawn.

use potluck_specs::{
    Millis, NodeId,
    trust::{NodeCredential, NodeRole, TokenSecretHash},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the log keeps of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Of its secret.
    #[serde(with = "serde_bytes")]
    pub secret_hash: TokenSecretHash,
    /// What its nodes may be chosen for.
    pub roles: Vec<NodeRole>,
    /// The only rack that it admits to, if it names one.
    pub rack: Option<String>,
    /// How many more nodes it admits.
    pub uses_left: u32,
    /// Its end, Unix time.
    pub expires: Millis,
    /// Whom it admitted, with the answer that each got.
    pub redeemed: BTreeMap<NodeId, NodeCredential>,
}
