//! The one place that starts actors: each has a name, a span and an end that
//! somebody notices. A panic anywhere ends the process, since an agent without
//! one of its actors is worse than none.

use std::{future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Exit code of a fault of ours, as the command line has it.
const EXIT_FAULT: i32 = 70;

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

/// Starts an actor without which the node is worse than none: it would look
/// alive and do nothing. Its end before the node's ends the process; tasks go
/// on, and whoever supervises the node starts it again.
pub fn essential(
    name: &'static str,
    token: CancellationToken,
    actor: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    spawn(name, async move {
        actor.await;
        if !token.is_cancelled() {
            tracing::error!(actor = name, "an actor ended by itself, ending the process");
            std::process::exit(EXIT_FAULT);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, ExitStatus},
        time::Duration,
    };

    /// Set in the process that shall end.
    const CHILD: &str = "POTLUCK_TEST_ACTOR";

    /// Far above what anything here takes.
    const LIMIT: Duration = Duration::from_secs(20);

    /// Runs the test of this name again, in a process of its own.
    fn child(test: &str, conduct: &str) -> ExitStatus {
        let program = std::env::current_exe().expect("a test has a program");
        let mut command = Command::new(program);
        command.args(["--exact", test, "--test-threads", "1"]);
        command.env(CHILD, conduct);
        command.output().expect("it starts again").status
    }

    #[tokio::test]
    async fn an_actor_that_ends_by_itself_ends_the_process() {
        let token = CancellationToken::new();
        let Ok(conduct) = std::env::var(CHILD) else {
            let test = "spawn::tests::an_actor_that_ends_by_itself_ends_the_process";
            assert_eq!(child(test, "ends").code(), Some(EXIT_FAULT));
            assert_eq!(child(test, "panics").signal(), Some(libc::SIGABRT));
            assert_eq!(child(test, "is told to end").code(), Some(0));
            return;
        };
        let actor = match conduct.as_str() {
            "ends" => essential("test", token.clone(), async {}),
            "panics" => essential("test", token.clone(), async { panic!("as a test") }),
            _ => {
                let stop = token.clone();
                essential("test", token.clone(), async move { stop.cancelled().await })
            }
        };
        if conduct == "is told to end" {
            token.cancel();
        }
        let ended = tokio::time::timeout(LIMIT, actor).await;
        ended.expect("it ends").expect("in order");
        assert_eq!(conduct, "is told to end", "the process went on");
    }
}
