//! Puts the pieces of one answer together: deltas in, chunks and the one reply out.
//!
//! Pure: no clock, no network. A whole `chat.completion` goes the same way as the events of a stream: nobody can tell
//! which of the two an endpoint speaks.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::message::text;

/// An answer as far as it has come.
#[derive(Default)]
pub(super) struct Answer {
    content: String,
    calls: BTreeMap<u64, Map<String, Value>>,
    size: usize,
    chosen: bool,
    finish_reason: Option<String>,
    usage: Option<Value>,
    about: Map<String, Value>,
}

impl Answer {
    /// Takes in one event, or one whole answer, and gives the chunks that it makes. The error says what is wrong.
    pub(super) fn push(&mut self, event: &Value) -> Result<Vec<Value>, String> {
        let Some(event) = event.as_object() else {
            return Err("it is not a JSON object".to_owned());
        };
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").unwrap_or(error);
            return Err(message.as_str().map_or_else(|| message.to_string(), str::to_owned));
        }
        for name in ["id", "created", "model"] {
            if let Some(value) = event.get(name).filter(|value| !value.is_null()) {
                self.about.entry(name).or_insert_with(|| value.clone());
            }
        }
        if let Some(usage) = event.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
        }
        let choices = event.get("choices").and_then(Value::as_array);
        let first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        let Some(choice) = choices.and_then(|choices| choices.iter().find(first)) else {
            return Ok(Vec::new());
        };
        self.chosen = true;
        if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(choice
            .get("delta")
            .or_else(|| choice.get("message"))
            .map_or_else(Vec::new, |delta| self.take(delta)))
    }

    /// Takes in the reply that ends a stream of parts, or is all there is. What the parts said is not taken again.
    pub(super) fn finish(&mut self, mut reply: Value) -> Result<Vec<Value>, String> {
        if self.chosen && reply.is_null() {
            return Ok(Vec::new());
        }
        let choices = reply.get_mut("choices").and_then(Value::as_array_mut);
        for choice in choices.into_iter().flatten() {
            for said in ["message", "delta"] {
                let Some(said) = choice.get_mut(said).and_then(Value::as_object_mut) else {
                    continue;
                };
                if !self.content.is_empty() {
                    said.remove("content");
                }
                if !self.calls.is_empty() {
                    said.remove("tool_calls");
                }
            }
        }
        let chunks = self.push(&reply)?;
        if self.chosen {
            Ok(chunks)
        } else {
            Err("its reply is no chat completion: it has no choice".to_owned())
        }
    }

    fn take(&mut self, delta: &Value) -> Vec<Value> {
        let mut chunks = Vec::new();
        let piece = delta.get("content").map(text).unwrap_or_default();
        if !piece.is_empty() {
            self.size += piece.len();
            self.content.push_str(&piece);
            chunks.push(json!({"content": piece}));
        }
        let calls = delta
            .get("tool_calls")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        if !calls.is_empty() {
            let chunk = json!({"tool_calls": calls});
            self.size += chunk.to_string().len();
            for call in calls.iter().filter_map(Value::as_object) {
                self.merge(call);
            }
            chunks.push(chunk);
        }
        chunks
    }

    /// Adds a fragment to its tool call: arguments grow, everything else is said once.
    fn merge(&mut self, fragment: &Map<String, Value>) {
        let call = self.calls.entry(self.place(fragment)).or_default();
        for (name, value) in fragment {
            match (name.as_str(), value) {
                ("index", _) | (_, Value::Null) => {}
                ("function", Value::Object(part)) => merge_function(call, part),
                ("id", Value::String(id)) if id.is_empty() => {}
                _ => {
                    call.entry(name.as_str()).or_insert_with(|| value.clone());
                }
            }
        }
    }

    /// Which tool call a fragment belongs to: the index says it; without one, a new id begins the next call.
    fn place(&self, fragment: &Map<String, Value>) -> u64 {
        if let Some(index) = fragment.get("index").and_then(Value::as_u64) {
            return index;
        }
        let last = self.calls.keys().next_back().copied();
        match fragment.get("id").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            Some(id) => {
                let known = self
                    .calls
                    .iter()
                    .find(|(_, call)| call.get("id").is_some_and(|known| known == id));
                known.map_or_else(|| last.map_or(0, |last| last.saturating_add(1)), |(index, _)| *index)
            }
            None => last.unwrap_or(0),
        }
    }

    /// Whether a finish reason was given: what follows is only about the answer.
    pub(super) fn finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// Whether there was a choice at all.
    pub(super) fn chosen(&self) -> bool {
        self.chosen
    }

    /// The bytes of its text and its tool calls.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The characters of its text.
    pub(super) fn characters(&self) -> usize {
        self.content.chars().count()
    }

    /// The canonical reply. `model` stands in when the endpoint did not name its own.
    pub(super) fn reply(self, model: &str) -> Value {
        let model = self.about.get("model").cloned().unwrap_or_else(|| json!(model));
        let calls: Vec<Value> = self
            .calls
            .into_values()
            .enumerate()
            .map(|(index, call)| complete(index, call))
            .collect();
        let content = if self.content.is_empty() && !calls.is_empty() {
            Value::Null
        } else {
            json!(self.content)
        };
        let mut message = json!({"role": "assistant", "content": content});
        let mut reply = json!({
            "role": "assistant",
            "content": self.content,
            "model": model,
            "finish_reason": self.finish_reason,
            "usage": self.usage.as_ref().map(usage),
        });
        if !calls.is_empty()
            && let (Some(message), Some(reply)) = (message.as_object_mut(), reply.as_object_mut())
        {
            message.insert("tool_calls".into(), json!(calls));
            reply.insert("tool_calls".into(), json!(calls));
        }
        let mut completion = self.about;
        completion.insert("object".into(), json!("chat.completion"));
        completion.insert("model".into(), model);
        completion.insert("usage".into(), json!(self.usage));
        let choice = json!({"index": 0, "message": message, "finish_reason": self.finish_reason});
        completion.insert("choices".into(), json!([choice]));
        if let Some(reply) = reply.as_object_mut() {
            reply.insert("completion".into(), Value::Object(completion));
        }
        reply
    }
}

