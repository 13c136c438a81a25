//! The writing side of a connection: requests and answers first, then what nobody waits for, and pings in between.
//!
//! A peer that does not take a frame in time, or does not answer a ping, ends here.

use std::pin::pin;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, close_code};
use futures::SinkExt;
use futures::stream::SplitSink;
use futures::stream::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::{Ending, Limits, Outgoing, OutgoingQueue, close};
use crate::call::Json;

/// How many frames are handed over before they are flushed.
const BATCH: usize = 32;

/// What is to be written next.
enum Next {
    /// What was moved into the batch.
    Batch,
    One(Message),
}

/// Writes until the connection ends: what is queued, and in between what `more` has.
pub(in crate::transports) async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    mut outgoing: OutgoingQueue,
    more: impl Stream<Item = Json>,
    pong: &Notify,
    limits: Limits,
) -> Ending {
    let mut ping = interval_at(Instant::now() + limits.ping, limits.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pong_due = None;
    let mut batch = Vec::with_capacity(BATCH);
    let mut more = pin!(more.fuse());
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
            Some(frame) = more.next() => Next::One(text(&frame)),
        };
        let written = match next {
            Next::One(message) => timely(limits.stall, sink.send(message)).await,
            Next::Batch => {
                gather(&mut outgoing, &mut batch).await;
                write_batch(sink, &mut batch, limits.stall).await
            }
        };
        // Broken, or not taken in time: there is nobody to say good-bye to.
        written?;
    }
}

/// Adds to the batch what those who are about to write will have written: one flush then serves them all.
async fn gather(outgoing: &mut OutgoingQueue, batch: &mut Vec<Outgoing>) {
    tokio::task::yield_now().await;
    while batch.len() < BATCH
        && let Ok(frame) = outgoing.try_recv()
    {
        batch.push(frame);
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
