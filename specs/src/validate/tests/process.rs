//! The process: command, environment, files, resources, mounts, ends.

use super::*;

pub(super) const BROKEN: &[Row] = &[
    (
        |d| d.task.command = String::new(),
        "task.command",
        "is empty",
        "bin/server",
    ),
    (
        |d| d.task.command = "../sh".into(),
        "task.command",
        "'..'",
        "args",
    ),
    (
        |d| d.task.command = "bin//sh".into(),
        "task.command",
        "empty",
        "args",
    ),
    (
        |d| d.task.command = "x".repeat(4_097),
        "task.command",
        "longer than 4096",
        "",
    ),
    (
        |d| d.task.args.push("a\0b".into()),
        "task.args[1]",
        "zero byte",
        "",
    ),
    (
        |d| d.task.args.push("x".repeat(128 << 10)),
        "task.args[1]",
        "longer than",
        "Linux",
    ),
    (
        |d| d.task.args = vec![String::new(); 1_025],
        "task.args",
        "more than the 1024",
        "",
    ),
    (
        |d| d.task.args.push("${slot.indx}".into()),
        "task.args[1]",
        "stands for nothing",
        "slot.index",
    ),
    (
        |d| drop(d.task.env.insert("A".into(), "${port.htpp}".into())),
        "task.env[\"A\"]",
        "${port.htpp} stands for nothing",
        "port.http",
    ),
    (
        |d| d.task.files = vec![file("a", "${node.nam}", 0o644)],
        "task.files[0].content",
        "stands for nothing",
        "node.name",
    ),
    (
        |d| env(d, "1A", ""),
        "task.env[\"1A\"]",
        "not the name",
        "digit",
    ),
    (
        |d| env(d, "", ""),
        "task.env[\"\"]",
        "not the name",
        "digit",
    ),
    (
        |d| env(d, "A=B", ""),
        "task.env[\"A=B\"]",
        "not the name",
        "",
    ),
    (
        |d| env(d, "POTLUCK_SLOT", ""),
        "task.env[\"POTLUCK_SLOT\"]",
        "set by potluck",
        "",
    ),
    (
        |d| env(d, "PORT_HTTP", ""),
        "task.env[\"PORT_HTTP\"]",
        "number of port \"http\"",
        "",
    ),
    (|d| env(d, "A", "\0"), "task.env[\"A\"]", "zero byte", ""),
    (
        |d| d.task.files = vec![file("../a", "", 0o644)],
        "task.files[0].path",
        "'..'",
        "",
    ),
    (
        |d| d.task.files = vec![file("", "", 0o644)],
        "task.files[0].path",
        "needs a path",
        "",
    ),
    (
        |d| d.task.files = vec![file("a", "", 0o644); 2],
        "task.files[1].path",
        "twice",
        "",
    ),
    (
        |d| d.task.files = vec![file("a", "", 0o4755)],
        "task.files[0].mode",
        "other bits",
        "0o755",
    ),
    (
        |d| d.task.setup = vec![hook("", 1_000)],
        "task.setup[0].command",
        "is empty",
        "",
    ),
    (
        |d| d.task.teardown = vec![hook("a", 1)],
        "task.teardown[0].timeout_ms",
        "shorter",
        "",
    ),
    (
        |d| d.task.teardown = vec![hook("a", 1_000); 33],
        "task.teardown",
        "more than the 32",
        "",
    ),
    (
        |d| d.task.resources.cpu_millis = 0,
        "task.resources.cpu_millis",
        "at least 0.001",
        "tenth",
    ),
    (
        |d| d.task.resources.cpu_millis = 1_024_001,
        "task.resources.cpu_millis",
        "at most 1024",
        "",
    ),
    (
        |d| d.task.resources.memory_bytes = 64,
        "task.resources.memory_bytes",
        "at least 1 MiB",
        "counts bytes",
    ),
    (
        |d| d.task.resources.memory_bytes = u64::MAX,
        "task.resources.memory_bytes",
        "at most 64 TiB",
        "",
    ),
    (
        |d| d.task.resources.disk_bytes = 20,
        "task.resources.disk_bytes",
        "at least 4 MiB",
        "counts bytes",
    ),
    (
        |d| d.task.resources.disk_bytes = u64::MAX,
        "task.resources.disk_bytes",
        "at most 1 PiB",
        "",
    ),
    (
        |d| d.task.resources.uplink_bits_per_s = u64::MAX,
        "task.resources.uplink_bits_per_s",
        "at most 1 Tbit/s",
        "",
    ),
    (
        |d| d.task.limits.cpu_millis = Some(50),
        "task.limits.cpu_millis",
        "0.05 cores is below the request of 0.1",
        "never use",
    ),
    (
        |d| d.task.limits.memory_bytes = Some(1 << 20),
        "task.limits.memory_bytes",
        "1MiB is below the request of 64MiB",
        "killed",
    ),
    (
        |d| d.task.limits.cpu_burst_millis = Some(100),
        "task.limits.cpu_burst_millis",
        "needs a quota",
        "unused quota",
    ),
    (
        |d| {
            d.task.limits.cpu_millis = Some(200);
            d.task.limits.cpu_burst_millis = Some(201);
        },
        "task.limits.cpu_burst_millis",
        "0.201 cores is above the quota of 0.2",
        "one period",
    ),
    (
        |d| d.task.limits.pids = Some(1),
        "task.limits.pids",
        "from 2 to",
        "",
    ),
    (
        |d| d.task.limits.io_weight = Some(1_001),
        "task.limits.io_weight",
        "from 1 to 1000",
        "",
    ),
    (
        |d| d.task.limits.io_write_bytes_per_s = Some(1_000),
        "task.limits.io_write_bytes_per_s",
        "64 KiB to 1 TiB",
        "",
    ),
    (
        |d| d.task.limits.io_read_ops_per_s = Some(0),
        "task.limits.io_read_ops_per_s",
        "from 4 to",
        "",
    ),
    (
        |d| d.task.devices = [("gpu".into(), 0)].into(),
        "task.devices[\"gpu\"]",
        "from 1",
        "",
    ),
    (
        |d| d.task.devices = [("a b".into(), 1)].into(),
        "task.devices[\"a b\"]",
        "not a kind",
        "nvidia.com/gpu",
    ),
    (
        |d| {
            adapt(d, |a| {
                (a.cpu_millis_min, a.cpu_millis_max) = (Some(200), Some(100))
            })
        },
        "task.adaptive.cpu_millis_min",
        "floor of 0.2 is above the ceiling of 0.1",
        "",
    ),
    (
        |d| adapt(d, |a| a.memory_bytes_min = Some(1 << 30)),
        "task.adaptive.memory_bytes_min",
        "request of 64MiB is not between",
        "begins with",
    ),
    (
        |d| d.task.restart.backoff_ms = 0,
        "task.restart.backoff_ms",
        "shorter than 10ms",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 249,
        "task.restart.backoff_max_ms",
        "249ms, is shorter than the first, 250ms",
        "",
    ),
    (
        |d| d.task.restart.backoff_max_ms = 3_600_001,
        "task.restart.backoff_max_ms",
        "longer than 1h",
        "",
    ),
    (
        |d| d.task.restart.attempts = Some(0),
        "task.restart.attempts",
        "from 1",
        "never",
    ),
    (
        |d| d.task.logs.keep_bytes = 1 << 19,
        "task.logs.keep_bytes",
        "512KiB, not between 1MiB and 1TiB",
        "",
    ),
    (
        |d| d.task.logs.keep_bytes = 2 << 40,
        "task.logs.keep_bytes",
        "2TiB",
        "",
    ),
    (
        |d| d.task.logs.keep_ms = Some(1_000),
        "task.logs.keep_ms",
        "the time that lines are kept",
        "",
    ),
    (
        |d| d.task.logs.keep_ms = Some(4_000 * 86_400_000),
        "task.logs.keep_ms",
        "longer than 3650d",
        "",
    ),
    (
        |d| d.task.stop.signal = 0,
        "task.stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.signal = 65,
        "task.stop.signal",
        "from 1 to 64",
        "",
    ),
    (
        |d| d.task.stop.grace_ms = 3_600_001,
        "task.stop.grace_ms",
        "longer than 1h",
        "",
    ),
    (
        |d| d.change.maintenance = Maintenance::RideOut { up_to_ms: 10_000 },
        "task.stop.grace_ms",
        "grace of 10s is no shorter than the window of 10s",
        "ride out",
    ),
    (
        |d| d.change.exclusive = Some(Exclusive { lease_ms: 5_000 }),
        "task.stop.grace_ms",
        "grace of 10s is no shorter than the lease of 5s",
        "another may start",
    ),
    (
        |d| mount(d, "tmp", tmpfs(4_096)),
        "task.mounts[0].at",
        "not an absolute path",
        "",
    ),
    (
        |d| mount(d, "/a//b", tmpfs(4_096)),
        "task.mounts[0].at",
        "empty",
        "",
    ),
    (
        |d| mount(d, "/proc/x", tmpfs(4_096)),
        "task.mounts[0].at",
        "belongs to the system",
        "",
    ),
    (
        |d| mount(d, "/", tmpfs(4_096)),
        "task.mounts[0].at",
        "belongs to the system",
        "",
    ),
    (
        |d| mount(d, "/tmp", tmpfs(1)),
        "task.mounts[0].source.tmpfs.bytes",
        "at least 4 KiB",
        "64MiB",
    ),
    (
        |d| mount(d, "/a", MountSource::Bind { path: "x".into() }),
        "task.mounts[0].source.bind.path",
        "not an absolute",
        "",
    ),
    (
        |d| mount(d, "/a", MountSource::Volume { name: "A".into() }),
        "task.mounts[0].source.volume.name",
        "only a-z",
        "",
    ),
    (
        |d| {
            mount(d, "/a", MountSource::Volume { name: "v".into() });
            mount(d, "/b", MountSource::Volume { name: "v".into() });
        },
        "task.mounts[1].source.volume.name",
        "twice",
        "",
    ),
    (
        |d| {
            d.task.isolation = Isolation::None;
            mount(d, "/a", tmpfs(4_096));
        },
        "task.mounts",
        "without isolation can't have mounts",
        "POTLUCK_PACKAGE",
    ),
    (
        |d| {
            d.task.isolation = Isolation::None;
            d.task.files = vec![RenderedFile {
                path: "a".into(),
                ..RenderedFile::default()
            }];
        },
        "task.files",
        "without isolation can't have files",
        "",
    ),
    (
        |d| d.task.user = Some("a b".into()),
        "task.user",
        "not a user",
        "uid:gid",
    ),
    (
        |d| d.task.user = Some("1000:x".into()),
        "task.user",
        "not a user",
        "",
    ),
    (
        |d| d.task.user = Some("-x".into()),
        "task.user",
        "not a user",
        "",
    ),
];
