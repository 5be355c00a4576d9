//! The logs of one request, each with its follower, fed into one merge. Of a
//! job that is followed, tasks that come later are followed too.

use super::{
    follow::Follower,
    merge::Source,
    tasks::{self, Meant, Seen},
};
use crate::{
    agent::LogPlace,
    api::{
        error::{ApiError, ErrorCode},
        logs::{LogRead, LogSelection, LogsRequest, MERGED_MAX},
        protocol::ApiFrame,
        server::Frames,
    },
    cli::chain,
    runtime::shared::Shared,
};
use futures::{StreamExt, future::BoxFuture, stream, stream::FuturesUnordered};
use potluck_specs::SlotId;
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// Between two looks for tasks of a followed job that are new. A question to
/// the scheduler each, while somebody reads.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// The readers of one request.
pub(super) struct Readers<'a> {
    shared: &'a Arc<Shared>,
    select: LogSelection,
    frames: &'a Frames,
    meant: Meant,
    /// Where those go on that have begun.
    places: BTreeMap<SlotId, LogPlace>,
    at_work: FuturesUnordered<BoxFuture<'a, Done>>,
    reading: BTreeSet<SlotId>,
    failed: BTreeMap<SlotId, ApiError>,
    /// All that were ever read.
    begun: BTreeSet<SlotId>,
    has_too_many: bool,
}

struct Done {
    slot: SlotId,
    next: Option<LogPlace>,
    outcome: Result<(), ApiError>,
}

impl<'a> Readers<'a> {
    /// Begins with the tasks that are there, or goes on with them; the logs to
    /// merge.
    pub(super) fn start(
        shared: &'a Arc<Shared>,
        request: LogsRequest,
        meant: Meant,
        frames: &'a Frames,
    ) -> (Readers<'a>, Vec<Source>) {
        let goes_on = !request.from.is_empty();
        let from = request.from.into_iter().take(MERGED_MAX);
        let slots = meant.slots.clone();
        let mut readers = Readers {
            shared,
            select: request.select,
            frames,
            meant,
            places: from.map(|from| (from.slot, from.next)).collect(),
            at_work: FuturesUnordered::new(),
            reading: BTreeSet::new(),
            failed: BTreeMap::new(),
            begun: BTreeSet::new(),
            has_too_many: false,
        };
        let sources = slots.into_iter().map(|slot| readers.read(slot, goes_on));
        let sources = sources.collect();
        (readers, sources)
    }

    /// A further reader. What is new to one who follows already is shown whole.
    fn read(&mut self, slot: SlotId, is_new: bool) -> Source {
        let (to, parts) = mpsc::channel(1);
        let mut read = LogRead::of(slot.clone(), self.select.clone());
        if is_new {
            read.select.tail = None;
        }
        if let Some(next) = self.places.get(&slot) {
            read.go_on(*next);
        }
        let mut follower = Follower {
            shared: self.shared,
            read,
            to,
            notes: self.frames,
            at: None,
        };
        self.failed.remove(&slot);
        self.begun.insert(slot.clone());
        self.reading.insert(slot.clone());
        let name = slot.clone();
        self.at_work.push(Box::pin(async move {
            let outcome = follower.run().await;
            let next = follower.read.next();
            Done {
                slot: name,
                next,
                outcome,
            }
        }));
        Source { slot, parts }
    }

    /// Reads until nothing more comes, or the merge has ended.
    ///
    /// # Errors
    /// The logs that could not be read.
    pub(super) async fn run(mut self, more: mpsc::Sender<Source>) -> Result<(), ApiError> {
        let grows = self.select.follow && !self.meant.jobs.is_empty();
        let (shared, jobs) = (self.shared, self.meant.jobs.clone());
        let looks = stream::unfold((), |()| async {
            tokio::time::sleep(LOOK_PAUSE).await;
            Some((tasks::look(shared, &jobs).await, ()))
        });
        let mut looks = pin!(looks);
        loop {
            tokio::select! {
                Some(done) = self.at_work.next() => self.done(done, grows).await,
                Some(seen) = looks.next(), if grows => match seen {
                    Ok(seen) if self.is_over(&seen) => break,
                    Ok(seen) => {
                        if !self.grow(seen, &more).await {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(error = %chain(&error), "tasks not asked for");
                    }
                },
                else => break,
            }
        }
        drop(more);
        self.judge().await
    }

    fn is_over(&self, seen: &Seen) -> bool {
        seen.are_over && self.reading.is_empty() && seen.placed.is_subset(&self.begun)
    }

    async fn done(&mut self, done: Done, grows: bool) {
        self.reading.remove(&done.slot);
        if let Some(next) = done.next {
            self.places.insert(done.slot.clone(), next);
        }
        let Err(error) = done.outcome else { return };
        // A task that has said nothing yet is read when it is placed.
        let waits = grows && done.next.is_none() && error.code == ErrorCode::NotFound;
        if waits && self.meant.jobs.contains(&done.slot.job) {
            return;
        }
        self.failed.insert(done.slot, error);
    }

    /// Reads what is there and not read. False if nobody merges it any more.
    async fn grow(&mut self, seen: Seen, more: &mpsc::Sender<Source>) -> bool {
        for slot in seen.placed {
            if self.reading.contains(&slot) {
                continue;
            }
            if self.reading.len() >= MERGED_MAX {
                self.tell_too_many().await;
                break;
            }
            let source = self.read(slot, true);
            if more.send(source).await.is_err() {
                return false;
            }
        }
        !more.is_closed()
    }

    async fn tell_too_many(&mut self) {
        if !std::mem::replace(&mut self.has_too_many, true) {
            let text = format!(
                "only {MERGED_MAX} tasks are followed at once: name some of them, \
                 as in 'web[0]' 'web[1]'"
            );
            // The client may have left.
            let _ = self.frames.send(ApiFrame::Warning(text)).await;
        }
    }

    /// What came of all logs together: one that can't be read is told beside
    /// the others.
    async fn judge(mut self) -> Result<(), ApiError> {
        let all = self.begun.len();
        let failed = self.failed.len();
        if all == 1 || failed == 0 {
            return self
                .failed
                .pop_first()
                .map_or(Ok(()), |(_, error)| Err(error));
        }
        let code = self.failed.first_key_value().map(|(_, error)| error.code);
        for (_, error) in self.failed {
            // The client may have left.
            let _ = self.frames.send(ApiFrame::Warning(error.message)).await;
        }
        Err(ApiError::new(
            code.expect("one has failed"),
            format!("the logs of {failed} of {all} tasks were not read"),
        ))
    }
}
