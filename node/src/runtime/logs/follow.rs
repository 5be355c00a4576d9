//! One task's log, wherever it is: on the node that runs the task, or ran it.
//!
//! ```text
//! finding ──a node has it──▶ reading ──all is read, or the node is lost──▶ the end
//!    ▲                                      │ followed
//!    └────────────── a pause ───────────────┘
//! ```
//!
//! A follower goes on at the place that it was told last, with lines or without,
//! on the same node or on the next. Logs have the generation as their name, so
//! that no line comes twice, and a node's log is read to its end before the
//! next one's.

use super::{here, merge::Part};
use crate::{
    api::{
        error::{ApiError, ErrorCode},
        frame::{self, FrameError},
        logs::LogRead,
        protocol::ApiFrame,
        server::Frames,
    },
    cli::chain,
    network::Purpose,
    runtime::{
        holder::{self, Holder},
        shared::Shared,
    },
    wire::{Request, Response},
};
use futures::{StreamExt, stream};
use potluck_specs::{Generation, NodeId, SlotId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{io::AsyncRead, sync::mpsc, time::Instant};

/// How long a node may take to open a stream.
const ASK_WAIT: Duration = Duration::from_secs(5);

/// How long a follower waits for its task to be found again.
const LOST_WAIT: Duration = Duration::from_secs(60);

/// Pause between two looks.
const LOST_PAUSE: Duration = Duration::from_millis(200);

/// Nodes asked at once for old logs.
const SEARCHED_AT_ONCE: usize = 32;

/// How long a node may take to say which old logs it has.
const SEARCH_WAIT: Duration = Duration::from_secs(2);

/// Names of nodes in one warning.
const NAMED_MAX: usize = 10;

enum Read {
    /// All of what a node has was read.
    Whole,
    /// There is nothing to come.
    Over,
}

/// One reader of one task's log.
pub(super) struct Follower<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) read: LogRead,
    /// Where its lines go.
    pub(super) to: mpsc::Sender<Part>,
    /// Where a person is told what happens.
    pub(super) notes: &'a Frames,
    /// Whom it read from last.
    pub(super) at: Option<NodeId>,
}

impl Follower<'_> {
    /// Reads until the log ends, or, of a follower, the task.
    ///
    /// # Errors
    /// If the log can't be had, or no longer.
    pub(super) async fn run(&mut self) -> Result<(), ApiError> {
        if self.read.select.previous {
            return self.previous().await;
        }
        let mut lost_at = None;
        loop {
            let before = self.read.next();
            let outcome = self.once().await;
            self.begin_if_new(&outcome);
            let is_over = !self.read.select.follow
                || self.at.is_none()
                || self.to.is_closed()
                || matches!(outcome, Ok(Read::Over));
            if self.read.next() != before {
                lost_at = None;
            }
            let since = *lost_at.get_or_insert_with(Instant::now);
            if is_over || since.elapsed() > LOST_WAIT {
                return outcome.map(|_| ());
            }
            if let (Err(error), Some(node)) = (&outcome, self.at) {
                tracing::debug!(slot = %self.read.slot, %node, error = %chain(error), "log lost");
            }
            tokio::time::sleep(LOST_PAUSE).await;
        }
    }

    /// A log that was not there yet holds nothing but news.
    fn begin_if_new(&mut self, outcome: &Result<Read, ApiError>) {
        let is_missing = |error: &ApiError| error.code == ErrorCode::NotFound;
        if self.read.next().is_none() && outcome.as_ref().is_err_and(is_missing) {
            self.read.select.tail = None;
        }
    }

    async fn once(&mut self) -> Result<Read, ApiError> {
        let slot = &self.read.slot;
        let node = match (holder::find(self.shared, slot).await?, self.at) {
            (Holder::On(node), _) => node,
            (Holder::Unwanted, Some(_)) => return Ok(Read::Over),
            (Holder::Nowhere, Some(_)) => return Err(holder::nowhere(slot)),
            // It ran once: what is kept of that.
            (Holder::Unwanted, None) => self.last_kept(holder::unwanted).await?,
            (Holder::Nowhere, None) => self.last_kept(holder::nowhere).await?,
        };
        if self.at.is_some_and(|before| before != node) {
            let name = self.shared.directory.name(node);
            let text = format!("{} goes on on {name}", self.read.slot);
            let _ = self.notes.send(ApiFrame::Progress(text)).await;
        }
        self.read_on(node).await?;
        Ok(Read::Whole)
    }

    /// Who has the last log that is kept.
    async fn last_kept(&self, none: impl Fn(&SlotId) -> ApiError) -> Result<NodeId, ApiError> {
        let last = self.search().await.pop_last();
        last.map(|(_, node)| node)
            .ok_or_else(|| none(&self.read.slot))
    }

    /// The log of the placement before the present one, if one is kept.
    async fn previous(&mut self) -> Result<(), ApiError> {
        let mut found = self.search().await;
        found.pop_last();
        let Some((origin, node)) = found.pop_last() else {
            let message = format!(
                "no log of {} before its present one is kept",
                self.read.slot
            );
            return Err(ApiError::new(ErrorCode::NotFound, message).hint(
                "starts at the same place are all in the present log: see it without --previous",
            ));
        };
        self.read.origin = Some(origin);
        self.read_on(node).await
    }

    async fn read_on(&mut self, node: NodeId) -> Result<(), ApiError> {
        self.at = Some(node);
        if node == self.shared.me.node {
            return here::read(self.shared, &mut self.read, &self.to).await;
        }
        self.remote(node).await
    }

    /// All logs of the slot that are kept, by their generations.
    async fn search(&self) -> BTreeMap<Generation, NodeId> {
        let slot = &self.read.slot;
        let me = self.shared.me.node;
        let here = self.shared.agent.log_origins(slot.clone()).await;
        let mut found: BTreeMap<_, _> = here.into_iter().map(|origin| (origin, me)).collect();
        let mut silent = Vec::new();
        let others = holder::members(self.shared).await.into_iter();
        let mut answers = stream::iter(others.filter(|node| *node != me))
            .map(|node| async move {
                let request = Request::LogOrigins(slot.clone());
                let answer = self.shared.network.request(node, request, SEARCH_WAIT);
                (node, answer.await)
            })
            .buffer_unordered(SEARCHED_AT_ONCE);
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(Response::LogOrigins(origins)) => {
                    found.extend(origins.into_iter().map(|origin| (origin, node)));
                }
                _ => silent.push(self.shared.directory.name(node)),
            }
        }
        if !silent.is_empty() {
            let count = silent.len();
            silent.truncate(NAMED_MAX);
            let names = silent.join(", ");
            let text = format!("{count} nodes did not say if they have logs of {slot}: {names}");
            let _ = self.notes.send(ApiFrame::Warning(text)).await;
        }
        found
    }

    async fn remote(&mut self, node: NodeId) -> Result<(), ApiError> {
        let (name, slot) = (self.shared.directory.name(node), self.read.slot.clone());
        let lost = |error: &dyn std::error::Error| {
            let why = chain(error);
            let message = format!("the log of {slot} on {name} can't be read: {why}");
            ApiError::new(ErrorCode::Unavailable, message)
        };
        let network = &self.shared.network;
        let stream = network.open_stream(node, Purpose::Logs, ASK_WAIT).await;
        let mut stream = stream.map_err(|error| lost(&error))?.into_tokio();
        frame::write(&mut stream, &self.read)
            .await
            .map_err(|error| lost(&error))?;
        match pass_on(&mut stream, &mut self.read, &self.to).await {
            Ok(outcome) => outcome,
            Err(error) => Err(lost(&error)),
        }
    }
}

