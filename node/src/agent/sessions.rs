//! The agent's end of sessions in tasks: finds the task's helper, hands it the
//! far ends of socket and pipes, and holds the near ends.
//!
//! A [`TaskSession`] that is dropped closes them, and the session's warden in
//! the task ends all of it (`potluck_helper::session`). Who may open one, and
//! what becomes of its bytes, is the runtime's.

use super::{Agent, AgentStopped, actor::Command, link::Link, tools};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::pipe2,
};
use potluck_core::{host::Run, session::TaskState};
use potluck_helper::{
    AgentMessage, Channel, TaskDescription,
    description::{DESCRIPTION_FILE, Profile},
    protocol::{DESCRIPTORS_MAX, ReceiveError},
    session::{SessionOrder, SessionReport, SessionRequest, WindowSize, Work},
};
use potluck_specs::SlotId;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
    time::timeout,
};

/// How long a session may take to begin: a fork, a few mounts, a program's
/// start, on a host that is busy.
const START_LIMIT: Duration = Duration::from_secs(15);

/// A session that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The task is not here.
    #[error("{0} is not on this node")]
    NotHere(SlotId),
    /// It does not run.
    #[error("{slot} does not run: {why}")]
    NotRunning {
        /// Which.
        slot: SlotId,
        /// What it does instead.
        why: &'static str,
    },
    /// There are no tools to bring.
    #[error("no tools: {0}")]
    NoTools(String),
    /// The task's side says no.
    #[error("{why}")]
    Refused {
        /// For people.
        why: String,
        /// What to exit with.
        code: u8,
    },
    /// Nothing was heard from the task's side.
    #[error("the task's helper did not open a session; it may be of an older version")]
    Silent,
    /// The task's description can't be read, or a pipe can't be made.
    #[error("a session can't be prepared")]
    Io(#[source] io::Error),
    /// The agent has stopped.
    #[error(transparent)]
    Stopped(#[from] AgentStopped),
}

/// What is wanted in a task.
#[derive(Clone, Debug)]
pub struct SessionWish {
    /// What is done.
    pub work: Work,
    /// With a terminal of this size.
    pub terminal: Option<WindowSize>,
    /// `TERM`.
    pub term: Option<String>,
    /// With tools.
    pub tools: bool,
    /// May trace.
    pub debug: bool,
    /// More variables.
    pub env: Vec<(String, String)>,
}

/// A running task that could be entered.
#[derive(Debug)]
pub struct Entrance {
    link: Link,
    /// How well it is kept apart.
    pub profile: Profile,
}

impl Agent {
    /// The way into a task that runs here.
    ///
    /// # Errors
    /// [`EnterError::NotHere`], [`EnterError::NotRunning`] and the agent's.
    pub async fn entrance(&self, slot: SlotId) -> Result<Entrance, EnterError> {
        let (run, link) = self.ask(|reply| Command::Entrance(slot, reply)).await??;
        let file = self.folders.start(&run).join(DESCRIPTION_FILE);
        let read = spawn_blocking(move || TaskDescription::read(&file)).await;
        let description = read
            .expect("reading a file does not panic")
            .map_err(|error| EnterError::Io(io::Error::other(error)))?;
        Ok(Entrance {
            link,
            profile: description.profile,
        })
    }
}

/// What the actor finds among its helpers.
pub(super) fn found(
    slot: SlotId,
    link: Option<(Run, Link)>,
    state: Option<TaskState>,
) -> Result<(Run, Link), EnterError> {
    let why = match (state, link) {
        (Some(TaskState::Running | TaskState::Stopping), Some(found)) => return Ok(found),
        (None, _) => return Err(EnterError::NotHere(slot)),
        (Some(TaskState::Running | TaskState::Stopping), None) => {
            "its helper has no connection to the agent yet"
        }
        (Some(TaskState::Adopting), _) => "it is being found again after the agent's restart",
        (Some(TaskState::Fetching), _) => "its package is being fetched",
        (Some(TaskState::Starting), _) => "it is starting",
        (Some(TaskState::Backoff), _) => "it has ended, and waits to be started again",
        (Some(TaskState::Stopped), _) => "it has been stopped",
        (Some(TaskState::Ended), _) => "it has ended, and is not started again",
        (Some(TaskState::Other), _) => "its state is not known here",
    };
    Err(EnterError::NotRunning { slot, why })
}

impl Entrance {
    /// Opens a session; it has started when this returns.
    ///
    /// # Errors
    /// Any [`EnterError`].
    pub async fn open(&self, wish: SessionWish) -> Result<TaskSession, EnterError> {
        let tools = match wish.tools {
            true => {
                let found = spawn_blocking(tools::find).await;
                let found = found.expect("looking for tools does not panic");
                Some(found.map_err(EnterError::NoTools)?)
            }
            false => None,
        };
        let request = SessionRequest {
            work: wish.work,
            terminal: wish.terminal,
            term: wish.term,
            tools: tools.as_ref().map(|tools| tools.names.clone()),
            debug: wish.debug,
            env: wish.env,
        };
        let (mut session, mut descriptors) = TaskSession::make(&request).map_err(EnterError::Io)?;
        descriptors.extend(tools.map(|tools| OwnedFd::from(tools.program)));
        debug_assert!(descriptors.len() <= DESCRIPTORS_MAX);
        let message = AgentMessage::Session(request);
        self.link.send_with(message, descriptors);
        match timeout(START_LIMIT, session.begin()).await {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(EnterError::Silent),
        }
    }
}

/// The near ends of a session.
pub struct TaskSession {
    /// Reports and orders.
    pub control: Control,
    /// Standard input, or what is typed; `None` once it has ended.
    pub input: Option<Pipe>,
    /// Standard output, or the terminal's.
    pub output: Option<Pipe>,
    /// Standard error; none with a terminal.
    pub errors: Option<Pipe>,
}

impl TaskSession {
    fn make(request: &SessionRequest) -> io::Result<(TaskSession, Vec<OwnedFd>)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // SAFETY: a channel owns one descriptor and never exchanges it.
        let control = unsafe { AsyncFd::register(Channel::from_fd(ours)) }?;
        let mut session = TaskSession {
            control: Control(control),
            input: None,
            output: None,
            errors: None,
        };
        let mut descriptors = vec![theirs];
        if request.terminal.is_none() {
            let (stdin, input) = pipe2(OFlag::O_CLOEXEC)?;
            let (output, stdout) = pipe2(OFlag::O_CLOEXEC)?;
            let (errors, stderr) = pipe2(OFlag::O_CLOEXEC)?;
            session.input = Some(Pipe::new(input)?);
            session.output = Some(Pipe::new(output)?);
            session.errors = Some(Pipe::new(errors)?);
            descriptors.extend([stdin, stdout, stderr]);
        }
        Ok((session, descriptors))
    }

    /// Waits until the command runs.
    async fn begin(&mut self) -> Result<(), EnterError> {
        loop {
            match self.control.report().await.map_err(EnterError::Io)? {
                Some((SessionReport::Terminal, mut descriptors)) => {
                    let terminal = descriptors.pop().ok_or(EnterError::Silent)?;
                    let twin = terminal.try_clone().map_err(EnterError::Io)?;
                    self.input = Some(Pipe::new(twin).map_err(EnterError::Io)?);
                    self.output = Some(Pipe::new(terminal).map_err(EnterError::Io)?);
                }
                Some((SessionReport::Started, _)) => return Ok(()),
                Some((SessionReport::Failed { why, code }, _)) => {
                    return Err(EnterError::Refused { why, code });
                }
                Some((SessionReport::Ended { .. }, _)) | None => return Err(EnterError::Silent),
            }
        }
    }
}

