//! The fault kit: what every plugin has to bear, whatever it does.
//!
//! It starts from one call that is expected to succeed, the first case that replies, and makes it go wrong. A plugin may refuse
//! whatever it does not like, with an error that says so; it must not break. What breaks ends its own call alone, and the next
//! one has to work again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::cases::{Answer, Case, filled, operations};
use super::fake::Manner;
use super::odd::{failures, huge, huge_texts, odd, odd_replies, odd_texts, refusal, variants};
use super::stage::{Came, GivenUp, Made, Scene, Stage};
use super::{Checked, Report, ended, same, short};
use crate::call::{CallError, CallName, Json};
use crate::error::{ErrorKind, Result};
use crate::plugin::{Loaded, Role};
use crate::text::shortened;

/// The most characters of a message that stand in a line of the report.
const MESSAGE: usize = 80;
/// How long a call may take whose calls are never answered.
const SLOW: Duration = Duration::from_millis(300);
/// A time that is over before a call has come far.
const NO_TIME: Duration = Duration::from_micros(500);

/// What all checks start from.
struct Kit<'a> {
    stage: &'a Stage,
    /// The call that is expected to succeed.
    base: Base,
    /// One for each other call that a case shows to succeed; a plugin has to bear odd messages in all of them.
    others: Vec<Base>,
}

/// A call that is expected to succeed, and what that takes.
struct Base {
    made: Made,
    /// Who answers its calls.
    answers: Vec<Answer>,
    state: BTreeMap<String, String>,
}

/// Runs all checks that are wanted.
pub(super) async fn run(stage: &Stage, cases: &[Case], report: &mut Report) -> Result<()> {
    let kit = Kit::new(stage, cases);
    let role = stage.manifest().role;
    let calls = !stage.manifest().grants.gateway.is_empty();
    macro_rules! check {
        ($name:literal, $check:expr) => {
            if report.wants($name) {
                let checked = $check.await?;
                report.line($name, &checked)?;
            }
        };
    }
    check!("odd-messages", kit.messages("odd", &odd(), &odd_texts()));
    check!("huge-messages", kit.messages("huge", &huge(), &huge_texts()));
    if calls {
        check!("gateway-denied", kit.gateway(&[refusal(ErrorKind::Denied)]));
        check!("gateway-fails", kit.gateway(&failures()));
        check!("gateway-odd-replies", kit.gateway(&odd_replies()));
        check!("gateway-slow", kit.slow());
    }
    check!("cancelled", kit.cancelled());
    check!("small-memory", kit.memory());
    check!("after-a-trap", kit.trap());
    if role == Role::Provider {
        check!("made-and-removed-twice", kit.twice());
    }
    if role == Role::Agent {
        check!("runs-again", kit.again());
    }
    Ok(())
}

impl<'a> Kit<'a> {
    fn new(stage: &'a Stage, cases: &[Case]) -> Self {
        let manifest = stage.manifest();
        let first = operations(manifest.role).first();
        let mut bases: Vec<Base> = Vec::new();
        for case in cases.iter().filter(|case| case.reply.is_some()) {
            let name = &case.call.0;
            let is_wanted = first.is_none_or(|first| name.to_string() == *first);
            if is_wanted && !bases.iter().any(|base| base.made.name == *name) {
                bases.push(Base {
                    made: Made {
                        name: name.clone(),
                        message: case.message.0.clone(),
                        limit: case.timeout.unwrap_or_else(|| stage.timeout()),
                    },
                    answers: case.fake.clone(),
                    state: case.state.clone(),
                });
            }
        }
        let mut bases = bases.into_iter();
        Self {
            base: bases.next().unwrap_or_else(|| Base::without_case(stage)),
            others: bases.collect(),
            stage,
        }
    }

    async fn scene(&self, manner: Manner) -> Result<Scene> {
        let scene = self.stage.scene(manner)?;
        scene.keep(&self.base.state).await?;
        Ok(scene)
    }

    async fn usual_scene(&self) -> Result<Scene> {
        self.base.scene(self.stage).await
    }

    async fn base(&self, scene: &Scene, loaded: &Loaded) -> Came {
        scene.call(loaded, &self.base.made).await
    }

    /// Whether the base call, made in a scene in which something went wrong, does what it does in a fresh one.
    async fn works_again(&self, scene: &Scene) -> Result<Checked> {
        let fresh = self.usual_scene().await?;
        let usual = self.base(&fresh, self.stage.loaded()).await;
        let after = self.base(scene, self.stage.loaded()).await;
        Ok(match (&usual.result, &after.result) {
            (_, Err(error)) if broke(error) => Err(format!("the next call: {}", ended(error, scene))),
            (Ok(_), Err(error)) => Err(format!("the next call does not work: {}", ended(error, scene))),
            _ => Ok("the next call works".to_owned()),
        })
    }

