//! Whatever stands in a plugin file: reading it, putting a manifest into it and loading it never break, and what its bytes say
//! without being compiled agrees with what the linker says.
//!
//! The part of an input before its first zero byte is the manifest, the rest is the component.

#![no_main]
#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use waypost::config::Limits;
use waypost::engine::Engine;
use waypost::plugin::world::World;
use waypost::plugin::{Compiler, Manifest, Origin, Plugins, Source, section};

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, bytes) = data.split_at(at);
    let Ok(text) = str::from_utf8(text) else { return };
    let manifest = Manifest::parse("x.toml", text);
    match &manifest {
        Ok(manifest) => Manifest::check_id("x.toml", &manifest.id).expect("what is read has an id"),
        Err(error) => assert!(error.message.starts_with("x.toml"), "{error} names its place"),
    }
    let world = World::read("x.wasm", bytes);
    drop(section::read("x.wasm", bytes));
    match section::write("x.wasm", bytes, text) {
        Ok(whole) => put(bytes, &whole, text, world.as_ref().ok()),
        // Behind a mistake it could not be read back.
        Err(error) => assert!(error.message.starts_with("x.wasm is not a "), "{error}"),
    }
    let Ok(manifest) = manifest else { return };
    let fits = world.and_then(|world| world.fits(&manifest));
    let source = Source {
        manifest,
        bytes: bytes.into(),
        origin: Origin::Bundled,
    };
    let limits = Limits::default();
    // What is bundled is compiled here.
    let plugins = Plugins::new(Arc::clone(engine()), Compiler::new(&limits), &limits);
    if plugins.load(source).is_ok() {
        fits.expect("what the linker takes fits by its names");
    }
});

/// A manifest that was put in is there, once, and changes nothing else.
fn put(bytes: &[u8], whole: &[u8], text: &str, world: Option<&World>) {
    // Where the bytes stop making sense, nothing after that is looked at.
    let Some(world) = world else { return };
    assert_eq!(section::read("x.wasm", whole).expect("it is read again"), Some(text));
    assert_eq!(&World::read("x.wasm", whole).expect("it is read again"), world);
    let again = section::write("x.wasm", whole, text).expect("it can be put in again");
    assert_eq!(again, whole, "a second time changes nothing");
    assert!(
        whole.len() <= bytes.len() + text.len() + 32,
        "nothing is added but the manifest"
    );
}

/// One engine for all inputs: it reserves much address space.
fn engine() -> &'static Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let limits = Limits {
            calls: 1,
            nested_calls: 1,
            agents: 1,
            observers: 1,
            ..Limits::default()
        };
        let state = std::env::temp_dir().join(format!("waypost-fuzz-{}", std::process::id()));
        Arc::new(Engine::new(&limits, &state).expect("the engine starts"))
    })
}
