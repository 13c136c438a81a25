//! Components in OCI registries, as CNCF's Wasm OCI artifact lays them out: one layer `application/wasm`, and a config that says
//! what is in it. A signature is an artifact of its own, under a tag made of the digest that it belongs to.
//!
//! A tag is resolved to a digest first, and everything is then asked for by digest, with a size that is known before; what is
//! more or other is refused. See <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>. Not here: whether a
//! component may be installed (`plugin/installed.rs`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::AsyncWrite;

use super::lock::is_digest;
use super::manifest_of;
use super::signature::SIGNATURE_BYTES;
use super::store::digest_of;
use crate::error::{Blame, Error, ErrorKind, Result};

/// What a config of a component is.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// What a component is.
pub const COMPONENT: &str = "application/wasm";
/// What a signature is.
pub const SIGNATURE: &str = "application/vnd.waypost.minisign.v1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The largest OCI manifest that is looked at, in bytes.
pub const MANIFEST_BYTES: usize = 256 << 10;
/// How long a registry may be silent.
pub const SILENCE: Duration = Duration::from_secs(30);
/// How long one component may take.
pub const LONGEST: Duration = Duration::from_secs(600);

/// The variables with a name and a password for the registry.
pub const CREDENTIALS: [&str; 2] = ["WAYPOST_REGISTRY_USER", "WAYPOST_REGISTRY_PASSWORD"];

/// A component from a registry.
#[derive(Debug)]
pub struct Pulled {
    /// The component.
    pub bytes: Vec<u8>,
    /// The digest of its OCI manifest.
    pub manifest: String,
    /// The text of its signature file, when the registry has one.
    pub signature: Option<String>,
}

