//! Texts that people write: requirements, versions, and what is filled in when
//! a task starts. No panic, and the laws of each.
//!
//! `cargo +nightly fuzz run texts`, in `specs/`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_specs::job::{Requirement, interpolation, version::compare_versions};

fuzz_target!(|texts: (&str, &str)| {
    let (a, b) = texts;
    if let Ok(requirement) = a.parse::<Requirement>() {
        assert_eq!(requirement.to_string().parse(), Ok(requirement.clone()));
        requirement.met_by(Some(b));
    }
    assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse());
    let escaped = interpolation::escape(a);
    assert_eq!(interpolation::names(&escaped).count(), 0);
    if !interpolation::changes(a) {
        assert_eq!(escaped, a);
    }
});
