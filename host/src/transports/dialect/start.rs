//! What the hub says to an agent unasked: begin, and stop.

use std::time::SystemTime;

use serde_json::json;

use crate::call::Json;

/// What an agent is told when it is to begin.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What the user wants.
    pub prompt: &'a str,
    /// The id of the message.
    pub message_id: &'a str,
    /// The thread.
    pub thread_id: &'a str,
    /// The agent that is to work; empty when it has no name.
    pub agent: &'a str,
    /// When it was said.
    pub at: SystemTime,
}

/// The first frame for an agent: the user's message, with every list that an SDK reads.
pub fn start_message(start: &Start<'_>) -> Json {
    let Start {
        prompt,
        message_id,
        thread_id,
        agent,
        at,
    } = *start;
    json!({
        "type": "messageResponse",
        "message": {
            "userMessage": prompt,
            "currentFile": "",
            "selectedAgent": {"id": agent, "name": agent},
            "mentionedFiles": [],
            "mentionedFullPaths": [],
            "mentionedFolders": [],
            "mentionedMultiFile": [],
            "mentionedMCPs": [],
            "mentionedAgents": [],
            "mentionedDocs": [],
            "uploadedImages": [],
            "actions": [],
            "links": [],
            "controlFiles": [],
            "openedFiles": [],
            "universalAgentLastMessage": "",
            "messageId": message_id,
            "threadId": thread_id,
        },
        "sender": {"senderType": "user", "senderInfo": {}},
        "templateType": "userChat",
        "data": {"text": prompt},
        "messageId": message_id,
        "threadId": thread_id,
        "timestamp": humantime::format_rfc3339_millis(at).to_string(),
    })
    .into()
}

/// The frame that asks an agent to stop. SDK 1.1.99 hears it once it has announced `processStarted`.
pub fn stop_message() -> Json {
    json!({"type": "stopProcessClicked"}).into()
}
