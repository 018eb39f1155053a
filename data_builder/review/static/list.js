// The left pane: studies with progress, or what is left to settle.

import { SAID, brief } from "./words.js";

export class List {
  #items = []; // {name, element}
  #at = -1;

  /** `choose(position)` is called when an item is taken. */
  constructor(place, choose) {
    this.place = place;
    this.choose = choose;
    place.addEventListener("click", (event) => {
      const item = event.target.closest(".study");
      if (item) choose(this.#items.findIndex((each) => each.element === item));
    });
    place.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || event.shiftKey || event.ctrlKey) return;
      event.preventDefault();
      event.stopPropagation();
      const next = this.#at + step;
      if (next >= 0 && next < this.#items.length) choose(next);
    });
  }

  get size() {
    return this.#items.length;
  }

  get position() {
    return this.#at;
  }

  /** Studies, each {study, slices, done, unsure}, in the order given. */
  showStudies(studies) {
    this.#fill(
      studies.map((each) => {
        const element = item(brief(each.study), "");
        const bar = document.createElement("div");
        bar.className = "bar";
        bar.append(document.createElement("i"));
        element.append(bar);
        element.title = `${each.study} of ${each.subject}`;
        element.progress = () => {
          element.querySelector("i").style.width = `${(100 * each.done) / each.slices}%`;
          element.classList.toggle("finished", each.done === each.slices);
          const words = `${each.done}/${each.slices}${each.unsure ? " ?" : ""}`;
          element.querySelector("small").textContent = words;
          element.setAttribute(
            "aria-label",
            `Study ${brief(each.study)}, ${each.done} of ${each.slices} slices done` +
              (each.unsure ? `, ${each.unsure} unsure` : ""),
          );
        };
        element.progress();
        return { name: each.study, element };
      }),
    );
  }

  /** Disagreements, each {study, first, last, said: [{reader, outcome, unsure}]}. */
  showDisputes(disputes) {
    this.#fill(
      disputes.map((each) => {
        const element = item(brief(each.study), span(each.first, each.last));
        for (const { reader, outcome, unsure } of each.said) {
          const line = document.createElement("small");
          line.textContent = `${reader}: ${SAID[outcome]}${unsure ? ", unsure" : ""}`;
          element.append(line, document.createElement("br"));
        }
        element.setAttribute("aria-label", element.textContent);
        return { name: each.study, element };
      }),
    );
  }

  #fill(items) {
    this.#items = items;
    this.#at = -1;
    items.forEach(({ element }, position) => {
      element.id = `item-${position}`;
    });
    this.place.replaceChildren(...items.map(({ element }) => element));
  }

  /** Marks an item as the one that is open. */
  select(position) {
    this.#items[this.#at]?.element.setAttribute("aria-selected", "false");
    this.#at = position;
    const element = this.#items[position]?.element;
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    this.place.setAttribute("aria-activedescendant", element.id);
    element.scrollIntoView({ block: "nearest" });
  }

  /** Tells of the disagreement that is open whether it is settled. */
  settled(on) {
    const element = this.#items[this.#at]?.element;
    if (!element) return;
    element.note ??= element.querySelector("small").textContent;
    element.classList.toggle("settled", on);
    element.querySelector("small").textContent = element.note + (on ? ", settled" : "");
    element.setAttribute("aria-label", element.textContent);
  }

  /** Shows anew how far a study is. */
  refresh(study) {
    this.#items.find(({ name }) => name === study)?.element.progress?.();
  }

  positionOf(study) {
    return this.#items.findIndex(({ name }) => name === study);
  }
}

export function span(first, last) {
  return first === last ? `slice ${first + 1}` : `slices ${first + 1}–${last + 1}`;
}

function item(name, note) {
  const element = document.createElement("div");
  element.className = "study";
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", "false");
  const line = document.createElement("div");
  line.className = "name";
  const words = document.createElement("span");
  words.textContent = name;
  const small = document.createElement("small");
  small.textContent = note;
  line.append(words, small);
  element.append(line);
  return element;
}
