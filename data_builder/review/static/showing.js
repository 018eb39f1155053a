// Shows what is open: the state in every pane, progress, history.

import { ask } from "./api.js";
import { span } from "./list.js";
import { showProbability } from "./model.js";
import { announce, byId, escape, open } from "./page.js";
import { labels, list, sheet, viewer } from "./parts.js";
import { range } from "./stack.js";
import { PRESETS } from "./viewer.js";
import { FINISHED, SAID, SHORT, reading } from "./words.js";

export const wordOf = (slice) => reading(open.state, slice, open.study);

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

export function makeStrip() {
  const strip = byId("strip");
  delete strip.dataset.study;
  strip.replaceChildren(...open.slices.map(() => document.createElement("i")));
  strip.classList.toggle("many", open.slices.length > 60);
}

export function showState() {
  const [low, high] = range();
  const words = open.slices.map(wordOf);
  const slice = open.slices[open.index];
  const word = words[open.index];
  const strip = byId("strip").children;
  const reasons = new Map();
  words.forEach((each, index) => {
    const reason = each.outcome ? "" : open.suggested[open.slices[index].key];
    if (reason) reasons.set(reason, [...(reasons.get(reason) ?? []), index]);
    const mark = strip[index];
    mark.textContent = SHORT[each.outcome] ?? "";
    mark.className = [
      each.outcome && `said-${each.outcome} ${each.outcome}`,
      each.unsure && "unsure",
      reason && "suggested",
      low !== high && index >= low && index <= high && "ranged",
      index === open.index && "here",
    ]
      .filter(Boolean)
      .join(" ");
  });
  labels.suggest(open.settling ? new Map() : reasons);
  labels.show(open.state, open.study, open.slices, low, high, open.index, word);
  labels.others(
    open.settling ? open.said[slice.key] ?? [] : null,
    word.before ? "" : word.outcome,
  );
  byId("sheeting").setAttribute("aria-pressed", String(sheet.shown));
  sheet.mark(open.slices, words, open.suggested, open.index, low, high);
  const series = [...new Set(open.slices.map((each) => each.series))];
  const which = series.length > 1 ? `\nseries ${series.indexOf(slice.series) + 1} of ${series.length}` : "";
  const place = (slice.position_mm ? `${Number(slice.position_mm).toFixed(1)} mm` : "") + which;
  byId("at").textContent = `${open.index + 1} / ${open.slices.length}\n${place}`;
  showVerdict(word, open.suggested[slice.key]);
  showProbability(slice.key);
  const told =
    `Slice ${open.index + 1} of ${open.slices.length}, ${byId("verdict").textContent}` +
    (low === high ? "" : `, ${span(low, high)} chosen`);
  viewer.canvas.setAttribute("aria-label", told);
  announce(told);
  if (open.settling) showSettled(words);
  else showProgress(words);
}

export function showVerdict(word, reason) {
  const place = byId("verdict");
  place.className = `over top right ${word.outcome}`;
  const name = document.createElement("b");
  name.textContent = SAID[word.outcome];
  const parts = [name];
  if (word.before) parts.push("\nbefore this review");
  else if (word.outcome && word.level === "study") parts.push("\nby its study");
  if (word.unsure) parts.push("\nunsure");
  if (reason && !word.outcome) {
    const hint = document.createElement("em");
    hint.textContent = `\nsuggested drop: ${reason}`;
    parts.push(hint);
  }
  place.replaceChildren(...parts);
}

export function showProgress(words) {
  const entry = open.studies.find((each) => each.study === open.study);
  entry.done = words.filter((word) => FINISHED.includes(word.outcome)).length;
  entry.unsure = words.filter((word) => word.unsure).length;
  list.refresh(open.study);
  showTotal();
}

export function showSettled(words) {
  const dispute = open.disputes[list.position];
  const here = words.slice(dispute.first, dispute.last + 1);
  dispute.settled = here.every((word) => word.outcome && !word.before);
  list.settled(dispute.settled);
  showTotal();
}

export function showTotal() {
  const done = open.studies.filter((each) => each.done === each.slices).length;
  byId("list-title").textContent = open.settling ? "To settle" : "Studies";
  byId("total").textContent = open.settling
    ? `${open.disputes.filter((each) => !each.settled).length} left`
    : `${done} of ${open.studies.length} done`;
}

export async function showHistory() {
  const details = byId("history");
  if (!details.open) return;
  const { key } = open.slices[open.index];
  const events = await ask(`history/${escape(key)}`, { reader: open.info.reader });
  if (key === open.slices[open.index].key) labels.history(events, open.study);
}
