//! One contract, two carriers: every check of the gateway, with a process on `/plugins` over a real socket and with a
//! component.

use std::sync::Arc;

use futures::future::LocalBoxFuture;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;
use waypost::call::{Call, CallName, Sink};
use waypost::log::Event;

use crate::harness::carrier::{Side, Stage};
use crate::harness::{Open, Plugin, Project, trial};

/// The sides that a check is run on.
enum On {
    Both,
    /// This one alone, and why.
    Only(Side, &'static str),
}

use On::{Both, Only};
use Side::{Component, Connection};

type Check = fn(Side) -> LocalBoxFuture<'static, ()>;

macro_rules! checks {
    ($($on:expr => $name:ident),+ $(,)?) => {
        const CHECKS: &[(&str, On, Check)] = &[
            $((stringify!($name), $on, |side| Box::pin($name(side)))),+
        ];
    };
}

checks![
    Both => a_claimed_call_is_asked_and_answered,
    Both => a_failure_is_the_failure_of_the_call,
    Both => what_nobody_claims_is_local_by_proxy_and_fails_by_proxy_only,
    Both => a_second_claimer_is_refused_while_the_first_keeps_receiving,
    Both => what_is_let_go_is_free_for_the_next,
    Both => a_claim_ends_with_its_holder_and_the_epoch_rises,
    Both => a_call_under_way_ends_with_the_claim,
    Both => a_cancelled_effect_has_one_end,
    Both => a_death_during_a_read_falls_back_to_local,
    Both => a_death_during_an_effect_is_told,
    Both => a_time_limit_ends_the_call,
    Both => two_subscribers_hear_the_result,
    Both => one_that_unsubscribed_hears_nothing_more,
    Both => a_slow_subscriber_delays_nobody_and_learns_what_it_lost,
    Both => what_is_proxied_is_not_told_and_what_is_said_is,
    Only(Connection, "a component proves nothing: the hub itself attaches it") => a_connection_needs_its_own_token,
    Only(Connection, "a component is not told the ids of requests, and has no message for replies") =>
        a_forged_reply_counts_for_nothing,
    Only(Connection, "a component is stopped with its call: there is nobody left who could be late") =>
        a_late_reply_is_ignored,
    Only(Component, "a connection has no file that is read again; it takes over by its token") =>
        a_reload_keeps_the_claim_without_a_gap,
    Only(Component, "the frames of a connection have no chunks") => chunks_come_in_order_before_the_reply,
    Only(Component, "a connection makes no calls") => a_claimer_reaches_what_it_wraps,
];

/// Each check on each side. Where it cannot be run on one, the trial is ignored, with the reason in its name.
pub fn trials() -> Vec<Trial> {
    let on_sides = CHECKS.iter().flat_map(|(name, on, check)| {
        [(Connection, "connection"), (Component, "component")].map(|(side, word)| {
            let name = format!("gateway::{name}::{word}");
            match on {
                Only(only, why) if *only != side => {
                    Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true)
                }
                _ => trial(&name, move || check(side)),
            }
        })
    });
    on_sides.collect()
}

