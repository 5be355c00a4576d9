//! Requirements over the attributes of nodes: `kernel >= "6.1"`.

use super::record::record;
use serde::{Deserialize, Serialize};

record! {
    /// One condition on a node.
    pub struct Requirement {
        /// The attribute's name: one of [`ATTRIBUTES`], `label.NAME` or
        /// `attribute.NAME`.
        pub attribute: String = String::new(),
        /// How it is compared.
        pub operator: Operator = Operator::Equal,
        /// With what: one value, several for `in`, none for `exists`.
        pub values: Vec<String> = Vec::new(),
    }
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`; also met by a node that lacks the attribute.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// Is one of the values.
    In,
    /// Is there at all.
    Exists,
}

/// Attributes that every node has.
pub const ATTRIBUTES: &[&str] = &[
    "os",
    "kernel",
    "arch",
    "node",
    "region",
    "datacenter",
    "cluster",
    "rack",
];
