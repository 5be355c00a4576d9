//! `${slot.index}`: what is known only when a task starts, in its arguments,
//! environment and files.
//!
//! Ours is exactly `${word.word}` in lower-case letters, digits and hyphens.
//! Anything else between `${` and `}` is left as it is, since shells and many
//! programs use the same signs: `${HOME}` and `${1:-x}` stay. To write ours
//! itself, a second `$` is put in front: `$${slot.index}`; each pair of them
//! stands for one.

use crate::{JobName, NodeId, NodeName, SlotId, Topology, suggestion::nearest};
use std::collections::BTreeMap;

/// Every name but those of ports (`port.NAME`).
pub const NAMES: &[&str] = &[
    "job.name",
    "job.namespace",
    "job.version",
    "node.address",
    "node.cluster",
    "node.datacenter",
    "node.id",
    "node.name",
    "node.rack",
    "node.region",
    "slot.id",
    "slot.index",
    "task.dir",
];

/// Longest text after expansion: some times the largest job, so that a short
/// text with many names can't fill a node's memory.
pub const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// What the names stand for.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    /// The slot that the task fills.
    pub slot: &'a SlotId,
    /// The version of its job.
    pub version: u64,
    /// The node's name.
    pub node: &'a NodeName,
    /// The node.
    pub node_id: NodeId,
    /// Where clients reach the node.
    pub address: &'a str,
    /// Where the node stands.
    pub topology: &'a Topology,
    /// The task's own folder, as the task sees it.
    pub task_dir: &'a str,
    /// The numbers of its ports.
    pub ports: &'a BTreeMap<String, u16>,
}

impl Values<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let JobName {
            namespace,
            name: job,
        } = &self.slot.job;
        Some(match name {
            "job.name" => job.clone(),
            "job.namespace" => namespace.clone(),
            "job.version" => self.version.to_string(),
            "node.address" => self.address.into(),
            "node.cluster" => self.topology.cluster.clone(),
            "node.datacenter" => self.topology.datacenter.clone(),
            "node.id" => self.node_id.to_hex(),
            "node.name" => self.node.0.clone(),
            "node.rack" => self.topology.rack.clone(),
            "node.region" => self.topology.region.clone(),
            "slot.id" => self.slot.to_string(),
            "slot.index" => self.slot.index.to_string(),
            "task.dir" => self.task_dir.into(),
            _ => self.ports.get(name.strip_prefix("port.")?)?.to_string(),
        })
    }
}

/// A text that can't be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A name that stands for nothing.
    #[error("${{{name}}} stands for nothing")]
    Unknown {
        /// Without `${` and `}`.
        name: String,
    },
    /// Longer than [`EXPANDED_BYTES_MAX`].
    #[error("the text is longer than {EXPANDED_BYTES_MAX} bytes once its names are filled in")]
    TooLong,
}

/// Puts values in the place of names.
///
/// # Errors
/// [`ExpandError`].
pub fn expand(text: &str, values: &Values) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Name(name) => {
                let unknown = || ExpandError::Unknown { name: name.into() };
                expanded.push_str(&values.get(name).ok_or_else(unknown)?);
            }
        }
        if expanded.len() > EXPANDED_BYTES_MAX {
            return Err(ExpandError::TooLong);
        }
    }
    Ok(expanded)
}

/// The names in a text, in their order.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Name(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// Texts that are left as they are but look as if they were meant for us: the
/// group of one of ours, in other letters, without its end or without a word.
pub fn near_names(text: &str) -> Vec<&str> {
    const GROUPS: [&str; 5] = ["job", "node", "port", "slot", "task"];
    let mut found = Vec::new();
    for (start, _) in text.match_indices("${") {
        let escaped = text[..start].ends_with('$');
        let inside = &text[start + 2..];
        let sign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let name = &inside[..inside.find(sign).unwrap_or(inside.len())];
        let group = name.split('.').next().unwrap_or(name);
        let is_ours = GROUPS.contains(&group.to_ascii_lowercase().as_str());
        let dotted = name.contains('.');
        // `${PORT}` and `${slot_id}` are a shell's.
        let meant = is_ours && (dotted || group.chars().all(|c| c.is_ascii_lowercase()));
        let end = start + 2 + name.len() + usize::from(inside[name.len()..].starts_with('}'));
        if meant && !escaped && name_at(&text[start..]).is_none() {
            found.push(&text[start..end]);
        }
    }
    found
}

/// Would [`expand`] change the text?
pub fn changes(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if name_at(&rest[start..]).is_some() {
            return true;
        }
        rest = &rest[start + 2..];
    }
    false
}

/// A text that expands to this one: for what was written before names were.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let dollars = rest[start..].bytes().take_while(|b| *b == b'$').count();
        let end = start + dollars;
        escaped.push_str(&rest[..end]);
        if name_at(&rest[end - 1..]).is_some() {
            escaped.push_str(&"$".repeat(dollars));
        }
        rest = &rest[end..];
    }
    escaped + rest
}

/// What a name stands for can be known: either one of [`NAMES`] or a port of
/// the task.
pub fn is_known(name: &str, ports: &[&str]) -> bool {
    let port = name.strip_prefix("port.");
    NAMES.contains(&name) || port.is_some_and(|port| ports.contains(&port))
}

