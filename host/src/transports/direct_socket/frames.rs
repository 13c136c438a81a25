//! The frames of the direct socket, in both directions.
//!
//! One JSON object in one text message. What the hub does not read stays text ([`Json`], [`RawValue`]) and is never
//! parsed into a tree. Not here: what a frame does, and what an offer of models looks like (`offers`).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::call::{Call, CallError, CallName, Json};
use crate::error::{Blame, ErrorKind};
use crate::gateway::{Notification, Offer};

use super::offers;

/// The longest `requestId` that is echoed, in bytes of JSON.
pub const REQUEST_ID: usize = 256;

/// The longest error text that is taken from a reply, in bytes.
pub const ERROR_TEXT: usize = 4096;

/// A frame from the connected process.
#[derive(Debug, PartialEq)]
pub struct ClientFrame {
    /// Its own id, a string or a number, to be echoed.
    pub request_id: Option<Json>,
    /// What it says.
    pub body: ClientBody,
}

/// What a frame from the connected process says.
#[derive(Debug, PartialEq)]
pub enum ClientBody {
    /// An order that is answered.
    Order(Order),
    /// The reply to one of the hub's requests.
    Reply {
        /// The id of the request.
        to: String,
        /// What the caller gets.
        result: Result<Json, CallError>,
    },
    /// A chunk of the answer to one of the hub's requests.
    Chunk {
        /// The id of the request.
        to: String,
        /// The chunk.
        chunk: Json,
    },
    /// An offer of models, or why it is none.
    Register(Result<Offer, CallError>),
    /// The end of an offer: its id.
    Unregister(Result<String, CallError>),
    /// Anything else: what it asks of the hub.
    Other(String),
}

/// What a connected process may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Answer for the calls that it may claim.
    Claim,
    /// Give the claim back.
    Relinquish,
    /// Hear of locally handled calls.
    Subscribe,
    /// Stop hearing of them.
    Unsubscribe,
}

/// Why a frame could not be read.
#[derive(Debug, PartialEq)]
pub enum Malformed {
    /// It is not one JSON object.
    NotAnObject,
    /// It is one, but a field is missing or of the wrong type; the text says which.
    Field(String),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "requestId", borrow, default)]
    request_id: Option<&'a RawValue>,
    #[serde(rename = "replyRequestId", borrow, default)]
    reply_request_id: Option<Cow<'a, str>>,
    #[serde(default)]
    success: Option<bool>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    chunk: Option<&'a RawValue>,
    #[serde(borrow, default)]
    manifest: Option<&'a RawValue>,
    #[serde(rename = "providerId", borrow, default)]
    provider_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// Reads one frame. Nothing that a connected process can write is a panic.
pub fn decode(text: &str) -> Result<ClientFrame, Malformed> {
    // A list could be read as the fields in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Malformed::NotAnObject);
    }
    let envelope: Envelope = serde_json::from_str(text).map_err(|error| {
        if serde_json::from_str::<IgnoredAny>(text).is_ok() {
            Malformed::Field(error.to_string())
        } else {
            Malformed::NotAnObject
        }
    })?;
    let request_id = envelope.request_id.map(request_id).transpose()?.flatten();
    let body = match &*envelope.kind {
        "executionGateway.claim" => ClientBody::Order(Order::Claim),
        "executionGateway.relinquish" => ClientBody::Order(Order::Relinquish),
        "executionGateway.subscribe" => ClientBody::Order(Order::Subscribe),
        "executionGateway.unsubscribe" => ClientBody::Order(Order::Unsubscribe),
        "executionGateway.reply" => ClientBody::Reply {
            to: envelope.to("a reply", request_id.as_ref())?,
            result: outcome(&envelope),
        },
        "llmProvider.reply" => ClientBody::Reply {
            to: envelope.to("a reply", request_id.as_ref())?,
            result: response(&envelope),
        },
        "llmProvider.error" => ClientBody::Reply {
            to: envelope.to("an error", request_id.as_ref())?,
            result: Err(failed(&failure_text(&envelope))),
        },
        "llmProvider.chunk" => ClientBody::Chunk {
            to: envelope.to("a chunk", request_id.as_ref())?,
            chunk: envelope.chunk()?,
        },
        "llmProvider.register" => {
            // Some put the fields of the manifest beside the type.
            let whole = || serde_json::from_str(text).map_err(|error| Malformed::Field(error.to_string()));
            let manifest = envelope.manifest.map_or_else(whole, Ok)?;
            ClientBody::Register(offers::manifest(manifest))
        }
        "llmProvider.unregister" => {
            let id = envelope.provider_id.map(RawValue::get).unwrap_or_default();
            // What is no text is an id that nobody has.
            let id: Cow<str> = serde_json::from_str::<String>(id).map_or_else(|_| id.into(), Cow::Owned);
            ClientBody::Unregister(offers::provider_id(&id))
        }
        kind => ClientBody::Other(shortened(kind, REQUEST_ID)),
    };
    Ok(ClientFrame { request_id, body })
}

