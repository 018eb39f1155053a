// The left pane: studies with their progress, or disagreements to settle.

import { NAMES, brief, span } from "./readings.js";

export class List {
  #items = []; // {name, element}
  #position = -1;

  /** Called when an item is chosen: choose(position). */
  onChoose = () => {};

  constructor(element) {
    this.element = element;
    element.addEventListener("click", (event) => {
      const chosen = event.target.closest(".study");
      if (chosen) this.onChoose(this.#items.findIndex((item) => item.element === chosen));
    });
    element.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || event.shiftKey || event.ctrlKey) return;
      event.preventDefault();
      event.stopPropagation();
      const next = this.#position + step;
      if (next >= 0 && next < this.#items.length) this.onChoose(next);
    });
  }

  /** The position of the item that is open. */
  get position() {
    return this.#position;
  }

  /** Shows studies, each {study, subject, slices, done, unsure}, in the order given. */
  showStudies(studies) {
    this.#fill(
      studies.map((entry) => {
        const element = makeItem(brief(entry.study), "");
        const bar = document.createElement("div");
        bar.className = "bar";
        bar.append(document.createElement("i"));
        element.append(bar);
        element.title = `study ${entry.study}, subject ${entry.subject}`;
        element.showProgress = () => {
          const { study, slices, done, unsure } = entry;
          element.querySelector("i").style.width = `${(100 * done) / slices}%`;
          element.classList.toggle("finished", done === slices);
          element.querySelector("small").textContent = `${done}/${slices}${unsure ? " ?" : ""}`;
          element.setAttribute(
            "aria-label",
            `Study ${brief(study)}, ${done} of ${slices} slices done` +
              (unsure ? `, ${unsure} unsure` : ""),
          );
        };
        element.showProgress();
        return { name: entry.study, element };
      }),
    );
  }

  /** Shows disagreements, each {study, first, last, readings: [{reader, outcome, unsure}]}. */
  showDisputes(disputes) {
    this.#fill(
      disputes.map(({ study, first, last, readings }) => {
        const element = makeItem(brief(study), span(first, last));
        for (const { reader, outcome, unsure } of readings) {
          const line = document.createElement("small");
          line.textContent = `${reader}: ${NAMES[outcome]}${unsure ? ", unsure" : ""}`;
          element.append(line, document.createElement("br"));
        }
        element.setAttribute("aria-label", element.textContent);
        return { name: study, element };
      }),
    );
  }

  #fill(items) {
    this.#items = items;
    this.#position = -1;
    items.forEach(({ element }, position) => {
      element.id = `item-${position}`;
    });
    this.element.replaceChildren(...items.map(({ element }) => element));
  }

  /** Marks an item as the one that is open. */
  select(position) {
    this.#items[this.#position]?.element.setAttribute("aria-selected", "false");
    this.#position = position;
    const element = this.#items[position]?.element;
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", element.id);
    element.scrollIntoView({ block: "nearest" });
  }

  /** Marks the open disagreement as settled, or as not. */
  markSettled(on) {
    const element = this.#items[this.#position]?.element;
    if (!element) return;
    element.note ??= element.querySelector("small").textContent;
    element.classList.toggle("settled", on);
    element.querySelector("small").textContent = element.note + (on ? ", settled" : "");
    element.setAttribute("aria-label", element.textContent);
  }

  /** Updates the progress of a study. */
  refresh(study) {
    this.#items.find(({ name }) => name === study)?.element.showProgress?.();
  }

  positionOf(study) {
    return this.#items.findIndex(({ name }) => name === study);
  }
}

function makeItem(name, note) {
  const element = document.createElement("div");
  element.className = "study";
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", "false");
  const line = document.createElement("div");
  line.className = "name";
  const label = document.createElement("span");
  label.textContent = name;
  const small = document.createElement("small");
  small.textContent = note;
  line.append(label, small);
  element.append(line);
  return element;
}
