//! Join tokens: made, counted, withdrawn.

use super::{Admission, Cluster, Command, Refused, Reply, TokenRefusal, members::MEMBERS_MAX};
use potluck_specs::{
    Millis, NodeId,
    trust::{NodeCredential, NodeRole, TokenSecretHash},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most tokens at a time: one for each node of a full cluster.
pub const TOKENS_MAX: usize = 1_000;

/// Longest id of a token, and name of a rack in it.
pub(super) const TOKEN_ID_BYTES_MAX: usize = 63;

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

impl Cluster {
    pub(super) fn change_tokens(&mut self, command: &Command) -> Reply {
        match command {
            Command::CreateToken {
                change: _,
                id,
                secret_hash,
                roles,
                rack,
                uses,
                expires,
                now,
            } => {
                let token = TokenRecord {
                    secret_hash: *secret_hash,
                    roles: roles.clone(),
                    rack: rack.clone(),
                    uses_left: *uses,
                    expires: *expires,
                    redeemed: BTreeMap::new(),
                };
                self.create_token(id, token, *now)
            }
            Command::RemoveToken { id, .. } => match self.tokens.remove(id) {
                Some(_) => Reply::Done,
                None => Reply::refused(Refused::NoSuchToken { id: id.clone() }),
            },
            Command::RedeemToken {
                token,
                secret_hash,
                admission,
                now,
            } => self.redeem(token, secret_hash, admission, *now),
            _ => Reply::Done,
        }
    }

    fn create_token(&mut self, id: &str, token: TokenRecord, now: Millis) -> Reply {
        self.tokens.retain(|_, token| token.expires >= now);
        if self.tokens.contains_key(id) {
            return Reply::refused(Refused::TokenExists { id: id.into() });
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Reply::too_many("tokens", TOKENS_MAX);
        }
        if id.len() > TOKEN_ID_BYTES_MAX {
            return Reply::too_many("bytes in a token's id", TOKEN_ID_BYTES_MAX);
        }
        self.tokens.insert(id.into(), token);
        Reply::Done
    }

    fn redeem(
        &mut self,
        id: &str,
        secret_hash: &TokenSecretHash,
        admission: &Admission,
        now: Millis,
    ) -> Reply {
        let roles = match self.redeemable(id, secret_hash, admission, now) {
            Ok(Redeem::Anew { roles }) => roles,
            Ok(Redeem::Before { credential }) => return Reply::Admitted { credential },
            Err(why) => return Reply::TokenRefused { why },
        };
        if let Some(token) = self.tokens.get_mut(id) {
            token.uses_left = token.uses_left.saturating_sub(1);
            token
                .redeemed
                .insert(admission.node, admission.credential.clone());
        }
        self.admit(admission, &roles, now);
        Reply::Admitted {
            credential: Box::new(admission.credential.clone()),
        }
    }

    /// Would the token admit this node? The leader asks before it signs a
    /// certificate, and `apply` again, since another may have come first.
    ///
    /// # Errors
    /// Any [`TokenRefusal`].
    pub fn redeemable(
        &self,
        id: &str,
        secret_hash: &TokenSecretHash,
        admission: &Admission,
        now: Millis,
    ) -> Result<Redeem, TokenRefusal> {
        let token = self.tokens.get(id).ok_or(TokenRefusal::Unknown)?;
        if token.secret_hash != *secret_hash {
            return Err(TokenRefusal::WrongSecret);
        }
        if let Some(credential) = token.redeemed.get(&admission.node) {
            return Ok(Redeem::Before {
                credential: Box::new(credential.clone()),
            });
        }
        if now > token.expires {
            return Err(TokenRefusal::Expired);
        }
        if token.uses_left == 0 {
            return Err(TokenRefusal::UsedUp);
        }
        self.check_place(token, admission)?;
        Ok(Redeem::Anew {
            roles: token.roles.clone(),
        })
    }

    fn check_place(&self, token: &TokenRecord, admission: &Admission) -> Result<(), TokenRefusal> {
        if let Some(ours) = self.name()
            && ours != admission.topology.cluster
        {
            return Err(TokenRefusal::WrongCluster { ours: ours.into() });
        }
        if let Some(allowed) = &token.rack
            && *allowed != admission.topology.rack
        {
            let allowed = allowed.clone();
            return Err(TokenRefusal::WrongRack { allowed });
        }
        if let Some(other) = self.member_named(&admission.name.0)
            && other.node != admission.node
        {
            return Err(TokenRefusal::NameTaken {
                name: admission.name.clone(),
                by: other.node,
            });
        }
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&admission.node) {
            return Err(TokenRefusal::ClusterFull {
                members: self.members.len() as u32,
            });
        }
        Ok(())
    }
}

/// What a token does for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redeem {
    /// It admits the node, with these roles.
    Anew {
        /// The token's.
        roles: Vec<NodeRole>,
    },
    /// It admitted the node before, with this answer.
    Before {
        /// What it was given.
        credential: Box<NodeCredential>,
    },
}
