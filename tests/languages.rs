//! Plugins in other languages than Rust: made from the templates with their SDKs, built by their own tools, used for real.

use std::future::Future;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use waypost::call::Json;
use waypost::environment::NewEnvironment;
use waypost::run::{NewRun, Run, State};

use crate::harness::endpoint::{Endpoint, say};
use crate::harness::outside::JCO;
use crate::harness::{Open, Plugin, Project, guests, trial};

mod outside;
mod template;

use template::{CALLS, Language, NAME, Template, done, files};

/// How long a trial may take, with the compilation of the largest guest.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial(
            "languages::the_example_of_each_readme_is_what_the_template_has",
            the_example_of_each_readme_is_what_the_template_has,
        ),
        trial(
            "languages::both_languages_have_a_template_for_each_role",
            both_languages_have_a_template_for_each_role,
        ),
        JCO.trial("languages::the_types_in_javascript_fit_the_templates", |jco| {
            types_fit(jco);
            Ok(())
        }),
    ];
    for language in Language::ALL {
        trials.extend([
            of(language, "a_handler", "answers_emits_calls_keeps_and_fails", handler),
            of(
                language,
                "a_handler",
                "asks_servers_works_with_files_runs_programs_and_talks_to_sockets",
                outside::handler,
            ),
            of(language, "a_provider", "makes_finds_and_removes_places", provider),
            of(language, "an_agent", "completes_its_runs", agent),
            of(language, "an_observer", "hears_of_calls", observer),
            language.tool().trial(
                &name(language, "an_import", "that_is_not_granted_does_not_build"),
                move |tool| {
                    ungranted(language, tool);
                    Ok(())
                },
            ),
        ]);
    }
    trials
}

fn name(language: Language, what: &str, does: &str) -> String {
    format!("languages::{what}_in_{}_{does}", language.word())
}

/// A trial of a plugin in this language.
fn of<F>(language: Language, what: &str, does: &str, test: fn(Language, Built) -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    let role = ROLES.into_iter().find(|role| what.ends_with(role)).unwrap();
    language.tool().trial(&name(language, what, does), move |tool| {
        let built = Built::of(language, role, tool);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test(language, built)).await });
        runtime.shutdown_background();
        ended.map_err(|_| Failed::from(format!("it did not end within {PATIENCE:?}")))
    })
}

/// A plugin that was made from a template.
struct Built {
    component: Vec<u8>,
    manifest: String,
}

impl Built {
    /// Tested natively, and built. The handler has what the trials ask of it beside what its template serves.
    fn of(language: Language, role: &'static str, tool: &Path) -> Self {
        let template = Template::of(language, role);
        template.test();
        let template = match role {
            "handler" => Template::trial(language),
            _ => template,
        };
        Self {
            component: template.component(tool),
            manifest: template.manifest().to_owned(),
        }
    }

    /// With this in its manifest instead of that.
    fn manifest_with(self, old: &str, new: &str) -> Self {
        let manifest = self.manifest.replace(old, new);
        Self { manifest, ..self }
    }

    /// A project with it, and with these grants for it.
    fn project(&self, grant: &str) -> Project {
        Project::new()
            .file(&format!("plugins/{NAME}.wasm"), &self.component)
            .file(&format!("plugins/{NAME}.toml"), &self.manifest)
            .toml(&format!(
                "[[plugin]]\npath = \"plugins/{NAME}.wasm\"\nwall = \"in-process\"\ngrant = {{ {grant} }}"
            ))
    }
}

/// What the plugin said, in its log.
fn said(open: &Open) -> String {
    let lines = open.hub.plugin_log.lines(NAME);
    lines
        .iter()
        .map(|line| format!("{} {}\n", line.level, line.text))
        .collect()
}

