//! The JSON of an event's body, and the payloads that stand outside it.
//!
//! A payload (a message, a reply, or a body of any JSON) is replaced by a [`Reference`] when it is large, when the row
//! would be nested too deeply to be read again, or when it reads like a reference itself: every reference in the log is
//! the log's own, so what an agent writes can never be resolved to a payload that it has not sent.

use serde::{Deserialize, Serialize, Serializer};

use super::{Attempt, BLOB_FROM, Body, CallStarted, blobs};
use crate::call::{CallError, CallName, Effect, Json, PrincipalKind};
use crate::error::{Error, ErrorKind, Result};

/// A body as it is written.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The row's JSON.
    pub(super) json: Json,
    /// Digest and content of each payload that it refers to.
    pub(super) detached: Vec<(String, Json)>,
}

/// What stands in a row for a payload that is kept as a blob.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    /// `sha256:<hex>` of the payload's text.
    #[serde(rename = "$blob")]
    pub(super) digest: String,
    bytes: u64,
}

impl Reference {
    /// The reference that a payload is; none for a payload that stands for itself.
    pub(super) fn read(json: &Json) -> Option<Self> {
        let text = json.as_str();
        // A derived struct would also read from an array. Without its field, not even escaped, it is none.
        if !text.starts_with('{') || !(text.contains("$blob") || text.contains('\\')) {
            return None;
        }
        json.to().ok()
    }
}

/// Writes a body. What it returns can be read again: it is checked as reading checks it.
pub(super) fn encode(body: &Body) -> Result<Encoded> {
    // A row puts its payloads one level deeper than they came; what is then too deep stands outside, whatever its size.
    for inline in [BLOB_FROM, 0] {
        let mut detached = Vec::new();
        let json = write(body, inline, &mut detached).map_err(unwritable)?;
        if json.check_depth().is_ok() {
            return Ok(Encoded { json, detached });
        }
    }
    Err(Error::new(
        ErrorKind::Internal,
        "an event cannot be written to the log: its body would not be readable again",
    ))
}

/// The payloads of a body, which may stand outside it.
pub(super) fn payloads(body: &Body) -> impl Iterator<Item = &Json> {
    let (message, reply) = match body {
        Body::Json(json) => (Some(json), None),
        Body::CallStarted(started) => (Some(&started.message), None),
        Body::CallEnded(ended) => (Some(&ended.call.message), ended.result.as_ref().ok()),
    };
    message.into_iter().chain(reply)
}

fn unwritable(error: CallError) -> Error {
    Error::new(
        error.kind,
        format!("an event cannot be written to the log: {}", error.message),
    )
    .blame(error.blame)
}

fn write(body: &Body, inline: usize, detached: &mut Vec<(String, Json)>) -> Result<Json, CallError> {
    let row = match body {
        Body::Json(json) => return payload(json, inline, detached),
        Body::CallStarted(started) => {
            let message = payload(&started.message, inline, detached)?;
            Row {
                message: Some(message),
                ..Row::of(started)
            }
        }
        Body::CallEnded(ended) => {
            // An effect's message stands in its `call.started`; a read has no other row.
            let message = match ended.call.effect {
                Effect::Read => Some(payload(&ended.call.message, inline, detached)?),
                Effect::Inference | Effect::Idempotent | Effect::NonIdempotent => None,
            };
            let (reply, error) = match &ended.result {
                Ok(reply) => (Some(payload(reply, inline, detached)?), None),
                Err(error) => (None, Some(error)),
            };
            let attempts = Some(ended.attempts.as_slice());
            Row {
                message,
                attempts,
                micros: Some(ended.micros),
                reply,
                error,
                ..Row::of(&ended.call)
            }
        }
    };
    Json::of(&row)
}

fn payload(json: &Json, inline: usize, detached: &mut Vec<(String, Json)>) -> Result<Json, CallError> {
    let text = json.as_str();
    if text.len() <= inline && Reference::read(json).is_none() {
        return Ok(json.clone());
    }
    let digest = blobs::digest(text);
    let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let reference = Json::of(&Reference {
        digest: digest.clone(),
        bytes,
    })?;
    detached.push((digest, json.clone()));
    Ok(reference)
}

/// The body of `call.started` and `call.ended`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(serialize_with = "as_text")]
    name: &'a CallName,
    principal: Who<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    effect: Effect,
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<&'a [Attempt]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a CallError>,
}

#[derive(Serialize)]
struct Who<'a> {
    kind: PrincipalKind,
    id: &'a str,
    project: &'a str,
}

impl<'a> Row<'a> {
    fn of(call: &'a CallStarted) -> Self {
        let principal = &*call.principal;
        Self {
            name: &call.name,
            principal: Who {
                kind: principal.kind,
                id: &principal.id,
                project: &principal.project,
            },
            environment: call.environment.as_deref(),
            effect: call.effect,
            rule: &call.rule,
            message: None,
            index: call.index,
            parent: call.parent,
            attempts: None,
            micros: None,
            reply: None,
            error: None,
        }
    }
}

