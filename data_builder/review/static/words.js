// What decisions come to, as readings.py has it, and the words for it.

export const LOCATIONS = ["deep", "lobar", "subtentorial"];
export const FINISHED = ["dropped", "normal", ...LOCATIONS];
export const SHORT = {
  dropped: "×", kept: "+", normal: "N", ich: "I", deep: "D", lobar: "L", subtentorial: "S",
};
export const SAID = {
  "": "not read", dropped: "Dropped", kept: "Kept", normal: "Normal", ich: "ICH, no place yet",
  deep: "Deep", lobar: "Lobar", subtentorial: "Subtentorial",
};

const NOTHING = {};

/** A slice's own decisions first, then its study's; one that was dropped before stays so. */
export function reading(state, slice, study) {
  const mine = state[slice.key] ?? NOTHING;
  const whole = state[study] ?? NOTHING;
  let label = mine.label ?? "";
  let level = "slice";
  const general = whole.label ?? "";
  if (!label || (label === "ich" && LOCATIONS.includes(general))) {
    label = general;
    level = "study";
  }
  let keep = mine.keep ?? "";
  const before = slice.dropped && !keep;
  if (!keep) keep = slice.dropped ? "0" : whole.keep ?? "";
  const outcome = keep === "0" ? "dropped" : label || (keep ? "kept" : "");
  if (outcome === "dropped") level = mine.keep ? "slice" : "study";
  return { outcome, level: outcome ? level : "", before, unsure: Boolean(mine.unsure || whole.unsure) };
}

/** A short name for a pseudonym: enough letters to tell it from others at a glance. */
export function brief(pseudonym) {
  return pseudonym.slice(0, 10);
}
