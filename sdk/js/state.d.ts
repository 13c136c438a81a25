/**
 * What a plugin keeps between calls: values by key, durable, one store for each project. Needs the grant `state`.
 *
 * A value is whatever JSON can hold. All keys and values together are bounded.
 */

/** The value of a key; `undefined` when it was never set. */
export function get<T = any>(key: string): T | undefined;

/** Sets a value; it is on disk when this returns. Of calls that run at the same time the last one wins. */
export function set(key: string, value: unknown): void;

/** Removes a value; removing what is not there succeeds. */
export function remove(key: string): void;

/** The keys that start with a prefix, sorted, at most 1,000. */
export function keys(prefix?: string): string[];
