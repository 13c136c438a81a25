/**
 * Files in folders of the operator's. Needs the grant `files`, a list of folders by name; not for agents.
 *
 * A manifest names the folders, as in `files = [{ name = "cache", write = true }]`; the operator says where they are. A path is
 * relative to its folder.
 */

/** What something in a folder is. */
export type Kind = "file" | "folder" | "link" | "other";

/** What is known of a file or a folder. */
export interface Info {
  /** What it is; a link counts as what it leads to. */
  readonly kind: Kind;
  /** Its size in bytes. */
  readonly size: number;
  /** When it was last changed; `undefined` where that is not known. */
  readonly changed: Date | undefined;
}

/** One entry of a folder. */
export interface Entry {
  readonly name: string;
  readonly kind: Kind;
  /** Its size in bytes. */
  readonly size: number;
}

/** What is at a path; `undefined` when nothing is. `""` is the folder itself. */
export function stat(folder: string, path: string): Info | undefined;

/** The entries of a folder, sorted by name. */
export function list(folder: string, path?: string): Entry[];

/** A whole file. */
export function read(folder: string, path: string): Uint8Array;

/** A whole file as text; throws `invalid` when it is not UTF-8. */
export function readText(folder: string, path: string): string;

/** Writes a whole file, making the folders above it; a text as UTF-8. A reader sees the old content or the new. */
export function write(folder: string, path: string, content: string | Uint8Array): void;

/** Removes a file or a link; what a link leads to stays. Throws `not-found` when nothing is there. */
export function remove(folder: string, path: string): void;

/** Opens a file, to be read from an offset on: `for (const piece of open("docs", "a.bin")) …`. */
export function open(folder: string, path: string, offset?: number): Reader;

/** A file that is open to be read, in pieces of at most 64 KiB; it is closed at its end. */
export interface Reader extends Iterable<Uint8Array> {
  /** Closes the file before its end. */
  close(): void;
}
