//! Tokens: who may use the hub, for what, and until when.
//!
//! A token's text is shown once, when it is made. What is kept is its SHA-256, in a record of the log; so whoever reads the
//! state learns no token, and finding one takes one hash and one look into a map, whatever was presented. Made, revoked and
//! found expired are events. Not here: where a token stands in a request ([`crate::transports`]), and the tokens that the
//! operator himself writes into `[[connection]]`.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::engine::cache::hex;
use crate::error::{Blame, Error, ErrorKind, Result};
use crate::log::{self, Append, EventLog, HUB, NewEvent, Noun, Record, RecordQuery, wall_clock};

mod scope;
#[cfg(test)]
mod tests;

pub use scope::{SCOPES, Scope};

/// What every token begins with, so that people and scanners of secrets know one.
pub const PREFIX: &str = "wp_";

/// How long a token holds when nobody says. 24 h.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The longest time for which a token can be made. 365 days.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// How many tokens may hold at the same time; more are refused until some expired or were revoked.
pub const TOKENS: usize = 1_000;

/// How many tokens that no longer hold are remembered, the latest first; the log has all of them.
pub const ENDED: usize = 1_000;

/// How many scopes one token may have.
pub const SCOPES_EACH: usize = 16;

/// The longest name of a token, in bytes.
pub const NAME_BYTES: usize = 64;

/// The longest text that is looked at as a token, in bytes.
pub const TEXT_BYTES: usize = 1_024;

/// Names that the hub itself gives to who acts through it.
const RESERVED: [&str; 2] = ["cli", "serve"];

/// How long an end that the wall clock sets is slept towards at once: that clock may be set, and a machine may sleep.
const STEP: Duration = Duration::from_secs(30);

const LIVE: &str = "live";
const EXPIRED: &str = "expired";
const REVOKED: &str = "revoked";

/// A text that nobody can guess: 256 random bits behind [`PREFIX`].
pub fn fresh() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Internal, "the system gives no random numbers").because(error))?;
    Ok(format!("{PREFIX}{}", hex(&bytes)))
}

/// How long a token shall hold, as a person writes it: `30m`, `24h`, `90d`.
pub fn lifetime(text: &str) -> Result<Duration> {
    let wrong = |why: &str| Err(Error::new(ErrorKind::Invalid, why));
    match humantime::parse_duration(text.trim()) {
        Err(_) => wrong(&format!(
            "`{}` is not how long a token can hold; write it as 30m, 24h or 90d",
            text.escape_debug()
        )),
        Ok(time) if time.as_millis() == 0 => wrong("a token must hold for a while; write it as 30m, 24h or 90d"),
        Ok(time) if time > LONGEST => wrong("a token holds for at most 365d"),
        Ok(time) => Ok(time),
    }
}

/// Why a token is refused. For the log: who presents one is told nothing of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token has this text.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Refusal {
    /// The word used in logs and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => EXPIRED,
            Self::Revoked => REVOKED,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a token is wanted for.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it is called, in rules and in the log.
    pub name: String,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// For how long.
    pub expires: Duration,
}

