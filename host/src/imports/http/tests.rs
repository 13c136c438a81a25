//! TLS, which a trial at the boundary cannot have: the machine trusts no server of a trial.

use std::net::IpAddr;
use std::sync::Mutex;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::*;
use crate::secrets::Secrets;

/// Of a server named `localhost` and `api.example.com`, until 2120. Nobody trusts it but these tests.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBSDCB7qADAgECAgEBMAoGCCqGSM49BAMCMBAxDjAMBgNVBAMMBXRyaWFsMCAX
DTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAQMQ4wDAYDVQQDDAV0cmlh
bDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCLxxD1bmQjUthhMPdzn9clcWl0f
aZ+DSc3BJ2xExf/e6QEbvAVYloexLWPW04fYoANbwU/bsPWnDMn/DND4FxejNzA1
MCUGA1UdEQQeMByCCWxvY2FsaG9zdIIPYXBpLmV4YW1wbGUuY29tMAwGA1UdEwEB
/wQCMAAwCgYIKoZIzj0EAwIDSQAwRgIhAKfIP+RzhYc6Epr9GWr9BmZi65qG8AXK
11l4U39kmyl3AiEAqDtpYAScgudn/67VcQicMgVOQ1xzwELY+rnCxV5Z9l4=
-----END CERTIFICATE-----";
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKOvRcu/ddT76hU3C
lBCvPyKxmWC9JjsSW75LiF9y2YWhRANCAAQi8cQ9W5kI1LYYTD3c5/XJXFpdH2mf
g0nNwSdsRMX/3ukBG7wFWJaHsS1j1tOH2KADW8FP27D1pwzJ/wzQ+BcX
-----END PRIVATE KEY-----";

/// Answers each name with this machine.
struct Here;

impl Resolver for Here {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(async { Ok(vec![[127, 0, 0, 1].into()]) })
    }
}

/// A server that speaks TLS; answers its port, and the names that it was asked for.
async fn server() -> (u16, std::sync::Arc<Mutex<Vec<String>>>) {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let names = std::sync::Arc::<Mutex<Vec<String>>>::default();
    let noted = std::sync::Arc::clone(&names);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
            noted.lock().unwrap().push(name);
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let host = String::from_utf8_lossy(&head[..read]).contains("host: ");
            let text = if host {
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            } else {
                "HTTP/1.1 400 No\r\n\r\n"
            };
            drop(stream.write_all(text.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (port, names)
}

fn trusting(certificate: bool) -> Network {
    let mut roots = RootCertStore::empty();
    if certificate {
        roots
            .add(CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap())
            .unwrap();
    }
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Network::new(std::sync::Arc::new(Here), 8).trusting(config)
}

/// Asks a server over a network; the status and the body, or the error.
async fn ask(network: &Network, url: &str, means: Means) -> Result<(u16, Vec<u8>), CallError> {
    let (url, server) = Server::of(url).unwrap();
    let asked = Outgoing {
        method: "GET".to_owned(),
        url: url.to_string(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: None,
    };
    let limits = PluginLimits::default();
    let secrets = Secrets::new(&[], std::path::Path::new(""), &|_| None);
    let head = Head::of(&asked, &url, &server, &Grants::default(), &secrets, limits.http_headers).await?;
    let exchange = Exchange {
        server,
        means,
        deadline: Deadline::after(std::time::Duration::from_secs(30)),
        place: network.place(false)?,
        limits: &limits,
    };
    let ((status, _), mut answer) = exchange.run(network, head, Bytes::new()).await?;
    let mut body = Vec::new();
    while let Some(piece) = answer.next().await? {
        body.extend(piece);
    }
    Ok((status, body))
}

#[tokio::test]
async fn a_server_proves_its_name_and_not_its_address() {
    let (port, names) = server().await;
    let network = trusting(true);
    for name in ["localhost", "api.example.com", "API.example.com."] {
        let answer = ask(&network, &format!("https://{name}:{port}/"), Means::Loopback)
            .await
            .unwrap();
        assert_eq!(answer, (200, b"ok".to_vec()), "{name}");
    }
    assert_eq!(
        *names.lock().unwrap(),
        ["localhost", "api.example.com", "api.example.com"]
    );
    for (network, url) in [
        (&network, format!("https://other.example.com:{port}/")),
        (&network, format!("https://127.0.0.1:{port}/")),
        (&trusting(false), format!("https://localhost:{port}/")),
    ] {
        let error = ask(network, &url, Means::Itself).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let (_, server) = Server::of(&url).unwrap();
        let begin = format!("{server} cannot be reached: TLS failed (invalid peer certificate");
        assert!(error.message.starts_with(&begin), "{error}");
    }
    assert_eq!(
        names.lock().unwrap().len(),
        3,
        "nothing was said to a server that is another"
    );
}

#[tokio::test]
async fn a_server_in_the_clear_is_no_server_over_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await,
            );
        }
    });
    let error = ask(&trusting(true), &format!("https://localhost:{port}/"), Means::Loopback)
        .await
        .unwrap_err();
    assert!(error.message.contains("cannot be reached: TLS failed"), "{error}");
}
