//! Counts its calls in memory, which does not work.

use std::sync::atomic::{AtomicU32, Ordering};

use waypost_sdk::{Call, Result};

static CALLS: AtomicU32 = AtomicU32::new(0);

fn count(_: &Call, (): ()) -> Result<u32> {
    Ok(CALLS.fetch_add(1, Ordering::Relaxed))
}

waypost_sdk::handler!(count);