/// Passes another node's lines on until they end or their reader has left,
/// and notes how far they came.
async fn pass_on(
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut LogRead,
    to: &mpsc::Sender<Part>,
) -> Result<Result<(), ApiError>, FrameError> {
    loop {
        let next = tokio::select! {
            next = frame::read::<ApiFrame>(stream) => next,
            () = to.closed() => return Ok(Ok(())),
        };
        match next? {
            ApiFrame::End => return Ok(Ok(())),
            ApiFrame::Failure(error) => return Ok(Err(error)),
            ApiFrame::Lines(part) => {
                let next = part.next();
                if let Some(next) = next {
                    read.go_on(next);
                }
                let lines = part.lines;
                if to.send(Part { lines, next }).await.is_err() {
                    return Ok(Ok(()));
                }
            }
            other => return Ok(Err(crate::api::client::unexpected(&other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::logs::{LogLine, LogLines, LogSelection};
    use potluck_specs::{Epoch, Millis, Reign};
    use tokio::{io::duplex, time::timeout};

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn line(sequence: u64) -> LogLine {
        LogLine {
            origin: Generation {
                epoch: Epoch(1),
                reign: Reign(2),
                sequence: 3,
            },
            sequence,
            at: Millis(7),
            stderr: false,
            partial: false,
            removed_before: 0,
            text: "hello".into(),
            base64: None,
        }
    }

    #[tokio::test]
    async fn a_quiet_log_of_another_node_notices_that_its_reader_left() {
        let (mut other, mut stream) = duplex(4_096);
        let (to, mut reader) = mpsc::channel(4);
        let slot: SlotId = "web[0]".parse().unwrap();
        let mut read = LogRead::of(slot.clone(), LogSelection::default());
        let lines = vec![line(4), line(5)];
        let next = None;
        let lines = ApiFrame::Lines(LogLines { slot, lines, next });
        frame::write(&mut other, &lines).await.unwrap();
        let passed = async {
            let outcome = pass_on(&mut stream, &mut read, &to).await;
            outcome.unwrap().unwrap();
        };
        let received = async {
            assert_eq!(reader.recv().await.unwrap().lines.len(), 2);
            drop(reader);
        };
        let both = futures::future::join(passed, received);
        timeout(LIMIT, both).await.expect("it ends");
        // Where a further reader would go on.
        assert_eq!(read.next(), Some(line(6).place()));
    }

    #[tokio::test]
    async fn a_reader_that_got_no_line_goes_on_where_its_log_was_searched() {
        let (mut other, mut stream) = duplex(4_096);
        let (to, mut reader) = mpsc::channel(4);
        let slot: SlotId = "web[0]".parse().unwrap();
        let mut read = LogRead::of(slot.clone(), LogSelection::default());
        for sequence in [0, 106] {
            let next = Some(line(sequence).place());
            let lines = Vec::new();
            let slot = slot.clone();
            let moved = ApiFrame::Lines(LogLines { slot, lines, next });
            frame::write(&mut other, &moved).await.unwrap();
        }
        drop(other);
        let lost = pass_on(&mut stream, &mut read, &to).await;
        lost.expect_err("the connection broke");
        assert_eq!(read.next(), Some(line(106).place()));
        let told = reader.recv().await.unwrap();
        assert_eq!(
            told.next,
            Some(line(0).place()),
            "the person's end knows too"
        );
    }
}
