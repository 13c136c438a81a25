import assert from "node:assert/strict";
import { test } from "node:test";

import { checked } from "./tickets.js";

test("a ticket has a number and a title", () => {
  assert.deepEqual(checked({ id: 7, title: " Slow start ", more: 1 }), { id: 7, title: "Slow start" });
});

test("anything else is invalid, and the error says what is missing", () => {
  assert.throws(() => checked({ title: "x" }), { kind: "invalid", message: "`id` is missing; it is a whole number" });
  assert.throws(() => checked({ id: 7, title: " " }), { kind: "invalid", message: "`title` is missing; it is a text" });
});
