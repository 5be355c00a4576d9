//! What each task of a job runs and needs: parameters that `job` and `task`
//! share, and what they are made with.

use super::{
    checks::{EXEC, GRPC, HTTP, METRIC, TCP},
    files::{BIND, FILE, TMPFS, VOLUME},
    param,
};
use crate::define::{
    Default::{Absent, Is, Required},
    Function, Group, Kind,
};

pub(crate) static TASK: Function = Function {
    name: "task",
    doc: "Gathers arguments that several jobs share: `job(..., task = task(...))`. It takes what a job says about each of its tasks; nothing is required.",
    groups: &[&PROGRAM, &RESOURCES, &SERVICES, &CHECKS, &LIFE, &FILES],
    positional: 0,
    gathers: true,
    elsewhere: &[
        ("cmd", "command"),
        ("environment", "env"),
        ("healthcheck", "health"),
        ("mem", "memory"),
        ("volumes", "mounts"),
    ],
    example: "task(command = \"bin/web\", cpu = 0.5, memory = \"256MiB\")",
};

pub(super) static PROGRAM: Group = Group {
    title: "What it runs",
    params: &[
        param(
            "command",
            Kind::Text,
            Required,
            "A path in the package (\"bin/server\"), or an absolute path on the host (\"/bin/sh\").",
        ),
        param(
            "args",
            Kind::List(&Kind::Text),
            Is("[]"),
            "Arguments after the command. `${...}` stands for what only the node knows, such as `${port.http}`.",
        ),
        param(
            "env",
            Kind::Map(&Kind::Text),
            Is("{}"),
            "Environment, on top of what potluck sets (`POTLUCK_*`, `PORT_*`). `${...}` as in `args`.",
        ),
        param(
            "user",
            Kind::Text,
            Absent("what the node is set to"),
            "As whom it runs: a name that the node knows, or \"uid:gid\".",
        ),
    ],
};

pub(super) static RESOURCES: Group = Group {
    title: "What it needs",
    params: &[
        param(
            "cpu",
            Kind::Cpu,
            Is("0.1"),
            "Cores, as a share while the node is busy. A cap is `limits(cpu = ...)`.",
        ),
        param("memory", Kind::Bytes, Is("\"64MiB\""), "Memory."),
        param(
            "disk",
            Kind::Bytes,
            Is("\"0B\""),
            "Space for the task's folder, its volumes and its logs, without its packages; a task that uses more is stopped.",
        ),
        param(
            "uplink",
            Kind::Rate,
            Is("\"0bit/s\""),
            "Bandwidth out of the node, of what its operator has set with `--uplink`. It is counted, so that tasks that need it fit together; nobody holds a task to it.",
        ),
        param(
            "devices",
            Kind::Map(&Kind::Count),
            Is("{}"),
            "Counted devices by their kind: {\"nvidia.com/gpu\": 1}.",
        ),
        param(
            "limits",
            Kind::Made(&[&LIMITS]),
            Is("limits()"),
            "Beyond what it may not go.",
        ),
        param(
            "adaptive",
            Kind::Made(&[&ADAPTIVE]),
            Is("adaptive()"),
            "Requests that follow what the task really uses.",
        ),
    ],
};

pub(super) static SERVICES: Group = Group {
    title: "Where it is found",
    params: &[
        param(
            "ports",
            Kind::Either(&[Kind::Map(&Kind::Port), Kind::List(&Kind::Text)]),
            Is("{}"),
            "Ports by their names: {\"http\": 0}. 0 leaves the number to the node; the task is told it as PORT_HTTP. A list of names is short for zeros.",
        ),
        param(
            "services",
            Kind::Either(&[Kind::Map(&Kind::Text), Kind::List(&Kind::Made(&[&SERVICE]))]),
            Is("{}"),
            "Names under which others find it, and the port behind each: {\"web\": \"http\"}; or a list of service(...).",
        ),
    ],
};

