//! Connections that have not proven yet who they are: few, and not for long.
//!
//! Whoever opens many and says nothing, or says it slowly, takes places from others of his kind alone: the oldest of them
//! makes room for the newest, and those that have proven who they are stay. Not here: how they prove it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Extensions;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Connections at the same time that have not proven who they are.
pub const STRANGERS: usize = 256;

/// Time in which a connection must have proven who it is.
pub const TIME: Duration = Duration::from_secs(10);

/// All that are here and not known yet.
pub struct Arrivals {
    time: Duration,
    strangers: Mutex<Strangers>,
}

#[derive(Default)]
struct Strangers {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// One connection, in each of its requests; a socket keeps it as long as it is open.
pub struct Arrival {
    arrivals: Arc<Arrivals>,
    number: u64,
    known: CancellationToken,
    cut: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::new(TIME)
    }
}

impl Arrivals {
    /// Nobody yet; each that comes has so much time.
    pub fn new(time: Duration) -> Self {
        Self {
            time,
            strangers: Mutex::default(),
        }
    }

    /// A connection with its place among all connections.
    pub fn welcome(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Arc<Arrival> {
        let cut = CancellationToken::new();
        let mut strangers = self.strangers();
        let number = strangers.next;
        strangers.next += 1;
        strangers.waiting.insert(number, cut.clone());
        if strangers.waiting.len() > STRANGERS
            && let Some((_, oldest)) = strangers.waiting.pop_first()
        {
            oldest.cancel();
        }
        Arc::new(Arrival {
            arrivals: Arc::clone(self),
            number,
            known: CancellationToken::new(),
            cut,
            _place: place,
        })
    }

    /// How many have not proven who they are.
    pub fn waiting(&self) -> usize {
        self.strangers().waiting.len()
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrival {
    /// It has proven who it is, and may stay.
    pub fn admit(&self) {
        if !self.known.is_cancelled() {
            self.known.cancel();
            self.arrivals.strangers().waiting.remove(&self.number);
        }
    }

    /// Resolves when it has to go, with the reason; never once it is known.
    pub async fn overdue(&self) -> &'static str {
        let why = tokio::select! {
            biased;
            () = self.known.cancelled() => None,
            () = self.cut.cancelled() => Some("it did not say who it is, and a newer one needed its place"),
            () = tokio::time::sleep(self.arrivals.time) => Some("it did not say who it is in time"),
        };
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.strangers().waiting.remove(&self.number);
    }
}

/// Lets the connection of a request stay, since it has proven who it is; what a socket then keeps while it is open.
pub fn admit(extensions: &Extensions) -> Option<Arc<Arrival>> {
    let arrival = extensions.get::<Arc<Arrival>>()?;
    arrival.admit();
    Some(Arc::clone(arrival))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    fn arrive(arrivals: &Arc<Arrivals>) -> Arc<Arrival> {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        arrivals.welcome(place)
    }

    #[tokio::test]
    async fn the_oldest_stranger_makes_room_and_who_is_known_stays() {
        let arrivals = Arc::new(Arrivals::default());
        let known = arrive(&arrivals);
        known.admit();
        let oldest = arrive(&arrivals);
        let others: Vec<_> = (0..STRANGERS).map(|_| arrive(&arrivals)).collect();
        assert_eq!(arrivals.waiting(), STRANGERS);
        assert!(oldest.overdue().await.contains("a newer one needed its place"));
        assert!(!known.cut.is_cancelled() && others.iter().all(|other| !other.cut.is_cancelled()));
        drop(others);
        assert_eq!(arrivals.waiting(), 0);
    }

    #[tokio::test]
    async fn a_stranger_has_a_moment_and_who_is_known_has_all_the_time() {
        let arrivals = Arc::new(Arrivals::new(Duration::ZERO));
        let (stranger, known) = (arrive(&arrivals), arrive(&arrivals));
        known.admit();
        tokio::select! {
            biased;
            why = known.overdue() => panic!("{why}"),
            why = stranger.overdue() => assert_eq!(why, "it did not say who it is in time"),
        }
    }
}
