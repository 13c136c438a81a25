use super::*;
use proptest::prelude::*;

#[test]
fn each_mistake_is_named_with_its_remedy() {
    for (text, error) in [
        (
            "network",
            "`network` is not a grant; there are gateway, state, workspace, claim, subscribe, http, secrets, env, files, \
             process, socket",
        ),
        ("state=1", "`state` takes no value; write `state` alone"),
        ("gateway", "`gateway` says which, as in `gateway=<call>`"),
        (
            "claim=a,b:",
            "`b:` is not a pattern of calls; write `*`, `kind`, `kind:*` or `kind:action`",
        ),
        (
            "http=a",
            "`a` is not a server: it has no scheme; write it as https://api.example.com, https://*.example.com:8443 or \
             http://127.0.0.1:8080",
        ),
        ("secrets=a b", "`a b` is not a name"),
        (
            "files=docs=",
            "`docs=` is not a folder; write `<name>=<path>`, with `:write` when it may write",
        ),
        (
            "process=git=usr/bin/git",
            "the path `usr/bin/git` is relative; write it from the root on, as in `/usr/bin/git`",
        ),
        (
            "process=git=/usr/bin/git@sha256:12",
            "`git=/usr/bin/git@sha256:12` is not a program; write `<name>=<path>`, and its SHA-256 as `@sha256:` and 64 digits \
             where it shall be no other",
        ),
        (
            "socket=docker=/run/../x",
            "the path `/run/../x` has `..` in it; write where it leads",
        ),
        ("socket=a b", "`a b` is not a socket; write `<name>=<path>`"),
    ] {
        assert_eq!(Term::parse(text).unwrap_err().to_string(), error);
    }
    assert_eq!(
        listed(&Term::parse("gateway=a, b:x").unwrap()),
        "`gateway=a`, `gateway=b:x`"
    );
    assert_eq!(listed(&[]), "nothing");
}

#[test]
fn each_grant_is_said_in_plain_words() {
    for (text, words) in [
        (
            "gateway=*",
            "make every call there is: files, commands, models, other plugins",
        ),
        ("gateway=fsEvent", "read and change the files of the workspace"),
        ("gateway=fsEvent:*", "read and change the files of the workspace"),
        (
            "gateway=fsEvent:readFile",
            "work on files of the workspace, with `readFile` alone",
        ),
        ("gateway=executeCommand", "run commands"),
        ("gateway=inference", "ask models, at your cost"),
        ("gateway=ticket:find", "make the call `ticket:find`"),
        ("state", "keep data of its own between calls"),
        ("workspace", "make, compare and remove copies of the project"),
        ("claim=*", "execute every call of the project in place of the hub"),
        (
            "claim=chat",
            "execute every call `chat` of the project in place of the hub",
        ),
        ("subscribe", "hear of every call of the project, with what is in it"),
        (
            "http=https://*.example.com",
            "send requests to https://*.example.com, and read what it answers",
        ),
        (
            "secrets=github",
            "have the secret `github` put into its requests, without seeing it",
        ),
        ("env=LANG", "read the hub's variable `LANG`"),
        ("files=docs", "read files in a folder that you choose, as its `docs`"),
        (
            "files=docs=/srv/a,b:write",
            "read and write the files in /srv/a,b, as its folder `docs`",
        ),
        (
            "process=git",
            "run a program that you choose, as its `git`, with your rights, with `...`",
        ),
        (
            "process=git=/usr/bin/git",
            "run /usr/bin/git as its `git`, with your rights, with `...`",
        ),
        (
            "socket=docker",
            "talk to whoever listens on a socket that you choose, as its `docker`",
        ),
        (
            "socket=docker=/run/docker.sock",
            "talk to whoever listens on /run/docker.sock, as its socket `docker`",
        ),
    ] {
        assert_eq!(Term::parse(text).unwrap()[0].words(), words);
    }
}

proptest! {
    /// What was given is there, what was taken is not, and taking leaves nothing of it.
    #[test]
    fn what_is_given_is_there_and_what_is_taken_is_not(
        gateway in proptest::collection::vec("[ab](:[xy*])?|\\*", 0..4), state in any::<bool>(),
        term in "state|subscribe|(gateway|claim)=([ab](:[xy*])?|\\*)|http=https://(\\*\\.)?[ab](\\.c)?|env=[ab]|files=[ab](=/[cd])?(:write)?|process=[ab](=/[cd](@sha256:[0a]{64})?)?|socket=[ab](=/[cd])?",
    ) {
        let before = Grants { gateway, state, ..Grants::default() };
        let term = Term::parse(&term).unwrap().remove(0);
        let mut after = before.clone();
        term.give(&mut after);
        prop_assert!(term.is_in(&after) && Term::all(&after).contains(&term) || term.is_in(&before));
        prop_assert!(Term::all(&before).iter().all(|old| old.is_in(&after)), "giving takes nothing");
        term.take(&mut after);
        let wider = Term::all(&before).iter().any(|old| *old != term && term.is_in(&{
            let mut only = Grants::default();
            old.give(&mut only);
            only
        }) && !old.is_in(&{
            let mut only = Grants::default();
            term.give(&mut only);
            only
        }));
        prop_assert_eq!(term.is_in(&after), wider, "it stays only where something wider was given");
    }
}
