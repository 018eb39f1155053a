// Starts the page, and connects keys, buttons and panes with what they do.

import { Away, Refused, ask } from "./api.js";
import { clear, decide, dropSuggested, note, undo } from "./decisions.js";
import { showHistory, showState, showTotal, showView } from "./display.js";
import { describe, listen } from "./keys.js";
import { cycleOrder, reorder, toggleModel } from "./model.js";
import { byId, open, outbox } from "./page.js";
import { labels, list, sheet, viewer } from "./panes.js";
import { Pixels } from "./pixels.js";
import { exportAll, setSettling, showReaders, unblind } from "./readers.js";
import { goTo, nextStudy, nextSuggested, nextUnfinished, openItem, showSlice } from "./stack.js";
import { PRESETS } from "./viewer.js";

// Starting

async function start(name) {
  open.info = await ask("start", { reader: name });
  open.studies = open.info.studies;
  open.hounsfield = open.info.dicom;
  open.pixels = new Pixels(open.info.mode, open.info.window_hu);
  sessionStorage.setItem("reader", open.info.reader);
  byId("reader").textContent = open.info.reader;
  byId("hu").hidden = !open.info.dicom;
  byId("order-label").hidden = byId("model").hidden = !open.info.predictions;
  if (open.info.phantom)
    byId("notice").textContent = "For research. Synthetic heads, not patients";
  if (!open.info.dicom && open.info.mode === "paper") viewer.setWindow(255, 128);
  list.showStudies(open.studies);
  showTotal();
  const position = list.positionOf(sessionStorage.getItem("study") ?? "");
  const index = position < 0 ? 0 : Number(sessionStorage.getItem("index") ?? 0);
  await openItem(Math.max(0, position), index);
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
  showState();
}

function leave() {
  if (open.anchor !== null) goTo(open.index);
  else if (sheet.shown) toggleSheet();
}

const decisionKeys = (scope) => {
  const shift = scope === "study" ? "Shift+" : "";
  const row = (key, text, field, value) => [[shift + key], text, () => decide(scope, field, value)];
  return [
    scope === "study" ? "Whole study" : "Slice or range",
    [
      row("k", "keep", "keep", "1"),
      row("d", "drop", "keep", "0"),
      row("n", "normal", "label", "normal"),
      row("i", "ICH, no location yet", "label", "ich"),
      row("1", "deep", "label", "deep"),
      row("2", "lobar", "label", "lobar"),
      row("3", "subtentorial", "label", "subtentorial"),
      row("x", "unsure (again: sure)", "unsure", "1"),
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
      [["ArrowUp", "ArrowLeft"], "previous slice", () => goTo(open.index - 1)],
      [["Home"], "first slice", () => goTo(0)],
      [["End"], "last slice", () => goTo(open.slices.length - 1)],
      [["Shift+ArrowDown", "Shift+ArrowRight"], "extend the range down", () => goTo(open.index + 1, true)],
      [["Shift+ArrowUp", "Shift+ArrowLeft"], "extend the range up", () => goTo(open.index - 1, true)],
      [["Shift+Home"], "range to the first slice", () => goTo(0, true)],
      [["Shift+End"], "range to the last slice", () => goTo(open.slices.length - 1, true)],
      [["Escape"], "leave the range or the sheet", leave],
      [["PageDown"], "next study", () => nextStudy(1)],
      [["PageUp"], "previous study", () => nextStudy(-1)],
      [["Enter"], "next unfinished study", nextUnfinished],
      [["c"], "contact sheet", toggleSheet],
    ],
  ],
  decisionKeys("slice"),
  decisionKeys("study"),
  [
    "Suggested drops",
    [
      [["g"], "next suggestion", nextSuggested],
      [["Shift+g"], "drop all suggested in this study", dropSuggested],
    ],
  ],
  [
    "Picture",
    [
      [["q"], "brain window", preset("brain")],
      [["w"], "subdural window", preset("subdural")],
      [["e"], "stroke window", preset("stroke")],
      [["r"], "bone window", preset("bone")],
      [["h"], "HU or cleaned slice", toggleHounsfield],
      [["+", "="], "zoom in", () => viewer.zoomBy(1.25)],
      [["-"], "zoom out", () => viewer.zoomBy(0.8)],
      [["f"], "fit the slice", () => viewer.fit()],
      [["Alt+ArrowLeft"], "move the view left", pan(1, 0)],
      [["Alt+ArrowRight"], "move the view right", pan(-1, 0)],
      [["Alt+ArrowUp"], "move the view up", pan(0, 1)],
      [["Alt+ArrowDown"], "move the view down", pan(0, -1)],
    ],
  ],
  [
    "Work",
    [
      [["z", "Ctrl+z"], "undo", undo],
      [["s"], "readers: agreement and settling", showReaders],
      [["o"], "show or hide the model's probabilities", toggleModel],
      [["Shift+o"], "next order of studies", cycleOrder],
      [["Shift+e"], "export", exportAll],
      [["?"], "this list", () => byId("help").showModal()],
    ],
  ],
];

function connectPanes() {
  viewer.onChange = showView;
  list.onChoose = (position) => openItem(position);
  sheet.onChoose = goTo;
  Object.assign(labels, { onDecide: decide, onClear: clear, onNote: note });
}

function connectControls() {
  listen(keys);
  describe(byId("keys"), keys);
  const clicks = {
    undo, "show-readers": showReaders, export: exportAll, hu: toggleHounsfield, unblind,
    fit: () => viewer.fit(), "toggle-sheet": toggleSheet, "toggle-model": toggleModel,
    "next-suggested": nextSuggested, "drop-suggested": dropSuggested,
    "read-again": () => setSettling(false), "show-help": () => byId("help").showModal(),
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

// A failed request is reported where "Saved" is shown; the outbox reports failed writes itself.
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof Away || event.reason instanceof Refused)) return;
  event.preventDefault();
  if (outbox.empty) outbox.report("failed", event.reason.message);
});

connectPanes();
connectControls();
const previous = sessionStorage.getItem("reader");
if (previous) start(previous).catch(askName);
else askName();
