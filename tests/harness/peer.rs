//! A worker process that does not keep to the rules: this binary, run as the program of a worker.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use waypost::call::CallError;
use waypost::config::Part;
use waypost::error::ErrorKind;
use waypost::imports::{Level, Request, gateway, state};
use waypost::plugin::execute::Ended;
use waypost::plugin::worker::confine::{ALWAYS, Confinement};
use waypost::plugin::worker::wire::{self, Order, Word};

use super::{Project, binary};

/// What this binary is told to be a worker with; a manner follows.
const MARK: &str = "--as-a-worker";

/// What a worker does when its first call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// What it should, of nothing: it answers `1`.
    Honest,
    /// The same, but it is not confined at all.
    Open,
    /// The same, with no more than every worker must be confined by.
    Bare,
    /// Ends before it is ready.
    Stillborn,
    /// Says nothing.
    Mute,
    /// Ends.
    Exit,
    /// Writes what is no frame's beginning.
    Oversized,
    /// Writes a frame that holds nothing known.
    Garbage,
    /// Writes a frame with more in it than a word.
    Trailing,
    /// Says again that it is ready.
    UpTwice,
    /// Speaks of a plugin that it was not asked about.
    Unasked,
    /// Asks for a call that does not exist.
    Stranger,
    /// Asks again before it has its answer.
    Impatient,
    /// Ends the call twice.
    EndTwice,
    /// Logs without end.
    Chatty,
    /// Logs long lines.
    Loud,
    /// Does not end the call, also when it is told to.
    Stubborn,
    /// Reads nothing more.
    Deaf,
    /// Takes a started call that it has not started.
    Thief,
    /// Says that the hub has a defect, and that the call was cancelled.
    Liar,
    /// Answers what is no JSON.
    Scribbler,
    /// Takes memory without end.
    Glutton,
}

impl Manner {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Honest,
        Self::Open,
        Self::Bare,
        Self::Stillborn,
        Self::Mute,
        Self::Exit,
        Self::Oversized,
        Self::Garbage,
        Self::Trailing,
        Self::UpTwice,
        Self::Unasked,
        Self::Stranger,
        Self::Impatient,
        Self::EndTwice,
        Self::Chatty,
        Self::Loud,
        Self::Stubborn,
        Self::Deaf,
        Self::Thief,
        Self::Liar,
        Self::Scribbler,
        Self::Glutton,
    ];
}

impl Project {
    /// With workers of this manner.
    pub fn workers(self, manner: Manner) -> Self {
        let this = std::env::current_exe().unwrap();
        let worker = format!("exec '{}' {MARK} {manner:?}", this.display());
        self.programs(&worker, &real("compile"))
    }

    /// With these lines of a shell as what workers and compilers are.
    pub fn programs(self, worker: &str, compile: &str) -> Self {
        let program: PathBuf = self.root().join("worker");
        let script = format!("#!/bin/sh\ncase $1 in\nworker) {worker} ;;\ncompile) {compile} ;;\nesac\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        self.toml(&format!("[worker]\nprogram = {:?}", program.display().to_string()))
    }
}

/// What it really is, as a line of a shell.
pub fn real(verb: &str) -> String {
    format!("exec '{}' {verb}", binary::path().display())
}

/// What the binary does when it is run as a worker.
pub fn again() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    let wanted = arguments.next()?;
    let manner = Manner::ALL.into_iter().find(|manner| format!("{manner:?}") == wanted)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    // It ends as it likes; what counts is what the hub makes of it.
    let _ = Peer(socket).live(manner);
    Some(ExitCode::SUCCESS)
}

struct Peer(UnixStream);

