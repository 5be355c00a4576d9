//! Health checks: does a task answer on its port?
//!
//! One actor per watched run. It tells the agent only when its opinion
//! changes, never waits for it for anything else, and ends when it is aborted
//! or the agent is gone.

use potluck_specs::job::{HealthCheck, Probe};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// Between checks of a task that is healthy, or was long ago.
const INTERVAL: Duration = Duration::from_secs(1);

/// Between checks of a task that has just started: its clients wait for it.
const INTERVAL_AT_START: Duration = Duration::from_millis(20);

/// How long a task counts as just started.
const START: Duration = Duration::from_secs(10);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Failures in a row after which a healthy task is unhealthy: one lost packet
/// or pause of the garbage collector is no reason to move clients away.
const FAILURES: u32 = 3;

/// Longest first line of an HTTP answer that is read.
const STATUS_BYTES_MAX: usize = 512;

/// Checks for ever, and calls `tell` with each change of opinion. A task is
/// unhealthy before its first answer. Ends when `tell` returns false.
pub(super) async fn watch<F>(
    check: HealthCheck,
    address: SocketAddr,
    mut tell: impl FnMut(bool) -> F,
) where
    F: Future<Output = bool>,
{
    let started = Instant::now();
    let mut healthy = false;
    let mut failures = 0;
    loop {
        let ok = matches!(timeout(TIMEOUT, once(&check, address)).await, Ok(Ok(true)));
        failures = if ok { 0 } else { failures + 1 };
        let opinion = ok || (healthy && failures < FAILURES);
        if opinion != healthy {
            healthy = opinion;
            if !tell(healthy).await {
                return;
            }
        }
        let starting = !healthy && started.elapsed() < START;
        sleep(if starting {
            INTERVAL_AT_START
        } else {
            INTERVAL
        })
        .await;
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
    use tokio::{net::TcpListener, sync::mpsc};

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

    #[tokio::test]
    async fn opinions_are_told_when_they_change() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn("test server", serve(listener, ""));
        let (tell, mut told) = mpsc::channel(8);
        let check = HealthCheck::tcp("http");
        let watcher = spawn(
            "test watch",
            watch(check, address, move |healthy| {
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