async fn handler(language: Language, built: Built) {
    let open = built
        .project(&format!(
            "state = true, {CALLS}, http = [\"http://127.0.0.1\"], files = [{{ name = \"docs\", path = \".\" }}], {}",
            outside::placed(Path::new("/nowhere"))
        ))
        .toml(&format!(
            "[[route]]\nmatch = [\"ticket\", \"trial\"]\nto = \"plugin:{NAME}\""
        ))
        .plugin(&Plugin::of("chunks"))
        .plugin(&Plugin::of("sleeper"))
        .file("a.txt", "hello\n")
        .open()
        .await;
    // What its template does.
    let ticket = |id: u32| json!({ "id": id, "title": format!("Ticket {id}") });
    assert_eq!(open.reply("ticket:add", ticket(7)).await, ticket(7));
    assert_eq!(open.reply("ticket:add", ticket(8)).await, ticket(8));
    assert_eq!(open.reply("ticket:find", json!({ "id": 7 })).await, ticket(7));
    let (chunks, reply) = open.streamed("ticket:list", json!({})).await;
    assert_eq!((chunks, reply), (vec![ticket(7), ticket(8)], json!({ "count": 2 })));
    for (call, message, error) in [
        (
            "ticket:find",
            json!({ "id": 9 }),
            "not-found: there is no ticket 9; see `ticket:add`",
        ),
        (
            "ticket:add",
            json!({ "id": 9 }),
            "invalid: `title` is missing; it is a text",
        ),
        (
            "ticket:add",
            json!({ "title": "x" }),
            "invalid: `id` is missing; it is a whole number",
        ),
        (
            "trial:full",
            json!(null),
            "invalid: a state key has 1 to 512 bytes, this one has 0",
        ),
    ] {
        assert_eq!(open.error(call, message).await, error);
    }
    assert!(said(&open).contains("info default adds ticket 7\n"), "{}", said(&open));
    let served = open.error("trial:nothing", json!({})).await;
    assert!(
        served.starts_with("not-found: this plugin does not serve trial:nothing, only ")
            && served.ends_with("; fix the route"),
        "{served}"
    );

    // Each case of an error, as it was thrown.
    for kind in [
        "not-found",
        "denied",
        "invalid",
        "limit",
        "timeout",
        "cancelled",
        "trapped",
        "unavailable",
        "indeterminate",
        "internal",
        "other",
    ] {
        let error = open
            .error("trial:fail", json!({ "kind": kind, "text": "as \"said\"" }))
            .await;
        assert_eq!(error, format!("{kind}: as \"said\""));
    }

    handler_calls(&open).await;
    handler_breaks(language, &open).await;
    open.close().await;
}

/// Calls of its own, its state, its facts.
async fn handler_calls(open: &Open) {
    let call = |name: &str, message: Value| json!({ "name": name, "message": message });
    let read = open
        .reply("trial:call", call("fsEvent:readFile", json!({ "path": "a.txt" })))
        .await;
    assert_eq!(read["reply"]["content"], "hello\n");
    let denied = open
        .reply("trial:call", call("fsEvent:deleteFile", json!({ "path": "a.txt" })))
        .await;
    let text = denied["text"].as_str().unwrap();
    assert_eq!(
        (&denied["kind"], &denied["error"]),
        (&json!("denied"), &json!(format!("denied: {text}")))
    );
    let absent = open
        .reply("trial:call", call("fsEvent:readFile", json!({ "path": "b.txt" })))
        .await;
    assert_eq!(absent["kind"], "not-found", "{absent}");

    let (chunks, reply) = open.streamed("trial:stream", json!({ "count": 3 })).await;
    let passed = |number: u32| json!({ "passed": number });
    assert_eq!(
        (chunks, reply),
        (vec![passed(0), passed(1), passed(2)], json!({ "count": 3 }))
    );

    // What it gives up is over before it ends itself: it waits for an answer that is given after that.
    let waiting = open.begin("trial:cancel", json!({})).await;
    let ended = |body: Value| body["name"] == "sleeper" && body["error"]["kind"] == "cancelled";
    open.event(|event| &*event.kind == "call.ended" && event.body.to().is_ok_and(ended))
        .await;
    open.answer("yes").await;
    assert_eq!(
        waiting.await.unwrap().result.unwrap().to::<Value>().unwrap()["answer"],
        "yes"
    );

    let value = json!({ "text": "ä\u{1f600}\n", "numbers": [1, 2.5, -3], "nothing": null });
    let kept = open.reply("trial:state", value.clone()).await;
    assert_eq!(kept, json!([value, "nothing", ["b/1"], true, "nothing"]));

    let [one, other] = [
        open.reply("trial:facts", json!({})).await,
        open.reply("trial:facts", json!({})).await,
    ];
    let facts = json!({ "name": "trial:facts", "action": "facts", "project": "default", "run": null });
    assert_eq!((&one["facts"], &one["timeLeft"]), (&facts, &json!(true)));
    assert_ne!(one["unique"], other["unique"]);
    assert_ne!(
        one["random"], other["random"],
        "each call has random numbers of its own"
    );
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as f64;
    let difference = now - other["now"].as_f64().unwrap();
    assert!(
        (0.0..60_000.0).contains(&difference),
        "the clock is the hub's: {difference} ms"
    );
}