fn merge_function(call: &mut Map<String, Value>, part: &Map<String, Value>) {
    let Some(function) = call.entry("function").or_insert_with(|| json!({})).as_object_mut() else {
        return;
    };
    for (name, value) in part {
        let Value::String(piece) = value else {
            // Some endpoints send the arguments as an object; the canonical form is its text.
            if name == "arguments" && value.is_object() {
                function.insert(name.clone(), json!(value.to_string()));
            }
            continue;
        };
        match function.entry(name.as_str()).or_insert_with(|| json!("")) {
            // Some endpoints repeat the whole name with every fragment.
            Value::String(whole) if name != "name" || whole != piece => whole.push_str(piece),
            _ => {}
        }
    }
}

/// A tool call with every member that a loop relies on; some small endpoints give no ids.
fn complete(index: usize, mut call: Map<String, Value>) -> Value {
    call.entry("id").or_insert_with(|| json!(format!("call_{}", index + 1)));
    call.entry("type").or_insert_with(|| json!("function"));
    if let Some(function) = call.entry("function").or_insert_with(|| json!({})).as_object_mut() {
        function.entry("name").or_insert_with(|| json!(""));
        function.entry("arguments").or_insert_with(|| json!(""));
    }
    Value::Object(call)
}

/// The three counts of a usage; null where the endpoint said nothing.
fn usage(sent: &Value) -> Value {
    let count = |name| sent.get(name).and_then(Value::as_u64);
    let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
    let sum = || Some(prompt?.saturating_add(completion?));
    let total = count("total_tokens").or_else(sum);
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    fn assemble(events: &[Value]) -> (Vec<Value>, Value) {
        let mut answer = Answer::default();
        let chunks = events.iter().flat_map(|event| answer.push(event).unwrap()).collect();
        (chunks, answer.reply("asked"))
    }

    #[test]
    fn a_whole_answer_and_a_stream_of_it_give_the_same_reply() {
        let call = json!({"id": "a", "type": "function", "function": {"name": "read", "arguments": "{\"p\":1}"}});
        let counts = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let message = json!({"role": "assistant", "content": "hi", "tool_calls": [call]});
        let whole = json!({"id": "x", "object": "chat.completion", "created": 7, "model": "m", "usage": counts,
                           "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]});
        let fragment = |id: &str, name: Value, arguments: &str| {
            let function = json!({"name": name, "arguments": arguments});
            delta(json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]}))
        };
        let stream = [
            json!({"id": "x", "created": 7, "model": "m", "choices": [{"index": 0, "delta": {"content": ""}}]}),
            delta(json!({"content": "h"})),
            delta(json!({"content": "i"})),
            fragment("a", json!("read"), ""),
            fragment("a", json!("read"), "{\"p\""),
            fragment("", Value::Null, ":1}"),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": counts}),
        ];
        let (chunks, reply) = assemble(&stream);
        assert_eq!(reply, assemble(std::slice::from_ref(&whole)).1);
        assert_eq!(chunks.len(), 5);
        assert_eq!(reply["completion"], whole);
        assert_eq!(reply["tool_calls"], json!([call]));
        assert_eq!(reply["usage"], counts);
        assert_eq!((&reply["content"], &reply["role"]), (&json!("hi"), &json!("assistant")));
    }

    #[test]
    fn what_the_endpoint_does_not_say_is_null() {
        let (chunks, reply) = assemble(&[delta(json!({"content": "x"}))]);
        assert_eq!(chunks, [json!({"content": "x"})]);
        let completion = json!({"object": "chat.completion", "model": "asked", "usage": null, "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": null}]});
        let expected = json!({"role": "assistant", "content": "x", "model": "asked", "finish_reason": null,
                              "usage": null, "completion": completion});
        assert_eq!(reply, expected);
        let (_, reply) = assemble(&[json!({"usage": {"prompt_tokens": 2}})]);
        assert_eq!(
            reply["usage"],
            json!({"prompt_tokens": 2, "completion_tokens": null, "total_tokens": null})
        );
        let (_, reply) = assemble(&[json!({"usage": {"prompt_tokens": 2, "completion_tokens": 3}})]);
        assert_eq!(reply["usage"]["total_tokens"], 5);
    }

    #[test]
    fn tool_calls_of_careless_endpoints_are_told_apart() {
        let whole =
            |id: &str, name: &str| json!({"tool_calls": [{"id": id, "function": {"name": name, "arguments": "{}"}}]});
        let (_, reply) = assemble(&[delta(whole("a", "one")), delta(whole("b", "two"))]);
        assert_eq!(reply["tool_calls"][1]["function"]["name"], "two");
        let without_id = json!({"tool_calls": [{"function": {"name": "one", "arguments": {"p": 1}}}]});
        let (_, reply) = assemble(&[delta(without_id)]);
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "one", "arguments": "{\"p\":1}"}});
        assert_eq!(reply["tool_calls"], json!([call]));
        assert_eq!(reply["completion"]["choices"][0]["message"]["content"], Value::Null);
        assert_eq!(reply["content"], "");
    }

    #[test]
    fn an_error_in_place_of_an_event_is_told() {
        let mut answer = Answer::default();
        assert_eq!(
            answer.push(&json!({"error": {"message": "overloaded"}})).unwrap_err(),
            "overloaded"
        );
        assert_eq!(answer.push(&json!({"error": "overloaded"})).unwrap_err(), "overloaded");
        assert_eq!(answer.push(&json!([])).unwrap_err(), "it is not a JSON object");
        assert!(!answer.chosen());
    }

    #[test]
    fn a_reply_adds_what_its_parts_left_out() {
        let call = json!({"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}});
        let counts = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let message = json!({"role": "assistant", "content": "hi", "tool_calls": [call]});
        let whole = json!({"id": "x", "object": "chat.completion", "model": "m", "usage": counts,
                           "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]});
        let parts = [
            vec![],
            vec![json!({"content": "hi"})],
            vec![json!({"tool_calls": [call]})],
            vec![
                json!({"content": "h"}),
                json!({"content": "i"}),
                json!({"tool_calls": [call]}),
            ],
        ];
        for parts in parts {
            let mut answer = Answer::default();
            let mut chunks = Vec::new();
            for part in parts {
                chunks.extend(answer.push(&delta(part)).unwrap());
            }
            chunks.extend(answer.finish(whole.clone()).unwrap());
            let told = |name: &str| chunks.iter().filter(|chunk| chunk.get(name).is_some()).count();
            assert!(told("content") > 0 && told("tool_calls") == 1, "{chunks:?}");
            assert_eq!(answer.reply("asked")["completion"], whole);
        }
    }

    #[test]
    fn a_reply_that_is_no_chat_completion_is_told() {
        let none = "its reply is no chat completion: it has no choice";
        for (reply, why) in [
            (json!({}), none),
            (json!({"choices": []}), none),
            (json!({"choices": 7}), none),
            (json!(null), "it is not a JSON object"),
            (json!("hello"), "it is not a JSON object"),
            (json!({"error": "overloaded"}), "overloaded"),
        ] {
            assert_eq!(Answer::default().finish(reply).unwrap_err(), why);
        }
        // After parts, nothing more has to be said.
        for reply in [json!(null), json!({}), json!({"choices": [], "usage": {}})] {
            let mut answer = Answer::default();
            answer.push(&delta(json!({"content": "x"}))).unwrap();
            assert_eq!(answer.finish(reply), Ok(vec![]));
            assert_eq!(answer.reply("asked")["content"], "x");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let names = "(choices|delta|message|content|tool_calls|index|id|function|name|arguments|usage|finish_reason)";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u64>().prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(7, 40, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(names, inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_events_make_a_reply_of_the_right_shape(events in proptest::collection::vec(any_json(), 0..6),
                                                       last in any_json()) {
            let mut answer = Answer::default();
            let mut told = String::new();
            for event in &events {
                for chunk in answer.push(event).unwrap_or_default() {
                    told.push_str(chunk["content"].as_str().unwrap_or_default());
                }
            }
            for chunk in answer.finish(last).unwrap_or_default() {
                told.push_str(chunk["content"].as_str().unwrap_or_default());
            }
            let reply = answer.reply("m");
            prop_assert_eq!(&reply["content"], &json!(told));
            for call in reply["tool_calls"].as_array().into_iter().flatten() {
                prop_assert!(call.get("id").is_some() && call.get("type").is_some() && call.get("function").is_some());
            }
        }

        #[test]
        fn interleaved_fragments_find_their_call(pieces in proptest::collection::vec((0u64..3, "[a-z]{1,3}"), 1..20)) {
            let mut whole = BTreeMap::<u64, String>::new();
            let mut answer = Answer::default();
            for (index, piece) in &pieces {
                whole.entry(*index).or_default().push_str(piece);
                let fragment = json!({"index": index, "function": {"arguments": piece}});
                answer.push(&delta(json!({"tool_calls": [fragment]}))).unwrap();
            }
            let reply = answer.reply("m");
            let calls = reply["tool_calls"].as_array().unwrap();
            let told: Vec<&str> = calls.iter().map(|call| call["function"]["arguments"].as_str().unwrap()).collect();
            prop_assert_eq!(told, whole.values().map(String::as_str).collect::<Vec<_>>());
        }
    }
}
