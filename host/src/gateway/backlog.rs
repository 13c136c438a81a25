//! Notifications that wait for one subscriber: bounded in number and in bytes, and nobody waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::Notification;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Notifications.
    pub notifications: usize,
    /// Bytes of all of them. One that is larger fits when nothing else waits.
    pub bytes: usize,
}

/// The end of the carrier.
pub struct Outbox {
    queue: mpsc::Sender<(Arc<Notification>, u64)>,
    bytes: usize,
    queued: Arc<AtomicUsize>,
}

/// The end of whoever hands them over.
pub struct Backlog {
    queue: mpsc::Receiver<(Arc<Notification>, u64)>,
    queued: Arc<AtomicUsize>,
}

/// A queue of notifications, and its two ends.
pub fn backlog(room: Room) -> (Outbox, Backlog) {
    let (sender, receiver) = mpsc::channel(room.notifications);
    let queued = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        queue: sender,
        bytes: room.bytes,
        queued: Arc::clone(&queued),
    };
    let backlog = Backlog {
        queue: receiver,
        queued,
    };
    (outbox, backlog)
}

impl Outbox {
    /// Queues a notification, and that `dropped` others were lost before it; false when there is no room.
    pub fn put(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        let size = notification.size();
        if !self.reserve(size) {
            return false;
        }
        let queued = self.queue.try_send((Arc::clone(notification), dropped)).is_ok();
        if !queued {
            self.queued.fetch_sub(size, Ordering::Relaxed);
        }
        queued
    }

    fn reserve(&self, size: usize) -> bool {
        let room = |queued: usize| {
            let next = queued.saturating_add(size);
            (queued == 0 || next <= self.bytes).then_some(next)
        };
        self.queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
    }
}

impl Backlog {
    /// The next notification and how many were lost before it; none when its carrier is gone.
    pub async fn next(&mut self) -> Option<(Arc<Notification>, u64)> {
        let (notification, dropped) = self.queue.recv().await?;
        self.queued.fetch_sub(notification.size(), Ordering::Relaxed);
        Some((notification, dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Json;
    use crate::gateway::tests::call;

    fn notification(bytes: usize) -> Arc<Notification> {
        let call = call("chat");
        let text = format!("\"{}\"", "x".repeat(bytes - call.message.as_str().len() - 2));
        let notification = Notification::new(&call, &Ok(Json::parse(text).unwrap()));
        assert_eq!(notification.size(), bytes);
        Arc::new(notification)
    }

    #[tokio::test]
    async fn waiting_notifications_are_bounded_in_number_and_bytes() {
        let (outbox, mut backlog) = backlog(Room {
            notifications: 3,
            bytes: 1000,
        });
        let notify = |bytes, dropped| outbox.put(&notification(bytes), dropped);
        assert!(notify(600, 0));
        assert!(!notify(401, 0));
        assert!(notify(400, 1));
        assert!(!notify(100, 0));
        assert_eq!(backlog.next().await.map(|(_, dropped)| dropped), Some(0));
        assert_eq!(backlog.next().await.map(|(_, dropped)| dropped), Some(1));
        // One that is larger than all the room goes alone.
        assert!(notify(2000, 0));
        assert!(!notify(100, 0));
        backlog.next().await.unwrap();
        assert!(notify(100, 0) && notify(100, 0) && notify(100, 0));
        assert!(!notify(100, 0));
        drop(backlog);
        assert!(!notify(100, 0));
    }
}
