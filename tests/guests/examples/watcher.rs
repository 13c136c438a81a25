//! Takes notice.

use waypost_sdk::{Notification, Result, log};

fn notice(notification: Notification) -> Result<()> {
    log::info(notification.name());
    Ok(())
}

waypost_sdk::observer!(notice);
