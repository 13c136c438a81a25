//! Every frame in both directions, and what is not one.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::call::JSON_DEPTH;
use crate::gateway::tests::call;

fn value(frame: Result<Json, CallError>) -> Value {
    frame.unwrap().to().unwrap()
}

fn reply(text: &str) -> Result<Json, CallError> {
    match decode(text).unwrap().body {
        ClientBody::Reply { result, .. } => result,
        other => panic!("{other:?}"),
    }
}

fn failure(text: &str) -> String {
    let error = reply(text).unwrap_err();
    assert_eq!((error.kind, error.blame), (ErrorKind::Other, Blame::Upstream));
    error.message
}

#[test]
fn orders_are_read_whatever_else_they_carry() {
    let orders = [
        ("claim", Order::Claim),
        ("relinquish", Order::Relinquish),
        ("subscribe", Order::Subscribe),
        ("unsubscribe", Order::Unsubscribe),
    ];
    for (word, order) in orders {
        let text = format!(r#" {{"x":[1],"type":"executionGateway.{word}","requestId":"7"}}"#);
        let request_id = Some(Json::parse("\"7\"").unwrap());
        assert_eq!(
            decode(&text),
            Ok(ClientFrame {
                request_id,
                body: ClientBody::Order(order)
            })
        );
    }
    for id in ["", r#","requestId":null"#] {
        let frame = decode(&format!(r#"{{"type":"executionGateway.claim"{id}}}"#)).unwrap();
        assert_eq!(frame.request_id, None);
    }
    let frame = decode(r#"{"type":"hello","requestId":-7}"#).unwrap();
    assert_eq!(frame.body, ClientBody::Other("hello".to_owned()));
    assert_eq!(frame.request_id.unwrap().as_str(), "-7");
}

#[test]
fn a_reply_names_its_request_in_one_of_two_fields() {
    let to = |text: &str| match decode(text).unwrap().body {
        ClientBody::Reply { to, .. } => to,
        other => panic!("{other:?}"),
    };
    let both = r#"{"type":"executionGateway.reply","requestId":"reply-x","replyRequestId":"x","result":{}}"#;
    assert_eq!(to(both), "x");
    assert_eq!(
        to(r#"{"type":"executionGateway.reply","requestId":"x","result":{}}"#),
        "x"
    );
    for none in [
        r#"{"type":"executionGateway.reply","result":{}}"#,
        r#"{"type":"executionGateway.reply","requestId":7}"#,
    ] {
        let text = "a reply needs the `replyRequestId` of its request".to_owned();
        assert_eq!(decode(none), Err(Malformed::Field(text)));
    }
}

#[test]
fn a_result_is_the_canonical_reply_or_is_wrapped_into_one() {
    let of = |fields: &str| {
        reply(&format!(
            r#"{{"type":"executionGateway.reply","requestId":"x"{fields}}}"#
        ))
    };
    assert_eq!(
        of(r#","success":true,"result":{"a": 1}"#).unwrap().as_str(),
        r#"{"a": 1}"#
    );
    assert_eq!(of(r#","result":[1]"#).unwrap().as_str(), r#"{"result":[1]}"#);
    assert_eq!(of("").unwrap().as_str(), r#"{"result":null}"#);
    let deep = format!(
        r#","result":{}{}"#,
        "[".repeat(JSON_DEPTH + 1),
        "]".repeat(JSON_DEPTH + 1)
    );
    let message = "its result cannot be read: the JSON is nested more than 64 levels deep";
    assert_eq!(of(&deep).unwrap_err().message, message);
}

#[test]
fn a_failed_reply_says_why() {
    let of = |fields: &str| {
        failure(&format!(
            r#"{{"type":"executionGateway.reply","requestId":"x","success":false{fields}}}"#
        ))
    };
    assert_eq!(of(r#","result":{"error":"no such key"}"#), "no such key");
    assert_eq!(of(r#","result":{"error":{"code":1}}"#), r#"{"code":1}"#);
    assert_eq!(of(r#","error":"outer""#), "outer");
    let without = "the connected process reported a failure without a text; look into its own log";
    assert_eq!(of(r#","result":{"ok":1}"#), without);
    assert_eq!(
        of(&format!(r#","error":"{}""#, "é".repeat(ERROR_TEXT))).len(),
        ERROR_TEXT + "…".len()
    );
}

#[test]
fn what_is_not_a_frame_is_told_apart() {
    let deep = "[".repeat(100_000);
    for text in [
        "",
        "null",
        "[]",
        r#"["executionGateway.claim"]"#,
        "1",
        "{",
        "{} {}",
        r#"{"type":"a",}"#,
        "\u{0}",
        &deep,
        "{\"a\":NaN}",
    ] {
        assert_eq!(decode(text), Err(Malformed::NotAnObject), "{text:.20}");
    }
    let field = |text: &str| match decode(text) {
        Err(Malformed::Field(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(field("{}"), "missing field `type` at line 1 column 2");
    assert!(field(r#"{"type":1}"#).starts_with("invalid type: integer `1`, expected a string"));
    assert!(field(r#"{"type":"a","type":"b"}"#).starts_with("duplicate field `type`"));
    let ids = [
        r#"{"type":"a","requestId":{}}"#.to_owned(),
        format!(r#"{{"type":"a","requestId":"{:0>256}"}}"#, 1),
    ];
    for id in ids {
        assert_eq!(
            field(&id),
            "`requestId` must be a string or a number of at most 256 bytes"
        );
    }
}

fn hop(id: Uuid) -> Hop<'static> {
    static ROUTE: std::sync::LazyLock<[Arc<str>; 1]> = std::sync::LazyLock::new(|| ["here".into()]);
    Hop { id, route: &*ROUTE }
}

#[test]
fn a_request_carries_the_frame_that_came_in_with_its_own_id() {
    let id = Uuid::now_v7();
    let mut call = call("fsEvent:readFile");
    let made = value(request(&call, hop(id)));
    assert_eq!(made["type"], "executionGateway.request");
    assert_eq!(
        (&made["originalType"], &made["originalAction"]),
        (&json!("fsEvent"), &json!("readFile"))
    );
    let message =
        json!({"type":"fsEvent","action":"readFile","message":{"text":"hello"},"routePath":["here"],"requestId":id});
    assert_eq!(made["originalMessage"], message);
    assert_eq!(made["requestId"], json!(id));
    humantime::parse_rfc3339(made["timestamp"].as_str().unwrap()).unwrap();

    call.frame =
        Some(Json::parse(r#"{"type":"fsEvent", "requestId":"own","n":1.0e400,"params":{"a" : [1]}}"#).unwrap());
    let frame = request(&call, hop(id)).unwrap();
    let expected = format!(
        r#""originalMessage":{{"type":"fsEvent","n":1.0e400,"params":{{"a" : [1]}},"routePath":["here"],"requestId":"{id}"}}"#
    );
    assert!(frame.as_str().contains(&expected), "{frame:?}");
    call.frame = Some(Json::parse("[1]").unwrap());
    assert_eq!(value(request(&call, hop(id)))["originalMessage"], message);

    let plain = value(request(&crate::gateway::tests::call("inference"), hop(id)));
    assert_eq!(
        (plain.get("originalAction"), plain["originalMessage"].get("action")),
        (None, None)
    );
}

#[test]
fn the_type_is_spelled_as_the_agent_spelled_it() {
    let mut call = call("kvStore:get");
    for (frame, kind, action) in [
        (r#"{"type":"kvStore.get","params":{"key":"k"}}"#, "kvStore.get", None),
        (r#"{"type":"KVStore","action":"Get"}"#, "KVStore", Some("Get")),
        (r#"{"type":"kvStore","action":null}"#, "kvStore", None),
        // Not what an agent's frame can be; then the hub's own words count.
        (r#"{"type":"kvStore","action":7}"#, "kvStore", Some("get")),
        (r#"["x","y"]"#, "kvStore", Some("get")),
    ] {
        call.frame = Some(Json::parse(frame).unwrap());
        let heard = Notification::new(&call, &Ok(Json::null()));
        for made in [request(&call, hop(Uuid::now_v7())), notification(&heard, 0)] {
            let made = value(made);
            let action = action.map(|action| json!(action));
            assert_eq!(
                (&made["originalType"], made.get("originalAction")),
                (&json!(kind), action.as_ref()),
                "{frame}"
            );
        }
    }
}

#[test]
fn a_notification_carries_the_result_and_what_was_lost() {
    let call = call("chat");
    let mut heard = Notification::new(&call, &Ok(Json::parse(r#"{"ok":true}"#).unwrap()));
    heard.at = std::time::SystemTime::UNIX_EPOCH;
    let expected = json!({
        "type": "executionGateway.notification", "originalType": "chat",
        "originalMessage": {"type": "chat", "message": {"text": "hello"}},
        "result": {"ok": true}, "timestamp": "1970-01-01T00:00:00.000Z",
    });
    assert_eq!(value(notification(&heard, 0)), expected);
    heard.frame = Some(Json::parse(r#"{"type":"chat","requestId":"1"}"#).unwrap());
    heard.result = Err(CallError::new(ErrorKind::NotFound, "no such file"));
    let frame = value(notification(&heard, 3));
    assert_eq!(frame["originalMessage"], json!({"type":"chat","requestId":"1"}));
    assert_eq!(frame["result"], json!({"success":false,"error":"no such file"}));
    assert_eq!(frame["dropped"], 3);
}

#[test]
fn answers_echo_the_id() {
    let id = Json::parse("\"7\"").unwrap();
    let data = |claimed, subscribed| Outcome {
        claimed,
        subscribed,
        plugin_id: "me",
    };
    let expected = json!({"type":"executionGateway.claimResponse","requestId":"7","success":true,
                          "data":{"claimed":true,"pluginId":"me"}});
    assert_eq!(
        value(answer(Order::Claim, Some(&id), data(Some(true), None), None)),
        expected
    );
    let refused = CallError::new(ErrorKind::Denied, "held");
    let expected = json!({"type":"executionGateway.subscribeResponse","success":false,"error":"held",
                          "data":{"subscribed":false,"pluginId":"me"}});
    assert_eq!(
        value(answer(Order::Subscribe, None, data(None, Some(false)), Some(&refused))),
        expected
    );
    let expected = json!({"type":"error","requestId":"7","success":false,"error":"what?"});
    assert_eq!(value(error(Some(&id), "what?")), expected);
}

/// Objects with the fields of a frame and values that do not fit.
const NEARLY: &str = concat!(
    r#"\{("(type|requestId|replyRequestId|success|result|error)":"#,
    r#"("executionGateway.(claim|reply)"|null|true|\{\}|\[\[|"x"|-?[0-9e.]{0,3}),?){0,5}\}?"#,
);

proptest! {
    #[test]
    fn no_text_makes_decode_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nearly_frames_do_not_make_it_panic(text in NEARLY) {
        let _ = decode(&text);
    }

    #[test]
    fn replies_survive_a_round_trip(to in "\\PC{0,40}", own in proptest::option::of("\\PC{0,40}"),
                                    field in "\\PC{0,20}", text in "\\PC{0,60}", number in any::<i64>()) {
        let result = json!({field: text, "n": number});
        let mut frame = json!({"type":"executionGateway.reply","replyRequestId":to,"success":true,"result":result});
        if let Some(own) = &own {
            frame["requestId"] = json!(own);
        }
        let decoded = decode(&frame.to_string());
        let fits = own.as_ref().is_none_or(|own| json!(own).to_string().len() <= REQUEST_ID);
        if fits {
            let request_id = own.map(|own| Json::from(json!(own)));
            let body = ClientBody::Reply { to, result: Ok(result.into()) };
            prop_assert_eq!(decoded, Ok(ClientFrame { request_id, body }));
        } else {
            prop_assert!(matches!(decoded, Err(Malformed::Field(_))));
        }
    }

    #[test]
    fn a_request_keeps_every_field_but_the_id(
        fields in proptest::collection::btree_map("\\PC{0,12}", "\\PC{0,12}", 0..6),
    ) {
        let id = Uuid::now_v7();
        let mut call = call("x:y");
        let mut frame = json!(fields);
        call.frame = Some(frame.clone().into());
        frame["requestId"] = json!(id);
        frame["routePath"] = json!(["here"]);
        prop_assert_eq!(&value(request(&call, hop(id)))["originalMessage"], &frame);
    }
}
