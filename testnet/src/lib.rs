//! The cluster in a box: real processes on loopback, their faults, and a
//! simulator that drives the same decisions in virtual time.
//!
//! `net` starts, kills and stops real nodes on 127.0.*rack*.*host*; `client`
//! uses the program `potluck` as a person would; `demo` and `bench` show and
//! measure the main job; `sim` drives `potluck-core` alone, and `drill` plays
//! its scripts on real nodes.

pub mod bench;
pub mod client;
pub mod demo;
pub mod drill;
pub mod net;
pub mod scenario;
pub mod sim;
pub mod wait;
