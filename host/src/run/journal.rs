//! What an agent already did, so that it can be run again from the start and answered from the log.
//!
//! Calls are numbered in the order in which the agent makes them. A number that the log has an end for is answered from
//! there, if the call is the same; any other is made. The run's clock is the time of the latest call, taken from its id,
//! which the log keeps: a replay reads the same times. Budgets are counted here too, past calls included.
//!
//! An agent that waits long is put away in the same manner: the call that it waits for is kept here, its sandbox goes, and
//! it is run again when the log has the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::call::{Call, CallError, CallName, Json};
use crate::engine::cache::hex;
use crate::error::{Blame, ErrorKind};

/// One call of the past, as the log has it.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its id, which holds its time.
    pub id: Uuid,
    /// What was asked for.
    pub name: String,
    /// The message, or the blob that holds it.
    pub message: Json,
    /// Its end.
    pub result: Result<Json, CallError>,
}

/// What an agent may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Inference calls.
    pub steps: u32,
    /// Tokens, as endpoints count them.
    pub tokens: u64,
}

/// How long the run lives, and how long its agent may keep a sandbox while it waits.
#[derive(Clone, Debug)]
pub struct Life {
    /// Fires when the run shall end; the agent's calls hang on it, so that they outlive the agent's sandbox.
    pub cancel: CancellationToken,
    /// How long one answer is waited for before the sandbox is put away.
    pub park_after: Duration,
}

/// A call of the agent on its way to its end.
pub type Work = BoxFuture<'static, Result<Json, CallError>>;

/// How the next call of an agent is answered.
#[derive(Debug)]
pub enum Next {
    /// From the log.
    Past(Result<Json, CallError>),
    /// By making it, under this number.
    New(u64),
}

/// The calls of one run.
pub struct Journal {
    run: Uuid,
    budget: Budget,
    life: Life,
    state: Mutex<State>,
    /// The call that the agent waited for when it was put away.
    kept: Mutex<Option<Work>>,
    /// Fires when it is put away.
    parked: CancellationToken,
}

/// A call whose chunks the agent reads as they come. While there is one, the agent is not put away: its chunks would be lost.
#[derive(Debug)]
pub struct Stream(Arc<Journal>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.lock().streams -= 1;
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    past: BTreeMap<u64, Past>,
    next: u64,
    /// Milliseconds since 1970, of the latest call.
    clock: u64,
    steps: u32,
    tokens: u64,
    streams: usize,
    diverged: Option<String>,
}

impl Journal {
    /// The journal of a run with the calls that the log has ends for, by number.
    pub fn new(run: Uuid, budget: Budget, life: Life, past: BTreeMap<u64, Past>) -> Self {
        let state = State {
            past,
            next: 0,
            clock: time_of(run),
            steps: 0,
            tokens: 0,
            streams: 0,
            diverged: None,
        };
        Self {
            run,
            budget,
            life,
            state: Mutex::new(state),
            kept: Mutex::default(),
            parked: CancellationToken::new(),
        }
    }

    /// Fires when the run shall end.
    pub fn cancel(&self) -> &CancellationToken {
        &self.life.cancel
    }

    /// Waits for the end of a call. When that takes too long the call is kept and this never resolves: whoever runs the
    /// agent sees that it is parked, and drops it.
    pub async fn wait(&self, mut work: Work) -> Result<Json, CallError> {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(self.life.park_after) => {}
        }
        if self.lock().streams > 0 {
            return work.await;
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        self.parked.cancel();
        std::future::pending().await
    }

    /// Notes a call whose chunks are read, until the mark is dropped.
    pub fn stream(self: &Arc<Self>) -> Stream {
        self.lock().streams += 1;
        Stream(Arc::clone(self))
    }

    /// Resolves when the agent is put away.
    pub async fn parked(&self) {
        self.parked.cancelled().await;
    }