impl Envelope<'_> {
    /// The id of the request that the frame is about: `replyRequestId`, else its own.
    fn to(&self, what: &str, own: Option<&Json>) -> Result<String, Malformed> {
        let own = || own.and_then(|id| id.to::<String>().ok());
        let to = self.reply_request_id.as_deref().map(ToOwned::to_owned).or_else(own);
        to.ok_or_else(|| Malformed::Field(format!("{what} needs the `replyRequestId` of its request")))
    }

    fn chunk(&self) -> Result<Json, Malformed> {
        let Some(chunk) = self.chunk else {
            return Err(Malformed::Field("a chunk needs its `chunk`".to_owned()));
        };
        Json::of_part(chunk).map_err(|error| Malformed::Field(format!("its `chunk` cannot be read: {}", error.message)))
    }
}

fn request_id(raw: &RawValue) -> Result<Option<Json>, Malformed> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"' | b'-' | b'0'..=b'9') if text.len() <= REQUEST_ID => Json::of_part(raw)
            .map(Some)
            .map_err(|error| Malformed::Field(error.message)),
        _ => Err(Malformed::Field(format!(
            "`requestId` must be a string or a number of at most {REQUEST_ID} bytes"
        ))),
    }
}

/// What a reply means to the caller: its `result` when that is an object, else wrapped into one.
fn outcome(envelope: &Envelope) -> Result<Json, CallError> {
    if envelope.success == Some(false) {
        return Err(failed(&failure_text(envelope)));
    }
    let raw = envelope.result.unwrap_or(RawValue::NULL);
    let result =
        Json::of_part(raw).map_err(|error| failed(&format!("its result cannot be read: {}", error.message)))?;
    if raw.get().starts_with('{') {
        Ok(result)
    } else {
        Json::of(&Wrapped { result })
    }
}

/// What a model's reply means to the caller: its `response`, as it is.
fn response(envelope: &Envelope) -> Result<Json, CallError> {
    if envelope.success == Some(false) {
        return Err(failed(&failure_text(envelope)));
    }
    let raw = envelope.response.unwrap_or(RawValue::NULL);
    Json::of_part(raw).map_err(|error| failed(&format!("its response cannot be read: {}", error.message)))
}

#[derive(Serialize)]
struct Wrapped {
    result: Json,
}

fn failed(text: &str) -> CallError {
    CallError::new(ErrorKind::Other, shortened(text, ERROR_TEXT)).blame(Blame::Upstream)
}

/// The error text of a failed reply: `result.error` or `response.error`, else `error`.
fn failure_text(envelope: &Envelope) -> String {
    #[derive(Deserialize)]
    struct Failure<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    let inner = envelope
        .result
        .or(envelope.response)
        .and_then(|result| serde_json::from_str::<Failure>(result.get()).ok());
    match inner.map(|failure| failure.error).or(envelope.error) {
        None => "the connected process reported a failure without a text; look into its own log".to_owned(),
        Some(error) => serde_json::from_str::<String>(error.get()).unwrap_or_else(|_| error.get().to_owned()),
    }
}

fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let cut = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
    format!("{cut}…")
}

/// What a request adds to the frame that came in.
#[derive(Clone, Copy)]
pub struct Hop<'a> {
    /// The id of the request.
    pub id: Uuid,
    /// The runtimes that it has passed, this one last.
    pub route: &'a [Arc<str>],
}

/// The type and the action of what was asked, as its agent spells them; of a call that came in no frame, the hub's own.
struct Spelling<'a> {
    kind: Cow<'a, str>,
    action: Option<Cow<'a, str>>,
}

impl<'a> Spelling<'a> {
    fn of(frame: Option<&'a Json>, name: &'a CallName) -> Self {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow, default)]
            action: Option<Cow<'a, str>>,
        }
        let frame = frame.filter(|frame| frame.as_str().starts_with('{'));
        match frame.and_then(|frame| serde_json::from_str(frame.as_str()).ok()) {
            Some(Head { kind, action }) => Self { kind, action },
            None => Self {
                kind: Cow::Borrowed(&name.kind),
                action: name.action.as_deref().map(Cow::Borrowed),
            },
        }
    }
}

/// Writes the request for a call. Its `originalMessage` is the frame that came in, with what this hop adds.
pub fn request(call: &Call, hop: Hop<'_>) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Request<'a> {
        r#type: &'static str,
        request_id: Uuid,
        original_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        original_action: Option<&'a str>,
        original_message: Original<'a>,
        timestamp: String,
    }
    let spelling = Spelling::of(call.frame.as_ref(), &call.name);
    Json::of(&Request {
        r#type: "executionGateway.request",
        request_id: hop.id,
        original_type: &spelling.kind,
        original_action: spelling.action.as_deref(),
        original_message: Original::new(call.frame.as_ref(), &call.name, &call.message, Some(hop)),
        timestamp: now(std::time::SystemTime::now()),
    })
}

