//! The key of an endpoint, in a type that can be sent and taken out of texts, and not printed.

use reqwest::header::HeaderValue;
use serde_json::Value;

use crate::error::{Blame, Error, ErrorKind, Result};

/// Keys shorter than this are placeholders (`EMPTY`, `ollama`) and may be words of an answer.
const SHORTEST_REAL_KEY: usize = 16;

/// A key. It has no `Debug` and no `Display`, and its header is marked as sensitive.
pub(super) struct Secret {
    text: String,
    header: HeaderValue,
}

impl Secret {
    /// The key that a variable holds.
    pub(super) fn new(variable: &str, text: &str) -> Result<Self> {
        let text = text.trim().to_owned();
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| {
            let message = format!("the variable {variable} holds no key: it has characters that no header can carry");
            Error::new(ErrorKind::Invalid, message).blame(Blame::Operator)
        })?;
        header.set_sensitive(true);
        Ok(Self { text, header })
    }

    /// The `Authorization` header.
    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A text without the key.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.text, "[redacted]")
    }

    /// Takes the key out of every string of an answer, unless it is a mere placeholder.
    pub(super) fn redact_answer(&self, value: &mut Value) {
        if self.text.len() < SHORTEST_REAL_KEY {
            return;
        }
        match value {
            Value::String(text) if text.contains(&self.text) => *text = self.redact(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.redact_answer(value)),
            Value::Object(members) => members.values_mut().for_each(|value| self.redact_answer(value)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::CANARY;
    use super::*;

    #[test]
    fn a_key_that_no_header_can_carry_is_refused_without_showing_it() {
        let error = Secret::new("OPENAI_API_KEY", "sk-\u{1}secret").err().unwrap();
        assert_eq!((error.kind, error.blame), (ErrorKind::Invalid, Blame::Operator));
        assert!(error.chain().contains("OPENAI_API_KEY") && !error.chain().contains("secret"));
    }

    #[test]
    fn a_key_is_not_printed_and_is_taken_out_of_every_string() {
        let secret = Secret::new("KEY", &format!(" {CANARY}\n")).unwrap();
        assert!(!format!("{:?}", secret.header()).contains(CANARY));
        let mut answer = json!({"a": [format!("x{CANARY}y"), 5], "b": {"c": CANARY}});
        secret.redact_answer(&mut answer);
        assert_eq!(answer, json!({"a": ["x[redacted]y", 5], "b": {"c": "[redacted]"}}));
    }

    #[test]
    fn a_placeholder_does_not_tear_answers_apart() {
        let mut answer = json!({"content": ["install ollama"]});
        Secret::new("KEY", "ollama").unwrap().redact_answer(&mut answer);
        assert_eq!(answer, json!({"content": ["install ollama"]}));
    }
}
