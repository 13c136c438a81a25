//! `waypost:workspace`: a provider makes and removes the folders of environments inside the hub.

use serde::{Deserialize, Serialize};

use super::bindings::waypost::workspace::folders;
use super::{CallContext, CallState, WitResult};
use crate::call::CallError;
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;

/// What a guest asks of the folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To make the folder of an environment.
    Create(String),
    /// Whether a folder is there.
    Exists(String),
    /// To remove one.
    Remove(String),
}

/// What it is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The folder's name.
    Folder(String),
    /// Whether it is there.
    There(bool),
    /// It is gone.
    Removed,
}

pub(super) fn uses(_: &Request, tell: Tell<'_>) {
    tell("workspace", Some(Term::bare("workspace")));
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    let folders = &context.services.folders;
    match &request {
        Request::Create(_) => context.call.may_change("make folders")?,
        Request::Remove(_) => context.call.may_change("remove folders")?,
        Request::Exists(_) => {}
    }
    match request {
        Request::Create(environment) => folders.create(&environment).await.map(Reply::Folder),
        Request::Exists(folder) => folders.exists(&folder).map(Reply::There),
        Request::Remove(folder) => folders.remove(&folder).await.map(|()| Reply::Removed),
    }
    .map_err(Into::into)
}

impl folders::Host for CallState {
    async fn create(&mut self, environment: String) -> WitResult<String> {
        self.ask(Request::Create(environment), |reply| match reply {
            Reply::Folder(folder) => Some(folder),
            _ => None,
        })
        .await
    }

    async fn exists(&mut self, folder: String) -> WitResult<bool> {
        self.ask(Request::Exists(folder), |reply| match reply {
            Reply::There(there) => Some(there),
            _ => None,
        })
        .await
    }

    async fn remove(&mut self, folder: String) -> WitResult<()> {
        self.ask(Request::Remove(folder), |reply| {
            matches!(reply, Reply::Removed).then_some(())
        })
        .await
    }
}
