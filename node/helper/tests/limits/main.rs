//! What a task may use, and what happens when it uses more: each case here, on
//! this host's control groups, and again in a virtual machine whose kernel has
//! cgroup v2 alone.
//!
//! This program is also the one that uses things up, and the one that runs the
//! cases in the virtual machine.

mod cases;
mod hog;
mod machine;
#[path = "../support/mod.rs"]
mod support;

use support::skip;

/// The variable that says what to use up.
const HOG: &str = "POTLUCK_HOG";
/// How this program is told to be the one that does.
const HOG_ARGUMENTS: [&str; 4] = ["hog_main", "--exact", "--nocapture", "--test-threads=1"];
/// Set in the virtual machine.
const MACHINE: &str = "POTLUCK_MICROVM";

/// Not a test: what runs in the sandbox.
#[test]
fn hog_main() {
    if let Ok(what) = std::env::var(HOG) {
        hog::run(&what);
    }
}

/// Not a test: what runs in the virtual machine.
#[test]
fn machine_main() {
    if std::env::var_os(MACHINE).is_some() {
        machine::run_all(&ALL);
    }
}

/// A case and its name.
type Case = (&'static str, fn());

macro_rules! cases {
    (both: $($both:ident)*; only in the machine: $($one:ident)*;) => {
        const ALL: [Case; [$(stringify!($both),)* $(stringify!($one),)*].len()] = [
            $((stringify!($both), cases::$both),)*
            $((stringify!($one), cases::$one),)*
        ];

        mod here {
            $(#[test]
            fn $both() {
                super::cases::$both();
            })*
        }

        mod in_a_microvm {
            $(#[test]
            fn $both() {
                super::machine::passed(stringify!($both));
            })*
            $(#[test]
            fn $one() {
                super::machine::passed(stringify!($one));
            })*
        }
    };
}

cases! {
    both:
        memory_anonymous
        memory_of_threads
        memory_read
        memory_in_files
        memory_in_files_beside_a_program
        memory_at_once
        a_full_cache_is_no_reason
        cpu_shares
        cpu_quota_holds_back
        disks_are_limited
        processes_are_limited
        a_kill_takes_all
        frozen_is_still
        usage_is_told
        limits_change_while_it_runs;
    only in the machine:
        the_clock_ends_no_lease;
}
