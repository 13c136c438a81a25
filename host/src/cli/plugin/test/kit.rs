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
use super::stage::{Came, GivenUp, Made, Scene, Stage};
use super::{Checked, Report, ended, same, short};
use crate::call::{CallError, CallName, Json};
use crate::error::{ErrorKind, Result};
use crate::plugin::{Loaded, Role};
use crate::text::shortened;

/// The size of what is huge, in bytes of text and in entries.
const HUGE_TEXT: usize = 1 << 20;
const HUGE_LIST: usize = 100_000;
const HUGE_DEPTH: usize = 100;
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
    base: Made,
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
    check!("huge-messages", kit.messages("huge", &huge(), &["x".repeat(HUGE_TEXT)]));
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
        let limit = stage.timeout();
        let first = operations(manifest.role).first();
        let is_base =
            |case: &&Case| case.reply.is_some() && first.is_none_or(|first| case.call.0.to_string() == *first);
        if let Some(case) = cases.iter().find(is_base) {
            return Self {
                stage,
                base: Made {
                    name: case.call.0.clone(),
                    message: case.message.0.clone(),
                    limit: case.timeout.unwrap_or(limit),
                },
                answers: case.fake.clone(),
                state: case.state.clone(),
            };
        }
        let name = first.map_or_else(
            || manifest.serves.first().map_or("test", String::as_str),
            |operation| operation,
        );
        let (kind, action) = name
            .split_once(':')
            .map_or((name, None), |(kind, action)| (kind, Some(action)));
        let empty = Json::of(&json!({})).unwrap_or_else(|_| Json::null());
        Self {
            stage,
            base: Made {
                name: CallName::new(kind, action.filter(|action| *action != "*")),
                message: filled(manifest.role, &empty),
                limit,
            },
            answers: Vec::new(),
            state: BTreeMap::new(),
        }
    }

    async fn scene(&self, manner: Manner) -> Result<Scene> {
        let scene = self.stage.scene(manner)?;
        scene.keep(&self.state).await?;
        Ok(scene)
    }

    async fn usual_scene(&self) -> Result<Scene> {
        self.scene(Manner::Freely(self.answers.clone())).await
    }

    async fn base(&self, scene: &Scene, loaded: &Loaded) -> Came {
        scene.call(loaded, &self.base).await
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
        let messages = variants(self.stage.manifest().role, &self.base.message, values, texts);
        let mut ends = Ends::default();
        for message in &messages {
            let scene = self.usual_scene().await?;
            let made = Made {
                message: message.clone(),
                ..self.base.clone()
            };
            let came = scene.call(self.stage.loaded(), &made).await;
            if let Err(error) = &came.result
                && (broke(error) || came.late)
            {
                return Ok(Err(format!(
                    "on the message {} {}",
                    shortened(message.as_str(), MESSAGE),
                    ended(error, &scene)
                )));
            }
            ends.count(&came.result);
        }
        Ok(Ok(format!("{} {what} messages: {ends}", messages.len())))
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
            ..self.base.clone()
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
        let came = scene.give_up(self.stage.loaded(), &self.base, when).await;
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
            ..self.base.clone()
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
            let mut message = match self.base.message.to::<Value>() {
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
                limit: self.base.limit,
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
        let came = second.replay(self.stage.loaded(), &self.base, first.run, &past).await;
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

/// Values of shapes that nobody expects.
fn odd() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5e300),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{202e}💥\n"),
        json!([]),
        json!([null, [], {}]),
        json!({}),
        json!({ "": {}, "__proto__": { "x": 1 }, "constructor": null }),
        nested(30),
    ]
}

fn odd_texts() -> Vec<String> {
    ["", "\u{0}\u{202e}💥\n", "../../etc/passwd", "x'\"`${{}}%s"]
        .map(str::to_owned)
        .to_vec()
}

/// Values of a size that nobody expects.
fn huge() -> Vec<Value> {
    let keys = (0..HUGE_LIST / 10).map(|number| (format!("key-{number}"), Value::Null));
    vec![
        json!("x".repeat(HUGE_TEXT)),
        Value::Array(vec![Value::Null; HUGE_LIST]),
        Value::Object(keys.collect()),
        nested(HUGE_DEPTH),
    ]
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
}

fn refusal(kind: ErrorKind) -> Result<Json, CallError> {
    Err(CallError::new(kind, "this is a test of what goes wrong"))
}

fn failures() -> Vec<Result<Json, CallError>> {
    [
        ErrorKind::NotFound,
        ErrorKind::Invalid,
        ErrorKind::Limit,
        ErrorKind::Timeout,
        ErrorKind::Unavailable,
        ErrorKind::Indeterminate,
        ErrorKind::Internal,
        ErrorKind::Other,
    ]
    .map(refusal)
    .to_vec()
}

fn odd_replies() -> Vec<Result<Json, CallError>> {
    odd().iter().chain(&huge()).map(Json::of).collect()
}

/// The message with each of these values in each place that takes any JSON, and each text where only a text can stand.
fn variants(role: Role, base: &Json, values: &[Value], texts: &[String]) -> Vec<Json> {
    let base: Value = base.to().unwrap_or_default();
    let (any, text): (Vec<&str>, Vec<&str>) = match role {
        Role::Handler => (Vec::new(), Vec::new()),
        Role::Provider => (vec!["settings"], vec!["environment"]),
        Role::Agent => (vec!["settings"], vec!["prompt"]),
        Role::Observer => (vec!["message", "reply"], vec!["kind", "action"]),
    };
    let mut made = Vec::new();
    let mut with = |field: &str, value: Value| {
        let mut whole = base.clone();
        if let Some(fields) = whole.as_object_mut() {
            fields.insert(field.to_owned(), value);
            made.push(whole);
        }
    };
    for value in values {
        for field in &any {
            with(field, value.clone());
        }
        for field in base
            .as_object()
            .filter(|_| role == Role::Handler)
            .into_iter()
            .flat_map(Map::keys)
        {
            with(field, value.clone());
        }
    }
    for value in texts {
        for field in &text {
            with(field, value.clone().into());
        }
    }
    if role == Role::Handler {
        made.extend(values.iter().cloned());
    }
    made.iter().filter_map(|message| Json::of(message).ok()).collect()
}

fn mebibytes(size: usize) -> String {
    bytesize::ByteSize(size as u64).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_message_gets_every_value() {
        let base = Json::of(&json!({ "a": 1, "b": "x" })).unwrap();
        let made = variants(Role::Handler, &base, &[json!(null), json!([])], &[]);
        let made: Vec<&str> = made.iter().map(Json::as_str).collect();
        assert_eq!(
            made,
            [
                r#"{"a":null,"b":"x"}"#,
                r#"{"a":1,"b":null}"#,
                r#"{"a":[],"b":"x"}"#,
                r#"{"a":1,"b":[]}"#,
                "null",
                "[]"
            ]
        );
        for role in [Role::Provider, Role::Agent, Role::Observer] {
            let base = filled(role, &Json::of(&json!({})).unwrap());
            for message in variants(role, &base, &odd(), &odd_texts()) {
                let read = match role {
                    Role::Provider => message.to::<crate::plugin::execute::Wanted>().map(drop),
                    Role::Agent => message.to::<crate::plugin::execute::Task>().map(drop),
                    _ => message.to::<crate::plugin::execute::Notice>().map(drop),
                };
                read.unwrap_or_else(|error| panic!("{error}: {}", message.as_str()));
            }
        }
    }
}