/// The name that was probably meant.
pub fn meant(name: &str, ports: &[&str]) -> Option<String> {
    let ports: Vec<String> = ports.iter().map(|port| format!("port.{port}")).collect();
    let all = NAMES
        .iter()
        .copied()
        .chain(ports.iter().map(String::as_str));
    nearest(name, all).map(Into::into)
}

enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(name) = name_at(rest) {
            rest = &rest[name.len() + 3..];
            return Some(Piece::Name(name));
        }
        let (piece, left) = text_piece(rest);
        rest = left;
        Some(Piece::Text(piece))
    })
}

/// The text up to the next name, without the signs that only escape, and what
/// is left. Never takes nothing from a text that begins with no name.
fn text_piece(text: &str) -> (&str, &str) {
    let mut from = 0;
    while let Some(found) = text[from..].find('$') {
        let start = from + found;
        let dollars = text[start..].bytes().take_while(|b| *b == b'$').count();
        let end = start + dollars;
        if name_at(&text[end - 1..]).is_none() {
            from = end;
            continue;
        }
        // Half of the pairs stay. An odd sign at the end begins a name; after
        // an even number the braces are text.
        let kept = start + dollars / 2;
        if dollars % 2 == 1 {
            return (&text[..kept], &text[end - 1..]);
        }
        // What is left begins with a brace, so it is no name.
        return (&text[..kept], &text[end..]);
    }
    (text, "")
}

/// The name of `${name}` at the beginning of a text.
fn name_at(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("${")?;
    let name = &inside[..inside.find('}')?];
    let (group, word) = name.split_once('.')?;
    let is_word = |word: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !word.is_empty() && word.bytes().all(allowed)
    };
    (is_word(group) && is_word(word)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> Result<String, ExpandError> {
        let slot = SlotId {
            job: "shop/web".parse().unwrap(),
            index: 3,
        };
        let ports = BTreeMap::from([("http".to_owned(), 20_000), ("a-b".to_owned(), 7)]);
        let values = Values {
            slot: &slot,
            version: 12,
            node: &NodeName("n1".into()),
            node_id: NodeId([7; 32]),
            address: "10.0.0.1",
            topology: &"eu/dc1/main/r2".parse().unwrap(),
            task_dir: "/task",
            ports: &ports,
        };
        expand(text, &values)
    }

    #[test]
    fn names_are_filled_in_and_the_rest_stays() {
        for (text, expected) in [
            ("", ""),
            (
                "plain $HOME ${HOME} ${HOME:-a.b} $$ ${",
                "plain $HOME ${HOME} ${HOME:-a.b} $$ ${",
            ),
            ("${slot.index}", "3"),
            ("a${slot.index}b${port.http}c", "a3b20000c"),
            (
                "${slot.id} ${job.namespace}/${job.name} v${job.version}",
                "shop/web[3] shop/web v12",
            ),
            (
                "${node.region}/${node.datacenter}/${node.cluster}/${node.rack}",
                "eu/dc1/main/r2",
            ),
            (
                "${node.name} ${node.address} ${task.dir}/x ${port.a-b}",
                "n1 10.0.0.1 /task/x 7",
            ),
            ("$${slot.index}", "${slot.index}"),
            ("$$${slot.index}", "$3"),
            ("$$$${slot.index}", "$${slot.index}"),
            ("$${slot.index}${slot.index}", "${slot.index}3"),
            (
                "$$x $${x} ${Slot.index} ${slot.Index}",
                "$$x $${x} ${Slot.index} ${slot.Index}",
            ),
            ("${${slot.index}}", "${3}"),
            ("ü${slot.index}ü", "ü3ü"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, name) in [
            ("${slot.indx}", "slot.indx"),
            ("${port.admin}", "port.admin"),
        ] {
            assert_eq!(
                expanded(text),
                Err(ExpandError::Unknown { name: name.into() })
            );
        }
    }

    #[test]
    fn every_name_stands_for_something() {
        for name in NAMES {
            let text = expanded(&format!("${{{name}}}")).unwrap();
            assert!(!text.is_empty() && is_known(name, &[]), "{name}");
        }
        assert!(is_known("port.http", &["http"]) && !is_known("port.http", &["admin"]));
        assert_eq!(meant("slot.indx", &[]).as_deref(), Some("slot.index"));
        assert_eq!(meant("port.htpp", &["http"]).as_deref(), Some("port.http"));
    }

    #[test]
    fn a_short_text_does_not_become_a_long_one() {
        let text = "${node.id}".repeat(EXPANDED_BYTES_MAX / 64 + 1);
        assert_eq!(expanded(&text), Err(ExpandError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_escaped_stays(text in "([$]{0,4}[{]?(slot.index|x|a.b|HOME)?[}]?){0,8}|\\PC{0,40}") {
            let escaped = escape(&text);
            prop_assert_eq!(names(&escaped).count(), 0);
            prop_assert_eq!(expanded(&escaped), Ok(text.clone()));
            if !changes(&text) {
                prop_assert_eq!(&escaped, &text);
                prop_assert_eq!(expanded(&text), Ok(text));
            }
        }
    }
}
