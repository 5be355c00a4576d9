//! Real nodes on loopback: one process each, on 127.0.*rack*.*host*; or in
//! network namespaces with wires between them that can be cut.
//!
//! A testnet lives in a folder. Its file `testnet.json` says which nodes there
//! are; everything else is found out by looking, so that any process may go on
//! where another stopped.

mod cgroups;
mod layout;
mod process;
mod running;
mod testnet;
mod wires;

pub use layout::{Layout, NodePlace};
pub use process::{HostProcesses, host_processes};
pub use running::RunningTestnet;
pub use testnet::{NetError, Testnet, TestnetOptions};
pub use wires::Wires;
