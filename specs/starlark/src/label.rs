//! Names of files as specs write them: `//lib/web.star` from the root folder,
//! `:web.star` from the folder of the file that loads. Nothing else is one, so
//! that a name can't lead out of the root.

use std::{fmt, str::FromStr};

/// Longest name: more than any good one, less than the system's own limit.
const LABEL_BYTES_MAX: usize = 512;

/// `//lib/web.star`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(String);

/// A name that names no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct LabelError {
    why: &'static str,
    /// How to write it.
    pub hint: String,
}

impl Label {
    /// Reads what `load` was given in the file `from`.
    pub(crate) fn parse(text: &str, from: &Label) -> Result<Label, LabelError> {
        let wrong = |why, hint: String| Err(LabelError { why, hint });
        let path = match (text.strip_prefix("//"), text.strip_prefix(':')) {
            (Some(path), _) => path.to_owned(),
            (None, Some(name)) if !name.contains('/') => format!("{}{name}", from.folder()),
            (None, Some(name)) => {
                let why = "':' names a file of the same folder";
                return wrong(
                    why,
                    format!("from the root folder: \"//{}{name}\"", from.folder()),
                );
            }
            (None, None) => {
                let name = text.trim_start_matches(['.', '/']);
                let why = "a file is loaded by its path from the root folder";
                let hint = format!(
                    "write \"//{}{name}\", or \":{name}\" for one of the same folder",
                    from.folder()
                );
                return wrong(why, hint);
            }
        };
        if let Some((folder, name)) = path.split_once(':') {
            let why = "a path has no ':' in it";
            return wrong(why, format!("write \"//{folder}/{name}\""));
        }
        match Label::from_path(&path) {
            Some(label) => Ok(label),
            None => wrong(
                "this is not the path of a *.star file below the root folder",
                "parts are separated by '/', and none is empty, '.' or '..'".into(),
            ),
        }
    }

    /// That of a path below the root folder.
    pub(crate) fn from_path(path: &str) -> Option<Label> {
        let plain = |part: &str| {
            let control = part.chars().any(|c| c.is_control() || c == '\\');
            !matches!(part, "" | "." | "..") && !control
        };
        let good =
            path.len() <= LABEL_BYTES_MAX && path.ends_with(".star") && path.split('/').all(plain);
        good.then(|| Label(format!("//{path}")))
    }

    /// The path below the root folder.
    pub(crate) fn path(&self) -> &str {
        &self.0[2..]
    }

    /// `lib/` of `//lib/web.star`.
    fn folder(&self) -> &str {
        let path = self.path();
        &path[..path.rfind('/').map_or(0, |at| at + 1)]
    }
}

impl FromStr for Label {
    type Err = LabelError;

    /// Reads `//lib/web.star`.
    fn from_str(text: &str) -> Result<Label, LabelError> {
        let root = Label(String::from("//"));
        Label::parse(text, &root)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        let from = Label::from_path("shop/web.star").unwrap();
        for (text, path) in [
            ("//lib/web.star", "lib/web.star"),
            ("//web.star", "web.star"),
            (":db.star", "shop/db.star"),
        ] {
            assert_eq!(Label::parse(text, &from).unwrap().path(), path);
        }
        for (text, hint) in [
            ("db.star", "\"//shop/db.star\", or \":db.star\""),
            ("./db.star", "\":db.star\""),
            ("../db.star", "\"//shop/db.star\""),
            ("/etc/passwd.star", "//shop/etc/passwd.star"),
            (":a/db.star", "\"//shop/a/db.star\""),
            ("//lib:web.star", "\"//lib/web.star\""),
            ("//lib/../web.star", "'..'"),
            ("//lib//web.star", "empty"),
            ("//lib/web.txt", "separated"),
            ("//lib\\web.star", "separated"),
            ("", "\"//shop/\""),
            ("//\n.star", "separated"),
        ] {
            let error = Label::parse(text, &from).unwrap_err();
            assert!(error.hint.contains(hint), "{text}: {}", error.hint);
        }
    }
}
