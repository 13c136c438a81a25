//! `waypost serve`: the hub, until it is told to stop.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use futures::FutureExt as _;
use tokio::net::TcpListener;

use super::client::Running;
use super::{Context, output, told_to_stop};
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::hub::Hub;
use crate::{tokens, transports};

/// Runs the hub until it is told to stop.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  waypost serve --listen 127.0.0.1:7420

It prints its address and a token that holds until it stops. Other verbs in the same project find both by themselves.")]
pub(super) struct Serve {
    /// The address to listen on; the one of `[hub] listen` when none is named.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Serve {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let hub = Hub::open(&context.project).await?;
        let listen = self.listen.unwrap_or_else(|| hub.config.hub.listen.clone());
        let served = serve(&hub, &listen, context.json).await;
        hub.close().await;
        served.map(|()| ExitCode::SUCCESS)
    }
}

async fn serve(hub: &Arc<Hub>, listen: &str, json: bool) -> Result<()> {
    let (listener, address) = bind(listen).await?;
    let token = tokens::fresh()?;
    let url = format!("http://{address}");
    let running = Running {
        url: url.clone(),
        token: token.clone(),
    };
    let path = Running::path(&hub.state());
    leave_word(&path, &running)?;
    hub.begin();
    let resumed = hub.runs.resume().await?;
    if json {
        output::line(&serde_json::json!({ "url": url, "token": token, "resumed": resumed }).to_string())?;
    } else {
        output::line(&format!(
            "waypost is listening on {url}\ntoken, until it stops: {token}"
        ))?;
        if resumed > 0 {
            output::note(&format!("{resumed} runs that were cut off are taken up again"));
        }
    }
    let router = transports::router(hub, listen, &token)?;
    // Clients that are told `localhost` try either loopback address first.
    let other = match also(address).await {
        Some(listener) => transports::serve(listener, router.clone(), std::future::pending()).boxed(),
        None => std::future::pending().boxed(),
    };
    let stopped = tokio::select! {
        stopped = transports::serve(listener, router, async { drop(told_to_stop().await) }) => stopped,
        failed = other => failed,
    };
    drop(std::fs::remove_file(&path));
    if !json {
        output::note("stopped; runs that had not ended are taken up at the next start");
    }
    stopped
}

/// Listens on an address; the error says what to do when it is taken.
pub(super) async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr)> {
    let cannot = |error: std::io::Error| {
        let message = format!("cannot listen on `{listen}`; choose another with --listen or `[hub] listen`");
        Error::new(ErrorKind::Unavailable, message)
            .blame(Blame::Operator)
            .because(error)
    };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    if !address.ip().is_loopback() {
        let message = format!(
            "`{listen}` can be reached from other machines, and this version does not encrypt: listen on a loopback address"
        );
        return Err(Error::new(ErrorKind::Denied, message));
    }
    Ok((listener, address))
}

/// The same port on the other loopback address, where there is one and nobody has it.
async fn also(address: SocketAddr) -> Option<TcpListener> {
    let other: IpAddr = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
        _ => return None,
    };
    TcpListener::bind((other, address.port())).await.ok()
}

/// Leaves address and token where the command line of the same user finds them.
fn leave_word(path: &Path, running: &Running) -> Result<()> {
    let text = serde_json::to_string(running)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write JSON").because(error))?;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("{} cannot be written", path.display())).because(error)
    })
}
