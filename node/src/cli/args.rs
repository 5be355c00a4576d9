//! The arguments as people write them, and nothing else: what they mean is
//! decided in the commands.

use super::time::When;
use crate::{
    agent::facts::{Devices, Label},
    api::logs::LogTarget,
};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use potluck_specs::{JobName, SlotId, ids::NameError};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// A fleet manager with no server tier: every host runs this program.
#[derive(Debug, Parser)]
#[command(
    name = "potluck",
    version = crate::version::text(),
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 failed for good (a damaged file, a full disk), \
                  2 bad request, 3 not found, 4 conflict, 5 unavailable or timed out (worth \
                  another try), 70 a fault of potluck, 77 denied. plan and diff: 0 no change, \
                  2 changes, 1 any error. With -o json, errors are JSON on standard error."
)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Settings of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Settings of every command.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Node to ask: HOST:PORT, or the path of a node's socket. Without it the
    /// node of this host is asked, then the nodes that the profile knows.
    #[arg(long, global = true, env = "POTLUCK_NODE", value_name = "ADDR")]
    pub node: Option<String>,
    /// Data folder of this host's node.
    #[arg(long, global = true, env = "POTLUCK_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder of the person's keys (default: ~/.config/potluck).
    #[arg(long, global = true, env = "POTLUCK_CONFIG", value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// How to print the answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How to print answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs: one JSON document.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a new fleet with this host as its first node.
    Init(InitArgs),
    /// Run this host's node until it is told to stop.
    Node(NodeArgs),
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Submit the jobs of a spec file, or go back to an earlier version of a
    /// job. What is unchanged stays as it is.
    Run(RunArgs),
    /// What a spec file would change and where its tasks would go; changes
    /// nothing. Exit code 0: nothing would change, 2: something, 1: an error.
    Plan(PlanArgs),
    /// Jobs in short, or some jobs with their tasks.
    Status {
        /// Only these jobs.
        #[arg(value_name = "JOB")]
        jobs: Vec<JobName>,
        /// Stopped jobs too.
        #[arg(long)]
        all: bool,
    },
    /// What the tasks of a job use: now, and what they seldom pass.
    Usage {
        /// The job.
        job: JobName,
    },
    /// The versions of a job that are kept, the newest first.
    History {
        /// The job.
        job: JobName,
    },
    /// How two versions of a job differ. Exit code 0: not at all, 2: they do,
    /// 1: an error.
    Diff {
        /// The job.
        job: JobName,
        /// A version.
        from: u64,
        /// Another one (default: the newest).
        to: Option<u64>,
    },
    /// All nodes ever admitted, absent ones included.
    Nodes,
    /// What the asked node and its cluster are.
    Info,
    /// Logs of tasks, merged by time; also of tasks that have ended or moved.
    Logs(LogsArgs),
    /// Run a command in a task. Its exit code is this command's; 255 when the
    /// connection was lost, 126 and 127 when it could not be run. Nothing of it
    /// outlives the connection.
    Exec(ExecArgs),
    /// Copy files and folders into a task or out of it; one side is TASK:PATH.
    /// Paths in the task are the task's own.
    Cp {
        /// A path here, or TASK:PATH, for example web[0]:/task/data.
        from: String,
        /// The other side: a folder to put it into, or its new name.
        to: String,
    },
    /// The system's ssh client, into a task: a shell, or a command. Its exit
    /// code is this command's; 255 when the connection was lost. The task's
    /// node must have ssh switched on.
    Ssh(SshArgs),
    /// Print what ssh's own configuration needs for tasks as hosts: for
    /// `ssh 0.web.potluck`, scp, sftp, and programs that use them.
    SshConfig,
    /// Passes the bytes of an ssh client on; what ssh-config names.
    #[command(hide = true)]
    SshProxy {
        /// A task as a host.
        host: String,
    },
    /// Stop a job: no task of it is wanted any more.
    Stop {
        /// The job.
        job: JobName,
        /// Return when it is accepted, without waiting for the tasks to end.
        #[arg(long)]
        no_wait: bool,
    },
    /// Where a service is, by the DHT.
    Resolve {
        /// The service, or namespace/service.
        service: JobName,
        /// Ask the nodes that hold it in the DHT, past the asked node's cache.
        #[arg(long)]
        fresh: bool,
    },
    /// Why a task is where it is, or nowhere: every host with its reason.
    Explain {
        /// The task, for example web[0]; of a job the tasks that wait for a
        /// place, or all of them if none waits.
        #[arg(value_name = "TASK")]
        target: LogTarget,
    },
    /// Packages on the asked node and where their bytes came from.
    Packages,
    /// Take a node out of the choice for new work and move its tasks away.
    Drain {
        /// The node's name.
        name: String,
        /// Take it back into the choice.
        #[arg(long, conflicts_with_all = ["deadline", "wait"])]
        undo: bool,
        /// After so many seconds what is still there is stopped in any case.
        #[arg(long, default_value_t = DRAIN_DEADLINE, value_name = "SECONDS")]
        deadline: u64,
        /// Wait until it is empty.
        #[arg(long)]
        wait: bool,
    },
    /// Give a node nothing new, and leave it what it has.
    Cordon {
        /// The node's name.
        name: String,
    },
    /// Let a cordoned node take work again.
    Uncordon {
        /// The node's name.
        name: String,
    },
    /// Drain a node, wait until it is empty, and remove it from the cluster.
    Decommission {
        /// The node's name.
        name: String,
        /// After so many seconds what is still there is stopped in any case.
        #[arg(long, default_value_t = DRAIN_DEADLINE, value_name = "SECONDS")]
        deadline: u64,
    },
    /// What the jobs of a namespace may ask for together.
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// See, stop, continue or undo a job's rollout.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Show which tasks of a job are down, and so use up its disruption budget.
    WhyBlocked {
        /// The job.
        job: JobName,
    },
    /// Show which moves would even out the load; they happen by themselves,
    /// one at a time, when the cluster is quiet.
    Rebalance {
        /// Only show them.
        #[arg(long)]
        dry_run: bool,
    },
    /// The cluster's control group.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// For looking into the scheduler's decisions.
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Drain this host's node, wait until it is empty, and stop it.
    Leave {
        /// Longest wait for its tasks to move, in seconds.
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        wait: u64,
    },
    /// A cluster in a box, on loopback: see `potluck testnet --help`.
    #[command(disable_help_flag = true)]
    Testnet {
        /// Handed to potluck-testnet.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Look at spec files: what is wrong with them, and what they mean.
    #[command(subcommand)]
    Spec(SpecCommand),
    /// Evaluates spec files under the limits of its parent.
    #[command(hide = true)]
    InternalEvaluate,
}

