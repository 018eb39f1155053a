// The right pane: the decisions on the slices chosen and on the study.

import { NAMES, span } from "./readings.js";

const byId = (id) => document.getElementById(id);

export class Labels {
  /** Called on use: decide(scope, field, value), clear(scope), note(scope, text). */
  onDecide = () => {};
  onClear = () => {};
  onNote = () => {};

  constructor() {
    for (const scope of ["slice", "study"]) {
      const group = document.querySelector(`fieldset[data-scope="${scope}"]`);
      group.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        if ("clear" in button.dataset) this.onClear(scope);
        else this.onDecide(scope, button.dataset.field, button.dataset.value);
      });
      const input = byId(`${scope}-note`);
      input.addEventListener("change", () => this.onNote(scope, input.value.trim()));
    }
  }

  /** Shows the state of slices `first` to `last`; `reading` is that of slice `current`. */
  show(state, study, slices, first, last, current, reading) {
    const chosen = slices.slice(first, last + 1).map((slice) => state[slice.key] ?? {});
    const legend = span(first, last);
    byId("slice-legend").textContent = legend[0].toUpperCase() + legend.slice(1);
    for (const button of document.querySelectorAll("fieldset button[data-field]")) {
      const { field, value } = button.dataset;
      const whole = button.closest("fieldset").dataset.scope === "study";
      const decisions = whole ? [state[study] ?? {}] : chosen;
      const pressed = decisions.every((fields) => fields[field] === value);
      button.setAttribute("aria-pressed", String(pressed));
      const { outcome } = reading;
      const applies = field === "label" ? outcome === value : value === "0" && outcome === "dropped";
      button.classList.toggle("inherited", !whole && first === last && !pressed && applies);
    }
    for (const [id, target] of [["slice-note", slices[current].key], ["study-note", study]])
      if (document.activeElement !== byId(id)) byId(id).value = state[target]?.note ?? "";
  }

  /** Lists suggested drops; `reasons` is reason -> indices of undecided slices. */
  suggest(reasons) {
    const lines = [...reasons].map(([reason, indices]) => {
      const line = document.createElement("li");
      line.textContent = `${runs(indices)}: ${reason}`;
      return line;
    });
    byId("reasons").replaceChildren(...lines);
    byId("suggested").hidden = lines.length === 0;
  }

  /** Lists the readings of all readers and what is settled; null hides the list. */
  others(readings, settled) {
    byId("others").hidden = !readings;
    if (!readings) return;
    const lines = readings.map(({ reader, outcome, unsure, note }) =>
      entry(reader, outcome, (unsure ? ", unsure" : "") + (note ? `: “${note}”` : "")),
    );
    if (settled) lines.push(entry("Settled", settled, ""));
    byId("readings").replaceChildren(...lines);
  }

  /** Lists the decisions on a slice, oldest first. */
  history(events, study) {
    const lines = events.map((event) => {
      const line = document.createElement("li");
      const target = event.target === study ? "study: " : "";
      const before = event.before ? ` (before: ${valueName(event.field, event.before)})` : "";
      const how = event.undo ? " by undo" : event.settles ? " settled" : "";
      line.textContent =
        `${event.at.slice(0, 16).replace("T", " ")} ${event.reader}${how}: ${target}` +
        `${valueName(event.field, event.value)}${before}`;
      return line;
    });
    if (!lines.length) {
      lines.push(document.createElement("li"));
      lines[0].textContent = "no decisions yet";
    }
    byId("events").replaceChildren(...lines);
  }
}

function valueName(field, value) {
  if (!value) return field === "keep" ? "neither keep nor drop" : `no ${field}`;
  if (field === "keep") return value === "1" ? "keep" : "drop";
  if (field === "unsure") return "unsure";
  return field === "note" ? `note “${value}”` : NAMES[value];
}

function entry(reader, outcome, more) {
  const line = document.createElement("li");
  const name = document.createElement("b");
  name.className = outcome;
  name.textContent = NAMES[outcome];
  line.append(`${reader}: `, name, more);
  return line;
}

/** Indices as runs, counted from 1: "1–3, 28". */
function runs(indices) {
  const ranges = [];
  for (const index of indices) {
    const last = ranges.at(-1);
    if (last && last[1] === index - 1) last[1] = index;
    else ranges.push([index, index]);
  }
  return ranges.map(([a, b]) => (a === b ? `${a + 1}` : `${a + 1}–${b + 1}`)).join(", ");
}
