//! Agents on the published SDK, `@codebolt/codeboltjs` 1.1.99, as programs that the hub starts.

use std::path::Path;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use waypost::run::{NewRun, Run, State};

use crate::harness::endpoint::{Endpoint, call, say};
use crate::harness::outside::CODEBOLT_SDK;
use crate::harness::{Open, Project};

/// The trials, each with the number of the conformance check of the wire that it is, where it is one.
pub fn trials() -> Vec<Trial> {
    vec![
        trial(
            "c01_c04_c05_a_prompt_reaches_the_agent_and_its_reply_ends_the_run",
            prompted,
        ),
        trial(
            "c05_an_agent_that_finishes_without_a_word_leaves_its_last_one",
            finished,
        ),
        trial(
            "c06_stop_reaches_an_agent_that_listens_and_ends_one_that_does_not",
            stopped,
        ),
        trial(
            "c07_an_agent_that_ends_or_hangs_up_fails_its_run_with_one_clear_error",
            gone,
        ),
        trial("c09_to_c15_every_call_of_the_sdk_resolves", every_call),
        trial("c16_calls_of_one_type_made_together_all_resolve", together),
        trial(
            "the_agent_gets_the_variables_of_the_protocol_and_nothing_else",
            environment,
        ),
        trial(
            "the_built_in_agent_of_the_sdk_finds_what_it_needs_of_a_host",
            inference_forms,
        ),
    ]
}

fn trial<F>(name: &str, test: impl FnOnce(Agent) -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    trial_of(&format!("sdk::{name}"), include_str!("agents/sdk.js"), test)
}

/// A trial of this agent, in JavaScript, with what the SDK's package brings.
pub(crate) fn trial_of<F>(name: &str, program: &'static str, test: impl FnOnce(Agent) -> F + Send + 'static) -> Trial
where
    F: Future<Output = ()>,
{
    CODEBOLT_SDK.trial(name, move |main| {
        let agent = Agent::new(main, program);
        crate::harness::within(async move { test(agent).await })
    })
}

/// An agent, and what runs it: the SDK where it was installed, and Node.
pub(crate) struct Agent {
    modules: String,
    node: String,
    program: &'static str,
}

impl Agent {
    fn new(main: &Path, program: &'static str) -> Self {
        let modules = main
            .ancestors()
            .find(|folder| folder.ends_with("node_modules"))
            .unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let node = std::env::split_paths(&path)
            .map(|folder| folder.join("node"))
            .find(|node| node.is_file());
        Self {
            modules: modules.display().to_string(),
            node: node.unwrap().display().to_string(),
            program,
        }
    }

    /// How it is started.
    pub(crate) fn command(&self) -> String {
        format!("{} agent.js", self.node)
    }

    /// A project to run it in.
    pub(crate) fn project(&self) -> Project {
        self.project_with(&[])
    }

    /// The same, with these variables for the agent.
    pub(crate) fn project_with(&self, variables: &[(&str, &str)]) -> Project {
        let env: String = variables
            .iter()
            .map(|(name, value)| format!(", {name} = {value:?}"))
            .collect();
        Project::new()
            .file("agent.js", self.program)
            .file("a.txt", "hello\n")
            .toml(&format!(
                "[agent]\nenv = {{ NODE_PATH = {:?}{env} }}\ngrace = \"2s\"",
                self.modules
            ))
    }

    /// Starts a run of it.
    pub(crate) async fn start(&self, open: &Open, prompt: &str) -> Run {
        let new = NewRun {
            prompt: prompt.to_owned(),
            command: Some(self.command()),
            ..NewRun::default()
        };
        open.hub.runs.start(&open.hub.project, new).await.unwrap()
    }

    /// The run at its end.
    pub(crate) async fn ended(&self, open: &Open, run: &Run) -> Run {
        let ends = ["run.completed", "run.failed", "run.cancelled"];
        open.event(|event| event.run == run.id && ends.contains(&&*event.kind))
            .await;
        open.hub.runs.get(&run.id).await.unwrap()
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, open: &Open, prompt: &str) -> Run {
        let run = self.start(open, prompt).await;
        self.ended(open, &run).await
    }

    /// What each step resolved.
    async fn steps(&self, open: &Open, steps: Value) -> Vec<Value> {
        let run = self.run(open, &steps.to_string()).await;
        let answer = run.answer.unwrap_or_else(|| panic!("{:?}", run.error));
        serde_json::from_str(&answer).unwrap()
    }
}

