//! The agent socket: a program on `/codebolt` that asks for calls, as Codebolt's published clients do.
//!
//! Whoever connects takes a seat with the id that it was given ([`crate::seats`]) and acts as that seat's principal; a
//! client of SDK 1.1.99 can send nothing else. One that a person starts has a token instead, and joins the run that it
//! names. Every frame that it asks with is one call, and every call that its client waits for has one answer. Not here:
//! what its frames look like ([`super::dialect`]), in which order calls are made ([`super::caller`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{RawQuery, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use reqwest::Url;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::caller::{Caller, Identity};
use super::gate::{self, Gate};
use super::socket::{Ending, Limits, Outgoing, close, writer};
use super::{arrivals, caller, dialect};
use crate::call::{self, Dispatch, Principal, PrincipalKind, Rights};
use crate::config::Config;
use crate::hub::DEFAULT_PROJECT;
use crate::run::{Runs, UnderWay};
use crate::runtimes::process::Frames;
use crate::seats::{Agent, Refusal, Said, Seat, Seats};
use crate::tokens::{Scope, Token, Tokens};

/// How an agent on this socket is told to work and to stop.
pub const FRAMES: Frames = Frames {
    start: |prompt, thread, agent| {
        let message_id = uuid::Uuid::now_v7().to_string();
        dialect::start_message(&dialect::Start {
            prompt,
            message_id: &message_id,
            thread_id: thread,
            agent,
            at: SystemTime::now(),
        })
    },
    stop: dialect::stop_message,
};

/// The socket of one project.
pub struct AgentSocket {
    dispatch: Arc<dyn Dispatch>,
    seats: Seats,
    tokens: Arc<Tokens>,
    /// In which agents act that have a token.
    runs: Weak<Runs>,
    /// The names of the tokens with which agents are connected.
    connected: Arc<Mutex<HashSet<String>>>,
    /// Where agents act that have neither.
    project: Arc<call::Scope>,
    /// Whether an agent without a seat may connect.
    unbound: bool,
    /// The time of one call by such an agent.
    call_timeout: std::time::Duration,
    limits: Limits,
}

impl AgentSocket {
    /// A socket on which these seats can be taken.
    pub fn new(
        dispatch: Arc<dyn Dispatch>,
        seats: Seats,
        tokens: Arc<Tokens>,
        runs: Weak<Runs>,
        project: Arc<call::Scope>,
        config: &Config,
    ) -> Self {
        let unbound = config.sockets.allow_unbound_agents;
        if unbound {
            tracing::warn!(
                "`allow-unbound-agents` of [sockets] is on: every process on this machine may act as an agent in the project"
            );
        }
        Self {
            dispatch,
            seats,
            tokens,
            runs,
            connected: Arc::default(),
            project,
            unbound,
            call_timeout: config.limits.answer_timeout,
            limits: Limits {
                message: config.limits.message,
                ..Limits::default()
            },
        }
    }

    /// The route `/codebolt`, behind the gate.
    pub fn routes(self: Arc<Self>, gate: Arc<Gate>) -> Router {
        let routes = Router::new().route("/codebolt", any(upgrade)).with_state(self);
        routes.route_layer(from_fn_with_state(gate, gate::guard))
    }

    /// Who connects with this query and these headers, or why nobody does.
    async fn admit(&self, query: &str, headers: &HeaderMap) -> Result<Admitted, Refused> {
        let unknown = |why: &str| (StatusCode::UNAUTHORIZED, format!("{why}\n"));
        let presented = parameter(query, "threadToken");
        if let Some(text) = gate::presented(headers, presented.as_deref()) {
            let good = self.tokens.check(text).ok();
            let good = good.filter(|token| token.scopes.iter().any(|scope| matches!(scope, Scope::Agent(_))));
            let token = good.ok_or_else(|| unknown("this token is good for no agent"))?;
            return self.join(token).await;
        }
        let id = parameter(query, "agentId").unwrap_or_default();
        match self.seats.take(&id) {
            Ok(seat) => Ok(Admitted::Seated(Box::new(seat))),
            Err(Refusal::Taken) => Err(unknown(
                "an agent with this `agentId` is or was connected; each connects once",
            )),
            Err(Refusal::Unknown) if self.unbound => {
                tracing::warn!("an agent without a seat has connected, as `allow-unbound-agents` of [sockets] permits");
                Ok(Admitted::Unbound)
            }
            Err(Refusal::Unknown) => Err(unknown(
                "no agent with this `agentId` is expected; agents are started with `waypost run --agent '<command>'`, or set \
                 `allow-unbound-agents = true` in [sockets] of waypost.toml",
            )),
        }
    }

