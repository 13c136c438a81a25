//! The command line: what each verb prints, and what it exits with.

use serde_json::{Value, json};

use crate::harness::endpoint::{Endpoint, Turn, call, say};
use crate::harness::process::{Running, normal, run, shown};
use crate::harness::{Plugin, Project};

crate::listed![
    the_help_lists_every_verb_and_each_verb_has_its_own,
    a_run_is_followed_to_its_end,
    a_run_as_json_is_one_object_a_line,
    the_exit_code_says_how_a_run_ended,
    a_long_prompt_ends_like_any_other,
    an_interrupt_cancels_the_run_and_waits_for_its_end,
    environments_are_made_shown_compared_merged_and_removed,
    plugins_are_listed_and_reloaded,
    rules_are_listed_and_explained,
    events_are_listed_and_shown,
    a_call_answers_on_standard_output_and_chunks_go_to_standard_error,
    the_doctor_says_what_is_missing,
    completions_are_made_for_each_shell,
];

/// A project without a file, for a binary.
fn empty() -> Project {
    Project::new().written()
}

async fn the_help_lists_every_verb_and_each_verb_has_its_own() {
    let project = empty();
    let help = shown(project.root(), &["--help"]).await;
    assert_eq!(
        help,
        "[0]
The hub for AI agents: it decides where an agent loop runs, and who executes each of its calls

Usage: waypost [OPTIONS] <COMMAND>

Commands:
  demo         Shows a prompt on its way through a whole hub: no network, no key, nothing to set up
  serve        Runs the hub until it is told to stop
  run          Gives a prompt to an agent and follows it to its end
  env          Lists, compares, merges and removes environments
  plugin       Installs, lists and removes plugins, and decides what they may do
  model        Lists the models that connected processes serve
  route        Lists, explains and checks the rules
  event        Lists, follows and shows the events of the log
  token        Makes, lists and revokes the tokens with which others use the hub
  call         Makes one capability call by hand
  doctor       Looks at the machine and the configuration, and says what is missing
  completions  Prints completions for a shell
  help         Print this message or the help of the given subcommand(s)

Options:
  -C, --project <FOLDER>  The project folder, with `waypost.toml` and the state directory in it
                          [default: .]
      --json              Print JSON: one object, or one object a line
  -v, --verbose...        Print more of what the hub does, to standard error. Twice for all of it
  -h, --help              Print help
  -V, --version           Print version
"
    );
    let verbs = [
        "demo",
        "serve",
        "run",
        "env",
        "plugin",
        "model",
        "route",
        "event",
        "token",
        "call",
        "doctor",
        "completions",
    ];
    let deeper = [
        "env create",
        "env merge",
        "plugin reload",
        "plugin new",
        "plugin build",
        "plugin test",
        "plugin inspect",
        "plugin add",
        "plugin grant",
        "plugin verify",
        "plugin dev",
        "model ls",
        "route explain",
        "event tail",
        "event show",
        "token create",
        "token revoke",
    ];
    for verb in verbs.iter().chain(&deeper) {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = run(project.root(), &words).await;
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{verb}");
        assert!(help.out.contains(&format!("Usage: waypost {verb}")), "{}", help.out);
    }
    assert!(
        !project.root().join(".waypost/log.db").exists(),
        "asking for help opens no hub"
    );
}

async fn a_run_is_followed_to_its_end() {
    let endpoint = Endpoint::start([
        call("write_file", json!({ "path": "a.txt", "content": "a\n" })),
        say("Done."),
    ])
    .await;
    let project = Project::new().toml(&endpoint.config()).written();
    let followed = run(project.root(), &["run", "Write a.txt"]).await;
    assert_eq!(followed.code, 0, "{followed:?}");
    for part in [
        "\"Write a.txt\"",
        "agent:loop",
        "fsEvent:writeToFile     local",
        "\nDone.\n",
    ] {
        assert!(followed.out.contains(part), "`{part}` is not in:\n{}", followed.out);
    }
    assert_eq!(
        normal(project.root(), &followed.err),
        "\nwhat it changed: waypost env diff <environment>\nto keep it:      waypost env merge <environment>\nto go on:        \
         waypost run --thread <thread> \"...\"\n"
    );
    let listed = shown(project.root(), &["run", "--list"]).await;
    let words: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(
        words[1..],
        [
            "RUN",
            "STATE",
            "THREAD",
            "ENVIRONMENT",
            "PROMPT",
            "<id>",
            "completed",
            "<thread>",
            "<environment>",
            "Write",
            "a.txt"
        ]
    );
}

