//! What agents write and hear, as tables; and that nothing an agent or a result can hold breaks a rule.

use proptest::prelude::*;
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

#[test]
fn a_canonical_reply_is_an_answer_that_the_sdk_takes() {
    let command = |kind: &str| json!({"type": kind, "message": "ls"});
    let ended = |code: i32| json!({"exitCode": code, "stdout": "out", "stderr": "err", "truncated": false, "success": code == 0});
    for (frame, result, expected) in [
        (
            fs("readFile", json!({"filePath": "a"})),
            json!({"path": "a", "content": "c"}),
            json!({"type": "readFileResponse", "success": true, "content": "c"}),
        ),
        (
            fs("updateFile", json!({})),
            json!({"path": "a", "result": "written"}),
            json!({"type": "commandOutput", "result": "written"}),
        ),
        (
            fs("fileList", json!({})),
            json!({"result": "a\nb", "files": ["a", "b"]}),
            json!({"type": "fileListResponse", "result": "a\nb", "success": true}),
        ),
        (
            command("executeCommand"),
            ended(0),
            json!({"type": "commandFinish", "success": true, "stdout": "out", "message": "the command ended with exit code 0"}),
        ),
        (
            command("executeCommand"),
            ended(2),
            json!({"type": "commandError", "success": false, "exitCode": 2, "stderr": "err"}),
        ),
        (
            command("executeCommandRunUntilError"),
            ended(0),
            json!({"type": "commandError", "success": true}),
        ),
        (
            json!({"type": "sendInterruptToTerminal"}),
            json!({"interrupted": 0, "success": false}),
            json!({"type": "terminalInterrupted", "success": false, "interrupted": 0}),
        ),
        (
            json!({"type": "waitforReply", "message": "?"}),
            json!({"message": "m"}),
            json!({"type": "waitFormessageResponse", "message": "m"}),
        ),
        (
            json!({"type": "confirmationRequest", "message": "?"}),
            json!({"answer": "yes"}),
            json!({"type": "confirmationResponse", "answer": "yes", "message": "yes"}),
        ),
        (
            json!({"type": "confirmationRequest", "message": "?"}),
            json!({"answer": "", "feedback": "later"}),
            json!({"type": "feedbackResponse", "feedback": "later", "message": "later"}),
        ),
        (
            json!({"type": "getChatHistory"}),
            json!({"messages": [{"role": "user", "content": "c", "at": 0, "run": "r"}]}),
            json!({"type": "getChatHistoryResponse", "messages": [{"role": "user", "content": "c", "at": 0, "run": "r", "sender": "user", "type": "message", "timestamp": "1970-01-01T00:00:00.000Z"}]}),
        ),
        (
            json!({"type": "settingEvent", "action": "getProjectPath"}),
            json!({"path": "/p/q"}),
            json!({"type": "getProjectPathResponse", "projectPath": "/p/q", "projectName": "q"}),
        ),
        (
            json!({"type": "memoryEvent", "action": "get", "key": "k"}),
            json!({"data": 1}),
            json!({"type": "memoryGetResponse", "value": 1}),
        ),
        (
            json!({"type": "agentEvent", "action": "startAgent", "agentId": "a", "task": "t"}),
            json!({"agentId": "b", "result": "r"}),
            json!({"type": "taskCompletionResponse", "agentId": "a", "result": "r"}),
        ),
        (
            json!({"type": "browserEvent", "action": "getUrl"}),
            json!({"url": "u"}),
            json!({"type": "getUrlResponse", "event": "getUrlResponse", "url": "u"}),
        ),
        (
            json!({"type": "browserEvent", "action": "getHTML"}),
            json!({"html": "<p>"}),
            json!({"event": "htmlReceived", "htmlResponse": "<p>"}),
        ),
        (
            json!({"type": "browserEvent", "action": "screenshot"}),
            json!({"screenshot": "s"}),
            json!({"event": "screenshotResponse", "payload": {"screenshot": "s"}}),
        ),
        (
            json!({"type": "chatSummaryEvent", "action": "summarizeAll"}),
            json!({"messages": [1]}),
            json!({"payload": [1]}),
        ),
        (
            json!({"type": "codebolttools", "action": "executeTool"}),
            json!({"output": ""}),
            json!({"data": [false, ""]}),
        ),
        (
            json!({"type": "codebolttools", "action": "executeTool"}),
            json!({"data": [true, "no"]}),
            json!({"data": [true, "no"]}),
        ),
        (
            json!({"type": "codebolttools", "action": "executeTool"}),
            json!({"a": 1}),
            json!({"data": [false, "{\"a\":1}"]}),
        ),
        (
            json!({"type": "codebolttools", "action": "executeTool"}),
            json!("text"),
            json!({"data": [false, "text"]}),
        ),
        (
            json!({"type": "codebolttools", "action": "listToolsFromToolBoxes"}),
            json!({"tools": [1]}),
            json!({"data": [1]}),
        ),
        (
            json!({"type": "codebolttools", "action": "listToolsFromToolBoxes"}),
            json!({"data": {"tools": [1]}}),
            json!({"data": [1]}),
        ),
        (
            json!({"type": "codebolttools", "action": "listToolsFromToolBoxes", "requestId": "r"}),
            json!({"data": [1]}),
            json!({"data": {"tools": [1]}, "requestId": "r"}),
        ),
        (
            json!({"type": "codebolttools", "action": "getTools"}),
            json!({}),
            json!({"data": []}),
        ),
        (
            json!({"type": "codebolttools", "action": "configureToolBox"}),
            json!({"a": 1}),
            json!({"data": {"a": 1}}),
        ),
        (
            json!({"type": "somethingNew"}),
            json!(3),
            json!({"type": "somethingNewResponse", "success": true, "result": 3, "data": 3}),
        ),
        (
            json!({"type": "somethingNew"}),
            json!({"error": "e"}),
            json!({"success": false, "error": "e", "message": "e"}),
        ),
    ] {
        holds(&answered(&frame, result), expected);
    }
}

