//! What a task finds in its file system beside its program.

use super::param;
use crate::define::{
    Default::{Is, Required},
    Function, Group, Kind, Param,
};

const AT: Param = param("at", Kind::Text, Required, "An absolute path in the task.");

pub(super) static FILE: Function = Function {
    name: "file",
    doc: "A file that is written into the task before it starts.",
    groups: &[&Group {
        title: "",
        params: &[
            param(
                "path",
                Kind::Text,
                Required,
                "In the task's folder, or absolute in its sandbox.",
            ),
            param(
                "content",
                Kind::Text,
                Required,
                "Its text; `${...}` as in a job's `args`.",
            ),
            param("mode", Kind::Mode, Is("\"0644\""), "Permission bits."),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[
        ("data", "content"),
        ("destination", "path"),
        ("text", "content"),
    ],
    example: "file(\"etc/web.conf\", \"listen ${port.http}\\n\")",
};

pub(super) static BIND: Function = Function {
    name: "bind",
    doc: "A mount: a file or folder of the node.",
    groups: &[&Group {
        title: "",
        params: &[
            param("path", Kind::Text, Required, "On the node, absolute."),
            AT,
            param(
                "read_only",
                Kind::Flag,
                Is("True"),
                "May the task only read?",
            ),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[("source", "path"), ("target", "at"), ("destination", "at")],
    example: "bind(\"/etc/ssl/certs\", at = \"/etc/ssl/certs\")",
};

pub(super) static TMPFS: Function = Function {
    name: "tmpfs",
    doc: "A mount: memory, gone with the task.",
    groups: &[&Group {
        title: "",
        params: &[AT, param("size", Kind::Bytes, Required, "How much.")],
    }],
    positional: 1,
    gathers: false,
    elsewhere: &[("target", "at"), ("destination", "at")],
    example: "tmpfs(\"/tmp\", size = \"64MiB\")",
};

pub(super) static VOLUME: Function = Function {
    name: "volume",
    doc: "A mount: a folder that the node keeps under a name for the job's slot.",
    groups: &[&Group {
        title: "",
        params: &[
            param("name", Kind::Text, Required, "Unique in the job."),
            AT,
            param(
                "read_only",
                Kind::Flag,
                Is("False"),
                "May the task only read?",
            ),
        ],
    }],
    positional: 2,
    gathers: false,
    elsewhere: &[("target", "at"), ("destination", "at")],
    example: "volume(\"data\", at = \"/var/lib/db\")",
};