async fn a_claimed_call_is_asked_and_answered(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    assert_eq!(worker.refused().await, None);
    let call = stage.open.begin("job:do", json!({ "what": "this" })).await;
    let asked = worker.asked().await;
    assert_eq!((&*asked.name, &asked.message), ("job:do", &json!({ "what": "this" })));
    worker.answer(&asked, json!({ "done": true })).await;
    let reply = call.await.unwrap();
    assert_eq!(reply.result.unwrap().as_str(), r#"{"done":true}"#);
    assert_eq!(reply.by.unwrap().to_string(), worker.target());
    // What it may not claim goes elsewhere.
    let error = stage.open.error("chore", json!({})).await;
    assert!(error.starts_with("not-found: chore has no built-in handler"), "{error}");
    let stats = stage.open.hub.gateway.stats();
    assert_eq!((stats.claims, stats.pending), (1, 0));
}

async fn a_failure_is_the_failure_of_the_call(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.begin("job:do", json!({})).await;
    let asked = worker.asked().await;
    worker.fail(&asked, "out of paint").await;
    assert_eq!(
        call.await.unwrap().result.unwrap_err().to_string(),
        "other: out of paint"
    );
}

async fn what_nobody_claims_is_local_by_proxy_and_fails_by_proxy_only(side: Side) {
    let stage = Stage::of(side, "").await;
    let _worker = stage.claimer("worker").await;
    let write = json!({ "path": "b.txt", "content": "x" });
    let reply = stage.open.call("fsEvent:writeToFile", write).await;
    assert_eq!(
        (reply.result.is_ok(), reply.by.unwrap().to_string()),
        (true, "local".to_owned())
    );
    assert_eq!(
        stage.open.error("errand", json!({})).await,
        "unavailable: nobody holds a claim on errand in project default; connect one that does"
    );
}

async fn a_second_claimer_is_refused_while_the_first_keeps_receiving(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let mut rival = stage.claimer("rival").await;
    let expected = format!(
        "{} holds the claim on fsEvent:readFile in project default (epoch 2); it must relinquish it first",
        worker.target()
    );
    assert_eq!(rival.refused().await, Some(expected));
    for _ in 0..2 {
        let call = stage.open.begin("job:do", json!({})).await;
        let asked = worker.asked().await;
        worker.answer(&asked, json!(1)).await;
        assert_eq!(call.await.unwrap().by.unwrap().to_string(), worker.target());
    }
}

async fn what_is_let_go_is_free_for_the_next(side: Side) {
    let stage = Stage::of(side, "").await;
    let worker = stage.claimer("worker").await;
    let mut rival = stage.claimer("rival").await;
    assert!(rival.refused().await.is_some());
    let _left = worker.leave().await;
    assert_eq!(rival.refused().await, None);
    let call = stage.open.begin("job:do", json!({})).await;
    let asked = rival.asked().await;
    rival.answer(&asked, json!(1)).await;
    assert_eq!(call.await.unwrap().by.unwrap().to_string(), rival.target());
}

/// The epochs of what was logged of claims, in order.
async fn epochs(open: &Open) -> Vec<u64> {
    let events = open.events().await;
    let claims = events.iter().filter(|event| event.kind.starts_with("claim."));
    claims
        .filter_map(|event| event.body.to::<Value>().ok()?["epoch"].as_u64())
        .collect()
}

async fn a_claim_ends_with_its_holder_and_the_epoch_rises(side: Side) {
    let stage = Stage::of(side, "").await;
    let gateway = Arc::clone(&stage.open.hub.gateway);
    let name: CallName = "job:do".parse().unwrap();
    let worker = stage.claimer("worker").await;
    let mut changes = gateway.claims_changed();
    match side {
        Connection => drop(worker),
        Component => drop(worker.leave().await),
    }
    while gateway.has_claimer("default", &name) {
        changes.changed().await.unwrap();
    }
    let error = stage.open.error("job:do", json!({})).await;
    assert!(
        error.starts_with("not-found: job:do has no built-in handler"),
        "{error}"
    );
    let mut worker = stage.claimer("worker").await;
    assert_eq!(worker.refused().await, None);
    stage.open.event(|event| &*event.kind == "claim.released").await;
    let epochs = epochs(&stage.open).await;
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "{epochs:?}");
}

async fn a_call_under_way_ends_with_the_claim(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.begin("job:do", json!({})).await;
    worker.asked().await;
    let target = worker.target();
    let _left = worker.leave().await;
    assert_eq!(
        call.await.unwrap().result.unwrap_err().to_string(),
        format!("indeterminate: {target} went away while it worked on job:do; check what it did")
    );
}

