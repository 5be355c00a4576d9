//! The one place that starts actors: each has a name, a span and an end that
//! somebody notices. A panic anywhere ends the process, since an agent without
//! one of its actors is worse than none.

use std::{future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tracing::Instrument;

/// Starts an actor.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the place that the ban points to"
)]
pub fn spawn<F>(name: &'static str, actor: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = tracing::info_span!("actor", name);
    tokio::spawn(
        async move {
            match AssertUnwindSafe(actor).catch_unwind().await {
                Ok(output) => output,
                Err(_) => {
                    tracing::error!(actor = name, "actor panicked, ending the process");
                    std::process::abort()
                }
            }
        }
        .instrument(span),
    )
}
