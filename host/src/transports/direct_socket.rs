//! The direct socket: an outside process on `/plugins`, as one of the gateway's carriers.
//!
//! It names itself (`providerId`), proves it with its token (`members`), and from then on holds the claim that it may hold and
//! hears of locally handled calls. One that may claim `inference` may offer models, too. Nothing is sent to it but
//! requests, notifications and answers. Not here: what its frames look like (`frames`), and which replies count
//! ([`crate::gateway`]).

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::arrivals;
use super::caller::{self, Caller};
use super::dialect::Part;
use super::gate::{self, Gate};
use super::socket::{self, Ending, Limits, Outgoing, Strikes, close, writer};
use crate::call::{CallError, CallName, Json, Target, covers};
use crate::error::{ErrorKind, Result};
use crate::gateway::{Attached, Gateway, Offer};

mod asks;
mod carrier;
pub mod frames;
mod members;
mod offers;
#[cfg(test)]
mod tests;

pub use asks::{Starter, Within};
use carrier::{Notices, SocketCarrier};
use frames::{ClientBody, ClientFrame, Malformed, Order, Outcome};
pub use members::{Member, Members};

/// What a process says when it has stopped as it was told.
const STOPPED: &str = "pluginStopResponse";

/// The socket of one project.
pub struct DirectSocket {
    gateway: Arc<Gateway>,
    project: Arc<str>,
    members: Members,
    within: Within,
    limits: Limits,
    /// What this hub is called on the route of a frame.
    runtime: Arc<str>,
}

impl DirectSocket {
    /// The socket of one project, for these members, who may ask for what is within reach.
    pub fn new(
        gateway: Arc<Gateway>,
        project: Arc<str>,
        runtime: Arc<str>,
        members: Members,
        within: Within,
        limits: Limits,
    ) -> Self {
        Self {
            gateway,
            project,
            members,
            within,
            limits,
            runtime,
        }
    }

    /// Its limits.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The route `/plugins`, and the name that clients of after May 2026 have for it, behind the gate.
    pub fn routes(self: Arc<Self>, gate: Arc<Gate>) -> Router {
        let routes = Router::new()
            .route("/plugins", any(upgrade))
            .route("/direct-execution-gateway", any(upgrade))
            .with_state(self);
        routes.route_layer(from_fn_with_state(gate, gate::guard))
    }
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(rename = "providerId")]
    provider_id: Option<String>,
    token: Option<String>,
}

async fn upgrade(
    State(direct): State<Arc<DirectSocket>>,
    query: std::result::Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
    extensions: Extensions,
    socket: std::result::Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let named = query
        .ok()
        .and_then(|Query(Parameters { provider_id, token })| Some((provider_id?, token)));
    let Some((name, token)) = named.filter(|(name, _)| !name.is_empty()) else {
        return (
            StatusCode::BAD_REQUEST,
            "name the connection once: /plugins?providerId=<name>\n",
        )
            .into_response();
    };
    let member = match direct.members.admit(&name, gate::presented(&headers, token.as_deref())) {
        Ok(member) => member,
        Err(not) => return not.into_response(),
    };
    let arrival = arrivals::admit(&extensions);
    let socket = match socket {
        Ok(socket) => socket,
        Err(rejection) => return rejection.into_response(),
    };
    let limits = direct.limits;
    limits.bound(socket).on_upgrade(async move |socket| {
        // It keeps its place among all connections as long as it is open.
        let _arrival = arrival;
        serve(&direct, &member, None, socket).await;
    })
}

/// How a process that the hub has started is told about its start and its end.
pub struct Greeting {
    /// Its first frame.
    pub start: Json,
    /// Frames that it is told.
    pub orders: mpsc::Receiver<Json>,
    /// Where it is noted that it has stopped.
    pub stopped: mpsc::Sender<()>,
}

