//! Manifests, requests and answers, and what is none of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::frames::{ClientBody, Malformed, decode};
use super::*;

fn body(frame: &Value) -> ClientBody {
    decode(&frame.to_string()).unwrap().body
}

fn offer(manifest: &Value) -> Result<Offer, CallError> {
    let frame = json!({"type": "llmProvider.register", "requestId": "1", "manifest": manifest});
    match body(&frame) {
        ClientBody::Register(offer) => offer,
        other => panic!("{other:?}"),
    }
}

fn value(frame: Result<Json, CallError>) -> Value {
    frame.unwrap().to().unwrap()
}

#[test]
fn a_manifest_is_read_as_far_as_it_matters() {
    let manifest = json!({
        "providerId": " My Llama ", "name": "Llama at home", "requiresKey": true, "capabilities": ["chat"],
        "models": [{"id": "small", "name": "Small", "contextWindow": 4096}, {"id": "big/er"}],
        "configFields": [{"key": "apiKey", "label": "Key", "type": "password"}],
    });
    let models = [
        ("big/er".to_owned(), None),
        ("small".to_owned(), Some("Small".to_owned())),
    ];
    let expected = Offer {
        id: "myllama".to_owned(),
        name: "Llama at home".to_owned(),
        models: Some(models.into()),
    };
    assert_eq!(offer(&manifest), Ok(expected.clone()));
    let mut beside = manifest;
    beside["type"] = json!("llmProvider.register");
    assert_eq!(body(&beside), ClientBody::Register(Ok(expected)));
    let bare = offer(&json!({"providerId": "a"})).unwrap();
    assert_eq!((bare.name.as_str(), bare.models), ("a", None));
}

#[test]
fn each_wrong_manifest_is_told() {
    let long = "x".repeat(NAME + 1);
    let text = |field: &str| format!("`{field}` must be a text of 1 to 256 bytes without control characters");
    let unreadable = "the manifest cannot be read: ".to_owned();
    for (manifest, expected) in [
        (json!(7), unreadable.clone()),
        (json!("a"), unreadable.clone()),
        (json!({}), unreadable.clone() + "missing field `providerId`"),
        (
            json!({"providerId": 7}),
            unreadable.clone() + "invalid type: integer `7`",
        ),
        (
            json!({"providerId": "a", "models": {"a": 1}}),
            unreadable.clone() + "invalid type: map",
        ),
        (
            json!({"providerId": "a", "models": ["b"]}),
            unreadable.clone() + "invalid type: string \"b\"",
        ),
        (
            json!({"providerId": "a", "models": [{}]}),
            unreadable + "missing field `id`",
        ),
        (json!({"providerId": "  "}), text("providerId")),
        (json!({"providerId": long}), text("providerId")),
        (json!({"providerId": "a", "name": "\u{1b}[2J"}), text("name")),
        (json!({"providerId": "a", "models": [{"id": ""}]}), text("models[].id")),
        (
            json!({"providerId": "a", "models": [{"id": "b", "name": long}]}),
            text("models[].name"),
        ),
        (
            json!({"providerId": "a/b"}),
            "`providerId` must not have a slash: calls name a model as <providerId>/<model id>".to_owned(),
        ),
    ] {
        let error = offer(&manifest).unwrap_err();
        assert!(error.message.starts_with(&expected), "{manifest}: {error}");
        assert_eq!((error.kind, error.blame), (ErrorKind::Invalid, Blame::Upstream));
    }
    let huge = json!({"providerId": "a", "description": "x".repeat(MANIFEST)});
    let error = offer(&huge).unwrap_err();
    let size = huge.to_string().len();
    let expected = format!("the manifest has {size} bytes; at most 262144 are taken: list fewer models");
    assert_eq!((error.kind, error.message), (ErrorKind::Limit, expected));
}

