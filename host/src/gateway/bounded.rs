//! A queue that is bounded in number and in bytes, and for whose room nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// The end at which things go in.
pub(super) struct Entrance<T> {
    queue: mpsc::Sender<(T, usize)>,
    bytes: usize,
    queued: Arc<AtomicUsize>,
}

/// The end at which they come out.
pub(super) struct Exit<T> {
    queue: mpsc::Receiver<(T, usize)>,
    queued: Arc<AtomicUsize>,
}

/// A queue of at most `count` things of at most `bytes` bytes. One that is larger fits when nothing else waits.
pub(super) fn bounded<T>(count: usize, bytes: usize) -> (Entrance<T>, Exit<T>) {
    let (sender, receiver) = mpsc::channel(count);
    let queued = Arc::new(AtomicUsize::new(0));
    let entrance = Entrance {
        queue: sender,
        bytes,
        queued: Arc::clone(&queued),
    };
    let exit = Exit {
        queue: receiver,
        queued,
    };
    (entrance, exit)
}

impl<T> Entrance<T> {
    /// Queues one thing of so many bytes; false when there is no room.
    pub(super) fn put(&self, item: T, size: usize) -> bool {
        let room = |queued: usize| {
            let next = queued.saturating_add(size);
            (queued == 0 || next <= self.bytes).then_some(next)
        };
        let reserved = self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if reserved.is_err() {
            return false;
        }
        let queued = self.queue.try_send((item, size)).is_ok();
        if !queued {
            self.queued.fetch_sub(size, Ordering::Relaxed);
        }
        queued
    }
}

impl<T> Exit<T> {
    /// The next thing; none when the entrance is gone and nothing waits.
    pub(super) async fn next(&mut self) -> Option<T> {
        let (item, size) = self.queue.recv().await?;
        self.queued.fetch_sub(size, Ordering::Relaxed);
        Some(item)
    }
}