/// One connection from its upgrade to its end. One that is greeted claims and subscribes by itself.
pub(super) async fn serve(direct: &DirectSocket, member: &Member, greeting: Option<Greeting>, socket: WebSocket) {
    let limits = direct.limits;
    let (carrier, outgoing, backlog) = SocketCarrier::new(
        Target::Connection(member.name.clone()),
        member.credential,
        limits,
        Arc::clone(&direct.runtime),
    );
    let carrier = Arc::new(carrier);
    let (mut sink, mut stream) = socket.split();
    let ending = match direct.gateway.attach(carrier.clone()) {
        Err(error) => {
            tracing::warn!(connection = %member.name, %error, "a connection was refused");
            close(
                close_code::POLICY,
                "a connection of this name is attached with another credential",
            )
        }
        Ok(attached) => {
            let id = match &greeting {
                Some(_) => member.name.to_string(),
                None => format!("remote-provider-{}-{}", member.name, Uuid::now_v7()),
            };
            let (stopped, greet) = greeting
                .map(|greeting| (greeting.stopped, (greeting.start, greeting.orders)))
                .unzip();
            let session = Session {
                direct,
                member,
                attached: &attached,
                carrier: &carrier,
                id,
                stopped,
            };
            tracing::info!(connection = %session.id, "connected");
            let pong = Notify::new();
            let notices = Notices::new(backlog, limits).into_stream();
            let ending = tokio::select! {
                ending = session.read(&mut stream, &pong) => ending,
                () = session.greet(greet) => None,
                ending = writer::write(&mut sink, outgoing, notices, &pong, limits) => ending,
                why = member.over() => {
                    tracing::info!(connection = %session.id, %why, "the token of a connection no longer holds");
                    close(close_code::POLICY, "the token of this connection no longer holds")
                }
                () = attached.replaced() => close(close_code::POLICY, "replaced by a newer connection of this name"),
            };
            tracing::info!(connection = %session.id, "disconnected");
            ending
        }
    };
    if let Some(frame) = ending {
        // Whoever does not take it is gone anyway.
        let _ = tokio::time::timeout(limits.stall, sink.send(Message::Close(Some(frame)))).await;
    }
}

/// What the reading side knows.
struct Session<'a> {
    direct: &'a DirectSocket,
    member: &'a Member,
    attached: &'a Attached,
    carrier: &'a Arc<SocketCarrier>,
    id: String,
    /// Of a process that was greeted: where it is noted that it has stopped.
    stopped: Option<mpsc::Sender<()>>,
}

