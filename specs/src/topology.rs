//! The place of a host, widest level first.

use crate::ids::{NameError, check_name};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// `region/datacenter/cluster/rack` of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Widest level.
    pub region: String,
    /// A building or campus.
    pub datacenter: String,
    /// One gossip pool and one control group.
    pub cluster: String,
    /// What fails together: a switch, a power strip.
    pub rack: String,
}

impl Topology {
    /// The default place in a cluster: everything but the rack is `default`.
    pub fn in_rack(cluster: &str, rack: &str) -> Topology {
        Topology {
            region: "default".into(),
            datacenter: "default".into(),
            cluster: cluster.into(),
            rack: rack.into(),
        }
    }

    /// Checks every level as a name.
    ///
    /// # Errors
    /// The first level that is no name.
    pub fn check(&self) -> Result<(), NameError> {
        for part in [&self.region, &self.datacenter, &self.cluster, &self.rack] {
            check_name(part)?;
        }
        Ok(())
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.region, self.datacenter, self.cluster, self.rack
        )
    }
}

impl FromStr for Topology {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Topology, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let [region, datacenter, cluster, rack] = parts[..] else {
            return Err(NameError {
                name: text.into(),
                why: "needs region/datacenter/cluster/rack",
            });
        };
        let topology = Topology {
            region: region.into(),
            datacenter: datacenter.into(),
            cluster: cluster.into(),
            rack: rack.into(),
        };
        topology.check()?;
        Ok(topology)
    }
}
