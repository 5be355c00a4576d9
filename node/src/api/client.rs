//! The client's end of a session.

use super::{
    error::{ApiError, ErrorCode},
    frame::{self, FrameError},
    protocol::{API_VERSION, ApiAnswer, ApiFrame, ApiRequest, Hello, Proof, Welcome},
};
use potluck_specs::trust::{Context, SecretKey, UserCredential};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a session runs over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// A session with a node.
pub struct Client {
    stream: Box<dyn Transport>,
    /// Who answered.
    pub welcome: Welcome,
    /// Called with each warning that comes beside an answer.
    pub on_warning: fn(&str),
    is_lost: bool,
}

impl Client {
    /// Shakes hands over a fresh stream.
    ///
    /// # Errors
    /// The node's refusal, or a lost connection.
    pub async fn open(
        mut stream: Box<dyn Transport>,
        key: &SecretKey,
        credential: UserCredential,
    ) -> Result<Client, ApiError> {
        frame::write(
            &mut stream,
            &Hello {
                version: API_VERSION,
                credential,
            },
        )
        .await
        .map_err(lost)?;
        let welcome = match frame::read::<Result<Welcome, ApiError>>(&mut stream).await {
            Ok(welcome) => welcome?,
            Err(error) => return Err(lost(error)),
        };
        let signed = [&welcome.challenge[..], &welcome.node.0].concat();
        let signature = key.sign(Context::Session, &signed);
        frame::write(&mut stream, &Proof { signature })
            .await
            .map_err(lost)?;
        frame::read::<Result<(), ApiError>>(&mut stream)
            .await
            .map_err(lost)??;
        Ok(Client {
            stream,
            welcome,
            on_warning: |_| {},
            is_lost: false,
        })
    }

    /// Sends a request; its frames are read with [`Self::next`].
    ///
    /// # Errors
    /// A lost connection.
    pub async fn send(&mut self, request: &ApiRequest) -> Result<(), ApiError> {
        let sent = frame::write(&mut self.stream, request).await;
        sent.map_err(|error| self.lost(error))
    }

    /// The connection failed: whatever the last error was, it is not the
    /// node's word.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn lost(&mut self, error: FrameError) -> ApiError {
        self.is_lost = true;
        lost(error)
    }

    /// The next frame of the present request. A failure frame is an error.
    ///
    /// # Errors
    /// The node's refusal, or a lost connection.
    pub async fn next(&mut self) -> Result<ApiFrame, ApiError> {
        let frame = frame::read(&mut self.stream).await;
        match frame.map_err(|error| self.lost(error))? {
            ApiFrame::Failure(error) => Err(error),
            ApiFrame::Unsupported => Err(ApiError::new(
                ErrorCode::BadRequest,
                "the node does not know this request",
            )
            .hint("its version of potluck is older than this one: upgrade it")),
            frame => Ok(frame),
        }
    }

    /// The connection itself, for a request that takes it over.
    pub fn into_stream(self) -> Box<dyn Transport> {
        self.stream
    }

    /// Sends a request and waits for its one answer, telling `progress` what
    /// the node says meanwhile.
    ///
    /// # Errors
    /// The node's refusal, or a lost connection.
    pub async fn ask_with(
        &mut self,
        request: &ApiRequest,
        mut progress: impl FnMut(&str),
    ) -> Result<ApiAnswer, ApiError> {
        self.send(request).await?;
        loop {
            match self.next().await? {
                ApiFrame::Answer(answer) => return Ok(*answer),
                ApiFrame::Progress(text) => progress(&text),
                ApiFrame::Warning(text) => (self.on_warning)(&text),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Sends a request and waits for its one answer.
    ///
    /// # Errors
    /// The node's refusal, or a lost connection.
    pub async fn ask(&mut self, request: &ApiRequest) -> Result<ApiAnswer, ApiError> {
        self.ask_with(request, |_| {}).await
    }
}

/// An answer of the wrong kind: a fault of ours.
pub fn unexpected(got: &impl std::fmt::Debug) -> ApiError {
    let got: String = format!("{got:?}").chars().take(200).collect();
    ApiError::new(
        ErrorCode::Internal,
        format!("the node's answer does not fit the request: {got}"),
    )
}

fn lost(error: FrameError) -> ApiError {
    let message = match std::error::Error::source(&error) {
        Some(source) => format!("the session with the node was lost: {error}: {source}"),
        None => format!("the session with the node was lost: {error}"),
    };
    ApiError::new(ErrorCode::Unavailable, message)
        .hint("the node may have stopped; try again, or another node with --node")
}
