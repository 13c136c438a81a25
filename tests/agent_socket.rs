//! `/codebolt` in the hands of clients that no SDK holds back. Names that begin with `c` and a number are conformance checks
//! of the wire.

use std::collections::HashSet;

use futures::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use waypost::log::Event;
use waypost::run::NewRun;

use crate::harness::endpoint::{Endpoint, Turn};
use crate::harness::process::Serving;
use crate::harness::socket::Socket;
use crate::harness::{Open, Project, Served};
use crate::listed;

listed![
    c01_c64_c65_who_may_connect_and_who_may_not,
    c02_both_loopback_addresses_lead_to_the_hub,
    c03_a_long_and_odd_query_breaks_nothing,
    c08_c13_every_answer_is_an_object_of_the_awaited_type,
    c16_requests_of_one_type_are_answered_in_their_order,
    c17_c18_c19_numbers_are_echoed_and_nothing_unasked_is_said,
    c20_two_agents_never_hear_each_others_answers,
    c66_a_frame_over_the_limit_closes_its_connection_alone,
    a_numbered_client_has_its_calls_made_at_once,
    chunks_of_a_command_come_before_its_end,
    what_is_no_object_is_told_and_the_third_time_closes,
    a_flood_waits_and_loses_nothing,
    an_agent_that_leaves_takes_its_calls_with_it,
    an_agent_with_a_token_acts_in_the_run_that_it_names,
    nothing_that_an_agent_can_send_hurts_the_hub,
];

const UNBOUND: &str = "[sockets]\nallow-unbound-agents = true";

async fn project() -> (Open, Served) {
    let open = Project::new().toml(UNBOUND).file("a.txt", "hello\n").open().await;
    let served = open.serve().await;
    (open, served)
}

async fn join(served: &Served) -> Socket {
    Socket::connect(&format!("ws://{}/codebolt?id=", served.address), &[])
        .await
        .unwrap()
}

fn read(path: &str) -> Value {
    json!({ "type": "fsEvent", "action": "readFile", "message": { "filePath": path } })
}

fn numbered(mut frame: Value, id: &str) -> Value {
    frame["requestId"] = json!(id);
    frame
}

async fn c01_c64_c65_who_may_connect_and_who_may_not() {
    // Nobody, without the opt-out.
    let closed = Project::new().open().await;
    let served = closed.serve().await;
    let refused = "no agent with this `agentId` is expected; agents are started with `waypost run --agent '<command>'`, or set \
                   `allow-unbound-agents = true` in [sockets] of waypost.toml\n";
    for query in ["?id=", "", "?agentId=guess", "?agentId=&token=x"] {
        let url = format!("ws://{}/codebolt{query}", served.address);
        assert_eq!(
            Socket::connect(&url, &[]).await.err(),
            Some((401, refused.to_owned())),
            "{query}"
        );
    }
    // With it, whoever comes from this machine: with no greeting, and with no page of another site.
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    assert_eq!(agent.ask(read("a.txt")).await["type"], "readFileResponse");
    for (header, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 421),
    ] {
        let url = format!("ws://{}/codebolt?id=", served.address);
        let (refused, _) = Socket::connect(&url, &[(header, value)]).await.err().unwrap();
        assert_eq!(refused, status, "{header}: {value}");
    }
}

