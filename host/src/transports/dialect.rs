//! The frames of Codebolt's agents and the calls they stand for, in both directions.
//!
//! Pure: text in, values out. [`decode`] reads what an agent says, [`encode`] and [`chunk`] write what it hears, and
//! [`awaited`] is the table of what it waits for. Two dialects are spoken. SDK 1.1.99 sends no `requestId`, takes the
//! first frame whose `type` (or `event`) is the one it waits for, waits for ever, and ends on a frame that is not a
//! JSON object. The newer SDK matches by `requestId` first. So each answer is one object of the type that 1.1.99
//! awaits, on failure too, and repeats the `requestId`.
//!
//! The facts are public: the npm packages `@codebolt/codeboltjs` 1.1.99 (its compiled modules) and `@codebolt/types`
//! 1.0.16 (the schemas of the dialect in between), and the repository `codeboltai/codeboltjs`.
//!
//! Not here: sockets, the order of answers on a connection, who may connect, and what a call does.

use std::sync::Arc;

use crate::call::{CallError, CallName, Json};

mod awaited;
mod canonical;
mod decode;
mod encode;
mod fields;
mod fill;
mod route;
mod start;

pub use awaited::{Awaits, By, Resolves, awaited};
pub use decode::{REQUEST_ID, decode};
pub use encode::{canonical_reply, chunk, encode};
pub use start::{Start, start_message, stop_message};

/// One frame of an agent, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What is asked for, in the hub's own spelling.
    pub name: CallName,
    /// The canonical message; an error when a field is missing or wrong, which is then the end of the call.
    pub message: Result<Json, CallError>,
    /// The agent's own id of the frame, a string or a number, as it came.
    pub request_id: Option<Json>,
    /// What the agent waits for; none when it waits for nothing.
    pub awaits: Option<Awaits>,
    /// The hubs that the frame has passed, oldest first.
    pub route: Arc<[Arc<str>]>,
    /// The whole frame as it came.
    pub frame: Json,
    /// The `type` as the agent spelled it.
    pub kind: Box<str>,
    /// The `action` as the agent spelled it.
    pub action: Option<Box<str>>,
    /// What the frame is to the agent's run.
    pub part: Part,
    /// The agent that `agentEvent:startAgent` asks for: its answer must name the same one.
    agent_id: Option<Json>,
}

/// What a frame is to the run of the agent that sent it.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A call, and nothing else.
    Call,
    /// The agent began to work. Also a call, as the next two are.
    Started,
    /// The agent stopped.
    Stopped {
        /// Its result.
        message: Option<Json>,
        /// Why it failed, when it did.
        error: Option<String>,
    },
    /// The agent has finished.
    Finished,
    /// An answer or a report to the hub. Never a call.
    Answer,
}

/// Why a frame could not be understood. The connection stays; only an answer with its `requestId` makes sense.
#[derive(Clone, Debug, PartialEq)]
pub enum Malformed {
    /// It is not one JSON object.
    NotAnObject,
    /// It is one, but its head is missing or of the wrong type.
    Field {
        /// What is wrong, and what belongs there.
        text: String,
        /// The `requestId`, when that could be read.
        request_id: Option<Json>,
    },
}

#[cfg(test)]
mod tests;
