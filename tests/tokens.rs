//! Tokens at the boundary: who gets in where, until when, and what of them is left behind.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waypost::call::CallName;
use waypost::tokens::NewToken;
use waypost::transports::arrivals::STRANGERS;

use crate::harness::process::{Serving, http, run, shown};
use crate::harness::{Open, Project, Served};

crate::listed![
    each_scope_opens_what_it_names,
    a_token_that_does_not_hold_is_told_one_thing,
    who_acts_is_the_name_of_the_token,
    a_connection_comes_in_with_a_token_and_goes_when_it_is_revoked,
    a_connection_may_claim_what_its_entry_says,
    two_of_one_name_need_one_credential,
    a_connection_without_a_token_needs_the_word_of_the_operator,
    an_answer_breaks_off_when_its_token_is_revoked,
    tokens_outlive_the_hub_and_their_text_is_nowhere,
    tokens_are_made_listed_and_revoked,
    tokens_are_made_through_a_hub_that_serves,
    c63_nothing_that_is_secret_is_logged,
    who_says_nothing_keeps_nobody_out,
];

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Makes a token whose time is over.
async fn expired(open: &Open, name: &str, scope: &str) -> String {
    let new = NewToken {
        name: name.to_owned(),
        scopes: vec![scope.parse().unwrap()],
        expires: Duration::from_millis(1),
    };
    let (text, token) = open.hub.tokens.create(new, "person:cli").await.unwrap();
    token.over().await;
    text
}

/// Asks the API; the status and the text of the answer.
async fn ask(served: &Served, token: &str, method: &str, path: &str, body: &Value) -> (u16, String) {
    let url = format!("http://{}/api/v1/projects/default{path}", served.address);
    let request = http()
        .request(method.parse().unwrap(), url)
        .bearer_auth(token)
        .body(body.to_string());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn connect(served: &Served, query: &str, token: Option<&str>) -> Result<Socket, (u16, String)> {
    let mut request = format!("ws://{}/plugins?{query}", served.address)
        .into_client_request()
        .unwrap();
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", bearer);
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => {
            let text = String::from_utf8(answer.body().clone().unwrap_or_default()).unwrap();
            Err((answer.status().as_u16(), text))
        }
        Err(error) => panic!("{error}"),
    }
}

/// The code and the reason with which the hub closed.
async fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
            let frame = frame.unwrap();
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

async fn each_scope_opens_what_it_names() {
    let open = Project::new().file("a.txt", "a").open().await;
    let served = open.serve().await;
    let call = json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } });
    let new = json!({ "name": "x", "scopes": ["read"] });
    let (none, null) = (json!({}), Value::Null);
    // The statuses for admin, api, read, connection:a, agent:r, read and connection:a, and no token.
    for (method, path, body, statuses) in [
        ("GET", "/runs", &null, [200, 200, 200, 403, 403, 200, 401]),
        ("HEAD", "/runs", &null, [200, 200, 200, 403, 403, 200, 401]),
        ("GET", "/events", &null, [200, 200, 200, 403, 403, 200, 401]),
        ("GET", "/moon", &null, [404, 404, 404, 403, 403, 404, 401]),
        ("POST", "/calls", &call, [200, 200, 403, 403, 403, 403, 401]),
        ("POST", "/routes/explain", &call, [200, 200, 403, 403, 403, 403, 401]),
        ("POST", "/runs/x/cancel", &none, [404, 404, 403, 403, 403, 403, 401]),
        ("DELETE", "/environments/x", &null, [404, 404, 403, 403, 403, 403, 401]),
        (
            "POST",
            "/plugins/loop/reload",
            &null,
            [400, 400, 403, 403, 403, 403, 401],
        ),
        ("GET", "/tokens", &null, [200, 403, 403, 403, 403, 403, 401]),
        ("POST", "/tokens", &new, [201, 403, 403, 403, 403, 403, 401]),
        ("DELETE", "/tokens/x", &null, [200, 403, 403, 403, 403, 403, 401]),
    ] {
        let scopes: [&[&str]; 6] = [
            &["admin"],
            &["api"],
            &["read"],
            &["connection:a"],
            &["agent:r"],
            &["read", "connection:a"],
        ];
        let mut got = Vec::new();
        for scope in scopes {
            let token = open.token("one", scope).await;
            got.push(ask(&served, &token, method, path, body).await.0);
            open.hub.tokens.revoke("one").await.unwrap();
        }
        got.push(ask(&served, "none", method, path, body).await.0);
        assert_eq!(got, statuses, "{method} {path}");
    }
    let token = open.token("ci", &["read", "connection:a"]).await;
    for (path, wanted) in [("/calls", "api"), ("/tokens", "api")] {
        let (_, text) = ask(&served, &token, "POST", path, &call).await;
        let error: Value = serde_json::from_str(&text).unwrap();
        let message = format!("the token `ci` has the scope read, connection:a, and this needs the scope {wanted}");
        assert_eq!(
            error["error"],
            json!({ "kind": "denied", "blame": "caller", "message": message })
        );
    }
    let (_, text) = ask(&served, &token, "GET", "/tokens", &Value::Null).await;
    assert!(text.contains("this needs the scope admin"), "{text}");
}

