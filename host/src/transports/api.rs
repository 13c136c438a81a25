//! The HTTP API: what the command line, and later the page, asks of a hub.
//!
//! JSON in, JSON out; what goes on for a while is one JSON object a line. Every path names its project. The router itself
//! has no gate: on the network it stands behind one, in this process the command line uses it as it is. Either way a request
//! carries the [`Token`] of who asks, as an extension; one without is refused.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json as Answer, Router};
use futures::{Stream, StreamExt, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::call::{CallError, CallName, Dispatch, Json, Sink};
use crate::capabilities::chat::Question;
use crate::environment::NewEnvironment;
use crate::error::{Blame, Error, ErrorKind};
use crate::hub::Hub;
use crate::joined;
use crate::log::{Cursor, Event};
use crate::run::NewRun;
use crate::tokens::{Scope, Token};

mod installed;
mod plugins;
mod tokens;

/// Who asks.
type Asker = Extension<Arc<Token>>;

/// The API of a hub, without a gate.
pub fn router(hub: Arc<Hub>) -> Router {
    let most = hub.config.limits.message;
    let project = Router::new()
        .route("/runs", get(runs).post(start_run))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/cancel", post(cancel_run))
        .route("/runs/{id}/events", get(run_events))
        .route("/events", get(events))
        .route("/events/{cursor}", get(event))
        .route("/blobs/{digest}", get(blob))
        .route("/environments", get(environments).post(create_environment))
        .route("/environments/{id}", get(environment).delete(remove_environment))
        .route("/environments/{id}/health", get(environment_health))
        .route("/environments/{id}/diff", get(diff))
        .route("/environments/{id}/merge", post(merge))
        .route("/models", get(models))
        .route("/routes", get(routes))
        .route("/routes/explain", post(explain))
        .route("/calls", post(call))
        .route("/questions", get(questions))
        .route("/questions/{id}", post(answer_question))
        .merge(installed::routes(&hub))
        .merge(plugins::routes())
        .merge(tokens::routes());
    Router::new()
        .route("/api/v1/health", get(health))
        .nest("/api/v1/projects/{project}", project)
        .fallback(nothing_here)
        .layer(from_fn_with_state(Arc::clone(&hub), known_project))
        .layer(from_fn(in_scope))
        .layer(DefaultBodyLimit::max(most))
        .with_state(hub)
}

/// How an error leaves: its kind as a status, and its chain as text.
#[derive(Debug)]
struct Failed(StatusCode, Value);

type Answered<T = Answer<Value>> = Result<T, Failed>;

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let text = error.chain();
        Self(
            status(error.kind),
            json!({ "error": { "kind": error.kind, "blame": error.blame, "message": text } }),
        )
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self(status(error.kind), json!({ "error": error }))
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Answer(self.1)).into_response()
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Limit => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Cancelled => StatusCode::CONFLICT,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Trapped | ErrorKind::Indeterminate | ErrorKind::Other => StatusCode::BAD_GATEWAY,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whoever only reads needs less than whoever does something.
async fn in_scope(Extension(token): Asker, request: Request, next: Next) -> Response {
    let wanted = if [Method::GET, Method::HEAD].contains(request.method()) {
        Scope::Read
    } else {
        Scope::Api
    };
    match needs(&token, &wanted) {
        Ok(()) => next.run(request).await,
        Err(failed) => failed.into_response(),
    }
}

/// Refuses a token that is not good for what it is wanted for, and names the scope.
fn needs(token: &Token, wanted: &Scope) -> Answered<()> {
    if token.may(wanted) {
        return Ok(());
    }
    let scopes: Vec<String> = token.scopes.iter().map(Scope::to_string).collect();
    let message = format!(
        "the token `{}` has the scope {}, and this needs the scope {wanted}",
        token.name,
        scopes.join(", ")
    );
    Err(CallError::new(ErrorKind::Denied, message).blame(Blame::Caller).into())
}

