//! The plugin socket: a process on `/plugin` that the hub has started, as published plugins are.
//!
//! It names itself (`pluginId`) and has a token that was made for this start of it alone (`pluginToken`). From then on it is
//! a connection like one on `/plugins`, but that it claims and subscribes when it wants to. It is told when it starts and
//! when it shall stop. Not here: starting and ending the process ([`crate::spawn`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{RawQuery, State};
use axum::http::{Extensions, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::json;
use tokio::sync::mpsc;

use super::agent_socket::parameter;
use super::arrivals;
use super::direct_socket::{self, DirectSocket, Greeting, Member};
use super::gate::{self, Gate, TokenDigest};
use crate::call::Json;
use crate::config::Spawn;
use crate::error::Result;
use crate::tokens;

/// The processes that are expected, by name.
#[derive(Clone, Default)]
pub struct Expected(Arc<Mutex<HashMap<Arc<str>, Entry>>>);

/// One start of a process.
struct Entry {
    token: TokenDigest,
    member: Member,
    /// Its first frame, and what it is told; taken by the one connection that it makes.
    greeting: Option<Greeting>,
}

/// The far end of one start, for whoever started the process.
pub struct Start {
    /// What the process must connect with.
    pub token: String,
    /// What it is told.
    pub orders: mpsc::Sender<Json>,
    /// Fires when it has said that it stopped.
    pub stopped: mpsc::Receiver<()>,
}

impl Expected {
    /// Expects a process, in place of an earlier start of it.
    pub fn expect(&self, spawn: &Spawn, folder: &str) -> Result<Start> {
        let token = tokens::fresh()?;
        let (orders, ordered) = mpsc::channel(4);
        let (stops, stopped) = mpsc::channel(1);
        let manifest = json!({ "id": spawn.name, "name": spawn.name });
        let greeting = Greeting {
            start: json!({
                "type": "pluginStartMessage", "pluginId": spawn.name, "pluginDir": folder, "manifest": manifest
            })
            .into(),
            orders: ordered,
            stopped: stops,
        };
        let digest = TokenDigest::of(&token);
        let entry = Entry {
            member: Member::spawned(spawn, *digest.bytes()),
            token: digest,
            greeting: Some(greeting),
        };
        self.entries().insert(spawn.name.as_str().into(), entry);
        Ok(Start { token, orders, stopped })
    }

    /// Who connects, if the token is that of this start and nobody has used it.
    fn take(&self, name: &str, presented: &str) -> Option<(Member, Greeting)> {
        let mut entries = self.entries();
        let entry = entries.get_mut(name).filter(|entry| entry.token.admits(presented))?;
        Some((entry.member.clone(), entry.greeting.take()?))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket of one project.
#[derive(Clone)]
pub struct PluginSocket {
    direct: Arc<DirectSocket>,
    expected: Expected,
}

impl PluginSocket {
    /// A socket for the processes that are expected.
    pub fn new(direct: Arc<DirectSocket>, expected: Expected) -> Self {
        Self { direct, expected }
    }

    /// The route `/plugin`, behind the gate.
    pub fn routes(self, gate: Arc<Gate>) -> Router {
        let routes = Router::new().route("/plugin", any(upgrade)).with_state(self);
        routes.route_layer(from_fn_with_state(gate, gate::guard))
    }
}

async fn upgrade(
    State(plugins): State<PluginSocket>,
    RawQuery(query): RawQuery,
    extensions: Extensions,
    socket: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let socket = match socket {
        Ok(socket) => socket,
        Err(rejection) => return rejection.into_response(),
    };
    // Published clients append all that they have, unencoded; only these two are looked at.
    let query = query.unwrap_or_default();
    let named = parameter(&query, "pluginId").zip(parameter(&query, "pluginToken"));
    let taken = named.and_then(|(name, token)| plugins.expected.take(&name, &token));
    let Some((member, greeting)) = taken else {
        let text = "no plugin of this `pluginId` has this `pluginToken`; each start of a [[spawn]] gets one for one connection\n";
        return (StatusCode::UNAUTHORIZED, text).into_response();
    };
    let arrival = arrivals::admit(&extensions);
    plugins.direct.limits().bound(socket).on_upgrade(async move |socket| {
        // It keeps its place among all connections as long as it is open.
        let _arrival = arrival;
        direct_socket::serve(&plugins.direct, &member, Some(greeting), socket).await;
    })
}
