// @ts-check
// {{name}}: asks a model, and answers what it says.

import * as gateway from "./sdk/gateway.js";
import * as waypost from "./sdk/waypost.js";
import { answer, conversation } from "./conversation.js";

export const agent = waypost.agent((task) => {
  const reply = gateway.call("inference", { messages: conversation(task) });
  waypost.log.info(`run ${task.run} has its answer`);
  return answer(reply);
});