#[test]
fn an_answer_of_a_model_has_both_forms() {
    let frame = json!({"type": "inference", "message": {"prompt": "hi"}});
    let calls = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3});
    let flat = answered(
        &frame,
        json!({"content": "c", "tool_calls": calls, "usage": usage, "model": "m"}),
    );
    holds(
        &flat,
        json!({"type": "llmResponse", "role": "assistant", "finish_reason": "tool_calls"}),
    );
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "c", "tool_calls": calls}, "finish_reason": "tool_calls"});
    assert_eq!(
        flat["completion"],
        json!({"object": "chat.completion", "choices": [choice], "model": "m", "usage": usage})
    );
    let whole = answered(&frame, json!({"type": "llmResponse", "completion": flat["completion"]}));
    holds(
        &whole,
        json!({"content": "c", "tool_calls": calls, "usage": usage, "model": "m", "finish_reason": "tool_calls"}),
    );
    assert_eq!(
        answered(&frame, json!("plain"))["completion"]["choices"][0]["message"]["content"],
        json!("plain")
    );
    let failed = failed(&frame);
    holds(
        &failed,
        json!({"type": "llmResponse", "success": false, "content": "", "completion": null, "error": "it is gone"}),
    );
}

#[test]
fn the_replies_of_the_published_test_plugin_are_adapted() {
    for (frame, result, expected) in [
        (
            fs("readFile", json!({})),
            json!({"type": "readFileResponse", "success": true, "path": "a", "content": "c", "encoding": "utf8", "size": 1}),
            json!({"type": "readFileResponse", "content": "c"}),
        ),
        (
            fs("createFile", json!({})),
            json!({"type": "writeFileResponse", "success": true, "path": "a", "message": "ok"}),
            json!({"type": "createFileResponse", "result": "ok"}),
        ),
        (
            fs("writeToFile", json!({})),
            json!({"type": "writeFileResponse", "success": true, "path": "a", "message": "ok"}),
            json!({"type": "writeToFileResponse", "result": "ok"}),
        ),
        (
            fs("updateFile", json!({})),
            json!({"type": "writeFileResponse", "success": true, "path": "a", "message": "ok"}),
            json!({"type": "commandOutput", "message": "ok"}),
        ),
        (
            fs("fileList", json!({})),
            json!({"type": "listDirectoryResponse", "success": true, "path": ".", "entries": [{"name": "a"}, "b"]}),
            json!({"type": "fileListResponse", "files": ["a", "b"], "result": "a\nb"}),
        ),
        (
            json!({"type": "executeCommand", "message": "ls"}),
            json!({"type": "commandExecutionResponse", "success": true, "output": "o", "exitCode": 0}),
            json!({"type": "commandFinish", "stdout": "o", "stderr": "", "exitCode": 0}),
        ),
        (
            json!({"type": "executeCommand", "message": "ls"}),
            json!({"type": "commandError", "error": "e"}),
            json!({"type": "commandError", "success": false, "exitCode": 1, "message": "e"}),
        ),
        (
            fs("fileList", json!({})),
            json!({"type": "fileListResponse", "success": true, "message": "handled", "handledBy": "p"}),
            json!({"type": "fileListResponse", "result": "handled"}),
        ),
        (
            json!({"type": "gitEvent", "action": "Status"}),
            json!({"type": "gitStatusResponse", "success": true, "data": {"ahead": 1}}),
            json!({"type": "StatusResponse", "data": {"ahead": 1}}),
        ),
        (
            json!({"type": "confirmationRequest", "message": "?"}),
            json!({"type": "feedbackResponse", "feedback": "f", "requestId": "theirs", "replyRequestId": "x"}),
            json!({"type": "feedbackResponse", "feedback": "f", "requestId": null, "replyRequestId": null}),
        ),
    ] {
        holds(&answered(&frame, result), expected);
    }
}