/// A registry, and one name in it.
pub struct Registry {
    client: Client,
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// The registry of a reference such as `ghcr.io/acme/tickets:1` or `ghcr.io/acme/tickets@sha256:…`. Asked without TLS are
    /// those on loopback and these.
    pub fn of(reference: &str, insecure: &[String], credentials: Option<(String, String)>) -> Result<Self> {
        let wrong = |why: &str| {
            let message = format!(
                "`{}` is not a reference: {why}; write <registry>/<name>:<tag> or <registry>/<name>@sha256:<digest>",
                reference.escape_debug()
            );
            Error::new(ErrorKind::Invalid, message)
        };
        let host = reference.split('/').next().unwrap_or_default();
        if !reference.contains('/') || !(host.contains(['.', ':', ']']) || host == "localhost") {
            return Err(wrong("it names no registry"));
        }
        let parsed: Reference = reference
            .parse()
            .map_err(|error| wrong("it cannot be read").because(error))?;
        if parsed.digest().is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("its digest is not a SHA-256"));
        }
        let plain = if is_loopback(parsed.registry()) || insecure.iter().any(|host| host == parsed.registry()) {
            vec![parsed.registry().to_owned()]
        } else {
            Vec::new()
        };
        let config = ClientConfig {
            protocol: ClientProtocol::HttpsExcept(plain),
            platform_resolver: None,
            use_monolithic_push: true,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(SILENCE),
            user_agent: concat!("waypost/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config)
            .map_err(|error| Error::new(ErrorKind::Internal, "no client of registries").because(error))?;
        Ok(Self {
            client,
            reference: parsed,
            auth: credentials.map_or(RegistryAuth::Anonymous, |(user, password)| {
                RegistryAuth::Basic(user, password)
            }),
        })
    }

    /// Gets the component, whole, and its signature; at most so many bytes.
    pub async fn pull(&self, largest: usize) -> Result<Pulled> {
        let pulling = async {
            let digest = match self.reference.digest() {
                Some(digest) => digest.to_owned(),
                None => {
                    let asked = self.client.fetch_manifest_digest(&self.reference, &self.auth).await;
                    asked.map_err(|error| self.failed(error))?
                }
            };
            if !is_digest(&digest) {
                return Err(self.odd(&format!(
                    "the registry names it by `{}`, which is no SHA-256",
                    digest.escape_debug()
                )));
            }
            let manifest = self.manifest(&self.reference.clone_with_digest(digest.clone())).await?;
            if manifest.config.media_type != CONFIG {
                let media_type = manifest.config.media_type.escape_debug();
                return Err(self.odd(&format!("it is no WebAssembly component but `{media_type}`")));
            }
            let bytes = self
                .only_layer(&manifest, COMPONENT, largest, "raise `component` in [limits.plugin]")
                .await?;
            let signature = self.signature(&digest).await?;
            Ok(Pulled {
                bytes,
                manifest: digest,
                signature,
            })
        };
        let late = |_| {
            let message = format!("{} was not here after {LONGEST:?}; try again", self.reference);
            Err(Error::new(ErrorKind::Timeout, message))
        };
        tokio::time::timeout(LONGEST, pulling).await.unwrap_or_else(late)
    }

    /// Puts a component under the reference, with its signature first: whoever finds the one finds the other. The digest of its
    /// OCI manifest.
    pub async fn push(&self, bytes: Vec<u8>, signature: Option<String>) -> Result<String> {
        if self.reference.digest().is_some() {
            let message = format!(
                "`{}` names a digest; push to a tag, and get the digest back",
                self.reference
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let manifest = manifest_of("the component", &bytes)?;
        let failed = |error| self.failed(error);
        self.client
            .auth(&self.reference, &self.auth, RegistryOperation::Push)
            .await
            .map_err(failed)?;
        let layer = descriptor(COMPONENT, &bytes);
        let config = json!({
            "architecture": "wasm", "os": "wasip2", "layerDigests": [layer.digest],
            "component": { "exports": [manifest.role.export()], "imports": [] },
        });
        let config = config.to_string().into_bytes();
        let title = |name: &str, value: &str| (format!("org.opencontainers.image.{name}"), value.to_owned());
        let annotations: BTreeMap<String, String> = [
            title("title", &manifest.id),
            title("version", &manifest.version),
            title("description", &manifest.description),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
        let whole = OciImageManifest {
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            config: descriptor(CONFIG, &config),
            layers: vec![layer],
            annotations: Some(annotations),
            ..OciImageManifest::default()
        };
        let text = written(&whole)?;
        let digest = digest_of(&text);
        self.blob(bytes).await?;
        self.blob(config).await?;
        if let Some(signature) = signature {
            self.put_signature(&digest, &text, signature.into_bytes()).await?;
        }
        self.put_manifest(&self.reference, text).await?;
        Ok(digest)
    }

    async fn put_signature(&self, digest: &str, subject: &[u8], signature: Vec<u8>) -> Result<()> {
        let empty = b"{}".to_vec();
        let artifact = OciImageManifest {
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
            artifact_type: Some(SIGNATURE.to_owned()),
            config: descriptor(EMPTY, &empty),
            layers: vec![descriptor(SIGNATURE, &signature)],
            subject: Some(descriptor(OCI_IMAGE_MEDIA_TYPE, subject)),
            ..OciImageManifest::default()
        };
        self.blob(empty).await?;
        self.blob(signature).await?;
        self.put_manifest(&self.signature_tag(digest), written(&artifact)?)
            .await
    }

    async fn blob(&self, bytes: Vec<u8>) -> Result<()> {
        let digest = digest_of(&bytes);
        let there = self.client.blob_exists(&self.reference, &digest).await;
        if there.map_err(|error| self.failed(error))? {
            return Ok(());
        }
        let pushed = self.client.push_blob(&self.reference, bytes, &digest).await;
        pushed.map(drop).map_err(|error| self.failed(error))
    }

    async fn put_manifest(&self, under: &Reference, text: Vec<u8>) -> Result<()> {
        let kind = axum::http::HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        let pushed = self.client.push_manifest_raw(under, text, kind).await;
        pushed.map(drop).map_err(|error| self.failed(error))
    }

    /// The tag under which the signature of a manifest is.
    fn signature_tag(&self, digest: &str) -> Reference {
        Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            format!("{}.minisig", digest.replace(':', "-")),
        )
    }

    /// The signature of a manifest; none only when the registry says that there is none.
    async fn signature(&self, digest: &str) -> Result<Option<String>> {
        let tag = self.signature_tag(digest);
        let found = self.client.fetch_manifest_digest(&tag, &self.auth).await;
        let found = match found {
            Err(error) if is_missing(&error) => return Ok(None),
            found => found.map_err(|error| self.failed(error))?,
        };
        let manifest = self.manifest(&tag.clone_with_digest(found)).await?;
        let bytes = self
            .only_layer(&manifest, SIGNATURE, SIGNATURE_BYTES, "it is no signature")
            .await?;
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|error| self.odd("its signature is not text").because(error))
    }

    /// The manifest with the digest of this reference.
    async fn manifest(&self, reference: &Reference) -> Result<OciImageManifest> {
        let asked = self
            .client
            .pull_manifest_raw(reference, &self.auth, &[OCI_IMAGE_MEDIA_TYPE])
            .await;
        let (text, _) = asked.map_err(|error| self.failed(error))?;
        if text.len() > MANIFEST_BYTES {
            return Err(self.odd(&format!("its manifest has more than {MANIFEST_BYTES} bytes")));
        }
        serde_json::from_slice(&text).map_err(|error| self.odd("its manifest is not one of an image").because(error))
    }

    /// The content of the one layer, of this kind and this size at most.
    async fn only_layer(
        &self,
        manifest: &OciImageManifest,
        kind: &str,
        largest: usize,
        remedy: &str,
    ) -> Result<Vec<u8>> {
        let [layer] = manifest.layers.as_slice() else {
            let count = manifest.layers.len();
            return Err(self.odd(&format!("it has {count} layers, and a component is one")));
        };
        if layer.media_type != kind {
            let media_type = layer.media_type.escape_debug();
            return Err(self.odd(&format!("its layer is `{media_type}` and not `{kind}`")));
        }
        if !is_digest(&layer.digest) {
            let digest = layer.digest.escape_debug();
            return Err(self.odd(&format!("its layer is named by `{digest}`, which is no SHA-256")));
        }
        let size = match usize::try_from(layer.size) {
            Ok(size) if size <= largest => size,
            _ => {
                let message = format!(
                    "{} has {} bytes, the limit is {largest}: {remedy}",
                    self.reference, layer.size
                );
                return Err(Error::new(ErrorKind::Limit, message));
            }
        };
        let mut bytes = Bounded {
            bytes: Vec::with_capacity(size),
            most: size,
        };
        // By its digest alone: a manifest may name other places, which are nobody's business.
        let pulled = self
            .client
            .pull_blob(&self.reference, layer.digest.as_str(), &mut bytes)
            .await;
        pulled.map_err(|error| self.failed(error))?;
        let bytes = bytes.bytes;
        if bytes.len() != size || digest_of(&bytes) != layer.digest {
            return Err(self.odd("the registry gave other bytes than its manifest names"));
        }
        Ok(bytes)
    }

    fn odd(&self, why: &str) -> Error {
        Error::new(
            ErrorKind::Invalid,
            format!("{} cannot be installed: {why}", self.reference),
        )
        .blame(Blame::Upstream)
    }

    fn failed(&self, error: OciDistributionError) -> Error {
        let refused = |status: Option<StatusCode>| {
            status.is_some_and(|status| [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status))
        };
        let asks = matches!(&error, OciDistributionError::RequestError(error) if refused(error.status()))
            || matches!(
                &error,
                OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_)
            );
        let (kind, why) = match &error {
            error if is_missing(error) => (ErrorKind::NotFound, "the registry does not have it".to_owned()),
            _ if asks => (
                ErrorKind::Denied,
                format!(
                    "the registry wants to know who asks; set {} and {}",
                    CREDENTIALS[0], CREDENTIALS[1]
                ),
            ),
            OciDistributionError::DigestError(_) => (
                ErrorKind::Denied,
                "the registry gave other bytes than their digest says".to_owned(),
            ),
            OciDistributionError::RequestError(_) => (
                ErrorKind::Unavailable,
                format!(
                    "the registry {} does not answer; one without TLS is named in `[plugins] insecure-registries`",
                    self.reference.registry()
                ),
            ),
            _ => (ErrorKind::Other, "the registry refused".to_owned()),
        };
        Error::new(kind, format!("{}: {why}", self.reference))
            .blame(Blame::Upstream)
            .because(error)
    }
}