    /// An agent with a token: it acts in the run that its token names, or in the one of the thread that it names.
    async fn join(&self, token: Arc<Token>) -> Result<Admitted, Refused> {
        let conflict = |why: String| (StatusCode::CONFLICT, format!("{why}\n"));
        let presence = Presence::of(&self.connected, &token.name)
            .ok_or_else(|| conflict(format!("an agent with the token `{}` is connected", token.name)))?;
        let runs = self.runs.upgrade();
        let runs = runs.ok_or_else(|| conflict("the hub is stopping".to_owned()))?;
        let mut why = String::new();
        for scope in &token.scopes {
            let Scope::Agent(of) = scope else { continue };
            match runs.under_way(of).await {
                Ok(under_way) => return Ok(Admitted::Joined(Box::new(under_way), token, presence)),
                Err(error) => why = error.message,
            }
        }
        Err(conflict(format!(
            "the token `{}` cannot be used now: {why}; connect while the run is under way",
            token.name
        )))
    }

    /// As whom an agent acts that nobody knows: in the project itself, and in no run.
    fn alone(&self) -> Identity {
        self.identity(DEFAULT_PROJECT.into(), None, "unbound", Arc::clone(&self.project))
    }

    /// As whom an agent acts that has no seat.
    fn identity(&self, project: Arc<str>, run: Option<Arc<str>>, id: &str, scope: Arc<call::Scope>) -> Identity {
        let principal = Principal {
            project,
            run,
            kind: PrincipalKind::Agent,
            id: id.into(),
            rights: Rights::all(),
        };
        Identity {
            principal: Arc::new(principal),
            scope,
            cancel: CancellationToken::new(),
            deadline: None,
            call_timeout: self.call_timeout,
            journal: None,
        }
    }
}

/// Why nobody comes in.
type Refused = (StatusCode, String);

/// The place of the one agent that is connected with a token.
struct Presence {
    connected: Arc<Mutex<HashSet<String>>>,
    name: String,
}

