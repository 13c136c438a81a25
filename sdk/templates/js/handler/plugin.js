// @ts-check
// {{name}}: keeps tickets.

import * as state from "./sdk/state.js";
import * as waypost from "./sdk/waypost.js";
import { checked, idOf, key } from "./tickets.js";

export const handler = waypost.handler({
  "ticket:add": (call, message) => {
    const ticket = checked(message);
    waypost.log.info(`${call.project} adds ticket ${ticket.id}`);
    state.set(key(ticket.id), ticket);
    return ticket;
  },

  "ticket:find": (_, message) => {
    const id = idOf(message);
    const ticket = state.get(key(id));
    if (!ticket) {
      throw waypost.CallError.notFound(`there is no ticket ${id}; see \`ticket:add\``);
    }
    return ticket;
  },

  "ticket:list": (call) => {
    const keys = state.keys(key(""));
    for (const each of keys) {
      call.emit(state.get(each));
    }
    return { count: keys.length };
  },
});
