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

/** Which ticket a message means. @param {any} message @returns {number} */
export function idOf(message) {
  if (!Number.isSafeInteger(message?.id)) {
    throw CallError.invalid("`id` is missing; it is a whole number");
  }
  return message.id;
}

/** A message as a ticket. @param {any} message @returns {Ticket} */
export function checked(message) {
  const id = idOf(message);
  const { title } = message;
  if (typeof title !== "string" || title.trim() === "") {
    throw CallError.invalid("`title` is missing; it is a text");
  }
  return { id, title: title.trim() };
}