/// What the terminal events of a call say of its end.
async fn ends(open: &Open, call: &Call) -> Vec<Value> {
    let is_end = |event: &Event| event.call == Some(call.id) && &*event.kind == "call.ended";
    open.event(is_end).await;
    open.reply("sendMessage", json!({ "message": "later" })).await;
    let events = open.events().await;
    events
        .iter()
        .filter(|event| is_end(event))
        .map(|event| event.body.to::<Value>().unwrap()["error"]["kind"].clone())
        .collect()
}

/// A component that was stopped is known to have stopped; nobody knows what a process does.
async fn a_cancelled_effect_has_one_end(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.prepared("job:do", json!({})).await;
    let asked = stage.open.carry(call.clone(), Sink::discard());
    worker.asked().await;
    call.cancel.cancel();
    let (kind, text) = match side {
        Connection => (
            "indeterminate",
            "the caller gave up while connection:worker worked on job:do; check what it did",
        ),
        Component => ("cancelled", "job:do was cancelled and stopped"),
    };
    let error = asked.await.unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), format!("{kind}: {text}"));
    assert_eq!(ends(&stage.open, &call).await, [kind]);
}

async fn a_death_during_a_read_falls_back_to_local(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.begin("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    let asked = worker.asked().await;
    worker.die(&asked).await;
    let reply = call.await.unwrap();
    assert_eq!(reply.by.unwrap().to_string(), "local");
    assert!(reply.result.unwrap().as_str().contains("hello"));
}

async fn a_death_during_an_effect_is_told(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.prepared("job:do", json!({})).await;
    let running = stage.open.carry(call.clone(), Sink::discard());
    let asked = worker.asked().await;
    worker.die(&asked).await;
    let (kind, text) = match side {
        Connection => (
            "indeterminate",
            "connection:worker went away while it worked on job:do; check what it did",
        ),
        Component => (
            "trapped",
            "plugin `worker` trapped: wasm `unreachable` instruction executed; `waypost plugin logs worker` shows what it \
             said",
        ),
    };
    let error = running.await.unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), format!("{kind}: {text}"));
    assert_eq!(ends(&stage.open, &call).await, [kind]);
}

async fn a_time_limit_ends_the_call(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.begin("short:do", json!({})).await;
    worker.asked().await;
    let expected = match side {
        Connection => {
            "indeterminate: its time limit passed while connection:worker worked on short:do; check what it did"
        }
        Component => "timeout: short:do did not end within its time limit and was stopped",
    };
    assert_eq!(call.await.unwrap().result.unwrap_err().to_string(), expected);
}

async fn two_subscribers_hear_the_result(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut both = [stage.subscriber("one").await, stage.subscriber("two").await];
    let write = json!({ "path": "b.txt", "content": "x" });
    let reply = stage.open.reply("fsEvent:writeToFile", write.clone()).await;
    let error = stage.open.error("fsEvent:readFile", json!({ "path": "c.txt" })).await;
    for party in &mut both {
        let heard = party.hear().await;
        let expected = ("fsEvent:writeToFile", &write["path"], &reply, 0);
        let found = (
            heard["name"].as_str().unwrap(),
            &heard["message"]["path"],
            &heard["result"],
            heard["dropped"].as_u64().unwrap(),
        );
        assert_eq!(found, expected);
        let heard = party.hear().await;
        assert_eq!(
            (&heard["name"], &heard["result"]["success"]),
            (&json!("fsEvent:readFile"), &json!(false))
        );
        assert!(error.ends_with(heard["result"]["error"].as_str().unwrap()), "{error}");
    }
}

async fn one_that_unsubscribed_hears_nothing_more(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut one = stage.subscriber("one").await;
    say(&stage, "before").await;
    assert_eq!(one.hear().await["message"]["message"], "before");
    let left = one.leave().await;
    assert_eq!(stage.open.hub.gateway.stats().subscriptions, 0);
    say(&stage, "between").await;
    assert!(stage.open.hub.desk.open().is_empty());
    drop(left);
    let mut one = stage.subscriber("one").await;
    say(&stage, "after").await;
    assert_eq!(one.hear().await["message"]["message"], "after");
}

