//! A connection to a server: its name resolved once, every address checked, and the connection made to one of those.
//!
//! No proxy is asked for, whatever the environment says, and no connection is kept for the next request: nothing that one
//! plugin opened is ever used by another.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use futures::future::BoxFuture;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::meant;
use crate::call::{CallError, Deadline};
use crate::config::{Means, Named, Scheme, Server};
use crate::error::{Blame, ErrorKind};

/// Names that are looked up at the same time; the system's look-up blocks a thread and cannot be stopped.
const LOOKUPS: usize = 16;

/// Finds the addresses of a name.
pub trait Resolver: Send + Sync {
    /// All of them.
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// What the operating system says.
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let place = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
            let name = name.to_owned();
            let look_up = move || {
                let _place = place;
                let found = (name.as_str(), 0).to_socket_addrs()?;
                Ok(found.map(|address| address.ip()).collect())
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}

/// How plugins reach servers.
pub struct Network {
    resolver: Arc<dyn Resolver>,
    /// Made at the first request that needs it: the machine's certificates are read then.
    tls: OnceCell<Arc<ClientConfig>>,
    places: Arc<Semaphore>,
    most: usize,
    /// Those of shadows, so that no other call is refused for them.
    beside: Arc<Semaphore>,
}

/// Shadows have this part of the places, beside the others.
const BESIDE: usize = 8;

/// A connection, in the clear or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Network {
    /// A network where names lead where `resolver` says, with so many connections at the same time.
    pub fn new(resolver: Arc<dyn Resolver>, most: usize) -> Self {
        Self {
            resolver,
            tls: OnceCell::new(),
            places: Arc::new(Semaphore::new(most)),
            most,
            beside: Arc::new(Semaphore::new(most.div_ceil(BESIDE))),
        }
    }

    /// No network at all, for a plugin that is tested without a hub.
    pub fn none() -> Self {
        Self::new(Arc::new(SystemResolver::default()), 0)
    }

    /// The same, trusting servers by these settings.
    #[cfg(test)]
    pub(super) fn trusting(self, config: ClientConfig) -> Self {
        let tls = OnceCell::new_with(Some(Arc::new(config)));
        Self { tls, ..self }
    }

    /// A place for one connection, of a shadow or of any other call.
    pub(in crate::imports) fn place(&self, shadow: bool) -> Result<OwnedSemaphorePermit, CallError> {
        let (places, most) = if shadow {
            (&self.beside, self.most.div_ceil(BESIDE))
        } else {
            (&self.places, self.most)
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| {
            if self.most == 0 {
                let message = "there is no network here: a plugin that is tested without a hub reaches no server";
                return CallError::new(ErrorKind::Unavailable, message);
            }
            let message = format!(
                "{} hold {most} connections open, the limit `outgoing` of [limits]; try again later",
                if shadow { "shadows" } else { "plugins" },
            );
            CallError::new(ErrorKind::Limit, message)
        })
    }

    /// Connects to a server, at an address that is meant.
    pub(super) async fn connect(
        &self,
        server: &Server,
        means: Means,
        deadline: Deadline,
    ) -> Result<Box<dyn Stream>, CallError> {
        let addresses = self.addresses(server, means).await?;
        let mut failed = None;
        for (position, address) in addresses.iter().enumerate() {
            // An address that does not answer leaves time for those behind it.
            let share = deadline.left() / u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
            match timeout(share, dial(*address)).await {
                Ok(Ok(stream)) => return self.secure(server, stream).await,
                Ok(Err(error)) => failed = Some(error.to_string()),
                Err(_) => failed = Some("it does not answer".to_owned()),
            }
        }
        Err(unreachable(
            server,
            &failed.unwrap_or_else(|| "its name has no address".to_owned()),
        ))
    }

    /// The addresses of a server. One that is not meant condemns all: who mixes them hopes to be chosen.
    async fn addresses(&self, server: &Server, means: Means) -> Result<Vec<SocketAddr>, CallError> {
        let found = match &server.host {
            Named::Address(address) => vec![*address],
            Named::Name(name) => {
                let found = self.resolver.addresses(name).await;
                found.map_err(|error| unreachable(server, &format!("its name cannot be resolved ({error})")))?
            }
        };
        if let Some(address) = found.iter().find(|address| !meant(means, **address)) {
            tracing::warn!(%server, %address, "a plugin's request was refused: the name leads to an address that its grant does not mean");
            let message = format!(
                "{server} leads to an address that the grant does not mean: a name must lead to the public internet, or, with \
                 `private` after it in `http` of the operator's grant, to the operator's own network; the hub's log has the \
                 address"
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        Ok(found
            .into_iter()
            .map(|address| SocketAddr::new(address, server.port))
            .collect())
    }

    async fn secure(&self, server: &Server, stream: TcpStream) -> Result<Box<dyn Stream>, CallError> {
        if server.scheme == Scheme::Http {
            return Ok(Box::new(stream));
        }
        let name = match &server.host {
            Named::Address(address) => Ok(ServerName::IpAddress((*address).into())),
            Named::Name(name) => ServerName::try_from(name.clone()),
        };
        let name = name.map_err(|_| unreachable(server, "no certificate can name it"))?;
        let config = Arc::clone(self.tls.get_or_try_init(trusted).await?);
        let secured = TlsConnector::from(config).connect(name, stream).await;
        let stream = secured.map_err(|error| unreachable(server, &format!("TLS failed ({error})")))?;
        Ok(Box::new(stream))
    }
}

/// Connects to one address and to no other.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    if stream.peer_addr()? != address {
        return Err(io::Error::other("another address answered"));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS that trusts what this machine trusts.
async fn trusted() -> Result<Arc<ClientConfig>, CallError> {
    let read = tokio::task::spawn_blocking(|| {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_platform_verifier()
            .map(|builder| builder.with_no_client_auth())
    });
    match read.await {
        Ok(Ok(config)) => Ok(Arc::new(config)),
        failed => {
            tracing::error!(?failed, "the certificates of this machine cannot be used");
            let message = "the hub finds no certificates to trust servers by; install the system's `ca-certificates`";
            Err(CallError::new(ErrorKind::Unavailable, message).blame(Blame::Operator))
        }
    }
}

fn unreachable(server: &Server, why: &str) -> CallError {
    CallError::new(ErrorKind::Unavailable, format!("{server} cannot be reached: {why}"))
}