/// `potluck exec`.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Pass standard input on, to its end.
    #[arg(short, long)]
    pub interactive: bool,
    /// With a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// Bring the node's static busybox along, at /.tools and last in PATH, for
    /// tasks without a shell.
    #[arg(long)]
    pub tools: bool,
    /// Let it trace the task's processes, as gdb and strace do. For operators.
    #[arg(long)]
    pub debug: bool,
    /// The task, for example web[0]; of a job with one task its name is enough.
    pub task: LogTarget,
    /// The command and its arguments, after --.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `potluck ssh`.
#[derive(Debug, Args)]
pub(super) struct SshArgs {
    /// With a terminal for the command too.
    #[arg(short, long)]
    pub tty: bool,
    /// The task, for example web[0].
    #[arg(value_parser = parse_task)]
    pub task: SlotId,
    /// A command line for the task's shell, after --; a shell without it.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// A task, where a job's name would not do.
fn parse_task(text: &str) -> Result<SlotId, String> {
    text.parse().map_err(|error: NameError| {
        let is_job = text.parse::<JobName>().is_ok();
        match is_job {
            true => format!("it names a job: name one of its tasks, as in '{text}[0]'"),
            false => error.to_string(),
        }
    })
}

/// Where nodes listen, unless they are told otherwise.
pub(super) const PORT_DEFAULT: u16 = 7400;

/// `potluck init`.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Name of the cluster.
    #[arg(long, default_value = "main")]
    pub cluster: String,
    /// What to call this node (default: the host's name).
    #[arg(long)]
    pub name: Option<String>,
    /// The rack that the host stands in.
    #[arg(long, default_value = "default")]
    pub rack: String,
    /// Name of the first admin.
    #[arg(long, default_value = "admin")]
    pub user: String,
    /// Address at which this node will be reached, for commands on other hosts
    /// (default: that of the host's first interface, port 7400).
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub advertise: Option<SocketAddr>,
}