/// What goes wrong ends its own call alone, and the plugin's log says why.
async fn handler_breaks(language: Language, open: &Open) {
    let error = open.error("trial:loop", json!({})).await;
    assert!(
        error.starts_with("other: the reply of trial:loop cannot be written as JSON: "),
        "{error}"
    );
    let waiting = open
        .begin(
            "trial:call",
            json!({ "name": "confirmationRequest", "message": { "message": "?" } }),
        )
        .await;
    open.questions(1).await;
    let trapped = format!("trapped: plugin `{NAME}` trapped: ");
    let error = open.error("trial:crash", json!({})).await;
    assert!(error.starts_with(&trapped), "{error}");
    let (fault, place, printed) = match language {
        Language::JavaScript => ("a fault of its author", "/trial.js:", "info printed {\"it\":1}\n"),
        Language::Python => (
            "ValueError: a fault of its author",
            "trial.py\", line ",
            "output printed {'it': 1}\n",
        ),
    };
    let log = said(open);
    assert!(log.contains(fault) && log.contains(place), "{log}");
    if language == Language::JavaScript {
        let error = open.error("trial:promise", json!({})).await;
        assert!(error.starts_with(&trapped), "{error}");
        let why =
            "the reply of trial:promise is a promise: a plugin works synchronously, so its functions are not `async`";
        assert!(said(open).contains(why), "{}", said(open));
    }
    // Another call was under way meanwhile, and more can be made.
    open.answer("yes").await;
    assert!(waiting.await.unwrap().result.is_ok());
    assert_eq!(open.reply("trial:print", json!({})).await, Value::Null);
    assert!(said(open).contains(printed), "{}", said(open));
}

