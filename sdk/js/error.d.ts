/** The word for each case of a {@link CallError}, as it stands in logs and in JSON. Treat the set as open. */
export type CallErrorKind =
  | "not-found"
  | "denied"
  | "invalid"
  | "limit"
  | "timeout"
  | "cancelled"
  | "trapped"
  | "unavailable"
  | "indeterminate"
  | "internal"
  | "other";

/**
 * How a call failed: thrown by your function it is the call's end, and thrown at you it is the end of a call that you made.
 * The message is one sentence for people: the thing and the remedy. Branch on `kind`, never on the message.
 *
 * Anything else that is thrown ends the call as `trapped`, with its stack in the plugin's log.
 */
export class CallError extends Error {
  constructor(kind: CallErrorKind, message: string);
  readonly kind: CallErrorKind;
  /** The named thing does not exist. */
  static notFound(message: string): CallError;
  /** Something said no. */
  static denied(message: string): CallError;
  /** The input has the wrong shape or value. */
  static invalid(message: string): CallError;
  /** A named limit was reached; the message names it. */
  static limit(message: string): CallError;
  /** The time limit passed, and the work has stopped. */
  static timeout(message: string): CallError;
  /** The caller gave up, and the work has stopped. */
  static cancelled(message: string): CallError;
  /** A plugin's code trapped. The hub says this; a plugin need not. */
  static trapped(message: string): CallError;
  /** Nothing was done; the hub then asks the route's next target. */
  static unavailable(message: string): CallError;
  /** The work may or may not have had its effect. */
  static indeterminate(message: string): CallError;
  /** A defect of the hub. */
  static internal(message: string): CallError;
  /** Anything else. */
  static other(message: string): CallError;
  /** The case and the sentence, as in `not-found: there is no ticket 7`. */
  toString(): string;
}
