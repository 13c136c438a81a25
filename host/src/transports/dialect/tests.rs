//! What agents write and hear, as tables; and that nothing an agent or a result can hold breaks a rule.

mod heard;
mod random;

use serde_json::{Value, json};

use super::*;
use crate::error::ErrorKind;

fn read(frame: &Value) -> Asked {
    decode(&frame.to_string()).unwrap()
}

fn message(frame: &Value) -> Value {
    read(frame).message.unwrap().to().unwrap()
}

fn answered(frame: &Value, result: Value) -> Value {
    encode(&read(frame), &Ok(result.into())).unwrap().to().unwrap()
}

fn failed(frame: &Value) -> Value {
    let error = CallError::new(ErrorKind::NotFound, "it is gone");
    encode(&read(frame), &Err(error)).unwrap().to().unwrap()
}

/// Whether all fields of `part` are in `whole` with the same value.
#[track_caller]
fn holds(whole: &Value, part: Value) {
    for (name, value) in part.as_object().unwrap() {
        assert_eq!(whole.get(name).unwrap_or(&Value::Null), value, "`{name}` of {whole}");
    }
}

fn fs(action: &str, message: Value) -> Value {
    json!({"type": "fsEvent", "action": action, "message": message})
}

#[test]
fn file_calls_of_every_dialect_are_one_message() {
    for (action, wire, own, canonical) in [
        (
            "createFile",
            json!({"fileName": "a", "source": "x", "filePath": "d"}),
            "createFile",
            json!({"path": "d/a", "content": "x"}),
        ),
        (
            "createFile",
            json!({"fileName": "d", "source": "x", "filePath": "d"}),
            "createFile",
            json!({"path": "d/d", "content": "x"}),
        ),
        (
            "createFile",
            json!({"fileName": "a", "source": "x", "filePath": "/p/"}),
            "createFile",
            json!({"path": "/p/a", "content": "x"}),
        ),
        (
            "createFile",
            json!({"filePath": "d/a", "content": ""}),
            "createFile",
            json!({"path": "d/a", "content": ""}),
        ),
        (
            "createFolder",
            json!({"folderName": "n", "folderPath": ""}),
            "createFolder",
            json!({"path": "n"}),
        ),
        (
            "createFolder",
            json!({"folderPath": "d/n"}),
            "createFolder",
            json!({"path": "d/n"}),
        ),
        ("readFile", json!({"filePath": "a"}), "readFile", json!({"path": "a"})),
        (
            "readFile",
            json!({"filePath": "a", "offset": 1, "limit": 2}),
            "readFile",
            json!({"path": "a", "offset": 1, "limit": 2}),
        ),
        (
            "updateFile",
            json!({"filename": "a", "filePath": "d", "newContent": "y"}),
            "updateFile",
            json!({"path": "d/a", "content": "y"}),
        ),
        (
            "updateFile",
            json!({"filename": "a", "filePath": "d/a", "newContent": "y"}),
            "updateFile",
            json!({"path": "d/a", "content": "y"}),
        ),
        (
            "deleteFile",
            json!({"filename": "a", "filePath": "a"}),
            "deleteFile",
            json!({"path": "a"}),
        ),
        (
            "deleteFolder",
            json!({"foldername": "n", "folderpath": "d"}),
            "deleteFolder",
            json!({"path": "d/n"}),
        ),
        (
            "fileList",
            json!({"folderPath": ".", "isRecursive": true}),
            "fileList",
            json!({"path": ".", "recursive": true}),
        ),
        ("listFiles", json!({"path": "."}), "fileList", json!({"path": "."})),
        (
            "listCodeDefinitionNames",
            json!({"path": "src"}),
            "listCodeDefinitionNames",
            json!({"path": "src"}),
        ),
        (
            "searchFiles",
            json!({"path": ".", "regex": "x", "filePattern": "*.rs"}),
            "searchFiles",
            json!({"path": ".", "regex": "x", "filePattern": "*.rs"}),
        ),
        (
            "searchFiles",
            json!({"path": ".", "regex": "x", "filePattern": ""}),
            "searchFiles",
            json!({"path": ".", "regex": "x"}),
        ),
        (
            "writeToFile",
            json!({"relPath": "a", "newContent": "z"}),
            "writeToFile",
            json!({"path": "a", "content": "z"}),
        ),
        (
            "grepSearch",
            json!({"path": ".", "pattern": "x", "options": {"includePattern": "*.rs", "excludePattern": "", "caseSensitive": false}}),
            "grepSearch",
            json!({"path": ".", "pattern": "x", "include": "*.rs", "caseSensitive": false}),
        ),
        (
            "grep_search",
            json!({"path": ".", "query": "x", "includePattern": "*.rs", "caseSensitive": true}),
            "grepSearch",
            json!({"path": ".", "pattern": "x", "include": "*.rs", "caseSensitive": true}),
        ),
        (
            "fuzzySearch",
            json!({"query": "q"}),
            "fuzzySearch",
            json!({"query": "q"}),
        ),
        (
            "file_search",
            json!({"query": "q"}),
            "fuzzySearch",
            json!({"query": "q"}),
        ),
        (
            "applyDiff",
            json!({"path": "a", "diff": "@@", "options": {"prompt": "p"}}),
            "applyDiff",
            json!({"path": "a", "diff": "@@"}),
        ),
        (
            "edit_file_with_diff",
            json!({"target_file": "a", "code_edit": "@@", "diffIdentifier": "i", "prompt": "p"}),
            "applyDiff",
            json!({"path": "a", "diff": "@@"}),
        ),
        (
            "read_many_files",
            json!({"paths": ["a"], "include": ["*.rs"], "max_files": 3, "max_total_size": 9, "recursive": true}),
            "readManyFiles",
            json!({"paths": ["a"], "include": ["*.rs"], "maxFiles": 3, "maxTotalSize": 9}),
        ),
        (
            "list_directory",
            json!({"path": "d", "ignore": ["x"], "show_hidden": true, "detailed": true, "limit": 5}),
            "listDirectory",
            json!({"path": "d", "ignore": ["x"], "showHidden": true, "detailed": true, "limit": 5}),
        ),
        ("acme", json!({"any": 1}), "acme", json!({"any": 1})),
    ] {
        let frame = fs(action, wire);
        assert_eq!(read(&frame).name, CallName::new("fsEvent", Some(own)), "{frame}");
        assert_eq!(message(&frame), canonical, "{frame}");
    }
}

