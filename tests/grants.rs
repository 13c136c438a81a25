//! What a plugin may be granted to reach the world outside: that it works, that it is bounded, and that nothing more does.

use std::sync::Arc;

use serde_json::{Value, json};
use waypost::call::{Dispatch, Sink};

use crate::harness::server::{Names, Server};
use crate::harness::{Open, Plugin, Project, normal};

pub mod files;
pub mod process;
pub mod secrets;
pub mod socket;

crate::listed![
    a_server_is_asked_and_its_answer_is_handed_over_as_it_came,
    an_answer_is_read_piece_by_piece_while_it_comes,
    an_import_without_the_grant_is_refused_at_load,
    a_server_outside_the_grant_is_denied,
    what_a_plugin_may_not_say_is_refused,
    a_redirect_is_an_answer_like_any_other,
    a_name_leads_where_its_grant_means_and_nowhere_else,
    a_name_is_looked_up_once_for_each_request,
    everything_about_a_request_is_bounded,
    a_server_that_hangs_costs_its_caller_alone,
    who_gives_up_closes_the_connection,
];

/// The guest that asks servers, with this grant.
fn asker(fields: &str) -> Plugin {
    Plugin::of("asker").grants(fields)
}

/// The guest that may ask this server.
async fn asking(server: &Server) -> Open {
    let grant = format!("http = [{:?}]", server.url);
    Project::new().plugin(&asker(&grant)).open().await
}

async fn ask(open: &Open, message: Value) -> Value {
    open.reply("asker", message).await
}

async fn error(open: &Open, message: Value) -> String {
    let reply = ask(open, message).await;
    reply["error"]
        .as_str()
        .unwrap_or_else(|| panic!("it was answered: {reply}"))
        .to_owned()
}

