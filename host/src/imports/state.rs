//! `waypost:state`: small values that outlive a call. What a shadow keeps stands apart from what the plugin keeps otherwise.

use std::borrow::Cow;

use super::bindings::waypost::state::store;
use super::{CallState, wit};
use crate::call::CallError;
use crate::error::{Error, ErrorKind};

/// The longest key, in bytes.
const KEY: usize = 512;

type WitResult<T> = wasmtime::Result<Result<T, wit::CallError>>;

impl CallState {
    /// Whose store it is. No id has a colon in it.
    fn keeper(&self) -> Cow<'_, str> {
        let id = &*self.call.plugin.id;
        if self.call.call.principal.rights.only_reads() {
            Cow::Owned(format!("shadow:{id}"))
        } else {
            Cow::Borrowed(id)
        }
    }

    async fn write(&mut self, key: String, value: Option<String>) -> Result<(), CallError> {
        if key.is_empty() || key.len() > KEY {
            let message = format!("a state key has 1 to {KEY} bytes, this one has {}", key.len());
            return Err(CallError::new(ErrorKind::Invalid, message));
        }
        let (call, plugin) = (&self.call, &self.call.plugin);
        let project = &call.call.principal.project;
        let set = call
            .services
            .state
            .set(project, &self.keeper(), &key, value, plugin.limits.state);
        set.await.map_err(Into::into)
    }
}

impl store::Host for CallState {
    async fn get(&mut self, key: String) -> WitResult<Option<String>> {
        let project = &self.call.call.principal.project;
        let value = self.call.services.state.get(project, &self.keeper(), &key).await;
        Ok(value.map_err(to_wit))
    }

    async fn set(&mut self, key: String, value: String) -> WitResult<()> {
        Ok(self.write(key, Some(value)).await.map_err(Into::into))
    }

    async fn remove(&mut self, key: String) -> WitResult<()> {
        Ok(self.write(key, None).await.map_err(Into::into))
    }

    async fn keys(&mut self, prefix: String) -> WitResult<Vec<String>> {
        let project = &self.call.call.principal.project;
        let keys = self.call.services.state.keys(project, &self.keeper(), &prefix).await;
        Ok(keys.map_err(to_wit))
    }
}

fn to_wit(error: Error) -> wit::CallError {
    CallError::from(error).into()
}
