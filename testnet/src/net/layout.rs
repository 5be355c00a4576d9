//! What a testnet consists of.

use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The port of every node; their addresses differ.
pub(super) const PORT: u16 = 7400;

/// First number of the addresses: of loopback, and of private networks.
pub(super) const LOOPBACK: u8 = 127;
pub(super) const PRIVATE: u8 = 10;

/// A testnet as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Second number of the addresses: two testnets of one machine differ in
    /// it.
    pub block: u8,
    /// The nodes, the first one being where the fleet began.
    pub nodes: Vec<NodePlace>,
}

/// One node of a testnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePlace {
    /// Its name.
    pub name: String,
    /// Its rack.
    pub rack: String,
    /// Where it is reached.
    pub address: SocketAddr,
}

impl Layout {
    /// `nodes` nodes over `racks` racks in turn, with addresses that begin with
    /// `network` and `block`.
    pub fn new(network: u8, block: u8, nodes: u8, racks: u8) -> Layout {
        let nodes = (0..nodes)
            .map(|k| {
                let (rack, host) = (k % racks + 1, k / racks + 1);
                NodePlace {
                    name: format!("r{rack}h{host}"),
                    rack: format!("r{rack}"),
                    address: SocketAddr::from((Ipv4Addr::new(network, block, rack, host), PORT)),
                }
            })
            .collect();
        Layout { block, nodes }
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&NodePlace> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// Where things lie in a testnet's folder.
pub(super) fn file(root: &Path) -> PathBuf {
    root.join("testnet.json")
}

/// A node's data folder. Short, since socket paths are.
pub(super) fn data(root: &Path, name: &str) -> PathBuf {
    root.join(name)
}

/// Where a node writes what it logs.
pub(super) fn log(root: &Path, name: &str) -> PathBuf {
    root.join(format!("{name}.log"))
}

/// The person's keys.
pub(super) fn config(root: &Path) -> PathBuf {
    root.join("config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_spread_over_racks() {
        let layout = Layout::new(LOOPBACK, 0, 6, 3);
        let names: Vec<&str> = layout.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["r1h1", "r2h1", "r3h1", "r1h2", "r2h2", "r3h2"]);
        assert_eq!(layout.nodes[4].address.to_string(), "127.0.2.2:7400");
    }
}
