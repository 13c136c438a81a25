//! `waypost:http`: a plugin asks servers outside.
//!
//! Which server is a matter of the grant (`config/origins.rs`), which address a matter of where its name leads
//! (`http/address.rs`), and the connection is made to an address that was checked (`http/connect.rs`). Secrets are put in
//! last, and taken out of the answer (`http/redact.rs`). Not here: retries, redirects, cookies, caches, unpacking.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Resource;

use super::bindings::waypost::http::client;
use super::{CallContext, CallState, Facts, Services, WitResult};
use crate::call::{Call, CallError, Deadline};
use crate::config::{Grants, Means, PluginLimits, Server};
use crate::error::{Blame, ErrorKind};
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;

mod address;
mod connect;
mod head;
mod redact;
#[cfg(test)]
mod tests;

pub use connect::{Network, Resolver, SystemResolver};
use head::{HEADERS, Head};
use redact::Redactor;

/// The most bytes that a guest gets at once.
const PIECE: usize = 64 << 10;

/// What a plugin asks of this import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Send this.
    Send(Outgoing),
    /// The next piece of an answer's body.
    Next(u32),
    /// Nothing more of an answer.
    Close(u32),
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The head of an answer.
    Head {
        /// The status.
        status: u16,
        /// The headers.
        headers: Vec<(String, String)>,
        /// The number of the body.
        body: u32,
    },
    /// A piece of a body; none at the end.
    Piece(Option<Vec<u8>>),
    /// It is closed.
    Closed,
}

/// A request to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The method.
    pub method: String,
    /// The address.
    pub url: String,
    /// Headers by name.
    pub headers: Vec<(String, Value)>,
    /// The body.
    pub body: Vec<u8>,
    /// A time limit of its own, in milliseconds.
    pub timeout_ms: Option<u64>,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// This.
    Text(String),
    /// A secret, after some other text.
    Secret {
        /// What stands before it.
        prefix: String,
        /// Its name.
        name: String,
    },
}

/// An answer whose body is being read.
pub struct Answer(State);

enum State {
    Open(Box<Open>),
    Ended,
    Failed(CallError),
}