/// `potluck node`.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Address of any member, for the first start on this host: HOST or
    /// HOST:PORT.
    #[arg(long, value_name = "ADDRESS", requires = "token", value_parser = parse_member)]
    pub join: Option<SocketAddr>,
    /// Token from `potluck token create`.
    #[arg(long, env = "POTLUCK_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The rack that the host stands in.
    #[arg(long)]
    pub rack: Option<String>,
    /// What to call this node (default: the host's name).
    #[arg(long)]
    pub name: Option<String>,
    /// Address to listen on, for TCP and for gossip's UDP.
    #[arg(long, default_value = "0.0.0.0:7400", value_name = "ADDRESS", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Address that others reach this host at (default: the one listened on,
    /// or that of the host's first interface).
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub advertise: Option<SocketAddr>,
    /// Thousandths of a core for tasks (default: all of the host's).
    #[arg(long, value_name = "MILLIS")]
    pub cpu: Option<u32>,
    /// Mebibytes of memory for tasks (default: all of the host's but 512).
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// Mebibytes of disk for tasks (default: all of the data folder's file
    /// system but a tenth, at least 1024).
    #[arg(long, value_name = "MIB")]
    pub disk: Option<u64>,
    /// Megabits a second out of this host that tasks may ask for (default:
    /// none). They are counted; traffic is not shaped.
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub uplink: Option<u64>,
    /// Something that jobs may ask for as `label.NAME`; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<Label>,
    /// Devices that jobs may ask for by kind and count; may be repeated.
    #[arg(long = "device", value_name = "KIND=COUNT")]
    pub devices: Vec<Devices>,
    /// First and last port for tasks that leave the choice to the node.
    #[arg(long, default_value = "20000-29999", value_name = "FIRST-LAST")]
    pub ports: String,
    /// How long a voter must be silent before another takes its place.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub replace_voter_after: u64,
    /// Seconds that tasks outlive an agent that is gone.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub agent_lease: u64,
    /// Leave the helpers of running tasks at the build that started them. They
    /// are brought to this node's build otherwise, one after the other; their
    /// tasks notice nothing.
    #[arg(long)]
    pub keep_helpers: bool,
    /// Let people into this node's tasks by ssh, beside exec and cp. Nothing
    /// listens: connections come through potluck. Needs potluck-sshd.
    #[arg(long)]
    pub ssh: bool,
    /// Mebibytes kept of all tasks' logs together, compressed; the oldest go
    /// first. What is kept of one task, its job says.
    #[arg(long, default_value_t = 10 << 10, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub logs_keep: u64,
    /// Days after which logs go (default: while there is room).
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3_650))]
    pub logs_keep_days: Option<u64>,
}

/// How long a drain may take unless told otherwise, in seconds: an hour, as
/// people know it from Nomad.
const DRAIN_DEADLINE: u64 = 3_600;

/// What can be done with a rollout.
#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// Show how far it is.
    Status {
        /// The job.
        job: JobName,
    },
    /// Stop it where it is.
    Pause {
        /// The job.
        job: JobName,
    },
    /// Go on, after a pause or a failure.
    Resume {
        /// The job.
        job: JobName,
    },
    /// Go back to the version that ran before.
    Undo {
        /// The job.
        job: JobName,
    },
}

/// `potluck cluster …`.
#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// After most voters were lost for good: go on from this host's copy of
    /// the log, under a new epoch. Needs this host's node, running.
    Recover {
        /// Don't ask.
        #[arg(long)]
        yes: bool,
        /// Although most voters can be reached, or another node has a longer
        /// copy of the log. What only the others have is lost.
        #[arg(long)]
        force: bool,
        /// Only show what it would be.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Whose decisions are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Recorded {
    /// What the leader decides for the cluster.
    Scheduler,
    /// What a node decides for itself.
    Host,
}

/// `potluck debug …`.
#[derive(Debug, Subcommand)]
pub(super) enum DebugCommand {
    /// Write down all that goes into decisions of the asked node, without
    /// secrets. Of its scheduler, for which it must be the one that leads, it
    /// begins a new reign: placements pause until the hosts have told what
    /// they run. Of its host (bids, refusals, starts, stops) nothing pauses.
    Record {
        /// Whose decisions.
        #[arg(long, value_enum, default_value_t = Recorded::Scheduler)]
        of: Recorded,
        /// For so long; sooner with Ctrl-C.
        #[arg(long, default_value_t = 60, value_name = "N",
            value_parser = clap::value_parser!(u64).range(1..=3_600))]
        seconds: u64,
        /// At most so many mebibytes.
        #[arg(long, default_value_t = 64, value_name = "MIB",
            value_parser = clap::value_parser!(u64).range(1..=256))]
        size: u64,
        /// The file; it must not exist.
        #[arg(short = 'f', long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Decide a recording again, here and now: each decision with its reasons,
    /// and whether it is the recorded one. Exit code 1 if one is not.
    Replay {
        /// The recording.
        file: PathBuf,
        /// Steps without a decision too.
        #[arg(long)]
        all: bool,
    },
}

