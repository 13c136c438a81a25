// Programs of the operator's. Needs the grant `process`.

import { Running as Inner } from "waypost:process/programs@0.1.0";

import { decoded, encoded, joined } from "./bytes.js";
import { CallError, asked } from "./error.js";
import { Held } from "./held.js";

export function start(program, args = [], { input = "", folder, timeoutMs } = {}) {
  return new Running(asked(() => Inner.start({ program, args, input: encoded(input), folder, timeoutMs })));
}

export function run(program, args, options) {
  const running = start(program, args, options);
  const written = { stdout: [], stderr: [] };
  for (const { from, bytes } of running) {
    written[from].push(bytes);
  }
  const ending = running.finish();
  running.kill();
  return new Output(ending, joined(written.stdout), joined(written.stderr));
}

export class Running extends Held {
  *[Symbol.iterator]() {
    for (let piece; (piece = this.next()) != null; ) {
      yield { from: piece.tag, bytes: piece.val };
    }
  }

  finish() {
    const { tag, val } = this.ask((inner) => inner.finish());
    return { [tag]: val };
  }

  kill() {
    this.close();
  }
}

export class Output {
  constructor({ code, signal }, stdout, stderr) {
    this.code = code;
    this.signal = signal;
    this.stdout = stdout;
    this.stderr = stderr;
  }

  success() {
    if (this.code !== 0) {
      const how = this.signal ?? `the exit code ${this.code}`;
      const said = decoded(this.stderr, "what the program wrote to its standard error").trim();
      throw CallError.other(`the program ended with ${how}: ${said}`);
    }
    return this;
  }

  text() {
    return decoded(this.stdout, "what the program wrote");
  }
}
