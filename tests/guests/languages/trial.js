// What the trials ask of a handler beside what its template serves: every error, calls of its own, and what goes wrong.

import { handler as template } from "./plugin.js";
import * as gateway from "./sdk/gateway.js";
import * as state from "./sdk/state.js";
import * as waypost from "./sdk/waypost.js";

const { CallError } = waypost;
const meta = [["why", "a trial"]];

const trial = waypost.handler({
  "trial:fail": (_, { kind, text }) => {
    throw CallError[kind.replace(/-(.)/, (_, letter) => letter.toUpperCase())](text);
  },
  "trial:call": (_, { name, message }) => {
    try {
      return { reply: gateway.call(name, message, { timeoutMs: 20_000, meta }) };
    } catch (error) {
      if (error instanceof CallError) {
        return { error: String(error), kind: error.kind, text: error.message };
      }
      throw error;
    }
  },
  "trial:stream": (call, message) => {
    const running = gateway.start("chunks", message);
    for (const chunk of running.chunks()) {
      call.emit({ passed: chunk.number });
    }
    return running.finish();
  },
  "trial:cancel": () => {
    const running = gateway.start("sleeper", null);
    running.cancel();
    return gateway.call("confirmationRequest", { message: "Is it gone?" });
  },
  "trial:facts": ({ id, name, action, project, run, timeLeftMs }) => ({
    facts: { name, action, project, run: run ?? null },
    unique: id,
    timeLeft: timeLeftMs > 0,
    random: Math.random(),
    now: Date.now(),
  }),
  "trial:state": (_, value) => {
    state.set("a", value);
    state.set("b/1", null);
    state.remove("nothing");
    const kept = [state.get("a"), state.get("nothing") ?? "nothing", state.keys("b/"), state.keys().includes("a")];
    state.remove("a");
    return [...kept, state.get("a") ?? "nothing"];
  },
  "trial:print": () => console.log("printed", { it: 1 }),
  "trial:crash": () => {
    throw new Error("a fault of its author");
  },
  "trial:loop": (_, message) => {
    message.self = message;
    return message;
  },
  "trial:promise": async () => "too late",
  "trial:full": () => state.set("", 1),
});

export const handler = {
  handle: (call) => (call.kind === "trial" ? trial : template).handle(call),
};
