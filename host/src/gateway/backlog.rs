//! Notifications that wait for one subscriber: bounded in number and in bytes, and nobody waits for room.

use std::sync::Arc;

use super::Notification;
use super::bounded::{Entrance, Exit, bounded};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Notifications.
    pub notifications: usize,
    /// Bytes of all of them. One that is larger fits when nothing else waits.
    pub bytes: usize,
}

/// The end of the carrier.
pub struct Outbox(Entrance<(Arc<Notification>, u64)>);

/// The end of whoever hands them over.
pub struct Backlog(Exit<(Arc<Notification>, u64)>);

/// A queue of notifications, and its two ends.
pub fn backlog(room: Room) -> (Outbox, Backlog) {
    let (entrance, exit) = bounded(room.notifications, room.bytes);
    (Outbox(entrance), Backlog(exit))
}

impl Outbox {
    /// Queues a notification, and that `dropped` others were lost before it; false when there is no room.
    pub fn put(&self, notification: &Arc<Notification>, dropped: u64) -> bool {
        self.0.put((Arc::clone(notification), dropped), notification.size())
    }
}

impl Backlog {
    /// The next notification and how many were lost before it; none when its carrier is gone.
    pub async fn next(&mut self) -> Option<(Arc<Notification>, u64)> {
        self.0.next().await
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