/// Writes a notification; `dropped` says how many were lost before it.
pub(super) fn notification(notification: &Notification, dropped: u64) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Frame<'a> {
        r#type: &'static str,
        original_type: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        original_action: Option<&'a str>,
        original_message: Original<'a>,
        result: Outcome<'a>,
        timestamp: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        dropped: Option<u64>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Outcome<'a> {
        Done(&'a Json),
        Failed { success: bool, error: &'a str },
    }
    let Notification {
        name,
        message,
        frame,
        result,
        at,
        ..
    } = notification;
    let spelling = Spelling::of(frame.as_ref(), name);
    Json::of(&Frame {
        r#type: "executionGateway.notification",
        original_type: &spelling.kind,
        original_action: spelling.action.as_deref(),
        original_message: Original::new(frame.as_ref(), name, message, None),
        result: match result {
            Ok(result) => Outcome::Done(result),
            Err(error) => Outcome::Failed {
                success: false,
                error: &error.message,
            },
        },
        timestamp: now(*at),
        dropped: (dropped > 0).then_some(dropped),
    })
}

/// What came of an order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome<'a> {
    /// After a claim or its end: whether this connection holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<bool>,
    /// After a subscription or its end: whether this connection has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed: Option<bool>,
    /// The id of this connection.
    pub plugin_id: &'a str,
}

/// Writes the answer to an order.
pub(super) fn answer(
    order: Order,
    request_id: Option<&Json>,
    data: Outcome<'_>,
    error: Option<&CallError>,
) -> Result<Json, CallError> {
    let r#type = match order {
        Order::Claim => "executionGateway.claimResponse",
        Order::Relinquish => "executionGateway.relinquishResponse",
        Order::Subscribe => "executionGateway.subscribeResponse",
        Order::Unsubscribe => "executionGateway.unsubscribeResponse",
    };
    told(r#type, request_id, Some(data), error)
}

/// Writes what came of a frame: a success, unless there is an error.
pub(super) fn told<D: Serialize>(
    r#type: &'static str,
    request_id: Option<&Json>,
    data: Option<D>,
    error: Option<&CallError>,
) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Told<'a, D> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a Json>,
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<D>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    Json::of(&Told {
        r#type,
        request_id,
        success: error.is_none(),
        data,
        error: error.map(|error| &*error.message),
    })
}

/// Writes the answer to a frame that could not be followed.
pub(super) fn error(request_id: Option<&Json>, text: &str) -> Result<Json, CallError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Error<'a> {
        r#type: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a Json>,
        success: bool,
        error: &'a str,
    }
    Json::of(&Error {
        r#type: "error",
        request_id,
        success: false,
        error: text,
    })
}

/// A moment as frames have it.
pub(super) fn now(at: std::time::SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The frame that a call came in as; made from its canonical message when it came otherwise.
enum Original<'a> {
    /// As it came, with what a hop adds in place of its own.
    Frame(&'a Json, Option<Hop<'a>>),
    Made(&'a CallName, &'a Json, Option<Hop<'a>>),
}

impl<'a> Original<'a> {
    fn new(frame: Option<&'a Json>, name: &'a CallName, message: &'a Json, hop: Option<Hop<'a>>) -> Self {
        match frame {
            Some(frame) if frame.as_str().starts_with('{') => Self::Frame(frame, hop),
            _ => Self::Made(name, message, hop),
        }
    }
}

impl Hop<'_> {
    fn add<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("routePath", self.route)?;
        map.serialize_entry("requestId", &self.id)
    }
}

impl Serialize for Original<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Frame(frame, None) => frame.serialize(serializer),
            Self::Frame(frame, Some(hop)) => {
                let mut map = serializer.serialize_map(None)?;
                let copy = CopyFields {
                    map: &mut map,
                    but: &["requestId", "routePath", "route_path"],
                };
                serde_json::Deserializer::from_str(frame.as_str())
                    .deserialize_map(copy)
                    .map_err(S::Error::custom)?;
                hop.add(&mut map)?;
                map.end()
            }
            Self::Made(name, message, hop) => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("type", &*name.kind)?;
                if let Some(action) = &name.action {
                    map.serialize_entry("action", &**action)?;
                }
                map.serialize_entry("message", message)?;
                if let Some(hop) = hop {
                    hop.add(&mut map)?;
                }
                map.end()
            }
        }
    }
}

/// Copies the fields of an object as they are read, without building it.
struct CopyFields<'a, M> {
    map: &'a mut M,
    but: &'static [&'static str],
}

impl<'de, M: SerializeMap> Visitor<'de> for CopyFields<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some((name, value)) = fields.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            if !self.but.contains(&&*name) {
                self.map
                    .serialize_entry(&name, value)
                    .map_err(serde::de::Error::custom)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
