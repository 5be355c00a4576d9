//! Which potluck this is, for people: `0.1.0`, or `0.1.0+build` where the
//! program is a build of its own. Nothing is decided by it; what versions can
//! do is in feature levels and in the numbers of formats.

use std::sync::OnceLock;

static TEXT: OnceLock<String> = OnceLock::new();

/// Says which build this is; to be called first in `main`, else too late.
pub(crate) fn name_build(build: &str) {
    TEXT.get_or_init(|| format!("{}+{build}", env!("CARGO_PKG_VERSION")));
}

/// The version.
pub(crate) fn text() -> &'static str {
    TEXT.get_or_init(|| env!("CARGO_PKG_VERSION").into())
}
