//! A person at a terminal is asked before a component is installed; the terminal is one of `script`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use super::{component, empty, keeper, lock};
use crate::harness::binary;
use crate::harness::outside::on_path;
use crate::harness::trial;

pub fn trials() -> Vec<Trial> {
    let name = "installed::terminal::at_a_terminal_it_asks";
    vec![if on_path("script") {
        trial(name, at_a_terminal_it_asks)
    } else {
        Trial::test(format!("{name} (missing: script, of util-linux)"), || Ok(())).with_ignored_flag(true)
    }]
}

async fn at_a_terminal_it_asks() {
    let project = empty();
    let root = project.root();
    component(root, &keeper(), "1");
    for (answer, installed) in [("n", false), ("", false), ("yes", false), ("y", true)] {
        let binary = binary::path();
        let line = shell_words::join([
            binary.to_str().unwrap(),
            "plugin",
            "add",
            "downloads",
            "--wall",
            "in-process",
        ]);
        let mut command = binary::waypost(root);
        let mut script = Command::new("script");
        script
            .args([
                "--quiet",
                "--return",
                "--echo",
                "never",
                "--command",
                &line,
                "/dev/null",
            ])
            .current_dir(root)
            .env_clear()
            .envs(
                command
                    .args([""])
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let answered = tokio::task::spawn_blocking(move || {
            let mut child = script.spawn().unwrap();
            let (mut hears, mut says) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                let count = says.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                text.extend_from_slice(&buffer[..count]);
                if text.ends_with(b"[y/N] ") {
                    hears.write_all(format!("{answer}\n").as_bytes()).unwrap();
                }
            }
            (child.wait().unwrap().code(), String::from_utf8(text).unwrap())
        });
        let (code, text) = answered.await.unwrap();
        assert!(text.contains("install it and grant all of it? [y/N] "), "{text}");
        assert_eq!(code, Some(i32::from(!installed)), "{answer:?}: {text}");
        assert_eq!(lock(root).contains("state = true"), installed, "{answer:?}");
    }
}
