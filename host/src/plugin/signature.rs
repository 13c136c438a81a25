//! Signatures of components: minisign, detached, by the publishers that the operator knows.
//!
//! A signature that is there and does not hold is an error, whatever the policy: what looks signed is signed. Not here: where
//! a signature is looked for (the command line), and when one is needed (`[plugins] require-signature`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::config::Publisher;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The largest signature file, in bytes.
pub const SIGNATURE_BYTES: usize = 8 << 10;

/// Who signed a component: a publisher as `waypost.toml` named it then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signer {
    /// The name of the publisher.
    pub name: String,
    /// The public key. It is what counts: two keys may have one id.
    #[serde(deserialize_with = "super::lock::key")]
    pub key: String,
}

/// A signature that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose.
    pub signer: Signer,
    /// What the signer said in it.
    pub comment: String,
}

impl Signer {
    /// The name, and the id of the key as minisign shows it.
    pub fn shown(&self) -> String {
        format!("{} (key {})", self.name, key_id(&self.key).unwrap_or_default())
    }
}

/// The id of a key, or of the key that made a signature, as minisign writes it.
fn key_id(base64: &str) -> Option<String> {
    let bytes = STANDARD.decode(base64.trim()).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

/// Checks a signature over these bytes against every publisher.
pub fn check(what: &str, bytes: &[u8], signature: &str, publishers: &[Publisher]) -> Result<Signed> {
    let refused = |message: String| Error::new(ErrorKind::Denied, message).blame(Blame::Operator);
    let broken = || {
        refused(format!(
            "the signature of {what} is not one of minisign; get it again, or leave it out with `--unsigned`"
        ))
    };
    if signature.len() > SIGNATURE_BYTES {
        return Err(broken());
    }
    let read = Signature::decode(signature).map_err(|error| broken().because(error))?;
    let id = signature.lines().nth(1).and_then(key_id).unwrap_or_default();
    let mut named = None;
    for publisher in publishers {
        let key = PublicKey::from_base64(&publisher.key).map_err(|error| {
            refused(format!(
                "the key of the [[publisher]] `{}` is not one of minisign",
                publisher.name
            ))
            .because(error)
        })?;
        // The old kind, which signs the whole file and not its hash, is refused: one kind is enough.
        if key.verify(bytes, &read, false).is_ok() {
            return Ok(Signed {
                signer: Signer {
                    name: publisher.name.clone(),
                    key: publisher.key.clone(),
                },
                comment: read.trusted_comment().to_owned(),
            });
        }
        if key_id(&publisher.key).as_deref() == Some(id.as_str()) {
            named = Some(&publisher.name);
        }
    }
    Err(refused(match named {
        Some(name) => format!(
            "the signature of {what} names the key of `{name}`, but it is not `{name}`'s signature of these bytes; do not use this file"
        ),
        None => format!(
            "{what} is signed with the key {id}, which no [[publisher]] of waypost.toml has; add one when you trust it, or leave \
             the signature out with `--unsigned`"
        ),
    }))
}
