//! What a plugin keeps between calls: values by key, durable, one store for each project. Needs the grant `state`.
//!
//! A value is whatever serde can write. A plain string is kept as JSON too, in quotes.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::imports::waypost::state::store;
use crate::{CallError, Result};

/// The value of a key; none when it was never set. Fails with `invalid` when what is there is no `T`.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>> {
    let Some(value) = store::get(key)? else { return Ok(None) };
    let value = serde_json::from_str(&value);
    value
        .map(Some)
        .map_err(|error| CallError::invalid(format!("what is kept under `{key}` does not fit: {error}")))
}

/// Sets a value; it is on disk when this returns. Of calls that run at the same time the last one wins.
pub fn set(key: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
    store::set(key, &serde_json::to_string(value)?)
}

/// Removes a value; removing what is not there succeeds.
pub fn remove(key: &str) -> Result<()> {
    store::remove(key)
}

/// The keys that start with a prefix, sorted, at most 1,000.
pub fn keys(prefix: &str) -> Result<Vec<String>> {
    store::keys(prefix)
}
