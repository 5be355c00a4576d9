//! Does what [`crate::life`] decides: one thread that waits for the task's
//! init, its output, the agent, signals and time, all through one epoll.
//!
//! It waits for nothing else: the agent's socket never blocks it, and the disk
//! under the log is waited for by a thread of its own ([`crate::scribe`]).
//! How it becomes another program is in [`upgrade`].

mod upgrade;

use crate::{
    description::TaskDescription,
    end::{EndRecord, TaskEnd, WHY_BYTES_MAX},
    group::{Controller, Limits},
    init::timer_time,
    inner::{INNER_BYTES, Inner, Part, Step},
    launch::{Launched, launch},
    lease::Leases,
    life::{Effect, Event, Gone, How, Life},
    log::{LogLimits, LogWriter, Stream},
    memory::{self, Finding, MemoryGuard},
    output::Output,
    protocol::{
        AgentMessage, Channel, Hello, HelperMessage, LogState, MissingIsolation, PROTOCOL_VERSION,
        Phase, ReceiveError, SendError,
    },
    resume::{self, CAN_RESUME, HANDS_ON, RESUME},
    session::{self, SessionRequest, Sessions},
    sweep,
};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        prctl,
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
        wait::{Id, WaitPidFlag, waitid},
    },
    time::{ClockId as Clock, clock_gettime},
    unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};
