//! The one place of this crate that starts actors and blocking work. A panic
//! in either ends the process, as everywhere in potluck.

use std::{future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tracing::Instrument;

/// Starts an actor that nobody waits for; it ends by itself.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the place that the ban points to"
)]
pub(crate) fn spawn(name: &'static str, actor: impl Future<Output = ()> + Send + 'static) {
    let span = tracing::info_span!("actor", name);
    let watched = async move {
        if AssertUnwindSafe(actor).catch_unwind().await.is_err() {
            tracing::error!(actor = name, "actor panicked, ending the process");
            std::process::abort()
        }
    };
    tokio::spawn(watched.instrument(span));
}

/// Runs disk work off the async threads. Dropping the future does not stop the
/// work, so what it does must be whole in itself.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away; so is whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
