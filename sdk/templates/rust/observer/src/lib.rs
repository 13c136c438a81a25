//! An observer: counts the calls of the project by their name, and those that failed.

use serde::{Deserialize, Serialize};
use waypost_sdk::{Notification, Result, log, state};

#[derive(Debug, Default, Deserialize, PartialEq, Serialize)]
struct Count {
    ended: u64,
    failed: u64,
}

impl Count {
    fn and(self, failed: bool) -> Self {
        Self { ended: self.ended.saturating_add(1), failed: self.failed.saturating_add(u64::from(failed)) }
    }
}

/// Told of one call after the other; nobody waits for it.
fn notice(notification: Notification) -> Result<()> {
    if notification.lagged > 0 {
        log::warn(format!("{} calls were not told", notification.lagged));
    }
    let name = notification.name();
    let before: Count = state::get(&name)?.unwrap_or_default();
    state::set(&name, &before.and(notification.end.is_err()))
}

waypost_sdk::observer!(notice);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_twice() {
        assert_eq!(Count::default().and(false).and(true), Count { ended: 2, failed: 1 });
    }
}
