//! Components that hurt whoever compiles them: each is ended by the limits of the process that compiles it, or refused.

use std::fs;

use serde_json::{Value, json};

use super::field::{Field, GROWTH};
use crate::harness::Plugin;
use crate::harness::component::Text;

/// What compiling may take here.
const LIMITS: &str = "compile-time = \"2s\"\ncompile-memory = \"128MiB\"";

/// How a bomb ends that runs into them; between the two stands how its process ended.
const ENDED: [&str; 2] = [
    "plugin `hostile` was not compiled: the process that compiles it was ",
    "; its limits are `compile-time` and `compile-memory` of [limits]",
];

/// How one ends that the engine does not even begin with.
const REFUSED: [&str; 2] = ["plugin `hostile` is not a component that this engine accepts: ", ""];

/// What is hard to compile, and how the reload ends that tries to.
type Bomb = (&'static str, fn() -> Vec<u8>, [&'static str; 2]);

/// All of them.
pub const BOMBS: [Bomb; 8] = [
    ("many_long_functions", many_long_functions, ENDED),
    ("values_that_live_through_many_loops", loops, ENDED),
    ("a_million_ways_to_branch", branches, ENDED),
    ("deep_nesting", nesting, ENDED),
    ("a_million_types", types, ENDED),
    ("a_type_that_doubles", doubling_type, REFUSED),
    ("instances_that_double", doubling_instances, ENDED),
    ("a_million_functions", functions, ENDED),
];

/// A handler with these items in its core module.
fn handler(items: String) -> Vec<u8> {
    // The text lives as long as the trials.
    Text::handler().items(items.leak()).bytes()
}

/// A handler with these items beside its core module.
fn component(items: String) -> Vec<u8> {
    Text::handler().imports(items.leak()).bytes()
}

fn many_long_functions() -> Vec<u8> {
    let body = "(i32.const 7) (i32.mul) (local.get 0) (i32.add) ".repeat(60_000);
    handler(format!("(func (param i32) (result i32) (local.get 0) {body})").repeat(20))
}

fn loops() -> Vec<u8> {
    let (depth, locals) = (1000, 2000);
    let declared = format!("(local {})", "i64 ".repeat(locals));
    let changed: String = (0..locals)
        .map(|local| format!("(local.set {local} (i64.add (local.get {local}) (i64.const {local})))"))
        .collect();
    let (opened, closed) = ("(loop ".repeat(depth), ")".repeat(depth));
    handler(format!(
        "(func {declared} {opened} {changed} (br_if 500 (i32.const 1)) {closed})"
    ))
}

fn branches() -> Vec<u8> {
    let ways = "0 1 ".repeat(30_000);
    let tables = format!("(block (block (br_table {ways} (local.get 0))))").repeat(40);
    handler(format!("(func (param i32) {tables})"))
}

fn nesting() -> Vec<u8> {
    let depth = 400_000;
    handler(format!("(func {}{})", "(block ".repeat(depth), ")".repeat(depth)))
}

fn types() -> Vec<u8> {
    let kinds = ["i32", "i64", "f32", "f64"];
    let types: String = (0..900_000)
        .map(|number: usize| {
            let parameters: Vec<&str> = (0..10).map(|place| kinds[number >> (2 * place) & 3]).collect();
            format!("(type (func (param {})))", parameters.join(" "))
        })
        .collect();
    handler(types)
}

fn functions() -> Vec<u8> {
    handler("(func (result i32) (i32.const 1))".repeat(900_000))
}

fn doubling_type() -> Vec<u8> {
    let doubled: String = (1..60)
        .map(|number| format!("(type $t{number} (tuple $t{} $t{}))", number - 1, number - 1))
        .collect();
    component(format!("(type $t0 (tuple string string)) {doubled}"))
}

fn doubling_instances() -> Vec<u8> {
    let doubled: String = (1..40)
        .map(|number| {
            let twice = format!("(instance (instantiate $c{}))", number - 1).repeat(2);
            format!("(component $c{number} {twice})")
        })
        .collect();
    component(format!(
        "(component $c0 (core module $m) (core instance (instantiate $m))) {doubled} (instance (instantiate $c39))"
    ))
}

/// The bomb is loaded in place of a plugin that answers: that one stays, and nothing is left of the process that tried.
pub async fn goes_off(bomb: Bomb, wall: &'static str) {
    let (_, made, [begins, ends]) = bomb;
    let bytes = tokio::task::spawn_blocking(made).await.unwrap();
    let field = Field::enter(&Plugin::of("noop"), wall, LIMITS).await;
    let answered = json!({ "call": "hostile", "message": null });
    let (status, _) = field.ask("/calls", &answered).await;
    assert_eq!(status, 200);
    let (processes, memory, most) = (field.processes(), field.memory(), field.most_memory());
    fs::write(field.root().join("plugins/hostile.wasm"), bytes).unwrap();
    field.attacked();
    let (_, answer) = field.ask("/plugins/hostile/reload", &Value::Null).await;
    let message = answer["error"]["message"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    assert!(message.starts_with(begins) && message.ends_with(ends), "{message}");
    field.unnoticed().await;
    assert_eq!(field.processes(), processes, "what compiled is gone");
    assert!(field.memory() < memory + GROWTH && field.most_memory() < most + GROWTH);
    let (status, _) = field.ask("/calls", &answered).await;
    assert_eq!(status, 200, "the version before is asked");
    field.leave([("answered".to_owned(), 2)].into()).await;
}
