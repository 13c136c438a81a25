/**
 * Capability calls that a plugin makes itself. Needs the grant `gateway`, a list of the calls that may be made.
 *
 * A call made here takes the hub's one path: rights, routes, log. It may do what the plugin was granted and what the
 * plugin's own caller may do, whichever is less, and it is cancelled together with the call that the plugin works on.
 */

import type { Meta } from "./waypost.js";

/** What may be said of a call beside its message. */
export interface Options {
  /** A time limit in milliseconds. The hub takes the smallest of this, the route's, and what is left to the plugin. */
  timeoutMs?: number;
  /** Facts beside the message. */
  meta?: Meta;
}

/** Makes a call, as in `call("fsEvent:readFile", { path: "a.txt" })`, and waits for its reply. Throws a `CallError`. */
export function call<Reply = any>(name: string, message?: unknown, options?: Options): Reply;

/** Starts a call, to read its chunks as they come. */
export function start<Reply = any, Chunk = any>(
  name: string,
  message?: unknown,
  options?: Options,
): Running<Reply, Chunk>;

/** A call under way. */
export interface Running<Reply = any, Chunk = any> {
  /** The chunks as they come; it ends with the call. What is not read here is skipped by `finish`. */
  chunks(): IterableIterator<Chunk>;
  /** Waits for the end. */
  finish(): Reply;
  /** Gives up: the call is cancelled, and has no reply. */
  cancel(): void;
}
