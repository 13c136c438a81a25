//! The writing side of a connection: requests and answers first, then notifications, and pings in between.
//!
//! A peer that does not take a frame in time, or does not answer a ping, ends here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures::SinkExt;
use futures::stream::SplitSink;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::carrier::Outgoing;
use super::{Ending, Limits, OutgoingQueue, close, frames};
use crate::call::Json;
use crate::gateway::{Backlog, Notification};

/// How many frames are handed over before they are flushed.
const BATCH: usize = 32;

/// What is to be written next.
enum Next {
    /// What was moved into the batch.
    Batch,
    One(Message),
}

/// Writes until the connection ends.
pub(in crate::transports) async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    mut outgoing: OutgoingQueue,
    mut backlog: Option<Backlog>,
    pong: &Notify,
    limits: Limits,
) -> Ending {
    let mut ping = interval_at(Instant::now() + limits.ping, limits.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pong_due = None;
    let mut batch = Vec::with_capacity(BATCH);
    let mut unsaid = 0u64;
    loop {
        let next = tokio::select! {
            biased;
            () = pong.notified() => {
                pong_due = None;
                continue;
            }
            () = at(pong_due) => return close(close_code::POLICY, "no pong in time"),
            _ = ping.tick() => {
                pong_due.get_or_insert_with(|| Instant::now() + limits.pong);
                Next::One(Message::Ping(Bytes::new()))
            }
            count = outgoing.recv_many(&mut batch, BATCH) => match count {
                0 => return None,
                _ => Next::Batch,
            },
            Some((notification, dropped)) = next(&mut backlog) => {
                unsaid = unsaid.saturating_add(dropped);
                match frames::notification(&notification, unsaid) {
                    Ok(frame) if frame.as_str().len() <= limits.frame() => {
                        unsaid = 0;
                        Next::One(text(&frame))
                    }
                    _ => {
                        unsaid = unsaid.saturating_add(1);
                        continue;
                    }
                }
            }
        };
        let written = match next {
            Next::One(message) => timely(limits.stall, sink.send(message)).await,
            Next::Batch => write_batch(sink, &mut batch, limits.stall).await,
        };
        // Broken, or not taken in time: there is nobody to say good-bye to.
        written?;
    }
}

/// The next notification, where there are any.
async fn next(backlog: &mut Option<Backlog>) -> Option<(Arc<Notification>, u64)> {
    match backlog {
        Some(backlog) => backlog.next().await,
        None => std::future::pending().await,
    }
}

/// Each request counts as sent only when its turn has come.
async fn write_batch(
    sink: &mut SplitSink<WebSocket, Message>,
    batch: &mut Vec<Outgoing>,
    stall: Duration,
) -> Option<()> {
    for frame in batch.drain(..).filter_map(Outgoing::start) {
        timely(stall, sink.feed(text(&frame))).await?;
    }
    timely(stall, sink.flush()).await
}

async fn timely(stall: Duration, step: impl Future<Output = Result<(), axum::Error>>) -> Option<()> {
    timeout(stall, step).await.ok()?.ok()
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn text(frame: &Json) -> Message {
    Message::Text(Utf8Bytes::from(frame.as_str()))
}

/// The close frame that a reading error deserves.
pub(in crate::transports) fn ending(error: axum::Error) -> Ending {
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