#[test]
fn replies_errors_and_chunks_name_their_request_in_one_of_two_fields() {
    let whole = json!({"choices": []});
    for field in ["requestId", "replyRequestId"] {
        let frame = |kind: &str, more: Value| {
            let mut frame = more;
            frame["type"] = json!(format!("llmProvider.{kind}"));
            frame[field] = json!("x");
            body(&frame)
        };
        let reply = |result| ClientBody::Reply {
            to: "x".to_owned(),
            result,
        };
        let failed = |text: &str| {
            reply(Err(
                CallError::new(ErrorKind::Other, text.to_owned()).blame(Blame::Upstream)
            ))
        };
        let ok = |value: &Value| reply(Ok(value.clone().into()));
        assert_eq!(frame("reply", json!({"response": whole})), ok(&whole));
        assert_eq!(frame("reply", json!({"response": whole, "success": true})), ok(&whole));
        assert_eq!(frame("reply", json!({})), ok(&json!(null)));
        let refused = json!({"success": false, "response": {"error": "no such model"}});
        assert_eq!(frame("reply", refused), failed("no such model"));
        assert_eq!(
            frame("reply", json!({"success": false, "error": "busy"})),
            failed("busy")
        );
        assert_eq!(frame("error", json!({"error": "busy"})), failed("busy"));
        let silent = "the connected process reported a failure without a text; look into its own log";
        assert_eq!(frame("error", json!({})), failed(silent));
        let chunk = ClientBody::Chunk {
            to: "x".to_owned(),
            chunk: whole.clone().into(),
        };
        assert_eq!(frame("chunk", json!({"chunk": whole})), chunk);
    }
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for (frame, expected) in [
        (
            r#"{"type":"llmProvider.reply"}"#.to_owned(),
            "a reply needs the `replyRequestId` of its request",
        ),
        (
            r#"{"type":"llmProvider.error","requestId":7}"#.to_owned(),
            "an error needs the `replyRequestId` of its request",
        ),
        (
            r#"{"type":"llmProvider.chunk","chunk":{}}"#.to_owned(),
            "a chunk needs the `replyRequestId` of its request",
        ),
        (
            r#"{"type":"llmProvider.chunk","requestId":"x"}"#.to_owned(),
            "a chunk needs its `chunk`",
        ),
        (
            format!(r#"{{"type":"llmProvider.chunk","requestId":"x","chunk":{deep}}}"#),
            "its `chunk` cannot be read: the JSON is nested more than 64 levels deep",
        ),
    ] {
        assert_eq!(decode(&frame), Err(Malformed::Field(expected.to_owned())));
    }
    let unregister = |id: Value| match body(&json!({"type": "llmProvider.unregister", "providerId": id})) {
        ClientBody::Unregister(id) => id.map_err(|error| error.message),
        other => panic!("{other:?}"),
    };
    assert_eq!(unregister(json!("My Llama")), Ok("myllama".to_owned()));
    assert_eq!(unregister(json!(7)), Ok("7".to_owned()));
    assert!(unregister(json!("")).unwrap_err().starts_with("`providerId` must be"));
}

#[test]
fn requests_carry_no_key_and_answers_echo_the_id() {
    let id = Uuid::now_v7();
    for (streams, kind) in [
        (true, "llmProvider.streamRequest"),
        (false, "llmProvider.completionRequest"),
    ] {
        let asked = ModelRequest {
            provider: "a".to_owned(),
            options: json!({"model": "m", "messages": []}).into(),
            streams,
        };
        let mut frame = value(request(&asked, id));
        humantime::parse_rfc3339(frame["timestamp"].as_str().unwrap()).unwrap();
        frame.as_object_mut().unwrap().remove("timestamp");
        let options = json!({"model": "m", "messages": [], "providerConfig": {}});
        let expected =
            json!({"type": kind, "requestId": id, "providerId": "a", "options": options, "providerConfig": {}});
        assert_eq!(frame, expected);
    }
    let own = Json::from(json!("7"));
    let expected = json!({"type": "llmProvider.registerResponse", "requestId": "7", "success": true,
                          "data": {"providerId": "a", "registered": true}});
    assert_eq!(value(answer(true, Some(&own), Some("a"), None)), expected);
    let error = CallError::new(ErrorKind::Denied, "held");
    let expected = json!({"type": "llmProvider.registerResponse", "success": false, "error": "held",
                          "data": {"providerId": "a", "registered": false}});
    assert_eq!(value(answer(true, None, Some("a"), Some(&error))), expected);
    let expected = json!({"type": "llmProvider.unregisterResponse", "success": true,
                          "data": {"providerId": "a", "registered": false}});
    assert_eq!(value(answer(false, None, Some("a"), None)), expected);
}

/// Objects with the fields of these frames and values that do not fit.
const NEARLY: &str = concat!(
    r#"\{"type":"llmProvider\.(register|unregister|chunk|reply|error)""#,
    r#"(,"(requestId|replyRequestId|manifest|providerId|models|name|chunk|response|success|error)":"#,
    r#"(null|true|\{\}|\[\]|\[\[|"x"|\{"providerId":"a","models":(\[\{"id":"b"\}\]|7|null)\}|-?[0-9e.]{0,3})){0,5}\}?"#,
);

proptest! {
    #[test]
    fn nearly_frames_do_not_make_it_panic(text in NEARLY) {
        let _ = decode(&text);
    }

    #[test]
    fn what_is_accepted_keeps_the_limits(id in any::<String>(), name in any::<String>(), models in any::<Vec<String>>()) {
        let models: Vec<Value> = models.iter().map(|id| json!({"id": id})).collect();
        if let Ok(offer) = offer(&json!({"providerId": id, "name": name, "models": models})) {
            let ids = offer.models.unwrap();
            for text in ids.keys().chain([&offer.id, &offer.name]) {
                prop_assert!((1..=NAME).contains(&text.len()) && !text.chars().any(char::is_control));
            }
            prop_assert!(!offer.id.contains('/') && !offer.id.chars().any(char::is_whitespace));
            prop_assert!(ids.len() <= models.len());
            prop_assert_eq!(Offer::normal_id(&offer.id), offer.id);
        }
    }

    #[test]
    fn pieces_survive_a_round_trip(to in "\\PC{0,40}", field in "\\PC{0,20}", text in "\\PC{0,60}", number in any::<i64>()) {
        let piece = json!({field: text, "n": number});
        let frame = json!({"type": "llmProvider.chunk", "replyRequestId": to, "chunk": piece});
        prop_assert_eq!(body(&frame), ClientBody::Chunk { to: to.clone(), chunk: piece.clone().into() });
        let frame = json!({"type": "llmProvider.reply", "replyRequestId": to, "response": piece});
        prop_assert_eq!(body(&frame), ClientBody::Reply { to, result: Ok(piece.into()) });
    }
}
