//! A WebSocket client in the hands of a trial: it says what it is told to, also what no honest client would.

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A connection.
pub struct Socket(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Connects, with these headers; or the status and the text of the refusal.
    pub async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, (u16, String)> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match tokio_tungstenite::connect_async_with_config(request, Some(config), true).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::Error::Http(response)) => {
                let text = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
                Err((response.status().as_u16(), text))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Says a frame.
    pub async fn say(&mut self, frame: Value) {
        self.say_text(&frame.to_string()).await;
    }

    /// Says any text.
    pub async fn say_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next frame: always one JSON object.
    pub async fn hear(&mut self) -> Value {
        self.hear_or_end()
            .await
            .unwrap_or_else(|close| panic!("it was closed: {close:?}"))
    }

    /// The next frame, or how the connection ended.
    pub async fn hear_or_end(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    assert!(frame.is_object(), "{frame}");
                    return Ok(frame);
                }
                Some(Ok(Message::Close(close))) => return Err(close),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// Says a frame and hears the answer to it.
    pub async fn ask(&mut self, frame: Value) -> Value {
        self.say(frame).await;
        self.hear().await
    }
}
