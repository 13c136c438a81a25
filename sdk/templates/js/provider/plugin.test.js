import assert from "node:assert/strict";
import { test } from "node:test";

import { health, purposeOf } from "./places.js";

test("settings may be left out", () => {
  assert.equal(purposeOf({}), "any work");
  assert.equal(purposeOf({ purpose: "a release" }), "a release");
});

test("settings that do not exist are invalid", () => {
  assert.throws(() => purposeOf({ color: "red" }), {
    kind: "invalid",
    message: "there is no setting `color`; there is `purpose`",
  });
});

test("a place without its folder is gone", () => {
  assert.deepEqual([health(true), health(false)], ["ready", "gone"]);
});
