//! Servers, files, programs and sockets, as the SDKs of other languages have them.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use waypost::imports::process::digest;

use super::{Built, Language, NAME};
use crate::harness::Open;
use crate::harness::server::Server;

/// The grants of a program and of a socket.
pub(super) fn placed(socket: &Path) -> String {
    let sh = Path::new("/bin/sh");
    format!(
        "process = [{{ name = \"sh\", path = {sh:?}, sha256 = {:?}, args = [[\"-c\", \"*\"]] }}], \
         socket = [{{ name = \"engine\", path = {socket:?} }}]",
        digest(sh).unwrap()
    )
}

pub(super) async fn handler(language: Language, built: Built) {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let granted = format!(
        "state = true, gateway = [\"chunks\"], http = [{:?}], secrets = [\"github\"], files = [{{ name = \"docs\", path = \"docs\" }}, \
         {{ name = \"cache\", path = \"cache\", write = true }}], {}",
        server.url,
        placed(&socket)
    );
    let open = built
        .manifest_with("http://127.0.0.1", &server.url)
        .project(&granted)
        .toml(&format!("[[route]]\nmatch = \"trial\"\nto = \"plugin:{NAME}\""))
        .toml(&format!(
            "[[secret]]\nname = \"github\"\nenv = \"TOKEN\"\nfor = [{:?}]",
            server.url
        ))
        .variable("TOKEN", "sk-0123456789")
        .file("docs/big.bin", vec![7; 150_000])
        .file("docs/odd.txt", b"a\xff")
        .file("cache/.keep", "")
        .open()
        .await;
    // As each language writes it.
    let json = match language {
        Language::JavaScript => r#"{"a":[1,"ä"]}"#,
        Language::Python => r#"{"a": [1, "ä"]}"#,
    };
    servers(&open, &server, json).await;
    working_with_files(&open).await;
    programs(&open).await;
    sockets(&open).await;
    open.close().await;
}