async fn known_project(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let mut parts = request.uri().path().split('/').skip(3);
    if let (Some("projects"), Some(project)) = (parts.next(), parts.next())
        && *project != *hub.project
    {
        let project = project.escape_debug();
        let message = format!("there is no project `{project}` here; this hub has `{}`", hub.project);
        return Failed::from(CallError::new(ErrorKind::NotFound, message)).into_response();
    }
    next.run(request).await
}

/// Reads a body; the error names the field.
fn read<T: DeserializeOwned>(body: &Bytes) -> Answered<T> {
    serde_json::from_slice(body)
        .map_err(|error| CallError::new(ErrorKind::Invalid, format!("the body does not fit: {error}")).into())
}

fn value<T: Serialize>(value: T) -> Answered {
    serde_json::to_value(value)
        .map(Answer)
        .map_err(|error| CallError::new(ErrorKind::Internal, format!("cannot write JSON: {error}")).into())
}

async fn nothing_here(uri: axum::http::Uri) -> Failed {
    let message = format!("there is nothing at `{}`", uri.path());
    CallError::new(ErrorKind::NotFound, message).into()
}

async fn health(State(hub): State<Arc<Hub>>) -> Answered {
    value(json!({ "version": env!("CARGO_PKG_VERSION"), "project": hub.project, "root": hub.root }))
}

#[derive(Debug, Deserialize)]
struct Id {
    id: String,
}

async fn runs(State(hub): State<Arc<Hub>>, Query(page): Query<Page>) -> Answered {
    value(hub.runs.list(&hub.project, page.limit.unwrap_or(50)).await?)
}

async fn start_run(State(hub): State<Arc<Hub>>, body: Bytes) -> Answered<(StatusCode, Answer<Value>)> {
    let run = hub.runs.start(&hub.project, read::<NewRun>(&body)?).await?;
    Ok((StatusCode::CREATED, value(run)?))
}

async fn run(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.runs.get(&id).await?)
}

async fn cancel_run(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.runs.cancel(&id).await?)
}

/// Which events: those after a place, at most so many, and whether to wait for more.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Page {
    after: Option<u64>,
    limit: Option<usize>,
    follow: bool,
    all: bool,
}

/// Events read at once while following.
const PAGE: usize = 500;

async fn run_events(
    State(hub): State<Arc<Hub>>,
    Path(Id { id }): Path<Id>,
    Query(page): Query<Page>,
) -> Answered<Response> {
    hub.runs.get(&id).await?;
    let after = page.after.unwrap_or(0);
    if !page.follow {
        return Ok(lines(stream::iter(
            hub.log.read(&id, after, page.limit.unwrap_or(10_000)).await?,
        )));
    }
    let log = Arc::clone(&hub.log);
    let ended = |event: &Event| ["run.completed", "run.failed", "run.cancelled"].contains(&&*event.kind);
    let events = follow(
        &hub,
        after,
        move |after| {
            let (log, id) = (Arc::clone(&log), id.clone());
            async move { log.read(&id, after, PAGE).await }
        },
        |event| event.seq,
    );
    // The end is the last line; what is after it belongs to nobody.
    let until_end = events.scan(false, move |over, event| {
        let go_on = (!*over).then_some(event);
        if let Some(event) = &go_on {
            *over = ended(event);
        }
        let go_on = go_on.map(|event| (*over, event));
        std::future::ready(go_on)
    });
    Ok(lines(ending(until_end)))
}

/// Ends a stream with the first item that is marked as the last one, without waiting for another.
fn ending(events: impl Stream<Item = (bool, Event)> + Send + 'static) -> impl Stream<Item = Event> + Send {
    stream::unfold(Some(Box::pin(events)), |events| async {
        let mut events = events?;
        let (last, event) = events.next().await?;
        Some((event, (!last).then_some(events)))
    })
}

