//! Where things are, and fetching them. (Skeleton: the seams so far.)

pub mod exchange;
pub mod rendezvous;
pub mod slice;
