//! A small HTTP service for the demo and the tests: listens where potluck
//! tells it to, and answers with who and where it is.
//!
//! | path | answer |
//! |---|---|
//! | `/` | one line that names slot, node and process |
//! | `/healthz` | `ok` |
//! | `/env` | the variables that potluck set |
//!
//! Logs a numbered line for its start and for each request on standard output.
//! Ends on SIGTERM by the signal's default action.

use std::{
    env, io,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{self, ExitCode},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// Most connections at once: each has a thread, and the demo's tasks have 32 MiB.
const CONNECTIONS_MAX: usize = 64;

/// Longest request line and headers together.
const REQUEST_BYTES_MAX: u64 = 16 << 10;

/// How long a client may be silent: a forgotten connection must not keep a thread.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Stack of a connection's thread: it reads lines and formats one answer.
const STACK_BYTES: usize = 128 << 10;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
static LINES: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let address = variable("POTLUCK_ADDRESS", "127.0.0.1");
    let port = variable("PORT_HTTP", "0");
    let listener = match TcpListener::bind(format!("{address}:{port}")) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("can't listen on {address}:{port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let bound = listener
        .local_addr()
        .map_or(port, |bound| bound.to_string());
    log(&format!("{} listens on {bound}", whoami()));
    for stream in listener.incoming().flatten() {
        accept(stream);
    }
    ExitCode::SUCCESS
}

fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.into())
}

fn whoami() -> String {
    let slot = variable("POTLUCK_SLOT", "hello");
    let node = variable("POTLUCK_NODE", "no node");
    format!("{slot} on {node}, pid {}", process::id())
}

/// One numbered line. A closed log is no reason to stop serving.
fn log(text: &str) {
    let number = LINES.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = writeln!(io::stdout().lock(), "{number} {text}");
}

/// Serves on a thread of its own; past the bound the connection is closed.
fn accept(stream: TcpStream) {
    if CONNECTIONS.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let served = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if let Err(error) = serve(&stream) {
                log(&format!("request failed: {error}"));
            }
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        });
    if served.is_err() {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request, one answer, then the connection is closed.
fn serve(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let Some(request) = read_request(stream)? else {
        // A health check over TCP connects and says nothing.
        return Ok(());
    };
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (status, body) = answer(method, target);
    log(&format!("{method} {target} {status}"));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { "" } else { &body };
    stream.write_all(format!("{head}{body}").as_bytes())
}

/// The request line; none if the client closed before a whole one came. The
/// headers are read to their end, so that closing resets nothing unread.
fn read_request(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    let mut request = Vec::new();
    reader.read_until(b'\n', &mut request)?;
    if request.pop() != Some(b'\n') {
        return Ok(None);
    }
    let mut header = Vec::new();
    while reader.read_until(b'\n', &mut header)? > 0 && !matches!(&header[..], b"\n" | b"\r\n") {
        header.clear();
    }
    Ok(Some(String::from_utf8_lossy(&request).trim_end().into()))
}

fn answer(method: &str, target: &str) -> (&'static str, String) {
    if !matches!(method, "GET" | "HEAD") {
        return ("405 Method Not Allowed", "only GET\n".into());
    }
    match target.split('?').next().unwrap_or_default() {
        "/" => ("200 OK", format!("hello from {}\n", whoami())),
        "/healthz" => ("200 OK", "ok\n".into()),
        "/env" => ("200 OK", potluck_variables()),
        _ => ("404 Not Found", "not found\n".into()),
    }
}

fn potluck_variables() -> String {
    let mut lines: Vec<String> = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with("POTLUCK_") || name.starts_with("PORT_"))
        .map(|(name, value)| format!("{name}={}\n", value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        serve(&server).unwrap();
        drop(server);
        let mut answer = String::new();
        // A server that leaves something unread resets the connection.
        let _ = client.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn answers_as_a_service_does() {
        for (request, begin, end) in [
            (
                "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                "HTTP/1.1 200 OK\r\n",
                "\n",
            ),
            (
                "GET /healthz?x HTTP/1.1\r\n\r\n",
                "HTTP/1.1 200 OK\r\n",
                "\r\n\r\nok\n",
            ),
            (
                "HEAD /healthz HTTP/1.0\r\n\r\n",
                "HTTP/1.1 200 OK\r\n",
                "\r\n\r\n",
            ),
            (
                "GET /nothing HTTP/1.1\r\n\r\n",
                "HTTP/1.1 404 ",
                "not found\n",
            ),
            ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ", "only GET\n"),
            ("\n", "HTTP/1.1 405 ", "only GET\n"),
            ("", "", ""),
            ("GET /half", "", ""),
        ] {
            let answer = ask(request);
            assert!(
                answer.starts_with(begin) && answer.ends_with(end),
                "{request:?}: {answer:?}"
            );
            assert_eq!(
                answer.is_empty(),
                begin.is_empty(),
                "{request:?}: {answer:?}"
            );
        }
        assert!(ask("GET / HTTP/1.1\r\n\r\n").contains(&format!("pid {}", process::id())));
    }

    #[test]
    fn a_request_without_end_is_cut_off() {
        assert_eq!(ask(&"x".repeat(20 << 10)), "");
    }
}