async fn an_agent_with_a_token_acts_in_the_run_that_it_names() {
    let open = Project::new()
        .toml("[[route]]\nmatch = \"inference\"\nto = \"ask\"\nfallback = [\"local\"]")
        .open()
        .await;
    let served = open.serve().await;
    let new = NewRun {
        prompt: "wait".to_owned(),
        ..NewRun::default()
    };
    let run = open.hub.runs.start(&open.hub.project, new).await.unwrap();
    open.event(|event| event.run == run.id && &*event.kind == "run.waiting")
        .await;
    let join = async |token: &str| {
        let url = format!("ws://{}/codebolt?id=ws_1&threadToken={token}", served.address);
        Socket::connect(&url, &[]).await
    };
    let write = |path: &str| {
        let message = json!({ "relPath": path, "newContent": "from outside" });
        json!({ "type": "fsEvent", "action": "writeToFile", "requestId": path, "message": message })
    };

    // By the run or by its thread: it writes where the run works, and the log names it.
    let mut agents = Vec::new();
    for (name, of) in [("by-run", &run.id), ("by-thread", &run.thread)] {
        let token = open.token(name, &["agent:elsewhere", &format!("agent:{of}")]).await;
        let mut agent = join(&token).await.unwrap();
        assert_eq!(agent.ask(write(name)).await["success"], true);
        let by = |event: &Event| event.body.as_str().contains(&format!(r#""id":"{name}""#));
        let ended = open.event(|event| &*event.kind == "call.ended" && by(event)).await;
        assert_eq!(ended.run, run.id);
        assert!(!open.root().join(name).exists(), "it is in the environment");
        assert_eq!(
            join(&token).await.err(),
            Some((409, format!("an agent with the token `{name}` is connected\n")))
        );
        agents.push((token, agent));
    }
    let environment = open.hub.runs.get(&run.id).await.unwrap().environment.unwrap();
    let changed = format!("{:?}", open.hub.environments.diff(&environment).await.unwrap());
    assert!(changed.contains("by-run") && changed.contains("by-thread"), "{changed}");

    // It goes with its token, and comes back with another one; it goes with the run, and does not come back.
    let (_, mut revoked) = agents.remove(0);
    open.hub.tokens.revoke("by-run").await.unwrap();
    let reason = |ended: Result<Value, Option<CloseFrame>>| ended.unwrap_err().unwrap().reason.to_string();
    assert_eq!(
        reason(revoked.hear_or_end().await),
        "the token of this agent no longer holds"
    );
    let (token, mut agent) = agents.remove(0);
    open.hub.runs.cancel(&run.id).await.unwrap();
    assert_eq!(reason(agent.hear_or_end().await), "the run is over");
    open.event(|event| event.run == run.id && &*event.kind == "run.cancelled")
        .await;
    let refused = loop {
        // Until its first connection has left.
        match join(&token).await.err().unwrap() {
            (409, text) if text.ends_with("is connected\n") => tokio::task::yield_now().await,
            refused => break refused,
        }
    };
    let text = format!(
        "the token `by-thread` cannot be used now: no run under way has the id or the thread `{}`; connect while the run is \
         under way\n",
        run.thread
    );
    assert_eq!(refused, (409, text));
    let refused = (401, "this token is good for no agent\n".to_owned());
    for token in ["guess".to_owned(), open.token("reader", &["read"]).await] {
        assert_eq!(join(&token).await.err(), Some(refused.clone()));
    }
}

async fn c02_both_loopback_addresses_lead_to_the_hub() {
    let project = Project::new().toml(UNBOUND).file("a.txt", "hello\n").written();
    let hub = Serving::start(project.root(), &[]).await;
    let port = hub.url.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let mut agent = Socket::connect(&format!("ws://{host}:{port}/codebolt?id="), &[])
            .await
            .unwrap();
        assert_eq!(agent.ask(read("a.txt")).await["content"], "hello\n", "{host}");
    }
    hub.stop().await;
}

async fn c03_a_long_and_odd_query_breaks_nothing() {
    let (_open, served) = project().await;
    let long = format!(
        "id=a&{}&id=b&agentId&agentId=%zz&x=y=z&&dev=true",
        "secret=0123456789abcdef&".repeat(1400)
    );
    assert!(long.len() > 32 << 10);
    for query in [long.as_str(), "id=undefined&parentId=a%20b", "%00=%ff&id", "=&=&=&"] {
        let url = format!("ws://{}/codebolt?{query}", served.address);
        let mut agent = Socket::connect(&url, &[]).await.unwrap();
        assert_eq!(agent.ask(read("a.txt")).await["success"], true);
    }
}

async fn c08_c13_every_answer_is_an_object_of_the_awaited_type() {
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    for (frame, awaited) in [
        (read("missing"), "readFileResponse"),
        (read("../../etc/passwd"), "readFileResponse"),
        (json!({ "type": "fsEvent", "action": "readFile" }), "readFileResponse"),
        (
            json!({ "type": "fsEvent", "action": "readFile", "message": null }),
            "readFileResponse",
        ),
        (
            json!({ "type": "fsEvent", "action": "readFile", "message": { "filePath": 3 } }),
            "readFileResponse",
        ),
        (
            json!({ "type": "fsEvent", "action": "updateFile", "message": [] }),
            "commandOutput",
        ),
        (
            json!({ "type": "fsEvent", "action": "nothing", "message": {} }),
            "nothingResponse",
        ),
        (json!({ "type": "inference", "message": {} }), "llmResponse"),
        (json!({ "type": "executeCommand", "message": "" }), "commandError"),
        (json!({ "type": "executeCommand" }), "commandError"),
        (
            json!({ "type": "browserEvent", "action": "screenshot" }),
            "screenshotResponse",
        ),
        (
            json!({ "type": "codebolttools", "action": "executeTool", "toolName": "a--b", "params": {} }),
            "executeToolResponse",
        ),
    ] {
        let answer = agent.ask(frame.clone()).await;
        assert_eq!(answer["type"], awaited, "{frame}");
        assert_eq!(answer["success"], false, "{frame}");
        assert!(
            answer["error"].as_str().is_some_and(|error| !error.is_empty()),
            "{answer}"
        );
        assert!(answer.get("requestId").is_none());
    }
    // Whoever listens to `event` hears the same there.
    let answer = agent.ask(json!({ "type": "browserEvent", "action": "enter" })).await;
    assert_eq!(
        (&answer["type"], &answer["event"]),
        (&json!("EnterResponse"), &json!("EnterResponse"))
    );
    assert!(
        answer["error"]
            .as_str()
            .unwrap()
            .contains("load a plugin that serves it or connect a process that claims it")
    );
}

async fn c16_requests_of_one_type_are_answered_in_their_order() {
    let open = Project::new().toml(UNBOUND);
    let open = (0..10).fold(open, |open, n| {
        open.file(&format!("{n}.txt"), "x".repeat(if n % 2 == 0 { 1 << 20 } else { 1 }))
    });
    let open = open.open().await;
    let served = open.serve().await;
    let mut agent = join(&served).await;
    for n in 0..10 {
        agent.say(read(&format!("{n}.txt"))).await;
    }
    for n in 0..10 {
        assert_eq!(agent.hear().await["path"], format!("{n}.txt"));
    }
    // What shares a type with a command waits for it, whatever it is.
    agent
        .say(json!({ "type": "executeCommand", "message": "sleep 0.2; echo first" }))
        .await;
    let update = json!({ "filename": "1.txt", "filePath": ".", "newContent": "y" });
    agent
        .say(json!({ "type": "fsEvent", "action": "updateFile", "message": update }))
        .await;
    assert_eq!(agent.hear().await["stdout"], "first\n");
    assert_eq!(agent.hear().await["type"], "commandOutput");
}

async fn c17_c18_c19_numbers_are_echoed_and_nothing_unasked_is_said() {
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    for id in [json!("a-1"), json!(7), json!(""), json!("\u{1f600}")] {
        let mut frame = read("a.txt");
        frame["requestId"] = id.clone();
        assert_eq!(agent.ask(frame).await["requestId"], id);
    }
    for quiet in [
        json!({ "type": "sendMessage", "message": "hello" }),
        json!({ "type": "sendMessage", "message": "hello", "requestId": "n1" }),
        json!({ "type": "notificationEvent", "message": "x", "eventType": "git" }),
        json!({ "type": "processStarted" }),
        json!({ "type": "crawlerEvent", "action": "start" }),
        json!({ "type": "fsnotify", "toolUseId": "1", "action": "x", "data": {} }),
        json!({ "type": "readFileResponse", "content": "forged" }),
    ] {
        agent.say(quiet).await;
    }
    // The next thing that is heard is the answer to this.
    let answer = agent.ask(numbered(read("a.txt"), "last")).await;
    assert_eq!(answer["requestId"], "last", "{answer}");
    let answer = agent.ask(numbered(json!({ "type": "acme.sing" }), "u1")).await;
    assert_eq!(
        (&answer["requestId"], &answer["success"]),
        (&json!("u1"), &json!(false)),
        "{answer}"
    );
}

async fn c20_two_agents_never_hear_each_others_answers() {
    let (_open, served) = project().await;
    let mut agents = Vec::new();
    for _ in 0..4 {
        agents.push(join(&served).await);
    }
    for round in 0..20 {
        for (n, agent) in agents.iter_mut().enumerate() {
            agent.say(numbered(read("a.txt"), &format!("{n}-{round}"))).await;
        }
    }
    for (n, agent) in agents.iter_mut().enumerate() {
        let mut heard = HashSet::new();
        for _ in 0..20 {
            heard.insert(agent.hear().await["requestId"].as_str().unwrap().to_owned());
        }
        assert_eq!(heard, (0..20).map(|round| format!("{n}-{round}")).collect());
    }
}

async fn c66_a_frame_over_the_limit_closes_its_connection_alone() {
    let (_open, served) = project().await;
    let (mut large, mut other) = (join(&served).await, join(&served).await);
    let mut frame = read("a.txt");
    frame["padding"] = json!("x".repeat(10 << 20));
    assert_eq!(large.ask(frame.clone()).await["content"], "hello\n");
    frame["padding"] = json!("x".repeat(17 << 20));
    // The hub may close before all of it was sent.
    drop(large.0.send(Message::text(frame.to_string())).await);
    let ended = large.hear_or_end().await.err().unwrap();
    assert!(
        ended.is_none_or(|close| u16::from(close.code) == 1009),
        "closed for its size, if it still heard that"
    );
    assert_eq!(other.ask(read("a.txt")).await["content"], "hello\n");
}

async fn a_numbered_client_has_its_calls_made_at_once() {
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    let waits = json!({ "type": "executeCommand", "message": "until [ -e go ]; do sleep 0.01; done; echo waited" });
    agent.say(numbered(waits, "waits")).await;
    let goes = json!({ "type": "executeCommand", "message": "touch go; echo went" });
    agent.say(numbered(goes, "goes")).await;
    let (first, second) = (agent.hear().await, agent.hear().await);
    let mut seen: Vec<&str> = [&first, &second]
        .iter()
        .map(|answer| answer["requestId"].as_str().unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, ["goes", "waits"]);
}

async fn chunks_of_a_command_come_before_its_end() {
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    agent
        .say(json!({ "type": "executeCommandWithStream", "message": "echo out; echo err >&2", "executeInMain": false }))
        .await;
    let mut said = Vec::new();
    loop {
        let frame = agent.hear().await;
        if frame["type"] == "commandFinish" {
            assert_eq!(frame["exitCode"], 0);
            break;
        }
        assert_eq!(frame["type"], "commandOutput");
        said.push(frame["output"].as_str().unwrap().to_owned());
    }
    said.sort_unstable();
    assert_eq!(said, ["err\n", "out\n"]);
}

async fn what_is_no_object_is_told_and_the_third_time_closes() {
    let (_open, served) = project().await;
    let mut agent = join(&served).await;
    for text in ["null", "[1]"] {
        agent.say_text(text).await;
        assert_eq!(agent.hear().await["error"], "a frame must be one JSON object", "{text}");
        // What has a mistake in it is told, and is no strike.
        agent.say(json!({ "type": 3, "requestId": "r" })).await;
        let told = agent.hear().await;
        assert_eq!(
            (&told["type"], &told["requestId"]),
            (&json!("error"), &json!("r")),
            "{told}"
        );
    }
    agent.say_text("{\"type\": \"fsEvent\"").await;
    let close = agent.hear_or_end().await.err().flatten().unwrap();
    assert_eq!(
        (u16::from(close.code), close.reason.as_str()),
        (1008, "three frames were not one JSON object each")
    );
}

async fn a_flood_waits_and_loses_nothing() {
    let (_open, served) = project().await;
    let agent = join(&served).await;
    let (mut sink, stream) = futures::StreamExt::split(agent.0);
    let flood = tokio::spawn(async move {
        for n in 0..5000 {
            let frame = numbered(read("a.txt"), &n.to_string());
            sink.send(Message::text(frame.to_string())).await.unwrap();
        }
        sink
    });
    let mut heard = HashSet::new();
    let mut stream = stream;
    while heard.len() < 5000 {
        let Some(Ok(Message::Text(text))) = futures::StreamExt::next(&mut stream).await else {
            continue;
        };
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["success"], true, "{frame}");
        assert!(
            heard.insert(frame["requestId"].as_str().unwrap().to_owned()),
            "answered twice: {frame}"
        );
    }
    drop(flood.await.unwrap());
}

