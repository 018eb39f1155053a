// The state of this page: what is open, which slices are chosen, and what is saved.

import { Outbox } from "./api.js";

export const byId = (id) => document.getElementById(id);
export const escape = encodeURIComponent;

export const open = {
  info: null, // the answer of /api/start
  pixels: null, // Pixels: slices as numbers
  studies: [], // in the order shown
  study: "",
  slices: [],
  state: {}, // target -> field -> value: of this reader, or what is settled
  suggested: {}, // slice key -> reason to drop it
  index: 0,
  anchor: null, // the other end of a range
  hounsfield: false,
  settling: false,
  disputes: [],
  readings: {}, // slice key -> the readings of all readers, while settling
  probabilities: null,
};

/** First and last index of the slices chosen. */
export function chosenRange() {
  const end = open.anchor ?? open.index;
  return [Math.min(end, open.index), Math.max(end, open.index)];
}

/** Changes the state in this page. */
export function setState(changes) {
  for (const { target, field, value } of changes) {
    open.state[target] ??= {};
    if (value) open.state[target][field] = value;
    else delete open.state[target][field];
  }
}

/** Writes that are on their way to the server; the header shows whether all are saved. */
export const outbox = new Outbox((status, text) => {
  const element = byId("saved");
  element.className = status;
  const time = new Date().toTimeString().slice(0, 8);
  element.textContent = status === "saved" ? `Saved ${time}` : text;
});

/** Reads a text out in screen readers, unless another one follows at once. */
export function announce(text) {
  clearTimeout(announce.later);
  announce.later = setTimeout(() => (byId("live").textContent = text), 250);
}
