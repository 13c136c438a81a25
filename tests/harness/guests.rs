//! The guests: one tiny component for each behaviour that a test needs, built once for each run of the trials.
//!
//! Most are Rust, in `guests/examples`, and depend on the SDK like any plugin. What Rust cannot say (a table that grows,
//! a start section that never ends) is text, in [`component`].

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests stand in the repository")
        .to_owned()
}

/// Where trials leave what the next run can use.
pub fn target() -> PathBuf {
    root().join("target/guests")
}

/// Builds all guests, with this build's variables cleared: they are meant for the host.
pub fn build() {
    let mut cargo = cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "waypost-guests",
        "--examples",
        "--target",
        TARGET,
    ]);
    let built = cargo.arg("--target-dir").arg(target()).output().expect("cargo starts");
    assert!(
        built.status.success(),
        "the guests do not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    std::fs::create_dir_all(cache()).expect("the folder of compiled guests can be made");
}

/// Cargo in the root of the repository, as a person would start it.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_INCREMENTAL"].contains(&name.as_str());
        if !kept && (name.starts_with("CARGO") || name.starts_with("RUST")) {
            cargo.env_remove(name);
        }
    }
    // Also where the trials were started by hand: the tools must be the ones that the trials were built with.
    if let Some(toolchain) = option_env!("RUSTUP_TOOLCHAIN") {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    cargo.current_dir(root());
    cargo
}

/// The component of a guest.
pub fn bytes(guest: &str) -> Vec<u8> {
    let file = target()
        .join(TARGET)
        .join("release/examples")
        .join(format!("{guest}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| panic!("the guest {}: {error}", file.display()))
}

/// Compiled code that all trials share, so that each guest is compiled once.
pub fn cache() -> PathBuf {
    target().join("cache")
}
