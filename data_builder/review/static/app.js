// The page: what is open, what a key does, what is shown.

import { Away, Outbox, Refused, ask, post } from "./api.js";
import { describe, listen } from "./keys.js";
import { Labels } from "./labels.js";
import { List, span } from "./list.js";
import { Pixels } from "./pixels.js";
import { agreementTables, exportWords } from "./readers.js";
import { Sheet } from "./sheet.js";
import { PRESETS, Viewer } from "./viewer.js";
import { FINISHED, SAID, SHORT, brief, reading } from "./words.js";

const AHEAD = [1, 2, 3, -1, 4, 5, -2, 6]; // slices fetched before they are asked for
const byId = (id) => document.getElementById(id);
const escape = encodeURIComponent;

const open = {
  info: null, // what /api/start told
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
let pixels = null;
let ticket = 0; // of the slice asked for last
let visit = 0; // of the study asked for last

const outbox = new Outbox((state, text) => {
  const place = byId("saved");
  place.className = state;
  place.textContent = state === "saved" ? `Saved ${new Date().toTimeString().slice(0, 8)}` : text;
});
const viewer = new Viewer(byId("slice"), showView);
const list = new List(byId("studies"), (position) => openItem(position));
const sheet = new Sheet(byId("sheet"), (index, extend) => goTo(index, extend));
const labels = new Labels({ decide, clear, note });

// Starting

async function start(name) {
  open.info = await ask("start", { reader: name });
  open.studies = open.info.studies;
  open.hounsfield = open.info.dicom;
  pixels = new Pixels(open.info.mode, open.info.window_hu);
  sessionStorage.setItem("reader", open.info.reader);
  byId("reader").textContent = open.info.reader;
  byId("hu").hidden = !open.info.dicom;
  byId("ordering").hidden = byId("model").hidden = !open.info.predictions;
  if (open.info.phantom)
    byId("notice").textContent = "For research. Made-up heads, no patients";
  if (!open.info.dicom && open.info.mode === "paper") viewer.setWindow(255, 128);
  list.showStudies(open.studies);
  showTotal();
  const place = list.positionOf(sessionStorage.getItem("study") ?? "");
  const index = place < 0 ? 0 : Number(sessionStorage.getItem("index") ?? 0);
  await openItem(Math.max(0, place), index);
}

function askName() {
  const dialog = byId("who");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await start(byId("name").value);
      dialog.close();
      viewer.canvas.focus();
    } catch (error) {
      byId("who-error").textContent = error.message;
    }
  });
  dialog.showModal();
}

// Opening a study or a disagreement

