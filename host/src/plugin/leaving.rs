//! Plugins that no call reaches any more, for as long as calls are under way in them.
//!
//! Nothing here keeps one: the last call that ends in it takes its code along.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Loaded;

/// The plugins that were replaced or removed, and are still there.
#[derive(Default)]
pub(super) struct Leaving(Mutex<Vec<Weak<Loaded>>>);

impl Leaving {
    /// One more, if there was one.
    pub(super) fn add(&self, old: Option<Arc<Loaded>>) {
        let mut all = self.still_there();
        all.extend(old.as_ref().map(Arc::downgrade));
    }

    /// How many there are with this id.
    pub(super) fn of(&self, id: &str) -> usize {
        let all = self.still_there();
        let there = all.iter().filter_map(Weak::upgrade);
        there.filter(|loaded| *loaded.facts.id == *id).count()
    }

    fn still_there(&self) -> MutexGuard<'_, Vec<Weak<Loaded>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|loaded| loaded.strong_count() > 0);
        all
    }
}
