// Requests to servers. Needs the grant `http`.

import { send as ask } from "waypost:http/client@0.1.0";

import { decoded, encoded, joined } from "./bytes.js";
import { CallError, asked, written } from "./error.js";
import { Held } from "./held.js";

const SECRET = Symbol("secret");

export function secret(name, prefix = "") {
  return { [SECRET]: { prefix, name } };
}

export function bearer(name) {
  return { authorization: secret(name, "Bearer ") };
}

const value = (of) => (of?.[SECRET] ? { tag: "secret", val: of[SECRET] } : { tag: "text", val: String(of) });

export function send(method, url, { headers = {}, body, json, timeoutMs, meta = [] } = {}) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  const all = pairs.map(([name, of]) => ({ name, value: value(of) }));
  if (json !== undefined) {
    all.push({ name: "content-type", value: { tag: "text", val: "application/json" } });
  }
  const bytes = json === undefined ? body : written(`the body for ${url}`, json);
  const wanted = {
    method,
    url: String(url),
    headers: all,
    body: encoded(bytes ?? ""),
    timeoutMs,
    meta,
  };
  return new Response(asked(() => ask(wanted)));
}

export const get = (url, options) => send("GET", url, options);

export const post = (url, options) => send("POST", url, options);

export class Response extends Held {
  constructor({ status, headers, body }) {
    super(body);
    this.status = status;
    this.headers = headers;
  }

  header(name) {
    return this.headers.find(([of]) => of === name.toLowerCase())?.[1];
  }

  success() {
    if (this.status < 200 || this.status > 299) {
      const refused = this.status === 401 || this.status === 403;
      throw new CallError(refused ? "denied" : "unavailable", `the server answered ${this.status}`);
    }
    return this;
  }

  bytes() {
    return joined([...this.pieces()]);
  }

  text() {
    return decoded(this.bytes(), "the answer");
  }

  json() {
    const text = this.text();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw CallError.invalid(`the answer is no JSON: ${error.message}`);
    }
  }
}