#[test]
fn a_failure_is_something_that_every_caller_can_handle() {
    for (frame, expected) in [
        (
            fs("readFile", json!({})),
            json!({"type": "readFileResponse", "result": "it is gone"}),
        ),
        (
            json!({"type": "executeCommand", "message": "x"}),
            json!({"type": "commandError", "exitCode": 1, "stderr": ""}),
        ),
        (
            json!({"type": "executeCommandWithStream", "message": "x"}),
            json!({"type": "commandError"}),
        ),
        (
            json!({"type": "codebolttools", "action": "executeTool", "requestId": 5}),
            json!({"data": [true, "it is gone"], "requestId": 5}),
        ),
        (
            json!({"type": "codebolttools", "action": "listToolsFromToolBoxes"}),
            json!({"data": []}),
        ),
        (
            json!({"type": "codebolttools", "action": "configureToolBox"}),
            json!({"data": "it is gone"}),
        ),
        (
            json!({"type": "browserEvent", "action": "screenshot"}),
            json!({"event": "screenshotResponse", "payload": {"success": false, "error": "it is gone"}}),
        ),
        (
            json!({"type": "browserEvent", "action": "getHTML"}),
            json!({"htmlResponse": "it is gone"}),
        ),
        (
            json!({"type": "chatSummaryEvent", "action": "summarize"}),
            json!({"payload": null}),
        ),
        (
            json!({"type": "agentEvent", "action": "startAgent", "agentId": "a"}),
            json!({"type": "taskCompletionResponse", "agentId": "a"}),
        ),
        (json!({"type": "getChatHistory"}), json!({"messages": []})),
    ] {
        let answer = failed(&frame);
        holds(
            &answer,
            json!({"success": false, "error": "it is gone", "message": "it is gone"}),
        );
        holds(&answer, expected);
    }
    let silent = answered(&json!({"type": "somethingNew"}), json!({"success": false, "error": ""}));
    assert_eq!(
        silent["error"],
        "the call failed, and whoever executed it did not say why"
    );
}

#[test]
fn what_awaits_nothing_is_never_answered() {
    for kind in [
        "sendMessage",
        "notificationEvent",
        "processStarted",
        "processStoped",
        "runProject",
        "providerHeartbeat",
    ] {
        let asked = read(&json!({"type": kind, "message": "m", "requestId": "r"}));
        assert_eq!(encode(&asked, &Ok(json!({}).into())), None, "{kind}");
        assert_eq!(
            encode(&asked, &Err(CallError::new(ErrorKind::Other, "e"))),
            None,
            "{kind}"
        );
    }
}

