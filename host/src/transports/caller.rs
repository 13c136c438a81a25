//! The calls that the frames of a socket ask for: in which order they are made, how many at once, and their answers.
//!
//! A client that numbers its requests has them made at once, and finds each answer by its number. One that does not knows
//! an answer by its type alone: its requests of one type are made one after the other and answered in that order. What
//! waits is bounded in number and size; beyond that the socket is not read, and the client waits. Not here: sockets and
//! their frames, and whether a call is allowed.
//!
//! One answer has a number and is not found by it: the newer SDK does not wait for a stream of output, it listens to what
//! nobody waits for. While a command is pending too, the end of the stream would be taken for the command's, by its type.
//! So the end of a stream is kept back until no command that could be mistaken for it is unanswered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use futures::stream::SplitStream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::dialect::{self, Asked, Awaits, Malformed, Part};
use super::socket::{self, Ending, Outgoing, Strikes};
use crate::call::{Call, CallError, Deadline, Dispatch, Json, Principal, Scope, Sink};
use crate::run::journal::{Journal, Next};
use crate::seats::Said;

/// How much may wait to be answered, in units of [`UNIT`]; a request takes one for itself, and one for each that it is long.
const ROOM: usize = 1024;

/// One unit of what waits, in bytes.
const UNIT: usize = 16 << 10;

/// Requests of one connection that are worked on at the same time.
const AT_ONCE: usize = 64;

/// Kinds of answers that are kept in order apart from each other; what is beyond shares one order.
const LANES: usize = 256;

/// How often a connection that is not read counts as alive.
const ALIVE: Duration = Duration::from_secs(5);

/// As whom calls are made, and where.
#[derive(Clone, Debug)]
pub struct Identity {
    /// As whom.
    pub principal: Arc<Principal>,
    /// Where they act.
    pub scope: Arc<Scope>,
    /// Fires when the connection ends, or whatever it works for.
    pub cancel: CancellationToken,
    /// When all must have ended.
    pub deadline: Option<Deadline>,
    /// The most time of one call.
    pub call_timeout: Duration,
    /// Counts the calls of a run.
    pub journal: Option<Arc<Journal>>,
}

/// Makes the calls of one connection.
pub struct Caller {
    shared: Arc<Shared>,
    lanes: HashMap<String, mpsc::Sender<Waiting>>,
    room: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

struct Shared {
    dispatch: Arc<dyn Dispatch>,
    identity: Identity,
    outgoing: mpsc::Sender<Outgoing>,
    /// Who hears what is said of the run.
    says: Option<mpsc::Sender<Said>>,
    encode: Encode,
    at_once: Semaphore,
    unanswered: watch::Sender<Unanswered>,
}

/// The commands with a number that have no answer yet.
#[derive(Clone, Copy, Debug, Default)]
struct Unanswered {
    /// Those whose client takes any end for an answer.
    any: usize,
    /// Those whose client takes an error for one, and nothing else.
    error: usize,
}

impl Unanswered {
    /// How many of them take a frame of this type.
    fn taking(&self, kind: &str) -> usize {
        if kind == "commandError" {
            self.any + self.error
        } else {
            self.any
        }
    }

