//! Groups made by cgroups-rs, with those of their limits that it sets well:
//! shares of processors, numbers of processes, and memory of v1.
//!
//! It drops some errors, and its place of the unified hierarchy is fixed. So
//! nothing here is relied on: `potluck_helper::group` reads each limit
//! afterwards, sets what is not so, and says what can't be had.

use cgroups_rs::fs::{
    Cgroup, Hierarchy, MaxValue, Subsystem,
    hierarchies::{V1, V2, is_cgroup2_unified_mode},
};
use potluck_helper::group::{Limits, Place, TaskGroup, Version};
use potluck_specs::cause::root;
use std::path::Path;

/// Makes the groups of `group`, which `name` has below each hierarchy, and sets
/// their limits.
pub(super) fn make(group: &TaskGroup, name: &Path, limits: &Limits) {
    for place in &group.places {
        if let Err(why) = make_one(place, name, limits) {
            let controller = place.controller.name();
            tracing::debug!(controller, why, "cgroups-rs did not limit this");
        }
    }
}

fn make_one(place: &Place, name: &Path, limits: &Limits) -> Result<(), String> {
    let Some(hierarchy) = hierarchy(place.version) else {
        return Ok(());
    };
    let controllers = vec![place.controller.name_in_v1().to_owned()];
    let group = Cgroup::load_with_specified_controllers(hierarchy, name, controllers);
    group.create().map_err(|error| root(&error))?;
    for subsystem in group.subsystems() {
        limit(subsystem, place.version, limits).map_err(|error| root(&error))?;
    }
    Ok(())
}

/// That of v2 is taken to be the only one, in the usual place.
fn hierarchy(version: Version) -> Option<Box<dyn Hierarchy>> {
    match version {
        Version::V1 => Some(Box::new(V1::new())),
        Version::V2 if is_cgroup2_unified_mode() => Some(Box::new(V2::new())),
        Version::V2 => None,
    }
}

fn limit(
    subsystem: &Subsystem,
    version: Version,
    limits: &Limits,
) -> Result<(), cgroups_rs::fs::error::Error> {
    match subsystem {
        Subsystem::Cpu(cpu) => cpu.set_shares(limits.cpu_share(version)),
        Subsystem::Pid(pids) => match limits.pids.and_then(|pids| i64::try_from(pids).ok()) {
            Some(most) => pids.set_pid_max(MaxValue::Value(most)),
            None => Ok(()),
        },
        // Of v2 it knows the wall alone, which is not the limit.
        Subsystem::Mem(memory) if version == Version::V1 => {
            match limits
                .memory_bytes
                .and_then(|bytes| i64::try_from(bytes).ok())
            {
                Some(bytes) => memory.set_limit(bytes),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_helper::group::{Controller, Hierarchies};
    use std::fs;

    /// Where this process may make groups; elsewhere nothing is made, and
    /// nothing said to be.
    #[test]
    fn shares_and_counts_are_set_where_groups_can_be_made() {
        let name = format!("potluck/library-test-{}", std::process::id());
        let name = Path::new(&name);
        let group = Hierarchies::detect().group(name);
        let limits = Limits {
            cpu_request_millis: 250,
            pids: Some(77),
            ..Limits::default()
        };
        make(&group, name, &limits);
        let mut made = 0;
        for (controller, file) in [
            (Controller::Pids, "pids.max"),
            (Controller::Cpu, "cpu.shares"),
        ] {
            let place = group.place(controller);
            let text = place.and_then(|place| fs::read_to_string(place.folder.join(file)).ok());
            let wanted = if controller == Controller::Pids {
                "77"
            } else {
                "256"
            };
            if let Some(text) = text {
                assert_eq!(text.trim(), wanted, "{file}");
                made += 1;
            }
        }
        for folder in group.folders() {
            // Made by nobody, where this process may not.
            let _ = fs::remove_dir(&folder);
            assert!(!folder.exists(), "{}", folder.display());
        }
        println!("{made} limits were set by the library");
    }
}
