//! Tasks of a host that got another address while its agent was away: they
//! listen where they were told, which is no longer where anybody looks for
//! them. Leaves to the actor to stop them; `Host` then starts them anew.

use potluck_helper::{TaskDescription, description::DESCRIPTION_FILE};
use potluck_specs::job::StopPolicy;
use std::{net::IpAddr, path::Path};

/// The variable that tells tasks where to listen.
pub(super) const ADDRESS: &str = "POTLUCK_ADDRESS";

/// How to stop the task of this start, if it was told another address than
/// the host has now. One whose description can't be read is let alone.
pub(super) fn must_stop(start: &Path, address: IpAddr) -> Option<StopPolicy> {
    let description = TaskDescription::read(&start.join(DESCRIPTION_FILE)).ok()?;
    let told: IpAddr = description.env.get(ADDRESS)?.parse().ok()?;
    (told != address).then_some(description.stop)
}
