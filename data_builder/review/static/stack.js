// Opening a study or a disagreement, and moving through its slices.

import { Refused, ask } from "./api.js";
import { set } from "./deciding.js";
import { showProbabilities } from "./model.js";
import { announce, byId, escape, open, outbox } from "./page.js";
import { list, sheet, viewer } from "./parts.js";
import { makeStrip, showHistory, showState, showView, wordOf } from "./showing.js";
import { brief } from "./words.js";

const AHEAD = [1, 2, 3, -1, 4, 5, -2, 6]; // slices fetched before they are asked for

let ticket = 0; // of the slice asked for last
let visit = 0; // of the study asked for last

const askSaid = (study) => ask(`said/${escape(study)}`, { reader: open.info.reader });

export async function openItem(position, index = 0) {
  const dispute = open.settling ? open.disputes[position] : null;
  const study = dispute?.study ?? open.studies[position]?.study;
  if (!study) return;
  const before = list.position;
  list.select(position);
  const asked = ++visit;
  const unsent = outbox.changes(); // the server may answer from before these
  let told, others;
  try {
    told = await ask(`study/${escape(study)}`, { reader: open.info.reader });
    others = open.settling ? await askSaid(study) : null;
  } catch (error) {
    if (asked === visit) list.select(before);
    throw error;
  }
  if (asked !== visit) return;
  if (sheet.shown) sheet.show(study, told.slices);
  open.study = study;
  open.slices = told.slices;
  open.said = others?.said ?? {};
  open.state = others?.state ?? told.state;
  set([...unsent, ...outbox.changes()]);
  open.suggested = {};
  open.probabilities = null;
  open.anchor = null;
  open.index = Math.min(dispute?.first ?? index, open.slices.length - 1);
  if (dispute && dispute.last > dispute.first) {
    open.anchor = dispute.last;
  }
  byId("study-legend").firstChild.textContent = `Study ${brief(study)} `;
  makeStrip();
  viewer.fit();
  showSlice(0);
  if (byId("showing").ariaPressed === "true") showProbabilities();
  const found = await ask(`suggestions/${escape(study)}`).catch(() => ({}));
  if (asked !== visit) return;
  open.suggested = found;
  byId("strip").dataset.study = study; // suggestions are there
  showState();
}

export function nextStudy(step) {
  openItem(list.position + step);
}

export function nextUnfinished() {
  if (open.settling) return nextStudy(1);
  const count = open.studies.length;
  for (let step = 1; step <= count; step++) {
    const position = (list.position + step) % count;
    const { done, slices } = open.studies[position];
    if (done < slices) return openItem(position);
  }
  announce("All studies are done");
}

export function goTo(index, extend = false) {
  const last = open.slices.length - 1;
  const next = Math.max(0, Math.min(last, index));
  if (extend) open.anchor ??= open.index;
  else open.anchor = null;
  const direction = Math.sign(next - open.index) || 1;
  open.index = next;
  showSlice(direction);
}

export function range() {
  const other = open.anchor ?? open.index;
  return [Math.min(other, open.index), Math.max(other, open.index)];
}

export function nextSuggested() {
  const count = open.slices.length;
  for (let step = 1; step <= count; step++) {
    const index = (open.index + step) % count;
    const slice = open.slices[index];
    if (open.suggested[slice.key] && !wordOf(slice).outcome) return goTo(index);
  }
  announce("No suggested drop is left in this study");
}

/** `direction`: where the reader is going, 1 or -1; 0 where that is not known. */
export async function showSlice(direction) {
  const asked = ++ticket;
  const slice = open.slices[open.index];
  showState();
  let shown;
  try {
    shown = await open.pixels.get(slice.key, open.hounsfield);
  } catch (error) {
    if (asked !== ticket) return;
    if (!open.hounsfield || !(error instanceof Refused)) return announce(error.message);
    shown = await open.pixels.get(slice.key, false);
  }
  if (asked !== ticket) return;
  viewer.show(shown);
  viewer.canvas.dataset.key = slice.key;
  viewer.canvas.dataset.unit = `${shown.unit}${open.hounsfield && shown.slope !== 1 ? " (cleaned)" : ""}`;
  showView();
  // A study just opened leaves the reader time to jump before slices are fetched ahead.
  clearTimeout(fetchAhead.later);
  if (direction) fetchAhead(direction);
  else fetchAhead.later = setTimeout(fetchAhead, 60, 1);
  sessionStorage.setItem("study", open.study);
  sessionStorage.setItem("index", open.index);
  clearTimeout(showHistory.later);
  showHistory.later = setTimeout(showHistory, 200);
}

export function fetchAhead(direction) {
  for (const step of AHEAD) {
    const next = open.slices[open.index + step * direction];
    if (next) open.pixels.get(next.key, open.hounsfield).catch(() => {});
  }
}
