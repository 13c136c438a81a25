//! Seats: which processes may connect as an agent, each once, under an id that nobody can guess.
//!
//! Whoever starts a process offers a seat for it and gives it the id. The socket on which the process connects takes the
//! seat, and acts from then on as the principal of the seat. Clients that can send no token are known by nothing else.
//! Not here: what is said on the socket, and how a process is started.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::call::{Deadline, Json, Principal, Scope};
use crate::engine::cache::hex;
use crate::error::{Error, ErrorKind, Result};
use crate::run::journal::Journal;

/// What an agent says of its own run; who offered the seat hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has connected.
    Connected,
    /// It said this to the person.
    Talked(String),
    /// It is done, with this for the person.
    Done(Option<String>),
    /// It gives up, for this reason.
    GaveUp(String),
    /// Its connection has ended.
    Left,
}

/// How much of what an agent says may wait unheard; then the agent waits.
const UNHEARD: usize = 64;

/// How many orders to an agent may wait unsent.
const ORDERS: usize = 4;

/// The place of one agent: as whom it acts, and how it and the one who started it talk.
#[derive(Debug)]
pub struct Seat {
    /// As whom it acts.
    pub agent: Agent,
    /// The first frame that it is sent.
    pub start: Json,
    /// What it says goes here.
    pub says: mpsc::Sender<Said>,
    /// Frames that it is to be sent.
    pub orders: mpsc::Receiver<Json>,
}

/// The far end of a seat, for whoever offered it. Dropping it takes the seat away.
#[derive(Debug)]
pub struct Offer {
    /// What the process must connect with.
    pub id: String,
    /// What the agent says.
    pub said: mpsc::Receiver<Said>,
    /// What it is told.
    pub orders: mpsc::Sender<Json>,
    _place: Place,
}

/// As whom an agent acts.
#[derive(Debug)]
pub struct Agent {
    /// As whom its calls are made.
    pub principal: Arc<Principal>,
    /// Where they act.
    pub scope: Arc<Scope>,
    /// When it must have ended.
    pub deadline: Deadline,
    /// Fires when it shall end; its calls hang on it.
    pub cancel: CancellationToken,
    /// Counts its calls, and what they cost.
    pub journal: Arc<Journal>,
}

/// Why nobody may sit down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no seat with this id.
    Unknown,
    /// Somebody has it, or had it.
    Taken,
}

type Table = Arc<Mutex<HashMap<[u8; 32], Option<Box<Seat>>>>>;

/// All seats. They are looked up by the digest of their id, so that the time of a lookup tells nothing about it.
#[derive(Clone, Debug, Default)]
pub struct Seats(Table);

#[derive(Debug)]
struct Place {
    seats: Seats,
    digest: [u8; 32],
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seats.table().remove(&self.digest);
    }
}

impl Seats {
    /// Offers a seat; `start` is the first frame for whoever takes it.
    pub fn offer(&self, agent: Agent, start: Json) -> Result<Offer> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::Internal, "the system gives no random numbers").because(error))?;
        let id = hex(&bytes);
        let digest: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        let (says, said) = mpsc::channel(UNHEARD);
        let (orders, ordered) = mpsc::channel(ORDERS);
        let seat = Seat {
            agent,
            start,
            says,
            orders: ordered,
        };
        self.table().insert(digest, Some(Box::new(seat)));
        Ok(Offer {
            id,
            said,
            orders,
            _place: Place {
                seats: self.clone(),
                digest,
            },
        })
    }

    /// Takes the seat of an id; nobody else gets it from then on.
    pub fn take(&self, id: &str) -> Result<Seat, Refusal> {
        let digest: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        let mut table = self.table();
        let place = table.get_mut(&digest).ok_or(Refusal::Unknown)?;
        place.take().map(|seat| *seat).ok_or(Refusal::Taken)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], Option<Box<Seat>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where agents on this machine find the hub.
pub trait Door: Send + Sync {
    /// The port on which it listens, on the loopback addresses alone; opened when it is first asked for.
    fn port(&self) -> BoxFuture<'_, Result<u16>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{PrincipalKind, Rights};
    use crate::run::journal::{Budget, Life};
    use crate::workspace::Workspace;
    use std::collections::BTreeMap;
    use std::time::Duration;
    use uuid::Uuid;

    fn agent() -> Agent {
        let cancel = CancellationToken::new();
        let budget = Budget { steps: 1, tokens: 1 };
        let life = Life {
            cancel: cancel.clone(),
            park_after: Duration::from_secs(1),
        };
        Agent {
            principal: Arc::new(Principal {
                project: "p".into(),
                run: None,
                kind: PrincipalKind::Agent,
                id: "a".into(),
                rights: Rights::all(),
            }),
            scope: Arc::new(Scope {
                environment: None,
                labels: BTreeMap::new(),
                workspace: Arc::new(Workspace::open(&std::env::temp_dir()).unwrap()),
            }),
            deadline: Deadline::after(Duration::from_secs(1)),
            cancel,
            journal: Arc::new(Journal::new(Uuid::now_v7(), budget, life, BTreeMap::new())),
        }
    }

    #[test]
    fn a_seat_is_taken_once_and_goes_with_its_offer() {
        let seats = Seats::default();
        let offer = seats.offer(agent(), Json::null()).unwrap();
        let other = seats.offer(agent(), Json::null()).unwrap();
        assert_ne!(offer.id, other.id);
        assert_eq!(offer.id.len(), 64);
        assert_eq!(seats.take("").unwrap_err(), Refusal::Unknown);
        assert_eq!(seats.take(offer.id.get(1..).unwrap()).unwrap_err(), Refusal::Unknown);
        assert!(seats.take(&offer.id).is_ok());
        assert_eq!(seats.take(&offer.id).unwrap_err(), Refusal::Taken);
        let id = other.id.clone();
        drop(other);
        assert_eq!(seats.take(&id).unwrap_err(), Refusal::Unknown);
        drop(offer);
        assert!(seats.table().is_empty());
    }
}
