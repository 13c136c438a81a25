//! Whatever an agent writes, and whatever is answered: each call has one answer, an object of the awaited type under the
//! agent's own number, and what leaves for a connection is the agent's frame.
//!
//! The first line of an input is the frame, the rest is what its call comes to.

#![no_main]
#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use fuzz_stage::{Fields, call, object, raw_is_scalar};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use waypost::call::{CallError, Json};
use waypost::error::ErrorKind;
use waypost::transports::dialect::{Asked, By, Malformed, Part, REQUEST_ID, canonical_reply, chunk, decode, encode};
use waypost::transports::direct_socket::frames::{self, Hop};

/// What every call can fail with.
const WHY: &str = "out of paint";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let (frame, outcome) = text.split_once('\n').unwrap_or((text, "{}"));
    let decoded = decode(frame);
    if let Ok(Value::Object(_)) = serde_json::from_str(frame) {
        assert_ne!(
            decoded,
            Err(Malformed::NotAnObject),
            "an object is told what is wrong with it"
        );
    }
    let asked = match decoded {
        Ok(asked) => asked,
        Err(Malformed::NotAnObject) => return,
        Err(Malformed::Field { text, request_id }) => {
            assert!(!text.is_empty());
            assert!(request_id.is_none_or(|id| id.as_str().len() <= REQUEST_ID && raw_is_scalar(id.as_str())));
            return;
        }
    };
    let sent = object(&asked.frame);
    let number = sent.get("requestId").map(|raw| raw.get()).filter(|raw| *raw != "null");
    assert_eq!(
        asked.request_id.as_ref().map(Json::as_str),
        number,
        "its number is kept as it came"
    );
    assert!(
        asked.part != Part::Answer || asked.awaits.is_none(),
        "nothing answers an answer"
    );
    if let Ok(message) = &asked.message {
        Json::parse(message.as_str()).expect("a canonical message is JSON");
    }
    forwarded(&asked, &sent);

    let failed = answer(&asked, &Err(CallError::new(ErrorKind::Other, WHY)));
    if let Some(failed) = failed {
        assert_eq!(failed.get("success").map(|raw| raw.get()), Some("false"));
        assert_eq!(failed.get("error").map(|raw| raw.get()), Some("\"out of paint\""));
    }
    let Ok(result) = Json::parse(outcome) else { return };
    answer(&asked, &Ok(result.clone()));
    let canonical = canonical_reply(&asked.name, result.clone());
    assert_eq!(
        canonical_reply(&asked.name, canonical.clone()),
        canonical,
        "what is canonical stays so"
    );
    answer(&asked, &Ok(canonical));
    if let Some(chunk) = chunk(&asked, &result) {
        let chunk = object(&chunk);
        assert!(!chunk.contains_key("requestId"), "a chunk is not the answer");
        assert!(chunk.contains_key("output"));
        assert_eq!(chunk.get("type").map(|raw| raw.get()), Some("\"commandOutput\""));
    }
});

/// The answer to what came of a call, if the agent waits for one.
fn answer(asked: &Asked, result: &Result<Json, CallError>) -> Option<Fields> {
    let answer = encode(asked, result);
    assert_eq!(
        answer.is_some(),
        asked.awaits.is_some(),
        "one answer for who waits, none for who does not"
    );
    let (answer, awaits) = (object(&answer?), asked.awaits.as_ref()?);
    let word = |name: &str| {
        answer
            .get(name)
            .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
    };
    let kind = word("type").expect("an answer has a type");
    assert!(awaits.accepts(&kind), "{kind} is not awaited");
    if awaits.by == By::Event {
        assert_eq!(word("event"), Some(kind));
    }
    let number = answer.get("requestId").map(|raw| raw.get());
    assert_eq!(
        number,
        asked.request_id.as_ref().map(Json::as_str),
        "the number is repeated"
    );
    let success = answer.get("success").map(|raw| raw.get());
    assert!(matches!(success, Some("true" | "false")));
    assert!(
        success == Some("true") || answer.contains_key("error"),
        "a failure says why"
    );
    Some(answer)
}

/// A connection that is asked gets the frame as it was, but for the number and the hubs that it has passed.
fn forwarded(asked: &Asked, sent: &Fields) {
    let mut call = call("p", "a");
    call.name = asked.name.clone();
    call.frame = Some(asked.frame.clone());
    let mut route = asked.route.to_vec();
    route.push("here".into());
    let (id, route) = (call.id, &*route);
    let request = frames::request(&call, Hop { id, route }).expect("each frame can be passed on");
    let request = object(&request);
    let number = format!("\"{id}\"");
    assert_eq!(request.get("requestId").map(|raw| raw.get()), Some(&*number));
    let original: Fields = serde_json::from_str(request.get("originalMessage").expect("it is there").get())
        .expect("the original message is an object");
    let fields = |fields: &Fields| -> Vec<(String, String)> {
        let own = ["requestId", "routePath", "route_path"];
        let others = fields.iter().filter(|(name, _)| !own.contains(&&***name));
        others.map(|(name, raw)| (name.clone(), raw.get().to_owned())).collect()
    };
    assert_eq!(fields(&original), fields(sent), "the frame is passed on as it was");
    assert_eq!(original.get("requestId").map(|raw| raw.get()), Some(&*number));
    assert!(!original.contains_key("route_path"), "it has one route");
    let passed: Vec<String> = serde_json::from_str(original.get("routePath").expect("it is there").get())
        .expect("a route is a list of names");
    assert!(passed.iter().map(|name| &**name).eq(route.iter().map(|name| &**name)));
    let again = decode(serde_json::to_string(&original).expect("it is JSON").as_str()).expect("the next hub reads it");
    assert_eq!(
        (&*again.route, again.name),
        (route, asked.name.clone()),
        "the next hub reads the same call"
    );
}
