// Unix sockets of the operator's. Needs the grant `socket`.

import { Connection as Inner } from "waypost:socket/sockets@0.1.0";

import { decoded, encoded, joined } from "./bytes.js";
import { asked } from "./error.js";

export function open(socket, { timeoutMs } = {}) {
  return new Connection(asked(() => Inner.connect(socket, timeoutMs)));
}

export class Connection {
  #inner;

  constructor(inner) {
    this.#inner = inner;
  }

  send(content) {
    asked(() => this.#inner.send(encoded(content)));
  }

  finish() {
    asked(() => this.#inner.finish());
  }

  *[Symbol.iterator]() {
    for (;;) {
      const piece = this.#inner ? asked(() => this.#inner.next()) : undefined;
      if (piece == null) {
        this.close();
        return;
      }
      yield piece;
    }
  }

  bytes() {
    return joined([...this]);
  }

  text() {
    return decoded(this.bytes(), "what came over the socket");
  }

  close() {
    this.#inner?.[Symbol.dispose]();
    this.#inner = undefined;
  }

  [Symbol.dispose]() {
    this.close();
  }
}
