//! What agents hear.

use super::*;

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