async fn events(State(hub): State<Arc<Hub>>, Query(page): Query<Page>) -> Answered<Response> {
    let limit = page.limit.unwrap_or(100);
    let latest = match page.after {
        Some(after) => hub.log.feed(Cursor(after), limit).await?,
        None => hub.log.latest(limit).await?,
    };
    if !page.follow {
        return Ok(lines(stream::iter(latest)));
    }
    let after = latest.last().map_or(page.after.unwrap_or(0), |event| event.cursor.0);
    let log = Arc::clone(&hub.log);
    let more = follow(
        &hub,
        after,
        move |after| {
            let log = Arc::clone(&log);
            async move { log.feed(Cursor(after), PAGE).await }
        },
        |event| event.cursor.0,
    );
    Ok(lines(stream::iter(latest).chain(more)))
}

async fn event(State(hub): State<Arc<Hub>>, Path(At { cursor }): Path<At>) -> Answered {
    let found = match cursor.checked_sub(1) {
        Some(before) => hub.log.feed(Cursor(before), 1).await?.into_iter().next(),
        None => None,
    };
    match found.filter(|event| event.cursor.0 == cursor) {
        Some(event) => value(event),
        None => {
            let message = format!("there is no event {cursor}; `waypost event ls` lists the latest");
            Err(CallError::new(ErrorKind::NotFound, message).into())
        }
    }
}

#[derive(Debug, Deserialize)]
struct At {
    cursor: u64,
}

#[derive(Debug, Deserialize)]
struct Digest {
    digest: String,
}

async fn blob(State(hub): State<Arc<Hub>>, Path(Digest { digest }): Path<Digest>) -> Answered<Response> {
    let content = hub.log.blob(&digest).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        content.as_str().to_owned(),
    )
        .into_response())
}

/// Pages of events, then more as they become durable.
fn follow<F, R>(
    hub: &Arc<Hub>,
    after: u64,
    page: F,
    place: fn(&Event) -> u64,
) -> impl Stream<Item = Event> + Send + 'static
where
    F: Fn(u64) -> R + Send + 'static,
    R: Future<Output = crate::error::Result<Vec<Event>>> + Send,
{
    let tip = hub.log.tip();
    stream::unfold((after, tip, page), move |(after, mut tip, page)| async move {
        loop {
            tip.mark_unchanged();
            match page(after).await {
                Ok(events) if !events.is_empty() => {
                    let last = events.last().map_or(after, place);
                    return Some((stream::iter(events), (last, tip, page)));
                }
                Ok(_) => tip.changed().await.ok()?,
                Err(error) => {
                    tracing::error!(error = %error.chain(), "events cannot be followed any more");
                    return None;
                }
            }
        }
    })
    .flatten()
}

/// One JSON object a line.
fn lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = items.map(|item| {
        serde_json::to_string(&item).map(|mut line| {
            line.push('\n');
            line
        })
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

async fn environments(State(hub): State<Arc<Hub>>, Query(page): Query<Page>) -> Answered {
    value(hub.environments.list(&hub.project, page.all).await?)
}

async fn create_environment(State(hub): State<Arc<Hub>>, body: Bytes) -> Answered<(StatusCode, Answer<Value>)> {
    let environment = hub
        .environments
        .create(&hub.project, read::<NewEnvironment>(&body)?)
        .await?;
    Ok((StatusCode::CREATED, value(environment)?))
}

async fn environment(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.environments.get(&id).await?)
}

async fn remove_environment(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.environments.remove(&id).await?)
}

async fn environment_health(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.environments.inspect(&id).await?)
}

