// The right pane: what is said of the slices chosen and of the study.

import { SAID } from "./words.js";
import { span } from "./list.js";

const byId = (id) => document.getElementById(id);

export class Labels {
  /** `decide(scope, field, value)`, `clear(scope)` and `note(scope, text)` are called on use. */
  constructor({ decide, clear, note }) {
    for (const scope of ["slice", "study"]) {
      const group = document.querySelector(`fieldset[data-scope="${scope}"]`);
      group.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (!button) return;
        if ("clear" in button.dataset) clear(scope);
        else decide(scope, button.dataset.field, button.dataset.value);
      });
      const input = byId(`${scope}-note`);
      input.addEventListener("change", () => note(scope, input.value.trim()));
    }
  }

  /** Shows the state of slices `low` to `high`, of which `word` is the reading of the one seen. */
  show(state, study, slices, low, high, here, word) {
    const chosen = slices.slice(low, high + 1).map((slice) => state[slice.key] ?? {});
    const legend = span(low, high);
    byId("slice-legend").textContent = legend[0].toUpperCase() + legend.slice(1);
    for (const button of document.querySelectorAll("fieldset button[data-field]")) {
      const { field, value } = button.dataset;
      const whole = button.closest("fieldset").dataset.scope === "study";
      const told = whole ? [state[study] ?? {}] : chosen;
      const pressed = told.every((each) => each[field] === value);
      button.setAttribute("aria-pressed", String(pressed));
      const shown = field === "label" ? word.outcome === value : value === "0" && word.outcome === "dropped";
      button.classList.toggle("inherited", !whole && low === high && !pressed && shown);
    }
    for (const [id, target] of [["slice-note", slices[here].key], ["study-note", study]])
      if (document.activeElement !== byId(id)) byId(id).value = state[target]?.note ?? "";
  }

  /** Lists the reasons to drop; `reasons` is reason -> positions of slices not read yet. */
  suggest(reasons) {
    const lines = [...reasons].map(([reason, positions]) => {
      const line = document.createElement("li");
      line.textContent = `${runs(positions)}: ${reason}`;
      return line;
    });
    byId("reasons").replaceChildren(...lines);
    byId("suggested").hidden = lines.length === 0;
  }

  /** What each reader said of a slice; null hides it. */
  others(said, settled) {
    byId("others").hidden = !said;
    if (!said) return;
    const lines = said.map(({ reader, outcome, unsure, note }) =>
      entry(reader, outcome, (unsure ? ", unsure" : "") + (note ? `: “${note}”` : "")),
    );
    if (settled) lines.push(entry("Settled", settled, ""));
    byId("said").replaceChildren(...lines);
  }

  /** The decisions on a slice, oldest first. */
  history(events, study) {
    const lines = events.map((event) => {
      const line = document.createElement("li");
      const target = event.target === study ? "study: " : "";
      const from = event.before ? ` (before: ${value(event.field, event.before)})` : "";
      const how = event.undo ? " by undo" : event.settles ? " settled" : "";
      line.textContent =
        `${event.at.slice(0, 16).replace("T", " ")} ${event.reader}${how}: ${target}` +
        `${value(event.field, event.value)}${from}`;
      return line;
    });
    if (!lines.length) {
      lines.push(document.createElement("li"));
      lines[0].textContent = "nothing yet";
    }
    byId("events").replaceChildren(...lines);
  }
}

function value(field, told) {
  if (!told) return `no ${field === "keep" ? "word on keeping" : field}`;
  if (field === "keep") return told === "1" ? "keep" : "drop";
  if (field === "unsure") return "unsure";
  return field === "note" ? `note “${told}”` : SAID[told];
}

function entry(name, outcome, more) {
  const line = document.createElement("li");
  const word = document.createElement("b");
  word.className = outcome;
  word.textContent = SAID[outcome];
  line.append(`${name}: `, word, more);
  return line;
}

/** Positions as runs, counted from 1: "1–3, 28". */
function runs(positions) {
  const found = [];
  for (const position of positions) {
    const last = found.at(-1);
    if (last && last[1] === position - 1) last[1] = position;
    else found.push([position, position]);
  }
  return found.map(([a, b]) => (a === b ? `${a + 1}` : `${a + 1}–${b + 1}`)).join(", ");
}