async fn a_token_that_does_not_hold_is_told_one_thing() {
    let open = Project::new().open().await;
    let served = open.serve().await;
    let revoked = open.token("a", &["admin", "connection:a"]).await;
    open.hub.tokens.revoke("a").await.unwrap();
    let texts = ["unknown".to_owned(), expired(&open, "b", "admin").await, revoked];
    for token in &texts {
        let want = "the API wants a token that holds, as `Authorization: Bearer <token>`: the one that `waypost serve` \
                    printed, or one of `waypost token create`\n";
        let told = ask(&served, token, "GET", "/runs", &Value::Null).await;
        assert_eq!(told, (401, want.to_owned()));
        let want = "no connection of this name has this token; look at [[connection]] in waypost.toml, or make one with \
                    `waypost token create`\n";
        let told = connect(&served, "providerId=a", Some(token)).await.err();
        assert_eq!(told, Some((401, want.to_owned())));
    }
}

async fn who_acts_is_the_name_of_the_token() {
    let open = Project::new()
        .file("a.txt", "a")
        .toml("[[route]]\nmatch = \"*\"\nprincipal = \"person:guest\"\nto = \"deny\"")
        .open()
        .await;
    let served = open.serve().await;
    let call = json!({ "call": "fsEvent:readFile", "message": { "path": "a.txt" } });
    for (name, told) in [("ci", "\"content\":\"a\""), ("guest", "is denied by the rules")] {
        let token = open.token(name, &["api"]).await;
        let (_, text) = ask(&served, &token, "POST", "/calls", &call).await;
        assert!(text.contains(told), "{text}");
        let event = open
            .event(|event| &*event.kind == "call.ended" && event.body.as_str().contains(&format!("\"id\":\"{name}\"")))
            .await;
        assert!(event.body.as_str().contains("\"kind\":\"person\""), "{event:?}");
    }
    let made = open.event(|event| &*event.kind == "token.created").await;
    let body: Value = made.body.to().unwrap();
    assert_eq!((&body["by"], &body["scopes"]), (&json!("person:cli"), &json!(["api"])));
}