async fn prompted(agent: Agent) {
    let open = agent.project().open().await;
    let run = agent.run(&open, "good morning").await;
    assert_eq!(
        (run.state, run.answer.as_deref()),
        (State::Completed, Some("you said: good morning")),
        "{:?}",
        run.error
    );
    let thread = NewRun {
        prompt: "and again".to_owned(),
        command: Some(agent.command()),
        thread: Some(run.thread.to_string()),
        ..NewRun::default()
    };
    let again = open.hub.runs.start(&open.hub.project, thread).await.unwrap();
    assert_eq!(
        agent.ended(&open, &again).await.answer.as_deref(),
        Some("you said: and again")
    );
}

async fn finished(agent: Agent) {
    let open = agent.project().open().await;
    let run = agent.run(&open, "finish").await;
    assert_eq!(
        (run.state, run.answer.as_deref()),
        (State::Completed, Some("my last words")),
        "{:?}",
        run.error
    );
}

async fn stopped(agent: Agent) {
    let open = agent.project().open().await;
    for prompt in ["stop me", "fall silent"] {
        let run = agent.start(&open, prompt).await;
        open.event(|event| event.run == run.id && event.body.as_str().contains("I wait"))
            .await;
        open.hub.runs.cancel(&run.id).await.unwrap();
        assert_eq!(agent.ended(&open, &run).await.state, State::Cancelled, "{prompt}");
        let ended = open
            .event(|event| event.run == run.id && &*event.kind == "agent.ended")
            .await;
        assert_eq!(ended.body.to::<Value>().unwrap()["status"], "SIGTERM", "{prompt}");
    }
}

async fn gone(agent: Agent) {
    let open = agent.project().open().await;
    for (prompt, text) in [
        (
            "exit",
            "other: the agent process ended (exit code 3) before it said that it was done: no more paper",
        ),
        (
            "hang up",
            "other: the agent hung up before it said that it was done (SIGTERM)",
        ),
    ] {
        let run = agent.run(&open, prompt).await;
        let error = run.error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(text), "{error}");
        assert_eq!(run.state, State::Failed);
    }
    let calls = open.events().await;
    assert!(
        !calls
            .iter()
            .any(|event| event.body.as_str().contains("the hub met a defect"))
    );
}

