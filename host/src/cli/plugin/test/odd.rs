//! What nobody expects: values of odd shapes and sizes, where a message can have them, and ends of calls that went wrong.

use serde_json::{Map, Value, json};

use crate::call::{CallError, Json};
use crate::error::{ErrorKind, Result};
use crate::plugin::Role;

/// The size of what is huge, in bytes of text and in entries.
const HUGE_TEXT: usize = 1 << 20;
const HUGE_LIST: usize = 100_000;
const HUGE_DEPTH: usize = 100;

/// Values of shapes that nobody expects.
pub(super) fn odd() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{202e}💥\n"),
        json!([]),
        json!([null, [], {}]),
        json!({}),
        json!({ "": {}, "__proto__": { "x": 1 }, "constructor": null }),
        nested(30),
    ]
}

pub(super) fn odd_texts() -> Vec<String> {
    ["", "\u{0}\u{202e}💥\n", "../../etc/passwd", "x'\"`${{}}%s"]
        .map(str::to_owned)
        .to_vec()
}

/// Values of a size that nobody expects.
pub(super) fn huge() -> Vec<Value> {
    let keys = (0..HUGE_LIST / 10).map(|number| (format!("key-{number}"), Value::Null));
    vec![
        json!("x".repeat(HUGE_TEXT)),
        Value::Array(vec![Value::Null; HUGE_LIST]),
        Value::Object(keys.collect()),
        nested(HUGE_DEPTH),
    ]
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
}

pub(super) fn refusal(kind: ErrorKind) -> Result<Json, CallError> {
    Err(CallError::new(kind, "this is a test of what goes wrong"))
}

pub(super) fn failures() -> Vec<Result<Json, CallError>> {
    [
        ErrorKind::NotFound,
        ErrorKind::Invalid,
        ErrorKind::Limit,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::Indeterminate,
        ErrorKind::Internal,
        ErrorKind::Other,
    ]
    .map(refusal)
    .to_vec()
}

pub(super) fn odd_replies() -> Vec<Result<Json, CallError>> {
    odd().iter().chain(&huge()).map(Json::of).collect()
}

pub(super) fn huge_texts() -> Vec<String> {
    vec!["x".repeat(HUGE_TEXT)]
}

/// The message with each of these values in each place that takes any JSON, and each of these texts where a text stands.
///
/// The message of a handler is whatever its caller wrote. Those of the other roles the hub makes: settings are always an object,
/// in which a person may have written anything.
pub(super) fn variants(role: Role, base: &Json, values: &[Value], texts: &[String]) -> Vec<Json> {
    let base: Value = base.to().unwrap_or_default();
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (whole, settings) = (fields(&base), fields(base.get("settings").unwrap_or(&Value::Null)));
    let with = |of: &Map<String, Value>, field: &str, value: Value| {
        let mut changed = of.clone();
        changed.insert(field.to_owned(), value);
        Value::Object(changed)
    };
    let mut made = Vec::new();
    for value in values {
        match role {
            Role::Handler => {
                made.extend(whole.keys().map(|field| with(&whole, field, value.clone())));
                made.push(value.clone());
            }
            Role::Observer => {
                made.extend(["message", "reply"].map(|field| with(&whole, field, value.clone())));
            }
            Role::Provider | Role::Agent => {
                let names = settings.keys().map(String::as_str).chain(["odd"]);
                let odd = names.map(|name| with(&settings, name, value.clone()));
                made.extend(odd.map(|settings| with(&whole, "settings", settings)));
            }
        }
    }
    let texted: &[&str] = match role {
        Role::Handler => &[],
        Role::Provider => &["environment"],
        Role::Agent => &["prompt"],
        Role::Observer => &["kind", "action"],
    };
    for text in texts {
        made.extend(texted.iter().map(|field| with(&whole, field, text.clone().into())));
    }
    made.iter().filter_map(|message| Json::of(message).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cases::filled;
    use super::*;

    #[test]
    fn every_place_of_a_message_gets_every_value() {
        let base = Json::of(&json!({ "a": 1, "b": "x" })).unwrap();
        let made = variants(Role::Handler, &base, &[json!(null), json!([])], &[]);
        let made: Vec<&str> = made.iter().map(Json::as_str).collect();
        assert_eq!(
            made,
            [
                r#"{"a":null,"b":"x"}"#,
                r#"{"a":1,"b":null}"#,
                "null",
                r#"{"a":[],"b":"x"}"#,
                r#"{"a":1,"b":[]}"#,
                "[]"
            ]
        );
        for role in [Role::Provider, Role::Agent, Role::Observer] {
            let base = filled(role, &Json::of(&json!({})).unwrap());
            for message in variants(role, &base, &odd(), &odd_texts()) {
                let read = match role {
                    Role::Provider => message.to::<crate::plugin::execute::Wanted>().map(drop),
                    Role::Agent => message.to::<crate::plugin::execute::Task>().map(drop),
                    _ => message.to::<crate::plugin::execute::Notice>().map(drop),
                };
                read.unwrap_or_else(|error| panic!("{error}: {}", message.as_str()));
            }
        }
    }
}
