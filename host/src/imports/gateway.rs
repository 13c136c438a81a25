//! `waypost:gateway`: a plugin makes calls, and hands out pieces of its own answer.
//!
//! A call made here enters dispatch with a derived principal: the plugin's grants within its caller's rights. An agent's
//! call goes through its journal first, which answers what was already answered before a crash.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use wasmtime::component::Resource;

use super::bindings::waypost::gateway::{answer, calls};
use super::{CallContext, CallState, WitResult, wit};
use crate::call::{Call, CallError, CallName, Deadline, Json, Principal, PrincipalKind, Sink, Target};
use crate::error::ErrorKind;
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;
use crate::run::journal::Next;

/// What a guest asks of the gateway, and what it hands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To make a call to its end.
    Call(Asked),
    /// To start one, and follow it.
    Start(Asked),
    /// The next chunk of a started one.
    Next(u32),
    /// The end of a started one.
    Finish(u32),
    /// To let a started one go.
    Drop(u32),
    /// To hand out a chunk of its own answer.
    Emit(String),
}

/// A call that a guest wants to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The kind.
    pub kind: String,
    /// The action.
    pub action: Option<String>,
    /// The message, as JSON.
    pub message: String,
    /// Less time than the caller has.
    pub timeout_ms: Option<u64>,
}

/// What it is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The call's reply, as JSON.
    Message(String),
    /// The number of the started call.
    Started(u32),
    /// A chunk, as JSON; none when there are no more.
    Chunk(Option<String>),
    /// It is done.
    Done,
}

/// A call under way, as a guest holds it: its number in the hub.
pub struct Running(u32);

/// A call under way, as the hub holds it.
pub struct Started {
    chunks: mpsc::Receiver<Json>,
    end: Option<JoinHandle<Result<Json, CallError>>>,
    /// Dropping it cancels the call.
    _guard: DropGuard,
}

impl CallContext {
    /// The call that a request of this plugin becomes.
    fn derive(&self, request: Asked) -> Result<Call, CallError> {
        let name = CallName::new(&request.kind, request.action.as_deref());
        let outer = &self.call;
        let asked = request.timeout_ms.map(Duration::from_millis);
        let deadline = asked.map_or(outer.deadline, |limit| outer.deadline.min(Deadline::after(limit)));
        let is_agent = self.journal.is_some();
        // An agent begins a path of its own: what it calls is top-level. A plugin extends the path it is on.
        let path = if is_agent {
            outer.path.clone()
        } else {
            outer.path.through(Target::Plugin(Arc::clone(&self.plugin.id)))
        };
        let principal = Principal {
            project: Arc::clone(&outer.principal.project),
            run: outer.principal.run.clone(),
            kind: if is_agent {
                PrincipalKind::Agent
            } else {
                PrincipalKind::Plugin
            },
            id: Arc::clone(&self.plugin.id),
            rights: outer.principal.rights.within(Arc::clone(&self.plugin.may_call)),
        };
        Ok(Call {
            id: Uuid::now_v7(),
            name,
            message: Json::parse(request.message)?,
            principal: Arc::new(principal),
            scope: Arc::clone(&outer.scope),
            deadline,
            // What an agent calls hangs on its run: its sandbox may be put away while the call goes on.
            cancel: self
                .journal
                .as_ref()
                .map_or(&outer.cancel, |journal| journal.cancel())
                .child_token(),
            path,
            parent: (!is_agent).then_some(outer.id),
            index: None,
            frame: None,
            route: Arc::clone(&outer.route),
            files: None,
        })
    }

    /// Makes one call to its end.
    async fn make(&self, request: Asked, sink: Sink) -> Result<Json, CallError> {
        let mut call = self.derive(request)?;
        let Some(journal) = &self.journal else {
            return self.services.dispatch.dispatch(call, sink).await.result;
        };
        match journal.next(&call)? {
            Next::Past(result) => result,
            Next::New(index) => {
                call.index = Some(index);
                let name = call.name.clone();
                let dispatch = Arc::clone(&self.services.dispatch);
                let work = async move { dispatch.dispatch(call, sink).await.result };
                let result = journal.wait(Box::pin(work)).await;
                journal.answered(&name, &result);
                result
            }
        }
    }

    /// Starts a call; the guest follows it by its number.
    fn start(&self, request: Asked) -> Result<u32, CallError> {
        let most = self.plugin.limits.handles;
        if self.held().started.len() >= most {
            return Err(too_many(&self.plugin.id, most));
        }
        let (sink, chunks) = Sink::channel();
        let mut call = self.derive(request)?;
        let cancel = CancellationToken::clone(&call.cancel);
        let dispatch = Arc::clone(&self.services.dispatch);
        let end = match &self.journal {
            None => tokio::spawn(async move { dispatch.dispatch(call, sink).await.result }),
            Some(journal) => match journal.next(&call)? {
                Next::Past(result) => tokio::spawn(async move { result }),
                Next::New(index) => {
                    call.index = Some(index);
                    let journal = Arc::clone(journal);
                    let stream = journal.stream();
                    tokio::spawn(async move {
                        let _stream = stream;
                        let name = call.name.clone();
                        let result = dispatch.dispatch(call, sink).await.result;
                        journal.answered(&name, &result);
                        result
                    })
                }
            },
        };
        let started = Started {
            chunks,
            end: Some(end),
            _guard: cancel.drop_guard(),
        };
        Ok(self.held().started.put(started))
    }
}

