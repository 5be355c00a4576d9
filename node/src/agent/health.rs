//! Health checks: does a task answer on its port?
//!
//! One actor per watched run, with all its checks. It tells the agent only
//! when its opinion changes, never waits for it for anything else, and ends
//! when it is aborted or the agent is gone.

use futures::future::join_all;
use potluck_specs::job::{HealthCheck, Probe};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// Between checks of a task that has just started: its clients wait for it.
const INTERVAL_AT_START: Duration = Duration::from_millis(20);

/// Longest first line of an HTTP answer that is read.
const STATUS_BYTES_MAX: usize = 512;

/// What is thought of a task by one of its checks.
///
/// ```text
/// unhealthy --healthy_after good answers in a row--> healthy
/// healthy --unhealthy_after bad answers in a row--> unhealthy
/// ```
#[derive(Debug, Default)]
struct Opinion {
    healthy: bool,
    /// Answers in a row that speak against it.
    against: u32,
    answered_well: bool,
}

impl Opinion {
    /// Takes an answer; the opinion, if it changed.
    fn take(&mut self, check: &HealthCheck, good: bool) -> Option<bool> {
        self.answered_well |= good;
        if good == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match good {
            true => check.healthy_after,
            false => check.unhealthy_after,
        };
        if self.against < enough {
            return None;
        }
        self.against = 0;
        self.healthy = good;
        Some(good)
    }

    /// How long until the next question, so long after the start.
    fn pause(&self, check: &HealthCheck, elapsed: Duration) -> Duration {
        let interval = Duration::from_millis(check.interval_ms);
        let starting =
            !self.answered_well && elapsed < Duration::from_millis(check.start_period_ms);
        match starting {
            true => interval.min(INTERVAL_AT_START),
            false => interval,
        }
    }
}

/// Checks for ever, and calls `tell` with each change of opinion: healthy if
/// every check is, and not before its first answer. Ends when `tell` returns
/// false.
pub(super) async fn watch<F>(
    checks: Vec<(HealthCheck, SocketAddr)>,
    mut tell: impl FnMut(bool) -> F,
) where
    F: Future<Output = bool>,
{
    let mut healthy = vec![false; checks.len()];
    // One place: a check that changed its mind waits until that is told.
    let (opinions, mut heard) = mpsc::channel(1);
    let asking = checks.iter().enumerate().map(|(index, (check, address))| {
        let opinions = opinions.clone();
        ask(check, *address, move |healthy| {
            let opinions = opinions.clone();
            async move { opinions.send((index, healthy)).await.is_ok() }
        })
    });
    let asking = join_all(asking);
    let telling = async {
        while let Some((index, is)) = heard.recv().await {
            let before = healthy.iter().all(|healthy| *healthy);
            healthy[index] = is;
            let now = healthy.iter().all(|healthy| *healthy);
            if now != before && !tell(now).await {
                return;
            }
        }
    };
    tokio::select! {
        _ = asking => {}
        () = telling => {}
    }
}

/// Asks for ever.
async fn ask<F>(check: &HealthCheck, address: SocketAddr, mut tell: impl FnMut(bool) -> F)
where
    F: Future<Output = bool>,
{
    let started = Instant::now();
    let limit = Duration::from_millis(check.timeout_ms);
    let mut opinion = Opinion::default();
    loop {
        let good = matches!(timeout(limit, once(check, address)).await, Ok(Ok(true)));
        if let Some(healthy) = opinion.take(check, good)
            && !tell(healthy).await
        {
            return;
        }
        sleep(opinion.pause(check, started.elapsed())).await;
    }
}

async fn once(check: &HealthCheck, address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let Probe::Http { path, .. } = &check.probe else {
        return Ok(true);
    };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: potluck\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < STATUS_BYTES_MAX && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(status(&answer).is_some_and(|status| (200..400).contains(&status)))
}

/// The status of `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("HTTP/")?.split_whitespace();
    words.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::spawn;
    use tokio::net::TcpListener;

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\nX: y\r\n"), Some(503));
        for bad in [
            &b""[..],
            b"200",
            b"HTTP/1.1",
            b"HTTP/1.1 ok",
            b"\xff\xff 200",
        ] {
            assert_eq!(status(bad), None);
        }
    }

    /// Answers each connection with `answer`.
    async fn serve(listener: TcpListener, answer: &'static str) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }

    #[tokio::test]
    async fn an_http_check_wants_a_good_status() {
        let check = HealthCheck::http("http", "/");
        for (answer, good) in [
            ("HTTP/1.0 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 500 No\r\n\r\n", false),
            ("hello", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = spawn("test server", serve(listener, answer));
            assert_eq!(once(&check, address).await.unwrap(), good, "{answer}");
            server.abort();
        }
    }

    #[test]
    fn answers_in_a_row_change_an_opinion() {
        let check = HealthCheck {
            healthy_after: 2,
            unhealthy_after: 3,
            interval_ms: 700,
            start_period_ms: 5_000,
            ..HealthCheck::tcp("http")
        };
        let mut opinion = Opinion::default();
        let early = Duration::from_secs(1);
        assert_eq!(opinion.pause(&check, early), INTERVAL_AT_START);
        let late = Duration::from_secs(6);
        assert_eq!(opinion.pause(&check, late).as_millis(), 700);
        for (answer, changed) in [
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (true, Some(true)),
        ] {
            assert_eq!(opinion.take(&check, answer), changed);
        }
        assert_eq!(
            opinion.pause(&check, early).as_millis(),
            700,
            "it has answered"
        );
    }

    #[tokio::test]
    async fn all_checks_must_say_so() {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (first, second) = (bind().await.unwrap(), bind().await.unwrap());
        let quick = |listener: &TcpListener| {
            let check = HealthCheck {
                interval_ms: 100,
                unhealthy_after: 1,
                ..HealthCheck::http("http", "/")
            };
            (check, listener.local_addr().unwrap())
        };
        let checks = vec![quick(&first), quick(&second)];
        let (tell, mut told) = mpsc::channel(8);
        let watcher = spawn(
            "test watch",
            watch(checks, move |healthy| {
                let tell = tell.clone();
                async move { tell.send(healthy).await.is_ok() }
            }),
        );
        // Only the second one answers in time.
        let good = "HTTP/1.0 200 OK\r\n\r\n";
        let answers = spawn("test server", serve(second, good));
        assert!(told.try_recv().is_err());
        let other = spawn("test server", serve(first, good));
        assert_eq!(told.recv().await, Some(true));
        other.abort();
        assert_eq!(told.recv().await, Some(false));
        answers.abort();
        watcher.abort();
    }

    #[tokio::test]
    async fn opinions_are_told_when_they_change() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn("test server", serve(listener, ""));
        let (tell, mut told) = mpsc::channel(8);
        let check = HealthCheck::tcp("http");
        let watcher = spawn(
            "test watch",
            watch(vec![(check, address)], move |healthy| {
                let tell = tell.clone();
                async move { tell.send(healthy).await.is_ok() }
            }),
        );
        assert_eq!(told.recv().await, Some(true));
        server.abort();
        assert_eq!(told.recv().await, Some(false), "three failures later");
        watcher.abort();
    }
}
