//! The lock file as text: what is written is read, and each mistake has its line.

use proptest::prelude::*;

use super::*;
use crate::config::{Arguments, Folder, Program, Socket};

const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

fn release() -> impl Strategy<Value = Release> {
    let patterns = || proptest::collection::vec("[a-z]{1,6}(:([a-z]{1,4}|\\*))?|\\*", 0..3);
    let names = || proptest::collection::vec("[A-Za-z_]{1,8}", 0..3);
    let servers = "https?://(\\*\\.)?[a-z]{1,6}\\.example(:[1-9][0-9]{3})?( private)?";
    let servers = servers.prop_map(|text| text.parse().unwrap());
    let folder = ("[a-z]{1,8}", proptest::option::of("/[a-z ,=:]{1,8}"), any::<bool>());
    let folder = folder.prop_map(|(name, path, write)| Folder {
        name,
        path: path.map(Into::into),
        write,
    });
    let program = (
        "[a-z]{1,8}",
        proptest::option::of(("/[a-z ,=:@]{1,8}", proptest::option::of("[0-9a-f]{64}"))),
        proptest::collection::vec(proptest::collection::vec("[a-z*'\" -]{0,6}", 0..3), 1..3),
    );
    let program = program.prop_map(|(name, which, args)| Program {
        name,
        sha256: which.as_ref().and_then(|(_, sha256)| sha256.clone()),
        path: which.map(|(path, _)| path.into()),
        args: args.into_iter().map(|args| Arguments::of(args).unwrap()).collect(),
    });
    let socket = ("[a-z]{1,8}", proptest::option::of("/[a-z ,=:]{1,8}"));
    let socket = socket.prop_map(|(name, path)| Socket {
        name,
        path: path.map(Into::into),
    });
    let outside = (
        proptest::collection::vec(servers, 0..3),
        names(),
        names(),
        proptest::collection::vec(folder, 0..3),
        proptest::collection::vec(program, 0..3),
        proptest::collection::vec(socket, 0..3),
    );
    let inside = (patterns(), any::<bool>(), any::<bool>(), patterns(), any::<bool>());
    let grant = (inside, outside).prop_map(
        |((gateway, state, workspace, claim, subscribe), (http, secrets, env, files, process, socket))| Grants {
            gateway,
            state,
            workspace,
            claim,
            subscribe,
            http,
            secrets,
            env,
            files,
            process,
            socket,
        },
    );
    let signer = proptest::option::of(any::<String>().prop_filter("a name", |name| !name.is_empty()));
    let digest = || "[0-9a-f]{64}".prop_map(|digits| format!("sha256:{digits}"));
    (
        ".{1,20}",
        digest(),
        "(?s).{1,60}",
        proptest::option::of(digest()),
        signer,
        grant,
    )
        .prop_map(|(version, digest, source, manifest, signer, grant)| Release {
            version,
            digest,
            source,
            manifest,
            signer: signer.map(|name| Signer {
                name,
                key: KEY.to_owned(),
            }),
            grant,
        })
}

