//! Control groups that killed nodes leave behind: nobody else removes them,
//! since a killed agent can't.

use potluck_specs::trust::SecretKey;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Removes the groups of every node of the testnet in `root`.
pub(super) fn remove(root: &Path) {
    let nodes = fs::read_dir(root).into_iter().flatten().flatten();
    for node in nodes.filter_map(|entry| short_id(&entry.path())) {
        for hierarchy in hierarchies() {
            remove_tree(&hierarchy.join("potluck").join(&node));
            // Succeeds for the last node of this machine only.
            let _ = fs::remove_dir(hierarchy.join("potluck"));
        }
    }
}

/// Every group below those of the node whose data is in `data`.
pub(super) fn of(data: &Path) -> Vec<PathBuf> {
    let Some(node) = short_id(data) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = hierarchies()
        .iter()
        .map(|hierarchy| hierarchy.join("potluck").join(&node))
        .collect();
    while let Some(group) = todo.pop() {
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
                todo.push(entry.path());
            }
        }
    }
    found
}

/// The short id of the node with this data folder.
fn short_id(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("node.key")).ok()?;
    Some(SecretKey::from_hex(&text)?.node().short())
}

fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = below.map(|entry| entry.path()).collect();
    all.push(root.into());
    all
}

/// Groups are removed from the leaves up; their files go with them.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
