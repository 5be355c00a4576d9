//! What bids promise for a moment.
//!
//! A bid reserves until it is awarded, cancelled or over; a reservation is
//! never worth more than the few seconds that an auction takes.

use crate::auction::Authority;
use potluck_specs::{Millis, job::Resources};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How long a bid holds: an auction takes milliseconds, a slow link with one
/// retry about two seconds.
pub(super) const HOLDS: Millis = Millis(3_000);

/// Open reservations at a time. Each call asks for many slots at once, so a
/// node with more is being asked for far more than it could ever take.
pub(super) const OPEN_MAX: usize = 64;

/// One open bid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reservation {
    pub(super) slots: u32,
    pub(super) each: Resources,
    /// Counted devices of each slot, by kind.
    pub(super) devices: BTreeMap<String, u32>,
    /// Fixed port numbers that go with it.
    pub(super) ports: Vec<u16>,
    pub(super) until: Millis,
}

impl Reservation {
    fn all(&self) -> Resources {
        self.each.times(self.slots)
    }
}

/// All open bids, by whose call they answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reservations(BTreeMap<(Authority, u64), Reservation>);

impl Reservations {
    pub(super) fn full(&self) -> bool {
        self.0.len() >= OPEN_MAX
    }

    pub(super) fn total(&self) -> Resources {
        self.0
            .values()
            .fold(Resources::default(), |sum, one| sum.plus(one.all()))
    }

    /// Devices of a kind that open bids hold.
    pub(super) fn devices(&self, kind: &str) -> u32 {
        let of = |one: &Reservation| {
            let each = one.devices.get(kind).copied().unwrap_or(0);
            each.saturating_mul(one.slots)
        };
        self.0
            .values()
            .fold(0, |sum, one| u32::saturating_add(sum, of(one)))
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.values().flat_map(|one| one.ports.iter().copied())
    }

    pub(super) fn put(&mut self, authority: Authority, call: u64, reservation: Reservation) {
        self.0.insert((authority, call), reservation);
    }

    /// Takes a whole reservation out: awarded, cancelled or called again.
    pub(super) fn take(&mut self, authority: Authority, call: u64) -> Option<Reservation> {
        self.0.remove(&(authority, call))
    }

    pub(super) fn expire(&mut self, now: Millis) {
        self.0.retain(|_, one| one.until > now);
    }

    /// Bids to schedulers before `authority` will never be awarded.
    pub(super) fn drop_before(&mut self, authority: Authority) {
        self.0.retain(|(whose, _), _| *whose >= authority);
    }
}