/// A step, and what of its result must be there: `pointer=value` with the value as JSON, or a pointer alone.
type Step = (Value, &'static str);

fn files() -> Vec<Step> {
    vec![
        (json!(["fs", "createFile", "b.txt", "text", "."]), "/success=true"),
        (json!(["fs", "createFolder", "folder", "."]), "/success=true"),
        (json!(["fs", "readFile", "a.txt"]), "/content=\"hello\\n\""),
        (
            json!(["fs", "updateFile", "a.txt", ".", "changed\n"]),
            "/type=\"commandOutput\"",
        ),
        (json!(["fs", "writeToFile", "c.txt", "new"]), "/success=true"),
        (json!(["fs", "listFile", ".", true]), "/result"),
        (json!(["fs", "listCodeDefinitionNames", "."]), "/result"),
        (
            json!(["fs", "searchFiles", ".", "changed", "*.txt"]),
            "/results/0/path=\"a.txt\"",
        ),
        (json!(["fs", "deleteFile", "b.txt", "."]), "/success=true"),
        (json!(["fs", "deleteFolder", "folder", "."]), "/success=true"),
        (json!(["fs", "readFile", "missing.txt"]), "/success=false"),
        (json!(["fs", "readFile", "../../etc/passwd"]), "/success=false"),
        (
            json!(["terminal", "executeCommand", "echo out", false]),
            "/stdout=\"out\\n\"",
        ),
        (json!(["terminal", "executeCommand", "exit 3", false]), "/exitCode=3"),
        (
            json!(["terminal", "executeCommandRunUntilError", "exit 4", false]),
            "/type=\"commandError\"",
        ),
        (
            json!(["terminal", "sendManualInterrupt"]),
            "/type=\"terminalInterrupted\"",
        ),
        (json!(["llm", "inference", "say hello", "role"]), "/content=\"hello\""),
        (json!(["chat", "getChatHistory"]), "/messages"),
    ]
}

/// Calls of kinds that no handler is built in for: each resolves with a failure that says how to serve it.
fn unserved() -> Vec<Value> {
    vec![
        json!(["git", "init", "."]),
        json!(["git", "clone", "https://example.com/x.git", "."]),
        json!(["git", "pull", "."]),
        json!(["git", "push", "."]),
        json!(["git", "status", "."]),
        json!(["git", "add", "."]),
        json!(["git", "commit", "m"]),
        json!(["git", "checkout", ".", "b"]),
        json!(["git", "branch", ".", "b"]),
        json!(["git", "logs", "."]),
        json!(["git", "diff", "abc", "."]),
        json!(["browser", "newPage"]),
        json!(["browser", "getUrl"]),
        json!(["browser", "goToPage", "https://example.com"]),
        json!(["browser", "screenshot"]),
        json!(["browser", "getHTML"]),
        json!(["browser", "getMarkdown"]),
        json!(["browser", "getContent"]),
        json!(["browser", "getSnapShot"]),
        json!(["browser", "getBrowserInfo"]),
        json!(["browser", "extractText"]),
        json!(["browser", "scroll", "down", "10"]),
        json!(["browser", "type", "1", "x"]),
        json!(["browser", "click", "1"]),
        json!(["browser", "enter"]),
        json!(["browser", "search", "1", "q"]),
        json!(["crawler", "click", "1"]),
        json!(["crawler", "type", "1", "x"]),
        json!(["crawler", "crawl", "q"]),
        json!(["tools", "getEnabledToolBoxes"]),
        json!(["tools", "getLocalToolBoxes"]),
        json!(["tools", "getAvailableToolBoxes"]),
        json!(["tools", "searchAvailableToolBoxes", "q"]),
        json!(["tools", "listToolsFromToolBoxes", ["box"]]),
        json!(["tools", "configureToolBox", "box", {}]),
        json!(["tools", "getTools", [{ "toolbox": "box", "toolName": "tool" }]]),
        json!(["tools", "executeTool", "box", "tool", {}]),
        json!(["codeutils", "getAllFilesAsMarkDown"]),
        json!(["codeutils", "performMatch", {}, [], []]),
        json!(["codeutils", "getMatcherList"]),
        json!(["codeutils", "matchDetail", "m"]),
        json!(["project", "getProjectPath"]),
        json!(["project", "getRepoMap", "m"]),
        json!(["project", "getEditorFileStatus"]),
        json!(["cbstate", "getApplicationState"]),
        json!(["cbstate", "getProjectState"]),
        json!(["cbstate", "updateProjectState", "k", "v"]),
        json!(["cbstate", "addToAgentState", "k", "v"]),
        json!(["cbstate", "getAgentState"]),
        json!(["dbmemory", "addKnowledge", "k", "v"]),
        json!(["dbmemory", "getKnowledge", "k"]),
        json!(["tokenizer", "addToken", "k"]),
        json!(["tokenizer", "getToken", "k"]),
        json!(["vectordb", "getVector", "k"]),
        json!(["vectordb", "addVectorItem", "i"]),
        json!(["vectordb", "queryVectorItem", "k"]),
        json!(["vectordb", "queryVectorItems", ["i"], "path"]),
        json!(["taskplaner", "addTask", "t"]),
        json!(["taskplaner", "getTasks"]),
        json!(["taskplaner", "updateTask", "t"]),
        json!(["debug", "debug", "log", "info"]),
        json!(["debug", "openDebugBrowser", "https://example.com", "1"]),
        json!(["chatSummary", "summarizeAll"]),
        json!(["chatSummary", "summarize", [], 1]),
        json!(["agent", "findAgent", "t"]),
        json!(["agent", "startAgent", "a1", "t"]),
        json!(["agent", "getAgentsList", "local"]),
        json!(["agent", "getAgentsDetail", ["a1"]]),
    ]
}

/// Calls that the SDK does not wait for: none of them may be answered with what another call awaits.
fn unawaited() -> Value {
    json!([
        ["chat", "sendMessage", "hello", {}],
        ["chat", "sendNotificationEvent", "done", "git"],
        ["chat", "processStarted"],
        ["crawler", "start"],
        ["crawler", "screenshot"],
        ["crawler", "enter"],
        ["crawler", "goToPage", "https://example.com"],
        ["crawler", "scroll", "down"],
        ["browser", "getPDF"],
        ["browser", "pdfToText"],
        ["browser", "close"],
        ["project", "runProject"],
        ["fs", "readFile", "a.txt"]
    ])
}

/// That what was asked for has this result: `pointer=value` with the value as JSON, or a pointer alone.
pub(crate) fn check(asked: &Value, expected: &str, result: &Value) {
    let (pointer, value) = expected.split_once('=').map_or((expected, None), |(a, b)| (a, Some(b)));
    let found = result
        .pointer(pointer)
        .unwrap_or_else(|| panic!("{asked}: no {pointer} in {result}"));
    if let Some(value) = value {
        assert_eq!(
            *found,
            serde_json::from_str::<Value>(value).unwrap(),
            "{asked}: {result}"
        );
    }
}

async fn every_call(agent: Agent) {
    let endpoint = Endpoint::start([say("hello")]).await;
    let open = agent.project().toml(&endpoint.config()).open().await;
    let (steps, expected): (Vec<Value>, Vec<&str>) = files().into_iter().unzip();
    let results = agent.steps(&open, json!(steps)).await;
    assert_eq!(results.len(), steps.len());
    for ((step, expected), result) in steps.iter().zip(expected).zip(&results) {
        check(step, expected, result);
    }
    let steps = unserved();
    let results = agent.steps(&open, json!(steps)).await;
    for (step, result) in steps.iter().zip(&results) {
        let text = result.to_string();
        assert!(
            !text.contains("nothing came") && !text.contains("threw"),
            "{step}: {text}"
        );
        // What resolves with a part of the frame alone has no room for more than its own shape.
        let bare = result.is_null() || result.is_array() || result.is_string() || result.get("success").is_none();
        assert!(
            bare || text.contains("has no built-in handler; load a plugin that serves it"),
            "{step}: {text}"
        );
    }
    let tool = steps.iter().position(|step| step[1] == "executeTool").unwrap();
    assert_eq!(results[tool][0], true, "{}", results[tool]);
    assert_eq!(results[tool].as_array().unwrap().len(), 2);
    let started = steps.iter().position(|step| step[1] == "startAgent").unwrap();
    assert_eq!(results[started]["agentId"], "a1");
    let results = agent.steps(&open, unawaited()).await;
    assert_eq!(results.last().unwrap()["content"], "hello\n");
}

async fn together(agent: Agent) {
    let open = agent.project().open().await;
    let mut steps = vec![json!("together")];
    steps.extend((0..10).map(|_| json!(["fs", "readFile", "a.txt"])));
    steps.push(json!(["fs", "writeToFile", "b.txt", "b"]));
    steps.push(json!(["terminal", "executeCommand", "echo hi", false]));
    let results = agent.steps(&open, json!(steps)).await;
    for result in &results[..10] {
        assert_eq!(result["content"], "hello\n");
    }
    assert_eq!(results[10]["type"], "writeToFileResponse");
    assert_eq!(results[11]["type"], "commandFinish");
}

async fn environment(agent: Agent) {
    let open = agent.project().open().await;
    let run = agent.run(&open, "environment").await;
    let seen: Value = serde_json::from_str(&run.answer.unwrap_or_else(|| panic!("{:?}", run.error))).unwrap();
    let variables = seen["variables"].as_object().unwrap();
    let mut names: Vec<&str> = variables.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "CODEBOLT_SERVER_URL",
            "HOME",
            "LANG",
            "NODE_PATH",
            "PATH",
            "RUN_ID",
            "SOCKET_PORT",
            "TMPDIR",
            "agentId",
            "agentTask",
            "environmentId",
            "instanceId",
            "parentAgentInstanceId",
            "parentId",
            "providerId",
            "threadId",
        ]
    );
    assert_eq!(variables["RUN_ID"], *run.id);
    assert_eq!(variables["threadId"], *run.thread);
    assert_eq!(variables["PATH"], "/usr/local/bin:/usr/bin:/bin");
    assert_eq!(variables["agentId"].as_str().unwrap().len(), 64);
    let message = &seen["message"];
    assert_eq!(message["type"], "messageResponse");
    assert_eq!(message["message"]["userMessage"], "environment");
    assert_eq!(message["message"]["threadId"], *run.thread);
    for list in [
        "mentionedFiles",
        "mentionedFullPaths",
        "mentionedFolders",
        "uploadedImages",
        "mentionedMCPs",
        "mentionedAgents",
    ] {
        assert_eq!(message["message"][list], json!([]), "{list}");
    }
    // Its own folder for temporary files is gone with it.
    let home = std::path::PathBuf::from(variables["HOME"].as_str().unwrap());
    assert!(home.starts_with(open.root().canonicalize().unwrap().join(".waypost")) && !home.exists());
}

async fn inference_forms(agent: Agent) {
    let endpoint = Endpoint::start([call("box--tool", json!({ "a": 1 })), say("plain")]).await;
    let open = agent.project().toml(&endpoint.config()).open().await;
    let object =
        json!({ "full": true, "messages": [{ "role": "user", "content": "go" }], "tools": [], "tool_choice": "auto" });
    let results = agent
        .steps(
            &open,
            json!([["llm", "inference", object], ["llm", "inference", "say it", "role"]]),
        )
        .await;
    let asked = &results[0]["completion"]["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(asked["name"], "box--tool");
    assert_eq!(
        serde_json::from_str::<Value>(asked["arguments"].as_str().unwrap()).unwrap(),
        json!({ "a": 1 })
    );
    assert_eq!(results[1]["completion"]["choices"][0]["message"]["content"], "plain");
}
