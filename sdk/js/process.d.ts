/**
 * Programs of the operator's. Needs the grant `process`, a list of programs by name; not for agents.
 *
 * A manifest names the programs and the arguments that it uses, as in
 * `process = [{ name = "git", args = [["status"], ["log", "-n", "*"]] }]`; the operator says which file each is. There is no
 * shell, and no variable but `HOME`, `TMPDIR` and `LANG`.
 */

/** What may be said of a program beside its name and its arguments. */
export interface Options {
  /** What it reads from its standard input; a text as UTF-8. */
  input?: string | Uint8Array;
  /** A folder of the grant `files` to run it in, and not an empty one of its own. */
  folder?: string;
  /** A time limit in milliseconds. The hub takes the smaller of this and what is left to the plugin itself. */
  timeoutMs?: number;
}

/** How a program ended: with an exit code, or by a signal, as in `SIGSEGV`. */
export type Ending = { code: number; signal?: undefined } | { code?: undefined; signal: string };

/** A piece of what a program writes, at most 64 KiB. */
export interface Piece {
  from: "stdout" | "stderr";
  bytes: Uint8Array;
}

/** Runs a program of this name in the grant to its end, whatever that is. */
export function run(program: string, args?: string[], options?: Options): Output;

/** Starts one, to be read while it runs. */
export function start(program: string, args?: string[], options?: Options): Running;

/** A program that runs, and what it writes as it comes. */
export interface Running extends Iterable<Piece> {
  /** Waits for the end, skipping pieces that were not read. */
  finish(): Ending;
  /** Kills it, with all that it has started. */
  kill(): void;
}

/** What came of a program. */
export interface Output {
  /** Its exit code; none when it ended by a signal. */
  readonly code?: number;
  /** The signal that it ended by. */
  readonly signal?: string;
  /** What it wrote to its standard output. */
  readonly stdout: Uint8Array;
  /** What it wrote to its standard error. */
  readonly stderr: Uint8Array;
  /** The same; throws `other`, with what it wrote to its standard error, when it did not end with the exit code 0. */
  success(): this;
  /** What it wrote to its standard output as text; throws `invalid` when it is not UTF-8. */
  text(): string;
}
