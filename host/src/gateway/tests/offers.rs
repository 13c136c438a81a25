//! Offers and the requests made under them, with a carrier that the test plays itself.

use futures::StreamExt;

use super::*;
use crate::call::{Models, Piece};

impl ModelCarrier for Peer {
    fn ask<'a>(
        &'a self,
        call: &'a Call,
        request: &'a ModelRequest,
        ticket: RequestTicket,
    ) -> BoxFuture<'a, Result<Json, CallError>> {
        assert_eq!(request.options.as_str(), "{}");
        Carrier::request(self, call, ticket, &NOWHERE)
    }
}

static NOWHERE: std::sync::LazyLock<Sink> = std::sync::LazyLock::new(Sink::discard);

const LIMITS: Limits = Limits {
    pending: 8,
    offers: 2,
    models: 3,
    chunks: 2,
    chunk_bytes: 20,
};

/// One that offers models.
struct Server {
    attached: Attached,
    peer: Arc<Peer>,
    requests: mpsc::Receiver<Uuid>,
}

fn hub() -> Arc<Gateway> {
    Arc::new(Gateway::with_limits(Arc::new(MemoryLog::new(10_000)), LIMITS))
}

fn server(gateway: &Arc<Gateway>, name: &str) -> Server {
    let (peer, requests) = peer(name, 0);
    Server {
        attached: gateway.attach(peer.clone()).unwrap(),
        peer,
        requests,
    }
}

impl Server {
    fn offer(&self, gateway: &Gateway, id: &str, models: Option<&[&str]>) -> Result<(), CallError> {
        let offer = Offer {
            id: id.to_owned(),
            name: id.to_uppercase(),
            models: models.map(|ids| ids.iter().map(|id| ((*id).to_owned(), None)).collect()),
        };
        gateway.offer(&self.attached, PROJECT, offer, self.peer.clone())
    }
}

/// Who serves a model, and under which id.
fn found(gateway: &Gateway, name: &str) -> Result<Option<String>, String> {
    let found = gateway.find(PROJECT, name).map_err(|error| error.to_string())?;
    Ok(found.map(|model| format!("{} of {}", model.id(), model.by())))
}

#[test]
fn a_model_goes_by_its_full_name_or_by_an_id_that_one_alone_lists() {
    let gateway = hub();
    let (a, b) = (server(&gateway, "a"), server(&gateway, "b"));
    a.offer(&gateway, "home", Some(&["small", "org/big"])).unwrap();
    b.offer(&gateway, "away", Some(&["small", "home/small"])).unwrap();
    b.offer(&gateway, "any", None).unwrap();
    let of = |text: &str| Ok(Some(text.to_owned()));
    for (name, expected) in [
        ("home/small", of("small of connection:a")),
        ("Ho Me/small", of("small of connection:a")),
        ("home/org/big", of("org/big of connection:a")),
        ("org/big", of("org/big of connection:a")),
        ("away/home/small", of("home/small of connection:b")),
        ("any/thing/at all", of("thing/at all of connection:b")),
        ("thing", Ok(None)),
        ("any/", Ok(None)),
        ("home/other", Ok(None)),
        ("", Ok(None)),
        (
            "small",
            Err("invalid: model `small` is registered by `away` (connection:b) and `home` (connection:a); say which, as in \
                 `away/small`"
                .to_owned()),
        ),
    ] {
        assert_eq!(found(&gateway, name), expected, "{name}");
    }
    assert!(gateway.find("other", "home/small").unwrap().is_none());
    assert_eq!(
        gateway.names(PROJECT),
        ["any/*", "away/home/small", "away/small", "home/org/big", "home/small"]
    );
    drop(b);
    assert_eq!(found(&gateway, "small"), of("small of connection:a"));
    assert_eq!((gateway.offered(PROJECT).len(), gateway.stats().offers), (1, 1));
}