async fn a_server_is_asked_and_its_answer_is_handed_over_as_it_came() {
    let server = Server::start().await;
    let open = asking(&server).await;
    let message = json!({
        "method": "POST", "url": format!("{}/echo?a=b c&d#gone", server.url), "bytes": 5,
        "headers": [["X-One", "1"], ["accept", "text/plain"]],
    });
    let reply = ask(&open, message).await;
    assert_eq!(
        (&reply["status"], &reply["failed"], &reply["again"]),
        (&json!(200), &json!(null), &json!(null))
    );
    let headers: Vec<&str> = reply["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one[0].as_str())
        .collect();
    assert!(headers.contains(&"content-type"), "{headers:?}");
    let seen: Value = serde_json::from_str(reply["body"].as_str().unwrap()).unwrap();
    let expected = json!({
        "method": "POST", "target": "/echo?a=b%20c&d", "size": 5,
        "headers": {
            "x-one": "1", "accept": "text/plain", "content-length": "5", "connection": "close",
            "host": format!("127.0.0.1:{}", server.port), "user-agent": concat!("waypost/", env!("CARGO_PKG_VERSION")),
        },
    });
    assert_eq!(seen, expected);
    let packed = ask(&open, json!({ "url": format!("{}/packed", server.url) })).await;
    assert_eq!(packed["size"], 4, "nothing is unpacked: {packed}");
    let head = ask(
        &open,
        json!({ "method": "HEAD", "url": format!("{}/echo", server.url) }),
    )
    .await;
    assert_eq!((&head["status"], &head["size"]), (&json!(200), &json!(0)));
    let broken = ask(&open, json!({ "url": format!("{}/break", server.url) })).await;
    let failed = broken["failed"].as_str().unwrap();
    assert!(
        failed.starts_with(&format!("other: the answer of {} broke off after 4 bytes", server.url)),
        "{failed}"
    );
    assert_eq!(broken["again"]["Err"], broken["failed"], "what broke stays broken");
}

async fn an_answer_is_read_piece_by_piece_while_it_comes() {
    let server = Server::start().await;
    let open = asking(&server).await;
    let message = json!({ "url": format!("{}/steps", server.url), "stream": true });
    let call = open.prepared("asker", message).await;
    let cancel = call.cancel.clone();
    let (sink, mut chunks) = Sink::channel();
    let ended = open.carry(call, sink);
    for step in 0..3 {
        let chunk: String = chunks.recv().await.unwrap().to().unwrap();
        assert_eq!(chunk, format!("step {step}\n"), "each comes before the next is there");
        server.step();
    }
    cancel.cancel();
    server.dropped(1).await;
    assert_eq!(ended.await.unwrap().result.unwrap_err().kind.as_str(), "cancelled");
}

async fn an_import_without_the_grant_is_refused_at_load() {
    let http = "http = [\"https://a\"]";
    let line = "plugin `asker` imports `waypost:http/client@0.1.0` without the grant `http`; if it may, add `http = [\"<https://host \
                it asks>\"]` to [grants] of its manifest and to `grant` of its [[plugin]] entry in waypost.toml";
    let agent = "the manifest: the grant `http` is not for agents: an agent is run again from the log, which holds its calls alone; \
                 remove it, and let the agent call a handler that has the grant";
    for (plugin, expected) in [
        (Plugin::of("asker"), line),
        (Plugin::of("asker").asks(http), line),
        (Plugin::of("asker").granted(http), line),
        (Plugin::of("asker").asks(http).granted("http = [\"https://b\"]"), line),
        (Plugin::of("asker").role("agent").grants(http), agent),
    ] {
        let project = Project::new().plugin(&plugin);
        let error = project
            .try_open()
            .await
            .err()
            .map(|error| error.chain())
            .unwrap_or_default();
        let manifest = "<project>/plugins/asker.toml";
        assert_eq!(
            normal(project.root(), &error).replace(manifest, "the manifest"),
            *expected
        );
    }
}

async fn a_server_outside_the_grant_is_denied() {
    let server = Server::start().await;
    let other = Server::start().await;
    let open = asking(&server).await;
    let port = server.port;
    for url in [
        other.url.clone(),
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.2:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://127.0.0.1.example.com:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://127.0.0.1/".to_owned(),
        format!("http://example.com:80\\@127.0.0.1:{port}/"),
    ] {
        let error = error(&open, json!({ "url": url })).await;
        assert!(
            error.starts_with("denied: plugin `asker` may not ask http"),
            "{url}: {error}"
        );
    }
    let denied = error(&open, json!({ "url": "https://example.com:444/x" })).await;
    assert_eq!(
        denied,
        "denied: plugin `asker` may not ask https://example.com:444: if it may, add `https://example.com:444` to `http` in \
         [grants] of its manifest and in `grant` of its [[plugin]] entry in waypost.toml"
    );
    assert!(server.asked().is_empty() && other.asked().is_empty());
    // However the address is written, it is the one that was granted.
    for host in [
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::ffff:7f00:1]",
        "１２７。0.0.1",
        "127.0.0.1.",
    ] {
        let reply = ask(&open, json!({ "url": format!("http://{host}:{port}/echo") })).await;
        assert_eq!(reply["status"], 200, "{host}: {reply}");
        let seen: Value = serde_json::from_str(reply["body"].as_str().unwrap()).unwrap();
        assert!(
            seen["headers"]["host"].as_str().unwrap().ends_with(&format!(":{port}")),
            "{seen}"
        );
    }
}

