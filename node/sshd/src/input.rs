//! A channel's input between the client and its session, and how a client is
//! made to wait.
//!
//! ```text
//!           QUEUE_BYTES wait                nothing taken for PATIENCE
//! flowing ──────────────────▶ holding ──────────────────────────▶ stuck
//!    ▲                          │ │ ▲                                │ │
//!    └── half of it was taken ──┘ │ └────────── some is taken ───────┘ │
//!                                 └── INPUT_BYTES_MAX wait ─▶ over ◀───┘
//! ```
//!
//! russh widens a channel's window as soon as bytes arrive, and hands all
//! channels' packets on one after another. So nothing here ever waits in its
//! loop, and a client can only be made to wait by not reading its connection
//! ([`Gated`]), which holds up its other channels too and keeps its own
//! answers from being heard. Hence a channel *holds* the connection as long as
//! its command takes something now and then. A command that takes nothing may
//! be waiting for the client to read; then the rest goes on without it, and
//! what may wait for it is bounded.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::Notify,
    time::timeout,
};

/// Input that waits before the client is made to: more than what a fast link
/// brings in the time of an answer.
pub(crate) const QUEUE_BYTES: usize = 1 << 20;

/// How long a command may take nothing before others wait for it no longer.
/// Most that are busy for longer read all of their input first.
const PATIENCE: Duration = Duration::from_secs(5);

/// What may wait for a command in all. Beyond [`QUEUE_BYTES`] there is room for
/// what a client has on its way when it is to answer something. Eight channels
/// of them are 32 MiB.
pub(crate) const INPUT_BYTES_MAX: usize = 4 << 20;

/// What a client has sent and a session has not taken.
pub(crate) struct Input {
    waiting: Mutex<Waiting>,
    /// For who takes.
    more: Notify,
    /// For who watches.
    changed: Notify,
    gate: Arc<Gate>,
    patience: Duration,
}

#[derive(Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    has_ended: bool,
    is_over: bool,
    holds: bool,
    is_stuck: bool,
}

impl Input {
    /// Of a channel of this connection.
    pub(crate) fn of(gate: &Arc<Gate>) -> Input {
        Input::with(gate, PATIENCE)
    }

    fn with(gate: &Arc<Gate>, patience: Duration) -> Input {
        Input {
            waiting: Mutex::default(),
            more: Notify::new(),
            changed: Notify::new(),
            gate: gate.clone(),
            patience,
        }
    }

    /// The client has sent this. What is over its bound is not kept: then
    /// [`Self::too_much`] ends the session.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut waiting = self.waiting();
        if !waiting.is_over && waiting.bytes.len() <= INPUT_BYTES_MAX {
            waiting.bytes.extend(bytes);
        }
        self.hold_or_not(&mut waiting);
        drop(waiting);
        self.more.notify_one();
    }

    /// The client sends no more.
    pub(crate) fn end(&self) {
        self.waiting().has_ended = true;
        self.more.notify_one();
    }

    /// The session is over: what waits and what still comes is for nobody, and
    /// must not keep the client's last words from being heard.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        waiting.bytes = VecDeque::new();
        self.hold_or_not(&mut waiting);
    }

    /// How many bytes wait, when some do; 0 at the end. Can be dropped at any
    /// time.
    pub(crate) async fn some(&self) -> usize {
        loop {
            {
                let waiting = self.waiting();
                if waiting.has_ended || !waiting.bytes.is_empty() {
                    return waiting.bytes.len();
                }
            }
            self.more.notified().await;
        }
    }

    /// Takes so many of what waits. There is one taker.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut waiting = self.waiting();
        let taken = waiting.bytes.drain(..bytes).collect();
        waiting.is_stuck = false;
        self.hold_or_not(&mut waiting);
        self.changed.notify_one();
        taken
    }

    /// Returns when more waits than may. Until then it lets others go on whom
    /// this channel holds up for nothing.
    pub(crate) async fn too_much(&self) {
        loop {
            let (length, holds) = {
                let waiting = self.waiting();
                (waiting.bytes.len(), waiting.holds)
            };
            if length > INPUT_BYTES_MAX {
                return;
            }
            let changed = self.changed.notified();
            if !holds {
                changed.await;
            } else if timeout(self.patience, changed).await.is_err() {
                let mut waiting = self.waiting();
                waiting.is_stuck = true;
                self.hold_or_not(&mut waiting);
            }
        }
    }

    fn hold_or_not(&self, waiting: &mut Waiting) {
        let length = waiting.bytes.len();
        let from = match waiting.holds {
            true => QUEUE_BYTES / 2,
            false => QUEUE_BYTES,
        };
        let holds = !waiting.is_stuck && length > from;
        if holds != waiting.holds {
            waiting.holds = holds;
            self.gate.hold(holds);
            self.changed.notify_one();
        }
        if length > INPUT_BYTES_MAX {
            self.changed.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no one panics with this lock")
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.waiting().holds {
            self.gate.hold(false);
        }
    }
}