#[test]
fn an_offer_is_its_makers_and_within_limits() {
    let gateway = hub();
    let (a, b) = (server(&gateway, "a"), server(&gateway, "b"));
    a.offer(&gateway, "home", Some(&["x"])).unwrap();
    let error = |result: Result<(), CallError>| result.unwrap_err().to_string();
    assert_eq!(
        error(b.offer(&gateway, "home", Some(&["y"]))),
        "denied: `home` is registered by connection:a; it must unregister it first, or choose another providerId"
    );
    assert_eq!(
        error(gateway.take_back(&b.attached, PROJECT, "home")),
        "not-found: connection:b has not registered `home`"
    );
    a.offer(&gateway, "home", Some(&["x", "y", "z"])).unwrap();
    assert_eq!(
        error(a.offer(&gateway, "home", Some(&["w", "x", "y", "z"]))),
        "limit: `home` lists 4 models; at most 3 are taken: leave out what nobody asks for"
    );
    a.offer(&gateway, "second", None).unwrap();
    assert_eq!(
        error(a.offer(&gateway, "third", None)),
        "limit: connection:a has registered 2 providers, its limit; unregister one of them first"
    );
    gateway.take_back(&a.attached, PROJECT, "home").unwrap();
    b.offer(&gateway, "home", None).unwrap();
    // One that was replaced offers nothing more, and what it offered is gone.
    let newer = server(&gateway, "a");
    assert_eq!(found(&gateway, "second/x"), Ok(None));
    assert_eq!(
        error(a.offer(&gateway, "second", None)),
        "unavailable: connection:a is no longer attached; a newer one of its name took over"
    );
    newer.offer(&gateway, "second", None).unwrap();
}

/// Asks, and gives all pieces up to the end.
fn ask(gateway: &Arc<Gateway>, name: &str) -> (CancellationToken, JoinHandle<Vec<Result<Piece, CallError>>>) {
    let model = gateway.find(PROJECT, name).unwrap().unwrap();
    let call = call("inference");
    let cancel = call.cancel.clone();
    let asked = async move { model.ask(&call, json("{}"), true).collect().await };
    (cancel, tokio::spawn(asked))
}

fn kinds(pieces: &[Result<Piece, CallError>]) -> Vec<String> {
    let kind = |piece: &Result<Piece, CallError>| match piece {
        Ok(Piece::Part(part)) => format!("part {}", part.as_str()),
        Ok(Piece::Reply(reply)) => format!("reply {}", reply.as_str()),
        Err(error) => error.to_string(),
    };
    pieces.iter().map(kind).collect()
}

#[tokio::test]
async fn chunks_count_before_the_reply_from_the_one_that_was_asked() {
    let gateway = hub();
    let (mut a, b) = (server(&gateway, "a"), server(&gateway, "b"));
    a.offer(&gateway, "home", None).unwrap();
    let (_, asked) = ask(&gateway, "home/x");
    let id = a.requests.recv().await.unwrap().to_string();
    let chunk = |from: &Server, id: &str, text: &str| gateway.chunk(&from.attached, id, json(text));
    assert_eq!(chunk(&a, &id, "1"), Ok(()));
    assert_eq!(chunk(&b, &id, "7"), Err(Rejection::Foreign));
    assert_eq!(chunk(&a, "7", "7"), Err(Rejection::Unknown));
    assert_eq!(chunk(&a, &id, "2"), Ok(()));
    assert_eq!(gateway.reply(&a.attached, &id, Ok(json("3"))), Ok(()));
    assert_eq!(chunk(&a, &id, "4"), Err(Rejection::Duplicate));
    assert_eq!(kinds(&asked.await.unwrap()), ["part 1", "part 2", "reply 3"]);

    // A proxied call has no chunks.
    let proxied = {
        gateway.claim(&a.attached, PROJECT, vec!["x".to_owned()]).await.unwrap();
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.proxy(&call("x"), &Sink::discard()).await })
    };
    let id = a.requests.recv().await.unwrap().to_string();
    assert_eq!(chunk(&a, &id, "1"), Err(Rejection::Unknown));
    gateway.reply(&a.attached, &id, Ok(json("2"))).unwrap();
    assert_eq!(proxied.await.unwrap(), Ok(json("2")));
    let rejected = Rejected {
        unknown: 2,
        foreign: 1,
        duplicate: 1,
        late: 0,
        stale: 0,
    };
    assert_eq!(gateway.stats().rejected, rejected);
}

