//! Requirements over the attributes of nodes: `kernel >= "6.1"`.

use super::{
    record::record,
    version::{compare_versions, is_version},
};
use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, str::FromStr};

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

impl Requirement {
    /// Does a node meet it whose attribute has this value, or which lacks it?
    /// Only [`Operator::NotEqual`] is met by a node that lacks the attribute.
    pub fn met_by(&self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return self.operator == Operator::NotEqual;
        };
        let order = |wanted: &Ordering| {
            let first = self.values.first();
            first.is_some_and(|than| compare_versions(value, than) == *wanted)
        };
        let any = || self.values.iter().any(|wanted| same(value, wanted));
        match self.operator {
            Operator::Exists => true,
            Operator::Equal | Operator::In => any(),
            Operator::NotEqual => !any(),
            Operator::Less => order(&Ordering::Less),
            Operator::LessOrEqual => order(&Ordering::Less) || order(&Ordering::Equal),
            Operator::Greater => order(&Ordering::Greater),
            Operator::GreaterOrEqual => order(&Ordering::Greater) || order(&Ordering::Equal),
        }
    }
}

/// Versions may be written in several ways; anything else is what it is.
fn same(a: &str, b: &str) -> bool {
    a == b || is_version(a) && is_version(b) && compare_versions(a, b).is_eq()
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// What attributes that people set begin with.
pub const PREFIXES: &[&str] = &["label.", "attribute."];

impl Operator {
    /// All, longer signs first.
    pub const ALL: [Operator; 8] = [
        Operator::NotEqual,
        Operator::LessOrEqual,
        Operator::GreaterOrEqual,
        Operator::Equal,
        Operator::Less,
        Operator::Greater,
        Operator::In,
        Operator::Exists,
    ];

    /// As people write it.
    pub fn sign(self) -> &'static str {
        match self {
            Operator::Equal => "=",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
            Operator::In => "in",
            Operator::Exists => "exists",
        }
    }
}

/// A text that is no requirement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a requirement: {why}")]
pub struct RequirementError {
    /// What was given.
    pub text: String,
    /// What it lacks.
    pub why: &'static str,
}

impl FromStr for Requirement {
    type Err = RequirementError;

    /// Reads `os = linux`, `kernel >= "6.1"`, `rack in [r1, "r2"]` and
    /// `label.gpu exists`.
    fn from_str(text: &str) -> Result<Requirement, RequirementError> {
        let fail = |why| RequirementError {
            text: text.chars().take(120).collect(),
            why,
        };
        let trimmed = text.trim();
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        let end = trimmed.find(|c| !name(c)).unwrap_or(trimmed.len());
        let (attribute, rest) = (&trimmed[..end], trimmed[end..].trim_start());
        if attribute.is_empty() {
            return Err(fail("it begins with the name of an attribute"));
        }
        let found = Operator::ALL
            .into_iter()
            .find_map(|operator| Some((operator, after(rest, operator)?)));
        let (operator, rest) =
            found.ok_or_else(|| fail("after the name goes =, !=, <, <=, >, >=, in or exists"))?;
        let values = match operator {
            Operator::Exists if rest.is_empty() => Vec::new(),
            Operator::Exists => return Err(fail("nothing goes after exists")),
            Operator::In => list(rest).ok_or_else(|| fail("after in goes a list: [r1, r2]"))?,
            _ => vec![value(rest).ok_or_else(|| fail("after the operator goes one value"))?],
        };
        Ok(Requirement {
            attribute: attribute.into(),
            operator,
            values,
        })
    }
}

/// What stands after an operator, if the text begins with it.
fn after(text: &str, operator: Operator) -> Option<&str> {
    let rest = text.strip_prefix(operator.sign())?;
    let word = matches!(operator, Operator::In | Operator::Exists);
    if word && rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    // People who program write two.
    let rest = match operator {
        Operator::Equal => rest.strip_prefix('=').unwrap_or(rest),
        _ => rest,
    };
    Some(rest.trim())
}

fn list(text: &str) -> Option<Vec<String>> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    inside.split(',').map(|item| value(item.trim())).collect()
}

fn value(text: &str) -> Option<String> {
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let value = quoted.unwrap_or(text);
    let forbidden =
        |c: char| c.is_whitespace() || matches!(c, '"' | '[' | ']' | ',' | '<' | '>' | '=');
    let plain = !value.is_empty() && !value.contains(forbidden);
    (plain || quoted.is_some_and(|value| !value.contains('"'))).then(|| value.into())
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attribute, self.operator.sign())?;
        let values: Vec<String> = self
            .values
            .iter()
            .map(|value| format!("\"{value}\""))
            .collect();
        match self.operator {
            Operator::Exists => Ok(()),
            Operator::In => write!(f, " [{}]", values.join(", ")),
            _ => write!(f, " {}", values.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, sample::select};

    fn met(text: &str, value: Option<&str>) -> bool {
        let requirement: Requirement = text.parse().expect(text);
        requirement.met_by(value)
    }

    #[test]
    fn what_nodes_meet() {
        for (text, value, expected) in [
            ("os = linux", Some("linux"), true),
            ("os == linux", Some("Linux"), false),
            ("os = linux", None, false),
            ("os != windows", Some("linux"), true),
            ("os != windows", None, true),
            ("kernel >= \"6.1\"", Some("6.1.0-13-amd64"), true),
            ("kernel >= 6.1", Some("6.0.19"), false),
            ("kernel>=6.1", Some("6.10"), true),
            ("kernel > 6.1", Some("6.1.0"), false),
            ("kernel < 6.1", Some("5.15"), true),
            ("kernel < 6.1", None, false),
            ("kernel <= 6.1", Some("6.1.0"), true),
            ("kernel = 6.1", Some("6.1.0"), true),
            ("kernel != 6.1", Some("6.1.0"), false),
            ("rack in [r1, \"r 2\"]", Some("r 2"), true),
            ("rack in [r1]", Some("r10"), false),
            ("rack in [r1]", None, false),
            ("label.gpu exists", Some(""), true),
            ("label.gpu exists", None, false),
        ] {
            assert_eq!(met(text, value), expected, "{text} {value:?}");
        }
    }

    #[test]
    fn what_is_no_requirement_says_why() {
        for (text, why) in [
            ("", "begins with the name"),
            ("= linux", "begins with the name"),
            ("os", "after the name goes"),
            ("os linux", "after the name goes"),
            ("os ~ linux", "after the name goes"),
            ("os inside x", "after the name goes"),
            ("os =", "one value"),
            ("os = a b", "one value"),
            ("os = \"a", "one value"),
            ("kernel >> 6", "one value"),
            ("rack in r1", "a list"),
            ("rack in []", "a list"),
            ("rack in [a,,b]", "a list"),
            ("gpu exists now", "nothing goes after"),
        ] {
            let error = text.parse::<Requirement>().expect_err(text);
            assert!(error.why.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn reads_what_it_writes(
            attribute in "[a-z][a-z0-9./_-]{0,8}",
            operator in select(Operator::ALL.to_vec()),
            values in prop::collection::vec("[a-zA-Z0-9 .=<>_-]{1,6}", 1..4),
        ) {
            let values = match operator {
                Operator::Exists => Vec::new(),
                Operator::In => values,
                _ => values[..1].to_vec(),
            };
            let requirement = Requirement { attribute, operator, values };
            prop_assert_eq!(requirement.to_string().parse(), Ok(requirement));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            if let Ok(read) = text.parse::<Requirement>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }
    }
}
