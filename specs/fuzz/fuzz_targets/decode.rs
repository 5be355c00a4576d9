//! Bytes of strangers as a job: no panic, and whatever is accepted has one
//! encoding, can be checked, and differs from itself in nothing.
//!
//! `cargo +nightly fuzz run decode`, in `specs/`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_specs::{Job, diff::diff, validate::check_job};

/// An array of two begins every format from 1 on.
const NUMBERED: u8 = 0x82;

fuzz_target!(|bytes: &[u8]| {
    let Ok(job) = Job::decode(bytes) else { return };
    let again = job.encode();
    if bytes[0] == NUMBERED {
        assert_eq!(again, bytes);
    }
    assert_eq!(Job::decode(&again).as_ref().ok(), Some(&job));
    check_job(&job);
    assert!(diff(&job, &job).is_empty());
});
