//! Sleeps for a thousand seconds.

use std::time::Duration;

use waypost_sdk::{Call, Result};

#[expect(
    clippy::disallowed_methods,
    reason = "a guest that waits for its clock is what the trial needs"
)]
fn sleep(_: &Call, (): ()) -> Result<()> {
    std::thread::sleep(Duration::from_secs(1000));
    Ok(())
}

waypost_sdk::handler!(sleep);
