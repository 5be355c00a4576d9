//! Where in a job something is said: `task.ports[1].number`.
//!
//! Paths name the fields of the types in [`job`](crate::job). How a spec
//! writes such a field, and on which line, is known to the language.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A field, or an entry of a field. The empty path is the job itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldPath(pub Vec<PathStep>);

/// One step into a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathStep {
    /// A field of a record, or the variant of a choice.
    Field(String),
    /// An entry of a list, from 0.
    Index(usize),
    /// An entry of a map.
    Key(String),
}

impl FieldPath {
    /// The path of fields within fields: `task.resources`.
    pub fn of(dotted: &str) -> FieldPath {
        FieldPath::default().field(dotted)
    }

    /// A field, or fields within fields, of what stands here.
    pub fn field(&self, dotted: &str) -> FieldPath {
        let fields = dotted.split('.').map(|name| PathStep::Field(name.into()));
        self.with(fields)
    }

    /// An entry of the list here.
    pub fn index(&self, index: usize) -> FieldPath {
        self.with([PathStep::Index(index)])
    }

    /// An entry of the map here.
    pub fn key(&self, key: &str) -> FieldPath {
        self.with([PathStep::Key(key.into())])
    }

    /// Is `other` this, or a part of it?
    pub fn holds(&self, other: &FieldPath) -> bool {
        other.0.starts_with(&self.0)
    }

    fn with(&self, steps: impl IntoIterator<Item = PathStep>) -> FieldPath {
        FieldPath(self.0.iter().cloned().chain(steps).collect())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("job");
        }
        for (position, step) in self.0.iter().enumerate() {
            match step {
                PathStep::Field(name) if position == 0 => f.write_str(name)?,
                PathStep::Field(name) => write!(f, ".{name}")?,
                PathStep::Index(index) => write!(f, "[{index}]")?,
                PathStep::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_people_write_them() {
        let ports = FieldPath::of("task.ports");
        assert_eq!(
            ports.index(1).field("number").to_string(),
            "task.ports[1].number"
        );
        assert_eq!(
            FieldPath::of("task.env").key("A").to_string(),
            "task.env[\"A\"]"
        );
        assert_eq!(FieldPath::default().to_string(), "job");
        assert!(ports.holds(&ports.index(0)) && !ports.index(0).holds(&ports));
        assert!(!ports.holds(&FieldPath::of("task.env")));
    }
}
