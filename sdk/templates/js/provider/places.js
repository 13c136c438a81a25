// @ts-check
// What {{name}} knows of places. Nothing here reaches the hub, so Node tests it as it is.

import { CallError } from "./sdk/error.js";

/** What a place is made for: the only setting that there is. @param {any} settings @returns {string} */
export function purposeOf(settings) {
  const { purpose = "any work", ...rest } = settings;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) {
    throw CallError.invalid(`there is no setting \`${unknown}\`; there is \`purpose\``);
  }
  if (typeof purpose !== "string") {
    throw CallError.invalid("`purpose` is a text");
  }
  return purpose;
}

/** How a place is. @param {boolean} exists @returns {import("./sdk/waypost.js").Health} */
export const health = (exists) => (exists ? "ready" : "gone");
