// Files in folders of the operator's. Needs the grant `files`.

import * as files from "waypost:files/files@0.1.0";

import { decoded, encoded, joined } from "./bytes.js";
import { CallError, asked } from "./error.js";
import { Held } from "./held.js";

const known = ({ kind, size, changedMs }) => ({
  kind,
  size: Number(size),
  changed: changedMs == null ? undefined : new Date(Number(changedMs)),
});

export function stat(folder, path) {
  try {
    return known(asked(() => files.stat(folder, path)));
  } catch (error) {
    if (error instanceof CallError && error.kind === "not-found") {
      return undefined;
    }
    throw error;
  }
}

export function list(folder, path = "") {
  return asked(() => files.list(folder, path)).map(({ name, kind, size }) => ({ name, kind, size: Number(size) }));
}

export function read(folder, path) {
  return joined([...open(folder, path)]);
}

export function readText(folder, path) {
  return decoded(read(folder, path), `\`${path}\``);
}

export function write(folder, path, content) {
  asked(() => files.write(folder, path, encoded(content)));
}

export function remove(folder, path) {
  asked(() => files.remove(folder, path));
}

export function open(folder, path, offset = 0) {
  return new Reader(asked(() => files.Reader.open(folder, path, offset)));
}

export class Reader extends Held {
  [Symbol.iterator]() {
    return this.pieces();
  }
}
