//! Lines for the operator, in the plugin's log. Every plugin has it.
//!
//! What is printed on standard output and standard error goes there too, a panic's message included.

use crate::bindings::imports::waypost::log::log::{Level, log};

/// Writes a line that matters only to who looks for a fault.
pub fn debug(message: impl AsRef<str>) {
    log(Level::Debug, message.as_ref());
}

/// Writes a line that tells what was done.
pub fn info(message: impl AsRef<str>) {
    log(Level::Info, message.as_ref());
}

/// Writes a line about something odd that did no harm.
pub fn warn(message: impl AsRef<str>) {
    log(Level::Warn, message.as_ref());
}

/// Writes a line about something that failed.
pub fn error(message: impl AsRef<str>) {
    log(Level::Error, message.as_ref());
}
