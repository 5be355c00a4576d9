//! What this host says of itself, for requirements of jobs: found here
//! (`os`, `kernel`, `arch`, `attribute.*`) or set by its owner (`label.*`,
//! devices). Leaves to the core what a requirement asks, and to the agent
//! which isolation it can give.

use nix::sys::utsname::uname;
use potluck_core::attributes::{ATTRIBUTES_MAX, Facts};
use std::{collections::BTreeMap, fs, str::FromStr};

/// Longest name or value: they travel with every full inventory.
const TEXT_MAX: usize = 128;

/// `NAME=VALUE`, as `--label` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    name: String,
    value: String,
}

/// `KIND=COUNT`, as `--device` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    kind: String,
    count: u32,
}

/// Text that is no label or device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// There is no `=` in it.
    #[error("{text:?} is not {form}")]
    Form {
        /// What was given.
        text: String,
        /// What is wanted.
        form: &'static str,
    },
    /// The name can't be used in a requirement.
    #[error("{0:?} is no name: use letters, digits, `-`, `_` and `.`, at most {TEXT_MAX}")]
    Name(String),
    /// The value is too long or holds control characters.
    #[error("the value of {0:?} is longer than {TEXT_MAX} bytes or has control characters")]
    Value(String),
    /// The count is no number.
    #[error("{0:?} is no count of devices")]
    Count(String),
}

impl FromStr for Label {
    type Err = FactError;

    fn from_str(text: &str) -> Result<Label, FactError> {
        let (name, value) = split(text, "NAME=VALUE")?;
        if value.len() > TEXT_MAX || value.chars().any(char::is_control) {
            return Err(FactError::Value(name));
        }
        Ok(Label { name, value })
    }
}

impl FromStr for Devices {
    type Err = FactError;

    fn from_str(text: &str) -> Result<Devices, FactError> {
        let (kind, count) = split(text, "KIND=COUNT")?;
        let count = count.parse().map_err(|_| FactError::Count(count))?;
        Ok(Devices { kind, count })
    }
}

fn split(text: &str, form: &'static str) -> Result<(String, String), FactError> {
    let (name, value) = text.split_once('=').ok_or_else(|| FactError::Form {
        text: text.into(),
        form,
    })?;
    let named = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > TEXT_MAX || !name.chars().all(named) {
        return Err(FactError::Name(name.into()));
    }
    Ok((name.into(), value.into()))
}

/// All that this host says of itself; of labels with one name the last.
pub fn facts(labels: &[Label], devices: &[Devices]) -> Facts {
    let mut attributes = found();
    for label in labels {
        if attributes.len() < ATTRIBUTES_MAX {
            attributes.insert(format!("label.{}", label.name), label.value.clone());
        }
    }
    Facts {
        attributes,
        devices: devices
            .iter()
            .take(ATTRIBUTES_MAX)
            .map(|device| (device.kind.clone(), device.count))
            .collect(),
    }
}

fn found() -> BTreeMap<String, String> {
    let mut found = BTreeMap::from([("os".to_owned(), "linux".to_owned())]);
    if let Ok(name) = uname() {
        let mut put = |key: &str, value: &std::ffi::OsStr| {
            let value: String = value.to_string_lossy().chars().take(TEXT_MAX).collect();
            found.insert(key.into(), value);
        };
        put("kernel", name.release());
        put("arch", name.machine());
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    for (key, name) in [
        ("ID", "attribute.distribution"),
        ("VERSION_ID", "attribute.version"),
    ] {
        if let Some(value) = os_release(&release, key) {
            found.insert(name.into(), value.chars().take(TEXT_MAX).collect());
        }
    }
    found
}

/// A value of `/etc/os-release` (os-release(5)), without its quotes.
fn os_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let of_key = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    let value = text.lines().find_map(of_key)?;
    Some(value.trim_matches(|c| c == '"' || c == '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_host_and_takes_labels() {
        let labels = ["disk=ssd", "zone=a=b", "disk=nvme"].map(|text| text.parse().unwrap());
        let devices = ["gpu=2".parse().unwrap()];
        let facts = facts(&labels, &devices);
        assert_eq!(facts.get("os"), Some("linux"));
        assert_eq!(facts.get("label.disk"), Some("nvme"));
        assert_eq!(facts.get("label.zone"), Some("a=b"));
        assert_eq!(facts.devices.get("gpu"), Some(&2));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.get("kernel"), Some(kernel.trim()));
        assert!(facts.get("arch").is_some());
    }

    #[test]
    fn refuses_what_no_requirement_could_name() {
        let form = |text: &str| FactError::Form {
            text: text.into(),
            form: "NAME=VALUE",
        };
        let long = "x".repeat(TEXT_MAX + 1);
        let table = [
            ("disk".to_owned(), form("disk")),
            ("=ssd".into(), FactError::Name(String::new())),
            ("a b=c".into(), FactError::Name("a b".into())),
            (format!("{long}=c"), FactError::Name(long.clone())),
            (format!("a={long}"), FactError::Value("a".into())),
            ("a=b\nc".into(), FactError::Value("a".into())),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Label>(), Err(expected), "{text}");
        }
        let count = "many".parse::<Devices>().unwrap_err();
        assert!(matches!(count, FactError::Form { .. }));
        let count = "gpu=many".parse::<Devices>();
        assert_eq!(count, Err(FactError::Count("many".into())));
    }

    #[test]
    fn many_labels_are_bounded() {
        let labels: Vec<Label> = (0..2 * ATTRIBUTES_MAX)
            .map(|k| format!("l{k}=x").parse().unwrap())
            .collect();
        assert_eq!(facts(&labels, &[]).attributes.len(), ATTRIBUTES_MAX);
    }

    #[test]
    fn reads_os_release() {
        let text = "PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(os_release(text, "ID"), Some("debian"));
        assert_eq!(os_release(text, "VERSION_ID"), Some("12"));
        assert_eq!(os_release(text, "VARIANT"), None);
    }
}
