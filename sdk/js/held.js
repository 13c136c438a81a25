// What the hub holds open for this plugin, until it is closed.

import { CallError, asked } from "./error.js";

export class Held {
  #inner;

  constructor(inner) {
    this.#inner = inner;
  }

  /** Asks for something of it. */
  ask(ask) {
    if (!this.#inner) {
      throw CallError.invalid("this was closed before");
    }
    return asked(() => ask(this.#inner));
  }

  /** What comes next; nothing when there is no more, or it was closed. */
  next() {
    return this.#inner ? this.ask((inner) => inner.next()) : undefined;
  }

  /** All that comes; then it is closed. */
  *pieces() {
    for (let piece; (piece = this.next()) != null; ) {
      yield piece;
    }
    this.close();
  }

  close() {
    this.#inner?.[Symbol.dispose]();
    this.#inner = undefined;
  }

  [Symbol.dispose]() {
    this.close();
  }
}
