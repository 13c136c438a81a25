//! Calls to a plugin of an open hub, as a person makes them: the whole path of each, with its row in the log on disk.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waypost::call::{CallError, CallName, Dispatch, Json, Sink};
use waypost::hub::Hub;

use crate::Outcome;
use crate::harness::{Open, Plugin, Project};
use crate::hub::MESSAGE;

/// Calls on their way at the same time, where it is many.
pub(crate) const IN_FLIGHT: usize = 64;

/// Calls of each of them in one turn.
const TURN: usize = 16;

/// Makes one call again and again.
pub(crate) struct Caller {
    hub: Arc<Hub>,
    name: CallName,
    message: Json,
}

/// A project with this handler, the calls to which are reads.
pub(crate) fn with_reader(project: Project, id: &str, wall: &'static str) -> Project {
    let plugin = Plugin::of("noop").named(id).unrouted().wall(wall);
    let rule = format!("[[route]]\nmatch = {id:?}\nto = \"plugin:{id}\"\neffect = \"read\"");
    project.plugin(&plugin).toml(&rule)
}

impl Caller {
    /// Of the handler of this id, which answers with what it is told.
    pub(crate) fn new(open: &Open, id: &str) -> Outcome<Arc<Self>> {
        Self::saying(open, id, MESSAGE)
    }

    /// With another message.
    pub(crate) fn saying(open: &Open, id: &str, message: &str) -> Outcome<Arc<Self>> {
        Ok(Arc::new(Self {
            hub: Arc::clone(&open.hub),
            name: id.parse()?,
            message: Json::parse(message)?,
        }))
    }

    /// One call, to its end.
    pub(crate) async fn reply(&self, cancel: Option<CancellationToken>) -> Outcome<Result<Json, CallError>> {
        let (name, message) = (self.name.clone(), self.message.clone());
        let mut call = self.hub.person_call("bench", name, message, None).await?;
        if let Some(cancel) = cancel {
            call.cancel = cancel;
        }
        Ok(self.hub.dispatcher.dispatch(call, Sink::discard()).await.result)
    }

    /// One call that must succeed.
    pub(crate) async fn call(&self) -> Outcome<()> {
        self.reply(None).await??;
        Ok(())
    }

    /// Many calls, so many of them at once.
    pub(crate) async fn turn(self: &Arc<Self>) -> Outcome<()> {
        let mut callers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let caller = Arc::clone(self);
            callers.spawn(async move {
                for _ in 0..TURN {
                    caller.call().await?;
                }
                Outcome::Ok(())
            });
        }
        callers.join_all().await.into_iter().collect()
    }

    /// How long one call of many takes by the clock, in nanoseconds, when a turn takes so long.
    pub(crate) fn each(turn: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let calls = (IN_FLIGHT * TURN) as f64;
        turn / calls
    }
}
