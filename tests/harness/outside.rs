//! What a test needs from outside: a tool that is found, or that is installed when this is allowed.
//!
//! Installing is allowed in CI, with `WAYPOST_INSTALL=1`, and when the person at the terminal says so; it goes to
//! `target/outside` and nowhere else; a few tools are taken from the system when it has them. Otherwise a trial that needs
//! what is not there is counted as ignored, with what is missing in its name; in CI it fails.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Failed, Trial};

/// Something that is installed from a registry: a tool, or a library that an agent stands on.
pub struct Tool {
    /// What it is called, and which version of it.
    pub name: &'static str,
    /// Its folder below `target/outside`.
    pub folder: &'static str,
    /// Its file there.
    pub program: &'static str,
    /// What has to be on the path for it to be installed.
    pub needs: &'static str,
    /// The program of the system that is taken as it is; none for what has to be of this version.
    pub system: Option<&'static str>,
    /// The command lines that install it, run in its folder.
    pub install: &'static [&'static [&'static str]],
}

/// What installs a package of npm into the folder.
macro_rules! npm {
    ($package:literal) => {
        &["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", $package]
    };
}

/// What unpacks packages of Debian into the folder; nothing of the system is changed, but for its list of packages.
macro_rules! debian {
    ($($package:literal),+) => {
        &[
            &["sh", "-c", concat!("apt-get download", $(" ", $package),+, " || { apt-get update && apt-get download", $(" ", $package),+, "; }")],
            &["sh", "-c", "for package in *.deb; do dpkg -x \"$package\" . || exit 1; done"],
        ]
    };
}

/// Signs files.
pub const MINISIGN: Tool = Tool {
    name: "minisign (Debian)",
    folder: "minisign",
    program: "usr/bin/minisign",
    needs: "apt-get",
    system: Some("minisign"),
    install: debian!("minisign", "libsodium23"),
};

/// A registry of OCI artifacts.
pub const DOCKER_REGISTRY: Tool = Tool {
    name: "docker-registry (Debian)",
    folder: "docker-registry",
    program: "usr/bin/docker-registry",
    needs: "apt-get",
    system: Some("docker-registry"),
    install: debian!("docker-registry"),
};

/// Makes components from JavaScript.
pub const JCO: Tool = Tool {
    name: "@bytecodealliance/jco 1.35.0 (npm)",
    folder: "jco-1.35.0",
    program: "node_modules/.bin/jco",
    needs: "npm",
    system: None,
    install: &[npm!("@bytecodealliance/jco@1.35.0")],
};

/// The published SDK of Codebolt's agents.
pub const CODEBOLT_SDK: Tool = Tool {
    name: "@codebolt/codeboltjs 1.1.99 (npm)",
    folder: "codeboltjs-1.1.99",
    program: "node_modules/@codebolt/codeboltjs/index.js",
    needs: "npm",
    system: None,
    install: &[npm!("@codebolt/codeboltjs@1.1.99")],
};

/// Makes components from Python.
pub const COMPONENTIZE_PY: Tool = Tool {
    name: "componentize-py 0.25.1 (PyPI)",
    folder: "componentize-py-0.25.1",
    program: "bin/componentize-py",
    needs: "python3",
    system: None,
    install: &[
        &["python3", "-m", "venv", "."],
        &[
            "bin/pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "componentize-py==0.25.1",
        ],
    ],
};

impl Tool {
    /// A trial that needs this tool.
    pub fn trial(&'static self, name: &str, test: impl FnOnce(&Path) -> Result<(), Failed> + Send + 'static) -> Trial {
        match self.lacks() {
            None => Trial::test(name, move || test(&self.installed()?)),
            Some(why) => Trial::test(format!("{name} ({why})"), || Ok(())).with_ignored_flag(true),
        }
    }

    /// Why it cannot be used; none when it is there or may be installed.
    pub fn lacks(&self) -> Option<String> {
        let ci = std::env::var_os("CI").is_some();
        let may_install = ci || std::env::var("WAYPOST_INSTALL").is_ok_and(|value| value == "1");
        let there = self.there();
        if there || may_install && (ci || on_path(self.needs)) || !ci && on_path(self.needs) && self.allowed() {
            return None;
        }
        Some(if on_path(self.needs) {
            format!("missing: {}; set WAYPOST_INSTALL=1 to install it", self.name)
        } else {
            format!("missing: {}; install it, and set WAYPOST_INSTALL=1", self.needs)
        })
    }

    /// Asks the person at the terminal; nobody there, or a mere listing, is a no.
    fn allowed(&self) -> bool {
        let somebody = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !somebody || std::env::args().any(|argument| argument == "--list") {
            return false;
        }
        eprint!(
            "{} is missing for a test; install it into target/outside? [y/N] ",
            self.name
        );
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.is_ok() && answer.trim().eq_ignore_ascii_case("y")
    }

    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/outside")
            .join(self.folder)
    }

    fn program(&self) -> PathBuf {
        self.system
            .and_then(found)
            .unwrap_or_else(|| self.folder().join(self.program))
    }

    /// Whether it is there already.
    pub fn there(&self) -> bool {
        self.program().is_file()
    }

    /// The program, installed when it was not.
    pub fn installed(&self) -> Result<PathBuf, Failed> {
        // Several trials may need the same thing at the same time.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = self.system.and_then(found) {
            return Ok(program);
        }
        if self.there() {
            return Ok(std::fs::canonicalize(self.folder())?.join(self.program));
        }
        // Made beside its name and renamed when it is whole would break a virtual environment; so it is made again instead.
        drop(std::fs::remove_dir_all(self.folder()));
        std::fs::create_dir_all(self.folder())?;
        let folder = std::fs::canonicalize(self.folder())?;
        for line in self.install {
            let [program, arguments @ ..] = line else { continue };
            let program = if program.contains('/') {
                folder.join(program)
            } else {
                PathBuf::from(program)
            };
            let done = Command::new(&program).args(arguments).current_dir(&folder).output();
            let done = done.map_err(|error| format!("{} is missing for {}: {error}", program.display(), self.name))?;
            if !done.status.success() {
                let text = String::from_utf8_lossy(&done.stderr);
                return Err(format!("{} cannot be installed: {}", self.name, text.trim()).into());
            }
        }
        Ok(folder.join(self.program))
    }
}

/// A program that takes longer to build than all trials together, so that nobody installs it for them: it is found on the path
/// or in `target/tools`.
pub fn by_hand(program: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/tools/bin")
        .join(program);
    found(program).or_else(|| std::fs::canonicalize(built).ok())
}

/// A trial without its program: counted as ignored, in CI too, with the line that installs what is missing.
pub fn missing(name: &str, program: &str, install: &str) -> Trial {
    Trial::test(format!("{name} (missing: {program}; {install})"), || Ok(())).with_ignored_flag(true)
}

/// Whether there is such a program.
pub fn on_path(program: &str) -> bool {
    found(program).is_some()
}

/// Where such a program is.
fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// A program that was installed, with the libraries that came with it.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let lib = program.with_file_name("../lib");
    let folders = std::fs::read_dir(lib)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    if let (false, Ok(path)) = (program.starts_with("/usr"), std::env::join_paths(folders)) {
        command.env("LD_LIBRARY_PATH", path);
    }
    command
}