async fn what_a_plugin_may_not_say_is_refused() {
    let server = Server::start().await;
    let open = asking(&server).await;
    let url = format!("{}/echo", server.url);
    let header = |name: &str, value: &str| json!({ "url": url, "headers": [[name, value]] });
    for name in [
        "Host",
        "connection",
        "Content-Length",
        "transfer-encoding",
        "TE",
        "trailer",
        "upgrade",
        "expect",
        "keep-alive",
        "forwarded",
        "via",
        "Proxy-Authorization",
        "proxy-connection",
        "X-Forwarded-For",
        "x-forwarded-host",
    ] {
        let expected = format!(
            "denied: the header `{}` is set by the hub alone; remove it",
            name.to_ascii_lowercase()
        );
        assert_eq!(error(&open, header(name, "x")).await, expected);
    }
    for name in ["", "a b", "a\r\nb", "a:b", "host ", "\u{e4}"] {
        let expected = format!("invalid: `{}` is not the name of a header", name.escape_debug());
        assert_eq!(error(&open, header(name, "x")).await, expected);
    }
    for value in ["a\r\nx-evil: 1", "a\n b", "a\0", "\u{e4}", "\u{7f}"] {
        let expected = "invalid: the header `x-a` has other characters than visible ASCII, space and tab";
        assert_eq!(error(&open, header("x-a", value)).await, expected);
    }
    for method in ["CONNECT", "TRACE", "get", "GET / HTTP/1.1\r\nx: y\r\n\r\nGET", ""] {
        let expected = format!(
            "invalid: `{}` is not a method; there are GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS",
            method.escape_debug()
        );
        assert_eq!(error(&open, json!({ "url": url, "method": method })).await, expected);
    }
    for (url, expected) in [
        (
            "ftp://127.0.0.1/".to_owned(),
            "invalid: `ftp://127.0.0.1/` is neither http nor https",
        ),
        (
            "file:///etc/passwd".to_owned(),
            "invalid: `file:///etc/passwd` is neither http nor https",
        ),
        (
            "/echo".to_owned(),
            "invalid: `/echo` is no address: relative URL without a base",
        ),
        (
            format!("http://me:hunter2@127.0.0.1:{}/", server.port),
            "invalid: an address does not carry a user or a password; use a header with a secret",
        ),
        (
            format!("{url}{}", "x".repeat(8 << 10)),
            "invalid: an address is at most 8192 bytes long",
        ),
    ] {
        assert_eq!(error(&open, json!({ "url": url })).await, expected);
    }
    assert!(
        server.asked().is_empty(),
        "nothing of it was sent: {:?}",
        server.asked()
    );
    let split = format!("{url}?a=%0d%0ax-evil:1\r\nx-evil: 2");
    let reply = ask(&open, json!({ "url": split })).await;
    let seen: Value = serde_json::from_str(reply["body"].as_str().unwrap()).unwrap();
    assert_eq!(seen["headers"]["x-evil"], json!(null), "{seen}");
}

async fn a_redirect_is_an_answer_like_any_other() {
    let (server, other) = (Server::start().await, Server::start().await);
    let open = asking(&server).await;
    for to in [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("{}/echo", other.url),
        format!("{}/echo", server.url),
    ] {
        let reply = ask(&open, json!({ "url": format!("{}/redirect?{to}", server.url) })).await;
        assert_eq!(reply["status"], 302);
        assert!(
            reply["headers"].as_array().unwrap().contains(&json!(["location", to])),
            "{reply}"
        );
    }
    assert_eq!((server.asked().len(), other.asked().len()), (4, 0));
}

async fn a_name_leads_where_its_grant_means_and_nowhere_else() {
    let server = Server::start().await;
    let port = server.port;
    let names = Names::default()
        .with("inner.example", &[&["127.0.0.1"]])
        .with("mixed.example", &[&["93.184.215.14", "127.0.0.1"]])
        .with("metadata.example", &[&["169.254.169.254"]])
        .with("mapped.example", &[&["::ffff:127.0.0.1"]])
        .with("corp.example", &[&["127.0.0.1"]])
        .with("cloud.corp.example", &[&["fd00:ec2::254"]])
        .with("nobody.example", &[&[]])
        .with(
            "localhost",
            &[
                &["127.0.0.1"],
                &["10.0.0.1"],
                &["127.0.0.1", "10.0.0.1"],
                &["::1", "127.0.0.1"],
            ],
        );
    let grant = format!(
        "http = [\"http://*.example:{port}\", \"http://localhost:{port}\", \"http://*.corp.example:{port} private\", \
         \"http://corp.example:{port} private\"]"
    );
    let asked = format!("http = [\"http://*:{port}\", \"http://127.0.0.1:{port}\"]");
    let open = Project::new()
        .plugin(&Plugin::of("asker").asks(&asked).granted(&grant))
        .resolver(Arc::new(names))
        .open()
        .await;
    let at = |name: &str| json!({ "url": format!("http://{name}:{port}/echo") });
    for name in [
        "inner.example",
        "mixed.example",
        "metadata.example",
        "mapped.example",
        "corp.example",
        "cloud.corp.example",
    ] {
        let expected = format!(
            "denied: http://{name}:{port} leads to an address that the grant does not mean: a name must lead to the public \
             internet, or, with `private` after it in `http` of the operator's grant, to the operator's own network; the hub's \
             log has the address"
        );
        assert_eq!(error(&open, at(name)).await, expected);
    }
    let unknown = error(&open, at("unknown.example")).await;
    let expected = format!(
        "unavailable: http://unknown.example:{port} cannot be reached: its name cannot be resolved (there is no such name)"
    );
    assert_eq!(unknown, expected);
    let nobody = error(&open, at("nobody.example")).await;
    assert_eq!(
        nobody,
        format!("unavailable: http://nobody.example:{port} cannot be reached: its name has no address")
    );
    assert!(
        error(&open, at("127.0.0.1")).await.contains("may not ask"),
        "an address must be granted itself"
    );
    assert!(server.asked().is_empty());
    // `localhost` is this machine, and nothing else that may answer to the name.
    assert_eq!(ask(&open, at("LOCALHOST.")).await["status"], 200);
    for _ in 0..2 {
        assert!(error(&open, at("localhost")).await.contains("does not mean"));
    }
    assert_eq!(
        ask(&open, at("localhost")).await["status"],
        200,
        "the next address is tried"
    );
    assert_eq!(server.asked()[0]["headers"]["host"], format!("localhost.:{port}"));
}

