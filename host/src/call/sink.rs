//! Where the chunks of an answer go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, mpsc};

use super::{CallError, Copied, Json};
use crate::error::ErrorKind;

/// Where a handler writes its chunks. Bounded: a slow reader slows the handler, whose deadline keeps running.
#[derive(Clone, Debug)]
pub struct Sink {
    chunks: Option<mpsc::Sender<Json>>,
    delivered: Arc<AtomicBool>,
    copy: Option<Arc<Copied>>,
}

impl Sink {
    /// How many chunks wait unread before the handler has to wait.
    pub const CAPACITY: usize = 64;

    /// A sink for a caller who wants the end alone.
    pub fn discard() -> Self {
        Self {
            chunks: None,
            delivered: Arc::default(),
            copy: None,
        }
    }

    /// A sink and its reading end; dropping the reading end cancels the call.
    pub fn channel() -> (Self, mpsc::Receiver<Json>) {
        let (chunks, reader) = mpsc::channel(Self::CAPACITY);
        (
            Self {
                chunks: Some(chunks),
                delivered: Arc::default(),
                copy: None,
            },
            reader,
        )
    }

    /// The same sink, and a copy of what goes through it from now on; `room` is how many bytes all copies may keep.
    pub fn copied(&self, room: Arc<Semaphore>) -> (Self, Arc<Copied>) {
        let copy = Arc::new(Copied::new(room));
        let sink = Self {
            copy: Some(Arc::clone(&copy)),
            ..self.clone()
        };
        (sink, copy)
    }

    /// Hands over one chunk, waiting for room. An error means that nobody reads any more: stop.
    pub async fn emit(&self, chunk: Json) -> Result<(), CallError> {
        if let Some(copy) = &self.copy {
            copy.keep(&chunk);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_has_what_went_through_or_says_that_it_has_not_all() {
        let room = Arc::new(Semaphore::new(10));
        let chunk = |text: &str| Json::parse(text).unwrap();
        let (sink, copy) = Sink::discard().copied(Arc::clone(&room));
        sink.emit(chunk("[1]")).await.unwrap();
        sink.clone().emit(chunk("[2]")).await.unwrap();
        assert!(!sink.delivered());
        let kept = copy.take().unwrap();
        assert_eq!(
            (kept.chunks.as_slice(), room.available_permits()),
            (&[chunk("[1]"), chunk("[2]")][..], 4)
        );
        let (sink, more) = Sink::discard().copied(Arc::clone(&room));
        sink.emit(chunk("[3]")).await.unwrap();
        sink.emit(chunk("[4]")).await.unwrap();
        sink.emit(chunk("5")).await.unwrap();
        assert!(more.take().is_none());
        drop(kept);
        assert_eq!(room.available_permits(), 10);
    }
}
