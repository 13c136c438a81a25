//! `waypost:socket`: a plugin talks to whoever listens on a unix socket of the operator's.
//!
//! What is connected to is what was looked at: the path is opened once, without following a link, its kind is checked, and
//! the connection is made through what is open. Not here: who listens there, and what it may do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;
use wasmtime::component::Resource;

use super::bindings::waypost::socket::sockets;
use super::{CallContext, CallState, Facts, WitResult};
use crate::call::{CallError, Deadline};
use crate::config;
use crate::error::{Blame, ErrorKind};
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;

/// The most bytes that a guest gets at once.
const PIECE: usize = 64 << 10;

/// What a plugin asks of this import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Connect to the socket of this name, with this time limit in milliseconds.
    Connect(String, Option<u64>),
    /// Send this.
    Send(u32, Vec<u8>),
    /// Nothing more is sent.
    Finish(u32),
    /// The next piece of what comes.
    Next(u32),
    /// Nothing more of a connection.
    Close(u32),
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The number of a connection.
    Connected(u32),
    /// A piece of what came; none at the end.
    Piece(Option<Vec<u8>>),
    /// It is done.
    Done,
}

/// A connection that is open.
pub struct Open {
    name: String,
    stream: UnixStream,
    sent: usize,
    came: usize,
    most_sent: usize,
    most: usize,
    deadline: Deadline,
    _place: OwnedSemaphorePermit,
}

pub(super) fn uses(request: &Request, tell: Tell<'_>) {
    if let Request::Connect(name, _) = request {
        tell("socket", Term::socket(name));
    }
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    match request {
        Request::Connect(name, timeout_ms) => {
            let most = context.plugin.limits.socket_open;
            if context.held().connections.len() >= most {
                let message = format!(
                    "plugin `{}` holds {most} connections to sockets open, the limit `socket-open` of [limits.plugin]; drop some first",
                    context.plugin.id
                );
                return Err(CallError::new(ErrorKind::Limit, message));
            }
            let open = connect(context, name, timeout_ms).await?;
            Ok(Reply::Connected(context.held().connections.put(open)))
        }
        Request::Send(number, bytes) => {
            let mut open = context.held().connections.take(number)?;
            let sent = open.send(&bytes).await;
            context.held().connections.give_back(number, open);
            sent.map(|()| Reply::Done)
        }
        Request::Finish(number) => {
            let mut open = context.held().connections.take(number)?;
            let ended = open.finish().await;
            context.held().connections.give_back(number, open);
            ended.map(|()| Reply::Done)
        }
        Request::Next(number) => {
            let mut open = context.held().connections.take(number)?;
            let piece = open.next().await;
            context.held().connections.give_back(number, open);
            piece.map(Reply::Piece)
        }
        Request::Close(number) => {
            drop(context.held().connections.take(number));
            Ok(Reply::Done)
        }
    }
}

async fn connect(context: &CallContext, name: String, timeout_ms: Option<u64>) -> Result<Open, CallError> {
    let (services, facts, call) = (&context.services, &context.plugin, &context.call);
    call.may_change("talk to a socket")?;
    let granted = granted(facts, &name)?;
    let place = services.network.place(false)?;
    let own = timeout_ms.map(Duration::from_millis);
    let deadline = own.map_or(call.deadline, |limit| call.deadline.min(Deadline::after(limit)));
    let refused = |why: &str| {
        let message = format!("the socket `{}` {why}; correct its grant", granted.name);
        CallError::new(ErrorKind::Denied, message).blame(Blame::Operator)
    };
    let nobody = |error: &io::Error| {
        tracing::warn!(plugin = %facts.id, socket = %granted.name, %error, "a granted socket cannot be reached");
        let why = match error.kind() {
            io::ErrorKind::NotFound => "is not there",
            io::ErrorKind::ConnectionRefused => "has nobody who listens",
            io::ErrorKind::PermissionDenied => "is not open to the hub's user",
            _ => "cannot be reached",
        };
        let message = format!(
            "the socket `{}` {why}; start what listens there, or correct its grant",
            granted.name
        );
        CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator)
    };
    let (file, path) = found(granted).map_err(|why| match why {
        Refused::Because(why) => refused(why),
        Refused::Error(error) => nobody(&error),
    })?;
    if path.starts_with(&services.state_folder) {
        return Err(refused("belongs to the hub"));
    }
    tracing::info!(plugin = %facts.id, socket = %granted.name, "a plugin connects to a socket");
    // Through what is open: nobody can put another one there meanwhile, and the path may be long.
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    let connected = timeout_at(deadline.instant().into(), UnixStream::connect(through)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => {
            return Err(refused("is no stream socket"));
        }
        Ok(Err(error)) => return Err(nobody(&error)),
        Err(_) => {
            let message = format!(
                "the socket `{}` was not reached within the time limit; nothing was sent",
                granted.name
            );
            return Err(CallError::new(ErrorKind::Timeout, message));
        }
    };
    Ok(Open {
        name,
        stream,
        sent: 0,
        came: 0,
        most_sent: facts.limits.socket_sent,
        most: facts.limits.socket_received,
        deadline,
        _place: place,
    })
}

