//! One connection: the host's key is proven, the person's is asked for, and
//! channels become sessions.
//!
//! ```text
//! setup ─▶ login (at most LOGIN_LIMIT) ─▶ sessions ─▶ end
//!            └─ too slow, too many keys ──────────────▲
//! ```

use crate::{
    agent::Agent,
    asking::{Asking, size},
    channel, confine,
    input::{Input, Pace, Paced, WINDOW_BYTES},
};
use potluck_helper::session::{
    WindowSize,
    ssh::{FromServer, SSH_CHANNELS_MAX, Setup, SshSession},
    stream::CHUNK_BYTES,
};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, MethodKind, MethodSet, Preferred,
    SshId, compression,
    keys::{
        PrivateKey, PublicKey,
        ssh_key::private::{Ed25519Keypair, KeypairData},
    },
    server::{
        Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
        run_stream,
    },
};
use std::{
    borrow::Cow,
    collections::HashMap,
    io,
    os::{fd::AsFd, unix::net::UnixStream as StdStream},
    sync::Arc,
    time::Duration,
};
use tokio::{net::UnixStream, sync::watch, task::JoinSet, time::timeout};

/// How long a client may take until its key is proven: a person may have to
/// type a key's passphrase.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// Keys that a client may try; OpenSSH's number.
const LOGINS_MAX: usize = 6;

/// A refused key is answered after this, so that its reason can't be told by
/// the time. The first question, for the methods, is answered at once.
const REJECTION: Duration = Duration::from_millis(300);

/// Serves the connection on standard input to its end.
pub(crate) async fn serve() -> io::Result<()> {
    let agent = Arc::new(Agent::at(io::stdout().as_fd())?);
    let stream = StdStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.set_nonblocking(true)?;
    let pace = Arc::new(Pace::default());
    let stream = Paced::new(UnixStream::from_std(stream)?, pace.clone());
    confine::filter()?;
    let setup = agent.setup().await?;
    let (logged_in, mut is_logged_in) = watch::channel(false);
    let config = Arc::new(config(&setup));
    let login = Login {
        person: setup.person,
        agent: agent.clone(),
        pace,
        logged_in,
        channels: HashMap::new(),
        sessions: JoinSet::new(),
    };
    let connection = async {
        let running = run_stream(config, stream, login).await?;
        running.await
    };
    let in_time = async {
        let logged_in = is_logged_in.wait_for(|is| *is);
        match timeout(LOGIN_LIMIT, logged_in).await {
            Ok(_) => std::future::pending().await,
            Err(_) => format!("nobody logged in within {} s", LOGIN_LIMIT.as_secs()),
        }
    };
    let why = tokio::select! {
        ended = connection => match ended {
            Ok(()) => "the client has left".into(),
            Err(error) => format!("ssh: {error}"),
        },
        why = in_time => why,
        () = agent.gone() => return Ok(()),
    };
    // The agent ends what is left, and may be gone itself.
    let _ = agent.say(&FromServer::Ended(why));
    Ok(())
}

fn config(setup: &Setup) -> Config {
    let pair = Ed25519Keypair::from_seed(&setup.host_seed);
    let key = PrivateKey::new(KeypairData::Ed25519(pair), "")
        .expect("an Ed25519 pair makes a private key");
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-potluck")),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![key],
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: LOGINS_MAX,
        // The connection below says when the other side is gone.
        inactivity_timeout: None,
        window_size: WINDOW_BYTES,
        maximum_packet_size: CHUNK_BYTES as u32,
        preferred: Preferred {
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::default()
        },
        ..Config::default()
    }
}

/// What the client's requests change.
struct Login {
    person: [u8; 32],
    agent: Arc<Agent>,
    pace: Arc<Pace>,
    logged_in: watch::Sender<bool>,
    channels: HashMap<ChannelId, Stage>,
    /// Ended with the connection, and with them what they do in the task.
    sessions: JoinSet<()>,
}

/// How far a channel is.
enum Stage {
    Asking(Asking, ChannelWriteHalf<Msg>),
    Running(Running),
    /// What was asked for can't be had; until the client has closed it.
    Over,
}

