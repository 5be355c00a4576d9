//! A commented spec to start from.

/// What is known about the job that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starting {
    /// Its name.
    pub name: String,
    /// File or folder of its program.
    pub package: String,
    /// What it runs.
    pub command: String,
    /// The name of its port, if it listens.
    pub port: Option<String>,
    /// How many tasks.
    pub replicas: u32,
}

/// The text of a spec file.
pub fn starting_file(starting: &Starting) -> String {
    let Starting {
        name,
        package,
        command,
        port,
        replicas,
    } = starting;
    let service = match port {
        Some(port) => format!(
            "\
\x20   # The node chooses a number and tells it as PORT_{variable}; write a number
    # instead of 0 to fix it.
    ports = {{{port:?}: 0}},
    # Others find it under this name; clients are sent to healthy tasks only.
    services = {{{name:?}: {port:?}}},
    # health = http({port:?}, \"/healthz\"),  # default: the port accepts connections
",
            variable = port.to_ascii_uppercase().replace('-', "_"),
        ),
        None => "\
\x20   # ports = {\"http\": 0},         # told to the task as PORT_HTTP
    # services = {\"name\": \"http\"}, # others find it under this name
"
        .into(),
    };
    format!(
        "\
# A job for potluck. `potluck spec check FILE` tells what is wrong with it,
# `potluck spec show FILE` every value with its default, and
# `potluck run FILE` submits it.
job(
    name = {name:?},
    # A file or folder, relative to this file.
    package = {package:?},
    # A path in the package, or an absolute path on the host.
    command = {command:?},
    # args = [\"--verbose\"],
    # env = {{\"LOG\": \"info\"}},
    replicas = {replicas},
    # cpu = 0.1,           # cores; \"100m\" is the same
    # memory = \"64MiB\",
{service})
"
    )
}
