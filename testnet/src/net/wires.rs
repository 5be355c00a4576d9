//! A network of a testnet's own: a namespace for each node and a wire from
//! each to each, which can be cut and mended.
//!
//! On loopback all nodes dial from one address, so that nothing can stand
//! between two of them; here it can. Answers for the namespaces, their
//! addresses and wires; leaves starting nodes in them to `testnet`. Nothing of
//! it is in the machine's own namespace. A namespace is held by a process that
//! sleeps and dies with the thread that laid the wires, so that nothing stays
//! behind in any case.
//!
//! A cut wire loses what it is given and says nothing, as a firewall or a
//! broken switch does: the neighbour's hardware address is one that nobody has.

use super::{layout::Layout, testnet::NetError};
use crate::wait::until;
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long a namespace may take to be made.
const MAKE_WAIT: Duration = Duration::from_secs(30);

/// Nobody's: of those that are given by hand, as veth's random ones are, but
/// with zeros.
const NOBODY: &str = "02:00:00:00:00:01";

/// The namespaces of a testnet's nodes, by the nodes' names.
#[derive(Debug)]
pub struct Wires(BTreeMap<String, End>);

/// A node's end of its wires.
#[derive(Debug)]
struct End {
    holder: Child,
    address: IpAddr,
}

impl Wires {
    /// Why this host can't give namespaces with wires; nothing if it can.
    pub fn missing() -> Option<String> {
        let mut probe = Command::new("unshare");
        probe.args([
            "--net", "ip", "link", "add", "name", "this", "type", "veth", "peer", "name", "that",
        ]);
        let missing = run(&mut probe).and_then(|()| {
            run(Command::new("nsenter").arg("--version"))?;
            run(Command::new("setpriv").arg("--version"))
        });
        missing.err().map(|error| error.to_string())
    }

    /// Makes a namespace for each node, with a wire to each of the others.
    ///
    /// # Errors
    /// [`NetError::Io`] with what the tool that failed says.
    pub(super) fn lay(layout: &Layout) -> Result<Wires, NetError> {
        let mut wires = Wires(BTreeMap::new());
        for node in &layout.nodes {
            let end = End {
                holder: holder().map_err(|source| failed(&node.name, source))?,
                address: node.address.ip(),
            };
            wires.0.insert(node.name.clone(), end);
        }
        for end in wires.0.values() {
            end.is_made()?;
            end.ip(&["link", "set", "lo", "up"])?;
            end.ip(&[
                "address",
                "add",
                &format!("{}/32", end.address),
                "dev",
                "lo",
            ])?;
        }
        let ends: Vec<(&String, &End)> = wires.0.iter().collect();
        for (k, (name, end)) in ends.iter().enumerate() {
            for (other_name, other) in &ends[k + 1..] {
                end.connect(name, other_name, other)?;
            }
        }
        Ok(wires)
    }

    /// A command that runs this program in a node's namespace.
    ///
    /// # Panics
    /// If the node is not of this testnet.
    pub(super) fn inside(&self, name: &str, program: &std::path::Path) -> Command {
        let mut command = self.end(name).enter();
        command.arg(program);
        command
    }

    /// From now on nothing passes between these two, either way.
    ///
    /// # Errors
    /// [`NetError::Io`].
    ///
    /// # Panics
    /// If one is not of this testnet.
    pub fn cut(&self, a: &str, b: &str) -> Result<(), NetError> {
        for (from, to) in [(a, b), (b, a)] {
            let address = self.end(to).address.to_string();
            let neighbour = ["neighbour", "replace", &address, "dev", to];
            let of_nobody = ["lladdr", NOBODY, "nud", "permanent"];
            self.end(from).ip(&[&neighbour[..], &of_nobody].concat())?;
        }
        Ok(())
    }

    /// The wire between these two is whole again.
    ///
    /// # Errors
    /// [`NetError::Io`].
    ///
    /// # Panics
    /// If one is not of this testnet.
    pub fn mend(&self, a: &str, b: &str) -> Result<(), NetError> {
        for (from, to) in [(a, b), (b, a)] {
            let address = self.end(to).address.to_string();
            self.end(from)
                .ip(&["neighbour", "delete", &address, "dev", to])?;
        }
        Ok(())
    }

    fn end(&self, name: &str) -> &End {
        let end = self.0.get(name);
        end.unwrap_or_else(|| panic!("there is no node {name:?} at these wires"))
    }
}

impl End {
    fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    /// The holder has begun in ours, and leaves it.
    fn is_made(&self) -> Result<(), NetError> {
        let ours = fs::read_link("/proc/self/ns/net").unwrap_or_default();
        until("a network namespace", MAKE_WAIT, || {
            match fs::read_link(self.namespace()) {
                Ok(theirs) if theirs != ours => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(())
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display()));
        command
    }

    fn ip(&self, args: &[&str]) -> Result<(), NetError> {
        let done = run(self.enter().arg("ip").args(args));
        done.map_err(|source| failed(&args.join(" "), source))
    }

    /// The wire's ends are called by whom they lead to.
    fn connect(&self, name: &str, other_name: &str, other: &End) -> Result<(), NetError> {
        let theirs = other.holder.id().to_string();
        let this = ["link", "add", "name", other_name, "type", "veth"];
        let that = ["peer", "name", name, "netns", &theirs];
        self.ip(&[&this[..], &that].concat())?;
        self.lead_to(other_name, other.address)?;
        other.lead_to(name, self.address)
    }

    fn lead_to(&self, name: &str, address: IpAddr) -> Result<(), NetError> {
        self.ip(&["link", "set", name, "up"])?;
        let (to, from) = (format!("{address}/32"), self.address.to_string());
        self.ip(&["route", "add", &to, "dev", name, "src", &from])
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that sleeps in a namespace of its own.
fn holder() -> io::Result<Child> {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--net", "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
}

fn run(command: &mut Command) -> io::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{program}: {}", said.trim())))
        }
    }
}

fn failed(what: &str, source: io::Error) -> NetError {
    NetError::Io {
        what: format!("wires can't be laid: {what}"),
        source,
    }
}
