// @ts-check
// What {{name}} knows of tickets. Nothing here reaches the hub, so Node tests it as it is.

import { CallError } from "./sdk/error.js";

/**
 * @typedef {object} Ticket
 * @property {number} id
 * @property {string} title
 */

/** Where a ticket is kept. @param {number | ""} id */
export const key = (id) => `ticket/${id}`;

/** A message as a ticket. @param {any} message @returns {Ticket} */
export function checked(message) {
  const { id, title } = message ?? {};
  if (!Number.isSafeInteger(id)) {
    throw CallError.invalid("`id` is missing; it is a whole number");
  }
  if (typeof title !== "string" || title.trim() === "") {
    throw CallError.invalid("`title` is missing; it is a text");
  }
  return { id, title: title.trim() };
}
