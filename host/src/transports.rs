//! The ways in: one file for each wire format, and the list of them, [`router`].

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::error::Result;
use crate::hub::Hub;
use crate::tokens::Scope;

pub mod agent_socket;
pub mod api;
pub mod arrivals;
pub mod caller;
pub mod dialect;
pub mod direct_socket;
pub mod door;
pub mod gate;
pub mod plugin_socket;
pub mod socket;
pub mod token;

/// Connections at the same time.
const CONNECTIONS: usize = 1024;

/// Time for the head of a request.
const HEAD: Duration = Duration::from_secs(10);

/// Everything that the hub serves on its address, behind the gate that checks Host, Origin and token. The one that is given
/// here may do everything, and ends with this process.
pub fn router(hub: &Arc<Hub>, listen: &str, token: &str) -> Result<Router> {
    let gate = Arc::new(gate::Gate::new(listen));
    let agents = Arc::clone(&hub.agents).routes(Arc::clone(&gate));
    hub.tokens.hold(token, "serve", Scope::Admin);
    let api = api::router(Arc::clone(hub))
        .layer(from_fn_with_state(Arc::clone(&hub.tokens), token::bearer))
        .layer(from_fn_with_state(Arc::clone(&gate), gate::guard));
    let plugins = hub.plugin_socket.clone().routes(Arc::clone(&gate));
    let connections = Arc::clone(&hub.connections).routes(gate);
    Ok(api.merge(agents).merge(connections).merge(plugins))
}

/// Serves until told to stop; connections that are open then are cut, since what they asked for is in the log.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) -> Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let arrivals = Arc::new(arrivals::Arrivals::default());
    tokio::pin!(stop);
    let mut open = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return Ok(()),
            Some(_) = open.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let arrival = arrivals.welcome(place);
        let known = Arc::clone(&arrival);
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&known));
            request
        });
        let service = TowerToHyperService::new(service);
        open.spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new());
            // Without a timer the limit on the head would be no limit at all.
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(128 << 10)
                .max_headers(64);
            let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::select! {
                served = serving => {
                    if let Err(error) = served {
                        tracing::debug!(error, "a connection ended");
                    }
                }
                why = arrival.overdue() => tracing::debug!("a connection was cut: {why}"),
            }
        });
    }
}

/// The next connection, as soon as there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            drop(stream.set_nodelay(true));
            Some((stream, place))
        }
        Err(error) => {
            // Out of descriptors, mostly: the place is given back, and others may close theirs meanwhile.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::task::yield_now().await;
            None
        }
    }
}
