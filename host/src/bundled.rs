//! The plugins that are part of the binary.

use crate::error::Result;
use crate::plugin::{Manifest, Origin, Source};

macro_rules! bundled {
    ($($id:literal),+) => {
        [$((
            $id,
            include_str!(concat!(env!("OUT_DIR"), "/", $id, ".toml")),
            include_bytes!(concat!(env!("OUT_DIR"), "/", $id, ".wasm")).as_slice(),
        )),+]
    };
}

/// The agent, the provider of the embedded default, and the replaying handler of the demo. A new one is one more name.
static BUNDLED: [(&str, &str, &[u8]); 3] = bundled!("loop", "sandbox", "replay");

/// All of them, ready to load.
pub fn sources() -> impl Iterator<Item = Result<Source>> {
    BUNDLED.iter().map(|(id, manifest, bytes)| {
        let manifest = Manifest::parse(&format!("the manifest of the bundled plugin `{id}`"), manifest)?;
        Ok(Source {
            manifest,
            bytes: (*bytes).into(),
            origin: Origin::Bundled,
        })
    })
}
