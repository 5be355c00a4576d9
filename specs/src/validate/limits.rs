//! How much a job may say, each bound with its reason.

use crate::job::Resources;

/// Most slots of one job: ten on each of the 1,000 nodes of a full cluster.
pub const REPLICAS_MAX: u32 = 10_000;

/// Most ports, and most services, of one task: each port is a number that the
/// node sets aside, each service an endpoint to publish.
pub const PORTS_MAX: usize = 64;

/// Most that a task may ask for: beyond any host, far below where sums over a
/// cluster would overflow.
pub const RESOURCES_MAX: Resources = Resources {
    cpu_millis: 1_024_000,
    memory_bytes: 64 << 40,
    disk_bytes: 1 << 50,
    uplink_bits_per_s: 1_000_000_000_000,
};

/// Least memory: a process with less can't start.
pub const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// Least disk, where any is asked for: the smallest log takes a third of it.
pub const DISK_BYTES_MIN: u64 = 4 << 20;

/// Fewest processes and threads: the task, and one more for its start.
pub const PIDS_MIN: u32 = 2;

/// Most processes and threads: all that a 64-bit kernel numbers.
pub const PIDS_MAX: u32 = 4_194_304;

/// Largest share of the disks: the kernel's scheduler knows no larger one.
pub const IO_WEIGHT_MAX: u16 = 1_000;

/// Least bytes a second of a disk: below it one block of a program takes
/// longer than anybody waits.
pub const IO_BYTES_PER_S_MIN: u64 = 64 << 10;

/// Least operations a second of a disk: with fewer no program starts.
pub const IO_OPS_PER_S_MIN: u64 = 4;

/// Most bytes or operations a second of a disk: beyond any disk, and within
/// what the kernel's files take.
pub const IO_PER_S_MAX: u64 = 1 << 40;

/// Longest path that Linux takes (`PATH_MAX`): of a command, a mount, a file,
/// a health check.
pub const PATH_BYTES_MAX: usize = 4_096;

/// Longest single argument or variable that Linux passes to a program
/// (`MAX_ARG_STRLEN`, its closing zero included).
pub const ARGUMENT_BYTES_MAX: usize = (128 << 10) - 1;

/// Most arguments, and most variables: people look at them in one list.
pub const ARGUMENTS_MAX: usize = 1_024;

/// Most entries of the other lists of a task (files, mounts, packages, hooks,
/// checks, metrics, devices, tags): each costs the node work at each start.
pub const ENTRIES_MAX: usize = 32;

/// Most requirements, preferences, neighbours, dependencies and stages: each
/// is asked of each node, or again and again.
pub const CONDITIONS_MAX: usize = 64;

/// Longest value that a requirement compares with, longest label or metric,
/// and longest owner.
pub const WORD_BYTES_MAX: usize = 256;

/// Most annotations: they are notes, not a database.
pub const ANNOTATIONS_MAX: usize = 64;

/// Longest annotation.
pub const ANNOTATION_BYTES_MAX: usize = 4_096;

/// Most devices of one kind in one host.
pub const DEVICES_MAX: u32 = 1_024;

/// Shortest pause between restarts: a task that fails at once must not take a
/// core with it.
pub const BACKOFF_MS_MIN: u64 = 10;

/// Longest pause between restarts, and longest grace at a stop: one hour. More
/// would look like a task that is forgotten.
pub const PAUSE_MS_MAX: u64 = 3_600_000;

/// Shortest time between two questions to a task: more would be load.
pub const INTERVAL_MS_MIN: u64 = 100;

/// Shortest wait for an answer: less is below the noise of a busy host.
pub const TIMEOUT_MS_MIN: u64 = 10;

/// Most answers in a row that are waited for.
pub const ANSWERS_MAX: u32 = 1_000;

/// Shortest lease: below it a short pause of the network stops the task.
pub const LEASE_MS_MIN: u64 = 2_000;

/// Longest time that a stage bakes, a window is ridden out, a rollout waits
/// for health, a batch runs: thirty days. More is not meant.
pub const WAIT_MS_MAX: u64 = 30 * 86_400_000;

/// Least log that is kept: below it a crash takes its own story along.
pub const LOG_BYTES_MIN: u64 = 1 << 20;

/// Most log that is kept of one task on its node: 1 TiB. What is more belongs
/// into a system for logs.
pub const LOG_BYTES_MAX: u64 = 1 << 40;

/// Shortest time that lines are kept: nodes look each minute.
pub const LOG_MS_MIN: u64 = 60_000;

/// Longest time that lines are kept: ten years. More is for ever.
pub const LOG_MS_MAX: u64 = 3_650 * 86_400_000;

/// Least tmpfs: a page.
pub const TMPFS_BYTES_MIN: u64 = 4_096;

/// Shortest deadline of a batch: below it no task could start.
pub const DEADLINE_MS_MIN: u64 = 1_000;

/// Shortest wait for the health of a new version: a task needs time to start.
pub const HEALTH_DEADLINE_MS_MIN: u64 = 1_000;

/// Strongest wish, for or against.
pub const WEIGHT_MAX: i32 = 100;

/// Longest name of a user on Linux.
pub const USER_BYTES_MAX: usize = 32;

/// Highest signal of Linux.
pub const SIGNAL_MAX: i32 = 64;