async fn a_run_as_json_is_one_object_a_line() {
    let endpoint = Endpoint::start([say("Done.")]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let followed = run(project.root(), &["run", "--json", "go"]).await;
    assert_eq!((followed.code, followed.err.as_str()), (0, ""));
    let last = followed.lines().pop().unwrap();
    assert_eq!(
        (&last["kind"], &last["body"]["answer"]),
        (&json!("run.completed"), &json!("Done."))
    );
    assert_eq!(
        run(project.root(), &["run", "--list", "--json"]).await.json()[0]["answer"],
        "Done."
    );
}

async fn the_exit_code_says_how_a_run_ended() {
    let endpoint = Endpoint::start([Turn::Status(400, "no".to_owned())]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let failed = run(project.root(), &["run", "go"]).await;
    assert_eq!(failed.code, 1);
    let text = normal(project.root(), &failed.err);
    assert!(
        text.starts_with("\nerror: the run failed: the endpoint 127.0.0.1:<port> refused the request with 400: no\n"),
        "{text}"
    );
    let refused = run(project.root(), &["run", "--json", ""]).await;
    assert_eq!(refused.code, 2);
    let message = "a prompt has 1 to 1048576 bytes, this one has 0";
    assert_eq!(
        refused.json(),
        json!({ "error": { "kind": "invalid", "blame": "caller", "message": message } })
    );
}

async fn a_long_prompt_ends_like_any_other() {
    let endpoint = Endpoint::start([say("Done.")]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let followed = run(project.root(), &["run", &"long ".repeat(20_000)]).await;
    assert_eq!(followed.code, 0, "{}", followed.err);
    assert!(followed.out.ends_with("\nDone.\n"), "{}", followed.out);
    assert!(followed.out.lines().all(|line| line.len() < 400), "{}", followed.out);
}

async fn an_interrupt_cancels_the_run_and_waits_for_its_end() {
    let endpoint = Endpoint::start([Turn::Hang(String::new())]).await;
    let project = Project::new().toml(&endpoint.config()).written();
    let mut verb = Running::start(project.root(), &[], &["run", "--json", "go"]);
    verb.line_with("run.running").await;
    endpoint.asked_times(1).await;
    verb.signal("INT").await;
    let ended = verb.end().await;
    assert_eq!(
        (ended.code, ended.err.as_str()),
        (130, "cancelling the run; its end is awaited\n")
    );
    assert_eq!(ended.lines().pop().unwrap()["kind"], "run.cancelled");
    let list = run(project.root(), &["run", "--list", "--json"]).await.json();
    assert_eq!(list[0]["state"], "cancelled");
}

async fn environments_are_made_shown_compared_merged_and_removed() {
    let project = empty().file("a.txt", "a\n");
    let root = project.root();
    assert_eq!(
        shown(root, &["env", "ls"]).await,
        "[0]\nENVIRONMENT  STATE  PROVIDER  ERROR\n"
    );
    let made = run(root, &["env", "create", "--label", "team=web"]).await;
    let id = made.out.trim();
    let one = run(root, &["env", "show", id]).await.json();
    let seen = (&one["id"], &one["state"], &one["health"], &one["labels"]["team"]);
    assert_eq!(seen, (&json!(id), &json!("ready"), &json!("ready"), &json!("web")));
    assert_eq!(shown(root, &["env", "diff", id]).await, "[0]\n--\nnothing changed\n");
    let write = r#"{"path":"a.txt","content":"b\n"}"#;
    assert_eq!(
        run(root, &["call", "--environment", id, "fsEvent:writeToFile", write])
            .await
            .code,
        0
    );
    assert_eq!(std::fs::read_to_string(root.join("a.txt")).unwrap(), "a\n");
    assert_eq!(
        shown(root, &["env", "diff", id]).await,
        "[0]\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+b\n"
    );
    std::fs::write(root.join("a.txt"), "c\n").unwrap();
    assert_eq!(
        shown(root, &["env", "merge", id]).await,
        "[1]\nconflict  a.txt: the project changed it too\n--\nnothing was merged; `--partial` brings back what has no conflict\n"
    );
    std::fs::write(root.join("a.txt"), "a\n").unwrap();
    assert_eq!(shown(root, &["env", "merge", id]).await, "[0]\nmerged    a.txt\n");
    assert_eq!(std::fs::read_to_string(root.join("a.txt")).unwrap(), "b\n");
    assert_eq!(shown(root, &["env", "rm", id]).await, "[0]\n<environment> is removed\n");
    assert_eq!(
        shown(root, &["env", "ls"]).await,
        "[0]\nENVIRONMENT  STATE  PROVIDER  ERROR\n"
    );
    assert_eq!(
        run(root, &["env", "ls", "--all", "--json"]).await.json()[0]["state"],
        "removed"
    );
    let gone = shown(root, &["run", "go", "--environment", id]).await;
    assert!(
        gone.contains("environment `<environment>` is removed; make a new one"),
        "{gone}"
    );
}

async fn plugins_are_listed_and_reloaded() {
    let project = Project::new()
        .plugin(&Plugin::of("answers").serves(&["inference"]))
        .written();
    let list = shown(project.root(), &["plugin", "ls"]).await;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1..],
        [
            vec![
                "PLUGIN", "VERSION", "ROLE", "DIGEST", "SIGNER", "ORIGIN", "SERVES", "GRANTED"
            ],
            vec![
                "answers",
                "1",
                "handler",
                "-",
                "-",
                "<project>/plugins/answers.wasm",
                "inference",
                "-"
            ],
            vec!["loop", "0.1.0", "agent", "-", "-", "bundled", "-", "gateway", "[*]"],
            vec!["replay", "0.1.0", "handler", "-", "-", "bundled", "inference", "-"],
            vec!["sandbox", "0.1.0", "provider", "-", "-", "bundled", "-", "workspace"],
        ]
    );
    assert_eq!(
        run(project.root(), &["plugin", "reload", "answers", "--json"])
            .await
            .json()["id"],
        "answers"
    );
    for (arguments, text) in [
        (
            ["plugin", "reload", "loop"],
            "[2]\n--\nerror: plugin `loop` is part of this binary; a new one comes with a new binary\n",
        ),
        (
            ["plugin", "logs", "moon"],
            "[1]\n--\nerror: plugin `moon` is not loaded; loaded are: answers, loop, replay, sandbox\n",
        ),
        (["plugin", "logs", "answers"], "[0]\n"),
    ] {
        assert_eq!(shown(project.root(), &arguments).await, text);
    }
}

async fn rules_are_listed_and_explained() {
    let rules = "[[route]]\nmatch = \"fsEvent:writeToFile\"\npath = \"secret/**\"\nto = \"deny\"\n";
    let project = Project::new().toml(rules).written();
    let write = r#"{"path":"secret/a","content":""}"#;
    for (arguments, text) in [
        (
            vec!["route", "ls"],
            "[0]
RULE            CALLS                WHEN            TO
waypost.toml:1  fsEvent:writeToFile  path secret/**  deny
default         *                                    local
",
        ),
        (
            vec!["route", "explain", "fsEvent:writeToFile", write],
            "[0]
fsEvent:writeToFile goes to deny
  waypost.toml:1: `fsEvent:writeToFile` covers the call; path `secret/a` matches `secret/**`
",
        ),
        (
            vec!["route", "explain", "fsEvent:readFile", r#"{"path":"secret/a"}"#],
            "[0]\nfsEvent:readFile goes to local\n  default: no rule fits\n",
        ),
        (vec!["route", "check"], "[0]\n--\nboth rule files are in order\n"),
        (
            vec!["call", "fsEvent:writeToFile", write],
            "[1]\n--\nerror: denied: fsEvent:writeToFile is denied by the rules of this project\n",
        ),
    ] {
        assert_eq!(shown(project.root(), &arguments).await, text);
    }
}

async fn events_are_listed_and_shown() {
    let project = empty().file("a.txt", "a");
    run(project.root(), &["call", "fsEvent:readFile", r#"{"path":"a.txt"}"#]).await;
    let listed = run(project.root(), &["event", "ls"]).await;
    let line = listed
        .out
        .lines()
        .find(|line| line.contains("fsEvent:readFile"))
        .unwrap();
    assert!(
        line.contains("person:cli") && line.contains("local") && line.contains("[default]"),
        "{line}"
    );
    let cursor = line.split_whitespace().next().unwrap();
    let event = run(project.root(), &["event", "show", cursor]).await.json();
    assert_eq!(event["body"]["message"], json!({ "path": "a.txt" }));
    assert_eq!(event["body"]["reply"]["content"], "a");
    let lines = run(project.root(), &["event", "ls", "--json", "--limit", "1"])
        .await
        .lines();
    assert_eq!(lines.len(), 1);
    for (arguments, text) in [
        (
            ["event", "show", "999999"],
            "[1]\n--\nerror: there is no event 999999; `waypost event ls` lists the latest\n",
        ),
        (
            ["event", "ls", "--run=moon"],
            "[1]\n--\nerror: there is no run `moon`; `waypost run --list` lists them\n",
        ),
    ] {
        assert_eq!(shown(project.root(), &arguments).await, text);
    }
    assert_eq!(run(project.root(), &["event", "show", "moon"]).await.code, 2);
}

async fn a_call_answers_on_standard_output_and_chunks_go_to_standard_error() {
    let project = empty();
    let line = r#"{"command":"echo hi"}"#;
    let called = run(project.root(), &["call", "executeCommand", line]).await;
    let reply = json!({ "exitCode": 0, "stdout": "hi\n", "stderr": "", "truncated": false, "success": true });
    assert_eq!((called.code, called.json()), (0, reply.clone()));
    assert_eq!(called.err, "{\"stream\":\"stdout\",\"text\":\"hi\\n\"}\n");
    let called = run(project.root(), &["call", "--json", "executeCommand", line]).await;
    assert_eq!(
        called.lines(),
        [
            json!({ "chunk": { "stream": "stdout", "text": "hi\n" } }),
            json!({ "reply": reply })
        ]
    );
    let called = run(
        project.root(),
        &["call", "--json", "fsEvent:readFile", r#"{"path":"no"}"#],
    )
    .await;
    assert_eq!(called.code, 1);
    let error = json!({ "kind": "not-found", "blame": "caller", "message": "`no` does not exist" });
    assert_eq!(called.lines(), [json!({ "error": error })]);
}

async fn the_doctor_says_what_is_missing() {
    let project = empty();
    let looked = run(project.root(), &["doctor"]).await;
    assert_eq!(looked.code, 0, "{looked:?}");
    let text = normal(project.root(), &looked.out);
    for line in [
        "ok       rules         both rule files are in order\n",
        "ok       shell         commands run in /bin/sh\n",
        "warning  inference     no endpoint: set `[inference] base-url` or OPENAI_BASE_URL, or route inference to a plugin\n",
        "ok       sockets       everyone who connects proves who he is\n",
        "ok       hub           it opens, with 3 plugins; its state is in <project>/.waypost\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let found = run(project.root(), &["doctor", "--json"]).await.json();
    assert!(
        found
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["what"].is_string() && one["verdict"].is_string())
    );

    let project = Project::new().toml("[terminal]\nshell = \"/no/shell\"").written();
    let looked = run(project.root(), &["doctor"]).await;
    let line = "warning  shell         /no/shell is not there: commands cannot run; set `[terminal] shell`\n";
    assert!(looked.code == 0 && looked.out.contains(line), "{looked:?}");
    let project = Project::new().toml("[hub]\nlisten = 7").written();
    let looked = run(project.root(), &["doctor", "--json"]).await;
    let verdict = |what: &str| {
        let found = looked.json();
        let one = found
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["what"] == what)
            .cloned();
        one.unwrap_or(Value::Null)["verdict"].clone()
    };
    assert_eq!(
        (looked.code, verdict("rules"), verdict("hub")),
        (1, json!("missing"), json!("missing"))
    );
}

async fn completions_are_made_for_each_shell() {
    let project = empty();
    for (shell, part) in [
        ("bash", "complete -F _waypost"),
        ("zsh", "#compdef waypost"),
        ("fish", "complete -c waypost"),
    ] {
        let made = run(project.root(), &["completions", shell]).await;
        assert_eq!((made.code, made.err.as_str()), (0, ""));
        assert!(made.out.contains(part) && made.out.contains("doctor"), "{shell}");
    }
}