/// A token, without its text.
pub struct Token {
    /// Its id, of all tokens that ever were.
    pub id: Arc<str>,
    /// Its name, of those that hold; the id of the principal that acts with it.
    pub name: Arc<str>,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// When its time is over, in milliseconds since 1970; none for one that ends with this process.
    pub expires: Option<u64>,
    /// Who made it.
    pub by: Arc<str>,
    digest: [u8; 32],
    revoked: CancellationToken,
    /// Whether its record says that it no longer holds.
    written: AtomicBool,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, scopes, .. } = self;
        f.debug_struct("Token")
            .field("id", id)
            .field("name", name)
            .field("scopes", scopes)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Who acts inside this process, or with a token that ends with it.
    pub fn of_this_process(name: &str, scope: Scope) -> Self {
        Self {
            id: Uuid::now_v7().to_string().into(),
            name: name.into(),
            scopes: vec![scope],
            created: wall_clock(),
            expires: None,
            by: "hub".into(),
            digest: [0; 32],
            revoked: CancellationToken::new(),
            written: AtomicBool::new(false),
        }
    }

    /// Whether it is good for this.
    pub fn may(&self, wanted: &Scope) -> bool {
        self.scopes.iter().any(|scope| scope.covers(wanted))
    }

    /// The digest of its text, by which a connection is known again.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether it holds at a time, in milliseconds since 1970; else why not.
    pub fn holds_at(&self, now: u64) -> Result<(), Refusal> {
        if self.revoked.is_cancelled() {
            Err(Refusal::Revoked)
        } else if self.expires.is_some_and(|expires| expires <= now) {
            Err(Refusal::Expired)
        } else {
            Ok(())
        }
    }

    /// Resolves when it no longer holds, with the reason; whatever was let in with it ends then.
    pub async fn over(&self) -> Refusal {
        loop {
            let now = wall_clock();
            if let Err(refusal) = self.holds_at(now) {
                return refusal;
            }
            let left = self
                .expires
                .map_or(STEP, |expires| Duration::from_millis(expires.saturating_sub(now)));
            // The time is over, or the clock is looked at again.
            drop(tokio::time::timeout(left.min(STEP), self.revoked.cancelled()).await);
        }
    }

    /// `live`, `expired` or `revoked`.
    pub fn state_at(&self, now: u64) -> &'static str {
        self.holds_at(now).err().map_or(LIVE, Refusal::as_str)
    }

    /// As the API shows it now.
    pub fn shown(&self) -> serde_json::Value {
        let Self {
            id,
            name,
            scopes,
            created,
            expires,
            by,
            ..
        } = self;
        let state = self.state_at(wall_clock());
        serde_json::json!({ "id": id, "name": name, "scopes": scopes, "state": state, "created": created, "expires": expires,
                            "by": by })
    }

    fn event(&self, kind: &'static str, state: &str, project: &Arc<str>) -> Result<NewEvent> {
        let kept = Kept {
            id: Arc::clone(&self.id),
            name: Arc::clone(&self.name),
            scopes: self.scopes.clone(),
            digest: hex(&self.digest),
            created: self.created,
            expires: self.expires.unwrap_or(u64::MAX),
            by: Arc::clone(&self.by),
        };
        let body = crate::call::Json::of(&kept)
            .map_err(|error| Error::new(ErrorKind::Internal, "a token cannot be written").because(error))?;
        let record = Record {
            noun: Noun::Token,
            id: Arc::clone(&self.id),
            project: Arc::clone(project),
            state: state.to_owned(),
            body,
        };
        Ok(NewEvent::recorded(kind, record))
    }

    fn of_record(record: &Record) -> Result<Self> {
        let broken = || {
            Error::new(
                ErrorKind::Internal,
                format!("the record of token {} is broken", record.id),
            )
        };
        let kept: Kept = record.body.to().map_err(|error| broken().because(error))?;
        let revoked = CancellationToken::new();
        if record.state == REVOKED {
            revoked.cancel();
        }
        Ok(Self {
            digest: unhex(&kept.digest).ok_or_else(broken)?,
            id: kept.id,
            name: kept.name,
            scopes: kept.scopes,
            created: kept.created,
            expires: Some(kept.expires),
            by: kept.by,
            written: AtomicBool::new(record.state != LIVE),
            revoked,
        })
    }
}

/// The body of the events and of the record.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: Arc<str>,
    name: Arc<str>,
    scopes: Vec<Scope>,
    digest: String,
    created: u64,
    expires: u64,
    by: Arc<str>,
}

