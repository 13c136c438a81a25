//! Tokens against a log in memory; the clock is a number.

use proptest::prelude::*;

use super::*;
use crate::log::memory::MemoryLog;

async fn tokens(log: &Arc<MemoryLog>) -> Arc<Tokens> {
    Tokens::open(Arc::clone(log) as _, "p".into()).await.unwrap()
}

fn new(name: &str, scopes: &[&str]) -> NewToken {
    NewToken {
        name: name.to_owned(),
        scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
        expires: LIFETIME,
    }
}

async fn kinds(log: &MemoryLog) -> Vec<String> {
    let events = log.feed(log::Cursor::default(), 10_000).await.unwrap();
    events.iter().map(|event| event.kind.to_string()).collect()
}

#[tokio::test]
async fn a_token_is_known_by_its_text_until_its_time_is_over() {
    let log = Arc::new(MemoryLog::default());
    let tokens = tokens(&log).await;
    let (text, made) = tokens
        .create(new("ci", &["api", "read", "api"]), "person:cli")
        .await
        .unwrap();
    assert!(text.len() == PREFIX.len() + 64 && text.starts_with("wp_"), "{text}");
    assert_eq!(made.scopes, [Scope::Api, Scope::Read]);
    let end = made.expires.unwrap();
    assert_eq!(end - made.created, 24 * 3600 * 1000);
    assert_eq!(tokens.check(&text).unwrap().id, made.id);
    assert_eq!(tokens.check_at(&text, end - 1).unwrap().name, made.name);
    assert_eq!(tokens.check_at(&text, end).unwrap_err(), Refusal::Expired);
    for wrong in ["", "wp_", &text[1..], &text.to_uppercase(), &"x".repeat(TEXT_BYTES + 1)] {
        assert_eq!(tokens.check(wrong).unwrap_err(), Refusal::Unknown, "{wrong}");
    }
    assert!(!format!("{made:?}").contains(&hex(made.digest())));
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_stays_so() {
    let log = Arc::new(MemoryLog::default());
    let before = tokens(&log).await;
    let (text, made) = before.create(new("a", &["admin"]), "person:cli").await.unwrap();
    let (other, _) = before.create(new("b", &["read"]), "person:cli").await.unwrap();
    let waiting = tokio::spawn({
        let made = Arc::clone(&made);
        async move { made.over().await }
    });
    let revoked = before.revoke("a").await.unwrap();
    assert_eq!((&revoked.id, revoked.state_at(0)), (&made.id, "revoked"));
    assert_eq!(waiting.await.unwrap(), Refusal::Revoked);
    // Again by its id is the same, and is no second event.
    before.revoke(&made.id).await.unwrap();
    assert_eq!(kinds(&log).await, ["token.created", "token.created", "token.revoked"]);
    for tokens in [before, tokens(&log).await] {
        assert_eq!(tokens.check(&text).unwrap_err(), Refusal::Revoked);
        assert_eq!(&*tokens.check(&other).unwrap().name, "b");
        let names = |all| {
            tokens
                .list(all)
                .iter()
                .map(|token| token.name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (names(false), names(true)),
            (vec!["b".to_owned()], vec!["b".to_owned(), "a".to_owned()])
        );
    }
}

#[tokio::test]
async fn a_token_that_expired_ends_what_waits_on_it_and_gives_its_name_back() {
    let log = Arc::new(MemoryLog::default());
    let tokens = tokens(&log).await;
    let short = NewToken {
        expires: Duration::from_millis(1),
        ..new("ci", &["api"])
    };
    let (text, made) = tokens.create(short, "person:cli").await.unwrap();
    assert_eq!(made.over().await, Refusal::Expired);
    assert_eq!(tokens.check(&text).unwrap_err(), Refusal::Expired);
    assert!(!tokens.any_for(&Scope::Api));
    let (_, next) = tokens.create(new("ci", &["api"]), "person:cli").await.unwrap();
    assert_eq!(kinds(&log).await, ["token.created", "token.expired", "token.created"]);
    assert_eq!(tokens.revoke("ci").await.unwrap().id, next.id);
    tokens.create(new("ci", &["api"]), "person:cli").await.unwrap();
    let expired = kinds(&log).await.iter().filter(|kind| *kind == "token.expired").count();
    assert_eq!(expired, 1, "it is noted once");
}

#[tokio::test]
async fn what_cannot_be_a_token_is_told() {
    let log = Arc::new(MemoryLog::default());
    let tokens = tokens(&log).await;
    tokens.create(new("ci", &["api"]), "person:cli").await.unwrap();
    let many: Vec<String> = (0..=SCOPES_EACH).map(|number| format!("connection:{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plain = "a token's name has 1 to 64 letters, digits and `-_.@`";
    for (name, scopes, text) in [
        ("", &["api"][..], plain),
        ("a b", &["api"], plain),
        ("agent:*", &["api"], plain),
        (&"x".repeat(NAME_BYTES + 1), &["api"], plain),
        (
            "serve",
            &["api"],
            "`serve` is what the hub calls its own; take another name for a token",
        ),
        (
            "cli",
            &["api"],
            "`cli` is what the hub calls its own; take another name for a token",
        ),
        (
            "0192d3a0-0000-7000-8000-000000000000",
            &["api"],
            "a token's name must not look like an id; take another",
        ),
        (
            "x",
            &[],
            "a token without a scope is good for nothing; there are admin, api, read, connection:<name> and \
             agent:<run or thread>",
        ),
        ("x", &many, "a token has at most 16 scopes, this one has 17"),
        (
            "ci",
            &["api"],
            "a token named `ci` holds already; revoke it first, or take another name",
        ),
    ] {
        let error = tokens.create(new(name, scopes), "person:cli").await.err().unwrap();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Invalid, text));
    }
    let error = tokens.revoke("moon").await.err().unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::NotFound,
            "no token that holds is named `moon`, and none has this id; `waypost token ls` lists them"
        )
    );
    assert_eq!(kinds(&log).await, ["token.created"]);
}

