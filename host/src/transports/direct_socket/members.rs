//! Who may connect: those of `[[connection]]`, whoever has a token for the name, and, where the operator says so, anyone.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::config::{Connection, Spawn, bridges};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::tokens::{Refusal, Scope, Token, Tokens};
use crate::transports::gate::TokenDigest;

/// What one without a token has proven: nothing, and every other one the same.
const NOTHING: [u8; 32] = [0; 32];

/// Everyone who may connect.
pub struct Members {
    entries: Vec<Entry>,
    tokens: Arc<Tokens>,
    open: bool,
}

/// One `[[connection]]`.
struct Entry {
    name: Arc<str>,
    token: TokenDigest,
    claim: Vec<String>,
    calls: Vec<String>,
}

/// One who was let in.
#[derive(Clone)]
pub struct Member {
    pub(super) name: Arc<str>,
    /// What it proved its identity with.
    pub(super) credential: [u8; 32],
    /// What it may claim.
    pub(super) claim: Vec<String>,
    /// What it may ask the hub for.
    pub(super) calls: Vec<String>,
    /// What it stays with, when that may end.
    token: Option<Arc<Token>>,
}

impl Member {
    /// A process that the hub itself has started.
    pub(in crate::transports) fn spawned(spawn: &Spawn, credential: [u8; 32]) -> Self {
        Self {
            name: spawn.name.as_str().into(),
            credential,
            claim: spawn.claim.clone(),
            calls: spawn.calls.clone(),
            token: None,
        }
    }

    /// Resolves when what it was let in with no longer holds.
    pub(super) async fn over(&self) -> Refusal {
        match &self.token {
            Some(token) => token.over().await,
            None => std::future::pending().await,
        }
    }
}

/// One who is not let in.
#[derive(Debug)]
pub(super) enum NotLetIn {
    /// It has proven nothing.
    Unknown,
    /// Its token is good for something else.
    Scope(Scope),
}

impl IntoResponse for NotLetIn {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => {
                let text = "no connection of this name has this token; look at [[connection]] in waypost.toml, or make one with \
                            `waypost token create`\n";
                (StatusCode::UNAUTHORIZED, text).into_response()
            }
            Self::Scope(wanted) => {
                let text = format!("this token has not the scope {wanted}\n");
                (StatusCode::FORBIDDEN, text).into_response()
            }
        }
    }
}

impl Members {
    /// Those of the configuration, and those with a token; with `open`, also whoever brings none.
    pub fn new(connections: &[Connection], tokens: Arc<Tokens>, open: bool) -> Result<Self> {
        let entries = connections.iter().map(|connection| {
            let token = TokenDigest::from_hex(&connection.token_sha256).map_err(|error| {
                let message = format!("[[connection]] `{}`: `token-sha256` is wrong", connection.name);
                Error::new(ErrorKind::Invalid, message)
                    .blame(Blame::Operator)
                    .because(error)
            })?;
            Ok(Entry {
                name: connection.name.as_str().into(),
                token,
                claim: connection.claim.clone(),
                calls: connection.calls.clone(),
            })
        });
        let entries = entries.collect::<Result<_>>()?;
        if open {
            tracing::warn!(
                "`[sockets] allow-unauthenticated-connections` is on: any local program may connect on /plugins without a \
                 token and answer the project's calls"
            );
        }
        Ok(Self { entries, tokens, open })
    }

    /// The member of this name, if what was presented proves it.
    pub(super) fn admit(&self, name: &str, presented: Option<&str>) -> Result<Member, NotLetIn> {
        let entry = self.entries.iter().find(|entry| *entry.name == *name);
        let wanted = Scope::Connection(name.into());
        let member = |credential, token| Member {
            name: name.into(),
            credential,
            claim: entry.map_or_else(|| vec!["*".to_owned()], |entry| entry.claim.clone()),
            calls: entry.map_or_else(bridges, |entry| entry.calls.clone()),
            token,
        };
        let Some(presented) = presented else {
            // A name that someone has a token for is his.
            if !self.open || entry.is_some() || self.tokens.any_for(&wanted) {
                return Err(NotLetIn::Unknown);
            }
            tracing::warn!(connection = %name.escape_debug(), "a connection is let in without a token");
            return Ok(member(NOTHING, None));
        };
        if let Some(entry) = entry.filter(|entry| entry.token.admits(presented)) {
            return Ok(member(*entry.token.bytes(), None));
        }
        let token = self.tokens.check(presented).map_err(|_| NotLetIn::Unknown)?;
        if token.may(&wanted) {
            Ok(member(*token.digest(), Some(token)))
        } else {
            Err(NotLetIn::Scope(wanted))
        }
    }
}
