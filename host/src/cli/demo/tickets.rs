//! The second process of the demo: a ticket tracker that serves `ticket:find` over the direct socket, as any program in any
//! language could.

use std::process::ExitCode;

use clap::Args;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::error::{Error, ErrorKind, Result};

/// The variable that holds the token.
pub(super) const TOKEN: &str = "WAYPOST_TOKEN";

/// Serves the tickets of the demo until standard input closes.
#[derive(Debug, Args)]
pub(in crate::cli) struct Tickets {
    /// Where the hub listens for connections.
    #[arg(long)]
    url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    r#type: String,
    request_id: String,
    original_message: Value,
}

impl Tickets {
    pub(in crate::cli) async fn run(self) -> Result<ExitCode> {
        let mut socket = self.connect().await?;
        let mut input = tokio::io::stdin();
        let mut byte = [0];
        loop {
            let frame = tokio::select! {
                frame = socket.next() => frame,
                _ = input.read(&mut byte) => return Ok(ExitCode::SUCCESS),
            };
            let Some(Ok(frame)) = frame else {
                return Ok(ExitCode::SUCCESS);
            };
            let Message::Text(text) = frame else { continue };
            // Notifications come on the same socket; they ask for nothing.
            let Ok(request) = serde_json::from_str::<Request>(&text) else {
                continue;
            };
            if request.r#type == "executionGateway.request" {
                socket
                    .send(Message::text(answer(&request).to_string()))
                    .await
                    .map_err(lost)?;
            }
        }
    }

    async fn connect(
        &self,
    ) -> Result<tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>> {
        let token = std::env::var(TOKEN)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("the variable {TOKEN} holds no token")))?;
        let mut request = format!("{}?providerId=tickets", self.url)
            .into_client_request()
            .map_err(lost)?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("the variable {TOKEN} holds no token")))?;
        request.headers_mut().insert("authorization", bearer);
        connect_async(request).await.map(|(socket, _)| socket).map_err(lost)
    }
}

fn lost(error: tokio_tungstenite::tungstenite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the hub cannot be reached").because(error)
}

fn answer(request: &Request) -> Value {
    let id = request.original_message.pointer("/message/id").and_then(Value::as_u64);
    let found = match id {
        Some(42) => Ok("Start takes 4 s on a cold cache"),
        Some(57) => Ok("A reply sent during reconnect never arrives"),
        Some(id) => Err(format!("there is no ticket {id}")),
        None => Err("a ticket is asked for by its `id`, a number".to_owned()),
    };
    let (success, result) = match found {
        Ok(title) => (true, json!({ "id": id, "title": title, "state": "closed" })),
        Err(error) => (false, json!({ "error": error })),
    };
    json!({
        "type": "executionGateway.reply",
        "requestId": format!("reply-{}", request.request_id),
        "replyRequestId": request.request_id,
        "success": success,
        "result": result,
    })
}