async fn say(stage: &Stage, text: &str) {
    stage.open.reply("sendMessage", json!({ "message": text })).await;
}

async fn a_slow_subscriber_delays_nobody_and_learns_what_it_lost(side: Side) {
    // What waits for a connection is bounded in bytes long before it is in number, and its socket holds some, too.
    let (count, filling) = match side {
        Connection => (45, "x".repeat(1 << 20)),
        Component => (8, String::new()),
    };
    let stage = Stage::of(side, "[limits.plugin]\nnotices = 4").await;
    let mut slow = stage.subscriber("one").await;
    // Every call ends, though nothing is taken.
    for number in 0..count {
        say(&stage, &format!("{number} {filling}")).await;
    }
    let (mut said, mut heard) = (count, 0);
    let (number, dropped) = loop {
        let next = slow.hear().await;
        let text = next["message"]["message"].as_str().unwrap();
        let number: u64 = text.split(' ').next().unwrap().parse().unwrap();
        let dropped = next["dropped"].as_u64().unwrap();
        if dropped > 0 {
            break (number, dropped);
        }
        assert_eq!(number, heard, "they come in order");
        heard += 1;
        say(&stage, &format!("{said} ")).await;
        said += 1;
    };
    assert_eq!(number, heard + dropped, "what is missing is what it was told of");
    assert!(stage.open.hub.gateway.stats().lagged >= dropped);
}

async fn what_is_proxied_is_not_told_and_what_is_said_is(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut one = stage.subscriber("one").await;
    let mut worker = stage.claimer("worker").await;
    for name in ["job:do", "fsEvent:readFile"] {
        let call = stage.open.begin(name, json!({ "path": "a.txt" })).await;
        let asked = worker.asked().await;
        worker.answer(&asked, json!({})).await;
        call.await.unwrap().result.unwrap();
    }
    say(&stage, "this").await;
    let heard = one.hear().await;
    assert_eq!(
        (&heard["name"], &heard["message"]["message"]),
        (&json!("sendMessage"), &json!("this"))
    );
}

async fn a_connection_needs_its_own_token(side: Side) {
    let stage = Stage::of(side, "").await;
    for (name, token) in [
        ("worker", "token of one"),
        ("worker", "wrong"),
        ("stranger", "token of worker"),
    ] {
        let error = stage.connect(name, Some(token)).await.err().unwrap();
        let tungstenite::Error::Http(response) = error else {
            panic!("{error}")
        };
        assert_eq!(response.status(), 401);
        let text = String::from_utf8(response.into_body().unwrap_or_default()).unwrap();
        assert_eq!(
            text,
            "no connection of this name has this token; look at [[connection]] in waypost.toml, or make one with `waypost \
             token create`\n"
        );
    }
    // The query carries it for clients that can set no header.
    let mut peer = stage.connect("worker&token=token%20of%20worker", None).await.unwrap();
    assert_eq!(peer.order("subscribe").await["success"], true);
}