#[test]
fn parameters_are_found_wherever_an_sdk_puts_them() {
    for frame in [
        json!({"type": "FSEvent", "action": "readFile", "params": {"filePath": "a"}}),
        json!({"type": "fsevent", "action": "read_file", "payload": {"path": "a"}}),
        json!({"type": "fsEvent", "action": "readFile", "filePath": "a", "message": null}),
    ] {
        assert_eq!(message(&frame), json!({"path": "a"}), "{frame}");
    }
}

#[test]
fn a_wrong_field_is_the_answer_to_its_call() {
    for (frame, text) in [
        (fs("readFile", json!({})), "fsEvent:readFile needs `filePath`, a string"),
        (
            fs("readFile", json!({"filePath": 1})),
            "`filePath` of fsEvent:readFile must be a string",
        ),
        (
            fs("readFile", json!({"filePath": "a", "limit": -1})),
            "`limit` of fsEvent:readFile must be a whole number",
        ),
        (
            fs("writeToFile", json!({"relPath": "a"})),
            "fsEvent:writeToFile needs `newContent`, a string",
        ),
        (
            fs("writeToFile", json!({"relPath": "a", "newContent": {}})),
            "`newContent` of fsEvent:writeToFile must be a string",
        ),
        (
            fs("fileList", json!({"folderPath": "a", "isRecursive": "yes"})),
            "`isRecursive` of fsEvent:fileList must be true or false",
        ),
        (
            fs("readManyFiles", json!({"paths": "a"})),
            "`paths` of fsEvent:readManyFiles must be a list of strings",
        ),
        (
            fs("listDirectory", json!({"path": "a", "ignore": 1})),
            "`ignore` of fsEvent:listDirectory must be a string or a list of strings",
        ),
        (
            json!({"type": "inference"}),
            "inference needs `prompt`, a text, or an object with `messages`",
        ),
        (
            json!({"type": "inference", "message": {"prompt": {"messages": [1]}}}),
            "`messages` of inference must be a list of objects",
        ),
        (
            json!({"type": "executeCommand"}),
            "executeCommand needs `message`, the command line as a string",
        ),
        (
            json!({"type": "waitforReply"}),
            "waitforReply needs `message`, a string",
        ),
        (
            json!({"type": "confirmationRequest", "message": "?", "buttons": 1}),
            "`buttons` of confirmationRequest must be a list of strings",
        ),
    ] {
        let asked = read(&frame);
        let error = asked.message.clone().unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Invalid, text));
        let answer: Value = encode(&asked, &asked.message).unwrap().to().unwrap();
        holds(&answer, json!({"success": false, "error": text}));
        assert!(asked.awaits.unwrap().accepts(answer["type"].as_str().unwrap()));
    }
}

