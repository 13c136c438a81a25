use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::imports::state;

const LONGEST: usize = 64;
const LOG: usize = 20;

fn question() -> Request {
    Request::State(state::Request::Keys(String::new()))
}

/// What the hub does, and what the worker says.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    TakeBack(u64),
    Load(u64),
    Answer(u64),
    End,
    Word(Word),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0u64..6;
    let word = prop_oneof![
        1 => Just(Word::Up(Err("not here".to_owned()))),
        2 => number().prop_map(|plugin| Word::Loaded { plugin, result: Ok(()) }),
        6 => number().prop_map(|call| Word::Ask { call, request: question() }),
        6 => (number(), ".{0,8}").prop_map(|(call, text)| Word::Say { call, level: Level::Info, text }),
        4 => number().prop_map(|call| Word::End { call, ended: Ended::Reply("1".to_owned()) }),
    ];
    prop_oneof![
        6 => Just(Step::Begin),
        1 => number().prop_map(Step::TakeBack),
        3 => number().prop_map(Step::Load),
        6 => number().prop_map(Step::Answer),
        1 => Just(Step::End),
        12 => word.prop_map(Step::Word),
    ]
}

/// All that has happened, from which it follows what may come.
#[derive(Default)]
struct Past(Vec<Step>);

impl Past {
    fn count(&self, fits: impl Fn(&Step) -> bool) -> usize {
        self.0.iter().filter(|step| fits(step)).count()
    }

    fn over(&self) -> bool {
        self.count(|step| matches!(step, Step::End)) > 0
    }

    fn begun(&self) -> u64 {
        self.count(|step| matches!(step, Step::Begin)) as u64
    }

    /// Whether a call is the worker's.
    fn open(&self, call: u64) -> bool {
        let gone = |step: &Step| match step {
            Step::TakeBack(other) | Step::Word(Word::End { call: other, .. }) => *other == call,
            Step::End => true,
            _ => false,
        };
        (1..=self.begun()).contains(&call) && self.count(gone) == 0
    }

    fn asking(&self, call: u64) -> bool {
        let asked = self.count(|step| matches!(step, Step::Word(Word::Ask { call: other, .. }) if *other == call));
        let answered = self.count(|step| matches!(step, Step::Answer(other) if *other == call));
        self.open(call) && asked > answered
    }

    fn logged(&self, call: u64) -> usize {
        let bytes = |step: &Step| match step {
            Step::Word(Word::Say { call: other, text, .. }) if *other == call => text.len().max(1),
            _ => 0,
        };
        self.0.iter().map(bytes).sum()
    }

    /// Whether it was asked about a plugin, and has not answered.
    fn waits(&self, plugin: u64) -> bool {
        let asked = self.count(|step| matches!(step, Step::Load(other) if *other == plugin));
        let told =
            self.count(|step| matches!(step, Step::Word(Word::Loaded { plugin: other, .. }) if *other == plugin));
        asked > told
    }

    fn wrong(&self, word: &Word) -> Option<Wrong> {
        if self.over() {
            return Some(Wrong::Over);
        }
        let up = self.count(|step| matches!(step, Step::Word(Word::Up(_)))) > 0;
        match word {
            Word::Up(_) => up.then_some(Wrong::UpAgain),
            Word::Loaded { plugin, .. } => (!self.waits(*plugin)).then_some(Wrong::NotAskedAbout),
            Word::Ask { call, .. } | Word::Say { call, .. } | Word::End { call, .. } if !self.open(*call) => {
                Some(Wrong::NoSuchCall(*call))
            }
            Word::Ask { call, .. } => self.asking(*call).then_some(Wrong::AskedAgain(*call)),
            Word::Say { call, text, .. } => {
                (self.logged(*call) + text.len().max(1) > LOG).then_some(Wrong::LogsTooMuch(*call))
            }
            Word::End { .. } => None,
        }
    }
}

/// What a word means where each call and plugin is known as its number and a hundred.
fn meaning(word: Word, past: &Past) -> Result<Said<'static, u64, u64>, Wrong> {
    const KNOWN: [u64; 6] = [100, 101, 102, 103, 104, 105];
    let known = |number: u64| &KNOWN[usize::try_from(number).unwrap()];
    match past.wrong(&word) {
        Some(wrong) => Err(wrong),
        None => Ok(match word {
            Word::Up(up) => Said::Up(up),
            Word::Loaded { plugin, result } => Said::Loaded(known(plugin), result),
            Word::Ask { call, request } => Said::Asks(known(call), request),
            Word::Say { call, level, text } => Said::Logs(known(call), level, text),
            Word::End { call, ended } => Said::Ended(*known(call), ended),
        }),
    }
}

