//! What every socket has in common: its limits, how frames are read and written, and how it ends.
//!
//! Not here: what a frame says, and who may connect.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use futures::StreamExt;
use futures::stream::SplitStream;
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite;

use crate::call::Json;
use crate::gateway::Delivery;

pub(super) mod writer;

/// Bad frames (not one JSON object) after which a connection is closed.
const STRIKES: u32 = 3;

/// How long a connection is waited for, and how much it may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of one message from the connection. Default 16 MiB.
    pub message: usize,
    /// Requests and answers that wait to be written; more wait with their callers. Default 256.
    pub outgoing: usize,
    /// Notifications that wait to be written; more are dropped and counted. Default 1,024.
    pub notifications: usize,
    /// Bytes of notifications that wait to be written. Default 32 MiB.
    pub notification_bytes: usize,
    /// Time in which the connection must take one frame. Default 10 s.
    pub stall: Duration,
    /// Time between pings. Default 20 s.
    pub ping: Duration,
    /// Time from a ping to its pong. Default 10 s.
    pub pong: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            outgoing: 256,
            notifications: 1024,
            notification_bytes: 32 << 20,
            stall: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            pong: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Size of one message to the connection: an original message and its result, and what is around them.
    pub(super) fn frame(&self) -> usize {
        self.message.saturating_mul(2).saturating_add(64 << 10)
    }

    /// A socket that takes and holds no more than this.
    pub(super) fn bound(&self, socket: WebSocketUpgrade) -> WebSocketUpgrade {
        socket
            .read_buffer_size(16 << 10)
            .max_message_size(self.message)
            .max_frame_size(self.message)
            .write_buffer_size(128 << 10)
            .max_write_buffer_size(self.frame().saturating_add(256 << 10))
    }
}

/// How a connection ended from this side: with a close frame, unless it is gone already.
pub(super) type Ending = Option<CloseFrame>;

pub(super) fn close(code: u16, reason: &'static str) -> Ending {
    Some(CloseFrame {
        code,
        reason: reason.into(),
    })
}

/// The next frame of a connection, or how it ends. A binary message is taken for its text, as published clients do.
pub(super) async fn next(stream: &mut SplitStream<WebSocket>, pong: &Notify) -> Result<Utf8Bytes, Ending> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Binary(bytes))) => {
                return bytes
                    .try_into()
                    .map_err(|_| close(close_code::INVALID, "a message must be UTF-8"));
            }
            Some(Ok(Message::Ping(_))) => {}
            Some(Ok(Message::Pong(_))) => pong.notify_one(),
            Some(Ok(Message::Close(_))) | None => return Err(None),
            Some(Err(error)) => return Err(ending(error)),
        }
    }
}

/// Counts frames that are not one JSON object each, up to the one that ends the connection.
#[derive(Default)]
pub(super) struct Strikes(u32);

impl Strikes {
    /// One more.
    pub(super) fn count(&mut self) -> Result<(), Ending> {
        self.0 += 1;
        if self.0 < STRIKES {
            Ok(())
        } else {
            Err(close(close_code::POLICY, "three frames were not one JSON object each"))
        }
    }
}

/// A frame that waits to be written.
pub(super) struct Outgoing {
    frame: Json,
    /// Of a request: whether it may still leave.
    delivery: Option<Delivery>,
}

impl Outgoing {
    /// An answer to a frame of the connection.
    pub(super) fn answer(frame: Json) -> Self {
        Self { frame, delivery: None }
    }

    /// A request, which may still be given up.
    pub(super) fn request(frame: Json, delivery: Delivery) -> Self {
        Self {
            frame,
            delivery: Some(delivery),
        }
    }

    /// The frame, unless its request was given up meanwhile; from here on it counts as sent.
    fn start(self) -> Option<Json> {
        self.delivery
            .is_none_or(|delivery| delivery.start())
            .then_some(self.frame)
    }
}

/// The queue of requests and answers, as the writer sees it.
pub(super) type OutgoingQueue = mpsc::Receiver<Outgoing>;

/// The close frame that a reading error deserves.
fn ending(error: axum::Error) -> Ending {
    let code = match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => (close_code::SIZE, "the message is larger than this socket takes"),
        Some(tungstenite::Error::Utf8(_)) => (close_code::INVALID, "a text message must be UTF-8"),
        Some(tungstenite::Error::Protocol(_)) => (close_code::PROTOCOL, "the frame breaks the WebSocket protocol"),
        _ => return None,
    };
    Some(CloseFrame {
        code: code.0,
        reason: code.1.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_given_up_is_not_written() {
        let frame = || Json::null();
        assert!(Outgoing::answer(frame()).start().is_some());
        let delivery = Delivery::default();
        assert!(Outgoing::request(frame(), delivery.clone()).start().is_some());
        assert!(!delivery.withdraw());
        let delivery = Delivery::default();
        delivery.withdraw();
        assert!(Outgoing::request(frame(), delivery).start().is_none());
    }
}