struct Open {
    server: Server,
    body: Incoming,
    /// What came and was not handed out yet.
    ready: Bytes,
    redactor: Redactor,
    /// Bytes that came so far, and how many may.
    came: usize,
    most: usize,
    deadline: Deadline,
    /// Nobody asks on it again, but it is closed when this goes.
    _sender: http1::SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

pub(super) fn uses(request: &Request, tell: Tell<'_>) {
    let Request::Send(asked) = request else { return };
    // An address that cannot be read reaches nobody.
    let Ok((_, server)) = Server::of(&asked.url) else {
        return;
    };
    tell("http", Some(Term::server(server)));
    for (_, value) in &asked.headers {
        if let Value::Secret { name, .. } = value {
            tell("secrets", Term::secret(name));
        }
    }
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    let facts = &context.plugin;
    match request {
        Request::Send(asked) => {
            let most = facts.limits.http_open;
            if context.held().answers.iter().filter(|answer| answer.is_open()).count() >= most {
                let message = format!(
                    "plugin `{}` holds {most} answers open, the limit `http-open` of [limits.plugin]; read or drop some first",
                    facts.id
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            let (head, answer) = send(&context.services, facts, &context.call, asked).await?;
            let body = context.held().answers.put(answer);
            let (status, headers) = head;
            Ok(Reply::Head { status, headers, body })
        }
        Request::Next(body) => {
            let mut answer = context.held().answers.take(body)?;
            let piece = answer.next().await;
            context.held().answers.give_back(body, answer);
            piece.map(Reply::Piece)
        }
        Request::Close(body) => {
            drop(context.held().answers.take(body));
            Ok(Reply::Closed)
        }
    }
}

type AnswerHead = (u16, Vec<(String, String)>);

async fn send(
    services: &Services,
    facts: &Facts,
    call: &Call,
    asked: Outgoing,
) -> Result<(AnswerHead, Answer), CallError> {
    let limits = &facts.limits;
    if asked.body.len() > limits.http_request {
        let message = format!(
            "the body has {} bytes, the limit is {}: `http-request` of [limits.plugin]",
            asked.body.len(),
            limits.http_request
        );
        return Err(CallError::new(ErrorKind::Limit, message));
    }
    let (url, server) = Server::of(&asked.url).map_err(|why| CallError::new(ErrorKind::Invalid, why))?;
    let means = granted(&facts.grants, &facts.id, &server)?;
    let secrets = &services.secrets;
    let head = Head::of(&asked, &url, &server, &facts.grants, secrets, limits.http_headers).await?;
    if !head.safe {
        call.may_change(&format!("send {}", head.method))?;
    }
    let own = asked.timeout_ms.map(std::time::Duration::from_millis);
    let deadline = own.map_or(call.deadline, |limit| call.deadline.min(Deadline::after(limit)));
    tracing::info!(plugin = %facts.id, method = %head.method, %server, "a plugin asks a server");
    let place = services.network.place(call.principal.rights.only_reads())?;
    let exchange = Exchange {
        server,
        means,
        deadline,
        place,
        limits,
    };
    exchange.run(&services.network, head, asked.body.into()).await
}

/// Which addresses the grants mean for this server.
fn granted(grants: &Grants, plugin: &str, server: &Server) -> Result<Means, CallError> {
    let covering = grants.http.iter().filter(|origin| origin.covers(server));
    covering.map(|origin| origin.means()).max().ok_or_else(|| {
        let message = format!(
            "plugin `{plugin}` may not ask {server}: if it may, add `{server}` to `http` in [grants] of its manifest and in \
             `grant` of its [[plugin]] entry in waypost.toml"
        );
        CallError::new(ErrorKind::Denied, message)
    })
}

/// One request and the head of its answer.
struct Exchange<'a> {
    server: Server,
    means: Means,
    deadline: Deadline,
    place: OwnedSemaphorePermit,
    limits: &'a PluginLimits,
}

impl Exchange<'_> {
    async fn run(self, network: &Network, head: Head, body: Bytes) -> Result<(AnswerHead, Answer), CallError> {
        let until = self.deadline.instant().into();
        let connected = timeout_at(until, network.connect(&self.server, self.means, self.deadline)).await;
        let stream = connected.map_err(|_| {
            let message = format!(
                "{} was not reached within the time limit; nothing was sent",
                self.server
            );
            CallError::new(ErrorKind::Timeout, message)
        })??;
        let connection = http1::Builder::new()
            .max_headers(HEADERS)
            .max_header_size(self.limits.http_headers)
            .handshake(TokioIo::new(stream));
        let (mut sender, connection) = connection.await.map_err(|error| self.broken(true, &error))?;
        // What goes wrong in it is said to whoever reads from it.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        let mut request = hyper::Request::new(Full::new(body));
        *request.method_mut() = head.method;
        *request.uri_mut() = head.target;
        *request.headers_mut() = head.headers;
        let response = match timeout_at(until, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_parse_too_large() => {
                let message = format!(
                    "the headers of {} are more than {HEADERS} or more than {} bytes, the limit `http-headers` of \
                     [limits.plugin]",
                    self.server, self.limits.http_headers
                );
                return Err(CallError::new(ErrorKind::Limit, message).blame(Blame::Upstream));
            }
            Ok(Err(error)) => return Err(self.broken(head.safe, &error)),
            Err(_) => return Err(self.silent(head.safe)),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(&head.redactor.text(bytes)).into_owned();
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())));
        let answer = (response.status().as_u16(), headers.collect());
        let open = Open {
            server: self.server,
            body: response.into_body(),
            ready: Bytes::new(),
            redactor: head.redactor,
            came: 0,
            most: self.limits.http_response,
            deadline: self.deadline,
            _sender: sender,
            _connection: connection,
            _place: self.place,
        };
        Ok((answer, Answer(State::Open(Box::new(open)))))
    }

    /// The connection broke after something may have been sent.
    fn broken(&self, safe: bool, error: &hyper::Error) -> CallError {
        let server = &self.server;
        if safe {
            let message = format!("{server} broke the connection before it answered: {error}");
            return CallError::new(ErrorKind::Unavailable, message);
        }
        let message = format!("{server} broke the connection before it answered, and may have acted: {error}");
        CallError::new(ErrorKind::Indeterminate, message)
    }

    /// The time was over after the request was sent.
    fn silent(&self, safe: bool) -> CallError {
        let server = &self.server;
        if safe {
            let message = format!("{server} did not answer within the time limit");
            return CallError::new(ErrorKind::Timeout, message);
        }
        let message = format!("{server} did not answer within the time limit, and may have acted");
        CallError::new(ErrorKind::Indeterminate, message)
    }
}

