//! A testnet with an owner: down it goes when its owner is dropped, also when
//! that is an error's or a panic's doing.

use crate::wait::forget_interrupt;

use super::testnet::{NetError, Testnet, TestnetOptions};
use std::ops::Deref;

/// A testnet for as long as this value lives.
#[derive(Debug)]
pub struct RunningTestnet(Testnet);

impl RunningTestnet {
    /// Brings one up; what came up of one that fails does not stay behind.
    ///
    /// # Errors
    /// Any [`NetError`].
    pub fn up(options: &TestnetOptions) -> Result<RunningTestnet, NetError> {
        match Testnet::up(options) {
            Ok(net) => Ok(RunningTestnet(net)),
            Err(error) => {
                if let Ok(net) = Testnet::open(&options.root) {
                    drop(RunningTestnet(net));
                }
                Err(error)
            }
        }
    }
}

impl Deref for RunningTestnet {
    type Target = Testnet;

    fn deref(&self) -> &Testnet {
        &self.0
    }
}

impl Drop for RunningTestnet {
    fn drop(&mut self) {
        forget_interrupt();
        if let Err(error) = self.0.down() {
            eprintln!("warning: the testnet was not brought down: {error}");
        }
    }
}
