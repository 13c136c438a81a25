// @ts-check
// What {{name}} knows of counting. Nothing here reaches the hub, so Node tests it as it is.

/** @typedef {Record<"calls" | "failed" | "missed", number>} Count */

/**
 * A count, one call later.
 * @param {Count | undefined} count
 * @param {Pick<import("./sdk/waypost.js").Notification, "error" | "lagged">} notification
 * @returns {Count}
 */
export function counted(count, { error, lagged }) {
  const { calls, failed, missed } = count ?? { calls: 0, failed: 0, missed: 0 };
  return { calls: calls + 1, failed: failed + (error ? 1 : 0), missed: missed + lagged };
}