impl Peer {
    fn live(&mut self, manner: Manner) -> io::Result<()> {
        self.order()?;
        match manner {
            Manner::Stillborn => return Ok(()),
            Manner::Mute => return self.wait(),
            _ => {}
        }
        let parts = match manner {
            Manner::Open => Vec::new(),
            Manner::Bare => ALWAYS.to_vec(),
            _ => Part::ALL.to_vec(),
        };
        let confined = || Confinement {
            parts: parts.clone(),
            ..Confinement::default()
        };
        let up = || Word::Up(Ok(confined()));
        self.say(&up())?;
        loop {
            let begin = match self.order()? {
                Order::Load(load) => {
                    self.say(&Word::Loaded {
                        plugin: load.plugin,
                        result: Ok(()),
                    })?;
                    continue;
                }
                Order::Begin(begin) => begin,
                _ => continue,
            };
            let call = begin.call;
            let ask = |request| Word::Ask { call, request };
            let get = || ask(Request::State(state::Request::Get("a".to_owned())));
            let end = |ended| Word::End { call, ended };
            let line = |length| Word::Say {
                call,
                level: Level::Info,
                text: "x".repeat(length),
            };
            match manner {
                Manner::Honest | Manner::Open | Manner::Bare => self.say(&end(Ended::Reply("1".to_owned())))?,
                Manner::Stillborn | Manner::Mute | Manner::Exit => return Ok(()),
                Manner::Oversized => self.0.write_all(&u32::MAX.to_le_bytes())?,
                Manner::Garbage => self.raw(&[0xff; 40])?,
                Manner::Trailing => {
                    let word = wire::encode(&end(Ended::Reply("1".to_owned())), usize::MAX).unwrap();
                    self.raw(&[&word[wire::HEAD..], &[0]].concat())?;
                }
                Manner::UpTwice => self.say(&up())?,
                Manner::Unasked => self.say(&Word::Loaded {
                    plugin: 999,
                    result: Ok(()),
                })?,
                Manner::Stranger => self.say(&Word::Ask {
                    call: 999,
                    request: Request::State(state::Request::Keys(String::new())),
                })?,
                Manner::Impatient => {
                    // The first waits for a person, so the second comes before the answer.
                    self.say(&ask(Request::Gateway(gateway::Request::Call(gateway::Asked {
                        kind: "waitforReply".to_owned(),
                        action: None,
                        message: r#"{"message":"?"}"#.to_owned(),
                        timeout_ms: None,
                    }))))?;
                    self.say(&get())?;
                }
                Manner::EndTwice => {
                    self.say(&end(Ended::Reply("1".to_owned())))?;
                    self.say(&end(Ended::Reply("2".to_owned())))?;
                }
                Manner::Chatty => loop {
                    self.say(&line(0))?;
                },
                Manner::Loud => loop {
                    self.say(&line(1 << 20))?;
                },
                Manner::Stubborn => {}
                Manner::Deaf => {
                    let forever = std::sync::Mutex::new(());
                    let held = forever.lock().unwrap();
                    drop(std::sync::Condvar::new().wait(held));
                }
                Manner::Thief => {
                    self.say(&ask(Request::Gateway(gateway::Request::Finish(1))))?;
                    let reply = loop {
                        // Code that it did not wait for may come first.
                        if let Order::Answer { reply, .. } = self.order()? {
                            break reply;
                        }
                    };
                    self.say(&end(Ended::Refused(reply.unwrap_err())))?;
                }
                Manner::Liar => {
                    let error = CallError::new(ErrorKind::Cancelled, "the hub is broken");
                    self.say(&end(Ended::Fault(error)))?;
                }
                Manner::Glutton => {
                    let mut all = Vec::new();
                    loop {
                        all.push(vec![1_u8; 1 << 20]);
                        std::hint::black_box(&all);
                    }
                }
                Manner::Scribbler => self.say(&end(Ended::Reply("{".to_owned())))?,
            }
        }
    }

    /// The next order.
    fn order(&mut self) -> io::Result<Order> {
        let mut head = [0; wire::HEAD];
        self.0.read_exact(&mut head)?;
        let mut frame = vec![0; u32::from_le_bytes(head) as usize];
        self.0.read_exact(&mut frame)?;
        wire::decode(&frame).map_err(|fault| io::Error::other(fault.to_string()))
    }

    fn say(&mut self, word: &Word) -> io::Result<()> {
        self.0.write_all(&wire::encode(word, usize::MAX).unwrap())
    }

    fn raw(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(&u32::try_from(frame.len()).unwrap().to_le_bytes())?;
        self.0.write_all(frame)
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.order()?;
        }
    }
}
