//! A JSON value as its text.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::CallError;
use crate::error::ErrorKind;

/// The deepest nesting of a message that is accepted, in levels.
pub const JSON_DEPTH: usize = 64;

/// A JSON value as its text: checked once where it enters, shared and written without a look at it, parsed by who needs it.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }

    /// Takes a text that must be exactly one JSON value, at most [`JSON_DEPTH`] levels deep.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, CallError> {
        let text = text.as_ref();
        shallow(text)?;
        match serde_json::from_str::<&RawValue>(text) {
            Ok(raw) => Ok(Self(raw.to_owned().into())),
            Err(error) => Err(CallError::new(ErrorKind::Invalid, format!("not valid JSON: {error}"))),
        }
    }

    /// Takes a part of a text that was read already; at most [`JSON_DEPTH`] levels deep.
    pub fn of_part(raw: &RawValue) -> Result<Self, CallError> {
        shallow(raw.get())?;
        Ok(Self(raw.to_owned().into()))
    }

    /// The JSON of a value of our own.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, CallError> {
        match to_raw_value(value) {
            Ok(raw) => Ok(Self(raw.into())),
            Err(error) => Err(CallError::new(
                ErrorKind::Internal,
                format!("cannot write JSON: {error}"),
            )),
        }
    }

    /// Reads it as a typed message; the error names the field.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_str(self.as_str())
            .map_err(|error| CallError::new(ErrorKind::Invalid, format!("the message does not fit: {error}")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Refuses what is nested deeper than [`JSON_DEPTH`] levels; for what was made here and will be read again.
    pub fn check_depth(&self) -> Result<(), CallError> {
        shallow(self.as_str())
    }
}

fn shallow(text: &str) -> Result<(), CallError> {
    if too_deep(text) {
        let message = format!("the JSON is nested more than {JSON_DEPTH} levels deep");
        return Err(CallError::new(ErrorKind::Invalid, message));
    }
    Ok(())
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

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        // A tree of values can always be written.
        Self::of(&value).unwrap_or_else(|_| Self::null())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::of_part(&raw).map_err(serde::de::Error::custom)
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