/// Whether a registry said that there is no such thing.
fn is_missing(error: &OciDistributionError) -> bool {
    let unknown = |code: &OciErrorCode| {
        matches!(
            code,
            OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
        )
    };
    match error {
        OciDistributionError::RegistryError { envelope, .. } => {
            !envelope.errors.is_empty() && envelope.errors.iter().all(|error| unknown(&error.code))
        }
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        _ => false,
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> OciDescriptor {
    OciDescriptor {
        media_type: kind.to_owned(),
        digest: digest_of(bytes),
        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

fn written(manifest: &OciImageManifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest)
        .map_err(|error| Error::new(ErrorKind::Internal, "an OCI manifest cannot be written").because(error))
}

/// Whether a registry is on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Takes so many bytes and no more.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        if bytes.len() > self.most - self.bytes.len() {
            return Poll::Ready(Err(std::io::Error::other("there is more than the manifest says")));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_its_registry() {
        for (reference, why) in [
            ("tickets:1", "it names no registry"),
            ("acme/tickets:1", "it names no registry"),
            ("ghcr.io", "it names no registry"),
            ("ghcr.io/Acme/x:1", "it cannot be read"),
            ("ghcr.io/acme/x:1:2", "it cannot be read"),
            ("ghcr.io/acme/x@sha256:12", "it cannot be read"),
        ] {
            let error = Registry::of(reference, &[], None).err().unwrap().to_string();
            assert_eq!(
                error,
                format!(
                    "`{reference}` is not a reference: {why}; write <registry>/<name>:<tag> or <registry>/<name>@sha256:<digest>"
                )
            );
        }
        let sha512 = format!("ghcr.io/acme/x@sha512:{}", "a".repeat(128));
        assert!(
            Registry::of(&sha512, &[], None)
                .err()
                .unwrap()
                .to_string()
                .contains("not a SHA-256")
        );
    }

    #[test]
    fn loopback_alone_goes_without_tls() {
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.0.1", true),
            ("[::1]:5000", true),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com:5000", false),
            ("10.0.0.1:5000", false),
            ("ghcr.io", false),
        ] {
            assert_eq!(is_loopback(registry), plain, "{registry}");
        }
    }
}
