// How a call fails. Nothing here reaches the hub, so that functions that throw a CallError are tested in Node as they are.

/** The cases, as the contract has them. */
const KINDS = [
  "not-found",
  "denied",
  "invalid",
  "limit",
  "timeout",
  "cancelled",
  "trapped",
  "unavailable",
  "indeterminate",
  "internal",
  "other",
];

export class CallError extends Error {
  constructor(kind, message) {
    if (!KINDS.includes(kind)) {
      throw new TypeError(`${JSON.stringify(kind)} is no case of CallError; the cases are ${KINDS.join(", ")}`);
    }
    super(String(message));
    this.name = "CallError";
    this.kind = kind;
    // The engine takes the variant of the contract from here.
    Object.defineProperty(this, "payload", { value: { tag: kind, val: this.message } });
  }

  static notFound(message) {
    return new CallError("not-found", message);
  }

  static denied(message) {
    return new CallError("denied", message);
  }

  static invalid(message) {
    return new CallError("invalid", message);
  }

  static limit(message) {
    return new CallError("limit", message);
  }

  static timeout(message) {
    return new CallError("timeout", message);
  }

  static cancelled(message) {
    return new CallError("cancelled", message);
  }

  static trapped(message) {
    return new CallError("trapped", message);
  }

  static unavailable(message) {
    return new CallError("unavailable", message);
  }

  static indeterminate(message) {
    return new CallError("indeterminate", message);
  }

  static internal(message) {
    return new CallError("internal", message);
  }

  static other(message) {
    return new CallError("other", message);
  }

  toString() {
    return `${this.kind}: ${this.message}`;
  }
}

/** Asks the hub. What it answers as an error is thrown as a CallError. */
export function asked(ask) {
  try {
    return ask();
  } catch (error) {
    const failed = error?.payload;
    throw KINDS.includes(failed?.tag) ? new CallError(failed.tag, failed.val) : error;
  }
}

/** What a function gave, which must not be a promise: nobody would wait for it. */
export function settled(what, value) {
  if (typeof value?.then === "function") {
    throw new TypeError(`${what} is a promise: a plugin works synchronously, so its functions are not \`async\``);
  }
  return value;
}

/** A value as JSON; `undefined` is `null`. What cannot be written is the author's mistake and named as `what`. */
export function written(what, value) {
  settled(what, value);
  try {
    return JSON.stringify(value) ?? "null";
  } catch (error) {
    throw CallError.other(`${what} cannot be written as JSON: ${error.message}`);
  }
}
