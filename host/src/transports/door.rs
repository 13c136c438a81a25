//! The door for programs that the hub itself starts: a port of its own on the loopback addresses, opened when it is needed.
//!
//! It is there whether or not the hub serves, and leads to the sockets of such programs alone. Clients that are told `localhost` find
//! it whichever address they try first.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use axum::Router;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::agent_socket::AgentSocket;
use super::gate::Gate;
use super::plugin_socket::PluginSocket;
use crate::error::{Error, ErrorKind, Result};
use crate::seats::Door;

/// Ports that are tried until one is free on both addresses.
const TRIES: usize = 16;

/// A door that opens once.
#[derive(Default)]
pub struct LocalDoor {
    /// What is behind it.
    behind: OnceLock<Behind>,
    open: OnceCell<Open>,
}

struct Behind {
    agents: Arc<AgentSocket>,
    plugins: PluginSocket,
}

struct Open {
    port: u16,
    _stop: DropGuard,
}

impl LocalDoor {
    /// Says what is behind it, once.
    pub fn leads_to(&self, agents: Arc<AgentSocket>, plugins: PluginSocket) {
        drop(self.behind.set(Behind { agents, plugins }));
    }

    async fn open(&self) -> Result<Open> {
        let Some(Behind { agents, plugins }) = self.behind.get() else {
            return Err(Error::new(ErrorKind::Unavailable, "the hub is not open yet"));
        };
        let listeners = listen().await?;
        let port = listeners.first().and_then(|listener| listener.local_addr().ok());
        let port = port.map_or(0, |address| address.port());
        let gate = Arc::new(Gate::new(&format!("localhost:{port}")));
        let router = Router::new()
            .merge(Arc::clone(agents).routes(Arc::clone(&gate)))
            .merge(plugins.clone().routes(gate));
        let stop = CancellationToken::new();
        for listener in listeners {
            let (router, stop) = (router.clone(), stop.clone());
            tokio::spawn(async move { drop(super::serve(listener, router, stop.cancelled_owned()).await) });
        }
        Ok(Open {
            port,
            _stop: stop.drop_guard(),
        })
    }
}

impl Door for LocalDoor {
    fn port(&self) -> BoxFuture<'_, Result<u16>> {
        Box::pin(async move { Ok(self.open.get_or_try_init(|| self.open()).await?.port) })
    }
}

/// The same port on both loopback addresses; on the one alone where the machine has no other.
async fn listen() -> Result<Vec<TcpListener>> {
    let mut last = None;
    for _ in 0..TRIES {
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(cannot)?;
        let port = four.local_addr().map_err(cannot)?.port();
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            Ok(six) => return Ok(vec![four, six]),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = Some(error),
            Err(_) => return Ok(vec![four]),
        }
    }
    Err(cannot(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into())))
}

fn cannot(error: std::io::Error) -> Error {
    let message = "no port of this machine is free for programs to connect to";
    Error::new(ErrorKind::Unavailable, message).because(error)
}
