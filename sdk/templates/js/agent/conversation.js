// @ts-check
// What {{name}} knows of conversations. Nothing here reaches the hub, so Node tests it as it is.

import { CallError } from "./sdk/error.js";

/** What a model is asked. @param {Pick<import("./sdk/waypost.js").Task, "prompt" | "history" | "settings">} task */
export function conversation({ prompt, history, settings }) {
  const instructions = settings.instructions ?? "Answer in one short paragraph.";
  return [
    { role: "system", content: instructions },
    ...history.flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.answer },
    ]),
    { role: "user", content: prompt },
  ];
}

/** What a model answered. @param {any} reply @returns {string} */
export function answer(reply) {
  if (typeof reply?.content !== "string" || reply.content.trim() === "") {
    throw CallError.other("the model answered nothing; ask again, or ask another model");
  }
  return reply.content.trim();
}
