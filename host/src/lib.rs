//! Waypost, the hub for AI agents.
//!
//! A small spine carries every capability call along one path (`dispatch`); everything else is a leaf of one file. The
//! code map and the invariants are in ARCHITECTURE.md. The public API of this library serves the binary, the tests and the
//! benches; it is not a stable interface.

pub mod bundled;
pub mod call;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod engine;
pub mod environment;
pub mod error;
pub mod gateway;
pub mod hub;
pub mod imports;
pub mod joined;
pub mod log;
pub mod plugin;
pub mod process;
pub mod route;
pub mod run;
pub mod runtimes;
pub mod seats;
pub mod secrets;
pub mod spawn;
pub mod text;
pub mod tokens;
pub mod transports;
pub mod workspace;
