//! Programs of the operator's. Needs the grant `process`, a list of programs by name; not for agents.
//!
//! A manifest names the programs and the arguments that it uses, as in
//! `process = [{ name = "git", args = [["status"], ["log", "-n", "*"]] }]`; the operator says which file each is. There is no
//! shell, and no variable but `HOME`, `TMPDIR` and `LANG`.

use std::time::Duration;

pub use crate::bindings::imports::waypost::process::programs::{Ending, Piece};

use crate::bindings::imports::waypost::process::programs;
use crate::{CallError, Result};

/// A program that is not yet started.
#[derive(Clone, Debug)]
#[must_use = "a command does nothing until `run` or `start`"]
pub struct Command(programs::Command);

impl Command {
    /// A program, by its name in the grant.
    pub fn new(program: impl Into<String>) -> Self {
        Self(programs::Command {
            program: program.into(),
            args: Vec::new(),
            input: Vec::new(),
            folder: None,
            timeout_ms: None,
        })
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.0.args.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.0.args.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets what it reads from its standard input.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.0.input = input.into();
        self
    }

    /// Runs it in this folder of the grant `files`, and not in an empty one of its own.
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.0.folder = Some(folder.into());
        self
    }

    /// Sets a time limit. The hub takes the smaller of this and what is left to the plugin itself.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.0.timeout_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Starts it, to be read while it runs.
    pub fn start(self) -> Result<Running> {
        programs::Running::start(&self.0).map(Running)
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Result<Output> {
        let mut running = self.start()?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for piece in &mut running {
            match piece? {
                Piece::Stdout(bytes) => stdout.extend(bytes),
                Piece::Stderr(bytes) => stderr.extend(bytes),
            }
        }
        let ending = running.finish()?;
        Ok(Output { ending, stdout, stderr })
    }
}

/// A program that runs, and what it writes, in pieces of at most 64 KiB. Dropping it kills the program.
#[derive(Debug)]
pub struct Running(programs::Running);

impl Running {
    /// Waits for the end, skipping pieces that were not read.
    pub fn finish(self) -> Result<Ending> {
        self.0.finish()
    }
}

impl Iterator for Running {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().transpose()
    }
}

/// What came of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The same, or `other` with what it wrote to its standard error when it ended in another way than with the exit code 0.
    pub fn success(self) -> Result<Self> {
        let how = match &self.ending {
            Ending::Code(0) => return Ok(self),
            Ending::Code(code) => format!("the exit code {code}"),
            Ending::Signal(signal) => signal.clone(),
        };
        let said = String::from_utf8_lossy(&self.stderr);
        Err(CallError::other(format!(
            "the program ended with {how}: {}",
            said.trim()
        )))
    }

    /// What it wrote to its standard output, as text.
    pub fn text(self) -> Result<String> {
        String::from_utf8(self.stdout).map_err(|_| CallError::invalid("what the program wrote is not UTF-8 text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_success_or_says_why_not() {
        let output = |ending| Output {
            ending,
            stdout: b"out".to_vec(),
            stderr: b"why\n".to_vec(),
        };
        assert_eq!(output(Ending::Code(0)).success().unwrap().text().unwrap(), "out");
        for (ending, text) in [
            (Ending::Code(2), "the exit code 2"),
            (Ending::Signal("SIGSEGV".to_owned()), "SIGSEGV"),
        ] {
            let error = output(ending).success().unwrap_err();
            assert_eq!(error.to_string(), format!("other: the program ended with {text}: why"));
        }
    }

    #[test]
    fn a_command_says_what_was_put_in() {
        let Command(command) = Command::new("git")
            .arg("log")
            .args(["-n", "1"])
            .input("x")
            .folder("docs")
            .timeout(Duration::MAX);
        assert_eq!(command.args, ["log", "-n", "1"]);
        assert_eq!(
            (command.input.as_slice(), command.folder.as_deref()),
            (&b"x"[..], Some("docs"))
        );
        assert_eq!(command.timeout_ms, Some(u64::MAX));
    }
}
