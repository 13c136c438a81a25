//! Servers and files, as the SDKs of other languages have them.

use serde_json::{Value, json};

use super::{Built, Language, NAME};
use crate::harness::Open;
use crate::harness::server::Server;

pub(super) async fn handler(language: Language, built: Built) {
    let server = Server::start().await;
    let granted = format!(
        "state = true, gateway = [\"chunks\"], http = [{:?}], secrets = [\"github\"], files = [{{ name = \"docs\", path = \"docs\" }}, \
         {{ name = \"cache\", path = \"cache\", write = true }}]",
        server.url
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