impl Session<'_> {
    /// Claims and subscribes, then follows frames until the connection ends.
    async fn read(&self, stream: &mut futures::stream::SplitStream<WebSocket>, pong: &Notify) -> Ending {
        let at_once = [Order::Subscribe, Order::Claim];
        for order in at_once.into_iter().filter(|_| self.stopped.is_none()) {
            if let Err(error) = self.order(order).await {
                tracing::info!(connection = %self.id, %error, "connected without a claim");
            }
        }
        let Within { dispatch, .. } = &self.direct.within;
        let identity = self.direct.within.identity(&self.direct.project, self.member);
        let mut caller = Caller::new(
            Arc::clone(dispatch),
            identity,
            self.carrier.outgoing(),
            None,
            asks::answer,
        );
        let mut strikes = Strikes::default();
        loop {
            let text = match socket::next(stream, pong).await {
                Ok(text) => text,
                Err(ending) => return ending,
            };
            let frame = frames::decode(&text);
            if frame == Err(Malformed::NotAnObject)
                && let Err(ending) = strikes.count()
            {
                return ending;
            }
            let followed = match frame {
                Ok(ClientFrame {
                    body: ClientBody::Other(kind),
                    request_id,
                }) => self.asked(&mut caller, &kind, request_id.as_ref(), &text, pong).await,
                frame => self.answer(frame).await,
            };
            if followed.is_err() {
                return None;
            }
        }
    }

    /// Follows one frame. An error means that nothing can be sent any more.
    async fn answer(&self, frame: std::result::Result<ClientFrame, Malformed>) -> Result<(), CallError> {
        let ClientFrame { request_id, body } = match frame {
            Ok(frame) => frame,
            Err(Malformed::NotAnObject) => {
                return self
                    .send(frames::error(
                        None,
                        "a frame must be one JSON object in a text message",
                    )?)
                    .await;
            }
            Err(Malformed::Field(text)) => {
                return self
                    .send(frames::error(None, &format!("the frame cannot be read: {text}"))?)
                    .await;
            }
        };
        match body {
            ClientBody::Reply { to, result } => {
                // A refused reply is counted where it is refused; its sender is told nothing about other requests.
                let _ = self.direct.gateway.reply(self.attached, &to, result);
                Ok(())
            }
            // Taken before this: it is a call, which is answered when it has ended.
            ClientBody::Other(_) => Ok(()),
            ClientBody::Chunk { to, chunk } => {
                // Counted, as a reply is.
                let _ = self.direct.gateway.chunk(self.attached, &to, chunk);
                Ok(())
            }
            ClientBody::Register(offer) => {
                let id = offer.as_ref().ok().map(|offer| offer.id.clone());
                let error = offer.and_then(|offer| self.offer(offer)).err();
                let answer = offers::answer(true, request_id.as_ref(), id.as_deref(), error.as_ref())?;
                self.send(answer).await
            }
            ClientBody::Unregister(id) => {
                let DirectSocket { gateway, project, .. } = self.direct;
                let known = id.as_ref().ok().cloned();
                let error = id.and_then(|id| gateway.take_back(self.attached, project, &id)).err();
                let answer = offers::answer(false, request_id.as_ref(), known.as_deref(), error.as_ref())?;
                self.send(answer).await
            }
            ClientBody::Order(order) => {
                let result = self.order(order).await;
                let error = result.as_ref().err();
                let mut data = Outcome {
                    claimed: None,
                    subscribed: None,
                    plugin_id: &self.id,
                };
                match order {
                    Order::Claim => data.claimed = Some(error.is_none()),
                    Order::Relinquish => data.claimed = Some(false),
                    Order::Subscribe => data.subscribed = Some(error.is_none()),
                    Order::Unsubscribe => data.subscribed = Some(false),
                }
                self.send(frames::answer(order, request_id.as_ref(), data, error)?)
                    .await
            }
        }
    }

    /// Tells a process that the hub has started what it is to be told.
    async fn greet(&self, greeting: Option<(Json, mpsc::Receiver<Json>)>) {
        if let Some((start, mut orders)) = greeting {
            drop(self.send(start).await);
            while let Some(order) = orders.recv().await {
                drop(self.send(order).await);
            }
        }
        std::future::pending().await
    }

    /// Takes a frame in that asks the hub for something. An error means that nothing can be sent any more.
    async fn asked(
        &self,
        caller: &mut Caller,
        kind: &str,
        request_id: Option<&Json>,
        text: &str,
        pong: &Notify,
    ) -> Result<(), CallError> {
        if kind == STOPPED {
            if let Some(stopped) = &self.stopped {
                let _ = stopped.try_send(());
            }
            return Ok(());
        }
        if kind == asks::MESSAGE {
            let Err(error) = self.direct.within.start(self.member, text).await else {
                return Ok(());
            };
            tracing::info!(connection = %self.id, %error, "a run was not started");
            return self.send(frames::error(request_id, &error.message)?).await;
        }
        match asks::asked(text) {
            Ok(asked) if asked.part == Part::Answer => {
                tracing::debug!(connection = %self.id, kind = %asked.name, "an answer that nobody asked for");
            }
            Ok(asked) => caller.take(asked, text.len(), pong).await,
            Err(malformed) => self.send(caller::refusal(&malformed)).await?,
        }
        Ok(())
    }

    async fn order(&self, order: Order) -> Result<(), CallError> {
        let DirectSocket { gateway, project, .. } = self.direct;
        match order {
            Order::Claim => gateway
                .claim(self.attached, project, self.member.claim.clone())
                .await
                .map(drop),
            Order::Relinquish => gateway.relinquish(self.attached, project).await,
            Order::Subscribe => gateway.subscribe(self.attached, project),
            Order::Unsubscribe => {
                gateway.unsubscribe(self.attached, project);
                Ok(())
            }
        }
    }

    /// Offers models: what answers `inference` in any way must be allowed to claim it.
    fn offer(&self, offer: Offer) -> Result<(), CallError> {
        let DirectSocket { gateway, project, .. } = self.direct;
        let inference = CallName::new("inference", None);
        if !self.member.claim.iter().any(|pattern| covers(pattern, &inference)) {
            let message = format!(
                "connection:{} may not serve models: add `inference` to `claim` of its [[connection]] or [[spawn]] in \
                 waypost.toml",
                self.member.name
            );
            return Err(CallError::new(ErrorKind::Denied, message));
        }
        gateway.offer(self.attached, project, offer, Arc::clone(self.carrier) as _)
    }

    async fn send(&self, frame: Json) -> Result<(), CallError> {
        self.carrier.send(Outgoing::answer(frame)).await
    }
}
