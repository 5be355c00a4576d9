//! The control group's messages, carried over the network.

use crate::{
    control::{PeerError, RaftPeers},
    network::{Network, RequestError},
    wire::{Request, Response},
};
use async_trait::async_trait;
use potluck_specs::NodeId;
use std::time::Duration;

/// Carries the control group's messages.
pub(super) struct Peers(pub Network);

#[async_trait]
impl RaftPeers for Peers {
    async fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, PeerError> {
        match self.0.request(to, Request::Raft(message), limit).await {
            Ok(Response::Raft(answer)) => Ok(answer),
            Err(RequestError::Timeout) => Err(PeerError::Timeout(to)),
            Ok(_) | Err(_) => Err(PeerError::Unreachable(to)),
        }
    }
}
