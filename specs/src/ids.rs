//! Ids are newtypes, so that a node is never taken for a package.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest name of a job, namespace, node, rack or service: what a DNS label
/// may hold (RFC 1035), since services are answered as DNS names.
pub const NAME_BYTES_MAX: usize = 63;

/// A name that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid name: {why}")]
pub struct NameError {
    /// What was given.
    pub name: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// Checks that `name` is a DNS label: lower-case letters, digits and inner
/// hyphens, at most [`NAME_BYTES_MAX`] bytes.
///
/// # Errors
/// The rule that is broken.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let fail = |why| {
        Err(NameError {
            name: name.chars().take(80).collect(),
            why,
        })
    };
    if name.is_empty() {
        return fail("it is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return fail("it is longer than 63 bytes");
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return fail("only a-z, 0-9 and '-' are allowed");
    }
    if name.starts_with('-') || name.ends_with('-') {
        return fail("it starts or ends with '-'");
    }
    Ok(())
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $len]);

        impl Ord for $name {
            /// By bytes. The first eight nearly always decide, and are
            /// compared without a call: ids are keys in every decision.
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let first = |id: &Self| id.0.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                first(self)
                    .cmp(&first(other))
                    .then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        /// Bytes on the wire, hexadecimal where people read (JSON).
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match to.is_human_readable() {
                    true => to.serialize_str(&self.to_hex()),
                    false => serde_bytes::serialize(&self.0, to),
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if !from.is_human_readable() {
                    return serde_bytes::deserialize(from).map(Self);
                }
                let text = <String as serde::Deserialize>::deserialize(from)?;
                let invalid = || serde::de::Error::custom("not the hexadecimal of an id");
                Self::from_hex(&text).ok_or_else(invalid)
            }
        }

        impl $name {
            /// Lower-case hexadecimal of all bytes.
            pub fn to_hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }

            /// Reads what [`Self::to_hex`] writes.
            pub fn from_hex(text: &str) -> Option<Self> {
                data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": format!("^[0-9a-f]{{{}}}$", 2 * $len),
                })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
pub(crate) use bytes_id;

bytes_id!(
    /// BLAKE3 of the root public key: names a fleet and pins its root.
    FleetId, 32
);

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex()[..16])
    }
}

bytes_id!(
    /// A node's Ed25519 public key, from which its libp2p peer id follows.
    NodeId, 32
);

impl NodeId {
    /// Twelve characters of base32 of the key's BLAKE3: what gossip and people
    /// use. Full ids would cut the size of a gossip pool to a third.
    pub fn short(&self) -> String {
        let hash = blake3::hash(&self.0);
        BASE32_NOPAD.encode(&hash.as_bytes()[..8])[..12].to_ascii_lowercase()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

bytes_id!(
    /// Made by a client for one change, so that a repeated request is known.
    ChangeId, 16
);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// What people call a node; unique in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `namespace/name` of a job; the namespace `default` is not shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobName {
    /// Who may touch the job is decided by namespace.
    pub namespace: String,
    /// Unique in the namespace.
    pub name: String,
}

/// The namespace of a job that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

impl JobName {
    /// A job in the default namespace.
    pub fn in_default(name: &str) -> JobName {
        JobName {
            namespace: DEFAULT_NAMESPACE.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace != DEFAULT_NAMESPACE {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for JobName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<JobName, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        check_name(namespace)?;
        check_name(name)?;
        Ok(JobName {
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

/// The k-th instance that a job asks for: `namespace/job[k]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotId {
    /// The job.
    pub job: JobName,
    /// Counts from 0.
    pub index: u32,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.job, self.index)
    }
}

impl FromStr for SlotId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<SlotId, NameError> {
        let fail = |why| NameError {
            name: text.chars().take(160).collect(),
            why,
        };
        let (job, rest) = text
            .split_once('[')
            .ok_or_else(|| fail("a task is written job[0]"))?;
        let index = rest
            .strip_suffix(']')
            .ok_or_else(|| fail("the ']' is missing"))?;
        let index = index
            .parse()
            .map_err(|_| fail("between '[' and ']' goes a number"))?;
        Ok(SlotId {
            job: job.parse()?,
            index,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_by_their_bytes() {
        let ids = [[0, 9], [9, 0], [1, 0], [0, 0], [255, 1], [255, 0]].map(|[first, last]| {
            let mut id = NodeId([first; 32]);
            id.0[31] = last;
            id
        });
        for one in ids {
            for other in ids {
                assert_eq!(one.cmp(&other), one.0.cmp(&other.0), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-2", "0a", &"x".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ü", &"x".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_read_what_they_write() {
        for text in ["web[0]", "team/web[4294967295]"] {
            assert_eq!(text.parse::<SlotId>().unwrap().to_string(), text);
        }
        for bad in [
            "web", "web[", "web[]", "web[-1]", "web[1]x", "[1]", "a/b/c[0]",
        ] {
            assert!(bad.parse::<SlotId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn short_ids_fit_gossip() {
        assert_eq!(NodeId([7; 32]).short().len(), 12);
        assert_ne!(NodeId([7; 32]).short(), NodeId([8; 32]).short());
    }
}
