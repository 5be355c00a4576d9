//! A channel's input between the client and its session, and how a client is
//! made to wait.
//!
//! ```text
//!       QUEUE_BYTES wait
//! wide ─────────────────▶ narrow ── INPUT_BYTES_MAX wait ─▶ over
//!  ▲                        │
//!  └── half of it was taken ┘
//! ```
//!
//! russh widens a channel's window as soon as bytes arrive, to a size that is
//! one for all channels; only which size comes next can be said, each time that
//! one was widened ([`Input::window`]). So a channel that has enough is answered
//! with a window of [`NARROW_BYTES`]: its client may send as much, which is no
//! more than a knock, and each knock is asked again. All else of the connection
//! is heard meanwhile: other channels, and the client's word that it has room
//! for what commands print. Knocks are spaced by not reading the connection for
//! [`KNOCK_PAUSE`] after each ([`Paced`]).
//!
//! A wide window that was meant for another channel may go to one that has
//! enough, whoever sends first. That, and a client that heeds no window, is why
//! what waits is bounded all the same.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};

/// A channel's window while its command takes what comes.
pub(crate) const WINDOW_BYTES: u32 = 512 << 10;

/// And while it does not. The least that the library ever widens: it does so
/// when less than half of it is left.
pub(crate) const NARROW_BYTES: u32 = 2;

/// Between two knocks: what a resumed command waits for longest, and other
/// channels beside it. A hundred a second cost next to nothing.
const KNOCK_PAUSE: Duration = Duration::from_millis(10);

/// Input that waits before the client is made to: more than what a fast link
/// brings in the time of an answer.
pub(crate) const QUEUE_BYTES: usize = 1 << 20;

/// What may wait for a command in all: the above, what was on its way, and
/// some windows that were meant for others; knocks alone come to it after
/// hours. Eight channels of them are 32 MiB.
pub(crate) const INPUT_BYTES_MAX: usize = 4 << 20;

/// What a client has sent and a session has not taken.
pub(crate) struct Input {
    waiting: Mutex<Waiting>,
    /// For who takes.
    more: Notify,
    /// For who watches.
    too_much: Notify,
    pace: Arc<Pace>,
}

#[derive(Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    has_ended: bool,
    is_over: bool,
    has_enough: bool,
}

impl Input {
    /// Of a channel of this connection.
    pub(crate) fn of(pace: &Arc<Pace>) -> Input {
        Input {
            waiting: Mutex::default(),
            more: Notify::new(),
            too_much: Notify::new(),
            pace: pace.clone(),
        }
    }

    /// The client has sent this. What is over its bound is not kept: then
    /// [`Self::too_much`] ends the session.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.has_enough && bytes.len() <= NARROW_BYTES as usize {
            self.pace.pause();
        }
        if !waiting.is_over && waiting.bytes.len() <= INPUT_BYTES_MAX {
            waiting.bytes.extend(bytes);
        }
        waiting.judge();
        if waiting.bytes.len() > INPUT_BYTES_MAX {
            self.too_much.notify_one();
        }
        drop(waiting);
        self.more.notify_one();
    }

    /// How wide the client's window should be.
    pub(crate) fn window(&self) -> u32 {
        match self.waiting().has_enough {
            true => NARROW_BYTES,
            false => WINDOW_BYTES,
        }
    }

    /// The client sends no more.
    pub(crate) fn end(&self) {
        self.waiting().has_ended = true;
        self.more.notify_one();
    }

    /// The session is over: what waits and what still comes is for nobody.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        waiting.bytes = VecDeque::new();
        waiting.judge();
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
        waiting.judge();
        taken
    }

    /// Returns when more waits than may.
    pub(crate) async fn too_much(&self) {
        while self.waiting().bytes.len() <= INPUT_BYTES_MAX {
            self.too_much.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no one panics with this lock")
    }
}

impl Waiting {
    fn judge(&mut self) {
        let from = match self.has_enough {
            true => QUEUE_BYTES / 2,
            false => QUEUE_BYTES,
        };
        self.has_enough = self.bytes.len() > from;
    }
}

/// When a connection is read again.
#[derive(Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    fn pause(&self) {
        *self.until() = Some(Instant::now() + KNOCK_PAUSE);
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().expect("no one panics with this lock")
    }
}

/// A connection that is not read for a moment after a knock. What is written
/// goes on.
pub(crate) struct Paced {
    stream: UnixStream,
    pace: Arc<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(crate) fn new(stream: UnixStream, pace: Arc<Pace>) -> Paced {
        Paced {
            stream,
            pace,
            pause: None,
        }
    }

    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(until) = self.pace.until().take() {
            self.pause = Some(Box::pin(sleep_until(until)));
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_pause(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Paced {
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
    use std::task::{Wake, Waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    fn a_window_is_narrow_from_enough_until_half_is_taken_and_never_at_the_end() {
        let input = Input::of(&Arc::default());
        input.add(&vec![0; QUEUE_BYTES]);
        assert_eq!(input.window(), WINDOW_BYTES);
        input.add(b"x");
        assert_eq!(input.window(), NARROW_BYTES);
        input.take(QUEUE_BYTES / 4);
        assert_eq!(input.window(), NARROW_BYTES, "until half is taken");
        input.take(QUEUE_BYTES / 4 + 1);
        assert_eq!(input.window(), WINDOW_BYTES);
        input.add(&vec![0; QUEUE_BYTES]);
        assert_eq!(input.window(), NARROW_BYTES);
        input.close();
        input.add(&vec![0; QUEUE_BYTES + 1]);
        assert_eq!(input.window(), WINDOW_BYTES, "nobody waits for it");
    }

    #[test]
    fn whoever_heeds_no_window_is_bounded() {
        let input = Input::of(&Arc::default());
        input.add(&vec![0; INPUT_BYTES_MAX]);
        assert_eq!(now(input.too_much()), None);
        input.add(b"x");
        assert_eq!(now(input.too_much()), Some(()));
        let length = now(input.some());
        input.add(&vec![0; INPUT_BYTES_MAX]);
        assert_eq!(now(input.some()), length, "no more is kept");
    }

    /// Time is the runtime's own here, and nobody waits for it.
    #[test]
    fn a_knock_is_followed_by_a_pause_and_others_are_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(async {
            let (mut client, ours) = UnixStream::pair().expect("a pair");
            let pace = Arc::new(Pace::default());
            let mut paced = Paced::new(ours, pace.clone());
            let input = Input::of(&pace);
            input.add(b"xy");
            assert!(pace.until().is_none(), "it has not enough");
            input.add(&vec![0; QUEUE_BYTES]);
            assert!(pace.until().is_none(), "no knock");
            input.add(b"xy");
            let until = (*pace.until()).expect("a pause");
            client.write_all(b"later").await.expect("a write");
            let mut bytes = [0; 5];
            paced.read_exact(&mut bytes).await.expect("what was sent");
            assert!(Instant::now() >= until);
            assert_eq!(&bytes, b"later");
        });
    }
}