/// `potluck token …`.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token that lets hosts join.
    Create {
        /// How many hosts.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        uses: u32,
        /// Valid for so many minutes.
        #[arg(long, default_value_t = 60, value_name = "MINUTES",
            value_parser = clap::value_parser!(u64).range(1..=525_600))]
        ttl: u64,
        /// The only rack that it admits to.
        #[arg(long)]
        rack: Option<String>,
        /// Its nodes are never chosen as voters.
        #[arg(long)]
        no_voter: bool,
    },
    /// Tokens that the log holds, with the nodes that each let in.
    List,
    /// Let nobody else in with a token. Nodes that it let in stay.
    Revoke {
        /// Its id, as `potluck token list` shows it.
        id: String,
    },
}

/// `potluck quota …`.
#[derive(Debug, Subcommand)]
pub(super) enum QuotaCommand {
    /// What the jobs of each namespace ask for, of what they may.
    List,
    /// Set a namespace's quota in place of the one it had; what is not named is
    /// not limited. Asked when a job is submitted: what runs is left alone.
    Set(QuotaArgs),
    /// Let the jobs of a namespace ask for as much as they like.
    Remove {
        /// The namespace.
        namespace: String,
    },
}

/// `potluck quota set`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("limit").required(true).multiple(true)))]
pub(super) struct QuotaArgs {
    /// The namespace.
    pub namespace: String,
    /// Jobs that are not stopped.
    #[arg(long, group = "limit")]
    pub jobs: Option<u64>,
    /// Tasks that may run at once.
    #[arg(long, group = "limit")]
    pub tasks: Option<u64>,
    /// Thousandths of a core.
    #[arg(long, group = "limit", value_name = "MILLIS")]
    pub cpu: Option<u64>,
    /// Mebibytes of memory.
    #[arg(long, group = "limit", value_name = "MIB", value_parser = mebibytes())]
    pub memory: Option<u64>,
    /// Mebibytes of disk.
    #[arg(long, group = "limit", value_name = "MIB", value_parser = mebibytes())]
    pub disk: Option<u64>,
}

/// As many as can be told in bytes.
fn mebibytes() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=u64::MAX >> 20)
}

/// `potluck spec …`.
#[derive(Debug, Subcommand)]
pub(super) enum SpecCommand {
    /// Tell everything that is wrong. Exit code 0: nothing (there may be
    /// warnings), 2: something, 3: there is no such file.
    Check {
        /// Spec files, and folders whose *.star files are all looked at.
        #[arg(default_value = ".", value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Set a param of the spec.
        #[arg(long, value_name = "NAME=VALUE")]
        set: Vec<String>,
    },
    /// Every value after defaults, and where each comes from.
    Show {
        /// The spec file.
        file: PathBuf,
        /// Set a param of the spec.
        #[arg(long, value_name = "NAME=VALUE")]
        set: Vec<String>,
    },
    /// What may be written, as JSON: the functions of the language, and the
    /// JSON Schema of the job that they evaluate to.
    Schema {
        /// Only this part, by itself.
        part: Option<SchemaPart>,
    },
    /// Write a commented spec to start from. On a terminal it asks for what is
    /// not given.
    New(NewArgs),
}

/// A part of what `potluck spec schema` tells.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum SchemaPart {
    /// The functions of the language.
    Functions,
    /// The JSON Schema of a job, as `spec show -o json` shows it.
    Job,
}

/// `potluck spec new`.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Where to write it (default: standard output). It must not exist.
    pub file: Option<PathBuf>,
    /// Name of the job.
    #[arg(long)]
    pub name: Option<String>,
    /// File or folder of its program, relative to the spec.
    #[arg(long, value_name = "PATH")]
    pub package: Option<String>,
    /// What it runs: a path in the package, or an absolute one on the host.
    #[arg(long)]
    pub command: Option<String>,
    /// Name of the port that it listens on.
    #[arg(long, value_name = "NAME")]
    pub port: Option<String>,
    /// How many tasks.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub replicas: u32,
}

