//! How a verb reaches the API: over the network when a hub is running, else in this process.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::{Extension, Router};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower::ServiceExt;

use crate::call::CallError;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::{DEFAULT_PROJECT, Hub};
use crate::tokens::{Scope, Token};
use crate::transports::api;

/// The lines of an answer, as they come.
pub(super) type Lines = Pin<Box<dyn Stream<Item = Result<Value>> + Send>>;

/// The bytes of an answer, as they come.
type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>>> + Send>>;

/// What a running hub leaves in its state directory for the command line of the same user.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) url: String,
    pub(super) token: String,
}

impl Running {
    pub(super) fn path(state: &Path) -> PathBuf {
        state.join("serve.json")
    }
}

/// A way to the API.
pub(super) enum Client {
    /// A hub in this process.
    Here { hub: Arc<Hub>, router: Router },
    /// A hub that is running.
    There { http: reqwest::Client, running: Running },
}

impl Client {
    /// The hub of a project: the running one, else one opened here.
    pub(super) async fn open(project: &Path) -> Result<Self> {
        match Hub::open(project).await {
            Ok(hub) => Ok(Self::here(hub)),
            // Somebody has the lock: a hub that serves, or another verb that is soon done.
            Err(error) if error.kind == ErrorKind::Unavailable => Self::there(project).map_err(|_| error),
            Err(error) => Err(error),
        }
    }

    /// Asks the hub of a project, and ends it afterwards when it was opened for that.
    pub(super) async fn with<T>(project: &Path, ask: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        let client = Self::open(project).await?;
        let done = ask(&client).await;
        client.close().await;
        done
    }

    pub(super) fn here(hub: Arc<Hub>) -> Self {
        let who = Arc::new(Token::of_this_process("cli", Scope::Admin));
        Self::Here {
            router: api::router(Arc::clone(&hub)).layer(Extension(who)),
            hub,
        }
    }

    /// The hub of a project that is running; an error when none is.
    pub(super) fn running(project: &Path) -> Result<Self> {
        Self::there(project).map_err(|error| {
            let message = format!("no hub runs in {}; `waypost serve` starts one", project.display());
            Error::new(ErrorKind::Unavailable, message).because(error)
        })
    }

    fn there(project: &Path) -> Result<Self> {
        let config = crate::config::Config::read(&project.join("waypost.toml"))?;
        let path = Running::path(&project.join(config.hub.state));
        let missing = |error: std::io::Error| {
            Error::new(ErrorKind::NotFound, format!("{} cannot be read", path.display())).because(error)
        };
        let text = std::fs::read_to_string(&path).map_err(missing)?;
        let running = serde_json::from_str(&text)
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("{} is broken", path.display())).because(error))?;
        let http = reqwest::Client::builder().no_proxy().build();
        let http = http.map_err(|error| Error::new(ErrorKind::Internal, "no HTTP client").because(error))?;
        Ok(Self::There { http, running })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.whole(Method::GET, path, None).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        self.whole(Method::POST, path, Some(body)).await
    }

    /// A body that is more than JSON.
    pub(super) async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T> {
        let chunks = self.send_bytes(Method::POST, path, body).await?;
        let bytes: Vec<u8> = chunks.try_concat().await?;
        parse(&bytes)
    }

    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.whole(Method::DELETE, path, None).await
    }

    /// An answer that comes line by line.
    pub(super) async fn lines(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Lines> {
        let chunks = self.send(method, path, body).await?;
        let lines = futures::stream::unfold(
            (chunks, Vec::new()),
            |(mut chunks, mut left): (Chunks, Vec<u8>)| async {
                loop {
                    if let Some(at) = left.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = left.drain(..=at).collect();
                        return Some((parse(&line), (chunks, left)));
                    }
                    match chunks.next().await? {
                        Ok(chunk) => left.extend(chunk),
                        Err(error) => return Some((Err(error), (chunks, left))),
                    }
                }
            },
        );
        Ok(Box::pin(lines))
    }

    /// Starts what works without being asked, in a hub that was opened here. One that is running has done so.
    pub(super) fn begin(&self) {
        if let Self::Here { hub, .. } = self {
            hub.begin();
        }
    }

    /// Ends a hub that was opened here.
    pub(super) async fn close(self) {
        if let Self::Here { hub, .. } = self {
            hub.close().await;
        }
    }

    async fn whole<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T> {
        let chunks = self.send(method, path, body).await?;
        let bytes: Vec<u8> = chunks.try_concat().await?;
        parse(&bytes)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Chunks> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send_bytes(method, path, body.into_bytes()).await
    }

    async fn send_bytes(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Chunks> {
        let path = format!("/api/v1/projects/{DEFAULT_PROJECT}{path}");
        let (good, chunks): (bool, Chunks) = match self {
            Self::Here { router, .. } => {
                let request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(Body::from(body))
                    .map_err(|error| Error::new(ErrorKind::Invalid, "this cannot be asked").because(error))?;
                let response = match router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let good = response.status().is_success();
                let chunks = response.into_body().into_data_stream();
                (good, Box::pin(chunks.map_ok(|bytes| bytes.to_vec()).map_err(broke_off)))
            }
            Self::There { http, running } => {
                let request = http
                    .request(method, format!("{}{path}", running.url))
                    .bearer_auth(&running.token)
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(body);
                let response = request.send().await.map_err(|error| {
                    let message = format!("the hub at {} does not answer; is it still running?", running.url);
                    Error::new(ErrorKind::Unavailable, message).because(error)
                })?;
                let good = response.status().is_success();
                (
                    good,
                    Box::pin(
                        response
                            .bytes_stream()
                            .map_ok(|bytes| bytes.to_vec())
                            .map_err(broke_off),
                    ),
                )
            }
        };
        if good {
            Ok(chunks)
        } else {
            Err(refused(&chunks.try_concat().await?))
        }
    }
}

/// What a person wrote, as one part of a path, whatever is in it.
pub(super) fn part(written: &str) -> String {
    let mut part = String::with_capacity(written.len());
    for byte in written.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            part.push(byte.into());
        } else {
            part.push_str(&format!("%{byte:02X}"));
        }
    }
    part
}

fn broke_off(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "the hub's answer broke off").because(error)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorKind::Internal, "the hub's answer cannot be read").because(error))
}

fn refused(body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Refused {
        error: CallError,
    }
    match serde_json::from_slice::<Refused>(body) {
        Ok(Refused { error }) => Error::new(error.kind, error.message).blame(error.blame),
        Err(_) => Error::new(
            ErrorKind::Other,
            format!("the hub refused: {}", String::from_utf8_lossy(body)),
        ),
    }
}
