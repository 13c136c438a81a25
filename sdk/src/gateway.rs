//! Capability calls that a plugin makes itself. Needs the grant `gateway`.
//!
//! A call made here takes the hub's one path: rights, routes, log. It may do what the plugin was granted and what the
//! plugin's own caller may do, whichever is less, and it is cancelled together with the call that the plugin works on.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::imports::waypost::call::types;
use crate::bindings::imports::waypost::gateway::calls;
use crate::{CallError, Meta, Result};

/// Makes a call, as in `call("fsEvent:readFile", &message)`, and waits for its end.
pub fn call<T: DeserializeOwned>(name: &str, message: &(impl Serialize + ?Sized)) -> Result<T> {
    Request::new(name).message(message)?.call()
}

/// A call to be made. Its message is `{}` until one is set.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until `call` or `start`"]
pub struct Request {
    name: String,
    message: String,
    timeout: Option<Duration>,
    meta: Meta,
}

impl Request {
    /// A request for `kind` or `kind:action`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            message: "{}".to_owned(),
            timeout: None,
            meta: Meta::new(),
        }
    }

    /// Sets the canonical message of this kind:action.
    pub fn message(mut self, message: &(impl Serialize + ?Sized)) -> Result<Self> {
        self.message = serde_json::to_string(message)?;
        Ok(self)
    }

    /// Sets a time limit. The hub takes the smallest of this, the route's, and what is left to the plugin itself.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Adds a fact beside the message.
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.push((name.into(), value.into()));
        self
    }

    /// Makes the call and waits for its end.
    pub fn call<T: DeserializeOwned>(self) -> Result<T> {
        let name = self.name.clone();
        typed(&name, calls::call(&self.into_wit())?)
    }

    /// Starts the call, to read its chunks as they come.
    pub fn start(self) -> Result<Running> {
        let name = self.name.clone();
        Ok(Running {
            inner: calls::Running::start(&self.into_wit())?,
            name,
        })
    }

    fn into_wit(self) -> types::Request {
        let (kind, action) = match self.name.split_once(':') {
            Some((kind, action)) => (kind.to_owned(), Some(action.to_owned())),
            None => (self.name, None),
        };
        let timeout_ms = self
            .timeout
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        types::Request {
            kind,
            action,
            message: self.message,
            timeout_ms,
            meta: self.meta,
        }
    }
}

/// A call under way. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct Running {
    inner: calls::Running,
    name: String,
}

impl Running {
    /// The chunks as they come, each read as a `T`; it ends with the call. What is not read here is skipped by
    /// [`Running::finish`].
    pub fn chunks<T: DeserializeOwned>(&mut self) -> impl Iterator<Item = Result<T>> + '_ {
        std::iter::from_fn(|| {
            let chunk = self.inner.next()?;
            Some(serde_json::from_str(&chunk).map_err(|error| misfit(&self.name, "a chunk", &error)))
        })
    }

    /// Waits for the end.
    pub fn finish<T: DeserializeOwned>(self) -> Result<T> {
        typed(&self.name, self.inner.finish()?)
    }
}

fn typed<T: DeserializeOwned>(name: &str, reply: types::Reply) -> Result<T> {
    serde_json::from_str(&reply.message).map_err(|error| misfit(name, "the reply", &error))
}

fn misfit(name: &str, what: &str, error: &serde_json::Error) -> CallError {
    CallError::invalid(format!("{what} to {name} does not fit: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_split_at_the_first_colon() {
        let request = Request::new("fsEvent:readFile")
            .timeout(Duration::from_secs(2))
            .meta("why", "a test")
            .into_wit();
        assert_eq!(
            (request.kind.as_str(), request.action.as_deref()),
            ("fsEvent", Some("readFile"))
        );
        assert_eq!((request.message.as_str(), request.timeout_ms), ("{}", Some(2000)));
        assert_eq!(request.meta, [("why".to_owned(), "a test".to_owned())]);
        assert_eq!(Request::new("inference").into_wit().action, None);
        assert_eq!(
            Request::new("x").timeout(Duration::MAX).into_wit().timeout_ms,
            Some(u64::MAX)
        );
    }

    #[test]
    fn a_reply_of_another_shape_names_the_call() {
        let reply = types::Reply {
            message: "{\"count\":\"many\"}".to_owned(),
            meta: Meta::new(),
        };
        let error = typed::<std::collections::BTreeMap<String, u32>>("ticket:count", reply).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("invalid: the reply to ticket:count does not fit: invalid type: string")
        );
    }
}