pub(super) static CHECKS: Group = Group {
    title: "When it is well",
    params: &[
        param(
            "health",
            Kind::Either(&[
                Kind::Made(&[&HTTP, &TCP, &EXEC, &GRPC]),
                Kind::List(&Kind::Made(&[&HTTP, &TCP, &EXEC, &GRPC])),
            ]),
            Absent(
                "tcp(...) on the port of the first service; without services, none: it is well while it runs",
            ),
            "One check, or several that must all be good. [] means none.",
        ),
        param(
            "metrics",
            Kind::List(&Kind::Made(&[&METRIC])),
            Is("[]"),
            "Metrics that must not stay beyond a threshold.",
        ),
    ],
};

pub(super) static LIFE: Group = Group {
    title: "How it starts and ends",
    params: &[
        param(
            "setup",
            Kind::List(&Kind::Either(&[Kind::Text, Kind::Made(&[&HOOK])])),
            Is("[]"),
            "Commands before the task, one after the other. If one fails, the task has failed.",
        ),
        param(
            "teardown",
            Kind::List(&Kind::Either(&[Kind::Text, Kind::Made(&[&HOOK])])),
            Is("[]"),
            "Commands when the task has ended, whatever the end.",
        ),
        param(
            "restart",
            Kind::Made(&[&RESTART]),
            Is("restart()"),
            "What happens when it exits by itself.",
        ),
        param(
            "stop",
            Kind::Made(&[&STOP]),
            Is("stop()"),
            "How it is told to stop.",
        ),
        param(
            "logs",
            Kind::Made(&[&LOGS]),
            Is("logs()"),
            "What is kept of what it prints.",
        ),
    ],
};

pub(super) static FILES: Group = Group {
    title: "What it sees",
    params: &[
        param(
            "files",
            Kind::List(&Kind::Made(&[&FILE])),
            Is("[]"),
            "Files that are written into the task before it starts.",
        ),
        param(
            "mounts",
            Kind::List(&Kind::Made(&[&BIND, &TMPFS, &VOLUME])),
            Is("[]"),
            "Further places in its file system.",
        ),
        param(
            "isolation",
            Kind::Word(&["default", "strict", "none"]),
            Is("\"default\""),
            "How well it is kept apart from the host: as the node is set, all that potluck can do, or not at all. A node that can't do it refuses the task.",
        ),
    ],
};

pub(super) static LIMITS: Function = Function {
    name: "limits",
    doc: "Beyond what a task may not go. A change of limits, and of `cpu`, `memory` and `uplink` of a job, reaches tasks while they run; where a host lacks the room, or of an exclusive job, they start again.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "cpu",
                Kind::Cpu,
                Absent("what nobody else needs"),
                "A quota of CPU.",
            ),
            param(
                "memory",
                Kind::Bytes,
                Absent("what the job asks for"),
                "Memory at which the task is killed.",
            ),
            param(
                "cpu_burst",
                Kind::Cpu,
                Absent("nothing"),
                "What of an unused quota may be used later, at most the quota: for work that comes in bursts of less than a second.",
            ),
            param(
                "pids",
                Kind::Count,
                Absent("4096"),
                "Processes and threads.",
            ),
            param(
                "io_weight",
                Kind::Count,
                Absent("100, as everybody has"),
                "Share of the disks while they are busy, 1 to 1000. Needs a node whose disks have a scheduler with weights (attribute `limits.io-weight`).",
            ),
            param(
                "io_read",
                Kind::Bytes,
                Absent("no limit"),
                "Bytes read a second, from the disk that holds the node's data. This and the next three need a node that can limit it (attribute `limits.io`).",
            ),
            param(
                "io_write",
                Kind::Bytes,
                Absent("no limit"),
                "Bytes written a second. With cgroup v1 what is written past the page cache alone.",
            ),
            param(
                "io_read_ops",
                Kind::Count,
                Absent("no limit"),
                "Reads a second.",
            ),
            param(
                "io_write_ops",
                Kind::Count,
                Absent("no limit"),
                "Writes a second.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[("mem", "memory")],
    example: "limits(cpu = 2, memory = \"1GiB\")",
};

