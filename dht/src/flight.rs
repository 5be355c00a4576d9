//! Single flight: who asks for what is already being done waits for that.
//!
//! The work is driven by those who wait; when the last of them is dropped, so
//! is the work.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

type Work<V> = BoxFuture<'static, V>;

/// Work in progress by its key.
pub(crate) struct Flights<K, V: Clone>(Mutex<BTreeMap<K, WeakShared<Work<V>>>>);

impl<K: Ord, V: Clone> Flights<K, V> {
    pub(crate) fn new() -> Flights<K, V> {
        Flights(Mutex::new(BTreeMap::new()))
    }

    /// The work under `key`; begun with `start` if nobody does it at this
    /// moment.
    pub(crate) fn join(&self, key: K, start: impl FnOnce() -> Work<V>) -> Shared<Work<V>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, work| in_progress(work).is_some());
        if let Some(work) = flights.get(&key).and_then(in_progress) {
            return work;
        }
        let work = start().shared();
        let weak = work.downgrade().expect("it has not been polled yet");
        flights.insert(key, weak);
        work
    }

    /// The keys of all work in progress.
    pub(crate) fn keys(&self) -> Vec<K>
    where
        K: Clone,
    {
        let flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let running = flights
            .iter()
            .filter(|(_, work)| in_progress(work).is_some());
        running.map(|(key, _)| key.clone()).collect()
    }
}

fn in_progress<V: Clone>(work: &WeakShared<Work<V>>) -> Option<Shared<Work<V>>> {
    work.upgrade().filter(|work| work.peek().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{channel::oneshot, executor::block_on, future::join};

    #[test]
    fn who_comes_meanwhile_shares_and_who_comes_after_starts_anew() {
        let flights: Flights<u8, u8> = Flights::new();
        let (tell, told) = oneshot::channel::<u8>();
        let first = flights.join(1, || told.map(|n| n.unwrap_or(0)).boxed());
        let second = flights.join(1, || panic!("it is in progress"));
        assert_eq!(flights.keys(), [1]);
        tell.send(7).unwrap();
        assert_eq!(block_on(join(first, second)), (7, 7));
        assert!(flights.keys().is_empty());
        let third = flights.join(1, || async { 8 }.boxed());
        assert_eq!(block_on(third), 8);
    }

    #[test]
    fn work_that_nobody_waits_for_ends() {
        let flights: Flights<u8, ()> = Flights::new();
        let (alive, dead) = oneshot::channel::<()>();
        let work = flights.join(1, || dead.map(|_| ()).boxed());
        drop(work);
        assert!(alive.is_canceled());
        assert!(flights.keys().is_empty());
    }
}