async fn a_connection_comes_in_with_a_token_and_goes_when_it_is_revoked() {
    let rule = "[[route]]\nmatch = \"job\"\nto = \"proxy-only\"";
    let open = Project::new().toml(rule).open().await;
    let served = open.serve().await;
    let job = CallName::new("job", Some("do"));
    let token = open.token("w", &["connection:worker"]).await;
    for (query, token) in [
        ("providerId=worker".to_owned(), Some(token.as_str())),
        (format!("providerId=worker&token={token}"), None),
    ] {
        let mut socket = connect(&served, &query, token).await.unwrap();
        open.hub.gateway.claimed("default", &job).await;
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    let wrong = connect(&served, "providerId=other", Some(&token)).await.err().unwrap();
    assert_eq!(
        wrong,
        (403, "this token has not the scope connection:other\n".to_owned())
    );

    let mut socket = connect(&served, "providerId=worker", Some(&token)).await.unwrap();
    open.hub.gateway.claimed("default", &job).await;
    open.hub.tokens.revoke("w").await.unwrap();
    let end = (1008, "the token of this connection no longer holds".to_owned());
    assert_eq!(closed(&mut socket).await, end);
    assert!(!open.hub.gateway.has_claimer("default", &job));
    assert_eq!(
        connect(&served, "providerId=worker", Some(&token))
            .await
            .err()
            .unwrap()
            .0,
        401
    );
}

async fn a_connection_may_claim_what_its_entry_says() {
    let digest = "a".repeat(64);
    let open = Project::new()
        .toml(&format!(
            "[[connection]]\nname = \"worker\"\ntoken-sha256 = {digest:?}\nclaim = [\"job\"]"
        ))
        .open()
        .await;
    let served = open.serve().await;
    let token = open.token("w", &["connection:worker"]).await;
    let _socket = connect(&served, "providerId=worker", Some(&token)).await.unwrap();
    open.hub.gateway.claimed("default", &CallName::new("job", None)).await;
    assert!(!open.hub.gateway.has_claimer("default", &CallName::new("chore", None)));
}

async fn two_of_one_name_need_one_credential() {
    let open = Project::new().open().await;
    let served = open.serve().await;
    let (one, other) = (
        open.token("one", &["connection:a"]).await,
        open.token("other", &["connection:a"]).await,
    );
    let mut first = connect(&served, "providerId=a", Some(&one)).await.unwrap();
    open.hub.gateway.claimed("default", &CallName::new("job", None)).await;
    let mut second = connect(&served, "providerId=a", Some(&other)).await.unwrap();
    let refused = "a connection of this name is attached with another credential";
    assert_eq!(closed(&mut second).await, (1008, refused.to_owned()));
    let _third = connect(&served, "providerId=a", Some(&one)).await.unwrap();
    assert_eq!(
        closed(&mut first).await.1,
        "replaced by a newer connection of this name"
    );
}

async fn a_connection_without_a_token_needs_the_word_of_the_operator() {
    let closed = Project::new().open().await;
    let served = closed.serve().await;
    assert_eq!(connect(&served, "providerId=e2b-x", None).await.err().unwrap().0, 401);

    let digest = "a".repeat(64);
    let open = Project::new()
        .toml("[sockets]\nallow-unauthenticated-connections = true")
        .toml(&format!("[[connection]]\nname = \"vault\"\ntoken-sha256 = {digest:?}"))
        .open()
        .await;
    let served = open.serve().await;
    open.token("t", &["connection:taken"]).await;
    for (query, token) in [
        ("providerId=vault", None),
        ("providerId=taken", None),
        ("providerId=e2b-x", Some("wrong")),
        ("providerId=e2b-x&token=wrong", None),
    ] {
        assert_eq!(connect(&served, query, token).await.err().unwrap().0, 401, "{query}");
    }
    let _socket = connect(&served, "providerId=e2b-x", None).await.unwrap();
    open.hub.gateway.claimed("default", &CallName::new("job", None)).await;
    drop(open);

    let project = Project::new()
        .toml("[sockets]\nallow-unauthenticated-connections = true\nallow-unbound-agents = true")
        .written();
    let looked = run(project.root(), &["doctor"]).await;
    let line = "warning  sockets       any local program may connect on /plugins without a token and answer the project's \
                calls; remove `[sockets] allow-unauthenticated-connections`; any local program may act as an agent in the \
                project on /codebolt; remove `[sockets] allow-unbound-agents`\n";
    assert!(looked.code == 0 && looked.out.contains(line), "{looked:?}");
    let hub = Serving::start(project.root(), &[]).await;
    let request = format!(
        "{}/direct-execution-gateway?providerId=e2b-x",
        hub.url.replace("http", "ws")
    );
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    drop(socket);
    let ended = hub.stop().await;
    for part in [
        "`[sockets] allow-unauthenticated-connections` is on",
        "a connection is let in without a token connection=e2b-x",
    ] {
        assert!(ended.err.contains(part), "`{part}` is not in:\n{}", ended.err);
    }
}

async fn an_answer_breaks_off_when_its_token_is_revoked() {
    let open = Project::new().open().await;
    let served = open.serve().await;
    let token = open.token("tail", &["read"]).await;
    let url = format!("http://{}/api/v1/projects/default/events?follow=true", served.address);
    let answer = http().get(url).bearer_auth(&token).send().await.unwrap();
    let mut parts = answer.bytes_stream();
    assert!(parts.next().await.unwrap().is_ok());
    open.hub.tokens.revoke("tail").await.unwrap();
    while let Some(part) = parts.next().await {
        if part.is_err() {
            return;
        }
    }
    panic!("it ended as if that were all");
}

/// Whether any file of a folder holds this text.
fn holds(folder: &std::path::Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            return false;
        }
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn tokens_outlive_the_hub_and_their_text_is_nowhere() {
    let open = Project::new().open().await;
    let kept = open.token("kept-one", &["read", "connection:a"]).await;
    let revoked = open.token("gone-one", &["read"]).await;
    open.hub.tokens.revoke("gone-one").await.unwrap();
    let open = open.reopen().await;
    let served = open.serve().await;
    assert_eq!(ask(&served, &kept, "GET", "/runs", &Value::Null).await.0, 200);
    assert_eq!(ask(&served, &revoked, "GET", "/runs", &Value::Null).await.0, 401);
    let query = format!("providerId=a&token={kept}");
    let _socket = connect(&served, &query, None).await.unwrap();
    open.hub.gateway.claimed("default", &CallName::new("job", None)).await;
    let project = open.close().await;
    let state = project.root().join(".waypost");
    assert!(holds(&state, "kept-one"), "the names are in the log");
    for text in [&kept, &revoked] {
        assert!(!holds(&state, text) && !holds(&state, &text[3..]));
    }
}

async fn tokens_are_made_listed_and_revoked() {
    let project = Project::new().written();
    let root = project.root();
    let made = run(
        root,
        &["token", "create", "--name", "ci", "--scope", "api", "connection:a"],
    )
    .await;
    let token = made.out.trim();
    assert!(
        made.code == 0 && token.len() == 67 && token.starts_with("wp_"),
        "{made:?}"
    );
    let note = made.err.trim();
    assert!(
        note.starts_with("this is shown once; `ci` (") && note.contains(") is good for api, connection:a until "),
        "{note}"
    );
    let list = run(root, &["token", "ls", "--json"]).await.json();
    let one = &list[0];
    assert_eq!(
        (&one["name"], &one["scopes"], &one["state"], &one["by"]),
        (
            &json!("ci"),
            &json!(["api", "connection:a"]),
            &json!("live"),
            &json!("person:cli")
        )
    );
    assert_eq!(
        one["expires"].as_u64().unwrap() - one["created"].as_u64().unwrap(),
        24 * 3600 * 1000
    );
    assert!(one.get("token").is_none() && one.get("digest").is_none(), "{one}");
    let made = run(
        root,
        &[
            "token",
            "create",
            "--json",
            "--name",
            "b",
            "--scope",
            "read",
            "--expires",
            "90d",
        ],
    )
    .await;
    let made = made.json();
    assert!(made["token"].as_str().unwrap().starts_with("wp_"), "{made}");
    let table = run(root, &["token", "ls"]).await.out;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["TOKEN", "NAME", "STATE", "EXPIRES", "BY", "SCOPES"]);
    assert_eq!((words[1][1], words[2][1], words.len()), ("b", "ci", 3));
    let id = made["id"].as_str().unwrap();
    for (arguments, text) in [
        (vec!["token", "revoke", id], "[0]\n`b` (<id>) is revoked\n"),
        (vec!["token", "revoke", id], "[0]\n`b` (<id>) is revoked\n"),
        (vec!["token", "revoke", "ci"], "[0]\n`ci` (<id>) is revoked\n"),
        (
            vec!["token", "revoke", "ci"],
            "[1]\n--\nerror: no token that holds is named `ci`, and none has this id; `waypost token ls` lists them\n",
        ),
        (vec!["token", "ls"], "[0]\nTOKEN  NAME  STATE  EXPIRES  BY  SCOPES\n"),
        (
            vec!["token", "create", "--name", "x", "--scope", "root"],
            "[2]\n--\nerror: there is no scope `root`; there are admin, api, read, connection:<name> and agent:<run or thread>\n",
        ),
        (
            vec!["token", "create", "--name", "x", "--scope", "read", "--expires", "soon"],
            "[2]\n--\nerror: `soon` is not how long a token can hold; write it as 30m, 24h or 90d\n",
        ),
        (
            vec!["token", "create", "--name", "x", "--scope", "read", "--expires", "366d"],
            "[2]\n--\nerror: a token holds for at most 365d\n",
        ),
    ] {
        assert_eq!(shown(root, &arguments).await, text, "{arguments:?}");
    }
    let all = run(root, &["token", "ls", "--all", "--json"]).await.json();
    assert!(
        all.as_array().unwrap().iter().all(|token| token["state"] == "revoked"),
        "{all}"
    );
    assert_eq!(run(root, &["token", "create", "--name", "x"]).await.code, 2);
}