#[test]
fn the_output_of_a_followed_command_comes_without_a_request_id() {
    let asked = read(&json!({"type": "executeCommandWithStream", "message": "ls", "requestId": "r"}));
    for (given, expected) in [
        (
            json!({"stream": "stdout", "text": "t"}),
            Some(json!({"type": "commandOutput", "stdout": "t", "output": "t"})),
        ),
        (
            json!({"stream": "stderr", "text": "t"}),
            Some(json!({"type": "commandOutput", "stderr": "t", "output": "t"})),
        ),
        (
            json!({"type": "x", "output": "t"}),
            Some(json!({"type": "commandOutput", "output": "t"})),
        ),
        (json!({"other": 1}), None),
        (json!([1]), None),
    ] {
        assert_eq!(
            chunk(&asked, &given.into()).map(|json| json.to::<Value>().unwrap()),
            expected
        );
    }
    let plain = read(&json!({"type": "executeCommand", "message": "ls"}));
    assert_eq!(chunk(&plain, &json!({"stream": "stdout", "text": "t"}).into()), None);
}

#[test]
fn the_frame_of_a_connected_process_becomes_a_canonical_reply() {
    let completion =
        json!({"choices": [{"message": {"role": "assistant", "content": "c"}, "finish_reason": "stop"}], "model": "m"});
    for (name, result, expected) in [
        (
            "fsEvent:readFile",
            json!({"type": "readFileResponse", "requestId": "r", "content": "c"}),
            json!({"content": "c"}),
        ),
        (
            "fsEvent:readFile",
            json!({"content": "c", "requestId": "r"}),
            json!({"content": "c", "requestId": "r"}),
        ),
        (
            "executeCommand",
            json!({"type": "x", "success": true, "output": "o"}),
            json!({"success": true, "output": "o", "stdout": "o", "stderr": "", "exitCode": 0, "truncated": false}),
        ),
        (
            "inference",
            json!({"type": "llmResponse", "completion": completion}),
            json!({"completion": completion, "content": "c", "role": "assistant", "finish_reason": "stop", "model": "m"}),
        ),
        (
            "confirmationRequest",
            json!({"type": "feedbackResponse", "feedback": "f"}),
            json!({"answer": "", "feedback": "f"}),
        ),
        (
            "waitforReply",
            json!({"type": "x", "success": false, "error": "e"}),
            json!({"success": false, "error": "e"}),
        ),
        (
            "gitEvent:Status",
            json!({"type": "gitStatusResponse", "data": 1}),
            json!({"type": "gitStatusResponse", "data": 1}),
        ),
        ("inference", json!([1]), json!([1])),
    ] {
        let reply = canonical_reply(&name.parse().unwrap(), result.into());
        assert_eq!(reply.to::<Value>().unwrap(), expected, "{name}");
    }
}

#[test]
fn the_first_frame_is_a_whole_user_message() {
    let start = Start {
        prompt: "do it",
        message_id: "m",
        thread_id: "t",
        agent: "a",
        at: std::time::UNIX_EPOCH,
    };
    let frame: Value = start_message(&start).to().unwrap();
    holds(
        &frame,
        json!({"type": "messageResponse", "messageId": "m", "threadId": "t", "timestamp": "1970-01-01T00:00:00.000Z"}),
    );
    let said = &frame["message"];
    holds(
        said,
        json!({"userMessage": "do it", "messageId": "m", "threadId": "t", "selectedAgent": {"id": "a", "name": "a"}}),
    );
    for list in [
        "mentionedFiles",
        "mentionedFullPaths",
        "mentionedFolders",
        "uploadedImages",
        "mentionedMCPs",
        "mentionedAgents",
    ] {
        assert_eq!(said[list], json!([]), "{list}");
    }
    assert_eq!(stop_message().as_str(), r#"{"type":"stopProcessClicked"}"#);
}

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
        let awaits = asked.awaits.clone().unwrap();
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