async fn a_forged_reply_counts_for_nothing(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let mut other = stage.subscriber("one").await;
    let call = stage.open.begin("job:do", json!({})).await;
    let asked = worker.asked().await;
    other.peer().reply(&asked, json!({ "forged": true })).await;
    other.peer().order("subscribe").await;
    worker.answer(&asked, json!({ "real": true })).await;
    worker.answer(&asked, json!({ "again": true })).await;
    assert_eq!(call.await.unwrap().result.unwrap().as_str(), r#"{"real":true}"#);
    worker.peer().order("subscribe").await;
    let rejected = stage.open.hub.gateway.stats().rejected;
    assert_eq!((rejected.foreign, rejected.duplicate), (1, 1), "{rejected:?}");
}

async fn a_late_reply_is_ignored(side: Side) {
    let stage = Stage::of(side, "").await;
    let mut worker = stage.claimer("worker").await;
    let call = stage.open.prepared("job:do", json!({})).await;
    let running = stage.open.carry(call.clone(), Sink::discard());
    let asked = worker.asked().await;
    call.cancel.cancel();
    assert!(running.await.unwrap().result.is_err());
    worker.answer(&asked, json!({ "late": true })).await;
    worker.peer().order("subscribe").await;
    assert_eq!(stage.open.hub.gateway.stats().rejected.late, 1);
    assert_eq!(
        ends(&stage.open, &call).await,
        ["indeterminate"],
        "the first end counts"
    );
}

async fn a_reload_keeps_the_claim_without_a_gap(side: Side) {
    let stage = Stage::of(side, "").await;
    let open = &stage.open;
    let mut worker = stage.claimer("worker").await;
    let call = open.begin("job:do", json!({})).await;
    let asked = worker.asked().await;
    // Another component under its id, which answers at once.
    let newer = Plugin::of("echo").named("worker").serves(&["job", "say"]);
    let newer_claims = ["job:*", "short:*", "fsEvent:readFile"];
    open.load(&newer.clone().serves(&newer_claims).claims(&newer_claims))
        .await;
    let echo = json!({ "text": "a", "times": 2 });
    assert_eq!(open.reply("job:do", echo.clone()).await["text"], "aa");
    worker.answer(&asked, json!("of the old one")).await;
    assert_eq!(call.await.unwrap().result.unwrap().as_str(), "\"of the old one\"");
    assert_eq!(epochs(open).await, [2], "nothing was let go");
    // One that claims something else holds that, and what it held is free.
    open.load(&newer.clone().claims(&["say"])).await;
    let error = open.error("job:do", echo.clone()).await;
    assert!(
        error.starts_with("not-found: job:do has no built-in handler"),
        "{error}"
    );
    assert!(open.hub.gateway.has_claimer("default", &"say".parse().unwrap()));
    // One that claims nothing is not there at all.
    open.load(&newer).await;
    let stats = open.hub.gateway.stats();
    assert_eq!((stats.attached, stats.claims), (0, 0));
}

async fn chunks_come_in_order_before_the_reply(_: Side) {
    let chunks = Plugin::of("chunks").claims(&["chunks"]).granted("claim = [\"*\"]");
    let open = proxied(&chunks, "chunks").await;
    let counted: Vec<_> = (0..200).map(|number| json!({ "number": number })).collect();
    let (chunks, reply) = open.streamed("chunks", json!({ "count": 200 })).await;
    assert_eq!((chunks, reply), (counted, json!({ "count": 200 })));
}

/// A hub with this plugin, and a rule by which these calls go to whoever claims them.
async fn proxied(plugin: &Plugin, calls: &str) -> Open {
    let rule = format!("[[route]]\nmatch = {calls:?}\nto = \"proxy\"\n[[route]]\nmatch = \"*\"\nto = \"proxy-only\"");
    Project::new()
        .file("a.txt", "hello\n")
        .plugin(&plugin.clone().unrouted())
        .toml(&rule)
        .open()
        .await
}

async fn a_claimer_reaches_what_it_wraps(_: Side) {
    let wrapper = Plugin::of("wrapper").serves(&["*"]).claims(&["fsEvent", "job"]);
    let wrapper = wrapper
        .asks("gateway = [\"*\"]")
        .granted("gateway = [\"*\"], claim = [\"fsEvent\", \"job\"]");
    let open = proxied(&wrapper, "fsEvent").await;
    let reply = open.call("fsEvent:readFile", json!({ "path": "a.txt" })).await;
    assert_eq!(reply.by.unwrap().to_string(), "plugin:wrapper");
    let wrapped: Value = reply.result.unwrap().to().unwrap();
    assert!(
        wrapped["wrapped"]["content"].as_str().unwrap().contains("hello"),
        "{wrapped}"
    );
    assert_eq!(
        open.error("job", json!({})).await,
        "unavailable: job has no target left: it already passed through every target of its rule (waypost.toml:9); add a \
         `fallback` to the rule"
    );
}
