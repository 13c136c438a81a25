//! Nothing that an agent or a result can hold breaks a rule.

use proptest::prelude::*;

use super::*;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z \"\\\\é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(field_name(), inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

/// Names that mean something somewhere, and others.
fn field_name() -> impl Strategy<Value = String> {
    let known = [
        "type",
        "event",
        "requestId",
        "success",
        "error",
        "message",
        "data",
        "payload",
        "result",
        "completion",
        "choices",
        "content",
        "files",
        "entries",
        "tools",
        "answer",
        "feedback",
        "messages",
        "at",
        "role",
        "agentId",
        "tool_calls",
        "prompt",
        "filePath",
        "path",
        "action",
        "params",
        "stream",
        "text",
        "output",
        "exitCode",
        "projectPath",
        "html",
    ];
    prop_oneof![9 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-z]{0,3}"]
}

fn any_frame() -> impl Strategy<Value = Value> {
    let heads: Vec<(&str, &str)> = vec![
        ("fsEvent", "readFile"),
        ("fsEvent", "updateFile"),
        ("fsEvent", "fileList"),
        ("fsEvent", "readManyFiles"),
        ("fsEvent", "grep_search"),
        ("inference", ""),
        ("executeCommand", ""),
        ("executeCommandWithStream", ""),
        ("executeCommandRunUntilError", ""),
        ("sendInterruptToTerminal", ""),
        ("waitforReply", ""),
        ("confirmationRequest", ""),
        ("getChatHistory", ""),
        ("browserEvent", "getHTML"),
        ("browserEvent", "screenshot"),
        ("crawlerEvent", "click"),
        ("codebolttools", "executeTool"),
        ("codebolttools", "listToolsFromToolBoxes"),
        ("codebolttools", "getTools"),
        ("codebolttools", "configureToolBox"),
        ("chatSummaryEvent", "summarize"),
        ("agentEvent", "startAgent"),
        ("settingEvent", "getProjectPath"),
        ("memoryEvent", "get"),
        ("kvStore.get", ""),
        ("sendMessage", ""),
        ("processStoped", ""),
        ("somethingNew", "act"),
    ];
    let id = prop_oneof![
        Just(Value::Null),
        "[a-z\"]{0,8}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from)
    ];
    let rest = proptest::collection::btree_map(field_name(), any_json(), 0..5);
    (proptest::sample::select(heads), id, rest).prop_map(|((kind, action), id, rest)| {
        let mut frame = json!(rest);
        frame["type"] = kind.into();
        frame["action"] = if action.is_empty() { Value::Null } else { action.into() };
        frame["requestId"] = id;
        frame
    })
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,64}", json in any_json()) {
        drop(decode(&text));
        drop(decode(&json.to_string()));
    }

    #[test]
    fn every_answer_is_one_object_of_the_awaited_type_with_the_same_id(frame in any_frame(), result in any_json(), fails in any::<bool>()) {
        let asked = read(&frame);
        let result = if fails { Err(CallError::new(ErrorKind::Other, "it broke")) } else { Ok(result.into()) };
        let Some(answer) = encode(&asked, &result) else {
            prop_assert!(asked.awaits.is_none());
            return Ok(());
        };
        let awaits = asked.awaits.unwrap();
        let answer: Value = answer.to().unwrap();
        prop_assert!(answer.is_object());
        prop_assert!(awaits.accepts(answer["type"].as_str().unwrap()));
        if awaits.by == By::Event {
            prop_assert_eq!(&answer["event"], &answer["type"]);
        }
        prop_assert_eq!(answer.get("requestId").unwrap_or(&Value::Null), &frame["requestId"]);
        let success = answer["success"].as_bool().unwrap();
        prop_assert!(!(fails && success));
        if !success {
            prop_assert!(!answer["error"].is_null() && !answer["message"].is_null());
        }
        match awaits.resolves {
            Resolves::List => prop_assert!(answer["data"].is_array()),
            Resolves::Tools if frame["requestId"].is_null() => prop_assert!(answer["data"].is_array()),
            Resolves::Tools => prop_assert!(answer["data"]["tools"].is_array()),
            Resolves::Pair => prop_assert!(answer["data"][0].is_boolean() && answer["data"][1].is_string()),
            Resolves::Turns => prop_assert!(answer["payload"].is_array() || answer["payload"].is_null()),
            Resolves::Html => prop_assert!(!answer["htmlResponse"].is_null()),
            Resolves::Data | Resolves::Payload | Resolves::Frame => {}
        }
    }

    #[test]
    fn chunks_and_canonical_replies_are_never_a_surprise(frame in any_frame(), value in any_json()) {
        let asked = read(&frame);
        if let Some(chunk) = chunk(&asked, &value.clone().into()) {
            prop_assert!(chunk.to::<Value>().unwrap().is_object());
        }
        let reply = canonical_reply(&asked.name, value.clone().into()).to::<Value>().unwrap();
        prop_assert_eq!(reply.is_object(), value.is_object());
    }
}
