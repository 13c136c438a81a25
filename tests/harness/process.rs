//! The binary as a process: a verb run to its end, and a hub that serves.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{Project, binary};

/// How a verb ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; 128 and the number for a signal, as shells have it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output as one JSON value a line.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// Exit code, output and errors, with what is different each time under a name.
    pub fn shown(&self, project: &Path) -> String {
        let Self { code, out, err } = self;
        let (out, err) = (normal(project, out), normal(project, err));
        format!("[{code}]\n{out}{}{err}", if err.is_empty() { "" } else { "--\n" })
    }
}

/// The binary under these variables beside the few that it always has.
pub fn command(project: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = binary::waypost(project);
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

/// Runs a verb to its end.
pub async fn run(project: &Path, arguments: &[&str]) -> Ended {
    run_with(project, &[], arguments).await
}

/// Runs a verb to its end under these variables.
pub async fn run_with(project: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let output = command(project, variables, arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended {
        code: code(output.status),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs a verb to its end: exit code, output and errors.
pub async fn shown(project: &Path, arguments: &[&str]) -> String {
    run(project, arguments).await.shown(project)
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A verb that goes on for a while, with its lines as they come.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a verb.
    pub fn start(project: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        let mut command = command(project, variables, arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The next line.
    pub async fn line(&mut self) -> String {
        self.lines.next_line().await.unwrap().expect("the process goes on")
    }

    /// The next line that holds this, and what it is.
    pub async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal, as in `TERM`.
    pub async fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(Command::new("sh").args(["-c", &line]).status().await.unwrap().success());
    }

    /// Waits for the end; the output is what was not read before.
    pub async fn end(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        let mut errors = self.child.stderr.take().unwrap();
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                out.push_str(&line);
                out.push('\n');
            }
        };
        let (_, read) = tokio::join!(reading, errors.read_to_string(&mut err));
        read.unwrap();
        Ended {
            code: code(self.child.wait().await.unwrap()),
            out,
            err,
        }
    }
}

/// A hub that serves.
pub struct Serving {
    /// The process.
    pub process: Running,
    /// Its address.
    pub url: String,
    /// Its token.
    pub token: String,
    /// How many runs it took up again.
    pub resumed: u64,
}

impl Serving {
    /// Starts `waypost serve` on a port of its own, and waits until it listens.
    pub async fn start(project: &Path, variables: &[(&str, &str)]) -> Self {
        let mut process = Running::start(project, variables, &["serve", "--json", "--listen", "127.0.0.1:0"]);
        let word: Value = serde_json::from_str(&process.line().await).unwrap();
        let text = |name: &str| word[name].as_str().unwrap().to_owned();
        Self {
            url: text("url"),
            token: text("token"),
            resumed: word["resumed"].as_u64().unwrap(),
            process,
        }
    }

    /// Ends it at once, as a crash does.
    pub async fn crash(self) {
        self.process.signal("KILL").await;
        assert_eq!(self.process.end().await.code, 137);
    }

    /// Ends it in order.
    pub async fn stop(self) -> Ended {
        self.process.signal("TERM").await;
        self.process.end().await
    }

    /// Asks its API; the status and the text of the answer.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let request = http().request(
            method.parse().unwrap(),
            format!("{}/api/v1/projects/default{path}", self.url),
        );
        let answer = request
            .bearer_auth(&self.token)
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Starts a run; its id.
    pub async fn start_run(&self, body: Value) -> String {
        let (status, text) = self.ask("POST", "/runs", &body).await;
        assert_eq!(status, 201, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// All events of a run up to its end, which is awaited.
    pub async fn until_end(&self, run: &str) -> Vec<Value> {
        let (status, text) = self
            .ask("GET", &format!("/runs/{run}/events?follow=true"), &Value::Null)
            .await;
        assert_eq!(status, 200, "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A client that goes nowhere but where it is told.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Project {
    /// Writes the files, for a hub in another process.
    pub fn written(self) -> Self {
        self.write();
        self
    }
}

/// A text in which what is different each time stands under a name: folders, ids, ports, digests, tokens.
pub fn normal(project: &Path, text: &str) -> String {
    let text = super::normal(project, text);
    let mut shown = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || c == '-' {
            word.push(c);
            continue;
        }
        let port = word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_digit()) && shown.ends_with("127.0.0.1:");
        shown.push_str(if port { "<port>" } else { named(&word) });
        word.clear();
        if c != '\0' {
            shown.push(c);
        }
    }
    shown
}

/// The name that stands for a word which is different each time.
fn named(word: &str) -> &str {
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let dashes: Vec<usize> = word.match_indices('-').map(|(at, _)| at).collect();
    match word.split_once('-') {
        Some(("env", id)) if id.len() > 8 && hexadecimal(id) => "<environment>",
        Some(("thread", id)) if id.len() > 8 && hexadecimal(id) => "<thread>",
        _ if word.len() == 36 && dashes == [8, 13, 18, 23] => "<id>",
        _ if word.len() == 64 && hexadecimal(word) => "<digest>",
        _ => word,
    }
}
