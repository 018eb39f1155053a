// The page: how it starts, and what its keys and buttons do.

import { Away, Refused, ask } from "./api.js";
import { clear, decide, dropSuggested, undo } from "./deciding.js";
import { describe, listen } from "./keys.js";
import { cycleOrder, reorder, toggleModel } from "./model.js";
import { byId, open, outbox } from "./page.js";
import { list, sheet, viewer } from "./parts.js";
import { Pixels } from "./pixels.js";
import { showHistory, showState, showTotal } from "./showing.js";
import { goTo, nextStudy, nextSuggested, nextUnfinished, openItem, showSlice } from "./stack.js";
import { exportAll, setSettling, showReaders, unblind } from "./together.js";
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