async fn a_name_is_looked_up_once_for_each_request() {
    const TIMES: usize = 200;
    let server = Server::start().await;
    let flips: Vec<&[&str]> = (0..TIMES)
        .map(|time| {
            if time % 2 == 0 {
                &["127.0.0.1"][..]
            } else {
                &["192.168.0.1"][..]
            }
        })
        .collect();
    let names = Arc::new(Names::default().with("localhost", &flips));
    let grant = format!("http = [\"http://localhost:{}\"]", server.port);
    let resolver = Arc::clone(&names);
    let open = Project::new().plugin(&asker(&grant)).resolver(resolver).open().await;
    for time in 0..TIMES {
        let reply = ask(
            &open,
            json!({ "url": format!("http://localhost:{}/echo", server.port) }),
        )
        .await;
        assert_eq!(reply["status"] == 200, time % 2 == 0, "{time}: {reply}");
    }
    assert_eq!((server.asked().len(), names.asked().len()), (TIMES / 2, TIMES));
}

async fn everything_about_a_request_is_bounded() {
    let server = Server::start().await;
    let many = Server::raw(format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101))).await;
    let large = Server::raw(format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(70 << 10))).await;
    let grant = format!("http = [{:?}, {:?}, {:?}]", server.url, many.url, large.url);
    let limits = "[limits]\noutgoing = 3\n[limits.plugin]\nhttp-response = \"1MiB\"\nhttp-open = 2\nhttp-request = \"1KiB\"\n\
                  http-headers = \"64KiB\"";
    let open = Project::new().toml(limits).plugin(&asker(&grant)).open().await;
    let url = |path: &str| format!("{}{path}", server.url);
    let size = json!({ "url": url("/echo"), "method": "POST", "bytes": 1025 });
    assert_eq!(
        error(&open, size).await,
        "limit: the body has 1025 bytes, the limit is 1024: `http-request` of [limits.plugin]"
    );
    let headers: Vec<_> = (0..101).map(|number| json!([format!("x-{number}"), "x"])).collect();
    assert_eq!(
        error(&open, json!({ "url": url("/echo"), "headers": headers })).await,
        "limit: a request has at most 100 headers, this one has 101"
    );
    let long = json!({ "url": url("/echo"), "headers": [["x-a", "x".repeat(64 << 10)]] });
    assert_eq!(
        error(&open, long).await,
        "limit: the headers have 65539 bytes, the limit is 65536: `http-headers` of [limits.plugin]"
    );
    let endless = ask(&open, json!({ "url": url("/endless") })).await;
    let expected = format!(
        "limit: the answer of {} has more than 1048576 bytes, the limit `http-response` of [limits.plugin]",
        server.url
    );
    assert_eq!(endless["failed"], expected);
    assert!(endless["size"].as_u64().unwrap() <= 1 << 20);
    server.dropped(1).await;
    for bad in [&many, &large] {
        let expected = format!(
            "limit: the headers of {} are more than 100 or more than 65536 bytes, the limit `http-headers` of [limits.plugin]",
            bad.url
        );
        assert_eq!(error(&open, json!({ "url": bad.url })).await, expected);
    }
    let held = json!({ "url": url("/steps"), "hold": 2 });
    assert_eq!(
        error(&open, held.clone()).await,
        "limit: plugin `asker` holds 2 answers open, the limit `http-open` of [limits.plugin]; read or drop some first"
    );
    // Three calls hold all the connections that there are; the fourth is told so, and has one when they are gone.
    let mut calls = Vec::new();
    for _ in 0..3 {
        let call = open
            .prepared("asker", json!({ "url": url("/steps"), "stream": true }))
            .await;
        let (sink, mut chunks) = Sink::channel();
        calls.push((call.cancel.clone(), open.carry(call, sink)));
        assert!(chunks.recv().await.is_some());
        // Whoever stops reading here would cancel it.
        std::mem::forget(chunks);
    }
    assert_eq!(
        error(&open, json!({ "url": url("/echo") })).await,
        "limit: plugins hold 3 connections open, the limit `outgoing` of [limits]; try again later"
    );
    for (cancel, ended) in calls {
        cancel.cancel();
        drop(ended.await);
    }
    assert_eq!(ask(&open, json!({ "url": url("/echo") })).await["status"], 200);
}