use potluck_specs::{Millis, cause::chain};
use std::{
    fs::{self, File},
    io::{self, IoSliceMut, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// For whoever lists processes.
const NAME: &std::ffi::CStr = c"potluck-helper";

/// Events taken at once; what is more comes at the next turn.
const EVENTS: usize = 12;

/// Events of sessions: this and the session's number.
const SESSIONS_FROM: u64 = 1 << 32;

/// Between looks whether the groups of sessions that are over have emptied.
const TIDY_MS: u64 = 50;

/// Until a pipe that the kernel could not watch is tried again.
const LISTEN_AGAIN_MS: u64 = 1_000;

/// Longest file with a memory peak.
const PEAK_BYTES_MAX: u64 = 64;

/// What a helper says of itself.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The life of a helper, from its arguments to its end.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let args: Vec<_> = args.collect();
    let no_name = std::ffi::OsString::new();
    let (program, args) = args.split_first().unwrap_or((&no_name, &[]));
    let file = match args {
        [question, folder] if question == ISOLATION => return tell_isolation(Path::new(folder)),
        [question, version] if question == CAN_RESUME => return resume::answer(version),
        [file, resumes, handed @ ..] if resumes == RESUME => {
            return upgrade::main(program, file, handed);
        }
        [file] => file,
        _ => {
            eprintln!("usage: potluck-helper TASK_FILE");
            eprintln!("       potluck-helper {ISOLATION} EMPTY_FOLDER");
            eprintln!("       potluck-helper {CAN_RESUME} VERSION");
            return ExitCode::from(2);
        }
    };
    let opened = fs::canonicalize(file)
        .map_err(|error| error.to_string())
        .and_then(|path| match TaskDescription::read(&path) {
            Ok(description) => Ok((path, description)),
            Err(error) => Err(chain(&error)),
        });
    let (path, description) = match opened {
        Ok(opened) => opened,
        Err(why) => {
            eprintln!("potluck-helper: {}: {why}", file.display());
            return ExitCode::from(2);
        }
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    match detach().and_then(|()| Supervisor::start(description, folder)) {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => {
            eprintln!("potluck-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for the strongest isolation of this host instead of running a task.
pub const ISOLATION: &str = "--isolation";

/// The profile's name, and a line for each that can't be had.
fn tell_isolation(folder: &Path) -> ExitCode {
    let (strongest, why) = crate::probe::strongest(folder);
    println!("{}", strongest.name());
    why.iter().for_each(|why| println!("{why}"));
    ExitCode::SUCCESS
}

/// Lets go of the agent: its descriptors, its session, its folder, its
/// terminal. The agent may end and this process must not notice.
fn detach() -> io::Result<()> {
    // SAFETY: nothing is open yet that anything here owns.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    Errno::result(closed)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // Refused to the leader of a process group, which is as good.
    let _ = setsid();
    chdir("/")?;
    prctl::set_name(NAME)?;
    prctl::set_child_subreaper(true)?;
    share_one_heap();
    SigSet::all().thread_block()?;
    Ok(())
}

/// The log's thread allocates little and seldom: a heap of its own would cost
/// more memory than it saves time.
fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: plain numbers, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u64)]
enum Source {
    Timer,
    Signals,
    Control,
    Init,
    Out,
    Err,
    Log,
    Agent,
    MemoryNear,
    MemoryFull,
}

impl Source {
    const ALL: [Source; 10] = [
        Source::Timer,
        Source::Signals,
        Source::Control,
        Source::Init,
        Source::Out,
        Source::Err,
        Source::Log,
        Source::Agent,
        Source::MemoryNear,
        Source::MemoryFull,
    ];
}

struct Supervisor {
    description: TaskDescription,
    folder: PathBuf,
    boot_id: String,
    life: Life,
    epoll: Epoll,
    timer: TimerFd,
    signals: SignalFd,
    /// Until all of the task is gone.
    sandbox: Option<Sandbox>,
    agent: Option<Channel>,
    /// As long as the sandbox.
    output: Option<Output>,
    /// What the end of the log lost, for an agent that comes later.
    log_end: Option<LogState>,
    /// When the task's pipes are listened to again, which the kernel refused.
    listen_at: Option<Millis>,
    memory: Option<MemoryGuard>,
    /// When the task's memory is looked at again.
    look_at: Option<Millis>,
    leaving: bool,
    sessions: Sessions,
    /// When the groups of sessions that are over are looked at again.
    tidy_at: Option<Millis>,
}

/// What the kernel wakes a supervisor by.
struct Waits {
    epoll: Epoll,
    timer: TimerFd,
    signals: SignalFd,
}

impl Waits {
    fn new() -> io::Result<Waits> {
        let mut mask = SigSet::empty();
        mask.add(nix::sys::signal::Signal::SIGCHLD);
        mask.add(nix::sys::signal::Signal::SIGTERM);
        let timer = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let signals = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Waits {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, timer)?,
            signals: SignalFd::with_flags(&mask, signals)?,
        })
    }
}

struct Sandbox {
    launched: Launched,
    /// From init's reports.
    task_pid: Option<i32>,
    how: Option<How>,
    init_ended: bool,
    out: Pipe,
    err: Pipe,
}

/// What is known of one of the task's pipes.
#[derive(Clone, Copy)]
struct Pipe {
    is_open: bool,
    /// It is not while the log has no room.
    is_heard: bool,
}

impl Pipe {
    const HEARD: Pipe = Pipe {
        is_open: true,
        is_heard: true,
    };
}

impl Sandbox {
    /// Whoever is about to end is not upgraded.
    fn is_ending(&self) -> bool {
        self.init_ended || self.how.is_some()
    }

    fn pipe(&mut self, stream: Stream) -> (&OwnedFd, &mut Pipe) {
        match stream {
            Stream::Out => (&self.launched.out, &mut self.out),
            Stream::Err => (&self.launched.err, &mut self.err),
        }
    }
}

impl Supervisor {
    fn start(description: TaskDescription, folder: &Path) -> io::Result<Supervisor> {
        let now = boot_now();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot_id = boot_id.trim().to_owned();
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            key: description.key.clone(),
            boot_id: boot_id.clone(),
            helper_pid: std::process::id() as i32,
            helper_version: VERSION.into(),
            agent_generation: description.agent_generation,
            phase: Phase::Starting,
            isolation_missing: Vec::new(),
            hands_on: Some(HANDS_ON),
        };
        let agent = now + Millis(description.lease_ms);
        let leases = Leases::new(agent, description.scheduler_lease_until);
        let life = Life::new(hello, description.stop, leases, now);
        // The task first: everything opened later stays out of its reach.
        let started = start_task(&description, folder, &life);
        let Waits {
            epoll,
            timer,
            signals,
        } = Waits::new()?;
        let mut supervisor = Supervisor {
            folder: folder.into(),
            boot_id,
            life,
            epoll,
            timer,
            signals,
            sandbox: None,
            agent: None,
            output: None,
            log_end: None,
            listen_at: None,
            memory: None,
            look_at: None,
            leaving: false,
            sessions: Sessions::default(),
            tidy_at: None,
            description,
        };
        supervisor.listen(Source::Timer)?;
        supervisor.listen(Source::Signals)?;
        match started {
            Ok((log, launched)) => supervisor.adopt(log, launched),
            Err(why) => supervisor.not_started(why),
        }
        Ok(supervisor)
    }

    fn adopt(&mut self, log: LogWriter, mut launched: Launched) {
        let missing = std::mem::take(&mut launched.missing);
        self.sandbox = Some(Sandbox {
            launched,
            task_pid: None,
            how: None,
            init_ended: false,
            out: Pipe::HEARD,
            err: Pipe::HEARD,
        });
        for one in missing {
            self.step(Event::Missing(one));
        }
        if let Err(error) = self.attend(log, false) {
            self.abandon(How::NotStarted(format!(
                "its helper can't watch it: {error}"
            )));
        }
    }

    /// Begins to write the task's log and to listen to all of it.
    fn attend(&mut self, log: LogWriter, memory_reached: bool) -> io::Result<()> {
        self.output = Some(Output::new(log, self.description.logs)?);
        let sandbox = self.sandbox.as_ref().expect("the caller has put it there");
        let pipes = [(Source::Out, sandbox.out), (Source::Err, sandbox.err)];
        let open = pipes.into_iter().filter(|(_, pipe)| pipe.is_heard);
        let sources = [Source::Control, Source::Init, Source::Log];
        for source in sources.into_iter().chain(open.map(|(source, _)| source)) {
            self.listen(source)?;
        }
        self.watch_memory(memory_reached)
    }

    /// Ends a task that this helper can't go on with, and tells why.
    fn abandon(&mut self, how: How) {
        self.output = None;
        if let Some(sandbox) = &mut self.sandbox {
            for pipe in [&sandbox.launched.out, &sandbox.launched.err] {
                // Nobody reads it any more.
                let _ = self.epoll.delete(pipe);
            }
            sandbox.how = Some(how);
            // It may be that nobody hears of init's end: the children's are
            // enough then.
            sandbox.init_ended = true;
        }
        self.kill();
        self.finish_when_swept();
    }

    /// `reached`: the task was told to end for it already.
    fn watch_memory(&mut self, reached: bool) -> io::Result<()> {
        let Some(watch) = &self.description.memory_watch else {
            return Ok(());
        };
        // Without events the kernel kills, which is seen at the end.
        let Ok(guard) = MemoryGuard::resume(watch, reached) else {
            return Ok(());
        };
        self.memory = Some(guard);
        self.listen(Source::MemoryNear)?;
        self.listen(Source::MemoryFull)?;
        // It may have been faster than we are.
        self.look_at = Some(boot_now());
        Ok(())
    }

    /// After an event, or when it is time for a look.
    fn look_at_memory(&mut self, event: bool) {
        let now = boot_now();
        let due = self.look_at.is_some_and(|at| now >= at);
        let Some(guard) = self.memory.as_mut().filter(|_| event || due) else {
            return;
        };
        let finding = match event {
            true => guard.take_events(now),
            false => guard.look(now),
        };
        self.look_at = guard.look_in_ms().map(|ms| now + Millis(ms));
        match finding {
            Finding::Fine => {}
            Finding::Reached(note) => {
                self.say(&format!("memory limit reached: {note}"));
                self.step(Event::MemoryReached(note));
            }
            Finding::ReachedAgain => self.step(Event::MemoryGone),
        }
    }

    /// Changes what the task may use, and what its memory is watched for. A
    /// task that was told to end for want of memory keeps the room it was given.
    fn set_limits(&mut self, limits: &Limits) -> Vec<String> {
        if self.sandbox.is_none() {
            return vec!["the task is gone".into()];
        }
        let ending = self.memory.as_ref().is_some_and(MemoryGuard::is_reached);
        let mut refused = Vec::new();
        for controller in Controller::ALL {
            if controller == Controller::Memory && ending {
                refused.push("memory limit: the task is being stopped at it".into());
                continue;
            }
            let told = self.description.group.set_one(controller, limits);
            if controller == Controller::Memory && told.is_empty() {
                self.description.memory_watch = self.description.group.memory_watch(limits);
                self.memory = None;
                self.look_at = None;
                if let Err(error) = self.watch_memory(false) {
                    refused.push(format!("memory can't be watched: {error}"));
                }
            }
            refused.extend(told);
        }
        refused
    }

    /// A line of ours in the task's log.
    fn say(&mut self, text: &str) {
        if let Some(output) = &mut self.output {
            output.say(text);
        }
        self.look_at_log();
    }

    fn not_started(&mut self, why: String) {
        let how = How::NotStarted(why.chars().take(WHY_BYTES_MAX / 4).collect());
        self.gone(how, unix_now());
    }

    fn run(&mut self) -> ExitCode {
        while !self.leaving {
            self.arm();
            let mut events = [EpollEvent::empty(); EVENTS];
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => unreachable!("our own epoll works: {errno}"),
            };
            // Time comes before messages: what waited in a socket while the
            // host was suspended must not save a lease that is over.
            self.step(Event::Tick);
            for event in &events[..count] {
                match event.data().checked_sub(SESSIONS_FROM) {
                    Some(session) => self.session_ended(session),
                    None => self.handle(Source::ALL[event.data() as usize]),
                }
            }
            self.tidy_when_due();
            self.tick_log();
            self.look_at_memory(false);
        }
        ExitCode::SUCCESS
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Timer => {
                let _ = self.timer.wait();
            }
            Source::Signals => self.take_signals(),
            Source::Control => self.take_reports(),
            Source::Init => self.init_ended(),
            Source::Out => self.take_output(Stream::Out),
            Source::Err => self.take_output(Stream::Err),
            Source::Log => {
                if let Some(output) = &self.output {
                    output.hear();
                }
            }
            Source::Agent => self.hear_agent(),
            Source::MemoryNear | Source::MemoryFull => self.look_at_memory(true),
        }
    }

    /// Sets the timer to whatever is due first.
    fn arm(&mut self) {
        let deadline = self.life.next_deadline();
        let log = self.output.as_ref().and_then(Output::next_deadline);
        let others = [log, self.look_at, self.tidy_at, self.listen_at];
        let others = others.into_iter().flatten();
        let deadline = others.fold(deadline, Millis::min);
        let expiration = Expiration::OneShot(timer_time(deadline.0));
        self.timer
            .set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .expect("a valid time on our own timer");
    }

    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.life.step(event, boot_now()) {
                events.extend(self.carry_out(effect));
            }
        }
    }

    /// Does one thing; what followed from it at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Connect => return Some(self.connect()),
            Effect::Disconnect => self.agent = None,
            Effect::Send(message) => {
                return self.send(&message).or_else(|| match message {
                    HelperMessage::Hello(_) => self.tell_log(),
                    _ => None,
                });
            }
            Effect::Feed(until) => {
                let until = until.0.saturating_add(crate::launch::INIT_LEASE_EXTRA_MS);
                self.tell_init(Inner::LeaseUntil(until));
            }
            Effect::Signal(signal) => self.tell_init(Inner::Signal(signal)),
            Effect::Say(text) => self.say(&text),
            Effect::SetLimits(limits) => {
                let refused = self.set_limits(&limits);
                return self.send(&HelperMessage::LimitsSet { refused });
            }
            Effect::Upgrade(program) => {
                let why = self.upgrade(&program);
                return self.send(&HelperMessage::UpgradeRefused { why });
            }
            Effect::Kill => self.kill(),
            Effect::Record(end) => self.record(end),
            Effect::Leave => self.leaving = true,
        }
        None
    }

    fn connect(&mut self) -> Event {
        let connected = Channel::connect(&self.description.agent_socket).and_then(|channel| {
            self.agent = Some(channel);
            self.listen(Source::Agent)
        });
        match connected {
            Ok(()) => Event::Connected,
            Err(_) => {
                self.agent = None;
                Event::Disconnected
            }
        }
    }

    fn send(&mut self, message: &HelperMessage) -> Option<Event> {
        let agent = self.agent.as_ref()?;
        match (agent.send(message), message) {
            (Ok(()), _) => None,
            // The agent is slow; the lease runs meanwhile.
            (Err(SendError::WouldBlock), HelperMessage::Ping { .. }) => None,
            // `Hello` on the next connection says it again.
            (Err(_), _) => {
                self.agent = None;
                Some(Event::Disconnected)
            }
        }
    }

    fn hear_agent(&mut self) {
        while let Some(agent) = &self.agent {
            let event = match agent.receive_with::<AgentMessage>() {
                Ok((AgentMessage::Session(request), descriptors)) => {
                    self.open_session(request, descriptors);
                    continue;
                }
                Ok((message, _)) => Event::Agent(message),
                Err(ReceiveError::WouldBlock) => return,
                // A newer agent's message: nothing that this helper can do.
                Err(ReceiveError::Unknown(_)) => continue,
                Err(ReceiveError::Closed | ReceiveError::Io(_)) => {
                    self.agent = None;
                    Event::Disconnected
                }
            };
            self.step(event);
        }
    }

    fn open_session(&mut self, request: SessionRequest, descriptors: Vec<OwnedFd>) {
        let sandbox = self.sandbox.as_ref();
        let may_enter = self.life.may_enter();
        let output = self.output.as_ref().filter(|_| may_enter.is_ok());
        let still = output.map(Output::still).transpose();
        let task = may_enter.and_then(|()| {
            let launched = &sandbox.ok_or("it has ended")?.launched;
            if let Err(why) = &still {
                return Err(*why);
            }
            Ok(session::Task {
                description: &self.description,
                namespaces: &launched.namespaces,
                own_root: launched.has_root && !self.life.misses(&[Part::Mount, Part::Root]),
            })
        });
        let opened = self.sessions.open(task, request, descriptors);
        drop(still);
        if let Some(number) = opened {
            self.watch_session(number);
        }
    }

    fn watch_session(&mut self, number: u64) {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, SESSIONS_FROM + number);
        let watched = self
            .sessions
            .tether(number)
            .map(|tether| self.epoll.add(tether, event));
        // Without a watch nobody would empty its group: it ends at once, its
        // tether being closed.
        if !matches!(watched, Some(Ok(()))) {
            self.session_ended(number);
        }
    }

    fn session_ended(&mut self, number: u64) {
        self.sessions.ended(number);
        self.tidy_at = Some(boot_now() + Millis(TIDY_MS));
    }

    fn tidy_when_due(&mut self) {
        if self.tidy_at.is_some_and(|due| boot_now() >= due) {
            let again = boot_now() + Millis(TIDY_MS);
            self.tidy_at = self.sessions.tidy().then_some(again);
        }
    }

    fn tell_init(&self, message: Inner) {
        if let Some(sandbox) = &self.sandbox {
            message.send(sandbox.launched.control.as_raw_fd());
        }
    }

    /// Kills init, and what a missing pid namespace lets live is swept when
    /// init is gone.
    fn kill(&mut self) {
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let pidfd = sandbox.launched.pidfd.as_raw_fd();
        let none = std::ptr::null_mut::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and no information is passed.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, none, 0) };
        if let Some(group) = &mut sandbox.launched.kill_group {
            let _ = group.write_all(b"1");
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if info.ssi_signo as i32 == libc::SIGTERM {
                self.step(Event::Terminate);
            }
        }
        sweep::reap_ended();
        self.finish_when_swept();
    }

    fn take_reports(&mut self) {
        while let Some(sandbox) = &mut self.sandbox {
            let report = match receive_report(&sandbox.launched.control) {
                Ok(report) => report,
                Err(Errno::EAGAIN) => return,
                // Init is ending. It may take its time, and its closed socket
                // would wake us all the while.
                Err(_) => return self.forget_control(),
            };
            match report {
                (Inner::Task, pid) => sandbox.task_pid = sandbox.task_pid.or(pid),
                (Inner::Started, _) => {
                    let pid = sandbox.task_pid.unwrap_or_default();
                    self.step(Event::Started { pid });
                }
                (Inner::Missing(part, errno), _) => {
                    self.step(Event::Missing(missing_part(part, errno)));
                }
                (Inner::Failed(step, errno, at), _) => {
                    let why = self.failure(step, errno, at);
                    self.learn(How::NotStarted(why));
                }
                (Inner::Exited(code), _) => self.learn(How::Exited(code)),
                (Inner::Signalled(signal), _) => self.learn(How::Signalled(signal)),
                (Inner::Starved, _) => self.learn(How::Starved),
                _ => {}
            }
        }
    }

    fn forget_control(&self) {
        if let Some(sandbox) = &self.sandbox {
            let _ = self.epoll.delete(&sandbox.launched.control);
        }
    }

    fn learn(&mut self, how: How) {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.how.get_or_insert(how);
        }
    }

    fn failure(&self, step: Step, errno: i32, at: u32) -> String {
        let hook = (at as usize).checked_sub(1);
        let hook = hook.and_then(|index| self.description.setup.get(index));
        let hook = hook.map(|hook| format!("set-up command {at} ({:?})", hook.command));
        let what = match (step, &hook) {
            (Step::Setup, Some(hook)) => return format!("{hook} returned {errno}"),
            (Step::SetupKilled, Some(hook)) => {
                return format!("{hook} was ended by signal {errno}");
            }
            (Step::SetupTooLong, Some(hook)) => return format!("{hook} took too long"),
            (Step::Exec, Some(hook)) => format!("{hook} can't be run"),
            (Step::Exec, None) => format!("command {:?} can't be run", self.description.command),
            (Step::Root, _) => self.root_failure(at),
            (Step::Isolation, _) => {
                let part = Part::from_number(at).map_or("isolation", Part::name);
                format!("this host can't give it the isolation that it asks for ({part})")
            }
            (other, _) => other.name().into(),
        };
        format!("{what}: {}", Errno::from_raw(errno).desc())
    }

    fn root_failure(&self, at: u32) -> String {
        let sandbox = self.sandbox.as_ref();
        let labels = sandbox.map_or(&[][..], |sandbox| &sandbox.launched.root_labels);
        match (at as usize).checked_sub(1).and_then(|at| labels.get(at)) {
            Some(label) => format!("{label} can't be put into its root"),
            None => "its root can't be made".into(),
        }
    }

    fn init_ended(&mut self) {
        self.take_reports();
        let Some(sandbox) = &mut self.sandbox else {
            return;
        };
        let id = Id::PIDFd(sandbox.launched.pidfd.as_fd());
        // It has ended, so this does not wait, and may have been reaped with
        // others before; how it ended, its reports have said.
        let _ = waitid(id, WaitPidFlag::WEXITED);
        sandbox.init_ended = true;
        let _ = self.epoll.delete(&sandbox.launched.pidfd);
        self.finish_when_swept();
    }

    /// When nothing of the task lives, its last output is taken and the end
    /// is known.
    fn finish_when_swept(&mut self) {
        let ended = self.sandbox.as_ref().is_some_and(|one| one.init_ended);
        if !ended || !sweep::sweep() {
            return;
        }
        // The log may take its time.
        let at = unix_now();
        self.sessions.end_all();
        self.tidy_at = None;
        self.take_rest();
        let Some(sandbox) = self.sandbox.take() else {
            return;
        };
        let lost = self.output.take().and_then(|output| {
            // A thread that is not waited for may ring later.
            let _ = self.epoll.delete(output.bell());
            output.finish()
        });
        self.look_at = None;
        self.memory = None;
        if let Some(lost) = lost {
            self.log_end = Some(lost.clone());
            self.send_and_step(&HelperMessage::Log(lost));
        }
        self.gone(sandbox.how.unwrap_or(How::Silent), at);
    }

    fn gone(&mut self, how: How, at: Millis) {
        let gone = Gone {
            how,
            at,
            memory_peak_bytes: self.memory_peak(),
            memory_kill: {
                let watch = self.description.memory_watch.as_ref();
                watch.is_some_and(memory::kernel_killed)
            },
        };
        self.step(Event::Gone(gone));
    }

    fn memory_peak(&self) -> Option<u64> {
        let files = self.description.memory_peak_files.iter();
        files
            .filter_map(|path| {
                let mut text = String::new();
                let file = File::open(path).ok()?;
                file.take(PEAK_BYTES_MAX).read_to_string(&mut text).ok()?;
                text.trim().parse().ok()
            })
            .next()
    }

    /// If the disk refuses, the agent still hears it from us.
    fn record(&self, end: TaskEnd) {
        let record = EndRecord {
            key: self.description.key.clone(),
            boot_id: self.boot_id.clone(),
            end,
        };
        let _ = record.write(&self.folder);
    }

    fn take_output(&mut self, stream: Stream) {
        let (Some(sandbox), Some(output)) = (&mut self.sandbox, &mut self.output) else {
            return;
        };
        let (fd, pipe) = sandbox.pipe(stream);
        if !output.take(fd, stream) {
            pipe.is_open = false;
        }
        self.look_at_log();
    }

    fn take_rest(&mut self) {
        if let (Some(sandbox), Some(output)) = (&self.sandbox, &mut self.output) {
            output.take_rest(&sandbox.launched.out, Stream::Out);
            output.take_rest(&sandbox.launched.err, Stream::Err);
        }
    }

    fn tick_log(&mut self) {
        if let Some(output) = &mut self.output {
            output.tick();
            self.look_at_log();
        }
    }

    /// After anything was written or tried: the agent hears what changed, and
    /// the task is listened to or not.
    fn look_at_log(&mut self) {
        self.hear_task();
        if let Some(news) = self.output.as_mut().and_then(Output::news) {
            self.send_and_step(&HelperMessage::Log(news));
        }
    }

    /// Stops listening to the task's pipes while the log has no room, so that
    /// the task waits as soon as they are full; or begins again. What the
    /// kernel refuses is tried again.
    fn hear_task(&mut self) {
        let (Some(sandbox), Some(output)) = (&mut self.sandbox, &self.output) else {
            return;
        };
        let waits = output.waits();
        self.listen_at = None;
        for (stream, source) in [(Stream::Out, Source::Out), (Stream::Err, Source::Err)] {
            let (fd, pipe) = sandbox.pipe(stream);
            let heard = pipe.is_open && !waits;
            if heard == pipe.is_heard {
                continue;
            }
            let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
            let done = match heard {
                true => self.epoll.add(fd, event),
                false => self.epoll.delete(fd),
            };
            match done {
                Ok(()) => pipe.is_heard = heard,
                Err(_) => self.listen_at = Some(boot_now() + Millis(LISTEN_AGAIN_MS)),
            }
        }
    }

    /// To an agent that has just met us.
    fn tell_log(&mut self) -> Option<Event> {
        let state = self.output.as_ref().map(Output::state);
        match state.or_else(|| self.log_end.clone()) {
            None | Some(LogState::Written) => None,
            Some(state) => self.send(&HelperMessage::Log(state)),
        }
    }

    fn send_and_step(&mut self, message: &HelperMessage) {
        if let Some(event) = self.send(message) {
            self.step(event);
        }
    }

    fn listen(&self, source: Source) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, source as u64);
        let sandbox = || {
            let sandbox = self.sandbox.as_ref();
            sandbox.expect("a task's sources come with its sandbox")
        };
        match source {
            Source::Timer => self.epoll.add(&self.timer, event)?,
            Source::Signals => self.epoll.add(&self.signals, event)?,
            Source::Control => self.epoll.add(&sandbox().launched.control, event)?,
            Source::Init => self.epoll.add(&sandbox().launched.pidfd, event)?,
            Source::Out => self.epoll.add(&sandbox().launched.out, event)?,
            Source::Err => self.epoll.add(&sandbox().launched.err, event)?,
            Source::Log => {
                let output = self.output.as_ref().expect("it comes with the sandbox");
                self.epoll.add(output.bell(), event)?;
            }
            Source::MemoryNear | Source::MemoryFull => {
                let guard = self.memory.as_ref().expect("it was just begun");
                let at = usize::from(source == Source::MemoryFull);
                if let Some((fd, flags)) = guard.sources()[at] {
                    self.epoll.add(fd, EpollEvent::new(flags, source as u64))?;
                }
            }
            Source::Agent => {
                let agent = self.agent.as_ref().expect("it was just connected");
                self.epoll.add(agent, event)?;
            }
        }
        Ok(())
    }
}