/// What the grants say of this socket.
fn granted<'a>(facts: &'a Facts, name: &str) -> Result<&'a config::Socket, CallError> {
    let granted = facts.grants.socket.iter().find(|socket| socket.name == name);
    granted.ok_or_else(|| {
        let (id, shown) = (&facts.id, name.escape_debug());
        let message = format!(
            "plugin `{id}` may not use the socket `{shown}`: if it may, add {{ name = \"{shown}\" }} to `socket` in [grants] of its \
             manifest, and the same with its `path` to `socket` in `grant` of its [[plugin]] entry in waypost.toml"
        );
        CallError::new(ErrorKind::Denied, message)
    })
}

/// Why a granted socket is not connected to.
enum Refused {
    Because(&'static str),
    Error(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// What is at the path of a grant, if that is a socket and no link leads there, and its path.
fn found(granted: &config::Socket) -> Result<(OwnedFd, PathBuf), Refused> {
    let path = granted.path.as_deref().unwrap_or(Path::new(""));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let kind = FileType::from_raw_mode(fstat(&file).map_err(io::Error::from)?.st_mode);
    let why = match kind {
        FileType::Socket => None,
        FileType::Symlink => Some("is a link: grant what it leads to"),
        FileType::RegularFile => Some("is a file and no socket"),
        FileType::Directory => Some("is a folder and no socket"),
        _ => Some("is no socket"),
    };
    if let Some(why) = why {
        return Err(Refused::Because(why));
    }
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if real != path {
        return Err(Refused::Because(
            "is reached through a link: grant the path that it leads to",
        ));
    }
    Ok((file, real))
}

impl Open {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        let sent = self.sent.saturating_add(bytes.len());
        if sent > self.most_sent {
            let message = format!(
                "more than {} bytes for the socket `{}`, the limit `socket-sent` of [limits.plugin]",
                self.most_sent, self.name
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        self.sent = sent;
        let end = timeout_at(self.deadline.instant().into(), self.stream.write_all(bytes)).await;
        let why = match end {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("broke off: {error}"),
            Err(_) => "did not take what was sent within the time limit".to_owned(),
        };
        let message = format!("the socket `{}` {why}; it may have acted on a part", self.name);
        Err(CallError::new(ErrorKind::Indeterminate, message))
    }

    async fn finish(&mut self) -> Result<(), CallError> {
        match self.stream.shutdown().await {
            // Whoever has left needs not hear it.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(self.broken(&error)),
            _ => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let mut piece = vec![0; PIECE];
        let read = timeout_at(self.deadline.instant().into(), self.stream.read(&mut piece)).await;
        let read = read
            .map_err(|_| {
                let message = format!(
                    "the socket `{}` did not answer within the time limit; {} bytes came",
                    self.name, self.came
                );
                CallError::new(ErrorKind::Timeout, message)
            })?
            .map_err(|error| self.broken(&error))?;
        self.came = self.came.saturating_add(read);
        if self.came > self.most {
            let message = format!(
                "the socket `{}` sent more than {} bytes, the limit `socket-received` of [limits.plugin]",
                self.name, self.most
            );
            return Err(CallError::new(ErrorKind::Limit, message).blame(Blame::Upstream));
        }
        piece.truncate(read);
        Ok((read > 0).then_some(piece))
    }

    fn broken(&self, error: &io::Error) -> CallError {
        let message = format!(
            "the socket `{}` broke off after {} bytes: {error}",
            self.name, self.came
        );
        CallError::new(ErrorKind::Other, message).blame(Blame::Upstream)
    }
}

/// A connection, as a guest holds it.
pub struct Connection(u32);

fn done(reply: Reply) -> Option<()> {
    matches!(reply, Reply::Done).then_some(())
}

impl sockets::Host for CallState {}

impl sockets::HostConnection for CallState {
    async fn connect(&mut self, socket: String, timeout_ms: Option<u64>) -> WitResult<Resource<Connection>> {
        let number = self.ask(Request::Connect(socket, timeout_ms), |reply| match reply {
            Reply::Connected(number) => Some(number),
            _ => None,
        });
        match number.await? {
            Ok(number) => Ok(Ok(self.table.push(Connection(number))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn send(&mut self, connection: Resource<Connection>, bytes: Vec<u8>) -> WitResult<()> {
        let Connection(number) = *self.table.get(&connection)?;
        self.ask(Request::Send(number, bytes), done).await
    }

    async fn finish(&mut self, connection: Resource<Connection>) -> WitResult<()> {
        let Connection(number) = *self.table.get(&connection)?;
        self.ask(Request::Finish(number), done).await
    }

    async fn next(&mut self, connection: Resource<Connection>) -> WitResult<Option<Vec<u8>>> {
        let Connection(number) = *self.table.get(&connection)?;
        self.ask(Request::Next(number), |reply| match reply {
            Reply::Piece(piece) => Some(piece),
            _ => None,
        })
        .await
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        let Connection(number) = self.table.delete(connection)?;
        self.ask(Request::Close(number), done).await?.ok();
        Ok(())
    }
}