    /// The call that the agent waits for, if it is put away.
    pub fn kept(&self) -> Option<Work> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Numbers the agent's next call and says how it is answered.
    ///
    /// Fails with `limit` when a budget is used up, and with `other` (diverged) when the log has another call under this
    /// number; the run then ends whatever the agent makes of it.
    pub fn next(&self, call: &Call) -> Result<Next, CallError> {
        let mut state = self.lock();
        if let Some(diverged) = &state.diverged {
            return Err(CallError::new(ErrorKind::Other, diverged.clone()).blame(Blame::Plugin));
        }
        if *call.name.kind == *"inference" {
            self.spend(&mut state)?;
        }
        let index = state.next;
        state.next += 1;
        let Some(past) = state.past.remove(&index) else {
            state.clock = state.clock.max(time_of(call.id));
            return Ok(Next::New(index));
        };
        let name = call.name.to_string();
        if past.name != name || !same(&past.message, &call.message) {
            let diverged = format!(
                "diverged: call {index} was {} before and is {name} now, or with another message; an agent must make the same \
                 calls given the same replies",
                past.name
            );
            state.diverged = Some(diverged.clone());
            return Err(CallError::new(ErrorKind::Other, diverged).blame(Blame::Plugin));
        }
        state.clock = state.clock.max(time_of(past.id));
        state.count(&call.name, &past.result);
        Ok(Next::Past(past.result))
    }

    /// Counts what a new call cost.
    pub fn answered(&self, name: &CallName, result: &Result<Json, CallError>) {
        self.lock().count(name, result);
    }

    /// Why the run must fail, if its agent did something else than before.
    pub fn diverged(&self) -> Option<String> {
        self.lock().diverged.clone()
    }

    /// Inference calls and tokens so far.
    pub fn used(&self) -> (u32, u64) {
        let state = self.lock();
        (state.steps, state.tokens)
    }

    /// The run's time: milliseconds since 1970.
    pub fn now(&self) -> u64 {
        self.lock().clock
    }

    /// When the run began, by the same clock.
    pub fn began(&self) -> u64 {
        time_of(self.run)
    }

    /// A seed that belongs to the run, one for each use.
    pub fn seed(&self, purpose: u8) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.run.as_bytes())
            .chain_update([purpose])
            .finalize()
            .into()
    }

    fn spend(&self, state: &mut State) -> Result<(), CallError> {
        let Budget { steps, tokens } = self.budget;
        if state.steps >= steps {
            let message =
                format!("the run has used its {steps} inference calls: raise `steps` in [agent] of waypost.toml");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        if state.tokens >= tokens {
            let used = state.tokens;
            let message =
                format!("the run has used {used} of its {tokens} tokens: raise `tokens` in [agent] of waypost.toml");
            return Err(CallError::new(ErrorKind::Limit, message));
        }
        state.steps += 1;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, name: &CallName, result: &Result<Json, CallError>) {
        #[derive(Deserialize)]
        struct Counted {
            usage: Option<Usage>,
        }
        #[derive(Deserialize)]
        struct Usage {
            total_tokens: Option<u64>,
        }
        if *name.kind != *"inference" {
            return;
        }
        let counted = result.as_ref().ok().and_then(|reply| reply.to::<Counted>().ok());
        let total = counted
            .and_then(|counted| counted.usage)
            .and_then(|usage| usage.total_tokens);
        self.tokens = self.tokens.saturating_add(total.unwrap_or(0));
    }
}

/// Milliseconds since 1970, as the id of a run or a call holds them.
fn time_of(id: Uuid) -> u64 {
    id.get_timestamp().map_or(0, |time| {
        let (seconds, nanos) = time.to_unix();
        seconds.saturating_mul(1000) + u64::from(nanos) / 1_000_000
    })
}

