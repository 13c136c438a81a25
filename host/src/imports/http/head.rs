//! The head of a request: what a plugin may say there, and what the hub says itself.

use hyper::Method;
use hyper::Uri;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use url::{Position, Url};

use super::redact::Redactor;
use super::{Outgoing, Value};
use crate::call::CallError;
use crate::config::{Grants, Server};
use crate::error::ErrorKind;
use crate::secrets::Secrets;

/// The most headers of a request, and of an answer.
pub(super) const HEADERS: usize = 100;

/// What a plugin may ask for: whether it has no effect, by the words of HTTP (RFC 9110, section 9.2.1).
const METHODS: [(Method, bool); 7] = [
    (Method::GET, true),
    (Method::HEAD, true),
    (Method::OPTIONS, true),
    (Method::POST, false),
    (Method::PUT, false),
    (Method::PATCH, false),
    (Method::DELETE, false),
];

/// Headers that belong to the connection or say on whose behalf it is made.
const OURS: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "forwarded",
    "via",
];
const OURS_BEGIN: [&str; 2] = ["proxy-", "x-forwarded-"];

/// The head of a request that may be sent.
pub(super) struct Head {
    pub(super) method: Method,
    /// Whether sending it twice does what sending it once does: nothing.
    pub(super) safe: bool,
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
    /// Takes the secrets in it out of the answer.
    pub(super) redactor: Redactor,
}

fn invalid(message: String) -> CallError {
    CallError::new(ErrorKind::Invalid, message)
}

impl Head {
    /// The head of a request, with its secrets in place.
    pub(super) async fn of(
        asked: &Outgoing,
        url: &Url,
        server: &Server,
        grants: &Grants,
        secrets: &Secrets,
        most: usize,
    ) -> Result<Self, CallError> {
        let known = METHODS.into_iter().find(|(method, _)| method.as_str() == asked.method);
        let (method, safe) = known.ok_or_else(|| {
            let method = asked.method.escape_debug();
            invalid(format!(
                "`{method}` is not a method; there are GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS"
            ))
        })?;
        let target = url[Position::BeforePath..Position::AfterQuery].parse::<Uri>();
        let target = target.map_err(|error| invalid(format!("`{url}` cannot be asked for: {error}")))?;
        if asked.headers.len() > HEADERS {
            let message = format!(
                "a request has at most {HEADERS} headers, this one has {}",
                asked.headers.len()
            );
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let mut headers = HeaderMap::new();
        let mut redactor = Redactor::default();
        let mut size = 0_usize;
        for (name, value) in &asked.headers {
            let name = header_name(name)?;
            let value = match value {
                Value::Text(text) => header_value(&name, text)?,
                Value::Secret { prefix, name: secret } => {
                    if !grants.secrets.contains(secret) {
                        let secret = secret.escape_debug();
                        let message = format!(
                            "the secret `{secret}` is not granted: if it may be used, add it to `secrets` in [grants] of the \
                             manifest and in `grant` of the [[plugin]] entry in waypost.toml"
                        );
                        return Err(CallError::new(ErrorKind::Denied, message));
                    }
                    let text = secrets.text(secret, server).await?;
                    redactor.add(text.expose());
                    let mut value = header_value(&name, &format!("{prefix}{}", text.expose()))?;
                    value.set_sensitive(true);
                    value
                }
            };
            size = size.saturating_add(name.as_str().len()).saturating_add(value.len());
            headers.append(name, value);
        }
        if size > most {
            let message =
                format!("the headers have {size} bytes, the limit is {most}: `http-headers` of [limits.plugin]");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        let authority = url[Position::BeforeHost..Position::AfterPort].to_owned();
        let host = HeaderValue::try_from(authority).map_err(|error| invalid(format!("`{url}`: {error}")))?;
        headers.insert(HOST, host);
        // Nothing is asked after it on the same connection.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let agent = HeaderValue::from_static(concat!("waypost/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        Ok(Self {
            method,
            safe,
            target,
            headers,
            redactor,
        })
    }
}

fn header_name(written: &str) -> Result<HeaderName, CallError> {
    let shown = written.escape_debug();
    let name = HeaderName::try_from(written).map_err(|_| invalid(format!("`{shown}` is not the name of a header")))?;
    if OURS.contains(&name.as_str()) || OURS_BEGIN.iter().any(|begin| name.as_str().starts_with(begin)) {
        let message = format!("the header `{name}` is set by the hub alone; remove it");
        return Err(CallError::new(ErrorKind::Denied, message));
    }
    Ok(name)
}

/// The value of a header. It is not repeated in the error: it may be a secret.
fn header_value(name: &HeaderName, text: &str) -> Result<HeaderValue, CallError> {
    let fits = text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let value = HeaderValue::from_str(text).ok().filter(|_| fits);
    value.ok_or_else(|| {
        invalid(format!(
            "the header `{name}` has other characters than visible ASCII, space and tab"
        ))
    })
}