/// All tokens of a project.
pub struct Tokens {
    log: Arc<dyn EventLog>,
    project: Arc<str>,
    /// By the digest of their text: an attacker who times the search learns about digests, and of no text.
    known: RwLock<HashMap<[u8; 32], Arc<Token>>>,
    /// Held while the log is written, so that two of one name never pass the check together.
    turn: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// The tokens that a log knows.
    pub async fn open(log: Arc<dyn EventLog>, project: Arc<str>) -> Result<Arc<Self>> {
        let mut known = HashMap::new();
        for (states, limit) in [(vec![EXPIRED, REVOKED], ENDED), (vec![LIVE], TOKENS)] {
            let query = RecordQuery {
                noun: Noun::Token,
                project: Some(Arc::clone(&project)),
                states: states.into_iter().map(str::to_owned).collect(),
                limit,
            };
            for record in log.records(query).await? {
                let token = Token::of_record(&record)?;
                known.insert(token.digest, Arc::new(token));
            }
        }
        Ok(Arc::new(Self {
            log,
            project,
            known: RwLock::new(known),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Lets a text be a token until this process ends; neither is kept.
    pub fn hold(&self, text: &str, name: &str, scope: Scope) {
        let token = Token {
            digest: digest(text),
            ..Token::of_this_process(name, scope)
        };
        self.write().insert(token.digest, Arc::new(token));
    }

    /// Makes a token, on disk when this resolves. The text is here and nowhere else.
    pub async fn create(self: &Arc<Self>, new: NewToken, by: &str) -> Result<(String, Arc<Token>)> {
        let text = fresh()?;
        let created = wall_clock();
        let life = u64::try_from(new.expires.as_millis()).unwrap_or(u64::MAX);
        let token = Arc::new(Token {
            name: checked_name(&new.name)?,
            scopes: checked_scopes(new.scopes)?,
            expires: Some(created.saturating_add(life)),
            created,
            by: by.into(),
            digest: digest(&text),
            ..Token::of_this_process("", Scope::Read)
        });
        let (tokens, made) = (Arc::clone(self), Arc::clone(&token));
        to_its_end(async move { tokens.keep(made).await }).await?;
        Ok((text, token))
    }

    async fn keep(&self, token: Arc<Token>) -> Result<()> {
        let _turn = self.turn.lock().await;
        let now = wall_clock();
        let kept: Vec<Arc<Token>> = self
            .read()
            .values()
            .filter(|other| other.expires.is_some())
            .cloned()
            .collect();
        let (live, ended): (Vec<_>, Vec<_>) = kept.into_iter().partition(|other| other.holds_at(now).is_ok());
        if live.iter().any(|other| other.name == token.name) {
            let message = format!(
                "a token named `{}` holds already; revoke it first, or take another name",
                token.name
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if live.len() >= TOKENS {
            let message = format!("{TOKENS} tokens hold, and more cannot; revoke those that nobody needs");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        // Their records leave the live ones here, so that those are never more than can be read at a start.
        let expired = ended
            .iter()
            .filter(|other| other.holds_at(now) == Err(Refusal::Expired) && !other.written.load(Ordering::Relaxed));
        let mut events = Vec::new();
        let mut noted = Vec::new();
        for other in expired {
            events.push(other.event("token.expired", EXPIRED, &self.project)?);
            noted.push(other);
        }
        events.push(token.event("token.created", LIVE, &self.project)?);
        self.append(events).await?;
        for other in noted {
            other.written.store(true, Ordering::Relaxed);
        }
        let mut known = self.write();
        forget(&mut known, ended);
        known.insert(token.digest, token);
        Ok(())
    }

    /// Takes a token back, by its id or by the name of one that holds. From then on it is refused, and what was let in with
    /// it ends; that it stays so after a restart is on disk when this resolves.
    pub async fn revoke(self: &Arc<Self>, which: &str) -> Result<Arc<Token>> {
        let tokens = Arc::clone(self);
        let which = which.to_owned();
        to_its_end(async move { tokens.end(&which).await }).await
    }

    async fn end(&self, which: &str) -> Result<Arc<Token>> {
        let _turn = self.turn.lock().await;
        let now = wall_clock();
        let found = self
            .read()
            .values()
            .filter(|token| token.expires.is_some())
            .find(|token| *token.id == *which || (*token.name == *which && token.holds_at(now).is_ok()))
            .cloned();
        let Some(token) = found else {
            let message = format!(
                "no token that holds is named `{}`, and none has this id; `waypost token ls` lists them",
                which.escape_debug()
            );
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        if token.holds_at(now) == Err(Refusal::Expired) || token.written.load(Ordering::Relaxed) {
            return Ok(token);
        }
        // First, so that a log that cannot be written keeps nobody in.
        token.revoked.cancel();
        let event = token.event("token.revoked", REVOKED, &self.project)?;
        self.append(vec![event]).await.map_err(|error| {
            let message = format!(
                "token {} is refused from now on, but that could not be written: revoke it again by this id before the hub \
                 restarts",
                token.id
            );
            Error::new(ErrorKind::Internal, message)
                .blame(Blame::Operator)
                .because(error)
        })?;
        token.written.store(true, Ordering::Relaxed);
        Ok(token)
    }

    /// The tokens that are kept, newest first: those that hold, or all that are remembered.
    pub fn list(&self, all: bool) -> Vec<Arc<Token>> {
        let now = wall_clock();
        let mut list: Vec<Arc<Token>> = self
            .read()
            .values()
            .filter(|token| token.expires.is_some() && (all || token.holds_at(now).is_ok()))
            .cloned()
            .collect();
        list.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
        list
    }

    /// The token whose text this is, if it holds. Costs one hash and one look into a map.
    pub fn check(&self, presented: &str) -> Result<Arc<Token>, Refusal> {
        self.check_at(presented, wall_clock())
    }

    /// The same, at a time in milliseconds since 1970.
    pub fn check_at(&self, presented: &str, now: u64) -> Result<Arc<Token>, Refusal> {
        let found = if presented.len() <= TEXT_BYTES {
            self.read().get(&digest(presented)).cloned()
        } else {
            None
        };
        let Some(token) = found else {
            tracing::info!(reason = %Refusal::Unknown, "a token was refused");
            return Err(Refusal::Unknown);
        };
        if let Err(reason) = token.holds_at(now) {
            tracing::info!(token = %token.name, id = %token.id, %reason, "a token was refused");
            return Err(reason);
        }
        Ok(token)
    }

    /// Whether a token that holds is good for exactly this.
    pub fn any_for(&self, scope: &Scope) -> bool {
        let now = wall_clock();
        self.read()
            .values()
            .any(|token| token.holds_at(now).is_ok() && token.scopes.contains(scope))
    }

    async fn append(&self, events: Vec<NewEvent>) -> Result<()> {
        let append = Append {
            run: HUB.into(),
            expected_seq: None,
            events,
        };
        log::write(&*self.log, append).await.map(drop)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<[u8; 32], Arc<Token>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<[u8; 32], Arc<Token>>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs to its end even if nobody waits for it any more, so that what is in memory and what is in the log agree.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "the hub stopped meanwhile").because(error)))
}

/// Drops the oldest of those that ended, down to the number that is remembered.
fn forget(known: &mut HashMap<[u8; 32], Arc<Token>>, mut ended: Vec<Arc<Token>>) {
    ended.sort_by_key(|token| std::cmp::Reverse(token.created));
    for token in ended.iter().skip(ENDED) {
        known.remove(&token.digest);
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>()?;
    rest.is_empty().then(|| bytes.try_into().ok()).flatten()
}

fn checked_name(name: &str) -> Result<Arc<str>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let wrong = if name.is_empty() || name.len() > NAME_BYTES || !name.chars().all(plain) {
        format!("a token's name has 1 to {NAME_BYTES} letters, digits and `-_.@`")
    } else if RESERVED.contains(&name) {
        format!("`{name}` is what the hub calls its own; take another name for a token")
    } else if name.parse::<Uuid>().is_ok() {
        "a token's name must not look like an id; take another".to_owned()
    } else {
        return Ok(name.into());
    };
    Err(Error::new(ErrorKind::Invalid, wrong))
}

fn checked_scopes(mut scopes: Vec<Scope>) -> Result<Vec<Scope>> {
    scopes.sort();
    scopes.dedup();
    let wrong = match scopes.len() {
        0 => format!("a token without a scope is good for nothing; there are {SCOPES}"),
        1..=SCOPES_EACH => return Ok(scopes),
        many => format!("a token has at most {SCOPES_EACH} scopes, this one has {many}"),
    };
    Err(Error::new(ErrorKind::Invalid, wrong))
}
