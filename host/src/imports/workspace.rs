//! `waypost:workspace`: a provider makes and removes the folders of environments inside the hub.

use super::bindings::waypost::workspace::folders;
use super::{CallState, wit};
use crate::call::CallError;

type WitResult<T> = wasmtime::Result<Result<T, wit::CallError>>;

impl folders::Host for CallState {
    async fn create(&mut self, environment: String) -> WitResult<String> {
        if let Err(error) = self.call.call.may_change("make folders") {
            return Ok(Err(error.into()));
        }
        let made = self.call.services.folders.create(&environment).await;
        Ok(made.map_err(|error| CallError::from(error).into()))
    }

    async fn exists(&mut self, folder: String) -> WitResult<bool> {
        let found = self.call.services.folders.exists(&folder);
        Ok(found.map_err(|error| CallError::from(error).into()))
    }

    async fn remove(&mut self, folder: String) -> WitResult<()> {
        if let Err(error) = self.call.call.may_change("remove folders") {
            return Ok(Err(error.into()));
        }
        let removed = self.call.services.folders.remove(&folder).await;
        Ok(removed.map_err(|error| CallError::from(error).into()))
    }
}
