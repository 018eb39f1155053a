// Shows what is open: the state in every pane, progress, history.

import { ask } from "./api.js";
import { showProbability } from "./model.js";
import { announce, byId, chosenRange, escape, open } from "./page.js";
import { labels, list, sheet, viewer } from "./panes.js";
import { FINISHED, NAMES, SHORT, reading, span } from "./readings.js";
import { PRESETS } from "./viewer.js";

export const readingOf = (slice) => reading(open.state, slice, open.study);

/** Shows window, level, zoom and unit of the picture. */
export function showView() {
  const { width, level } = viewer.window;
  byId("values").textContent = `W ${width} L ${level} ${viewer.canvas.dataset.unit ?? ""}`;
  byId("zoom").textContent = viewer.zoom === 1 ? "" : `${viewer.zoom.toFixed(1)}×`;
  for (const [id, value] of [["width", width], ["level", level]])
    if (document.activeElement !== byId(id)) byId(id).value = value;
  for (const button of document.querySelectorAll("[data-preset]")) {
    const preset = PRESETS[button.dataset.preset];
    const on = preset.width === width && preset.level === level;
    button.setAttribute("aria-pressed", String(on));
  }
  byId("hu").setAttribute("aria-pressed", String(open.hounsfield));
}

/** Makes the strip beside the picture, one mark a slice. */
export function makeStrip() {
  const strip = byId("strip");
  delete strip.dataset.study;
  strip.replaceChildren(...open.slices.map(() => document.createElement("i")));
  strip.classList.toggle("many", open.slices.length > 60);
}

/** Shows the decisions on the open study in every pane. */
export function showState() {
  const [first, last] = chosenRange();
  const readings = open.slices.map(readingOf);
  const slice = open.slices[open.index];
  const current = readings[open.index];
  const reasons = new Map(); // reason -> indices of undecided slices
  readings.forEach(({ outcome }, index) => {
    const reason = outcome ? "" : open.suggested[open.slices[index].key];
    if (reason) reasons.set(reason, [...(reasons.get(reason) ?? []), index]);
    markStrip(readings[index], reason, index, first, last);
  });
  labels.suggest(open.settling ? new Map() : reasons);
  labels.show(open.state, open.study, open.slices, first, last, open.index, current);
  const settled = current.before ? "" : current.outcome;
  labels.others(open.settling ? open.readings[slice.key] ?? [] : null, settled);
  byId("toggle-sheet").setAttribute("aria-pressed", String(sheet.shown));
  sheet.mark(open.slices, readings, open.suggested, open.index, first, last);
  showPosition(slice);
  showVerdict(current, open.suggested[slice.key]);
  showProbability(slice.key);
  const description =
    `Slice ${open.index + 1} of ${open.slices.length}, ${byId("verdict").textContent}` +
    (first === last ? "" : `, ${span(first, last)} chosen`);
  viewer.canvas.setAttribute("aria-label", description);
  announce(description);
  if (open.settling) showSettled(readings);
  else showProgress(readings);
}

function markStrip({ outcome, unsure }, reason, index, first, last) {
  const mark = byId("strip").children[index];
  mark.textContent = SHORT[outcome] ?? "";
  mark.className = [
    outcome && `outcome-${outcome} ${outcome}`,
    unsure && "unsure",
    reason && "suggested",
    first !== last && index >= first && index <= last && "ranged",
    index === open.index && "current",
  ]
    .filter(Boolean)
    .join(" ");
}

function showPosition(slice) {
  const series = [...new Set(open.slices.map((each) => each.series))];
  const number = series.indexOf(slice.series) + 1;
  const lines = [
    `${open.index + 1} / ${open.slices.length}`,
    slice.position_mm ? `${Number(slice.position_mm).toFixed(1)} mm` : "",
  ];
  if (series.length > 1) lines.push(`series ${number} of ${series.length}`);
  byId("position").textContent = lines.join("\n");
}

function showVerdict({ outcome, level, before, unsure }, reason) {
  const element = byId("verdict");
  element.className = `over top right ${outcome}`;
  const name = document.createElement("b");
  name.textContent = NAMES[outcome];
  const parts = [name];
  if (before) parts.push("\nbefore this review");
  else if (outcome && level === "study") parts.push("\nfor the whole study");
  if (unsure) parts.push("\nunsure");
  if (reason && !outcome) {
    const hint = document.createElement("em");
    hint.textContent = `\nsuggested drop: ${reason}`;
    parts.push(hint);
  }
  element.replaceChildren(...parts);
}

function showProgress(readings) {
  const entry = open.studies.find(({ study }) => study === open.study);
  entry.done = readings.filter(({ outcome }) => FINISHED.includes(outcome)).length;
  entry.unsure = readings.filter(({ unsure }) => unsure).length;
  list.refresh(open.study);
  showTotal();
}

function showSettled(readings) {
  const dispute = open.disputes[list.position];
  const disputed = readings.slice(dispute.first, dispute.last + 1);
  dispute.settled = disputed.every(({ outcome, before }) => outcome && !before);
  list.markSettled(dispute.settled);
  showTotal();
}

export function showTotal() {
  const done = open.studies.filter((entry) => entry.done === entry.slices).length;
  const left = open.disputes.filter(({ settled }) => !settled).length;
  byId("list-title").textContent = open.settling ? "To settle" : "Studies";
  byId("total").textContent = open.settling ? `${left} left` : `${done} of ${open.studies.length} done`;
}

export async function showHistory() {
  if (!byId("history").open) return;
  const { key } = open.slices[open.index];
  const events = await ask(`history/${escape(key)}`, { reader: open.info.reader });
  if (key === open.slices[open.index].key) labels.history(events, open.study);
}