impl Answer {
    fn is_open(&self) -> bool {
        matches!(self.0, State::Open(_))
    }

    /// The next piece; none at the end. What failed once fails again.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let piece = match &mut self.0 {
            State::Open(open) => open.next().await,
            State::Ended => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
        };
        match &piece {
            Ok(Some(_)) => {}
            Ok(None) => self.0 = State::Ended,
            Err(error) => self.0 = State::Failed(error.clone()),
        }
        piece
    }
}

impl Open {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        while self.ready.is_empty() {
            let frame = timeout_at(self.deadline.instant().into(), self.body.frame()).await;
            let frame = frame.map_err(|_| {
                let message = format!(
                    "the answer of {} did not end within the time limit; {} bytes of it came",
                    self.server, self.came
                );
                CallError::new(ErrorKind::Timeout, message)
            })?;
            let Some(frame) = frame else {
                self.ready = self.redactor.end().into();
                if self.ready.is_empty() {
                    return Ok(None);
                }
                break;
            };
            let frame = frame.map_err(|error| {
                let message = format!(
                    "the answer of {} broke off after {} bytes: {error}",
                    self.server, self.came
                );
                CallError::new(ErrorKind::Other, message).blame(Blame::Upstream)
            })?;
            // What is no data are trailers, which nobody asked for.
            let Ok(data) = frame.into_data() else { continue };
            self.came = self.came.saturating_add(data.len());
            if self.came > self.most {
                let message = format!(
                    "the answer of {} has more than {} bytes, the limit `http-response` of [limits.plugin]",
                    self.server, self.most
                );
                return Err(CallError::new(ErrorKind::Limit, message).blame(Blame::Upstream));
            }
            self.ready = self.redactor.push(&data).into();
        }
        Ok(Some(self.ready.split_to(self.ready.len().min(PIECE)).to_vec()))
    }
}

/// An answer's body, as a guest holds it.
pub struct Body(u32);

impl client::Host for CallState {
    async fn send(&mut self, request: client::Request) -> WitResult<client::Response> {
        let headers = request.headers.into_iter().map(|header| {
            let value = match header.value {
                client::Value::Text(text) => Value::Text(text),
                client::Value::Secret(client::Secret { prefix, name }) => Value::Secret { prefix, name },
            };
            (header.name, value)
        });
        let outgoing = Outgoing {
            method: request.method,
            url: request.url,
            headers: headers.collect(),
            body: request.body,
            timeout_ms: request.timeout_ms,
        };
        let head = self.ask(Request::Send(outgoing), |reply| match reply {
            Reply::Head { status, headers, body } => Some((status, headers, body)),
            _ => None,
        });
        let (status, headers, body) = match head.await? {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(client::Response {
            status,
            headers,
            body: self.table.push(Body(body))?,
            meta: Vec::new(),
        }))
    }
}

impl client::HostBody for CallState {
    async fn next(&mut self, body: Resource<Body>) -> WitResult<Option<Vec<u8>>> {
        let Body(number) = *self.table.get(&body)?;
        self.ask(Request::Next(number), |reply| match reply {
            Reply::Piece(piece) => Some(piece),
            _ => None,
        })
        .await
    }

    async fn drop(&mut self, body: Resource<Body>) -> wasmtime::Result<()> {
        let Body(number) = self.table.delete(body)?;
        self.ask(Request::Close(number), |reply| {
            matches!(reply, Reply::Closed).then_some(())
        })
        .await?
        .ok();
        Ok(())
    }
}