/// Whether a connection is read.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Held>);

#[derive(Default)]
struct Held {
    by: usize,
    reader: Option<Waker>,
}

impl Gate {
    /// One channel more holds the connection, or one less.
    fn hold(&self, holds: bool) {
        let mut held = self.held();
        held.by = match holds {
            true => held.by + 1,
            false => held.by - 1,
        };
        if held.by == 0
            && let Some(reader) = held.reader.take()
        {
            reader.wake();
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("no one panics with this lock")
    }
}

/// A connection that is not read while a channel holds it. What is written
/// goes on.
pub(crate) struct Gated {
    pub(crate) stream: UnixStream,
    pub(crate) gate: Arc<Gate>,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut held = self.gate.held();
            if held.by > 0 {
                held.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        let waker = Waker::from(Arc::new(Nobody));
        match std::pin::pin!(future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn is_held(gate: &Gate) -> bool {
        gate.held().by > 0
    }

    #[test]
    fn what_was_added_is_taken_in_order_and_then_ends() {
        let input = Input::of(&Arc::default());
        assert_eq!(now(input.some()), None);
        input.add(b"ab");
        input.add(b"cde");
        assert_eq!(now(input.some()), Some(5));
        assert_eq!(input.take(3), b"abc");
        input.end();
        assert_eq!(now(input.some()), Some(2));
        assert_eq!(input.take(2), b"de");
        assert_eq!(now(input.some()), Some(0));
    }

    #[test]
    fn a_connection_is_held_while_one_of_its_channels_has_enough() {
        let gate = Arc::new(Gate::default());
        let (one, other) = (Input::of(&gate), Input::of(&gate));
        one.add(&vec![0; QUEUE_BYTES]);
        assert!(!is_held(&gate));
        one.add(b"x");
        other.add(&vec![0; QUEUE_BYTES + 1]);
        drop(other);
        assert!(is_held(&gate), "by the one that is left");
        one.take(QUEUE_BYTES / 4);
        assert!(is_held(&gate), "until half is taken");
        one.take(QUEUE_BYTES / 4 + 1);
        assert!(!is_held(&gate));
    }

    #[test]
    fn a_session_that_is_over_holds_nobody() {
        let gate = Arc::new(Gate::default());
        let input = Input::of(&gate);
        input.add(&vec![0; QUEUE_BYTES + 1]);
        assert!(is_held(&gate));
        input.close();
        input.add(&vec![0; QUEUE_BYTES + 1]);
        assert!(!is_held(&gate));
    }

    /// Far more than the patience of a test.
    const LONG: Duration = Duration::from_millis(200);

    #[test]
    fn who_takes_nothing_holds_nobody_and_is_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(async {
            let gate = Arc::new(Gate::default());
            let input = Input::with(&gate, LONG / 10);
            input.add(&vec![0; 2 * QUEUE_BYTES]);
            // Who takes now and then is waited for.
            for _ in 0..10 {
                assert_eq!(now(input.too_much()), None);
                assert!(is_held(&gate));
                input.take(100);
            }
            assert!(timeout(LONG, input.too_much()).await.is_err());
            assert!(!is_held(&gate), "it is stuck");
            input.take(100);
            assert!(is_held(&gate), "it takes again");
            assert!(timeout(LONG, input.too_much()).await.is_err());
            assert!(!is_held(&gate), "and is stuck again");
            input.add(&vec![0; INPUT_BYTES_MAX]);
            input.too_much().await;
            let length = input.some().await;
            input.add(&vec![0; INPUT_BYTES_MAX]);
            assert_eq!(input.some().await, length, "no more is kept");
        });
    }
}
