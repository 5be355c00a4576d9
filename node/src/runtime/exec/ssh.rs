//! Connections of ssh into tasks of this node: each has a server, a process of
//! its own without rights (`potluck-sshd`), that is given the connection's
//! bytes and asks here for sessions.
//!
//! ```text
//! person ═ the frames of exec ═ carry ═ server ─ Open + stream ─▶ serve: judge, audit, carry
//! ```
//!
//! The server is not trusted: the task, the person and the rights are those of
//! the signed request, whatever it says, and each session is judged and
//! written down as if the person had asked for it by `potluck exec`: what is
//! written is told from what is run, and what it prints is cut. When the
//! connection ends, the server is killed, its streams end, and with them all
//! that it had in the task.

use super::{
    enter::{Visit, judge, not_written, open},
    pump::{self, Pipes},
    record::Record,
};
use crate::{
    agent::{Pipe, SessionWish},
    api::{
        client::Transport,
        error::{ApiError, ErrorCode},
        exec::{ExecRequest, SessionOutput, SshHost, SshHostKey, Wanted},
        frame,
        protocol::ApiFrame,
    },
    clock,
    identity::random,
    runtime::shared::Shared,
};
use futures::{StreamExt, stream::FuturesUnordered};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use potluck_helper::{
    Channel,
    protocol::ReceiveError,
    session::{
        CODE_LOST,
        ssh::{FromServer, SSH_CHANNELS_MAX, Setup, SshSession},
    },
};
use potluck_specs::{
    ChangeId, SlotId,
    trust::{PublicKey, SecretKey, UserCertificate},
};
use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::UnixStream,
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Connections at the same time: each is a process of some 5 MiB.
const CONNECTIONS_MAX: usize = 32;

/// Sessions of one connection that are open or end: a client may open the next
/// as soon as it has heard of an end, which is written down after that.
const SESSIONS_MAX: usize = 2 * SSH_CHANNELS_MAX;

/// What a server may say for the node's log: the one line that it has.
const WORDS_BYTES_MAX: u64 = 1_024;

/// How long they are waited for: the server has ended, so they are there.
const WORDS_WAIT: Duration = Duration::from_millis(100);

/// How long sessions may take to be written down as ended when their
/// connection is over. Their streams have ended then: a line to the disk each.
const ENDING_LIMIT: Duration = Duration::from_secs(10);

/// What a node that lets people in by ssh has.
pub(super) struct Servers {
    program: PathBuf,
    places: Arc<Semaphore>,
    /// Which the servers show to clients; new with each start of the node,
    /// since clients are told each time.
    host: SecretKey,
}

impl Servers {
    /// With this program.
    pub(super) fn new(program: PathBuf) -> Servers {
        Servers {
            program,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            host: SecretKey::from_seed(random()),
        }
    }
}

/// A connection that has begun.
pub(super) struct Connection {
    server: Server,
    host: SshHost,
    record: Record,
    person: Person,
    _place: OwnedSemaphorePermit,
}

/// Who is connected, and to what.
struct Person {
    author: UserCertificate,
    slot: SlotId,
    via: Option<String>,
    /// The connection's name in the audit log.
    session: String,
}