fn lock() -> impl Strategy<Value = Lock> {
    let wall = prop_oneof![Just(Wall::Worker), Just(Wall::InProcess)];
    let rest = || proptest::option::of(release());
    let entry = (proptest::option::of("[a-z0-9-]{1,12}"), wall, release(), rest(), rest());
    proptest::collection::hash_map("[a-z0-9-]{1,12}", entry, 0..4).prop_map(|entries| Lock {
        installed: entries
            .into_iter()
            .map(|(id, (component, wall, current, previous, held))| Entry {
                id,
                component,
                wall,
                current,
                previous,
                held,
            })
            .collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_and_is_the_same_text_again(lock in lock()) {
        let text = lock.write().unwrap();
        let read = Lock::parse(&text).unwrap();
        prop_assert_eq!(&read, &lock);
        prop_assert_eq!(read.write().unwrap(), text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\[\\[installed\\]\\]\n|format = 1\n|id = |\\[installed.current\\]\n|\"|[a-z=\n.\\[\\]{}]){0,20}") {
        if let Ok(lock) = Lock::parse(&text) {
            prop_assert_eq!(Lock::parse(&lock.write().unwrap()).unwrap(), lock);
        }
    }
}

/// A whole entry, as lines.
fn entry() -> String {
    format!(
        "[[installed]]\nid = \"echo\"\nwall = \"worker\"\n[installed.current]\nversion = \"1\"\ndigest = \"sha256:{}\"\nsource = \
         \"file:/x.wasm\"\n",
        "a".repeat(64)
    )
}

fn refused(text: &str) -> String {
    Lock::parse(text).unwrap_err().to_string()
}

#[test]
fn each_mistake_is_named_with_its_line() {
    let whole = format!("format = 1\n{}", entry());
    assert_eq!(Lock::parse(&whole).unwrap().installed.len(), 1);
    let long = format!("version = {:?}", "v".repeat(TEXT_BYTES + 1));
    for (old, new, problem) in [
        (
            "wall = \"worker\"",
            "wall = \"worker\"\ncolour = 1",
            "line 5: unknown field `installed.colour`; there are id, component, wall, current, previous, held",
        ),
        (
            "version = \"1\"",
            "version = \"1\"\nsigned = true",
            "line 7: unknown field `installed.current.signed`; did you mean `signer`?",
        ),
        (
            "sha256:a",
            "sha256:A",
            &format!(
                "line 7: `installed.current.digest`: `sha256:A{}` is not a digest; write `sha256:` and 64 digits, in lower case",
                "a".repeat(63)
            ),
        ),
        (
            "\"echo\"",
            "\"Echo\"",
            "line 3: `installed.id`: `Echo` is not an id; use lower-case letters, digits and `-`, at most 64",
        ),
        (
            "\"worker\"",
            "\"cellar\"",
            "line 4: `installed.wall`: unknown variant `cellar`, expected `in-process` or `worker`",
        ),
        (
            "version = \"1\"",
            &long,
            "line 6: `installed.current.version`: a text of 1 to 4096 bytes is expected, this one has 4097",
        ),
        (
            "version = \"1\"",
            "version = \"1\"\nsigner = { name = \"acme\", key = \"RWQ\" }",
            "line 7: `installed.current.signer.key`: `RWQ` is not a public key of minisign; give the second line of its `.pub` file",
        ),
    ] {
        assert_eq!(
            refused(&whole.replace(old, new)),
            format!("waypost.lock has 1 problem:\n  {problem}")
        );
    }
    assert_eq!(
        refused("x = 1"),
        "waypost.lock has 2 problems:\n  line 1: unknown field `x`; there are format, installed\n  line 1: missing field `format`"
    );
}

#[test]
fn an_unknown_format_and_a_second_entry_are_refused() {
    for format in ["2", "\"1\"", "1.0"] {
        assert_eq!(
            refused(&format!("format = {format}\n[new]\nthings = 1\n")),
            format!(
                "waypost.lock has the format {format}, and this version of Waypost reads the format 1; use the version that wrote it, \
                 or remove the file and install again with `waypost plugin add`"
            )
        );
    }
    assert_eq!(
        refused(&format!("format = 1\n{}{}", entry(), entry())),
        "waypost.lock has two entries for `echo`; remove one of them"
    );
}

#[test]
fn the_number_of_entries_and_the_size_are_bounded() {
    let mut text = "format = 1\n".to_owned();
    for number in 0..=ENTRIES {
        text.push_str(&entry().replace("echo", &format!("echo-{number}")));
    }
    assert_eq!(
        refused(&text),
        "waypost.lock has 1001 plugins, the limit is 1000; remove those that nobody needs"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    fs::write(&file, " ".repeat(FILE_BYTES as usize + 1)).unwrap();
    assert_eq!(
        Lock::read(folder.path()).unwrap_err().to_string(),
        format!("{} is larger than 4194304 bytes", file.display())
    );
    fs::write(&file, [0xff]).unwrap();
    assert_eq!(
        Lock::read(folder.path()).unwrap_err().to_string(),
        format!("{} cannot be read: make it a readable UTF-8 file", file.display())
    );
}

#[test]
fn a_lock_file_is_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Lock::read(folder.path()).unwrap(), Lock::default());
    let one = Lock::parse(&format!("format = 1\n{}", entry())).unwrap();
    one.save(folder.path()).unwrap();
    assert_eq!(Lock::read(folder.path()).unwrap(), one);
    let unwritable = Lock {
        installed: vec![Entry {
            id: "A".to_owned(),
            ..one.installed[0].clone()
        }],
    };
    assert!(unwritable.save(folder.path()).is_err());
    assert_eq!(Lock::read(folder.path()).unwrap(), one);
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [FILE], "nothing is left beside it");
}