struct Running {
    input: Arc<Input>,
    sizes: watch::Sender<Option<WindowSize>>,
    session: tokio::task::AbortHandle,
}

impl Login {
    fn accepts(&self, key: &PublicKey) -> Auth {
        match key.key_data().ed25519() {
            Some(key) if key.0 == self.person => Auth::Accept,
            _ => Auth::reject(),
        }
    }

    fn asking(&mut self, id: ChannelId) -> Option<&mut Asking> {
        match self.channels.get_mut(&id) {
            Some(Stage::Asking(asking, _)) => Some(asking),
            _ => None,
        }
    }

    /// Starts what was asked for; false if it can't be.
    fn start(&mut self, id: ChannelId, ask: impl FnOnce(Asking) -> Option<SshSession>) -> bool {
        // What runs already stays as it is.
        if self.asking(id).is_none() {
            return false;
        }
        let Some(Stage::Asking(asking, client)) = self.channels.insert(id, Stage::Over) else {
            return false;
        };
        let Some(Ok(stream)) = ask(asking).map(|session| self.agent.open(session)) else {
            return false;
        };
        let input = Arc::new(Input::of(&self.pace));
        let (sizes, resizes) = watch::channel(None);
        let carried = channel::carry(client, stream, input.clone(), resizes);
        let session = self.sessions.spawn(carried);
        let running = Running {
            input,
            sizes,
            session,
        };
        self.channels.insert(id, Stage::Running(running));
        true
    }

    /// A channel that the session's end has closed is not heard of again.
    fn forget_ended(&mut self) {
        let has_ended = |stage: &Stage| match stage {
            Stage::Running(running) => running.session.is_finished(),
            Stage::Asking(..) | Stage::Over => false,
        };
        self.channels.retain(|_, stage| !has_ended(stage));
        while self.sessions.try_join_next().is_some() {}
    }

    /// Where a channel's input goes, if there is a session.
    fn input(&self, id: ChannelId) -> Option<&Input> {
        match self.channels.get(&id) {
            Some(Stage::Running(running)) => Some(&running.input),
            _ => None,
        }
    }
}

fn answer(session: &mut Session, id: ChannelId, is_done: bool) -> Result<(), russh::Error> {
    match is_done {
        true => session.channel_success(id),
        false => session.channel_failure(id),
    }
}

impl Handler for Login {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.accepts(offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.accepts(key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), russh::Error> {
        self.logged_in.send_replace(true);
        // Without the agent there is nothing to log in to.
        let told = self.agent.say(&FromServer::LoggedIn);
        told.map_err(|_| russh::Error::Disconnect)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.forget_ended();
        if self.channels.len() >= SSH_CHANNELS_MAX {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        // Requests come to this handler; nobody reads them a second time.
        let id = channel.id();
        let (_, client) = channel.split();
        self.channels
            .insert(id, Stage::Asking(Asking::default(), client));
        reply.accept().await;
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _modes: &[(russh::Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let asking = self.asking(id);
        let is_done = asking.is_some();
        if let Some(asking) = asking {
            asking.terminal(term, size(columns, rows));
        }
        answer(session, id, is_done)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_done = self
            .asking(id)
            .is_some_and(|asking| asking.variable(name, value));
        answer(session, id, is_done)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        answer(session, id, false)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_done = self.start(id, |asking| Some(asking.shell()));
        answer(session, id, is_done)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_done = self.start(id, |asking| asking.command(line));
        answer(session, id, is_done)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let is_done = self.start(id, |asking| asking.subsystem(name));
        answer(session, id, is_done)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(Stage::Running(running)) = self.channels.get(&id) {
            running.sizes.send_replace(Some(size(columns, rows)));
        }
        answer(session, id, true)
    }

    /// Asked after the window of a channel was widened: how wide the next is
    /// made, whichever it is.
    fn adjust_window(&mut self, id: ChannelId, _: u32) -> u32 {
        self.input(id).map_or(WINDOW_BYTES, Input::window)
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(input) = self.input(id) {
            input.add(data);
        }
        Ok(())
    }

    async fn channel_eof(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(input) = self.input(id) {
            input.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(Stage::Running(running)) = self.channels.remove(&id) {
            running.session.abort();
        }
        self.forget_ended();
        Ok(())
    }
}