async fn provider(_: Language, built: Built) {
    let endpoint = Endpoint::start([say("Done.")]).await;
    let open = built
        .project("workspace = true")
        .toml(&endpoint.config())
        .file("a.txt", "hello\n")
        .open()
        .await;
    let wanted = |settings: Value| NewEnvironment {
        provider: Some(NAME.to_owned()),
        settings: Some(Json::from(settings)),
        ..NewEnvironment::default()
    };
    let (project, environments) = (&open.hub.project, &open.hub.environments);
    let made = environments
        .create(project, wanted(json!({ "purpose": "a trial" })))
        .await
        .unwrap();
    let line = format!("info {} is made for a trial\n", made.id);
    assert!(said(&open).contains(&line), "{}", said(&open));
    let health = |id: String| async move { format!("{:?}", environments.inspect(&id).await.unwrap()) };
    assert_eq!(health(made.id.to_string()).await, "Ready");
    let found = environments.ready(&made.id).await.unwrap();
    assert_eq!((&found.resource_id, &found.runtime), (&made.resource_id, &made.runtime));

    // A run in it, and one in a place of its own.
    let run = Run {
        ..started(
            &open,
            NewRun {
                environment: Some(made.id.to_string()),
                ..prompt("go")
            },
        )
        .await
    };
    assert_eq!(
        (run.state, run.answer.as_deref(), run.environment),
        (State::Completed, Some("Done."), Some(made.id.clone()))
    );
    let refused = environments
        .create(project, wanted(json!({ "color": "red" })))
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("there is no setting `color`; there is `purpose`"),
        "{refused}"
    );

    // A place that went away is known to be gone, and can be taken down none the less.
    let lost = environments.create(project, wanted(json!({}))).await.unwrap();
    let folder = lost.resource_id.clone().unwrap();
    let there = files(open.root());
    let part = format!("/{folder}/");
    let inside = there
        .iter()
        .find_map(|(path, _)| Some(path.split_once(&part)?.0.to_owned()))
        .unwrap();
    std::fs::remove_dir_all(open.root().join(inside).join(&folder)).unwrap();
    assert_eq!(health(lost.id.to_string()).await, "Gone");
    let error = environments.ready(&lost.id).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("the folder of {} is gone; make a new environment", lost.id)),
        "{error}"
    );
    for id in [&made.id, &lost.id] {
        assert_eq!(environments.remove(id).await.unwrap().state.as_str(), "removed");
    }
    assert!(
        !files(open.root())
            .iter()
            .any(|(path, _)| path.contains(&made.resource_id.clone().unwrap()))
    );
    open.close().await;
}

fn prompt(text: &str) -> NewRun {
    NewRun {
        prompt: text.to_owned(),
        ..NewRun::default()
    }
}

/// The record of a new run after its end.
async fn started(open: &Open, new: NewRun) -> Run {
    let run = open.hub.runs.start(&open.hub.project, new).await.unwrap();
    let ends = ["run.completed", "run.failed", "run.cancelled"];
    open.event(|event| event.run == run.id && ends.contains(&&*event.kind))
        .await;
    open.hub.runs.get(&run.id).await.unwrap()
}

async fn agent(_: Language, built: Built) {
    let endpoint = Endpoint::start([say("Good day.\n"), say("Still here."), say(" ")]).await;
    let open = built
        .project("gateway = [\"inference\"]")
        .toml(&endpoint.config())
        .open()
        .await;
    let with = |text: &str, thread: Option<String>| NewRun {
        agent: Some(NAME.to_owned()),
        thread,
        ..prompt(text)
    };
    let first = started(&open, with("Hello", None)).await;
    assert_eq!(
        (first.state, first.answer.as_deref()),
        (State::Completed, Some("Good day.")),
        "{:?}",
        first.error
    );
    let line = format!("info run {} has its answer\n", first.id);
    assert!(said(&open).contains(&line), "{}", said(&open));
    let told = NewRun {
        settings: Some(Json::from(json!({ "instructions": "Be brief." }))),
        ..with("And now?", Some(first.thread.to_string()))
    };
    assert_eq!(started(&open, told).await.answer.as_deref(), Some("Still here."));
    let failed = started(&open, with("Say nothing", None)).await;
    let error = failed.error.map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(
        (failed.state, error.as_str()),
        (
            State::Failed,
            "other: the model answered nothing; ask again, or ask another model"
        )
    );
    let asked = endpoint.asked();
    assert_eq!(
        asked[0].body["messages"][0]["content"],
        "Answer in one short paragraph."
    );
    assert_eq!(asked[1].body["messages"][0]["content"], "Be brief.");
    let conversation = [("user", "Hello"), ("assistant", "Good day."), ("user", "And now?")];
    assert_eq!(asked[1].said(), conversation);
    open.close().await;
}