async function openItem(position, index = 0) {
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
  sheet.hide();
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

const askSaid = (study) => ask(`said/${escape(study)}`, { reader: open.info.reader });

function nextStudy(step) {
  openItem(list.position + step);
}

function nextUnfinished() {
  if (open.settling) return nextStudy(1);
  const count = open.studies.length;
  for (let step = 1; step <= count; step++) {
    const position = (list.position + step) % count;
    const { done, slices } = open.studies[position];
    if (done < slices) return openItem(position);
  }
  announce("All studies are done");
}

// Moving within the stack

function goTo(index, extend = false) {
  const last = open.slices.length - 1;
  const next = Math.max(0, Math.min(last, index));
  if (extend) open.anchor ??= open.index;
  else open.anchor = null;
  const direction = Math.sign(next - open.index) || 1;
  open.index = next;
  showSlice(direction);
}

function range() {
  const other = open.anchor ?? open.index;
  return [Math.min(other, open.index), Math.max(other, open.index)];
}

function nextSuggested() {
  const count = open.slices.length;
  for (let step = 1; step <= count; step++) {
    const index = (open.index + step) % count;
    const slice = open.slices[index];
    if (open.suggested[slice.key] && !wordOf(slice).outcome) return goTo(index);
  }
  announce("No suggested drop is left in this study");
}

// Deciding

function targets(scope) {
  if (scope === "study") return [open.study];
  const [low, high] = range();
  return open.slices.slice(low, high + 1).map((slice) => slice.key);
}

function decide(scope, field, value) {
  const chosen = targets(scope);
  let told = value;
  if (field === "unsure" && chosen.every((each) => open.state[each]?.unsure)) told = "";
  const changes = chosen.map((target) => ({ target, field, value: told }));
  // A label on one slice that was dropped takes it back in.
  if (field === "label" && scope === "slice" && chosen.length === 1)
    if (wordOf(open.slices[open.index]).outcome === "dropped")
      changes.push({ target: chosen[0], field: "keep", value: "1" });
  store(changes);
}

function clear(scope) {
  const fields = ["keep", "label", "unsure"];
  store(
    targets(scope).flatMap((target) => fields.map((field) => ({ target, field, value: "" }))),
  );
}

function note(scope, text) {
  store(targets(scope).map((target) => ({ target, field: "note", value: text })));
}

function dropSuggested() {
  if (open.settling) return;
  const left = open.slices.filter((each) => open.suggested[each.key] && !wordOf(each).outcome);
  store(left.map(({ key }) => ({ target: key, field: "keep", value: "0" })));
}

/** Shows changes at once and sends them; the header tells when they are on disk. */
function store(all) {
  const changes = all.filter(
    ({ target, field, value }) => (open.state[target]?.[field] ?? "") !== value,
  );
  if (!changes.length) return;
  apply(changes);
  const { study, settling } = open;
  outbox
    .send(settling ? "settle" : "decide", { reader: open.info.reader, changes })
    .then(() => showHistory())
    .catch(() => study === open.study && openItem(list.position, open.index));
}

function apply(changes) {
  set(changes);
  showState();
}

function set(changes) {
  for (const { target, field, value } of changes) {
    open.state[target] ??= {};
    if (value) open.state[target][field] = value;
    else delete open.state[target][field];
  }
}

async function undo() {
  const name = open.settling ? "unsettle" : "undo";
  try {
    const { saved, studies } = await outbox.send(name, { reader: open.info.reader });
    if (!saved.length) return announce("There is nothing to undo");
    if (studies.includes(open.study)) {
      apply(saved);
      showHistory();
    } else if (!open.settling) await openItem(list.positionOf(studies[0]));
    announce(`Undone: ${saved.length} ${saved.length === 1 ? "change" : "changes"}`);
  } catch (error) {
    announce(error.message);
  }
}

// Showing

const wordOf = (slice) => reading(open.state, slice, open.study);

/** `direction`: where the reader is going, 1 or -1; 0 where that is not known. */
async function showSlice(direction) {
  const asked = ++ticket;
  const slice = open.slices[open.index];
  showState();
  let shown;
  try {
    shown = await pixels.get(slice.key, open.hounsfield);
  } catch (error) {
    if (asked !== ticket) return;
    if (!open.hounsfield || !(error instanceof Refused)) return announce(error.message);
    shown = await pixels.get(slice.key, false);
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

function fetchAhead(direction) {
  for (const step of AHEAD) {
    const next = open.slices[open.index + step * direction];
    if (next) pixels.get(next.key, open.hounsfield).catch(() => {});
  }
}

function showView() {
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

function makeStrip() {
  const strip = byId("strip");
  delete strip.dataset.study;
  strip.replaceChildren(...open.slices.map(() => document.createElement("i")));
  strip.classList.toggle("many", open.slices.length > 60);
}

function showState() {
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
  sheet.mark(open.slices, words, open.suggested, open.index, low, high);
  const place = slice.position_mm ? `${Number(slice.position_mm).toFixed(1)} mm` : "";
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

function showVerdict(word, reason) {
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

function showProgress(words) {
  const entry = open.studies.find((each) => each.study === open.study);
  entry.done = words.filter((word) => FINISHED.includes(word.outcome)).length;
  entry.unsure = words.filter((word) => word.unsure).length;
  list.refresh(open.study);
  showTotal();
}

function showSettled(words) {
  const dispute = open.disputes[list.position];
  const here = words.slice(dispute.first, dispute.last + 1);
  dispute.settled = here.every((word) => word.outcome && !word.before);
  list.settled(dispute.settled);
  showTotal();
}

function showTotal() {
  const done = open.studies.filter((each) => each.done === each.slices).length;
  byId("list-title").textContent = open.settling ? "To settle" : "Studies";
  byId("total").textContent = open.settling
    ? `${open.disputes.filter((each) => !each.settled).length} left`
    : `${done} of ${open.studies.length} done`;
}

async function showHistory() {
  const details = byId("history");
  if (!details.open) return;
  const { key } = open.slices[open.index];
  const events = await ask(`history/${escape(key)}`, { reader: open.info.reader });
  if (key === open.slices[open.index].key) labels.history(events, open.study);
}

function announce(text) {
  clearTimeout(announce.later);
  announce.later = setTimeout(() => (byId("live").textContent = text), 250);
}

// The model

async function toggleModel() {
  if (byId("model").hidden) return;
  const on = byId("showing").ariaPressed !== "true";
  byId("showing").ariaPressed = String(on);
  open.probabilities = null;
  if (on) await showProbabilities();
  else byId("probability").textContent = "Hidden, so as not to lead you";
}

async function showProbabilities() {
  const study = open.study;
  const found = await post("probabilities", { reader: open.info.reader, study });
  if (study !== open.study) return;
  open.probabilities = found;
  showProbability(open.slices[open.index].key);
}

function showProbability(key) {
  if (!open.probabilities) return;
  const found = open.probabilities[key];
  byId("probability").textContent =
    found === undefined ? "None for this slice" : `ICH ${(100 * found).toFixed(0)}%`;
}

async function reorder() {
  const by = byId("order").value;
  const names = by
    ? await post("order", { reader: open.info.reader, by })
    : open.info.studies.map((each) => each.study);
  const known = new Map(open.info.studies.map((each) => [each.study, each]));
  open.studies = names.map((name) => known.get(name));
  list.showStudies(open.studies);
  list.select(list.positionOf(open.study));
}

function cycleOrder() {
  if (byId("ordering").hidden) return;
  const select = byId("order");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  reorder();
}

// All readers

async function showReaders() {
  const dialog = byId("readers");
  if (!dialog.open) dialog.showModal();
  byId("blind").hidden = open.info.unblinded;
  byId("open").hidden = !open.info.unblinded;
  if (!open.info.unblinded) return;
  open.disputes = await ask("disputes", { reader: open.info.reader });
  const tables = agreementTables(await ask("agreement", { reader: open.info.reader }));
  const line = document.createElement("p");
  line.textContent = open.disputes.length
    ? `${open.disputes.length} places where readers disagree, or one is unsure.`
    : "Nothing is left to settle.";
  const button = document.createElement("button");
  button.type = "button";
  button.id = "settle";
  button.textContent = "Settle them";
  button.hidden = !open.disputes.length;
  button.addEventListener("click", () => {
    dialog.close();
    setSettling(true);
  });
  byId("open").replaceChildren(...tables, line, button);
}

async function setSettling(on) {
  if (!outbox.empty) return announce("Not everything is saved yet");
  open.settling = on;
  document.body.classList.toggle("settling", on);
  byId("settle-bar").hidden = !on;
  if (on) list.showDisputes(open.disputes);
  else list.showStudies(open.studies);
  showTotal();
  const position = on ? 0 : Math.max(0, list.positionOf(open.study));
  await openItem(position, on ? 0 : open.index);
}

async function unblind() {
  await post("unblind", { reader: open.info.reader });
  open.info.unblinded = true;
  await showReaders();
}

async function exportAll() {
  byId("counts").textContent = "Writing";
  byId("exported").showModal();
  try {
    if (!outbox.empty) throw new Error("Not everything is saved yet: try again when it is");
    const counts = await post("export", { reader: open.info.reader });
    byId("counts").replaceChildren(...exportWords(counts));
  } catch (error) {
    byId("counts").textContent = error.message;
  }
}

// Keys and buttons

const preset = (name) => () => viewer.setWindow(PRESETS[name].width, PRESETS[name].level);

function toggleHounsfield() {
  if (!open.info.dicom) return;
  open.hounsfield = !open.hounsfield;
  showSlice(1);
}

function toggleSheet() {
  if (sheet.shown) sheet.hide();
  else sheet.show(open.study, open.slices);
  byId("sheeting").setAttribute("aria-pressed", String(sheet.shown));
  showState();
}

function leave() {
  if (open.anchor !== null) goTo(open.index);
  else if (sheet.shown) toggleSheet();
}

const saying = (scope) => {
  const shift = scope === "study" ? "Shift+" : "";
  const whom = scope === "study" ? "study" : "slice or range";
  const row = (key, what, field, value) => [[shift + key], what, () => decide(scope, field, value)];
  return [
    `Whole ${whom}`.replace("Whole slice", "Slice"),
    [
      row("k", "keep", "keep", "1"),
      row("d", "drop", "keep", "0"),
      row("n", "normal", "label", "normal"),
      row("i", "ICH, no place yet", "label", "ich"),
      row("1", "deep", "label", "deep"),
      row("2", "lobar", "label", "lobar"),
      row("3", "subtentorial", "label", "subtentorial"),
      row("x", "unsure, or not any more", "unsure", "1"),
      [[`${shift}Backspace`, `${shift}Delete`], "clear", () => clear(scope)],
      [[`${shift}m`], "write a note", () => byId(`${scope}-note`).focus()],
    ],
  ];
};

const pan = (x, y) => () => viewer.panBy(60 * x, 60 * y);
const keys = [
  [
    "Stack",
    [
      [["ArrowDown", "ArrowRight"], "next slice", () => goTo(open.index + 1)],
      [["ArrowUp", "ArrowLeft"], "slice before", () => goTo(open.index - 1)],
      [["Home"], "first slice", () => goTo(0)],
      [["End"], "last slice", () => goTo(open.slices.length - 1)],
      [["Shift+ArrowDown", "Shift+ArrowRight"], "range on", () => goTo(open.index + 1, true)],
      [["Shift+ArrowUp", "Shift+ArrowLeft"], "range back", () => goTo(open.index - 1, true)],
      [["Shift+Home"], "range to the first", () => goTo(0, true)],
      [["Shift+End"], "range to the last", () => goTo(open.slices.length - 1, true)],
      [["Escape"], "leave range or sheet", leave],
      [["PageDown"], "next study", () => nextStudy(1)],
      [["PageUp"], "study before", () => nextStudy(-1)],
      [["Enter"], "next unfinished study", nextUnfinished],
      [["c"], "contact sheet", toggleSheet],
    ],
  ],
  saying("slice"),
  saying("study"),
  [
    "Suggested drops",
    [
      [["g"], "next one", nextSuggested],
      [["Shift+g"], "drop all of this study", dropSuggested],
    ],
  ],
  [
    "Picture",
    [
      [["q"], "brain window", preset("brain")],
      [["w"], "subdural window", preset("subdural")],
      [["e"], "stroke window", preset("stroke")],
      [["r"], "bone window", preset("bone")],
      [["h"], "HU, or cleaned slice", toggleHounsfield],
      [["+", "="], "zoom in", () => viewer.zoomBy(1.25)],
      [["-"], "zoom out", () => viewer.zoomBy(0.8)],
      [["f"], "fit", () => viewer.fit()],
      [["Alt+ArrowLeft"], "look left", pan(1, 0)],
      [["Alt+ArrowRight"], "look right", pan(-1, 0)],
      [["Alt+ArrowUp"], "look up", pan(0, 1)],
      [["Alt+ArrowDown"], "look down", pan(0, -1)],
    ],
  ],
  [
    "Work",
    [
      [["z", "Ctrl+z"], "undo", undo],
      [["s"], "readers: agreement, settling", showReaders],
      [["o"], "show or hide the model's word", toggleModel],
      [["Shift+o"], "another order of studies", cycleOrder],
      [["Shift+e"], "export", exportAll],
      [["?"], "these keys", () => byId("help").showModal()],
    ],
  ],
];

function listenToAll() {
  listen(keys);
  describe(byId("keys"), keys);
  const clicks = {
    undo, settling: showReaders, export: exportAll, hu: toggleHounsfield, unblind,
    fit: () => viewer.fit(), sheeting: toggleSheet, showing: toggleModel,
    "next-suggested": nextSuggested, "drop-suggested": dropSuggested,
    "read-again": () => setSettling(false), helping: () => byId("help").showModal(),
  };
  for (const [id, run] of Object.entries(clicks)) byId(id).addEventListener("click", () => run());
  for (const button of document.querySelectorAll("[data-preset]"))
    button.addEventListener("click", preset(button.dataset.preset));
  for (const id of ["width", "level"])
    byId(id).addEventListener("change", () =>
      viewer.setWindow(Number(byId("width").value), Number(byId("level").value)),
    );
  byId("order").addEventListener("change", reorder);
  byId("history").addEventListener("toggle", showHistory);
  byId("strip").addEventListener("click", (event) => {
    const index = [...byId("strip").children].indexOf(event.target);
    if (index >= 0) goTo(index, event.shiftKey);
  });
  let turned = 0;
  byId("view").addEventListener(
    "wheel",
    (event) => {
      if (sheet.shown && event.target.closest("#sheet")) return;
      event.preventDefault();
      if (event.ctrlKey) {
        const ratio = devicePixelRatio || 1;
        return viewer.zoomBy(event.deltaY < 0 ? 1.15 : 0.87, event.offsetX * ratio, event.offsetY * ratio);
      }
      turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;
      const steps = Math.trunc(turned / 40); // a notch of a wheel is 100 or more: one slice
      if (!steps) return;
      turned = 0;
      goTo(open.index + Math.sign(steps));
    },
    { passive: false },
  );
}

// What could not be asked is told where "Saved" stands; writes are the outbox's own.
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof Away || event.reason instanceof Refused)) return;
  event.preventDefault();
  if (outbox.empty) outbox.tell("failed", event.reason.message);
});

listenToAll();
const before = sessionStorage.getItem("reader");
if (before) start(before).catch(askName);
else askName();