impl Presence {
    /// None while there is another one.
    fn of(connected: &Arc<Mutex<HashSet<String>>>, name: &str) -> Option<Self> {
        let is_new = lock(connected).insert(name.to_owned());
        is_new.then(|| Self {
            connected: Arc::clone(connected),
            name: name.to_owned(),
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        lock(&self.connected).remove(&self.name);
    }
}

fn lock(connected: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    connected.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Admitted {
    /// One that was started for a run.
    Seated(Box<Seat>),
    /// One that a person started, with a token for a run.
    Joined(Box<UnderWay>, Arc<Token>, Presence),
    /// One that nobody knows, where that is permitted.
    Unbound,
}

/// A parameter of a query, the first of its name. Published clients do not encode them, and send whatever else they have.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut url = Url::parse("ws://localhost/").ok()?;
    url.set_query(Some(query));
    let found = url.query_pairs().find(|(written, _)| written == name);
    found.map(|(_, value)| value.into_owned())
}

async fn upgrade(
    State(agents): State<Arc<AgentSocket>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    extensions: Extensions,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    // A seat is taken by an agent that can sit down, not by a stray request.
    let socket = match socket {
        Ok(socket) => socket,
        Err(rejection) => return rejection.into_response(),
    };
    let admitted = match agents.admit(query.as_deref().unwrap_or_default(), &headers).await {
        Ok(admitted) => admitted,
        Err(refused) => return refused.into_response(),
    };
    let arrival = arrivals::admit(&extensions);
    agents.limits.bound(socket).on_upgrade(async move |socket| {
        // It keeps its place among all connections as long as it is open.
        let _arrival = arrival;
        match admitted {
            Admitted::Seated(seat) => seated(&agents, *seat, socket).await,
            Admitted::Unbound => serve(&agents, agents.alone(), None, socket, std::future::pending()).await,
            Admitted::Joined(under_way, token, presence) => {
                let _presence = presence;
                joined(&agents, *under_way, &token, socket).await;
            }
        }
    })
}

/// An agent with a token, until its run or its token is over.
async fn joined(agents: &AgentSocket, under_way: UnderWay, token: &Token, socket: WebSocket) {
    let UnderWay { run, scope, over } = under_way;
    let identity = agents.identity(run.project, Some(Arc::clone(&run.id)), &token.name, scope);
    tracing::info!(agent = %token.name, run = %run.id, "an agent has joined a run");
    let until = async {
        tokio::select! {
            () = over.cancelled() => close(close_code::NORMAL, RUN_OVER),
            why = token.over() => {
                tracing::info!(agent = %token.name, %why, "the token of an agent no longer holds");
                close(close_code::POLICY, "the token of this agent no longer holds")
            }
        }
    };
    serve(agents, identity, None, socket, until).await;
}

/// What an agent is told for whom there is nobody left to act.
const RUN_OVER: &str = "the run is over";

/// An agent with a seat, from its first frame to its leave.
async fn seated(agents: &AgentSocket, seat: Seat, socket: WebSocket) {
    let Seat {
        agent,
        start,
        says,
        mut orders,
    } = seat;
    let Agent {
        principal,
        scope,
        deadline,
        cancel,
        journal,
    } = agent;
    let identity = Identity {
        principal,
        scope,
        cancel,
        deadline: Some(deadline),
        call_timeout: agents.call_timeout,
        journal: Some(journal),
    };
    let seat = Sitting {
        start,
        says: says.clone(),
        orders: &mut orders,
    };
    // Whoever offered the seat may be gone; then nobody needs to hear it.
    drop(says.send(Said::Connected).await);
    serve(agents, identity, Some(seat), socket, std::future::pending()).await;
    drop(says.send(Said::Left).await);
}

/// What a seat adds to a connection.
struct Sitting<'a> {
    start: crate::call::Json,
    says: mpsc::Sender<Said>,
    orders: &'a mut mpsc::Receiver<crate::call::Json>,
}

async fn serve(
    agents: &AgentSocket,
    identity: Identity,
    seat: Option<Sitting<'_>>,
    socket: WebSocket,
    until: impl Future<Output = Ending>,
) {
    let limits = agents.limits;
    let (outgoing, queue) = mpsc::channel(limits.outgoing);
    let (mut sink, mut stream) = socket.split();
    let gone = identity.cancel.child_token();
    let _gone = gone.clone().drop_guard();
    let (says, orders, start) = match seat {
        Some(Sitting { start, says, orders }) => (Some(says), Some(orders), Some(start)),
        None => (None, None, None),
    };
    let identity = Identity {
        cancel: gone,
        ..identity
    };
    let caller = Caller::new(
        Arc::clone(&agents.dispatch),
        identity,
        outgoing.clone(),
        says,
        dialect::encode,
    );
    let pong = Notify::new();
    let follow_orders = async {
        if let Some(start) = start {
            drop(outgoing.send(Outgoing::answer(start)).await);
        }
        if let Some(orders) = orders {
            while let Some(order) = orders.recv().await {
                drop(outgoing.send(Outgoing::answer(order)).await);
            }
            return close(close_code::NORMAL, RUN_OVER);
        }
        std::future::pending().await
    };
    let ending: Ending = tokio::select! {
        ending = caller::read(caller, &mut stream, &pong) => ending,
        ending = writer::write(&mut sink, queue, futures::stream::pending(), &pong, limits) => ending,
        ending = follow_orders => ending,
        ending = until => ending,
    };
    if let Some(frame) = ending {
        // Whoever does not take it is gone anyway.
        let _ = tokio::time::timeout(limits.stall, sink.send(Message::Close(Some(frame)))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_agent_id_counts_whatever_stands_around_it() {
        for (query, id) in [
            ("id=&agentId=a1", "a1"),
            ("id=undefined&agentId=a1&agentId=b2&dev=true", "a1"),
            ("agentId=a%2Bb&&&=&x", "a+b"),
            ("x=a b&agentId=a1&y=%zz", "a1"),
            ("", ""),
            ("agentid=a1", ""),
            (&format!("{}&agentId=a1", "k=v&".repeat(8000)), "a1"),
        ] {
            let found = parameter(query, "agentId").unwrap_or_default();
            assert_eq!(found, id, "{}", query.get(..40).unwrap_or(query));
        }
    }
}