async fn observer(_: Language, built: Built) {
    let open = built
        .project("subscribe = true, state = true")
        .plugin(&Plugin::of("chunks"))
        .open()
        .await;
    open.reply("chunks", json!({ "count": 1 })).await;
    open.error("chunks", json!({ "count": "many" })).await;
    // What a plugin says is no event: there is nothing else to wait for.
    while !said(&open).contains("failed\ninfo ") {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        said(&open),
        "info chunks: 1 calls, 0 failed\ninfo chunks: 2 calls, 1 failed\n"
    );
    open.close().await;
}

/// The import of a grant that the manifest does not ask for ends the build, with words that help.
fn ungranted(language: Language, tool: &Path) {
    let template = Template::of(language, "observer").manifest_with("state = true", "");
    let said = template.try_component(tool).unwrap_err();
    let why = match language {
        Language::JavaScript => "waypost:state/store@0.1.0",
        Language::Python => "this needs `state = true` under [grants] in manifest.toml",
    };
    assert!(said.contains(why), "{said}");
}

/// What the `.d.ts` files say fits how the templates use it, for the strictest reader.
fn types_fit(jco: &Path) {
    let compiler = jco.ancestors().nth(2).unwrap().join("typescript-compiler-api/bin/tsc");
    for role in ROLES {
        let template = Template::of(Language::JavaScript, role);
        let check = |source: &str| {
            let mut command = Command::new("node");
            command
                .arg(&compiler)
                .args(["--noEmit", "--strict", "--checkJs", "--allowJs", "--module", "nodenext"]);
            command
                .args(["--target", "esnext", source])
                .current_dir(template.folder());
            done(command)
        };
        check("plugin.js").unwrap_or_else(|said| panic!("{role}: {said}"));
        let typed = guests::root().join("tests/guests/languages/typed.ts");
        std::fs::copy(typed, template.folder().join("typed.ts")).unwrap();
        check("typed.ts").unwrap_or_else(|said| panic!("typed.ts: {said}"));
        let plugin = std::fs::read_to_string(template.folder().join("plugin.js")).unwrap();
        let wrong = format!("{plugin}\nwaypost.log.info(7);\n");
        std::fs::write(template.folder().join("wrong.js"), wrong).unwrap();
        let said = check("wrong.js").unwrap_err();
        assert!(
            said.contains("'number' is not assignable to parameter of type 'string'"),
            "{said}"
        );
    }
}

const ROLES: [&str; 4] = ["handler", "provider", "agent", "observer"];

async fn both_languages_have_a_template_for_each_role() {
    for language in Language::ALL {
        for role in ROLES {
            let template = Template::of(language, role);
            let read = |path: &str| std::fs::read_to_string(template.folder().join(path)).unwrap();
            assert_eq!(
                read("README.md").lines().count(),
                7,
                "five lines, and two that are empty"
            );
            assert!(
                read(language.entry()).lines().count() <= 60,
                "the source is on a screen"
            );
            assert!(read(".gitignore").contains("wit/\n"));
            for (path, file) in files(template.folder()) {
                assert!(
                    !path.contains("{{") && !std::fs::read_to_string(file).unwrap().contains("{{"),
                    "{path}"
                );
            }
        }
    }
}

async fn the_example_of_each_readme_is_what_the_template_has() {
    for language in Language::ALL {
        let template = Template::of(language, "handler");
        let readme = guests::root().join("sdk").join(language.folder()).join("README.md");
        let readme = std::fs::read_to_string(readme).unwrap().replace("my-tickets", NAME);
        let mut shown = vec![language.entry(), "manifest.toml"];
        if language == Language::JavaScript {
            shown.push("tickets.js");
        }
        for file in shown {
            let text = std::fs::read_to_string(template.folder().join(file)).unwrap();
            assert!(
                readme.contains(&text),
                "the README of {language:?} does not show {file} as the template has it"
            );
        }
    }
}
