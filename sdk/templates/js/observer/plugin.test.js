import assert from "node:assert/strict";
import { test } from "node:test";

import { counted } from "./counts.js";
import { CallError } from "./sdk/error.js";

test("each call is counted, and each failure", () => {
  const first = counted(undefined, { error: undefined, lagged: 0 });
  assert.deepEqual(first, { calls: 1, failed: 0, missed: 0 });
  const second = counted(first, { error: CallError.timeout("too slow"), lagged: 3 });
  assert.deepEqual(second, { calls: 2, failed: 1, missed: 3 });
});
