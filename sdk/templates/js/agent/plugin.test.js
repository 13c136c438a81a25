import assert from "node:assert/strict";
import { test } from "node:test";

import { answer, conversation } from "./conversation.js";

test("a model is told what was said before", () => {
  const history = [{ prompt: "Hello", answer: "Good day." }];
  const asked = conversation({ prompt: "And now?", history, settings: { instructions: "Be brief." } });
  assert.deepEqual(
    asked.map(({ role, content }) => `${role}: ${content}`),
    ["system: Be brief.", "user: Hello", "assistant: Good day.", "user: And now?"],
  );
});

test("an answer without words is an error", () => {
  assert.equal(answer({ content: " Yes.\n" }), "Yes.");
  assert.throws(() => answer({ content: null }), { kind: "other" });
});
