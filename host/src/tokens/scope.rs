//! What a token is good for: few scopes, each with a name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind};

/// The scopes that there are, for people.
pub const SCOPES: &str = "admin, api, read, connection:<name> and agent:<run or thread>";

/// The longest name or id in a scope, in bytes.
const NAMED_BYTES: usize = 256;

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All of the API, tokens too.
    Admin,
    /// All of the API but tokens.
    Api,
    /// What the API only shows.
    Read,
    /// Connecting on `/plugins` under this name.
    Connection(Arc<str>),
    /// Connecting as the agent of this run or thread, which a person started himself.
    Agent(Arc<str>),
}

impl Scope {
    /// Whether who has this scope may do what the other one is needed for.
    pub fn covers(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Admin, Self::Api | Self::Read) | (Self::Api, Self::Read) => true,
            (one, other) => one == other,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Api => f.write_str("api"),
            Self::Read => f.write_str("read"),
            Self::Connection(name) => write!(f, "connection:{name}"),
            Self::Agent(of) => write!(f, "agent:{of}"),
        }
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let plain = |name: &str| {
            let fits = |c: char| !c.is_whitespace() && !c.is_control();
            (1..=NAMED_BYTES).contains(&name.len()) && name.chars().all(fits)
        };
        match text.split_once(':') {
            None if text == "admin" => Ok(Self::Admin),
            None if text == "api" => Ok(Self::Api),
            None if text == "read" => Ok(Self::Read),
            Some(("connection", name)) if plain(name) => Ok(Self::Connection(name.into())),
            Some(("agent", of)) if plain(of) => Ok(Self::Agent(of.into())),
            _ => {
                let shown: String = text.chars().take(NAMED_BYTES).collect();
                let message = format!("there is no scope `{}`; there are {SCOPES}", shown.escape_debug());
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| de::Error::custom(error.message))
    }
}