fn too_many(plugin: &str, most: usize) -> CallError {
    let message =
        format!("plugin `{plugin}` holds {most} handles, the limit `handles` of [limits.plugin]; drop some first");
    CallError::new(ErrorKind::Limit, message)
}

pub(super) fn uses(request: &Request, tell: Tell<'_>) {
    if let Request::Call(asked) | Request::Start(asked) = request {
        tell("gateway", Term::call(&asked.kind, asked.action.as_deref()));
    }
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    let text = |json: Json| json.as_str().to_owned();
    match request {
        Request::Call(asked) => context.make(asked, Sink::discard()).await.map(text).map(Reply::Message),
        Request::Start(asked) => context.start(asked).map(Reply::Started),
        Request::Next(number) => {
            let mut started = context.held().started.take(number)?;
            let chunk = started.chunks.recv().await;
            context.held().started.give_back(number, started);
            Ok(Reply::Chunk(chunk.map(text)))
        }
        Request::Finish(number) => {
            let mut started = context.held().started.take(number)?;
            let Some(end) = started.end.take() else {
                context.held().started.give_back(number, started);
                return Err(CallError::new(ErrorKind::Invalid, "this call's end was already taken"));
            };
            while started.chunks.recv().await.is_some() {}
            let result = end.await.unwrap_or_else(|_| {
                Err(CallError::new(
                    ErrorKind::Internal,
                    "the call ended without an answer; the hub's log says why",
                ))
            });
            context.held().started.give_back(number, started);
            result.map(text).map(Reply::Message)
        }
        Request::Drop(number) => {
            drop(context.held().started.take(number));
            Ok(Reply::Done)
        }
        Request::Emit(chunk) => context.sink.emit(Json::parse(chunk)?).await.map(|()| Reply::Done),
    }
}

impl From<wit::Request> for Asked {
    fn from(request: wit::Request) -> Self {
        Self {
            kind: request.kind,
            action: request.action,
            message: request.message,
            timeout_ms: request.timeout_ms,
        }
    }
}

fn message(reply: Reply) -> Option<wit::Reply> {
    match reply {
        Reply::Message(message) => Some(wit::Reply {
            message,
            meta: Vec::new(),
        }),
        _ => None,
    }
}

fn done(reply: Reply) -> Option<()> {
    matches!(reply, Reply::Done).then_some(())
}

impl calls::Host for CallState {
    async fn call(&mut self, request: wit::Request) -> WitResult<wit::Reply> {
        self.ask(Request::Call(request.into()), message).await
    }
}

impl calls::HostRunning for CallState {
    async fn start(&mut self, request: wit::Request) -> WitResult<Resource<Running>> {
        let started = self.ask(Request::Start(request.into()), |reply| match reply {
            Reply::Started(number) => Some(number),
            _ => None,
        });
        let number = match started.await? {
            Ok(number) => number,
            Err(error) => return Ok(Err(error)),
        };
        if let Ok(resource) = self.table.push(Running(number)) {
            return Ok(Ok(resource));
        }
        Ok(self
            .ask(Request::Drop(number), done)
            .await?
            .and_then(|()| Err(too_many(&self.plugin.id, self.plugin.limits.handles).into())))
    }

    async fn next(&mut self, running: Resource<Running>) -> wasmtime::Result<Option<wit::Json>> {
        let number = self.table.get(&running)?.0;
        let chunk = self.ask(Request::Next(number), |reply| match reply {
            Reply::Chunk(chunk) => Some(chunk),
            _ => None,
        });
        chunk
            .await?
            .map_err(|error| wasmtime::Error::msg(CallError::from(error).message))
    }

    async fn finish(&mut self, running: Resource<Running>) -> WitResult<wit::Reply> {
        let number = self.table.get(&running)?.0;
        self.ask(Request::Finish(number), message).await
    }

    async fn drop(&mut self, running: Resource<Running>) -> wasmtime::Result<()> {
        let Running(number) = self.table.delete(running)?;
        self.ask(Request::Drop(number), done).await?.ok();
        Ok(())
    }
}

impl answer::Host for CallState {
    async fn emit(&mut self, chunk: wit::Json) -> WitResult<()> {
        self.ask(Request::Emit(chunk), done).await
    }
}