async fn tokens_are_made_through_a_hub_that_serves() {
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[]).await;
    let made = run(
        project.root(),
        &["token", "create", "--json", "--name", "ci", "--scope", "read"],
    )
    .await;
    let made = made.json();
    assert_eq!(made["by"], "person:serve");
    let runs = format!("{}/api/v1/projects/default/runs", hub.url);
    let get = || http().get(&runs).bearer_auth(made["token"].as_str().unwrap()).send();
    assert_eq!(get().await.unwrap().status(), 200);
    assert_eq!(run(project.root(), &["token", "revoke", "ci"]).await.code, 0);
    assert_eq!(get().await.unwrap().status(), 401);
    hub.stop().await;
}

async fn c63_nothing_that_is_secret_is_logged() {
    let project = Project::new()
        .toml("[sockets]\nallow-unauthenticated-connections = true")
        .written();
    let hub = Serving::start(project.root(), &[("WAYPOST_LOG", "debug")]).await;
    let secret = |place: &str| format!("hidden-{place}");
    let api = format!("{}/api/v1/projects/default", hub.url);
    for token in [hub.token.clone(), secret("header")] {
        for path in ["/runs", "/events", "/moon"] {
            let url = format!("{api}{path}?token={}&after={}", secret("query"), secret("value"));
            let request = http().get(url).bearer_auth(&token).header("x-key", secret("other"));
            request.send().await.unwrap();
        }
    }
    let (_, text) = hub
        .ask(
            "POST",
            "/calls",
            &json!({ "call": "fsEvent:readFile", "message": { "path": secret("body") } }),
        )
        .await;
    assert!(text.contains("does not exist"), "{text}");
    for (query, header) in [
        (format!("providerId=a&token={}", secret("query")), None),
        ("providerId=a".to_owned(), Some(secret("header"))),
        (format!("providerId=a&other={}", secret("query")), None),
    ] {
        let url = format!("{}/plugins?{query}", hub.url.replace("http", "ws"));
        let mut request = url.into_client_request().unwrap();
        if let Some(header) = header {
            let bearer = format!("Bearer {header}").parse().unwrap();
            request.headers_mut().insert("authorization", bearer);
        }
        let Ok((mut socket, _)) = tokio_tungstenite::connect_async(request).await else {
            continue;
        };
        use futures::SinkExt;
        for frame in [
            json!({ "type": "nonsense", "message": secret("frame") }).to_string(),
            json!({ "type": "executionGateway.reply", "replyRequestId": secret("frame"), "result": secret("frame") })
                .to_string(),
            json!({ "type": "executionGateway.claim", "requestId": secret("frame"), "scope": secret("frame") })
                .to_string(),
            secret("frame"),
        ] {
            socket.send(Message::text(frame)).await.unwrap();
        }
        let last = json!({ "type": "executionGateway.subscribe", "requestId": "last" });
        socket.send(Message::text(last.to_string())).await.unwrap();
        while !socket.next().await.unwrap().unwrap().to_string().contains("\"last\"") {}
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
    let token = hub.token.clone();
    let ended = hub.stop().await;
    assert!(
        ended.err.contains("a token was refused") && ended.err.contains("remote-provider-a-"),
        "it logs at all: {}",
        ended.err
    );
    for text in ["hidden-", token.as_str()] {
        let line = ended.err.lines().find(|line| line.contains(text));
        assert!(line.is_none(), "{line:?}");
    }
}

async fn who_says_nothing_keeps_nobody_out() {
    let project = Project::new().written();
    let hub = Serving::start(project.root(), &[]).await;
    let address = hub.url.strip_prefix("http://").unwrap();
    let known = http();
    let runs = format!("{}/api/v1/projects/default/runs", hub.url);
    let get = |client: &reqwest::Client| client.get(&runs).bearer_auth(&hub.token).send();
    assert_eq!(get(&known).await.unwrap().status(), 200);
    let mut silent = Vec::new();
    for number in 0..=STRANGERS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 1 {
            stream
                .write_all(b"GET /plugins?providerId=a HTTP/1.1\r\nhost: ")
                .await
                .unwrap();
        }
        silent.push(stream);
    }
    // Wrong tokens in plenty cost nobody else anything, either.
    let wrong = futures::future::join_all((0..50).map(|_| http().get(&runs).bearer_auth("wrong").send())).await;
    assert!(wrong.into_iter().all(|answer| answer.unwrap().status() == 401));
    assert_eq!(get(&http()).await.unwrap().status(), 200);
    assert_eq!(get(&known).await.unwrap().status(), 200);
    // The first made room, and was closed.
    let mut rest = Vec::new();
    assert_eq!(silent[0].read_to_end(&mut rest).await.unwrap(), 0);
    hub.stop().await;
}
