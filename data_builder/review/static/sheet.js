// The contact sheet of a study: one picture of all thumbnails, of which each button shows a part.

import { NAMES } from "./readings.js";

const SIDE = 128; // pictures.THUMBNAIL
const COLUMNS = 16; // pictures.COLUMNS

export class Sheet {
  /** Called when a thumbnail is chosen: choose(index, extend). */
  onChoose = () => {};

  constructor(element) {
    this.element = element;
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.onChoose(Number(button.dataset.index), event.shiftKey);
    });
    element.addEventListener("dblclick", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      this.hide();
      this.onChoose(Number(button.dataset.index), false);
    });
  }

  get shown() {
    return !this.element.hidden;
  }

  hide() {
    this.element.hidden = true;
  }

  /** Shows the sheet of a study. */
  show(study, slices) {
    const address = `url("/api/sheet/${encodeURIComponent(study)}")`;
    this.element.replaceChildren(
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
    this.element.hidden = false;
  }

  /** Marks each slice with its reading, or with the reason of a suggested drop. */
  mark(slices, readings, suggested, current, first, last) {
    if (!this.shown) return;
    slices.forEach((slice, index) => {
      const button = this.element.children[index];
      const { outcome, unsure } = readings[index];
      button.className = [
        outcome && `outcome-${outcome} ${outcome}`,
        first !== last && index >= first && index <= last && "ranged",
        index === current && "current",
      ]
        .filter(Boolean)
        .join(" ");
      const reason = outcome ? "" : suggested[slice.key] ?? "";
      button.querySelector("em").textContent = reason;
      button.querySelector("span").textContent = index + 1;
      button.querySelector("b").textContent =
        (outcome ? NAMES[outcome].split(",")[0] : "") + (unsure ? " ?" : "");
      button.setAttribute(
        "aria-label",
        `Slice ${index + 1}, ${NAMES[outcome]}${reason && `, suggested drop: ${reason}`}`,
      );
    });
    this.element.children[current]?.scrollIntoView({ block: "nearest" });
  }
}
