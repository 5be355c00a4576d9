//! Fixtures of the tests on real processes: a fleet that is brought down
//! whatever happens, and questions that tests ask it. The tests themselves
//! are in `tests/`; how processes are started and found is the testnet's.

pub mod fleet;
pub mod status;
