// The contact sheet of a study: one picture of all its thumbnails, cut up by the buttons.

import { SAID } from "./words.js";

const SIDE = 128;
const COLUMNS = 16;

export class Sheet {
  /** `choose(index, extend)` is called when a thumbnail is taken. */
  constructor(place, choose) {
    this.place = place;
    place.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) choose(Number(button.dataset.index), event.shiftKey);
    });
    place.addEventListener("dblclick", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      this.hide();
      choose(Number(button.dataset.index), false);
    });
  }

  get shown() {
    return !this.place.hidden;
  }

  hide() {
    this.place.hidden = true;
  }

  /** Builds the sheet of a study. */
  show(study, slices) {
    const address = `url("/api/sheet/${encodeURIComponent(study)}")`;
    this.place.replaceChildren(
      ...slices.map((slice, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.index = index;
        const picture = document.createElement("div");
        picture.className = "picture";
        picture.style.backgroundImage = address;
        const [x, y] = [index % COLUMNS, Math.floor(index / COLUMNS)];
        picture.style.backgroundPosition = `${-SIDE * x}px ${-SIDE * y}px`;
        const line = document.createElement("small");
        line.append(document.createElement("span"), document.createElement("b"));
        button.append(picture, document.createElement("em"), line);
        return button;
      }),
    );
    this.place.hidden = false;
  }

  /** Marks what was said: `words` are readings, `suggested` reasons by key. */
  mark(slices, words, suggested, here, low, high) {
    if (!this.shown) return;
    slices.forEach((slice, index) => {
      const button = this.place.children[index];
      const word = words[index];
      const ranged = low !== high && index >= low && index <= high;
      button.className = [
        word.outcome && `said-${word.outcome} ${word.outcome}`,
        ranged && "ranged",
        index === here && "here",
      ]
        .filter(Boolean)
        .join(" ");
      const reason = word.outcome ? "" : suggested[slice.key] ?? "";
      button.querySelector("em").textContent = reason;
      button.querySelector("span").textContent = index + 1;
      button.querySelector("b").textContent =
        (word.outcome ? SAID[word.outcome].split(",")[0] : "") + (word.unsure ? " ?" : "");
      button.setAttribute(
        "aria-label",
        `Slice ${index + 1}, ${SAID[word.outcome]}${reason && `, suggested drop: ${reason}`}`,
      );
    });
    this.place.children[here]?.scrollIntoView({ block: "nearest" });
  }
}
