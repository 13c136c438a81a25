/**
 * What every plugin in JavaScript imports: the four roles, {@link CallError} and {@link log}.
 *
 * A plugin is a WASM component that plays one role. It exports the one object that its role's function makes, under the
 * role's name: `export const handler = waypost.handler({ … })`, after `import * as waypost from "./sdk/waypost.js"`.
 *
 * Every call starts from a fresh instance, so nothing in memory survives from one call to the next. A plugin works
 * synchronously: none of its functions is `async`.
 */

import type { CallError } from "./error.js";

export { CallError } from "./error.js";
export type { CallErrorKind } from "./error.js";

/** Facts beside a message. Ignore the names you do not know; those that start with `waypost.` are the hub's. */
export type Meta = [name: string, value: string][];

/** The facts of the call that a handler works on. Its message comes beside it, parsed. */
export interface Call {
  /** Unique for ever, and the same when the hub repeats the call: an idempotency key. */
  readonly id: string;
  /** What is asked for. */
  readonly kind: string;
  /** The action of the kind; `undefined` for kinds without actions. */
  readonly action: string | undefined;
  /** The kind and the action, written `kind:action` or `kind`. */
  readonly name: string;
  /** The project on whose behalf the call is made. The hub says so; no message can forge it. */
  readonly project: string;
  /** The run that it belongs to; `undefined` for a call made by hand. */
  readonly run: string | undefined;
  /** The environment it acts in; `undefined` for the project itself. */
  readonly environment: string | undefined;
  /** How many milliseconds were left when the call came in. */
  readonly timeLeftMs: number;
  /** Facts beside the message. */
  readonly meta: Meta;
  /**
   * Hands one piece of the answer to whoever asked, in order, waiting for room. The reply is still returned at the end.
   * Throws `cancelled` when nobody reads any more: let it through.
   */
  emit(chunk: unknown): void;
}

/** Answers one call: gets its message parsed, and returns what can be written as JSON. */
export type Answer = (call: Call, message: any) => unknown;

/**
 * Makes a component that executes calls, from one function or from one for each pattern.
 *
 * Patterns are as a manifest's `serves` has them (`kind`, `kind:*`, `kind:action`); the first one that covers the call
 * decides, and a call that none covers is `not-found`.
 */
export function handler(table: Answer | Record<string, Answer>): object;

/** What the hub wants of a provider. */
export interface Wanted {
  /** The environment's id; unique for ever. */
  readonly environment: string;
  /** The project that it is for. */
  readonly project: string;
  /** The provider's own settings; `{}` when there are none. */
  readonly settings: any;
  /** Facts beside it. */
  readonly meta: Meta;
}

/** A place that exists. */
export interface Place {
  /** By which the provider finds it again, after a restart too. */
  resourceId: string;
  /** How the loop there is driven: an agent component inside the hub, in a folder that `workspace.create` made. */
  runtime: { component: string };
  /** Facts beside it. */
  meta?: Meta;
}

export const Place: {
  /** A place whose loop is an agent component in this folder. The folder's name is the resource id. */
  component(folder: string): Place;
};

/** What a look at a place shows: it can be used, it cannot be used now, or it is gone. */
export type Health = "ready" | "disconnected" | "gone";

/** What makes the places where agent loops run. It keeps nothing but the resource id and its state. */
export interface Provider {
  /** Makes the place. Called again for the same environment, it must answer the same place. */
  create(wanted: Wanted): Place;
  /** Finds the place again after the hub or the place restarted; throws `not-found` when it is gone. */
  reconnect(environment: string, resourceId: string): Place;
  /** Looks at the place without changing it. */
  inspect(resourceId: string): Health;
  /** Removes the place; removing what is already gone must succeed. */
  teardown(resourceId: string): void;
}

/** Makes a component that is a provider. */
export function provider(operations: Provider): object;

/** One earlier prompt of the thread and what came of it. */
export interface Turn {
  readonly prompt: string;
  readonly answer: string;
}

/** What an agent is to do. */
export interface Task {
  /** The run's id. */
  readonly run: string;
  /** The thread's id. */
  readonly thread: string;
  /** What the person wrote. */
  readonly prompt: string;
  /** The thread so far, oldest first. */
  readonly history: readonly Turn[];
  /** How many inference calls it may make; the hub enforces it too. */
  readonly maxSteps: number;
  /** How many tokens it may use, prompts and completions together; the hub enforces it too. */
  readonly maxTokens: number;
  /** The agent's own settings; `{}` when there are none. */
  readonly settings: any;
  /** Facts beside it. */
  readonly meta: Meta;
}

/** What came of a task. */
export interface Outcome {
  /** The answer for the person. */
  message: string;
  /** Facts beside it. */
  meta?: Meta;
}

/**
 * Makes a component that is an agent. What it throws ends the run as failed.
 *
 * After a crash of the hub it runs again from the start, and the calls that it already made are answered from the log.
 * Given the same replies it must make the same calls. `Date.now()` and `Math.random()` come from the run and are repeated
 * too.
 */
export function agent(run: (task: Task) => Outcome | string): object;

/** A call and its end, as an observer hears of it. */
export interface Notification {
  /** The call's id. */
  readonly id: string;
  /** What was asked for. */
  readonly kind: string;
  /** The action of the kind; `undefined` for kinds without actions. */
  readonly action: string | undefined;
  /** The kind and the action, written `kind:action` or `kind`. */
  readonly name: string;
  /** The message, parsed. */
  readonly message: any;
  /** The reply, parsed; `undefined` when the call failed. */
  readonly reply: any;
  /** How the call failed; `undefined` when it did not. */
  readonly error: CallError | undefined;
  /** The run that it belonged to. */
  readonly run: string | undefined;
  /** How many notifications were dropped before this one because the observer was too slow. */
  readonly lagged: number;
  /** Facts beside it. */
  readonly meta: Meta;
}

/** Makes a component that is told of calls, one by one. What it throws changes nothing and is logged. */
export function observer(notice: (notification: Notification) => void): object;

/** Lines for the operator, in the plugin's log. `console` writes there too. */
export const log: {
  /** Writes a line that matters only to who looks for a fault. */
  debug(message: string): void;
  /** Writes a line that tells what was done. */
  info(message: string): void;
  /** Writes a line about something odd that did no harm. */
  warn(message: string): void;
  /** Writes a line about something that failed. */
  error(message: string): void;
};
