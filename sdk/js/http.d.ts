/**
 * Requests to servers. Needs the grant `http`, a list of the servers that may be asked; not for agents.
 *
 * Redirects are not followed: a 302 is an answer like any other. What fails throws a `CallError`: `denied` for a server that
 * is not granted, `unavailable` when nothing was done, `indeterminate` when what was sent may have had an effect.
 */

import type { Meta } from "./waypost.js";

declare const SECRET: unique symbol;

/** What stands for a secret of the operator's in a header. The plugin never has its text. */
export interface Secret {
  readonly [SECRET]: unknown;
}

/** A secret by its name, with what stands before it, as in `secret("github", "token ")`. Needs the grant `secrets`. */
export function secret(name: string, prefix?: string): Secret;

/** The header `authorization: Bearer` with a secret, as in `{ ...bearer("github"), accept: "text/plain" }`. */
export function bearer(name: string): { authorization: Secret };

/** Headers by name, or pairs where a name stands more than once or the order counts. */
export type Headers = Record<string, string | Secret> | [name: string, value: string | Secret][];

/** What may be said of a request beside its method and its address. */
export interface Options {
  /** Its headers. Those that belong to the connection are the hub's, and refused. */
  headers?: Headers;
  /** Its body; a text is sent as UTF-8. */
  body?: string | Uint8Array;
  /** Its body as JSON, with the header that says so; instead of `body`. */
  json?: unknown;
  /** A time limit in milliseconds, the answer's body included. The hub takes the smaller of this and what is left to the plugin. */
  timeoutMs?: number;
  /** Facts beside it. */
  meta?: Meta;
}

/** Sends a request, the method in capitals, and waits for the head of the answer, whatever its status. */
export function send(method: string, url: string | { toString(): string }, options?: Options): Response;

/** Sends a `GET`. */
export function get(url: string, options?: Options): Response;

/** Sends a `POST`. */
export function post(url: string, options?: Options): Response;

/** An answer. Its body is read once: in pieces, or as a whole. */
export interface Response {
  /** The status. */
  readonly status: number;
  /** All headers, names in lower case. */
  readonly headers: [name: string, value: string][];
  /** The first header of this name. */
  header(name: string): string | undefined;
  /** The same answer; throws `unavailable`, or `denied` for 401 and 403, when its status is no success. */
  success(): this;
  /** The body in pieces of at most 64 KiB, as they come; the connection is closed at its end. */
  pieces(): IterableIterator<Uint8Array>;
  /** The whole body. */
  bytes(): Uint8Array;
  /** The whole body as text; throws `invalid` when it is not UTF-8. */
  text(): string;
  /** The whole body, parsed; throws `invalid` when it is no JSON. */
  json<T = any>(): T;
  /** Closes the connection before the body has ended. */
  close(): void;
}
