// What is open in this window, and where it is said whether it is saved.

import { Outbox } from "./api.js";

export const byId = (id) => document.getElementById(id);
export const escape = encodeURIComponent;

export const open = {
  info: null, // what /api/start told
  pixels: null, // slices as numbers, kept
  studies: [], // in the order shown
  study: "",
  slices: [],
  state: {}, // target -> field -> value: the reader's, or what is settled
  suggested: {},
  index: 0,
  anchor: null, // the other end of a range
  hounsfield: false,
  settling: false,
  disputes: [],
  said: {},
  probabilities: null,
};

export const outbox = new Outbox((state, text) => {
  const place = byId("saved");
  place.className = state;
  place.textContent = state === "saved" ? `Saved ${new Date().toTimeString().slice(0, 8)}` : text;
});

export function announce(text) {
  clearTimeout(announce.later);
  announce.later = setTimeout(() => (byId("live").textContent = text), 250);
}