async fn diff(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>) -> Answered {
    value(hub.environments.diff(&id).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Merge {
    partial: bool,
}

async fn merge(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>, Query(merge): Query<Merge>) -> Answered {
    value(hub.environments.merge(&id, merge.partial).await?)
}

/// The models that connected processes serve.
async fn models(State(hub): State<Arc<Hub>>) -> Answered {
    value(hub.gateway.offered(&hub.project))
}

async fn routes(State(hub): State<Arc<Hub>>) -> Answered {
    value(hub.routes.current().shown())
}

/// A call as a person asks for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    call: String,
    message: Json,
    #[serde(default)]
    environment: Option<String>,
}

async fn asked(hub: &Hub, who: &Token, body: &Bytes) -> Answered<crate::call::Call> {
    let asked: Asked = read(body)?;
    let name: CallName = asked.call.parse()?;
    Ok(hub
        .person_call(&who.name, name, asked.message, asked.environment.as_deref())
        .await?)
}

async fn explain(State(hub): State<Arc<Hub>>, Extension(who): Asker, body: Bytes) -> Answered {
    let call = asked(&hub, &who, &body).await?;
    let explanation = hub.routes.current().explain(&call);
    let explanation = explanation.of_class(hub.dispatcher.effect_of(&call.name));
    value(json!({ "text": explanation.to_string(), "explanation": explanation }))
}

/// A line of the answer to a call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Chunk(Json),
    Question(Question),
    Reply(Json),
    Error(CallError),
}

async fn call(
    State(hub): State<Arc<Hub>>,
    Extension(who): Asker,
    headers: HeaderMap,
    body: Bytes,
) -> Answered<Response> {
    let mut call = asked(&hub, &who, &body).await?;
    // Another hub says which ones the call has passed.
    let route = headers
        .get(joined::ROUTE)
        .and_then(|route| route.to_str().ok())
        .unwrap_or_default();
    call.route = route
        .split(',')
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect();
    if call.route.contains(&hub.runtime) {
        let message = format!("{} has passed this hub already; it is not taken again", call.name);
        return Err(CallError::new(ErrorKind::Unavailable, message).into());
    }
    let (sink, chunks) = Sink::channel();
    let (over, id) = (CancellationToken::new(), call.id);
    let asking = questions_of(&hub, id).take_until(over.clone().cancelled_owned());
    let dispatcher = Arc::clone(&hub.dispatcher);
    let end = async move {
        // Whatever becomes of the call, nothing is asked after it.
        let _over = over.drop_guard();
        match dispatcher.dispatch(call, sink).await.result {
            Ok(reply) => Line::Reply(reply),
            Err(error) => Line::Error(error),
        }
    };
    let chunks = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (Line::Chunk(chunk), chunks))
    });
    // The chunks end when the call does, so the end comes last; all are driven by whoever reads the body.
    let (end_sender, end_receiver) = tokio::sync::oneshot::channel();
    let work = stream::once(async move {
        drop(end_sender.send(end.await));
        None
    });
    let meanwhile = stream::select(chunks, asking.map(Line::Question)).map(Some);
    let all = stream::select(work, meanwhile).filter_map(std::future::ready);
    let end = stream::once(end_receiver).filter_map(|end| std::future::ready(end.ok()));
    Ok(lines(all.chain(end)))
}

/// What a call asks of people, each question once; it never ends by itself.
fn questions_of(hub: &Arc<Hub>, call: Uuid) -> impl Stream<Item = Question> + Send + use<> {
    let desk = Arc::clone(&hub.desk);
    let mut changes = desk.changes();
    changes.mark_changed();
    stream::unfold(
        (desk, changes, HashSet::new()),
        move |(desk, mut changes, mut shown)| async move {
            loop {
                changes.changed().await.ok()?;
                let open = desk.open().into_iter();
                let new = open
                    .filter(|question| question.call == call)
                    .find(|question| !shown.contains(&question.id));
                if let Some(question) = new {
                    shown.insert(question.id);
                    changes.mark_changed();
                    return Some((question, (desk, changes, shown)));
                }
            }
        },
    )
}

async fn questions(State(hub): State<Arc<Hub>>) -> Answered {
    value(hub.desk.open())
}

async fn answer_question(State(hub): State<Arc<Hub>>, Path(Id { id }): Path<Id>, body: Bytes) -> Answered {
    let question = id.parse().map_err(|_| {
        let message = format!("`{}` is not the id of a question", id.escape_debug());
        CallError::new(ErrorKind::Invalid, message)
    })?;
    hub.desk.answer(question, read(&body)?)?;
    value(json!({ "answered": id }))
}
