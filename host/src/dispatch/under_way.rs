//! How many calls that may have an effect are under way for each run: a run ends after the last of them.
//!
//! Not here: reads, which are carried by who asks and gone with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The counts, by run; a run without any has no entry.
#[derive(Default)]
pub(super) struct UnderWay {
    counts: Mutex<HashMap<Arc<str>, usize>>,
    /// Tells that a run has none any more.
    none: Notify,
}

/// One call under way, until it is dropped.
pub(super) struct Entry {
    all: Arc<UnderWay>,
    run: Arc<str>,
}

impl UnderWay {
    /// Counts a call of this run.
    pub(super) fn enter(self: &Arc<Self>, run: &Arc<str>) -> Entry {
        *self.lock().entry(Arc::clone(run)).or_default() += 1;
        Entry {
            all: Arc::clone(self),
            run: Arc::clone(run),
        }
    }

    /// Resolves when this run has none.
    pub(super) async fn none_of(&self, run: &str) {
        loop {
            let none = self.none.notified();
            if !self.lock().contains_key(run) {
                return;
            }
            none.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.all.lock();
        if let Some(count) = counts.get_mut(&self.run) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.run);
                drop(counts);
                self.all.none.notify_waiters();
            }
        }
    }
}
