//! Where the chunks of an answer go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use super::{CallError, Json};
use crate::error::ErrorKind;

/// Where a handler writes its chunks. Bounded: a slow reader slows the handler, whose deadline keeps running.
#[derive(Clone, Debug)]
pub struct Sink {
    chunks: Option<mpsc::Sender<Json>>,
    delivered: Arc<AtomicBool>,
}

impl Sink {
    /// How many chunks wait unread before the handler has to wait.
    pub const CAPACITY: usize = 64;

    /// A sink for a caller who wants the end alone.
    pub fn discard() -> Self {
        Self {
            chunks: None,
            delivered: Arc::default(),
        }
    }

    /// A sink and its reading end; dropping the reading end cancels the call.
    pub fn channel() -> (Self, mpsc::Receiver<Json>) {
        let (chunks, reader) = mpsc::channel(Self::CAPACITY);
        (
            Self {
                chunks: Some(chunks),
                delivered: Arc::default(),
            },
            reader,
        )
    }

    /// Hands over one chunk, waiting for room. An error means that nobody reads any more: stop.
    pub async fn emit(&self, chunk: Json) -> Result<(), CallError> {
        // What nobody wants to see is not delivered: a call that brought it can still be repeated.
        let Some(chunks) = &self.chunks else { return Ok(()) };
        self.delivered.store(true, Ordering::Relaxed);
        let sent = chunks.send(chunk).await;
        sent.map_err(|_| CallError::new(ErrorKind::Cancelled, "the caller stopped reading the answer"))
    }

    /// Whether somebody reads the chunks.
    pub fn is_read(&self) -> bool {
        self.chunks.is_some()
    }

    /// Whether any chunk was handed over.
    pub fn delivered(&self) -> bool {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Resolves when the reading end is gone; never for a discarding sink.
    pub async fn closed(&self) {
        match &self.chunks {
            Some(chunks) => chunks.closed().await,
            None => std::future::pending().await,
        }
    }
}
