//! Whatever a connected process writes: it is a frame or it is refused, and what counts of it is what it wrote.

#![no_main]
#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use std::collections::BTreeMap;

use fuzz_stage::{object, raw_is_scalar};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use waypost::gateway::Offer;
use waypost::transports::direct_socket::frames::{ClientBody, ERROR_TEXT, Malformed, Order, REQUEST_ID, decode};

/// What a text is shortened with.
const CUT: usize = '…'.len_utf8();

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let decoded = decode(text);
    if let Ok(Value::Object(_)) = serde_json::from_str(text) {
        assert_ne!(
            decoded,
            Err(Malformed::NotAnObject),
            "an object is told what is wrong with it"
        );
    }
    let frame = match decoded {
        Ok(frame) => frame,
        Err(Malformed::NotAnObject) => return,
        Err(Malformed::Field(why)) => {
            assert!(!why.is_empty());
            return;
        }
    };
    let fields = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(text).expect("what is decoded is an object");
    let word = |name: &str| {
        fields
            .get(name)
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
    };
    let kind = word("type").expect("what is decoded has a type");
    let written = fields
        .get("requestId")
        .map(|raw| raw.get())
        .filter(|raw| *raw != "null");
    assert_eq!(
        frame.request_id.as_ref().map(|id| id.as_str()),
        written,
        "its id is echoed as it came"
    );
    if let Some(id) = written {
        assert!(id.len() <= REQUEST_ID && raw_is_scalar(id), "{id}");
    }
    match frame.body {
        ClientBody::Order(order) => {
            let ordered = match order {
                Order::Claim => "executionGateway.claim",
                Order::Relinquish => "executionGateway.relinquish",
                Order::Subscribe => "executionGateway.subscribe",
                Order::Unsubscribe => "executionGateway.unsubscribe",
            };
            assert_eq!(kind, ordered);
        }
        ClientBody::Reply { to, result } => {
            assert_eq!(Some(to), word("replyRequestId").or_else(|| word("requestId")));
            let failed = fields.get("success").is_some_and(|raw| raw.get() == "false");
            assert!(
                !(failed || kind == "llmProvider.error") || result.is_err(),
                "a failure is a failure"
            );
            match (kind.as_str(), result) {
                ("executionGateway.reply", Ok(result)) => drop(object(&result)),
                ("llmProvider.reply", Ok(result)) => {
                    assert_eq!(result.as_str(), fields.get("response").map_or("null", |raw| raw.get()));
                }
                (_, Ok(_)) => unreachable!("{kind} is no reply"),
                (_, Err(error)) => assert!(error.message.len() <= ERROR_TEXT + CUT),
            }
        }
        ClientBody::Chunk { to, chunk } => {
            assert_eq!(kind, "llmProvider.chunk");
            assert_eq!(Some(to), word("replyRequestId").or_else(|| word("requestId")));
            assert_eq!(Some(chunk.as_str()), fields.get("chunk").map(|raw| raw.get()));
        }
        ClientBody::Register(offer) => {
            assert_eq!(kind, "llmProvider.register");
            if let Ok(Offer { id, models, .. }) = offer {
                assert!(
                    !id.is_empty() && !id.contains('/') && id == Offer::normal_id(&id),
                    "{id}"
                );
                assert!(models.is_none_or(|models| models.keys().all(|model| !model.is_empty())));
            }
        }
        ClientBody::Unregister(id) => {
            assert_eq!(kind, "llmProvider.unregister");
            if let (Ok(id), Some(written)) = (id, word("providerId")) {
                assert_eq!(id, Offer::normal_id(&written));
            }
        }
        ClientBody::Other(shown) => {
            assert!(shown.len() <= REQUEST_ID + CUT);
        }
    }
});
