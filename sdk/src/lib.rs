//! What the author of a Waypost plugin depends on.
//!
//! A plugin is a WASM component that plays one role, chosen by the one macro it calls:
//!
//! | role | what it does | macro |
//! |---|---|---|
//! | handler | executes capability calls | [`handler!`] |
//! | provider | makes the places where agent loops run | [`provider!`] |
//! | agent | is such a loop | [`agent!`] |
//! | observer | is told of calls | [`observer!`] |
//!
//! A complete handler, typed in and out:
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use waypost_sdk::{Call, CallError};
//!
//! #[derive(Deserialize)]
//! struct Ask {
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeting {
//!     text: String,
//! }
//!
//! fn greet(call: &Call, ask: Ask) -> Result<Greeting, CallError> {
//!     if ask.name.is_empty() {
//!         return Err(CallError::invalid("`name` is empty: say who is to be greeted"));
//!     }
//!     Ok(Greeting { text: format!("Hello {}, from {}", ask.name, call.project) })
//! }
//!
//! waypost_sdk::handler!(greet);
//! # fn main() {}
//! ```
//!
//! Its `Cargo.toml` has `crate-type = ["cdylib"]` under `[lib]` (and `"rlib"` when other crates are to use its parts);
//! `cargo build --release --target wasm32-wasip2` makes the component. A file with the same name and the ending `.toml`
//! beside it is its manifest: who it is, what it serves, what it asks for.
//!
//! Every call starts from a fresh instance, so nothing in memory survives from one call to the next; what must survive
//! goes into [`state`]. A panic ends that call alone, with its message in the plugin's log.
//!
//! What a plugin imports beyond [`log`] must be granted: [`gateway`], [`state`], [`workspace`], [`http`], [`files`],
//! [`process`], [`socket`]. With the grant `env` the variables that it names are there, in `std::env`. An import that is not
//! used is not in the component, so a plugin needs a grant only for what it calls.
//!
//! Functions that reach the hub work inside the hub alone: called from a native test they panic. Keep the thinking in
//! functions of your own and test those.

#![warn(missing_docs)]

mod agent;
#[doc(hidden)]
pub mod bindings;
mod error;
pub mod files;
pub mod gateway;
mod handler;
pub mod http;
pub mod log;
mod observer;
pub mod process;
mod provider;
pub mod socket;
pub mod state;
pub mod workspace;

pub use agent::{Outcome, Task, Turn};
pub use error::{CallError, Result};
pub use handler::Call;
pub use observer::Notification;
pub use provider::{Health, Place, Provider, Runtime, Wanted};

/// Facts beside a message. Ignore the names you do not know; those that start with `waypost.` are the hub's.
pub type Meta = Vec<(String, String)>;

/// What the macros call.
#[doc(hidden)]
pub mod role {
    pub use crate::handler::{answer, typed};

    /// Counts a type as used.
    pub const fn used<T>() {}
}

/// Exports a component. A native build, as for tests, has nowhere to export to and only counts it as used.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($role:ident, $export:ident, $component:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::$role::$export!($component with_types_in $crate::bindings::$role);
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::role::used::<$component>();
    };
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
