//! A thousand handlers in Extism, in a process of their own: `tests/benches/extism`, built when it is asked for.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::Outcome;
use crate::harness::guests;

/// The process.
pub(crate) struct Extism {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What each handler takes in memory, in bytes.
    pub(crate) bytes_each: f64,
}

impl Extism {
    /// Builds and starts it, with this folder for its cache of compiled code; the error says why it cannot be had.
    pub(crate) fn start(folder: &Path) -> Result<Self, String> {
        let target = guests::root().join("target/extism");
        let manifest = guests::root().join("tests/benches/extism/Cargo.toml");
        let mut cargo = guests::cargo();
        cargo
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(manifest);
        let built = cargo.arg("--target-dir").arg(&target).output();
        let built = built.map_err(|error| format!("cargo does not start: {error}"))?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr).into_owned();
            let why = said.lines().find(|line| line.starts_with("error")).unwrap_or("error");
            return Err(format!("it does not build: {why}"));
        }
        let mut child = Command::new(target.join("release/beside-extism"))
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it does not start: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no input and output".to_owned());
        };
        let mut extism = Self {
            child,
            input,
            output: BufReader::new(output).lines(),
            bytes_each: 0.0,
        };
        extism.bytes_each = extism.said("bytesEach").map_err(|error| error.to_string())?;
        Ok(extism)
    }

    /// Makes so many calls to one of them, and says how long each took.
    pub(crate) fn nanoseconds_each(&mut self, calls: u32) -> Outcome<f64> {
        writeln!(self.input, "{calls}")?;
        self.said("nanosecondsEach")
    }

    fn said(&mut self, field: &str) -> Outcome<f64> {
        let line = self.output.next().ok_or("the process with Extism ended")??;
        let said: Value = serde_json::from_str(&line)?;
        Ok(said.get(field).and_then(Value::as_f64).ok_or(line)?)
    }
}

impl Drop for Extism {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