pub(super) static ADAPTIVE: Function = Function {
    name: "adaptive",
    doc: "Requests that follow what a task really uses.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "mode",
                Kind::Word(&["off", "recommend", "auto"]),
                Is("\"off\""),
                "Nobody acts, better values are shown, or potluck acts between floor and ceiling.",
            ),
            param("cpu_min", Kind::Cpu, Absent("none"), "Never below."),
            param("cpu_max", Kind::Cpu, Absent("none"), "Never above."),
            param("memory_min", Kind::Bytes, Absent("none"), "Never below."),
            param("memory_max", Kind::Bytes, Absent("none"), "Never above."),
        ],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[],
    example: "adaptive(\"auto\", memory_min = \"64MiB\", memory_max = \"1GiB\")",
};

pub(super) static SERVICE: Function = Function {
    name: "service",
    doc: "A name under which a task is found, with tags.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "name",
                Kind::Text,
                Required,
                "The service, unique in the namespace.",
            ),
            param("port", Kind::Text, Required, "The port, by its name."),
            param(
                "tags",
                Kind::List(&Kind::Text),
                Is("[]"),
                "Words that clients can choose endpoints by.",
            ),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[],
    example: "service(\"web\", \"http\", tags = [\"v2\"])",
};

pub(super) static HOOK: Function = Function {
    name: "hook",
    doc: "A command before or after the task, in its sandbox.",
    groups: &[&Group {
        title: "",
        params: &[
            param("command", Kind::Text, Required, "As the task's own."),
            param("args", Kind::List(&Kind::Text), Is("[]"), "After it."),
            param(
                "timeout",
                Kind::Duration,
                Is("\"1m\""),
                "It is killed, and has failed, after this long.",
            ),
        ],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[("cmd", "command")],
    example: "hook(\"bin/migrate\", args = [\"up\"], timeout = \"5m\")",
};

pub(super) static RESTART: Function = Function {
    name: "restart",
    doc: "What happens when a task exits by itself.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "backoff",
                Kind::Duration,
                Is("\"250ms\""),
                "First pause; doubles up to the longest.",
            ),
            param(
                "backoff_max",
                Kind::Duration,
                Is("\"30s\""),
                "Longest pause. A run of this length or more starts the count anew.",
            ),
            param(
                "on",
                Kind::Word(&["always", "failure", "never"]),
                Is("\"always\""),
                "After which exits it starts again.",
            ),
            param(
                "attempts",
                Kind::Count,
                Absent("after three"),
                "Failures in a row after which it moves to another node.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[
        ("delay", "backoff"),
        ("max", "backoff_max"),
        ("policy", "on"),
        ("condition", "on"),
    ],
    example: "restart(backoff = \"1s\", on = \"failure\")",
};

pub(super) static LOGS: Function = Function {
    name: "logs",
    doc: "What is kept of what a task prints, on its node.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "when_full",
                Kind::Word(&["block", "drop"]),
                Is("\"block\""),
                "When the disk refuses lines: the task waits as it prints, or they are counted and gone. Either way the log says so.",
            ),
            param(
                "keep",
                Kind::Bytes,
                Is("\"128MiB\""),
                "How much, compressed; the oldest lines go first. The node may keep less.",
            ),
            param(
                "keep_for",
                Kind::Duration,
                Absent("while there is room"),
                "Lines older than this go.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[
        ("max_size", "keep"),
        ("max_file_size", "keep"),
        ("max_age", "keep_for"),
        ("mode", "when_full"),
    ],
    example: "logs(when_full = \"drop\", keep = \"1GiB\", keep_for = \"7d\")",
};

pub(super) static STOP: Function = Function {
    name: "stop",
    doc: "How a task is told to stop.",
    groups: &[&Group {
        title: "",
        params: &[
            param("signal", Kind::Signal, Is("\"SIGTERM\""), "The first word."),
            param(
                "grace",
                Kind::Duration,
                Is("\"10s\""),
                "Time between the signal and the kill.",
            ),
        ],
    }],
    positional: 0,
    gathers: false,
    elsewhere: &[
        ("timeout", "grace"),
        ("kill_timeout", "grace"),
        ("kill_signal", "signal"),
    ],
    example: "stop(signal = \"SIGINT\", grace = \"30s\")",
};
