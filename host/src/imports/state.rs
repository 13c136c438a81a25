//! `waypost:state`: small values that outlive a call. What a shadow keeps stands apart from what the plugin keeps otherwise.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::bindings::waypost::state::store;
use super::{CallContext, CallState, WitResult};
use crate::call::CallError;
use crate::error::ErrorKind;
use crate::plugin::terms::Term;
use crate::plugin::uses::Tell;

/// The longest key, in bytes.
const KEY: usize = 512;

/// What a guest asks of its store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The value under a key.
    Get(String),
    /// Another value under a key, or none any more.
    Put(String, Option<String>),
    /// The keys that begin with this.
    Keys(String),
}

/// What it is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The value, if there is one.
    Value(Option<String>),
    /// It is on disk.
    Kept,
    /// The keys, in order.
    Keys(Vec<String>),
}

/// Whose store it is. No id has a colon in it.
fn keeper(context: &CallContext) -> Cow<'_, str> {
    let id = &*context.plugin.id;
    if context.call.principal.rights.only_reads() {
        Cow::Owned(format!("shadow:{id}"))
    } else {
        Cow::Borrowed(id)
    }
}

pub(super) fn uses(_: &Request, tell: Tell<'_>) {
    tell("state", Some(Term::bare("state")));
}

pub(super) async fn serve(context: &CallContext, request: Request) -> Result<Reply, CallError> {
    let (project, keeper) = (&context.call.principal.project, keeper(context));
    let state = &context.services.state;
    match request {
        Request::Get(key) => state.get(project, &keeper, &key).await.map(Reply::Value),
        Request::Put(key, _) if key.is_empty() || key.len() > KEY => {
            let message = format!("a state key has 1 to {KEY} bytes, this one has {}", key.len());
            return Err(CallError::new(ErrorKind::Invalid, message));
        }
        Request::Put(key, value) => {
            let set = state.set(project, &keeper, &key, value, context.plugin.limits.state);
            set.await.map(|()| Reply::Kept)
        }
        Request::Keys(prefix) => state.keys(project, &keeper, &prefix).await.map(Reply::Keys),
    }
    .map_err(Into::into)
}

impl CallState {
    async fn put(&mut self, key: String, value: Option<String>) -> WitResult<()> {
        self.ask(Request::Put(key, value), |reply| {
            matches!(reply, Reply::Kept).then_some(())
        })
        .await
    }
}

impl store::Host for CallState {
    async fn get(&mut self, key: String) -> WitResult<Option<String>> {
        self.ask(Request::Get(key), |reply| match reply {
            Reply::Value(value) => Some(value),
            _ => None,
        })
        .await
    }

    async fn set(&mut self, key: String, value: String) -> WitResult<()> {
        self.put(key, Some(value)).await
    }

    async fn remove(&mut self, key: String) -> WitResult<()> {
        self.put(key, None).await
    }

    async fn keys(&mut self, prefix: String) -> WitResult<Vec<String>> {
        self.ask(Request::Keys(prefix), |reply| match reply {
            Reply::Keys(keys) => Some(keys),
            _ => None,
        })
        .await
    }
}
