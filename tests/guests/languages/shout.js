// A handler in JavaScript: shouts what it is told, and counts the letters on the way.

import { emit } from "waypost:gateway/answer@0.1.0";
import { log } from "waypost:log/log@0.1.0";

export const handler = {
  handle(call) {
    const { text } = JSON.parse(call.message);
    if (typeof text !== "string") {
      throw { tag: "invalid", val: "`text` is missing; it is a string" };
    }
    log("info", `${call.project} shouts`);
    emit(JSON.stringify({ letters: text.length }));
    return { message: JSON.stringify({ text: text.toUpperCase(), by: "JavaScript" }), meta: [] };
  },
};