#[tokio::test]
async fn the_number_of_tokens_that_hold_is_bounded() {
    let log = Arc::new(MemoryLog::default());
    let tokens = tokens(&log).await;
    for number in 0..TOKENS {
        tokens
            .create(new(&format!("t{number}"), &["read"]), "person:cli")
            .await
            .unwrap();
    }
    let error = tokens.create(new("more", &["read"]), "person:cli").await.err().unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::Limit,
            "1000 tokens hold, and more cannot; revoke those that nobody needs"
        )
    );
    tokens.revoke("t0").await.unwrap();
    tokens.create(new("more", &["read"]), "person:cli").await.unwrap();
}

#[tokio::test]
async fn a_token_that_is_held_ends_with_the_process_and_is_in_no_list() {
    let log = Arc::new(MemoryLog::default());
    let before = tokens(&log).await;
    before.hold("text", "serve", Scope::Admin);
    assert_eq!(&*before.check_at("text", u64::MAX).unwrap().name, "serve");
    assert!(before.list(true).is_empty());
    assert_eq!(before.revoke("serve").await.err().unwrap().kind, ErrorKind::NotFound);
    assert_eq!(tokens(&log).await.check("text").unwrap_err(), Refusal::Unknown);
    assert!(kinds(&log).await.is_empty());
}

#[test]
fn scopes_and_times_are_few_and_named() {
    let wanted = ["admin", "api", "read", "connection:a", "connection:b", "agent:r"];
    for (scope, covered) in [
        ("admin", &["admin", "api", "read"][..]),
        ("api", &["api", "read"]),
        ("read", &["read"]),
        ("connection:a", &["connection:a"]),
        ("agent:r", &["agent:r"]),
    ] {
        let one: Scope = scope.parse().unwrap();
        let covers: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|other| one.covers(&other.parse().unwrap()))
            .collect();
        assert_eq!((one.to_string().as_str(), covers.as_slice()), (scope, covered));
    }
    for wrong in [
        "",
        "Admin",
        "root",
        "connection",
        "connection:",
        "connection:a b",
        "agent",
        "api:x",
    ] {
        let error = wrong.parse::<Scope>().unwrap_err();
        let text = format!("there is no scope `{wrong}`; there are {SCOPES}");
        assert_eq!((error.kind, error.message), (ErrorKind::Invalid, text));
    }
    assert_eq!(lifetime("365d").unwrap(), LONGEST);
    assert_eq!(lifetime(" 1h 30m ").unwrap(), Duration::from_secs(5400));
    for (text, error) in [
        (
            "soon",
            "`soon` is not how long a token can hold; write it as 30m, 24h or 90d",
        ),
        ("5", "`5` is not how long a token can hold; write it as 30m, 24h or 90d"),
        ("0s", "a token must hold for a while; write it as 30m, 24h or 90d"),
        ("366d", "a token holds for at most 365d"),
    ] {
        assert_eq!(lifetime(text).unwrap_err().message, error);
    }
}

proptest! {
    #[test]
    fn a_scope_survives_a_round_trip_and_no_text_panics(text in "(connection|agent|read|api|admin)?:?\\PC{0,12}") {
        if let Ok(scope) = text.parse::<Scope>() {
            prop_assert_eq!(scope.to_string(), text);
        }
    }

    #[test]
    fn a_digest_in_a_record_is_read_again(bytes in any::<[u8; 32]>(), text in "[0-9a-fé]{0,70}") {
        prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        prop_assert!(unhex(&text).is_none_or(|bytes| hex(&bytes) == text));
    }
}
