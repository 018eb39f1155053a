// The model's probabilities and order of work, which are recorded once seen.

import { post } from "./api.js";
import { byId, open } from "./page.js";
import { list } from "./parts.js";

export async function toggleModel() {
  if (byId("model").hidden) return;
  const on = byId("showing").ariaPressed !== "true";
  byId("showing").ariaPressed = String(on);
  open.probabilities = null;
  if (on) await showProbabilities();
  else byId("probability").textContent = "Hidden, so as not to lead you";
}

export async function showProbabilities() {
  const study = open.study;
  const found = await post("probabilities", { reader: open.info.reader, study });
  if (study !== open.study) return;
  open.probabilities = found;
  showProbability(open.slices[open.index].key);
}

export function showProbability(key) {
  if (!open.probabilities) return;
  const found = open.probabilities[key];
  byId("probability").textContent =
    found === undefined ? "None for this slice" : `ICH ${(100 * found).toFixed(0)}%`;
}

export async function reorder() {
  const by = byId("order").value;
  const names = by
    ? await post("order", { reader: open.info.reader, by })
    : open.info.studies.map((each) => each.study);
  const known = new Map(open.info.studies.map((each) => [each.study, each]));
  open.studies = names.map((name) => known.get(name));
  list.showStudies(open.studies);
  list.select(list.positionOf(open.study));
}

export function cycleOrder() {
  if (byId("ordering").hidden) return;
  const select = byId("order");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  reorder();
}
