// @ts-check
// {{name}}: counts calls, and how many of them failed.

import * as state from "./sdk/state.js";
import * as waypost from "./sdk/waypost.js";
import { counted } from "./counts.js";

export const observer = waypost.observer((notification) => {
  const count = counted(state.get(notification.name), notification);
  state.set(notification.name, count);
  waypost.log.info(`${notification.name}: ${count.calls} calls, ${count.failed} failed`);
});