async fn an_agent_that_leaves_takes_its_calls_with_it() {
    let endpoint = Endpoint::start([Turn::Hang(String::new())]).await;
    let open = Project::new().toml(UNBOUND).toml(&endpoint.config()).open().await;
    let served = open.serve().await;
    let mut agent = join(&served).await;
    agent
        .say(json!({ "type": "inference", "message": { "prompt": "wait" } }))
        .await;
    endpoint.asked_times(1).await;
    drop(agent);
    let ended = open
        .event(|event| &*event.kind == "call.ended" && event.body.as_str().contains("inference"))
        .await;
    assert!(ended.body.as_str().contains("\"cancelled\""), "{}", ended.body.as_str());
}

async fn nothing_that_an_agent_can_send_hurts_the_hub() {
    let (open, served) = project().await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let frames = [
        format!("{{\"type\":\"fsEvent\",\"action\":\"readFile\",\"message\":{deep}}}"),
        "{\"type\":\"fsEvent\",\"action\":\"readFile\",\"message\":{\"filePath\":\"\\u0000\"}}".to_owned(),
        "{\"type\":\"fsEvent\",\"type\":\"inference\",\"action\":\"readFile\"}".to_owned(),
        json!({ "type": "x".repeat(100_000) }).to_string(),
        json!({ "type": "fsEvent", "action": "../../x", "message": {} }).to_string(),
        json!({ "type": "\u{1b}[31m", "requestId": "r" }).to_string(),
        json!({ "type": "fsEvent", "action": "readFile", "requestId": { "a": 1 }, "message": {} }).to_string(),
        json!({ "type": "fsEvent", "action": "readFile", "requestId": "x".repeat(10_000), "message": {} }).to_string(),
        json!({ "type": "inference", "message": { "prompt": { "messages": "no list" } } }).to_string(),
        json!({ "type": "agentEvent", "action": "startAgent", "agentId": [], "task": {} }).to_string(),
        json!({ "type": "executeCommandWithStream", "message": { "a": 1 } }).to_string(),
        json!({ "type": "processStoped", "message": { "a": [1] }, "error": {} }).to_string(),
        json!({ "type": "executionGateway.claim", "requestId": "c" }).to_string(),
        json!({ "type": "provider:create", "requestId": "p" }).to_string(),
        json!({ "type": "agent", "action": "run", "requestId": "p", "message": {} }).to_string(),
        "{\"type\":\"\\ud800\"}".to_owned(),
        "\u{feff}{\"type\":\"fsEvent\"}".to_owned(),
    ];
    let mut healthy = join(&served).await;
    for frame in frames {
        let mut agent = join(&served).await;
        agent.say_text(&frame).await;
        agent.say(numbered(read("a.txt"), "after")).await;
        // Whatever it is told meanwhile, the connection lives and answers.
        while agent.hear().await["requestId"] != "after" {}
        assert_eq!(healthy.ask(read("a.txt")).await["content"], "hello\n");
    }
    // Half a handshake, and half a frame.
    for bytes in ["GET /codebolt HTTP/1.1\r\nHost: localhost\r\n", "\0\0\0\0"] {
        let mut half = tokio::net::TcpStream::connect(served.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut half, bytes.as_bytes())
            .await
            .unwrap();
        assert_eq!(healthy.ask(read("a.txt")).await["content"], "hello\n");
    }
    assert!(
        !open
            .events()
            .await
            .iter()
            .any(|event| event.body.as_str().contains("defect"))
    );
}
