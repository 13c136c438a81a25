//! What is read, and each problem with its line.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn an_empty_text_and_a_missing_file_are_the_defaults() {
    let config = load("").unwrap();
    assert_eq!(
        (config.hub.listen.as_str(), config.limits.message),
        ("127.0.0.1:7420", 16 << 20)
    );
    let folder = tempfile::tempdir().unwrap();
    assert!(
        Config::read(&folder.path().join("waypost.toml"))
            .unwrap()
            .routes
            .is_empty()
    );
}

#[test]
fn a_group_for_processor_time_is_required_only_where_there_is_one() {
    let required = "[hub]\n\n[worker]\nrequire = [\"cpu-group\"]\n";
    let problems = load(required).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let text = "line 3: `worker.require`: there is a `cpu-group` only with `worker-cpu` in [limits]; write it there";
    assert_eq!(problems, [text]);
    assert!(load(&format!("{required}[limits]\nworker-cpu = 150\n")).is_ok());
}

#[test]
fn values_and_lines_of_rules_are_read() {
    let config = load(
        "[limits]\ncall-timeout = \"1m\"\nmessage = \"1MiB\"\n\n[[route]]\nmatch = \"fsEvent\"\nto = \"local\"\n\n\
             [[route]]\nmatch = [\"inference\", \"chat\"]\npath = \"src/**\"\nto = \"plugin:x\"\ntimeout = \"500ms\"\n",
    )
    .unwrap();
    assert_eq!(
        (config.limits.call_timeout, config.limits.message),
        (Duration::from_secs(60), 1 << 20)
    );
    let lines: Vec<usize> = config.routes.iter().map(|route| route.line).collect();
    assert_eq!(lines, [5, 9]);
    assert_eq!(config.routes[1].timeout, Some(Duration::from_millis(500)));
    assert!(config.routes[1].path.matches("src/a/b"));
    assert_eq!(
        load("route = [\n{ match = '*', to = 'deny' },\n]").unwrap().routes[0].line,
        2
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = r#"[hub]
listn = "x"
state = 3

[limits]
calls = 0
depth = "deep"
call-timeout = "soon"
call-queue = 99999999999999

[limits.plugin]
memory = "64 apples"

[inference]
mode = "replya"

[nonsense]

[[connection]]
name = "a"
token-sha256 = "secret"

[[connection]]
name = "b"
token-sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

[[connection]]
name = "b"
token-sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
claim = []

[[route]]
match = ["fsEvent", "fs*", 3]
path = "src/[a"
to = "locl"

[[route]]
match = []
timeout = "5"
to = "proxy"
fallback = ["local", "plugin:"]

[[route]]
to = "deny"
fallback = ["local"]

[[route]]
match = "*"
to = "ask"

[[route]]
match = "*"
to = "deny"
open = true

[[spawn]]
name = "c"
command = "run 'it"

[[spawn]]
name = "d"
command = " "
"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("waypost.toml");
    std::fs::write(&file, text).unwrap();
    assert_eq!(
        Config::read(&file).unwrap_err().to_string(),
        "waypost.toml has 24 problems:
  line 2: unknown field `hub.listn`; did you mean `listen`?
  line 3: `hub.state`: invalid type: integer `3`, expected path string
  line 6: `limits.calls`: a limit of zero would refuse everything; write 1 or more, or remove the line
  line 7: `limits.depth`: invalid type: string \"deep\", expected a whole number
  line 8: `limits.call-timeout`: `soon` is not a duration; write it as 500ms, 30s or 5m
  line 9: `limits.call-queue`: 99999999999999 is too large a limit; the largest is 1099511627776
  line 12: `limits.plugin.memory`: `64 apples` is not a size; write it as 64KiB or 16MiB
  line 15: `inference.mode`: unknown variant `replya`, expected one of `off`, `record`, `replay`
  line 17: unknown field `nonsense`; there are hub, limits, agent, files, terminal, inference, narrative, worker, plugin, secret, plugins, publisher, sockets, connection, joined, spawn, route
  line 21: `connection.token-sha256`: it must be the SHA-256 of the token: 64 hexadecimal digits
  line 27: a [[connection]] above is named `b` too; names are unique
  line 30: `connection.claim`: an empty list matches nothing; give a value, or remove the line
  line 33: `route.match`: `fs*` is not a pattern of calls; write `*`, `<kind>`, `<kind>:*` or `<kind>:<action>`
  line 33: `route.match`: invalid type: integer `3`, expected a pattern of calls
  line 34: `route.path`: `src/[a` is not a glob: unclosed character class; missing ']'
  line 35: `route.to`: `locl` is not a target; use local, proxy, proxy-only, plugin:<id>, connection:<name>, \
             hub:<name>, deny or ask
  line 38: `route.match`: an empty list matches nothing; give a value, or remove the line
  line 39: `route.timeout`: `5` is not a duration; write it as 500ms, 30s or 5m
  line 41: `route.fallback`: `plugin:` is not a target; use local, proxy, proxy-only, plugin:<id>, \
             connection:<name>, hub:<name>, deny or ask
  line 43: `route` needs the field `match`
  line 47: `ask` needs the target that executes once a person approves; write it next, as in fallback = [\"local\"]
  line 51: nothing comes after `deny`; remove what follows it in `fallback`, and `open`
  line 58: `spawn.command`: `run 'it` is not a command line: missing closing quote
  line 62: `spawn.command`: a command line names a program"
    );
}

#[test]
fn every_missing_field_is_named() {
    let problems = load("[[plugin]]\n[[connection]]\n[[route]]\n[[route]]\nto = 3\n").unwrap_err();
    let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        told,
        [
            "line 1: `plugin` needs the field `path`",
            "line 1: `plugin` needs the field `wall`",
            "line 2: `connection` needs the field `name`",
            "line 2: `connection` needs the field `token-sha256`",
            "line 3: `route` needs the field `match`",
            "line 3: `route` needs the field `to`",
            "line 4: `route` needs the field `match`",
            "line 5: `route.to`: invalid type: integer `3`, expected a string",
        ]
    );
}

#[test]
fn a_refused_target_is_not_missed_a_second_time() {
    let problems = load("[[route]]\nmatch = '*'\nto = 'ask'\nfallback = ['lcal']\n").unwrap_err();
    assert_eq!((problems.len(), problems[0].line), (1, 4));
}

#[test]
fn broken_syntax_gives_the_one_line() {
    let problems = load("[hub]\nstate = \nlisten = 3 4\n").unwrap_err();
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(lines, ["line 2: string values must be quoted, expected literal string"]);
}

#[test]
fn the_number_of_reported_problems_is_bounded() {
    let text: String = (0..PROBLEMS + 20)
        .map(|number| format!("nonsense-{number} = 1\n"))
        .collect();
    let problems = load(&text).unwrap_err();
    assert_eq!(problems.len(), PROBLEMS + 1);
    assert_eq!(
        problems.last().unwrap().message,
        "there are more problems; correct these first"
    );
}

#[test]
fn a_file_that_is_no_text_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("waypost.toml");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let error = Config::read(&file).unwrap_err();
    assert_eq!((error.kind, error.blame), (ErrorKind::Invalid, Blame::Operator));
    assert!(
        error
            .to_string()
            .ends_with("waypost.toml cannot be read: make it a readable UTF-8 file")
    );
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(\\[\\[?(route|hub|limits\\.plugin)\\]\\]?\n|(to|match|calls|path) = |\"|[\\[\\]{}=.,\n'*:a1-]){0,30}") {
        if let Err(problems) = load(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| problem.line >= 1));
        }
    }
}
