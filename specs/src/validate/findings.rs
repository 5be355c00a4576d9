//! Where the checks put what they find, and what many of them ask.

use super::limits::PATH_BYTES_MAX;
use crate::{diff::duration, finding::Finding, ids::check_name, path::FieldPath};

#[derive(Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    pub(super) fn error(&mut self, path: &FieldPath, message: impl Into<String>) -> &mut Finding {
        self.push(Finding::error(path.clone(), message))
    }

    pub(super) fn warning(&mut self, path: &FieldPath, message: impl Into<String>) -> &mut Finding {
        self.push(Finding::warning(path.clone(), message))
    }

    fn push(&mut self, finding: Finding) -> &mut Finding {
        self.0.push(finding);
        self.0.last_mut().expect("one was pushed")
    }

    /// A DNS label.
    pub(super) fn label(&mut self, path: &FieldPath, what: &str, name: &str) {
        if let Err(error) = check_name(name) {
            self.error(path, format!("{what} {error}"));
        }
    }

    /// A list or map of bounded length.
    pub(super) fn at_most(&mut self, path: &FieldPath, what: &str, count: usize, count_max: usize) {
        if count > count_max {
            self.error(
                path,
                format!("{count} {what} are more than the {count_max} that are allowed"),
            );
        }
    }

    /// A text of bounded length without a zero byte, which ends texts in C.
    pub(super) fn text(&mut self, path: &FieldPath, what: &str, text: &str, bytes_max: usize) {
        if text.contains('\0') {
            self.error(path, format!("{what} holds a zero byte"))
                .why("it would end the text for the program that reads it");
        }
        if text.len() > bytes_max {
            self.error(path, format!("{what} is longer than {bytes_max} bytes"));
        }
    }

    /// A duration within bounds.
    pub(super) fn time(&mut self, path: &FieldPath, what: &str, ms: u64, ms_min: u64, ms_max: u64) {
        if ms < ms_min {
            self.error(path, format!("{what} is shorter than {}", duration(ms_min)));
        }
        if ms > ms_max {
            self.error(path, format!("{what} is longer than {}", duration(ms_max)));
        }
    }

    /// An absolute path of which no part can lead elsewhere.
    pub(super) fn absolute(&mut self, path: &FieldPath, what: &str, text: &str) {
        self.text(path, what, text, PATH_BYTES_MAX);
        if !text.starts_with('/') {
            self.error(path, format!("{what} {text:?} is not an absolute path"))
                .hint("begin it with '/'");
        } else if text.len() > 1 && leads_elsewhere(&text[1..]) {
            self.error(
                path,
                format!("{what} {text:?} has an empty, '.' or '..' part"),
            );
        }
    }

    /// A path of HTTP.
    pub(super) fn http_path(&mut self, path: &FieldPath, text: &str) {
        if !text.starts_with('/') {
            self.error(path, format!("the path {text:?} does not begin with '/'"))
                .meant(Some(format!("/{text}")));
        }
        if text.len() > PATH_BYTES_MAX {
            self.error(
                path,
                format!("the path is longer than {PATH_BYTES_MAX} bytes"),
            );
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            self.error(path, "the path holds a space or a character outside ASCII")
                .why("a space or a line end would let it write the rest of the request")
                .hint("write such characters as %20");
        }
    }
}

/// Has a path, without its first '/', a part that is not a name?
pub(super) fn leads_elsewhere(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "" | "." | ".."))
}