/// Whether a message is the one in the log, where a large one stands as its digest.
fn same(logged: &Json, message: &Json) -> bool {
    #[derive(Deserialize)]
    struct Blob {
        #[serde(rename = "$blob")]
        digest: String,
    }
    if logged == message {
        return true;
    }
    logged
        .to::<Blob>()
        .is_ok_and(|blob| blob.digest.strip_prefix("sha256:") == Some(hex(&Sha256::digest(message.as_str())).as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Principal, PrincipalKind, Rights, Scope};
    use crate::workspace::Workspace;
    use proptest::prelude::*;

    fn life() -> Life {
        Life {
            cancel: CancellationToken::new(),
            park_after: Duration::from_millis(1),
        }
    }

    fn call(name: &str, message: &str) -> Call {
        let principal = Principal {
            project: "p".into(),
            run: None,
            kind: PrincipalKind::Agent,
            id: "a".into(),
            rights: Rights::all(),
        };
        let workspace = Arc::new(Workspace::open(&std::env::temp_dir()).unwrap());
        let scope = Scope {
            environment: None,
            labels: Default::default(),
            workspace,
        };
        let message = Json::parse(message).unwrap();
        Call::new(
            name.parse().unwrap(),
            message,
            Arc::new(principal),
            Arc::new(scope),
            Duration::from_secs(1),
        )
    }

    const BUDGET: Budget = Budget { steps: 3, tokens: 100 };

    #[test]
    fn each_budget_ends_with_an_error_that_names_it() {
        let journal = Journal::new(Uuid::now_v7(), BUDGET, life(), BTreeMap::new());
        let ask = call("inference", "{}");
        for _ in 0..3 {
            assert!(matches!(journal.next(&ask), Ok(Next::New(_))));
        }
        assert_eq!(
            journal.next(&ask).unwrap_err().message,
            "the run has used its 3 inference calls: raise `steps` in [agent] of waypost.toml"
        );
        let journal = Journal::new(Uuid::now_v7(), BUDGET, life(), BTreeMap::new());
        journal.answered(
            &ask.name,
            &Ok(Json::parse(r#"{"usage":{"total_tokens":101}}"#).unwrap()),
        );
        assert_eq!(
            journal.next(&ask).unwrap_err().message,
            "the run has used 101 of its 100 tokens: raise `tokens` in [agent] of waypost.toml"
        );
    }

    #[tokio::test]
    async fn an_agent_that_waits_long_is_put_away_and_its_call_is_kept() {
        let journal = Arc::new(Journal::new(Uuid::now_v7(), BUDGET, life(), BTreeMap::new()));
        let done = Ok(Json::null());
        let (tell, told) = tokio::sync::oneshot::channel();
        assert_eq!(journal.wait(Box::pin(std::future::ready(done.clone()))).await, done);
        let waiting = tokio::spawn({
            let (journal, done) = (Arc::clone(&journal), done.clone());
            async move {
                let work = async move { told.await.map_or_else(|_| Ok(Json::null()), |()| done) };
                journal.wait(Box::pin(work)).await
            }
        });
        journal.parked().await;
        waiting.abort();
        tell.send(()).unwrap();
        assert_eq!(journal.kept().unwrap().await, done);
        assert!(journal.kept().is_none());
    }

    #[tokio::test]
    async fn an_agent_that_reads_chunks_is_not_put_away() {
        let journal = Arc::new(Journal::new(Uuid::now_v7(), BUDGET, life(), BTreeMap::new()));
        let stream = journal.stream();
        let patience = journal.life.park_after;
        let since = std::time::Instant::now();
        let slow = async move {
            while since.elapsed() <= 4 * patience {
                tokio::task::yield_now().await;
            }
            Ok(Json::null())
        };
        assert_eq!(journal.wait(Box::pin(slow)).await, Ok(Json::null()));
        drop(stream);
        assert!(journal.kept().is_none());
    }

    proptest! {
        /// A replay of any prefix answers the prefix from the log, in order, reads the same clock, and goes on with the next
        /// number; one changed call diverges for good.
        #[test]
        fn a_prefix_is_answered_and_a_change_diverges(count in 1usize..8, cut in 0usize..8, change in proptest::option::of(0usize..8)) {
            let run = Uuid::now_v7();
            let calls: Vec<Call> = (0..count).map(|n| call("fsEvent:readFile", &format!("{{\"path\":\"{n}\"}}"))).collect();
            let first = Journal::new(run, BUDGET, life(), BTreeMap::new());
            let mut clocks = Vec::new();
            let mut past = BTreeMap::new();
            for (n, call) in calls.iter().enumerate() {
                first.next(call).unwrap();
                clocks.push(first.now());
                if n < cut {
                    let result = Ok(Json::parse(n.to_string()).unwrap());
                    past.insert(n as u64, Past { id: call.id, name: call.name.to_string(), message: call.message.clone(), result });
                }
            }
            let again = Journal::new(run, BUDGET, life(), past);
            prop_assert_eq!(again.seed(0), first.seed(0));
            for (n, done) in calls.iter().enumerate() {
                let other = call("fsEvent:readFile", "{\"path\":\"other\"}");
                let made = if change == Some(n) { &other } else { done };
                match again.next(made) {
                    Ok(Next::Past(result)) => {
                        prop_assert!(n < cut && change != Some(n));
                        let answered = result.unwrap();
                        prop_assert_eq!(answered.as_str(), n.to_string());
                        prop_assert_eq!(again.now(), clocks[n]);
                    }
                    Ok(Next::New(index)) => prop_assert!(n >= cut && index == n as u64),
                    Err(_) => {
                        prop_assert!(again.diverged().unwrap().starts_with("diverged: "));
                        prop_assert!(again.next(done).is_err());
                        return Ok(());
                    }
                }
            }
        }
    }
}
