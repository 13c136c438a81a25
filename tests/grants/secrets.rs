//! Secrets that plugins have sent and never see.

use serde_json::json;

use super::{asker, error};
use crate::harness::process::{self, Serving};
use crate::harness::server::Server;
use crate::harness::{Plugin, Project};
use crate::model::files;

crate::listed![
    a_secret_is_sent_and_never_seen,
    a_secret_is_for_those_that_were_granted_it,
];

/// A secret that must never be seen again.
const CANARY: &str = "sk-canary-0123456789abcdef";

async fn a_secret_is_sent_and_never_seen() {
    let server = Server::start().await;
    let grant = format!("http = [{:?}], secrets = [\"github\"]", server.url);
    let secret = format!(
        "[[secret]]\nname = \"github\"\nenv = \"GITHUB_TOKEN\"\nfor = [{:?}]",
        server.url
    );
    let project = Project::new().toml(&secret).plugin(&asker(&grant)).written();
    let hub = Serving::start(project.root(), &[("GITHUB_TOKEN", CANARY)]).await;
    let mut seen = String::new();
    for cut in [1, 2, 7, 20, 33, 1000] {
        let message = json!({
            "url": format!("{}/back?{cut}", server.url), "secret": ["Authorization", "Bearer ", "github"], "stream": true,
        });
        let run = process::run(project.root(), &["call", "asker", &message.to_string()]).await;
        let shown = format!("{run:?}");
        let whole = "you sent Bearer [redacted] and Bearer [redacted], Bearer [redacted]";
        assert!(shown.contains(whole), "{shown}");
        seen += &shown;
    }
    // Where it goes wrong it is not told either.
    for path in ["/never", "/break", "/redirect?x"] {
        let message = json!({
            "url": format!("{}{path}", server.url), "secret": ["x-key", "", "github"], "millis": 100,
        });
        seen += &format!(
            "{:?}",
            process::run(project.root(), &["call", "asker", &message.to_string()]).await
        );
    }
    let wrong = json!({ "url": format!("{}/echo", server.url), "secret": ["x key", "", "github"] });
    seen += &format!(
        "{:?}",
        process::run(project.root(), &["call", "asker", &wrong.to_string()]).await
    );
    let wrong = json!({ "url": format!("{}/echo", server.url), "secret": ["x-key", "\r\n", "github"] });
    seen += &format!(
        "{:?}",
        process::run(project.root(), &["call", "asker", &wrong.to_string()]).await
    );
    for verb in [
        &["event", "ls", "--json", "--limit", "1000"][..],
        &["plugin", "ls", "--json"],
        &["plugin", "logs", "asker"],
    ] {
        seen += &format!("{:?}", process::run(project.root(), verb).await);
    }
    let list = format!("{:?}", process::run(project.root(), &["plugin", "ls"]).await);
    assert!(
        list.contains(&format!("http [{}], secrets [github]", server.url)),
        "{list}"
    );
    seen += &format!("{:?}", hub.stop().await);
    assert!(seen.contains("[redacted]"), "{seen}");
    let asked = server.asked();
    assert_eq!(
        asked[0]["headers"]["authorization"],
        format!("Bearer {CANARY}"),
        "the server gets it"
    );
    assert_eq!(asked.last().unwrap()["headers"]["x-key"], CANARY);
    assert!(!seen.contains(CANARY), "{seen}");
    for file in files(project.root()) {
        let content = std::fs::read(&file).unwrap();
        let found = content.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "{} holds it", file.display());
    }
}

async fn a_secret_is_for_those_that_were_granted_it() {
    let (server, other) = (Server::start().await, Server::start().await);
    let grant = |secrets: &str| format!("http = [{:?}, {:?}], secrets = [{secrets}]", server.url, other.url);
    let secrets = format!(
        "[[secret]]\nname = \"github\"\nfile = \"../nothing/here\"\nfor = [{:?}]\n\
         [[secret]]\nname = \"gitlab\"\nenv = \"GITLAB\"\nfor = [{:?}]\n",
        server.url, server.url
    );
    let open = Project::new()
        .toml(&secrets)
        .variable("GITLAB", CANARY)
        .plugin(
            &Plugin::of("asker")
                .asks(&grant("\"gitlab\", \"github\""))
                .granted(&grant("\"github\"")),
        )
        .plugin(&asker(&grant("\"gitlab\"")).named("other"))
        .open()
        .await;
    let message = |server: &Server, secret: &str| json!({ "url": format!("{}/echo", server.url), "secret": ["authorization", "Bearer ", secret] });
    for secret in ["gitlab", "nobody"] {
        let expected = format!(
            "denied: the secret `{secret}` is not granted: if it may be used, add it to `secrets` in [grants] of the manifest and \
             in `grant` of the [[plugin]] entry in waypost.toml"
        );
        assert_eq!(error(&open, message(&server, secret)).await, expected);
    }
    assert_eq!(
        error(&open, message(&server, "github")).await,
        "unavailable: the secret `github` cannot be had: its file is not there, or is no text of at most 8 KiB; set it"
    );
    let elsewhere = open.reply("other", message(&other, "gitlab")).await;
    let expected = format!(
        "denied: the secret `gitlab` is not for {}: if it may be sent there, add it to `for` of its [[secret]] entry in \
         waypost.toml",
        other.url
    );
    assert_eq!(elsewhere["error"], expected);
    assert!(server.asked().is_empty() && other.asked().is_empty());
    let reply = open.reply("other", message(&server, "gitlab")).await;
    assert_eq!(
        server.asked()[0]["headers"]["authorization"],
        format!("Bearer {CANARY}")
    );
    assert!(reply["body"].as_str().unwrap().contains("Bearer [redacted]"), "{reply}");
}