async fn servers(open: &Open, server: &Server, json: &str) {
    let ask = |path: &str, more: Value| {
        let mut message = json!({ "url": format!("{}{path}", server.url) });
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        message
    };
    let text = "ä\u{1f600}";
    let sent = json!({ "method": "PUT", "text": text, "headers": [["X-One", "1"], ["x-one", "2"]], "bearer": "github", "read": "json" });
    let reply = open.reply("trial:ask", ask("/echo?a=b", sent)).await;
    let (head, echoed) = (&reply["body"]["headers"], &reply["body"]);
    assert_eq!(
        (&reply["status"], &reply["kind"], &reply["same"]),
        (&json!(200), &json!("application/json"), &json!(true))
    );
    assert_eq!(
        (&echoed["method"], &echoed["target"], &echoed["size"]),
        (&json!("PUT"), &json!("/echo?a=b"), &json!(text.len())),
        "{reply}"
    );
    assert!(head["x-one"].is_string(), "{reply}");
    // The server has it, and its answer does not bring it back.
    let had = server.asked();
    assert_eq!(had[0]["headers"]["authorization"], "Bearer sk-0123456789");
    assert_eq!(head["authorization"], "Bearer [redacted]", "{reply}");

    let sent = json!({ "method": "POST", "json": { "a": [1, "ä"] }, "read": "text" });
    let reply = open.reply("trial:ask", ask("/echo", sent)).await;
    let echoed: Value = serde_json::from_str(reply["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&echoed["headers"]["content-type"], &echoed["size"]),
        (&json!("application/json"), &json!(json.len())),
        "{reply}"
    );

    // A body is read as it comes: the second step is taken when the first has arrived.
    let (sink, mut chunks) = waypost::call::Sink::channel();
    let call = open
        .prepared(
            "trial:ask",
            ask("/steps", json!({ "read": "pieces", "millis": 20_000 })),
        )
        .await;
    let cancel = call.cancel.clone();
    let asked = open.carry(call, sink);
    for number in 0..3 {
        let chunk: String = chunks.recv().await.unwrap().to().unwrap();
        assert_eq!(chunk, format!("step {number}\n"));
        server.step();
    }
    cancel.cancel();
    drop(chunks);
    assert!(asked.await.unwrap().result.is_err());
    server.dropped(1).await;
    // Who closes it early closes the connection.
    let first = open
        .reply("trial:ask", ask("/endless", json!({ "read": "first" })))
        .await;
    assert!(first.as_str().unwrap().starts_with("eee"), "{first}");
    server.dropped(2).await;

    for (path, more, error) in [
        ("/missing", json!({}), "unavailable: the server answered 404"),
        ("/echo", json!({ "headers": [["host", "x"]] }), "denied: "),
        ("/missing/text", json!({ "url": "http://127.0.0.2/x" }), "denied: "),
        ("/never", json!({ "millis": 50 }), "timeout: "),
        ("/break", json!({}), "other: "),
        (
            "/packed",
            json!({ "read": "text" }),
            "invalid: the answer is not UTF-8 text, from byte 1 on",
        ),
        ("/steps", json!({ "millis": 50, "read": "json" }), "timeout: "),
    ] {
        let said = open.error("trial:ask", ask(path, more)).await;
        assert!(said.starts_with(error), "{path}: {said}");
    }
}

async fn working_with_files(open: &Open) {
    let at = |folder: &str, path: &str| json!({ "folder": folder, "path": path });
    let text = "ä\u{1f600}\n";
    let work = json!({ "folder": "cache", "path": "new.txt", "text": text });
    let expected = json!({
        "stat": ["file", text.len(), true], "none": null, "text": text, "bytes": text.len(),
        "list": [[".keep", "file", 0], ["new.txt", "file", text.len()]],
    });
    assert_eq!(open.reply("trial:files", work).await, expected);
    assert!(!open.root().join("cache/new.txt").exists());
    // More often than files may be open at a time: each is closed at its end.
    let pieces = json!({ "folder": "docs", "path": "big.bin", "offset": 10_000, "times": 20 });
    assert_eq!(open.reply("trial:pieces", pieces).await, json!([65536, 65536, 8928]));
    for (call, message, error) in [
        (
            "trial:read",
            at("docs", "odd.txt"),
            "invalid: `odd.txt` is not UTF-8 text, from byte 1 on",
        ),
        ("trial:read", at("docs", "none.txt"), "not-found: "),
        ("trial:read", at("docs", "../waypost.toml"), "denied: "),
        ("trial:read", at("other", "a.txt"), "denied: "),
        (
            "trial:files",
            json!({ "folder": "docs", "path": "a.txt", "text": "" }),
            "denied: ",
        ),
    ] {
        let said = open.error(call, message).await;
        assert!(said.starts_with(error), "{call}: {said}");
    }
}

async fn programs(open: &Open) {
    let sh = |script: &str, more: Value| {
        let mut message = json!({ "program": "sh", "args": ["-c", script] });
        let object = message.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        message
    };
    // More often than programs may run at a time: each is let go at its end.
    for (script, more, reply) in [
        ("true", json!({ "times": 6 }), json!([0, null, 0, 0])),
        (
            "cat; echo why >&2; exit 3",
            json!({ "input": "ä" }),
            json!([3, null, 2, 4]),
        ),
        ("kill -SEGV $$", json!({}), json!([null, "SIGSEGV", 0, 0])),
        ("ls -A", json!({ "folder": "cache", "read": "text" }), json!(".keep\n")),
    ] {
        assert_eq!(open.reply("trial:run", sh(script, more)).await, reply, "{script}");
    }
    // What it writes comes while it runs.
    let script = "printf one; read line; printf two >&2; exit 4";
    let pieces = open
        .streamed("trial:run", sh(script, json!({ "input": "a\n", "read": "pieces" })))
        .await;
    assert_eq!(
        pieces,
        (
            vec![json!(["stdout", "one"]), json!(["stderr", "two"])],
            json!([4, null])
        )
    );
    let failed = sh("echo why >&2; exit 3", json!({ "read": "text" }));
    assert_eq!(
        open.error("trial:run", failed).await,
        "other: the program ended with the exit code 3: why"
    );
    for (message, error) in [
        (json!({ "program": "sh", "args": ["-x"] }), "denied: "),
        (json!({ "program": "other", "args": [] }), "denied: "),
        (sh("sleep 60", json!({ "millis": 50 })), "timeout: "),
        (
            sh("printf '\\377'", json!({ "read": "text" })),
            "invalid: what the program wrote is not UTF-8 text, ",
        ),
    ] {
        let said = open.error("trial:run", message).await;
        assert!(said.starts_with(error), "{said}");
    }
}

/// Answers with what the first five bytes ask for.
async fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let mut asked = [0; 5];
    stream.read_exact(&mut asked).await?;
    match &asked {
        b"steps" => {
            stream.write_all(b"one").await?;
            stream.read_u8().await?;
            stream.write_all("ä".as_bytes()).await
        }
        b"stall" => std::future::pending().await,
        _ => {
            let rest = stream.read_to_end(&mut Vec::new()).await?;
            stream.write_all(format!("5 and {rest}").as_bytes()).await
        }
    }
}

async fn sockets(open: &Open) {
    let talk = |name: &str, text: &str| json!({ "name": name, "text": text });
    assert_eq!(open.reply("trial:talk", talk("engine", "hello there")).await, "5 and 6");
    let steps = json!({ "name": "engine", "text": "steps", "more": "x" });
    assert_eq!(open.reply("trial:talk", steps).await, json!([3, "ä"]));
    // More often than connections may be open at a time: each is closed at its end.
    let often = json!({ "name": "engine", "text": "hello", "times": 10 });
    assert_eq!(open.reply("trial:talk", often).await, "5 and 0");
    let stall = json!({ "name": "engine", "text": "stall", "millis": 50 });
    for (message, error) in [(talk("other", ""), "denied: "), (stall, "timeout: ")] {
        let said = open.error("trial:talk", message).await;
        assert!(said.starts_with(error), "{said}");
    }
}
