//! Whole groups in one process: a hub instead of the network, with cut links.

mod elections;
mod hub;
mod membership;
mod messages;
mod recovery;
mod store;
