/**
 * Unix sockets of the operator's. Needs the grant `socket`, a list of sockets by name; not for agents.
 *
 * A manifest names the sockets, as in `socket = [{ name = "docker" }]`; the operator says where they are.
 */

/**
 * Connects to the socket of this name. The time limit, in milliseconds, is for all of the connection; the hub takes the smaller
 * of it and what is left to the plugin itself.
 */
export function open(socket: string, options?: { timeoutMs?: number }): Connection;

/** A connection, and what comes over it, in pieces of at most 64 KiB, until the other side closes it. */
export interface Connection extends Iterable<Uint8Array> {
  /** Sends all of this, waiting for the other side to take it; a text as UTF-8. */
  send(content: string | Uint8Array): void;
  /** Says that nothing more will be sent. */
  finish(): void;
  /** All that comes until the other side closes the connection. */
  bytes(): Uint8Array;
  /** The same as text; throws `invalid` when it is not UTF-8. */
  text(): string;
  /** Closes the connection. */
  close(): void;
}
