//! Tests of the network, over real connections on the loopback.
