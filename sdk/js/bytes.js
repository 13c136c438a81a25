// Bytes and texts. The engine has neither TextEncoder nor TextDecoder.

import { CallError } from "./error.js";

/** A text as UTF-8; bytes as they are. */
export function encoded(content) {
  if (typeof content !== "string") {
    return content;
  }
  const bytes = new Uint8Array(content.length * 3);
  let at = 0;
  const put = (...these) => {
    for (const byte of these) {
      bytes[at] = byte;
      at += 1;
    }
  };
  for (const character of content) {
    const code = character.codePointAt(0);
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0 | (code >> 6), 0x80 | (code & 63));
    } else if (code < 0x10000) {
      // Half of a pair stands for nothing.
      const whole = code >= 0xd800 && code <= 0xdfff ? 0xfffd : code;
      put(0xe0 | (whole >> 12), 0x80 | ((whole >> 6) & 63), 0x80 | (whole & 63));
    } else {
      put(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
    }
  }
  return bytes.slice(0, at);
}

/** UTF-8 as a text; `what` it is stands in the error when it is none. */
export function decoded(bytes, what) {
  const parts = [];
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const [code, length] = character(bytes, at);
    if (length === 0) {
      throw CallError.invalid(`${what} is not UTF-8 text, from byte ${at} on`);
    }
    text += String.fromCodePoint(code);
    at += length;
    if (text.length > 4096) {
      parts.push(text);
      text = "";
    }
  }
  return parts.join("") + text;
}

/** The character at a place and its length in bytes; zero when there is none. */
function character(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) {
    return [first, 1];
  }
  const length = first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
  let code = first & (0x7f >> length);
  for (let next = 1; next < length; next += 1) {
    const byte = bytes[at + next];
    if (byte === undefined || byte >> 6 !== 2) {
      return [0, 0];
    }
    code = (code << 6) | (byte & 63);
  }
  const least = [0, 0, 0x80, 0x800, 0x10000][length];
  const whole = code >= least && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return whole ? [code, length] : [0, 0];
}

/** Pieces in a row. */
export function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