fn start_task(
    description: &TaskDescription,
    folder: &Path,
    life: &Life,
) -> Result<(LogWriter, Launched), String> {
    let limits = LogLimits::from(description.logs).within(description.disk_bytes);
    let log = LogWriter::open(&description.log_folder, limits)
        .map_err(|error| format!("the log can't be opened: {error}"))?;
    // The host may have slept since the agent counted: somebody else may have
    // the slot by now.
    if boot_now() >= life.lease_until() {
        return Err("its lease was over before it could start".into());
    }
    let launched =
        launch(description, folder, life.lease_until()).map_err(|error| chain(&error))?;
    Ok((log, launched))
}

/// The next report and its sender's pid; `ENODATA` when there will be none.
pub(crate) fn receive_report(control: &OwnedFd) -> Result<(Inner, Option<i32>), Errno> {
    let mut bytes = [0; INNER_BYTES];
    let mut space = nix::cmsg_space!(UnixCredentials);
    let (length, pid) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(control.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        let pid = message.cmsgs()?.find_map(|one| match one {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        });
        (message.bytes, pid)
    };
    let report = Inner::decode(&bytes[..length]).ok_or(Errno::ENODATA)?;
    Ok((report, pid))
}

fn missing_part(part: Part, errno: i32) -> MissingIsolation {
    MissingIsolation {
        kind: part.name().into(),
        why: Errno::from_raw(errno).desc().into(),
    }
}

/// Time since boot, suspended time included: what leases are measured in.
pub(crate) fn boot_now() -> Millis {
    read_clock(Clock::CLOCK_BOOTTIME)
}

pub(crate) fn unix_now() -> Millis {
    read_clock(Clock::CLOCK_REALTIME)
}

fn read_clock(clock: Clock) -> Millis {
    let time = clock_gettime(clock).expect("clocks of a Linux of the last decade can be read");
    Millis(time.tv_sec() as u64 * 1_000 + time.tv_nsec() as u64 / 1_000_000)
}
