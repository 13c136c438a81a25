// What the trials ask of a handler beside what its template serves: every error, calls of its own, and what goes wrong.

import { handler as template } from "./plugin.js";
import * as files from "./sdk/files.js";
import * as gateway from "./sdk/gateway.js";
import * as http from "./sdk/http.js";
import * as process from "./sdk/process.js";
import * as socket from "./sdk/socket.js";
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
  "trial:ask": (call, { method = "GET", url, text, json, bearer, headers = [], millis, read = "text" }) => {
    const options = { headers: [...headers, ...Object.entries(bearer ? http.bearer(bearer) : {})], timeoutMs: millis };
    const answer = http.send(method, url, { ...options, body: text, json });
    const { status, headers: all } = answer;
    if (read === "pieces") {
      for (const piece of answer.pieces()) {
        call.emit(String.fromCharCode(...piece));
      }
      return { status, again: [...answer.pieces()].length };
    }
    if (read === "first") {
      const first = answer.pieces().next().value;
      answer.close();
      return String.fromCharCode(...first);
    }
    return { status, kind: answer.header("Content-Type"), same: all.length > 0, body: answer.success()[read]() };
  },
  "trial:files": (_, { folder, path, text }) => {
    files.write(folder, path, text);
    const { kind, size, changed } = files.stat(folder, path);
    const seen = {
      stat: [kind, size, changed.getFullYear() > 2020],
      none: files.stat(folder, "none") ?? null,
      list: files.list(folder).map((entry) => [entry.name, entry.kind, entry.size]),
      text: files.readText(folder, path),
      bytes: files.read(folder, path).length,
    };
    files.remove(folder, path);
    return seen;
  },
  "trial:pieces": (_, { folder, path, offset, times = 1 }) => {
    let sizes = [];
    for (let time = 0; time < times; time += 1) {
      sizes = [...files.open(folder, path, offset)].map((piece) => piece.length);
    }
    return sizes;
  },
  "trial:read": (_, { folder, path }) => files.readText(folder, path),
  "trial:run": (call, { program, args, input, folder, millis, read = "output", times = 1 }) => {
    const options = { input, folder, timeoutMs: millis };
    for (let time = 1; time < times; time += 1) {
      process.run(program, args, options);
    }
    if (read === "pieces") {
      const running = process.start(program, args, options);
      for (const { from, bytes } of running) {
        call.emit([from, String.fromCharCode(...bytes)]);
      }
      const { code = null, signal = null } = running.finish();
      return [code, signal];
    }
    const output = process.run(program, args, options);
    return read === "text" ? output.success().text() : [output.code ?? null, output.signal ?? null, output.stdout.length, output.stderr.length];
  },
  "trial:talk": (_, { name, text, more, millis, times = 1 }) => {
    for (let time = 1; time < times; time += 1) {
      const connection = socket.open(name);
      connection.send(text);
      connection.finish();
      connection.bytes();
    }
    const connection = socket.open(name, { timeoutMs: millis });
    connection.send(text);
    if (more !== undefined) {
      const first = connection[Symbol.iterator]().next().value.length;
      connection.send(more);
      const rest = connection.text();
      connection.close();
      return [first, rest];
    }
    connection.finish();
    return connection.text();
  },
  "trial:full": () => state.set("", 1),
});

export const handler = {
  handle: (call) => (call.kind === "trial" ? trial : template).handle(call),
};
