//! A JSON value as its text.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::CallError;
use crate::error::ErrorKind;

/// The deepest nesting of a message that is accepted, in levels.
pub const JSON_DEPTH: usize = 64;

/// A JSON value as its text: checked once where it enters, shared without copies, parsed by who needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Arc<str>);

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self(Arc::from("null"))
    }

    /// Takes a text that must be exactly one JSON value, at most [`JSON_DEPTH`] levels deep.
    pub fn parse(text: impl Into<Arc<str>>) -> Result<Self, CallError> {
        let text = text.into();
        if too_deep(&text) {
            return Err(CallError::new(
                ErrorKind::Invalid,
                format!("the JSON is nested more than {JSON_DEPTH} levels deep"),
            ));
        }
        if let Err(error) = serde_json::from_str::<&RawValue>(&text) {
            return Err(CallError::new(ErrorKind::Invalid, format!("not valid JSON: {error}")));
        }
        Ok(Self(text))
    }

    /// The JSON of a value of our own.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, CallError> {
        match serde_json::to_string(value) {
            Ok(text) => Ok(Self(text.into())),
            Err(error) => Err(CallError::new(
                ErrorKind::Internal,
                format!("cannot write JSON: {error}"),
            )),
        }
    }

    /// Reads it as a typed message; the error names the field.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_str(&self.0)
            .map_err(|error| CallError::new(ErrorKind::Invalid, format!("the message does not fit: {error}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn into_text(self) -> Arc<str> {
        self.0
    }
}

fn too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > JSON_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self(value.to_string().into())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn deep_json_is_refused_before_it_is_parsed() {
        let deep = "[".repeat(100_000);
        assert_eq!(Json::parse(deep).unwrap_err().kind, ErrorKind::Invalid);
        let brackets_in_a_string = format!("\"{}\"", "[".repeat(1000));
        assert!(Json::parse(brackets_in_a_string).is_ok());
    }

    proptest! {
        #[test]
        fn json_parse_accepts_what_serde_accepts(text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,24}") {
            let ours = Json::parse(text.as_str()).is_ok();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // A number too large for f64 and the like: valid text that Value refuses. The other way must not happen.
            prop_assert!(ours || !theirs);
        }
    }
}