    fn of(&mut self, awaits: &Awaits) -> &mut usize {
        if awaits.accepts("commandFinish") {
            &mut self.any
        } else {
            &mut self.error
        }
    }
}

/// One of the commands without an answer, until this is dropped.
struct Pending {
    shared: Arc<Shared>,
    awaits: Awaits,
}

impl Pending {
    fn of(shared: &Arc<Shared>, asked: &Asked) -> Option<Self> {
        let awaits = asked.awaits.as_ref().filter(|awaits| awaits.accepts("commandError"))?;
        if asked.request_id.is_none() || *asked.name.kind == *STREAMING {
            return None;
        }
        shared.unanswered.send_modify(|unanswered| *unanswered.of(awaits) += 1);
        Some(Self {
            shared: Arc::clone(shared),
            awaits: awaits.clone(),
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Self { shared, awaits } = self;
        shared.unanswered.send_modify(|unanswered| *unanswered.of(awaits) -= 1);
    }
}

/// Writes the answer to a request, where it has one.
pub(super) type Encode = fn(&Asked, &Result<Json, CallError>) -> Option<Json>;

/// A request, and the room that it takes until it is answered.
struct Waiting {
    asked: Asked,
    _room: OwnedSemaphorePermit,
}

impl Caller {
    /// Calls as this identity; answers go to `outgoing`, and what an agent says of its run to `says`.
    pub(super) fn new(
        dispatch: Arc<dyn Dispatch>,
        identity: Identity,
        outgoing: mpsc::Sender<Outgoing>,
        says: Option<mpsc::Sender<Said>>,
        encode: Encode,
    ) -> Self {
        let shared = Shared {
            dispatch,
            identity,
            outgoing,
            says,
            encode,
            at_once: Semaphore::new(AT_ONCE),
            unanswered: watch::Sender::default(),
        };
        Self {
            shared: Arc::new(shared),
            lanes: HashMap::new(),
            room: Arc::new(Semaphore::new(ROOM)),
            tasks: JoinSet::new(),
        }
    }

    /// Takes a request in, as soon as there is room for it. Dropping the caller cancels what it works on.
    pub(super) async fn take(&mut self, asked: Asked, size: usize, pong: &Notify) {
        let Some(room) = self.room(size, pong).await else {
            return;
        };
        while self.tasks.try_join_next().is_some() {}
        let waiting = Waiting { asked, _room: room };
        let shared = Arc::clone(&self.shared);
        let Some(lane) = lane(&waiting.asked) else {
            let pending = Pending::of(&shared, &waiting.asked);
            self.tasks.spawn(async move {
                let _pending = pending;
                // It cannot fail: nobody closes it.
                let place = shared.at_once.acquire().await;
                let answer = shared.perform(&waiting.asked).await;
                // A stream whose end is kept back must not be in the way of what it is kept back for.
                drop(place);
                if *waiting.asked.name.kind == *STREAMING {
                    shared.keep_back(answer.as_ref()).await;
                }
                shared.answer(answer).await;
            });
            return;
        };
        let lane = if self.lanes.len() < LANES || self.lanes.contains_key(lane) {
            lane
        } else {
            NO_ANSWER
        };
        let tasks = &mut self.tasks;
        let lane = self.lanes.entry(lane.to_owned()).or_insert_with(|| {
            let (waits, mut waiting) = mpsc::channel(ROOM);
            tasks.spawn(async move {
                while let Some(Waiting { asked, _room }) = waiting.recv().await {
                    let answer = shared.perform(&asked).await;
                    shared.answer(answer).await;
                }
            });
            waits
        });
        // There is as much room in a lane as there is at all.
        drop(lane.send(waiting).await);
    }

    /// Room for a request of this size. While there is none the socket is not read, and its pongs are not seen.
    async fn room(&self, size: usize, pong: &Notify) -> Option<OwnedSemaphorePermit> {
        let units = (1 + size / UNIT).min(ROOM);
        let room = Arc::clone(&self.room).acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        tokio::pin!(room);
        loop {
            tokio::select! {
                // The timer is set only when there is no room.
                biased;
                room = &mut room => return room.ok(),
                () = tokio::time::sleep(ALIVE) => pong.notify_one(),
            }
        }
    }
}

/// The kind whose client hears the chunks.
const STREAMING: &str = "executeCommandWithStream";

/// The lane of requests without an answer: they are made in the order in which they came.
const NO_ANSWER: &str = "";

/// In which order a request is made: none for one that has a number, and is answered under it.
fn lane(asked: &Asked) -> Option<&str> {
    match asked.awaits.as_ref().map(|awaits| &*awaits.first) {
        None => Some(NO_ANSWER),
        Some(_) if asked.request_id.is_some() => None,
        // Their answers share types with each other.
        Some("commandFinish" | "commandError" | "commandOutput") => Some("commandOutput"),
        Some(awaited) => Some(awaited),
    }
}

impl Shared {
    /// Makes a call; its answer, where it has one.
    async fn perform(&self, asked: &Asked) -> Option<Json> {
        let result = self.make(asked).await;
        self.tell(asked, &result).await;
        (self.encode)(asked, &result)
    }

    async fn answer(&self, frame: Option<Json>) {
        if let Some(frame) = frame {
            // Nobody may be there any more to whom it could be told.
            drop(self.outgoing.send(Outgoing::answer(frame)).await);
        }
    }

    /// Waits until no command is unanswered whose client would take this frame for its answer.
    async fn keep_back(&self, end: Option<&Json>) {
        let kind = end.and_then(|end| end.to::<Head>().ok()).map(|head| head.kind);
        let Some(kind) = kind else { return };
        let mut unanswered = self.unanswered.subscribe();
        // It cannot fail: the other side is here.
        drop(unanswered.wait_for(|unanswered| unanswered.taking(&kind) == 0).await);
    }

    async fn make(&self, asked: &Asked) -> Result<Json, CallError> {
        let message = asked.message.clone()?;
        let identity = &self.identity;
        let mut call = Call::new(
            asked.name.clone(),
            message,
            Arc::clone(&identity.principal),
            Arc::clone(&identity.scope),
            identity.call_timeout,
        );
        if let Some(deadline) = identity.deadline {
            call.deadline = call.deadline.min(deadline);
        }
        call.cancel = identity.cancel.clone();
        call.frame = Some(asked.frame.clone());
        call.route = Arc::clone(&asked.route);
        let Some(journal) = &identity.journal else {
            return self.dispatch(asked, call).await;
        };
        match journal.next(&call)? {
            Next::Past(result) => result,
            Next::New(index) => {
                call.index = Some(index);
                let result = self.dispatch(asked, call).await;
                journal.answered(&asked.name, &result);
                result
            }
        }
    }

    /// Carries a call to its end; its chunks go out as they come, where this client hears them.
    async fn dispatch(&self, asked: &Asked, call: Call) -> Result<Json, CallError> {
        if *asked.name.kind != *STREAMING {
            return self.dispatch.dispatch(call, Sink::discard()).await.result;
        }
        let (sink, mut chunks) = Sink::channel();
        let work = self.dispatch.dispatch(call, sink);
        let hear = async {
            while let Some(chunk) = chunks.recv().await {
                if let Some(frame) = dialect::chunk(asked, &chunk) {
                    drop(self.outgoing.send(Outgoing::answer(frame)).await);
                }
            }
        };
        futures::join!(work, hear).0.result
    }

    /// Tells whoever follows the run what this request says of it.
    async fn tell(&self, asked: &Asked, result: &Result<Json, CallError>) {
        let Some(says) = &self.says else { return };
        let said = match &asked.part {
            Part::Stopped { error: Some(why), .. } => Said::GaveUp(why.clone()),
            Part::Stopped { message, .. } => Said::Done(message.as_ref().map(words)),
            Part::Finished => Said::Done(None),
            Part::Call if *asked.name.kind == *"sendMessage" && result.is_ok() => {
                let told = asked
                    .message
                    .as_ref()
                    .ok()
                    .and_then(|message| message.to::<Told>().ok());
                match told {
                    Some(told) => Said::Talked(told.message),
                    None => return,
                }
            }
            Part::Call | Part::Started | Part::Answer => return,
        };
        // The run is over when nobody hears it.
        drop(says.send(said).await);
    }
}

/// What a frame is.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
}

/// What a message says to a person.
#[derive(Deserialize)]
struct Told {
    message: String,
}

/// A result in words.
fn words(result: &Json) -> String {
    result.to::<String>().unwrap_or_else(|_| result.as_str().to_owned())
}

/// The answer to a frame that cannot be understood.
pub(super) fn refusal(malformed: &Malformed) -> Json {
    match malformed {
        Malformed::NotAnObject => {
            json!({ "type": "error", "success": false, "error": "a frame must be one JSON object" })
        }
        Malformed::Field { text, request_id } => {
            let mut frame =
                json!({ "type": "error", "success": false, "error": format!("the frame cannot be read: {text}") });
            if let (Some(id), Some(fields)) = (request_id.as_ref().and_then(|id| id.to().ok()), frame.as_object_mut()) {
                fields.insert("requestId".to_owned(), id);
            }
            frame
        }
    }
    .into()
}

/// Reads frames until the connection ends.
pub(super) async fn read(mut caller: Caller, stream: &mut SplitStream<WebSocket>, pong: &Notify) -> Ending {
    let mut strikes = Strikes::default();
    loop {
        let text = match socket::next(stream, pong).await {
            Ok(text) => text,
            Err(ending) => return ending,
        };
        match dialect::decode(&text) {
            // Nobody waits for it, and it asks for nothing.
            Ok(asked) if asked.part == Part::Answer => {
                tracing::debug!(kind = %asked.name, "an answer that nobody asked for")
            }
            Ok(asked) => caller.take(asked, text.len(), pong).await,
            Err(malformed) => {
                if malformed == Malformed::NotAnObject
                    && let Err(ending) = strikes.count()
                {
                    return ending;
                }
                let frame = refusal(&malformed);
                drop(caller.shared.outgoing.send(Outgoing::answer(frame)).await);
            }
        }
    }
}
