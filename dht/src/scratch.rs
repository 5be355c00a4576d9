//! Folders for tests that go away again, read-only trees in them included:
//! without root's rights, removing those takes more than a removal.
//!
//! A folder goes when the thread of its test ends, not when the test lets go
//! of it. Locals of an async test are dropped before its runtime is, and only
//! the runtime waits for disk work that was begun and that nobody waits for
//! any more: a fetch that failed, or was first with the last chunk.

use std::{cell::RefCell, path::Path};

use crate::store::files;

pub(crate) struct Scratch(Option<tempfile::TempDir>);

/// A fresh folder.
pub(crate) fn folder() -> Scratch {
    Scratch(Some(
        tempfile::tempdir().expect("a folder for temporary files"),
    ))
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("there until it is dropped").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        LEFT.with_borrow_mut(|left| left.0.extend(self.0.take()));
    }
}

thread_local! {
    static LEFT: RefCell<Left> = const { RefCell::new(Left(Vec::new())) };
}

/// What the tests of this thread have let go of.
struct Left(Vec<tempfile::TempDir>);

impl Drop for Left {
    fn drop(&mut self) {
        for folder in &self.0 {
            files::remove_tree(folder.path()).expect("what a test made can be removed");
        }
    }
}
