//! `waypost:gateway`: a plugin makes calls, and hands out pieces of its own answer.
//!
//! A call made here enters dispatch with a derived principal: the plugin's grants within its caller's rights. An agent's
//! call goes through its journal first, which answers what was already answered before a crash.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use wasmtime::component::Resource;

use super::bindings::waypost::gateway::{answer, calls};
use super::{CallContext, CallState, wit};
use crate::call::{Call, CallError, CallName, Deadline, Json, Principal, PrincipalKind, Sink, Target};
use crate::error::ErrorKind;
use crate::run::journal::Next;

/// A call under way, as `running` holds it.
pub struct Running {
    chunks: mpsc::Receiver<Json>,
    end: Option<JoinHandle<Result<Json, CallError>>>,
    /// Dropping the handle cancels the call.
    _guard: DropGuard,
}

type WitResult<T> = wasmtime::Result<Result<T, wit::CallError>>;

impl CallContext {
    /// The call that a request of this plugin becomes.
    fn derive(&self, request: wit::Request) -> Result<Call, CallError> {
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
    async fn make(&self, request: wit::Request, sink: Sink) -> Result<Json, CallError> {
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
}

impl calls::Host for CallState {
    async fn call(&mut self, request: wit::Request) -> WitResult<wit::Reply> {
        Ok(self
            .call
            .make(request, Sink::discard())
            .await
            .map(reply)
            .map_err(Into::into))
    }
}

impl calls::HostRunning for CallState {
    async fn start(&mut self, request: wit::Request) -> WitResult<Resource<Running>> {
        let (sink, chunks) = Sink::channel();
        let mut call = match self.call.derive(request) {
            Ok(call) => call,
            Err(error) => return Ok(Err(error.into())),
        };
        let cancel = CancellationToken::clone(&call.cancel);
        let dispatch = Arc::clone(&self.call.services.dispatch);
        let end = match &self.call.journal {
            None => tokio::spawn(async move { dispatch.dispatch(call, sink).await.result }),
            Some(journal) => match journal.next(&call) {
                Err(error) => return Ok(Err(error.into())),
                Ok(Next::Past(result)) => tokio::spawn(async move { result }),
                Ok(Next::New(index)) => {
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
        let running = Running {
            chunks,
            end: Some(end),
            _guard: cancel.drop_guard(),
        };
        Ok(match self.table.push(running) {
            Ok(resource) => Ok(resource),
            Err(_) => Err(CallError::new(
                ErrorKind::Limit,
                format!(
                    "plugin `{}` holds {} handles, the limit `handles` of [limits.plugin]; drop some first",
                    self.call.plugin.id, self.call.plugin.limits.handles
                ),
            )
            .into()),
        })
    }

    async fn next(&mut self, running: Resource<Running>) -> wasmtime::Result<Option<wit::Json>> {
        let running = self.table.get_mut(&running)?;
        Ok(running.chunks.recv().await.map(|chunk| chunk.as_str().to_owned()))
    }

    async fn finish(&mut self, running: Resource<Running>) -> WitResult<wit::Reply> {
        let running = self.table.get_mut(&running)?;
        let Some(end) = running.end.take() else {
            return Ok(Err(CallError::new(
                ErrorKind::Invalid,
                "this call's end was already taken",
            )
            .into()));
        };
        while running.chunks.recv().await.is_some() {}
        let result = end.await.unwrap_or_else(|_| {
            Err(CallError::new(
                ErrorKind::Internal,
                "the call ended without an answer; the hub's log says why",
            ))
        });
        Ok(result.map(reply).map_err(Into::into))
    }

    async fn drop(&mut self, running: Resource<Running>) -> wasmtime::Result<()> {
        self.table.delete(running)?;
        Ok(())
    }
}

impl answer::Host for CallState {
    async fn emit(&mut self, chunk: wit::Json) -> WitResult<()> {
        let sent = match Json::parse(chunk) {
            Ok(chunk) => self.call.sink.emit(chunk).await,
            Err(error) => Err(error),
        };
        Ok(sent.map_err(Into::into))
    }
}

fn reply(message: Json) -> wit::Reply {
    wit::Reply {
        message: message.as_str().to_owned(),
        meta: Vec::new(),
    }
}
