//! Node ids and socket addresses as libp2p knows them, and back.

use std::net::{IpAddr, SocketAddr};

use libp2p::{
    Multiaddr, PeerId,
    identity::{Keypair, PublicKey, ed25519},
    multiaddr::Protocol,
};
use potluck_specs::{NodeId, trust::SecretKey};

/// The libp2p identity of a key.
pub(super) fn keypair(key: &SecretKey) -> Keypair {
    Keypair::ed25519_from_bytes(key.seed()).expect("any 32 bytes are an Ed25519 seed")
}

/// The peer id of a node; none if its 32 bytes are no public key.
pub(super) fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a peer id: Ed25519 keys travel in the id itself. None for other
/// kinds of key, which no node has.
pub(super) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(address.ip().into())
        .with(Protocol::Tcp(address.port()))
}

pub(super) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_addresses_read_what_they_write() {
        let key = SecretKey::from_seed([7; 32]);
        let peer = peer_id(key.node()).unwrap();
        assert_eq!(peer, keypair(&key).public().to_peer_id());
        assert_eq!(node_id(&peer), Some(key.node()));
        assert_eq!(node_id(&PeerId::random()), None);
        for text in ["127.0.3.1:80", "[::1]:4"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(&multiaddr(address)), Some(address));
        }
    }
}