    /// Messages of another shape, or another size, than the plugin expects.
    async fn messages(&self, what: &str, values: &[Value], texts: &[String]) -> Result<Checked> {
        let (mut count, mut ends) = (0, Ends::default());
        for base in std::iter::once(&self.base).chain(&self.others) {
            for message in variants(self.stage.manifest().role, &base.made.message, values, texts) {
                let scene = base.scene(self.stage).await?;
                let made = Made {
                    message,
                    ..base.made.clone()
                };
                let came = scene.call(self.stage.loaded(), &made).await;
                if let Err(error) = &came.result
                    && (broke(error) || came.late)
                {
                    let message = shortened(made.message.as_str(), MESSAGE);
                    return Ok(Err(format!("{} with {message}: {}", made.name, ended(error, &scene))));
                }
                count += 1;
                ends.count(&came.result);
            }
        }
        Ok(Ok(format!("{count} {what} messages: {ends}")))
    }

    /// Calls of the plugin that all end like this.
    async fn gateway(&self, answers: &[Result<Json, CallError>]) -> Result<Checked> {
        let mut ends = Ends::default();
        for answer in answers {
            let scene = self.scene(Manner::Always(answer.clone())).await?;
            let came = self.base(&scene, self.stage.loaded()).await;
            if let Err(error) = &came.result
                && (broke(error) || came.late)
            {
                let answer = match answer {
                    Ok(reply) => format!("the reply {}", reply.as_str()),
                    Err(error) => format!("the error {}", error.kind),
                };
                return Ok(Err(format!("when its calls get {answer}, {}", ended(error, &scene))));
            }
            ends.count(&came.result);
        }
        let ways = if answers.len() == 1 { "way" } else { "ways" };
        Ok(Ok(format!("{} {ways} to answer its calls: {ends}", answers.len())))
    }

    /// Calls of the plugin that get no answer within its time.
    async fn slow(&self) -> Result<Checked> {
        let scene = self.scene(Manner::Silent).await?;
        let made = Made {
            limit: SLOW,
            ..self.base.made.clone()
        };
        let came = scene.call(self.stage.loaded(), &made).await;
        Ok(match &came.result {
            Err(error) if broke(error) => Err(ended(error, &scene)),
            Err(error) if error.kind == ErrorKind::Timeout => {
                Ok("it waited until its time was over, and was stopped".to_owned())
            }
            Err(error) => Ok(format!("it gave up in time, with {}", error.kind)),
            Ok(_) => Ok("it replied without an answer".to_owned()),
        })
    }

    /// The caller gives up while the plugin works.
    async fn cancelled(&self) -> Result<Checked> {
        let calls = !self.stage.manifest().grants.gateway.is_empty();
        let (manner, when) = if calls {
            (Manner::Silent, GivenUp::WhenItAsks)
        } else {
            (Manner::Freely(Vec::new()), GivenUp::AtOnce)
        };
        let scene = self.scene(manner).await?;
        let came = scene.give_up(self.stage.loaded(), &self.base.made, when).await;
        let stopped = match &came.result {
            Err(error) if broke(error) => return Ok(Err(ended(error, &scene))),
            Err(error) if error.kind == ErrorKind::Cancelled => "it was stopped",
            _ => "it had ended before",
        };
        // What it kept before it was stopped is what the next call finds.
        let next = self.usual_scene().await?;
        next.keep(&scene.kept().await?).await?;
        Ok(self
            .works_again(&next)
            .await?
            .map(|works| format!("{stopped}; {works}")))
    }

    /// The least memory in which the base call works.
    async fn memory(&self) -> Result<Checked> {
        let most = self.stage.memory();
        let mut sizes: Vec<usize> = (20..)
            .map(|bits| 1_usize << bits)
            .take_while(|size| *size < most)
            .collect();
        sizes.push(most);
        let mut refused = 0;
        for size in sizes {
            let loaded = self.stage.with_memory(size)?;
            let scene = self.usual_scene().await?;
            let came = self.base(&scene, &loaded).await;
            match &came.result {
                Err(error) if error.kind == ErrorKind::Limit => refused += 1,
                Err(error) if broke(error) => {
                    return Ok(Err(format!("with {}, {}", mebibytes(size), ended(error, &scene))));
                }
                _ => {
                    let less = if refused > 0 {
                        "; with less it ends at the limit, and nothing else does"
                    } else {
                        ""
                    };
                    return Ok(Ok(format!(
                        "it works in {} of {}{less}",
                        mebibytes(size),
                        mebibytes(most)
                    )));
                }
            }
        }
        Ok(Err(format!(
            "{} are not enough for one call: raise `memory` in [limits] of the manifest",
            mebibytes(most)
        )))
    }

    /// A call is cut off in the middle, as by a trap.
    async fn trap(&self) -> Result<Checked> {
        let scene = self.usual_scene().await?;
        let made = Made {
            limit: NO_TIME,
            ..self.base.made.clone()
        };
        drop(scene.call(self.stage.loaded(), &made).await);
        let loaded = self.stage.with_memory(64 << 10)?;
        let came = self.base(&scene, &loaded).await;
        let how = match &came.result {
            Err(error) => format!("cut off by its time, then by {}", error.kind),
            Ok(_) => "cut off by its time".to_owned(),
        };
        Ok(self.works_again(&scene).await?.map(|works| format!("{how}; {works}")))
    }