/// `potluck run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The spec file; with --version, the job.
    #[arg(value_name = "FILE|JOB")]
    pub what: String,
    /// Go back: submit anew, signed by you, what this version was.
    #[arg(long, value_name = "N", conflicts_with_all = ["replicas", "set"])]
    pub version: Option<u64>,
    /// Why, for the job's history.
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Refuse if the job is not at this version (0: is not there). With
    /// several jobs: JOB=N, for each.
    #[arg(long, value_name = "[JOB=]N")]
    pub expect_version: Vec<Expected>,
    /// Return when the job is accepted, without waiting for healthy tasks.
    #[arg(long)]
    pub no_wait: bool,
    /// Longest wait for healthy tasks, in seconds (default: 120).
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u64>,
    /// Of work that ends (batch), wait until it has, however long it takes
    /// unless --wait says otherwise; fail if it failed. Else its first tasks
    /// are waited for.
    #[arg(long, conflicts_with = "no_wait")]
    pub wait_done: bool,
    /// Other number of replicas than the spec says.
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Set a param of the spec.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Take packages that lie outside of the spec's root folder, too.
    #[arg(long)]
    pub allow_outside: bool,
}

/// `potluck plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The spec file.
    pub file: PathBuf,
    /// Other number of replicas than the spec says.
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Set a param of the spec.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Take packages that lie outside of the spec's root folder, too.
    #[arg(long)]
    pub allow_outside: bool,
}

/// A version that a job is expected to be at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The job; without one, the only one that there is.
    pub job: Option<JobName>,
    /// Its version; 0 if it shall not be there.
    pub version: u64,
}

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Expected, String> {
        let (job, version) = match text.split_once('=') {
            Some((job, version)) => {
                let job = job.parse::<JobName>().map_err(|error| error.to_string())?;
                (Some(job), version)
            }
            None => (None, text),
        };
        let version = version
            .parse()
            .map_err(|_| format!("{version:?} is not a version: write N or JOB=N"))?;
        Ok(Expected { job, version })
    }
}

/// Reads HOST:PORT or IP:PORT; a host's first address counts.
///
/// # Errors
/// What is wrong with it, for people.
/// HOST:PORT, the host by its name or its address.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    let Some(Ok(_)) = port else {
        return Err(format!(
            "it names no port: write HOST:PORT, such as {}:{PORT_DEFAULT}",
            text.trim_end_matches(':')
        ));
    };
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let nowhere = |why: String| format!("there is no host {host:?}: {why}");
    let found = text.to_socket_addrs();
    found
        .map_err(|error| nowhere(error.to_string()))?
        .next()
        .ok_or_else(|| nowhere("its name has no address".into()))
}

/// The same, with the usual port where none is named.
fn parse_member(text: &str) -> Result<SocketAddr, String> {
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = plain.parse::<IpAddr>() {
        return Ok((ip, PORT_DEFAULT).into());
    }
    match text.contains(':') {
        true => parse_address(text),
        false => parse_address(&format!("{text}:{PORT_DEFAULT}")),
    }
}

/// `potluck logs`.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Jobs, of which all tasks are meant, or tasks: web, or web[0].
    #[arg(required = true, value_name = "TASK")]
    pub targets: Vec<LogTarget>,
    /// Go on with new lines as they come, wherever the tasks move.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines of each task.
    #[arg(long, value_name = "N")]
    pub tail: Option<u64>,
    /// Only lines since then: 10m, or 2026-11-22T16:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<When>,
    /// Only lines until then.
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<When>,
    /// Only lines in which this regular expression is found.
    #[arg(long, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// The log of the placement before the present one: before the task was
    /// moved or updated.
    #[arg(long, conflicts_with = "follow")]
    pub previous: bool,
    /// Print time and stream before each line.
    #[arg(long)]
    pub timestamps: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_named_with_a_port_or_without() {
        let table = [
            ("10.0.0.1", Some("10.0.0.1:7400")),
            ("10.0.0.1:9", Some("10.0.0.1:9")),
            ("::1", Some("[::1]:7400")),
            ("[::1]", Some("[::1]:7400")),
            ("[::1]:9", Some("[::1]:9")),
            ("10.0.0.1:x", None),
            ("10.0.0.1:", None),
        ];
        for (text, address) in table {
            let parsed = parse_member(text).ok().map(|found| found.to_string());
            assert_eq!(parsed.as_deref(), address, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_told() {
        let wrong = |text| parse_address(text).expect_err(text);
        assert!(wrong("10.0.0.1").contains("such as 10.0.0.1:7400"));
        assert!(wrong("10.0.0.1:").contains("such as 10.0.0.1:7400"));
        assert!(wrong("10.0.0.1:99999").contains("names no port"));
        let nowhere = wrong("host.invalid:7400");
        assert!(
            nowhere.contains("there is no host \"host.invalid\""),
            "{nowhere}"
        );
    }
}
