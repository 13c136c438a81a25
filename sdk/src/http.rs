//! Requests to servers. Needs the grant `http`, a list of the servers that may be asked; not for agents.
//!
//! Redirects are not followed: a 302 is an answer like any other. A secret of the operator's, granted by name with
//! `secrets`, is put in by the hub; the plugin never has its text.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::imports::waypost::http::client;
use crate::{CallError, Result};

/// A request that is not yet sent.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until `send`"]
pub struct Request(client::Request);

impl Request {
    /// A request with this method, in capitals.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self(client::Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: None,
            meta: Vec::new(),
        })
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST`, without a body until one is set.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Adds a header.
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(name.into(), client::Value::Text(value.into()))
    }

    /// Adds a header that the hub completes with a secret: `prefix`, as in `token `, and then its text.
    pub fn secret(self, name: impl Into<String>, prefix: impl Into<String>, secret: impl Into<String>) -> Self {
        let (prefix, secret) = (prefix.into(), secret.into());
        self.with(
            name.into(),
            client::Value::Secret(client::Secret { prefix, name: secret }),
        )
    }

    /// Adds `authorization: Bearer` with a secret.
    pub fn bearer(self, secret: impl Into<String>) -> Self {
        self.secret("authorization", "Bearer ", secret)
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// Sets the body to JSON, and the header that says so.
    pub fn json(self, body: &(impl Serialize + ?Sized)) -> Result<Self> {
        let body = serde_json::to_vec(body)?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Sets a time limit for all of it, the answer's body too. The hub takes the smaller of this and what is left to the
    /// plugin itself.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.0.timeout_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sends it and waits for the head of the answer, whatever its status.
    pub fn send(self) -> Result<Response> {
        let client::Response {
            status, headers, body, ..
        } = client::send(&self.0)?;
        Ok(Response { status, headers, body })
    }

    fn with(mut self, name: String, value: client::Value) -> Self {
        self.0.headers.push(client::Header { name, value });
        self
    }
}

/// An answer. Dropping it closes the connection.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: client::Body,
}

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// All headers, names in lower case.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fits = |header: &&(String, String)| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().find(fits).map(|(_, value)| value.as_str())
    }

    /// The same answer, or `unavailable` or `denied` when its status is no success.
    pub fn success(self) -> Result<Self> {
        match self.status {
            200..=299 => Ok(self),
            401 | 403 => Err(CallError::denied(format!("the server answered {}", self.status))),
            status => Err(CallError::unavailable(format!("the server answered {status}"))),
        }
    }

    /// The body in pieces, as they come.
    pub fn pieces(&mut self) -> impl Iterator<Item = Result<Vec<u8>>> + '_ {
        std::iter::from_fn(|| self.body.next().transpose())
    }

    /// The whole body.
    pub fn bytes(mut self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        for piece in self.pieces() {
            whole.extend(piece?);
        }
        Ok(whole)
    }

    /// The whole body, as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T> {
        let body = self.bytes()?;
        serde_json::from_slice(&body).map_err(|error| CallError::invalid(format!("the answer does not fit: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_was_put_in() {
        let Request(request) = Request::post("https://a/b")
            .json(&["x"])
            .unwrap()
            .bearer("github")
            .timeout(Duration::MAX);
        assert_eq!(
            (request.method.as_str(), request.body.as_slice()),
            ("POST", &b"[\"x\"]"[..])
        );
        assert_eq!(request.timeout_ms, Some(u64::MAX));
        let shown = format!("{:?}", request.headers);
        assert!(
            shown.contains("application/json") && shown.contains("Bearer ") && shown.contains("github"),
            "{shown}"
        );
    }
}