    /// What the hub asks of a provider after a crash: each operation again.
    async fn twice(&self) -> Result<Checked> {
        let scene = self.usual_scene().await?;
        let operate = async |name: &str, resource: Option<&str>| {
            let mut message = match self.base.made.message.to::<Value>() {
                Ok(Value::Object(message)) => message,
                _ => Map::new(),
            };
            if let Some(resource) = resource {
                message.remove("settings");
                message.insert("resourceId".to_owned(), resource.into());
            }
            let made = Made {
                name: CallName::new("provider", Some(name)),
                message: Json::of(&message).unwrap_or_else(|_| Json::null()),
                limit: self.base.made.limit,
            };
            let came = scene.call(self.stage.loaded(), &made).await;
            came.result
                .map_err(|error| format!("{name}: {}", ended(&error, &scene)))
        };
        let checked = async {
            let place = operate("create", None).await?;
            let again = operate("create", None).await?;
            if !same(&place, &again) {
                return Err(format!(
                    "create answers {} and then {}",
                    short(place.as_str()),
                    short(again.as_str())
                ));
            }
            let place: Value = place.to().unwrap_or_default();
            let resource = place.get("resourceId").and_then(Value::as_str).unwrap_or_default();
            let health = operate("inspect", Some(resource)).await?;
            if health.as_str() != "\"ready\"" {
                return Err(format!(
                    "inspect answers {} for what was just made",
                    short(health.as_str())
                ));
            }
            operate("reconnect", Some(resource)).await?;
            operate("teardown", Some(resource)).await?;
            operate("teardown", Some(resource))
                .await
                .map_err(|error| format!("again, {error}"))?;
            Ok("create and teardown may come again, and the place is found in between".to_owned())
        };
        Ok(checked.await)
    }

    /// What the hub does with an agent after a crash: it runs again, and what it called is answered from the log.
    async fn again(&self) -> Result<Checked> {
        let scene = self.usual_scene().await?;
        let first = self.base(&scene, self.stage.loaded()).await;
        if let Err(error) = &first.result
            && broke(error)
        {
            return Ok(Err(ended(error, &scene)));
        }
        let past = scene.fake.asked();
        let second = self.usual_scene().await?;
        second.keep(&scene.kept().await?).await?;
        let came = second
            .replay(self.stage.loaded(), &self.base.made, first.run, &past)
            .await;
        let new = second.fake.asked();
        Ok(match (came.diverged, new.first()) {
            (Some(diverged), _) => Err(diverged),
            (None, Some(new)) => Err(format!(
                "run again, it makes the call {} too, which it did not before",
                new.name
            )),
            (None, None) if came.result.is_ok() != first.result.is_ok() => {
                Err("run again with the same replies, it ends in another way".to_owned())
            }
            (None, None) => Ok(format!(
                "run again after a crash, it makes the same {} calls",
                past.len()
            )),
        })
    }
}

impl Base {
    /// The plainest call of a plugin that has no case which replies.
    fn without_case(stage: &Stage) -> Self {
        let manifest = stage.manifest();
        let name = match operations(manifest.role).first() {
            Some(operation) => operation,
            None => manifest.serves.first().map_or("test", String::as_str),
        };
        let (kind, action) = match name.split_once(':') {
            Some((kind, action)) => (kind, Some(action)),
            None => (name, None),
        };
        let empty = Json::of(&json!({})).unwrap_or_else(|_| Json::null());
        Self {
            made: Made {
                name: CallName::new(kind, action.filter(|action| *action != "*")),
                message: filled(manifest.role, &empty),
                limit: stage.timeout(),
            },
            answers: Vec::new(),
            state: BTreeMap::new(),
        }
    }

    /// A fresh place in which it succeeds.
    async fn scene(&self, stage: &Stage) -> Result<Scene> {
        let scene = stage.scene(Manner::Freely(self.answers.clone()))?;
        scene.keep(&self.state).await?;
        Ok(scene)
    }
}

/// Whether the plugin broke: its code trapped.
fn broke(error: &CallError) -> bool {
    error.kind == ErrorKind::Trapped
}

/// How often calls came to what.
#[derive(Default)]
struct Ends {
    replies: usize,
    errors: BTreeMap<&'static str, usize>,
}

impl Ends {
    fn count(&mut self, result: &Result<Json, CallError>) {
        match result {
            Ok(_) => self.replies += 1,
            Err(error) => *self.errors.entry(error.kind.as_str()).or_default() += 1,
        }
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answered", self.replies)?;
        for (kind, count) in &self.errors {
            write!(f, ", {count} ended with {kind}")?;
        }
        Ok(())
    }
}

fn mebibytes(size: usize) -> String {
    bytesize::ByteSize(size as u64).display().iec().to_string()
}
