//! The gate before every route: which Host and Origin may pass, and whether a token is the right one.
//!
//! A page of a foreign site, or one whose name was rebound to this address, reaches the hub's port like any local
//! program; its Host and Origin give it away. Not here: who the caller is and what it may do.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{Blame, Error, ErrorKind, Result};

/// Which names the hub goes by.
#[derive(Clone, Debug)]
pub struct Gate {
    listen: Option<String>,
}

/// A request that is turned away at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The Host is missing, doubled or not a name of this hub.
    Host,
    /// The Origin is another site's.
    Origin,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "the Host header is not a name of this hub; use localhost, 127.0.0.1, [::1] or the `listen` of [hub]\n",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "pages of other sites may not use this hub; send its own Origin, or none\n",
            ),
        }
        .into_response()
    }
}

impl Gate {
    /// A gate that lets loopback names pass, and the host of the address that the hub listens on.
    pub fn new(listen: &str) -> Self {
        Self {
            listen: authority(listen).map(|authority| authority.host().to_ascii_lowercase()),
        }
    }

    /// Checks one request.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = only(headers, HOST).map_err(|_| Refusal::Host)?;
        // A request line with a whole URL names a host, too; it must not say something else.
        let named = match (host, uri.authority()) {
            (Some(host), Some(line)) if !host.eq_ignore_ascii_case(line.as_str()) => return Err(Refusal::Host),
            (Some(host), _) => host,
            (None, Some(line)) => line.as_str(),
            (None, None) => return Err(Refusal::Host),
        };
        if !authority(named).is_some_and(|authority| self.knows(authority.host())) {
            return Err(Refusal::Host);
        }
        match only(headers, ORIGIN).map_err(|_| Refusal::Origin)? {
            None => Ok(()),
            Some(origin) => {
                let site = origin
                    .strip_prefix("http://")
                    .or_else(|| origin.strip_prefix("https://"));
                let own = site.is_some_and(|site| site.eq_ignore_ascii_case(named));
                if own { Ok(()) } else { Err(Refusal::Origin) }
            }
        }
    }

    fn knows(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&host);
        host == "localhost"
            || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            || self.listen.as_deref() == Some(&host)
    }
}

/// Turns requests away that do not pass the gate; a layer for every router of the hub.
pub async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// `host[:port]` without a user part.
fn authority(text: &str) -> Option<Authority> {
    text.parse::<Authority>()
        .ok()
        .filter(|authority| !authority.as_str().contains('@'))
}

/// The value of a header that may stand at most once.
fn only(headers: &HeaderMap, name: axum::http::HeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// The SHA-256 of a token. The token itself is not kept.
#[derive(Clone)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// As the configuration writes it: 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        let wrong = || {
            let message = "a token's SHA-256 has 64 hexadecimal digits; make one with `printf %s TOKEN | sha256sum`";
            Error::new(ErrorKind::Invalid, message).blame(Blame::Operator)
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut digest = [0; 32];
        if pairs.len() != digest.len() || !rest.is_empty() {
            return Err(wrong());
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            let digit = |at: u8| char::from(at).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let [high, low] = *pair;
            *byte = digit(high).ok_or_else(wrong)? << 4 | digit(low).ok_or_else(wrong)?;
        }
        Ok(Self(digest))
    }

    /// Whether a token is the right one, in a time that tells nothing about it.
    pub fn admits(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }

    /// The digest, for a carrier's credential.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The token that a request presents: `Authorization: Bearer <token>`, or the query's where a client cannot send
