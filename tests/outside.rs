//! What a trial needs from outside is installed when somebody at the terminal says so, and counted as ignored otherwise.
//!
//! The trial runs this binary again with a trial that needs a tool which nobody has, at a terminal of `script`.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Trial};

use crate::harness::guests;
use crate::harness::outside::{Tool, on_path};
use crate::harness::trial;

pub fn trials() -> Vec<Trial> {
    let name = "outside::a_missing_tool_is_asked_for_at_a_terminal";
    vec![if on_path("script") {
        trial(name, a_missing_tool_is_asked_for_at_a_terminal)
    } else {
        Trial::test(format!("{name} (missing: script, of util-linux)"), || Ok(())).with_ignored_flag(true)
    }]
}

/// Set for the binary that is run again.
const AGAIN: &str = "WAYPOST_TRIAL_ASKS";

const TOOL: Tool = Tool {
    name: "a tool that nobody has",
    folder: "asked",
    program: "tool",
    needs: "sh",
    system: None,
    install: &[&["sh", "-c", "echo here > tool"]],
};

/// What the binary does when it is run again.
pub fn again(arguments: &Arguments) -> Option<ExitCode> {
    std::env::var_os(AGAIN)?;
    let trial = TOOL.trial("needs_a_tool", |tool| {
        assert_eq!(fs::read_to_string(tool)?, "here\n");
        Ok(())
    });
    Some(libtest_mimic::run(arguments, vec![trial]).exit_code())
}

async fn a_missing_tool_is_asked_for_at_a_terminal() {
    let tool = guests::root().join("target/outside/asked");
    for (answer, passed) in [("n\n", false), ("\n", false), ("yes\n", false), ("y\n", true)] {
        drop(fs::remove_dir_all(&tool));
        let said = at_a_terminal(answer).await;
        let question = "a tool that nobody has is missing for a test; install it into target/outside? [y/N] ";
        assert!(said.contains(question), "{answer:?}: {said}");
        judge(&said, passed, &tool);
    }
    // What is there is not asked about, and without a terminal nobody is.
    let said = at_a_terminal("").await;
    assert!(!said.contains("[y/N]"), "{said}");
    judge(&said, true, &tool);
    fs::remove_dir_all(&tool).unwrap();
    let binary = std::env::current_exe().unwrap();
    judge(&said_by(Command::new(binary), "").await, false, &tool);
}

fn judge(said: &str, passed: bool, tool: &Path) {
    let (line, counts) = if passed {
        ("test needs_a_tool ... ok", "1 passed; 0 failed; 0 ignored")
    } else {
        (
            "test needs_a_tool (missing: a tool that nobody has; set WAYPOST_INSTALL=1 to install it) ... ignored",
            "0 passed; 0 failed; 1 ignored",
        )
    };
    assert!(said.contains(line) && said.contains(counts), "{said}");
    assert_eq!(tool.join("tool").is_file(), passed);
}

async fn at_a_terminal(answer: &str) -> String {
    let binary = std::env::current_exe().unwrap();
    let again = shell_words::join([binary.to_str().unwrap(), "--color", "never"]);
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &again, "/dev/null"]);
    said_by(script, answer).await
}

/// What the binary says, at a terminal or not, when it is answered like this.
async fn said_by(mut command: Command, answer: &str) -> String {
    command
        .env(AGAIN, "1")
        .env_remove("CI")
        .env_remove("WAYPOST_INSTALL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let answer = answer.to_owned();
    let said = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let (mut hears, mut says) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let count = says.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            said.extend_from_slice(&buffer[..count]);
            // A terminal shows at once what is typed, so that nothing is typed before the question is there.
            if said.ends_with(b"[y/N] ") {
                hears.write_all(answer.as_bytes()).unwrap();
            }
        }
        assert!(child.wait().unwrap().success(), "{}", String::from_utf8_lossy(&said));
        said
    });
    String::from_utf8_lossy(&said.await.unwrap()).replace("\r\n", "\n")
}
