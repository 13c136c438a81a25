//! Unix sockets of the operator's. Needs the grant `socket`, a list of sockets by name; not for agents.
//!
//! A manifest names the sockets, as in `socket = [{ name = "docker" }]`; the operator says where they are.

use std::time::Duration;

use crate::Result;
use crate::bindings::imports::waypost::socket::sockets;

/// A connection, and what comes over it, in pieces of at most 64 KiB. Dropping it closes the connection.
#[derive(Debug)]
pub struct Connection(sockets::Connection);

impl Connection {
    /// Connects to the socket of this name.
    pub fn open(socket: &str) -> Result<Self> {
        sockets::Connection::connect(socket, None).map(Self)
    }

    /// The same, with a time limit for all of the connection. The hub takes the smaller of this and what is left to the
    /// plugin itself.
    pub fn open_for(socket: &str, limit: Duration) -> Result<Self> {
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        sockets::Connection::connect(socket, Some(limit)).map(Self)
    }

    /// Sends all of this, waiting for the other side to take it.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.0.send(bytes.as_ref())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) -> Result<()> {
        self.0.finish()
    }

    /// All that comes until the other side closes the connection.
    pub fn bytes(self) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        for piece in self {
            whole.extend(piece?);
        }
        Ok(whole)
    }
}

impl Iterator for Connection {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}