proptest! {
    /// Whatever the two do in whatever order: a word means what was given out, or nothing is heard after it.
    #[test]
    fn a_worker_speaks_of_what_it_was_given_and_of_nothing_else(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut heard, mut past) = (Heard::<u64, u64>::default(), Past::default());
        for step in steps {
            match step.clone() {
                Step::Begin => {
                    // Numbers beyond those that words have are of no use here.
                    if past.begun() == 5 {
                        continue;
                    }
                    let next = past.begun() + 1;
                    prop_assert_eq!(heard.begin(100 + next, LOG), (!past.over()).then_some(next));
                    if past.over() {
                        continue;
                    }
                }
                Step::TakeBack(call) => {
                    heard.take_back(call);
                    if !past.open(call) {
                        continue;
                    }
                }
                Step::Load(plugin) => {
                    if heard.plugin(plugin).is_some() {
                        continue;
                    }
                    prop_assert_eq!(heard.load(plugin, 100 + plugin), !past.over());
                    if past.over() {
                        continue;
                    }
                }
                Step::Answer(call) => {
                    let waits = past.asking(call);
                    prop_assert_eq!(heard.answer(call), waits);
                    if !waits {
                        continue;
                    }
                }
                Step::End => {
                    let (mut calls, untold) = heard.end();
                    calls.sort_unstable();
                    let open: Vec<u64> = (1..6).filter(|call| past.open(*call)).map(|call| 100 + call).collect();
                    prop_assert_eq!(calls, open);
                    let waiting: Vec<u64> = (0..6).filter(|plugin| past.waits(*plugin)).map(|plugin| 100 + plugin).collect();
                    prop_assert_eq!(untold.into_iter().copied().collect::<Vec<_>>(), waiting);
                }
                Step::Word(word) => {
                    let expected = meaning(word.clone(), &past);
                    prop_assert_eq!(&heard.hear(word.clone()), &expected);
                    if expected.is_err() {
                        prop_assert_eq!(heard.hear(word), Err(Wrong::Over));
                        prop_assert_eq!(heard.begin(0, LOG), None);
                        prop_assert!(!heard.load(99, 0));
                        return Ok(());
                    }
                }
            }
            past.0.push(step);
            for call in 0..6 {
                prop_assert_eq!(heard.has(call), past.open(call));
            }
        }
    }

    /// Whatever pieces a socket hands them over in, words come out as they went in, and what is none comes out as that.
    #[test]
    fn words_are_cut_out_of_any_pieces(length in 0usize..100, piece in 1usize..20, rest in "[^\u{0}]{0,3}") {
        let word = Word::Up(Err("x".repeat(length)));
        let mut stream = wire::encode(&word, usize::MAX).unwrap();
        let frame = stream.len() - wire::HEAD;
        let head = u32::try_from(frame + rest.len()).unwrap();
        stream[..wire::HEAD].copy_from_slice(&head.to_le_bytes());
        stream.extend_from_slice(rest.as_bytes());
        let (mut words, mut read, mut came) = (Words::new(LONGEST), BytesMut::new(), None);
        for piece in stream.chunks(piece) {
            read.extend_from_slice(piece);
            came = came.or(words.decode(&mut read).unwrap());
        }
        let expected = match rest.len() {
            more if frame + more > LONGEST => Err(Wrong::TooLong(LONGEST)),
            0 => Ok(word),
            more => Err(Wrong::Frame(Fault::Garbage(format!("{more} bytes too many")))),
        };
        prop_assert_eq!(came, Some(expected));
    }
}

#[test]
fn how_a_plugin_was_loaded_is_heard_once() {
    let mut heard = Heard::<u64, &str>::default();
    let refused = CallError::new(ErrorKind::Invalid, "no");
    let told = |result| Word::Loaded { plugin: 7, result };
    assert!(heard.load(7, "seven"));
    assert_eq!(
        heard.hear(told(Err(refused.clone()))),
        Ok(Said::Loaded(&"seven", Err(refused)))
    );
    assert_eq!(heard.hear(told(Ok(()))), Err(Wrong::NotAskedAbout));
}
