// Capability calls that a plugin makes itself. Needs the grant `gateway`.

import { call as make, Running as Inner } from "waypost:gateway/calls@0.1.0";

import { CallError, asked, written } from "./error.js";

function request(name, message, { timeoutMs, meta = [] }) {
  const [kind, action] = name.split(/:(.*)/s);
  return { kind, action, message: written(`the message of ${name}`, message), timeoutMs, meta };
}

export function call(name, message = {}, options = {}) {
  const wanted = request(name, message, options);
  return JSON.parse(asked(() => make(wanted)).message);
}

export function start(name, message = {}, options = {}) {
  const wanted = request(name, message, options);
  return new Running(asked(() => Inner.start(wanted)));
}

export class Running {
  #inner;

  constructor(inner) {
    this.#inner = inner;
  }

  *chunks() {
    for (;;) {
      const chunk = this.#inner?.next() ?? null;
      if (chunk === null) {
        return;
      }
      yield JSON.parse(chunk);
    }
  }

  finish() {
    if (!this.#inner) {
      throw CallError.invalid("this call was cancelled by `cancel`");
    }
    return JSON.parse(asked(() => this.#inner.finish()).message);
  }

  cancel() {
    this.#inner?.[Symbol.dispose]();
    this.#inner = undefined;
  }

  [Symbol.dispose]() {
    this.cancel();
  }
}
