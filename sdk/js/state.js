// What a plugin keeps between calls. Needs the grant `state`.

import * as store from "waypost:state/store@0.1.0";

import { asked, written } from "./error.js";

export function get(key) {
  const value = asked(() => store.get(key)) ?? undefined;
  return value === undefined ? undefined : JSON.parse(value);
}

export function set(key, value) {
  const text = written(`what is to be kept under \`${key}\``, value);
  asked(() => store.set(key, text));
}

export function remove(key) {
  asked(() => store.remove(key));
}

export function keys(prefix = "") {
  return asked(() => store.keys(prefix));
}
