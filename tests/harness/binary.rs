//! The real `waypost`, as a person starts it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::guests;

/// Builds the binary. No package is named, so that its dependencies are those of `cargo test`, with the same features.
pub fn build() {
    let built = guests::cargo()
        .args(["build", "--release", "--locked", "--bin", "waypost"])
        .output()
        .expect("cargo starts");
    assert!(
        built.status.success(),
        "waypost does not build:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
}

/// The file.
pub fn path() -> PathBuf {
    guests::root().join("target/release/waypost")
}

/// The binary, to be run in a project folder with an environment of its own: nothing of the machine's settings.
pub fn waypost(project: &Path) -> Command {
    let mut command = Command::new(path());
    command
        .current_dir(project)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", project);
    command
}