impl Connection {
    /// Judges a request for a connection, writes it down, and starts its
    /// server.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        request: &ExecRequest,
        key: PublicKey,
        author: &UserCertificate,
        via: Option<&str>,
    ) -> Result<Connection, ApiFrame> {
        let visit = Visit::of(request, &Wanted::Ssh { key });
        let record = Record::new(shared, &visit, author, via);
        judge(shared, &visit, author, &record).await?;
        let Some(servers) = &shared.exec.ssh else {
            let message = format!("ssh is switched off on node {}", shared.me.name);
            let error = ApiError::new(ErrorCode::Denied, message);
            return Err(ApiFrame::Failure(error.hint(
                "its operator switches it on with: potluck node --ssh; \
                 potluck exec and potluck cp work without",
            )));
        };
        let place = servers.places.clone().try_acquire_owned().map_err(|_| {
            let message =
                format!("this node has {CONNECTIONS_MAX} connections of ssh, which is the most");
            ApiFrame::Failure(ApiError::new(ErrorCode::Unavailable, message))
        })?;
        shared.exec.once(request.id, &record).await?;
        let written = record.ssh_begins().await;
        written.map_err(|error| not_written(&error))?;
        let setup = Setup {
            host_seed: servers.host.seed(),
            person: key.0,
        };
        let server = match Server::start(&servers.program, &setup) {
            Ok(server) => server,
            Err(error) => {
                let why = format!("potluck-sshd can't be started: {error}");
                record.ssh_ended(&why, 0, 0).await;
                return Err(ApiFrame::Failure(
                    ApiError::new(ErrorCode::Failed, why)
                        .hint("is it beside potluck on the task's node, and of the same version?"),
                ));
            }
        };
        let host = SshHostKey {
            request: request.id,
            key: servers.host.public(),
        };
        Ok(Connection {
            server,
            host: SshHost::new(&shared.me.key, shared.admission.credential(), &host),
            person: Person {
                author: author.clone(),
                slot: request.slot.clone(),
                via: via.map(String::from),
                session: record.session().into(),
            },
            record,
            _place: place,
        })
    }

    /// Carries it to its end.
    pub(super) async fn run(self, shared: &Arc<Shared>, mut stream: Box<dyn Transport>) {
        let begun = clock::boot_now();
        let host = ApiFrame::Ssh(Box::new(self.host));
        // A client that has left is found again at once.
        let _ = frame::write(&mut stream, &host).await;
        let mut server = self.server;
        let mut heard = Heard::default();
        let mut sessions = FuturesUnordered::new();
        let outcome = {
            let ended = ended(&mut server.process);
            let carried = pump::carry(server.pipes, ended, |_| {}, stream);
            tokio::pin!(carried);
            loop {
                tokio::select! {
                    outcome = &mut carried => break outcome,
                    message = receive(&server.control), if !heard.is_over => match message {
                        Ok((FromServer::Open(session), descriptors)) => {
                            heard.sessions += 1;
                            let stream = stream_of(descriptors);
                            match (stream, sessions.len() < SESSIONS_MAX) {
                                (Some(stream), true) => {
                                    sessions.push(serve(shared, &self.person, session, stream));
                                }
                                (Some(stream), false) => refuse(stream, is_full()),
                                (None, _) => {}
                            }
                        }
                        Ok((FromServer::LoggedIn, _)) => heard.is_logged_in = true,
                        Ok((FromServer::Ended(why), _)) => heard.why = Some(why),
                        Err(_) => heard.is_over = true,
                    },
                    Some(()) = sessions.next(), if !sessions.is_empty() => {}
                }
            }
        };
        // Its streams end with it.
        let _ = server.process.kill().await;
        pass_on_words(&mut server.process, &self.person.session).await;
        let rest = async { while sessions.next().await.is_some() {} };
        if timeout(ENDING_LIMIT, rest).await.is_err() {
            tracing::warn!(task = %self.person.slot, "sessions of ssh did not end in time");
        }
        let how = heard.why.unwrap_or(outcome.how);
        if !heard.is_logged_in {
            let why = format!("the ssh client has not proven its key: {how}");
            self.record.denied(&why).await;
        }
        let took_ms = clock::boot_now().since(begun).0;
        self.record.ssh_ended(&how, heard.sessions, took_ms).await;
    }
}

/// What a server has said.
#[derive(Default)]
struct Heard {
    is_logged_in: bool,
    is_over: bool,
    sessions: u64,
    why: Option<String>,
}

/// A server's process and the near ends of what it has.
struct Server {
    process: Child,
    pipes: Pipes,
    control: AsyncFd<Channel>,
}

impl Server {
    fn start(program: &Path, setup: &Setup) -> io::Result<Server> {
        let (bytes, its_bytes) = StdStream::pair()?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (control, its_control) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let process = Command::new(program)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(its_bytes)))
            .stdout(Stdio::from(its_control))
            // Not the node's own: what it says is cut, and marked as its words.
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let control = Channel::from_fd(control);
        control.send(setup).map_err(io::Error::other)?;
        let twin = bytes.try_clone()?;
        Ok(Server {
            process,
            pipes: Pipes {
                input: Some(Pipe::new(twin.into())?),
                output: Some(Pipe::new(bytes.into())?),
                errors: None,
            },
            // SAFETY: a channel owns one descriptor and never exchanges it.
            control: unsafe { AsyncFd::register(control) }?,
        })
    }
}