async fn a_server_that_hangs_costs_its_caller_alone() {
    let server = Server::start().await;
    let silent = Server::raw("").await;
    let half = Server::raw("HTTP/1.1 200 OK\r\ncontent-le").await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let secure = silent.url.replace("http:", "https:");
    let grant = format!(
        "http = [{:?}, {:?}, {:?}, {secure:?}, {nobody:?}]",
        server.url, silent.url, half.url
    );
    let open = Project::new().plugin(&asker(&grant)).open().await;
    let soon = |url: &str, method: &str| json!({ "url": url, "method": method, "millis": 100 });
    for url in [format!("{}/never", server.url), silent.url.clone(), half.url.clone()] {
        let origin = url.trim_end_matches("/never");
        let expected = format!("timeout: {origin} did not answer within the time limit");
        assert_eq!(error(&open, soon(&url, "GET")).await, expected);
        let expected = format!("indeterminate: {origin} did not answer within the time limit, and may have acted");
        assert_eq!(error(&open, soon(&url, "POST")).await, expected);
    }
    server.dropped(2).await;
    let expected = format!("timeout: {secure} was not reached within the time limit; nothing was sent");
    assert_eq!(error(&open, soon(&secure, "POST")).await, expected);
    let refused = error(&open, soon(&nobody, "POST")).await;
    assert!(
        refused.starts_with(&format!("unavailable: {nobody} cannot be reached: Connection refused")),
        "{refused}"
    );
    let drip = ask(&open, soon(&format!("{}/drip", server.url), "GET")).await;
    let failed = drip["failed"].as_str().unwrap();
    assert!(failed.starts_with(&format!(
        "timeout: the answer of {} did not end within the time limit",
        server.url
    )));
    assert!(drip["size"].as_u64().unwrap() > 0, "what came was handed out: {drip}");
    // The call's own time bounds a request that asks for more.
    let rule = "[[route]]\nmatch = \"asker\"\nto = \"plugin:asker\"\ntimeout = \"200ms\"";
    let grant = format!("http = [{:?}]", server.url);
    let short = Project::new().toml(rule).plugin(&asker(&grant)).open().await;
    let call = short
        .call(
            "asker",
            json!({ "url": format!("{}/never", server.url), "millis": 60_000 }),
        )
        .await;
    assert!(call.result.is_err());
    server.dropped(4).await;
}

async fn who_gives_up_closes_the_connection() {
    let server = Server::start().await;
    let open = asking(&server).await;
    // An answer that is not read to its end, because its call is.
    let held = json!({ "url": format!("{}/steps", server.url), "hold": 1, "millis": 100 });
    let reply = ask(&open, held).await;
    assert!(reply["failed"].as_str().unwrap().starts_with("timeout: "), "{reply}");
    server.dropped(2).await;
    // A call that is cancelled while it waits for the head.
    let call = open
        .prepared("asker", json!({ "url": format!("{}/never", server.url) }))
        .await;
    let cancel = call.cancel.clone();
    let dispatcher = Arc::clone(&open.hub.dispatcher);
    let ended = tokio::spawn(async move { dispatcher.dispatch(call, Sink::discard()).await });
    while server.asked().len() < 3 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    server.dropped(3).await;
    assert!(ended.await.unwrap().result.is_err());
}
