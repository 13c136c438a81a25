// Unix sockets of the operator's. Needs the grant `socket`.

import { Connection as Inner } from "waypost:socket/sockets@0.1.0";

import { decoded, encoded, joined } from "./bytes.js";
import { asked } from "./error.js";
import { Held } from "./held.js";

export function open(socket, { timeoutMs } = {}) {
  return new Connection(asked(() => Inner.connect(socket, timeoutMs)));
}

export class Connection extends Held {
  send(content) {
    this.ask((inner) => inner.send(encoded(content)));
  }

  finish() {
    this.ask((inner) => inner.finish());
  }

  [Symbol.iterator]() {
    return this.pieces();
  }

  bytes() {
    return joined([...this]);
  }

  text() {
    return decoded(this.bytes(), "what came over the socket");
  }
}
