//! Which ports of this host others use: before a task is given any, its agent
//! tries to have them for a moment. That a program takes one between this and
//! the task's start can't be helped; the task's health check tells then.

use potluck_core::auction::PortUser;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

/// Looks for one call or award: each finds at least one port in use, and a
/// host with more of them in its range has the range wrong.
pub(super) const LOOKS_MAX: usize = 64;

/// What the node itself listens on.
pub(super) fn own(ports: &BTreeSet<u16>) -> BTreeMap<u16, PortUser> {
    ports.iter().map(|port| (*port, PortUser::Node)).collect()
}

/// Those of the ports that somebody uses at the address, or at all addresses,
/// for TCP or UDP: what a task will use its port for, nobody has said.
pub(super) fn in_use(address: IpAddr, ports: &BTreeSet<u16>) -> BTreeMap<u16, PortUser> {
    let used = ports.iter().filter(|port| {
        let at = SocketAddr::new(address, **port);
        is_taken(TcpListener::bind(at)) || is_taken(UdpSocket::bind(at))
    });
    used.map(|port| (*port, PortUser::Program)).collect()
}

/// Any other failure says nothing of other programs: a port below 1024 may
/// want a right that the task has and the agent has not.
fn is_taken<T>(bound: io::Result<T>) -> bool {
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_somebody_listens_on_are_found() {
        // An address that no other test uses.
        let address: IpAddr = "127.0.77.5".parse().unwrap();
        let tcp = TcpListener::bind((address, 0)).unwrap();
        let udp = UdpSocket::bind((address, 0)).unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let tcp_port = tcp.local_addr().unwrap().port();
        let udp_port = udp.local_addr().unwrap().port();
        let port_everywhere = everywhere.local_addr().unwrap().port();
        let ports = BTreeSet::from([tcp_port, udp_port, port_everywhere]);
        let found = in_use(address, &ports);
        assert!(found.keys().eq(&ports), "{found:?} of {ports:?}");
        // Another address of the same host is another matter.
        let elsewhere: IpAddr = "127.0.77.6".parse().unwrap();
        let found = in_use(elsewhere, &BTreeSet::from([tcp_port, udp_port]));
        assert!(found.is_empty(), "{found:?}");
        drop((tcp, udp));
        let found = in_use(address, &BTreeSet::from([tcp_port, udp_port]));
        assert!(found.is_empty(), "they were given back: {found:?}");
    }
}