/// headers. A header that is there decides alone, and an empty token is none.
pub fn presented<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<&'a str> {
    let token = match only(headers, AUTHORIZATION).ok()? {
        None => query?,
        Some(value) => {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())?
        }
    };
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn check(listen: &str, uri: &str, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: axum::http::HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Gate::new(listen).check(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn only_names_of_this_hub_pass() {
        let listen = "hub.example:7420";
        for host in [
            "localhost",
            "LOCALHOST:7420",
            "127.0.0.1:7420",
            "127.0.0.1",
            "[::1]:7420",
            "hub.example:9000",
        ] {
            assert_eq!(check(listen, "/", &[("host", host)]), Ok(()), "{host}");
        }
        let foreign = [
            "evil.example",
            "localhost.evil.example",
            "evil@localhost",
            "localhost:7420@evil.example",
            "",
        ];
        for host in foreign
            .into_iter()
            .chain(["127.0.0.1.evil.example:7420", "[::2]", "192.168.0.1", "localhost."])
        {
            assert_eq!(check(listen, "/", &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(listen, "/", &[]), Err(Refusal::Host));
        assert_eq!(
            check(listen, "/", &[("host", "localhost"), ("host", "evil")]),
            Err(Refusal::Host)
        );
        assert_eq!(
            check(listen, "http://evil.example/", &[("host", "localhost")]),
            Err(Refusal::Host)
        );
        assert_eq!(check(listen, "http://localhost/", &[("host", "localhost")]), Ok(()));
        assert_eq!(check("[::1]:7420", "/", &[("host", "[::1]:7420")]), Ok(()));
        assert_eq!(check("192.168.0.1:7420", "/", &[("host", "192.168.0.1:7420")]), Ok(()));
    }

    #[test]
    fn only_the_own_origin_passes() {
        let host = ("host", "localhost:7420");
        for origin in ["http://localhost:7420", "https://LOCALHOST:7420"] {
            assert_eq!(
                check("127.0.0.1:7420", "/", &[host, ("origin", origin)]),
                Ok(()),
                "{origin}"
            );
        }
        let foreign = [
            "http://evil.example",
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1:7420",
        ];
        for origin in foreign.into_iter().chain([
            "http://localhost:7420.evil.example",
            "file://",
            "http://localhost:7420/",
        ]) {
            assert_eq!(
                check("127.0.0.1:7420", "/", &[host, ("origin", origin)]),
                Err(Refusal::Origin),
                "{origin}"
            );
        }
        let twice = [
            host,
            ("origin", "http://localhost:7420"),
            ("origin", "http://evil.example"),
        ];
        assert_eq!(check("127.0.0.1:7420", "/", &twice), Err(Refusal::Origin));
    }

    #[test]
    fn the_header_decides_before_the_query() {
        let headers = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        assert_eq!(presented(&HeaderMap::new(), Some("q")), Some("q"));
        assert_eq!(presented(&HeaderMap::new(), None), None);
        assert_eq!(presented(&headers("Bearer h"), Some("q")), Some("h"));
        assert_eq!(presented(&headers("bearer h"), None), Some("h"));
        assert_eq!(presented(&headers("Basic h"), Some("q")), None);
        assert_eq!(presented(&headers("Bearer"), Some("q")), None);
        assert_eq!(presented(&headers("Bearer "), Some("q")), None);
        assert_eq!(presented(&HeaderMap::new(), Some("")), None);
    }

    #[test]
    fn a_digest_is_written_in_64_hexadecimal_digits() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(TokenDigest::from_hex(abc).unwrap().admits("abc"));
        assert!(TokenDigest::from_hex(&abc.to_uppercase()).unwrap().admits("abc"));
        assert!(!TokenDigest::from_hex(abc).unwrap().admits("abd"));
        for wrong in [
            "",
            "ba78",
            &abc[1..],
            &format!("{abc}0"),
            &abc.replace('b', "g"),
            &"é".repeat(32),
        ] {
            assert_eq!(
                TokenDigest::from_hex(wrong).err().map(|error| error.kind),
                Some(ErrorKind::Invalid),
                "{wrong}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_gate_panic(host in "[ -~]{0,40}", origin in "[ -~]{0,40}") {
            // Any pair that passes names this hub.
            if check("127.0.0.1:7420", "/", &[("host", &host), ("origin", &origin)]).is_ok() {
                let site = origin.split_once("://").map(|(_, site)| site.to_ascii_lowercase());
                prop_assert_eq!(site, Some(host.to_ascii_lowercase()));
            }
        }

        #[test]
        fn a_digest_survives_a_round_trip(token in "\\PC{0,40}") {
            let digest = TokenDigest::of(&token);
            let hex: String = digest.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert!(TokenDigest::from_hex(&hex).unwrap().admits(&token));
        }
    }
}