/// The session's socket.
pub struct Control(AsyncFd<Channel>);

impl Control {
    /// The next report; `None` when there will be none.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn report(&self) -> io::Result<Option<(SessionReport, Vec<OwnedFd>)>> {
        loop {
            let received = self
                .0
                .async_io(Interest::READABLE, |channel| match channel.receive_with() {
                    Ok(report) => Ok(Some(report)),
                    Err(ReceiveError::Unknown(_)) => Ok(None),
                    Err(ReceiveError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(ReceiveError::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(ReceiveError::Io(error)) => Err(error),
                })
                .await;
            match received {
                Ok(Some(report)) => return Ok(Some(report)),
                // A newer helper's report: nothing that this agent can do.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sets the size of the session's terminal.
    pub fn resize(&self, size: WindowSize) {
        // The next one is right again; a session that is over has no size.
        if let Err(error) = self.0.get_ref().send(&SessionOrder::Resize(size)) {
            tracing::debug!(%error, "size of a terminal is not told");
        }
    }
}

/// One end of a pipe, or a terminal's outer side.
pub struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    /// Of a descriptor that can be waited for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(fd: OwnedFd) -> io::Result<Pipe> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        debug_assert!(fd.as_raw_fd() >= 0);
        // SAFETY: the descriptor is owned and stays the same.
        Ok(Pipe(unsafe { AsyncFd::register(fd) }?))
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |fd| {
                match nix::unistd::read(fd, buffer) {
                    // A terminal whose inner side has closed.
                    Err(Errno::EIO) => Ok(0),
                    read => Ok(read?),
                }
            })
            .await
    }

    /// Nothing more will be written. A pipe says so by its end, which is when
    /// this is dropped; a socket that is also read from must be told.
    pub fn end(self) {
        use nix::sys::socket::{Shutdown, shutdown};
        let _ = shutdown(self.0.get_ref().as_raw_fd(), Shutdown::Write);
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// What the kernel says; `BrokenPipe` when nobody reads any more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .0
                .async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?))
                .await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }
}
