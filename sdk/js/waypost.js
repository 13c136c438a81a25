// What every plugin in JavaScript imports: the four roles, CallError and log. What needs a grant stands in a file of its
// own (files.js, gateway.js, http.js, state.js, workspace.js), because a component has every import that its sources name.

import { emit } from "waypost:gateway/answer@0.1.0";
import { log as write } from "waypost:log/log@0.1.0";

import { CallError, asked, settled, written } from "./error.js";

export { CallError };

export const log = {
  debug: (message) => write("debug", String(message)),
  info: (message) => write("info", String(message)),
  warn: (message) => write("warn", String(message)),
  error: (message) => write("error", String(message)),
};

// The engine has no console.
const shown = (values) => values.map((value) => (typeof value === "string" ? value : JSON.stringify(value))).join(" ");
globalThis.console ??= {
  debug: (...values) => log.debug(shown(values)),
  log: (...values) => log.info(shown(values)),
  info: (...values) => log.info(shown(values)),
  warn: (...values) => log.warn(shown(values)),
  error: (...values) => log.error(shown(values)),
};

const named = ({ kind, action }) => (action == null ? kind : `${kind}:${action}`);

export class Call {
  constructor({ id, kind, action, project, run, environment, timeLeftMs, meta }) {
    Object.assign(this, {
      id,
      kind,
      action: action ?? undefined,
      project,
      run: run ?? undefined,
      environment: environment ?? undefined,
      timeLeftMs: Number(timeLeftMs),
      meta,
    });
  }

  get name() {
    return named(this);
  }

  emit(chunk) {
    const text = written(`a chunk of ${this.name}`, chunk);
    asked(() => emit(text));
  }
}

function covers(pattern, { kind, action }) {
  const [of, which] = pattern.split(/:(.*)/s);
  if (which === undefined) {
    return of === "*" || of === kind;
  }
  return of === kind && (which === "*" || which === (action ?? ""));
}

export function handler(table) {
  const functions = Object.entries(typeof table === "function" ? { "*": table } : table);
  return {
    handle(incoming) {
      seed(incoming.id);
      const call = new Call(incoming);
      const found = functions.find(([pattern]) => covers(pattern, call));
      if (!found) {
        const served = functions.map(([pattern]) => pattern).join(", ");
        throw CallError.notFound(`this plugin does not serve ${call.name}, only ${served}; fix the route`);
      }
      const reply = found[1](call, JSON.parse(incoming.message));
      return { message: written(`the reply of ${call.name}`, reply), meta: [] };
    },
  };
}

export const Place = {
  component: (folder) => ({ resourceId: folder, runtime: { component: folder }, meta: [] }),
};

const place = ({ resourceId, runtime, meta = [] }) => ({
  resourceId,
  runtime: { tag: "component", val: runtime.component },
  meta,
});

export function provider({ create, reconnect, inspect, teardown }) {
  return {
    create(wanted) {
      seed(wanted.environment);
      return place(settled("the place", create({ ...wanted, settings: JSON.parse(wanted.settings) })));
    },
    reconnect(environment, resourceId) {
      seed(environment);
      return place(settled("the place", reconnect(environment, resourceId)));
    },
    inspect(resourceId) {
      seed(resourceId);
      return settled("the health", inspect(resourceId));
    },
    teardown(resourceId) {
      seed(resourceId);
      settled("the end of teardown", teardown(resourceId));
    },
  };
}

export function agent(run) {
  return {
    run(task) {
      seed(task.run);
      const outcome = settled("the outcome", run({ ...task, settings: JSON.parse(task.settings) }));
      return typeof outcome === "string" ? { message: outcome, meta: [] } : { meta: [], ...outcome };
    },
  };
}

export function observer(notice) {
  return {
    notice({ id, kind, action, message, end, run, lagged, meta }) {
      seed(id);
      const ended =
        end.tag === "ok"
          ? { reply: JSON.parse(end.val), error: undefined }
          : { reply: undefined, error: new CallError(end.val.tag, end.val.val) };
      const done = notice({
        id,
        kind,
        action: action ?? undefined,
        name: named({ kind, action }),
        message: JSON.parse(message),
        ...ended,
        run: run ?? undefined,
        lagged: Number(lagged),
        meta,
      });
      settled("what the observer does", done);
    },
  };
}

// The engine's own random numbers are fixed when the component is built: every call would see the same ones. These come
// from what names the call, so they differ from call to call and are the same when an agent is replayed (xoshiro128**).
function seed(name) {
  const state = [1, 2, 3, 4].map((salt) => {
    let hash = 0x811c9dc5 ^ salt;
    for (let at = 0; at < name.length; at += 1) {
      hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193);
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return hash ^ (hash >>> 16);
  });
  const turned = (value, by) => (value << by) | (value >>> (32 - by));
  const next = () => {
    const result = Math.imul(turned(Math.imul(state[1], 5), 7), 9) >>> 0;
    const shifted = state[1] << 9;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = turned(state[3], 11);
    return result;
  };
  Math.random = () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}
