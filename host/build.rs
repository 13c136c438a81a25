//! Builds the bundled plugins for the sandbox and hands their files to `src/bundled.rs`.
//!
//! They are built by the same cargo in a target folder of their own, with this build's variables cleared: what is meant for
//! the host (its target, its flags, its wrappers) is not meant for them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const TARGET: &str = "wasm32-wasip2";

/// The plugins that the binary holds, by the name of their folder.
const BUNDLED: [&str; 3] = ["loop", "sandbox", "replay"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?)
        .parent()
        .ok_or("the package stands in no folder")?
        .to_owned();
    let out = PathBuf::from(variable("OUT_DIR")?);
    for watched in ["wit", "sdk", "plugins", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    // One folder for all that is built of the host here, also by clippy and for the fuzz targets: what is built for the sandbox is
    // the same.
    let target = out
        .ancestors()
        .nth(2)
        .ok_or("the package is built in no folder")?
        .join("waypost-plugins");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(&root)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target);
    for plugin in BUNDLED {
        cargo.args(["--package", &format!("waypost-{plugin}")]);
    }
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].contains(&name.as_str());
        if !kept && (name.starts_with("CARGO") || name.starts_with("RUST")) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .output()
        .map_err(|error| format!("cargo cannot be started for the plugins: {error}"))?;
    if !built.status.success() {
        let text = String::from_utf8_lossy(&built.stderr);
        let remedy = if text.contains("can't find crate for `core`") || text.contains("target may not be installed") {
            format!("; install the target: rustup target add {TARGET}")
        } else {
            String::new()
        };
        let text = text.replace('\n', " | ");
        return Err(format!("the bundled plugins do not build{remedy} | {text}"));
    }
    for plugin in BUNDLED {
        let file = target
            .join(TARGET)
            .join("release")
            .join(format!("waypost_{plugin}.wasm"));
        fs::copy(&file, out.join(format!("{plugin}.wasm")))
            .map_err(|error| format!("{} cannot be copied: {error}", file.display()))?;
        let manifest = root.join("plugins").join(plugin).join("manifest.toml");
        fs::copy(&manifest, out.join(format!("{plugin}.toml")))
            .map_err(|error| format!("{} cannot be copied: {error}", manifest.display()))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not set {name}: {error}"))
}