#[test]
fn an_inference_is_a_text_or_a_conversation() {
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (wire, canonical) in [
        (
            json!({"prompt": "hi", "llmrole": "coder"}),
            json!({"prompt": "hi", "llmrole": "coder"}),
        ),
        (
            json!({"prompt": {"full": true, "messages": messages, "tools": [], "tool_choice": "auto"}}),
            json!({"messages": messages, "tools": [], "tool_choice": "auto"}),
        ),
        (
            json!({"prompt": {"messages": messages, "max_tokens": 5, "temperature": 0.5, "stream": false, "llmrole": "a"}, "llmrole": "b"}),
            json!({"messages": messages, "max_tokens": 5, "temperature": 0.5, "stream": false, "llmrole": "a"}),
        ),
        (
            json!({"prompt": {"messages": messages}, "llmrole": "b"}),
            json!({"messages": messages, "llmrole": "b"}),
        ),
        (json!({"messages": messages}), json!({"messages": messages})),
        (json!({"prompt": messages}), json!({"messages": messages})),
        (json!("hi"), json!({"prompt": "hi"})),
    ] {
        assert_eq!(
            message(&json!({"type": "inference", "message": wire})),
            canonical,
            "{wire}"
        );
    }
}

#[test]
fn what_an_endpoint_would_refuse_of_a_conversation_is_left_out() {
    let said = json!([
        {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": {"a": 1}},
        {"role": "user", "content": ["one", {"type": "image_url", "image_url": {"url": "u"}}]},
    ]);
    let read = message(&json!({"type": "inference", "message": {"prompt": {"messages": said}}}));
    let kept = json!([
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "{\"a\":1}"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    ]);
    assert_eq!(read["messages"], kept);
}

#[test]
fn flat_frames_have_their_own_messages() {
    for (frame, canonical) in [
        (
            json!({"type": "executeCommand", "message": "ls", "returnEmptyStringOnSuccess": true}),
            json!({"command": "ls", "returnEmptyStringOnSuccess": true}),
        ),
        (
            json!({"type": "executeCommandWithStream", "message": "ls", "executeInMain": false}),
            json!({"command": "ls"}),
        ),
        (
            json!({"type": "ExecuteCommand", "params": {"command": "ls"}}),
            json!({"command": "ls"}),
        ),
        (json!({"type": "sendInterruptToTerminal"}), json!({})),
        (
            json!({"type": "sendMessage", "message": "m", "payload": {}}),
            json!({"message": "m", "payload": {}}),
        ),
        (
            json!({"type": "sendMessage", "message": {"a": 1}}),
            json!({"message": "{\"a\":1}"}),
        ),
        (
            json!({"type": "notificationEvent", "message": "m", "eventType": "git"}),
            json!({"message": "m", "eventType": "git"}),
        ),
        (json!({"type": "waitforReply", "message": "m"}), json!({"message": "m"})),
        (
            json!({"type": "confirmationRequest", "message": "m", "buttons": ["a", 1], "withFeedback": true}),
            json!({"message": "m", "buttons": ["a", "1"], "withFeedback": true}),
        ),
        (
            json!({"type": "getChatHistory", "threadId": "t"}),
            json!({"thread": "t"}),
        ),
        (json!({"type": "processStarted"}), json!({})),
        (
            json!({"type": "processStopped", "message": {"a": 1}, "error": "e"}),
            json!({"message": {"a": 1}, "error": "e"}),
        ),
    ] {
        assert_eq!(message(&frame), canonical, "{frame}");
    }
}

#[test]
fn kinds_without_a_shape_pass_as_they_are() {
    for (frame, name, canonical) in [
        (
            json!({"type": "codebolttools", "action": "executeTool", "toolName": "t--x", "params": {"a": 1}, "requestId": "r"}),
            "codebolttools:executeTool",
            json!({"toolName": "t--x", "params": {"a": 1}}),
        ),
        (
            json!({"type": "gitEvent", "action": "Commit", "message": "m"}),
            "gitEvent:Commit",
            json!({"message": "m"}),
        ),
        (
            json!({"type": "tokenizerEvent", "action": "addToken", "message": {"item": "i"}}),
            "tokenizerEvent:addToken",
            json!({"item": "i"}),
        ),
        (
            json!({"type": "kvStore.get", "params": {"key": "k"}, "requestId": 1}),
            "kvStore:get",
            json!({"key": "k"}),
        ),
        (
            json!({"type": "narrative.createSnapshot", "payload": {"a": 1}, "x": 2}),
            "narrative:createSnapshot",
            json!({"payload": {"a": 1}, "x": 2}),
        ),
        (
            json!({"type": "environment.createEnvironment", "action": "z"}),
            "environment:createEnvironment",
            json!({"action": "z"}),
        ),
        (
            json!({"type": "stateEvent", "message": {"action": "getAppState", "modelId": "m"}}),
            "projectStateEvent:getAppState",
            json!({"action": "getAppState", "modelId": "m"}),
        ),
        (
            json!({"type": "projectEvent", "action": "getProjectPath"}),
            "settingEvent:getProjectPath",
            json!({}),
        ),
        (
            json!({"type": "projectEvent", "action": "runProject"}),
            "runProject",
            json!({}),
        ),
        (json!({"type": ".x"}), ".x", json!({})),
    ] {
        assert_eq!(read(&frame).name.to_string(), name, "{frame}");
        assert_eq!(message(&frame), canonical, "{frame}");
    }
}

#[test]
fn numbers_keep_their_digits() {
    let text = r#"{"type":"x","big":123456789012345678901234567890,"requestId":1.50}"#;
    let asked = decode(text).unwrap();
    assert_eq!(
        asked.message.clone().unwrap().as_str(),
        r#"{"big":123456789012345678901234567890}"#
    );
    let answer = encode(&asked, &asked.message).unwrap();
    assert!(answer.as_str().contains(r#""requestId":1.50"#), "{answer:?}");
}

#[test]
fn a_frame_without_a_readable_head_is_malformed() {
    for text in ["", "nonsense", "null", "[]", "1", "\"x\"", "{\"type\":\"x\"", "{}{}"] {
        assert_eq!(decode(text).unwrap_err(), Malformed::NotAnObject, "{text}");
    }
    let deep = format!("{{\"type\":\"x\",\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let (long, id) = ("a".repeat(97), "b".repeat(300));
    let named = "must be a string of 1 to 96 bytes without `:` and control characters";
    for (text, problem, request_id) in [
        (
            json!({"requestId": "r"}).to_string(),
            "a frame needs a `type`".to_owned(),
            Some("\"r\""),
        ),
        (
            json!({"type": null, "requestId": 7}).to_string(),
            "a frame needs a `type`".to_owned(),
            Some("7"),
        ),
        (json!({"type": 1}).to_string(), format!("`type` {named}"), None),
        (json!({"type": ""}).to_string(), format!("`type` {named}"), None),
        (json!({"type": "a:b"}).to_string(), format!("`type` {named}"), None),
        (json!({"type": long}).to_string(), format!("`type` {named}"), None),
        (
            json!({"type": "x", "action": [], "requestId": "r"}).to_string(),
            format!("`action` {named}"),
            Some("\"r\""),
        ),
        (
            json!({"type": "x", "requestId": {}}).to_string(),
            "`requestId` must be a string or a number of at most 256 bytes".to_owned(),
            None,
        ),
        (
            json!({"type": "x", "requestId": id}).to_string(),
            "`requestId` must be a string or a number of at most 256 bytes".to_owned(),
            None,
        ),
        (deep, "the JSON is nested more than 64 levels deep".to_owned(), None),
        (
            r#"{"\ud800":1}"#.to_owned(),
            "the name of a field is not valid Unicode".to_owned(),
            None,
        ),
    ] {
        let request_id = request_id.map(|id| Json::parse(id).unwrap());
        assert_eq!(
            decode(&text).unwrap_err(),
            Malformed::Field {
                text: problem,
                request_id
            },
            "{text}"
        );
    }
}

#[test]
fn frames_that_steer_a_run_are_told_apart() {
    let stopped = |message: Option<Value>, error: Option<&str>| Part::Stopped {
        message: message.map(Into::into),
        error: error.map(Into::into),
    };
    for (frame, part) in [
        (json!({"type": "processStarted"}), Part::Started),
        (json!({"type": "processFinished"}), Part::Finished),
        (
            json!({"type": "processStoped", "message": "m"}),
            stopped(Some(json!("m")), None),
        ),
        (
            json!({"type": "processStopped", "error": "e", "requestId": "r"}),
            stopped(None, Some("e")),
        ),
        (
            json!({"type": "processStoped", "error": {"code": 1}}),
            stopped(None, Some("{\"code\":1}")),
        ),
        (
            json!({"type": "processStoped", "answer": 1}),
            stopped(Some(json!({"answer": 1})), None),
        ),
        (json!({"type": "processStoped"}), stopped(None, None)),
        (json!({"type": "actionBlockComplete"}), Part::Answer),
        (
            json!({"type": "remoteProviderEvent", "action": "providerStopResponse"}),
            Part::Answer,
        ),
        (json!({"type": "steeringMessage"}), Part::Answer),
        (json!({"type": "closeSignalResponse"}), Part::Answer),
        (json!({"type": "sendMessage", "message": "m"}), Part::Call),
        (json!({"type": "somethingNew"}), Part::Call),
    ] {
        assert_eq!(read(&frame).part, part, "{frame}");
    }
}