/// Puts what an ended server has said into the node's log. More than that stays
/// in its pipe, and goes with it.
async fn pass_on_words(server: &mut Child, session: &str) {
    let Some(stderr) = server.stderr.take() else {
        return;
    };
    let mut words = Vec::new();
    // The other end may have been handed to somebody who keeps it open.
    let mut stderr = stderr.take(WORDS_BYTES_MAX);
    let _ = timeout(WORDS_WAIT, stderr.read_to_end(&mut words)).await;
    if !words.is_empty() {
        let words = String::from_utf8_lossy(&words);
        tracing::warn!(session, words = ?words.trim_end(), "a server of ssh had something to say");
    }
}

/// How a server ended; there is no code that a person should see.
async fn ended(process: &mut Child) -> Result<u8, String> {
    match process.wait().await {
        Ok(status) if status.success() => Ok(0),
        Ok(status) => Err(format!("the server of ssh failed: {status}")),
        Err(error) => Err(format!("the server of ssh is lost: {error}")),
    }
}

async fn receive(control: &AsyncFd<Channel>) -> io::Result<(FromServer, Vec<OwnedFd>)> {
    let receive = |channel: &Channel| match channel.receive_with() {
        Ok(message) => Ok(message),
        Err(ReceiveError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(io::Error::other(error)),
    };
    control.async_io(Interest::READABLE, receive).await
}

/// Serves one session of a connection to its end.
async fn serve(shared: &Arc<Shared>, person: &Person, session: SshSession, stream: StdStream) {
    match begin(shared, person, session).await {
        Ok(session) => {
            if let Ok(stream) = UnixStream::from_std(stream) {
                session.run(Box::new(stream)).await;
            }
        }
        Err(frame) => refuse(stream, frame),
    }
}

/// The one descriptor that travels with a wish for a session.
fn stream_of(mut descriptors: Vec<OwnedFd>) -> Option<StdStream> {
    let stream = descriptors.pop().map(StdStream::from)?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

fn is_full() -> ApiFrame {
    let message = format!("a connection has {SSH_CHANNELS_MAX} sessions at most");
    ApiFrame::Failure(ApiError::new(ErrorCode::Unavailable, message))
}

/// Says why, and lets go of the stream. One that was just made takes it all at
/// once; a server that hands in another learns nothing, and holds nothing.
fn refuse(mut stream: StdStream, frame: ApiFrame) {
    if let Ok(bytes) = frame::framed(&told(frame)) {
        let _ = stream.write(&bytes);
    }
}

async fn begin(
    shared: &Arc<Shared>,
    person: &Person,
    session: SshSession,
) -> Result<super::Session, ApiFrame> {
    if clock::unix_now() > person.author.not_after {
        let message = format!("the certificate of user {:?} has ended", person.author.user);
        let error = ApiError::new(ErrorCode::Denied, message);
        return Err(ApiFrame::Failure(error));
    }
    let visit = Visit {
        id: ChangeId(random()),
        slot: person.slot.clone(),
        asked: session.asked(),
        ssh: Some(person.session.clone()),
        wish: SessionWish {
            work: session.work,
            terminal: session.terminal,
            term: session.term,
            tools: false,
            debug: false,
            env: session.env,
        },
    };
    let record = Record::new(shared, &visit, &person.author, person.via.as_deref());
    let place = shared.exec.place()?;
    let entrance = judge(shared, &visit, &person.author, &record).await?;
    open(visit, entrance, record, place).await
}

/// A refusal as a server of ssh can pass it on: as text.
fn told(frame: ApiFrame) -> ApiFrame {
    match frame {
        ApiFrame::Failure(error) => {
            let hint = error.hint.map(|hint| format!(" ({hint})"));
            ApiFrame::Session(SessionOutput::Failed {
                why: format!("{}{}", error.message, hint.unwrap_or_default()),
                code: CODE_LOST,
            })
        }
        other => other,
    }
}