fn as_text<S: Serializer>(name: &CallName, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::call::{JSON_DEPTH, Principal, Rights, Target};
    use crate::log::CallEnded;

    fn started(effect: Effect, message: Json) -> CallStarted {
        CallStarted {
            name: CallName::new("fsEvent", Some("readFile")),
            principal: Arc::new(Principal {
                project: "p".into(),
                run: Some("r".into()),
                kind: PrincipalKind::Agent,
                id: "loop".into(),
                rights: Rights::all(),
            }),
            environment: None,
            effect,
            rule: "default".into(),
            message,
            index: Some(3),
            parent: None,
        }
    }

    fn ended(effect: Effect, result: std::result::Result<Json, CallError>) -> Body {
        let call = started(effect, Json::of(&"asked").unwrap());
        let failed = CallError::new(ErrorKind::Unavailable, "gone");
        let attempts = vec![
            Attempt {
                target: Target::Proxy,
                error: Some(failed),
            },
            Attempt {
                target: Target::Local,
                error: None,
            },
        ];
        Body::CallEnded(Box::new(CallEnded {
            call,
            attempts,
            result,
            micros: 7,
        }))
    }

    fn text(body: &Body) -> String {
        encode(body).unwrap().json.as_str().to_owned()
    }

    #[test]
    fn a_call_is_written_in_full_once() {
        let call = r#""name":"fsEvent:readFile","principal":{"kind":"agent","id":"loop","project":"p"},"effect":"#;
        let attempts = r#""attempts":[{"target":"proxy","error":{"kind":"unavailable","blame":"upstream","message":"gone"}},{"target":"local"}]"#;
        let message = Json::parse(r#"{"path": "a"}"#).unwrap();
        assert_eq!(
            text(&Body::CallStarted(Box::new(started(Effect::Idempotent, message)))),
            format!(r#"{{{call}"idempotent","rule":"default","message":{{"path": "a"}},"index":3}}"#)
        );
        assert_eq!(
            text(&ended(Effect::Read, Ok(Json::null()))),
            format!(
                r#"{{{call}"read","rule":"default","message":"asked","index":3,{attempts},"micros":7,"reply":null}}"#
            )
        );
        assert_eq!(
            text(&ended(
                Effect::NonIdempotent,
                Err(CallError::new(ErrorKind::Timeout, "late"))
            )),
            format!(
                r#"{{{call}"non-idempotent","rule":"default","index":3,{attempts},"micros":7,"error":{}}}"#,
                r#"{"kind":"timeout","blame":"upstream","message":"late"}"#
            )
        );
    }

    #[test]
    fn a_payload_over_the_limit_stands_outside() {
        let at_limit = Json::of(&"x".repeat(BLOB_FROM - 2)).unwrap();
        assert!(encode(&Body::Json(at_limit)).unwrap().detached.is_empty());
        let over = Json::of(&"x".repeat(BLOB_FROM - 1)).unwrap();
        let digest = blobs::digest(over.as_str());
        let encoded = encode(&Body::Json(over.clone())).unwrap();
        assert_eq!(
            encoded.json.as_str(),
            format!(r#"{{"$blob":"{digest}","bytes":{}}}"#, BLOB_FROM + 1)
        );
        assert_eq!(encoded.detached, [(digest.clone(), over.clone())]);
        assert_eq!(Reference::read(&encoded.json).unwrap().digest, digest);

        let row = encode(&ended(Effect::Read, Ok(over.clone()))).unwrap();
        assert!(row.json.as_str().contains(r#""message":"asked""#) && row.json.as_str().contains("$blob"));
        assert_eq!(row.detached, [(digest, over)]);
    }

    #[test]
    fn a_payload_as_deep_as_json_may_be_can_be_read_again() {
        let deepest = Json::parse(format!("{}{}", "[".repeat(JSON_DEPTH), "]".repeat(JSON_DEPTH))).unwrap();
        let body = Body::CallStarted(Box::new(started(Effect::Idempotent, deepest.clone())));
        let encoded = encode(&body).unwrap();
        assert_eq!(encoded.detached.len(), 1);
        assert_eq!(encoded.detached[0].1, deepest);
    }

    #[test]
    fn what_reads_like_a_reference_is_never_taken_for_one() {
        let forged = [
            r#"{"$blob":"sha256:00","bytes":1}"#,
            r#" { "bytes" : 1, "\u0024blob" : "sha256:00" }"#,
            r#"{"$blob":"anything","bytes":0}"#,
        ];
        for text in forged {
            let forged = Json::parse(text).unwrap();
            let encoded = encode(&Body::Json(forged.clone())).unwrap();
            assert_eq!(
                Reference::read(&encoded.json).unwrap().digest,
                blobs::digest(forged.as_str())
            );
            assert_eq!(encoded.detached, [(blobs::digest(forged.as_str()), forged)]);
        }
        for text in [
            r#"["sha256:00",1]"#,
            r#"{"$blob":"x"}"#,
            r#"{"$blob":"x","bytes":1,"y":2}"#,
            "null",
        ] {
            assert!(Reference::read(&Json::parse(text).unwrap()).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_message_comes_back_from_its_row_letter_by_letter(text in "\\PC{0,40}", number in any::<i64>()) {
            let message = Json::from(serde_json::json!({ "text": text, "number": number }));
            let body = Body::CallStarted(Box::new(started(Effect::Read, message.clone())));
            #[derive(Deserialize)]
            struct Back { message: Json }
            let back: Back = encode(&body).unwrap().json.to().unwrap();
            prop_assert_eq!(back.message, message);
        }
    }
}
