//! Folders for tests that go away again, read-only trees in them included:
//! without root's rights, removing those takes more than a removal.

use std::path::Path;

use crate::store::files;

pub(crate) struct Scratch(tempfile::TempDir);

/// A fresh folder.
pub(crate) fn folder() -> Scratch {
    Scratch(tempfile::tempdir().expect("a folder for temporary files"))
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        files::remove_tree(self.0.path()).expect("what a test made can be removed");
    }
}
