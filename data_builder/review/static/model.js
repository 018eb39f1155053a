// The model's probabilities and order of studies; the server records that a reader used them.

import { post } from "./api.js";
import { byId, open } from "./page.js";
import { list } from "./panes.js";

export const modelShown = () => byId("toggle-model").ariaPressed === "true";

export async function toggleModel() {
  if (byId("model").hidden) return;
  const on = !modelShown();
  byId("toggle-model").ariaPressed = String(on);
  open.probabilities = null;
  if (on) await showProbabilities();
  else byId("probability").textContent = "Hidden, so that it does not influence you";
}

export async function showProbabilities() {
  const study = open.study;
  const probabilities = await post("probabilities", { reader: open.info.reader, study });
  if (study !== open.study) return;
  open.probabilities = probabilities;
  showProbability(open.slices[open.index].key);
}

export function showProbability(key) {
  if (!open.probabilities) return;
  const probability = open.probabilities[key];
  byId("probability").textContent =
    probability === undefined ? "None for this slice" : `ICH ${percent(probability)}`;
}

function percent(probability) {
  if (probability < 0.01) return "< 1%"; // never a certain 0% or 100%
  return probability > 0.99 ? "> 99%" : `${(100 * probability).toFixed(0)}%`;
}

export async function reorder() {
  const by = byId("order").value;
  const names = by
    ? await post("order", { reader: open.info.reader, by })
    : open.info.studies.map(({ study }) => study);
  const byName = new Map(open.info.studies.map((entry) => [entry.study, entry]));
  open.studies = names.map((name) => byName.get(name));
  list.showStudies(open.studies);
  list.select(list.positionOf(open.study));
}

export function cycleOrder() {
  if (byId("order-label").hidden) return;
  const select = byId("order");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  reorder();
}
