// Opens a study or a disagreement, and moves through its slices.

import { Refused, ask } from "./api.js";
import { makeStrip, readingOf, showHistory, showState, showView } from "./display.js";
import { modelShown, showProbabilities } from "./model.js";
import { announce, byId, escape, open, outbox, setState } from "./page.js";
import { list, sheet, viewer } from "./panes.js";
import { brief } from "./readings.js";

const AHEAD = [1, 2, 3, -1, 4, 5, -2, 6]; // slices fetched before the reader goes to them

// Numbers of the latest requests: an answer to an earlier one comes too late and is ignored.
let slicesShown = 0;
let studiesOpened = 0;

export async function openItem(position, index = 0) {
  const dispute = open.settling ? open.disputes[position] : null;
  const study = dispute?.study ?? open.studies[position]?.study;
  if (!study) return;
  const previous = list.position;
  list.select(position);
  const number = ++studiesOpened;
  const unsent = outbox.changes(); // the server may answer without these
  let answer, others;
  try {
    const reader = open.info.reader;
    answer = await ask(`study/${escape(study)}`, { reader });
    others = open.settling ? await ask(`readings/${escape(study)}`, { reader }) : null;
  } catch (error) {
    if (number === studiesOpened) list.select(previous);
    throw error;
  }
  if (number !== studiesOpened) return;
  if (sheet.shown) sheet.show(study, answer.slices);
  open.study = study;
  open.slices = answer.slices;
  open.readings = others?.readings ?? {};
  open.state = others?.state ?? answer.state;
  setState([...unsent, ...outbox.changes()]);
  open.suggested = {};
  open.probabilities = null;
  open.anchor = dispute && dispute.last > dispute.first ? dispute.last : null;
  open.index = Math.min(dispute?.first ?? index, open.slices.length - 1);
  byId("study-legend").firstChild.textContent = `Study ${brief(study)} `;
  makeStrip();
  viewer.fit();
  showSlice(0);
  if (modelShown()) showProbabilities();
  const suggested = await ask(`suggestions/${escape(study)}`).catch(() => ({}));
  if (number !== studiesOpened) return;
  open.suggested = suggested;
  byId("strip").dataset.study = study; // now the suggestions are complete
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

/** Goes to a slice; with `extend` the slices from here to there are chosen. */
export function goTo(index, extend = false) {
  const next = Math.max(0, Math.min(open.slices.length - 1, index));
  if (extend) open.anchor ??= open.index;
  else open.anchor = null;
  const direction = Math.sign(next - open.index) || 1;
  open.index = next;
  showSlice(direction);
}

export function nextSuggested() {
  const count = open.slices.length;
  for (let step = 1; step <= count; step++) {
    const index = (open.index + step) % count;
    const slice = open.slices[index];
    if (open.suggested[slice.key] && !readingOf(slice).outcome) return goTo(index);
  }
  announce("No suggested drop is left in this study");
}

/** `direction`: where the reader is going, 1 or -1; 0 where that is not known. */
export async function showSlice(direction) {
  const number = ++slicesShown;
  const slice = open.slices[open.index];
  showState();
  let pixels;
  try {
    pixels = await open.pixels.get(slice.key, open.hounsfield);
  } catch (error) {
    if (number !== slicesShown) return;
    if (!open.hounsfield || !(error instanceof Refused)) return announce(error.message);
    pixels = await open.pixels.get(slice.key, false);
  }
  if (number !== slicesShown) return;
  viewer.show(pixels);
  viewer.canvas.dataset.key = slice.key;
  const cleaned = open.hounsfield && pixels.slope !== 1;
  viewer.canvas.dataset.unit = `${pixels.unit}${cleaned ? " (cleaned)" : ""}`;
  showView();
  // In a study just opened the reader may jump, so slices are fetched ahead a little later.
  clearTimeout(fetchAhead.later);
  if (direction) fetchAhead(direction);
  else fetchAhead.later = setTimeout(fetchAhead, 60, 1);
  sessionStorage.setItem("study", open.study);
  sessionStorage.setItem("index", open.index);
  clearTimeout(showHistory.later);
  showHistory.later = setTimeout(showHistory, 200);
}

function fetchAhead(direction) {
  for (const step of AHEAD) {
    const next = open.slices[open.index + step * direction];
    if (next) open.pixels.get(next.key, open.hounsfield).catch(() => {});
  }
}
