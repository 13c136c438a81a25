//! Whatever stands in `waypost.lock`: it is refused with a reason, or what is written of it is read back the same.

#![no_main]
#![allow(clippy::expect_used, reason = "a failure here ends the target, as any finding does")]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use waypost::plugin::lock::{ENTRIES, Lock, TEXT_BYTES, is_digest};
use waypost::plugin::terms::Term;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let lock = match Lock::parse(text) {
        Ok(lock) => lock,
        Err(error) => {
            assert!(error.to_string().starts_with("waypost.lock "), "{error}");
            return;
        }
    };
    let written = lock.write().expect("what was read can be written");
    let again = Lock::parse(&written).expect("what was written can be read");
    assert_eq!(again, lock);
    assert_eq!(
        again.write().expect("it can be written again"),
        written,
        "the same content is the same text"
    );
    let ids: HashSet<&str> = lock.installed.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids.len(), lock.installed.len(), "an id stands there once");
    assert!(lock.installed.len() <= ENTRIES);
    for release in lock.installed.iter().flat_map(|entry| entry.releases()) {
        assert!(is_digest(&release.digest) && release.manifest.as_deref().is_none_or(is_digest));
        assert!(release.version.len() <= TEXT_BYTES && release.source.len() <= TEXT_BYTES);
        for term in Term::all(&release.grant) {
            let mut grant = release.grant.clone();
            assert!(term.is_in(&grant) && term.take(&mut grant), "{term}");
        }
    }
});