#[tokio::test]
async fn a_request_ends_with_its_offer_and_with_its_caller() {
    let gateway = hub();
    let mut a = server(&gateway, "a");
    a.offer(&gateway, "home", None).unwrap();
    let (_, asked) = ask(&gateway, "home/x");
    let id = a.requests.recv().await.unwrap().to_string();
    // Another list of models is the same offer.
    a.offer(&gateway, "home", Some(&["x"])).unwrap();
    gateway.chunk(&a.attached, &id, json("1")).unwrap();
    gateway.take_back(&a.attached, PROJECT, "home").unwrap();
    assert_eq!(gateway.chunk(&a.attached, &id, json("2")), Err(Rejection::Stale));
    let gone = "indeterminate: connection:a went away while it worked on inference; check what it did";
    assert_eq!(kinds(&asked.await.unwrap()), ["part 1", gone]);
    assert_eq!(gateway.reply(&a.attached, &id, Ok(json("3"))), Err(Rejection::Stale));

    a.offer(&gateway, "home", None).unwrap();
    let (cancel, asked) = ask(&gateway, "home/x");
    let id = a.requests.recv().await.unwrap().to_string();
    cancel.cancel();
    let given_up = "indeterminate: the caller gave up while connection:a worked on inference; check what it did";
    assert_eq!(kinds(&asked.await.unwrap()), [given_up]);
    assert_eq!(gateway.chunk(&a.attached, &id, json("2")), Err(Rejection::Late));

    let model = gateway.find(PROJECT, "home/x").unwrap().unwrap();
    let mut own = call("inference");
    own.principal = Arc::new(Principal {
        kind: PrincipalKind::Connection,
        id: "a".into(),
        ..Principal::clone(&own.principal)
    });
    let pieces: Vec<_> = model.ask(&own, json("{}"), true).collect().await;
    assert_eq!(
        kinds(&pieces),
        ["unavailable: connection:a serves `x` itself, and its own call does not reach it; name another model"]
    );
    assert_eq!(gateway.stats().pending, 0);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_in_time_ends_as_a_limit() {
    let slow = "limit: the caller reads the answer more slowly than it comes, and too much of it waits; read faster, or ask \
                without `stream`";
    let long = format!("\"{}\"", "x".repeat(18));
    for (chunks, kept) in [(["1", "2", "3"], 2), ([&long, "2", "3"], 1)] {
        let gateway = hub();
        let mut a = server(&gateway, "a");
        a.offer(&gateway, "home", None).unwrap();
        let model = gateway.find(PROJECT, "home/x").unwrap().unwrap();
        let call = call("inference");
        let mut pieces = model.ask(&call, json("{}"), true);
        // The request leaves when the first piece is waited for.
        assert!(pieces.next().now_or_never().is_none());
        let id = a.requests.recv().await.unwrap().to_string();
        let taken: Vec<bool> = chunks
            .iter()
            .map(|chunk| gateway.chunk(&a.attached, &id, json(chunk)).is_ok())
            .collect();
        assert_eq!(taken, [true, kept == 2, false]);
        let pieces: Vec<_> = pieces.collect().await;
        assert_eq!(
            (pieces.len(), kinds(&pieces).last().map(String::as_str)),
            (kept + 1, Some(slow))
        );
        assert_eq!(gateway.stats().rejected.late, 3 - kept as u64);
    }
}
