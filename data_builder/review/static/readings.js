// A reader's decisions on a slice put together, as readings.py does it, and names for the outcomes.

export const LOCATIONS = ["deep", "lobar", "subtentorial"];
export const FINISHED = ["dropped", "normal", ...LOCATIONS];
export const SHORT = {
  dropped: "×", kept: "+", normal: "N", ich: "I", deep: "D", lobar: "L", subtentorial: "S",
};
export const NAMES = {
  "": "not read", dropped: "Dropped", kept: "Kept", normal: "Normal", ich: "ICH, no location yet",
  deep: "Deep", lobar: "Lobar", subtentorial: "Subtentorial",
};

const NOTHING = {};

/** A slice's own decisions come first, then its study's; a slice dropped before stays dropped. */
export function reading(state, slice, study) {
  const own = state[slice.key] ?? NOTHING;
  const whole = state[study] ?? NOTHING;
  let label = own.label ?? "";
  let level = "slice";
  const general = whole.label ?? "";
  if (!label || (label === "ich" && LOCATIONS.includes(general))) {
    label = general;
    level = "study";
  }
  let keep = own.keep ?? "";
  const before = slice.dropped && !keep;
  if (!keep) keep = slice.dropped ? "0" : whole.keep ?? "";
  const outcome = keep === "0" ? "dropped" : label || (keep ? "kept" : "");
  if (outcome === "dropped") level = own.keep ? "slice" : "study";
  const unsure = Boolean(own.unsure || whole.unsure);
  return { outcome, level: outcome ? level : "", before, unsure };
}

/** The first letters of a pseudonym, enough to recognize it. */
export function brief(pseudonym) {
  return pseudonym.slice(0, 10);
}

/** "slice 3", or "slices 3–5": indices as the reader counts, from 1. */
export function span(first, last) {
  return first === last ? `slice ${first + 1}` : `slices ${first + 1}–${last + 1}`;
}
