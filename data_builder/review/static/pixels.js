// Slices as numbers, fetched ahead of the reader and kept in memory.

import { fetchBytes } from "./api.js";

const KEPT = 160; // slices of half a megabyte

export class Pixels {
  #known = new Map(); // name -> promise of a slice

  /** `mode` and `windowHu` tell what a cleaned slice's grays mean. */
  constructor(mode, windowHu) {
    this.scale =
      mode === "paper"
        ? { slope: 1, intercept: 0, unit: "gray" }
        : { slope: (windowHu[1] - windowHu[0]) / 255, intercept: windowHu[0], unit: "HU" };
  }

  /** {rows, columns, values (Int16Array), slope, intercept, unit}. */
  get(key, hounsfield) {
    const name = `${hounsfield ? "hu" : "image"}/${encodeURIComponent(key)}`;
    let found = this.#known.get(name);
    if (found) this.#known.delete(name); // and back in, as the newest
    else {
      found = hounsfield ? fetchHounsfield(name) : this.#fetchImage(name);
      found.catch(() => this.#known.delete(name));
    }
    this.#known.set(name, found);
    if (this.#known.size > KEPT) this.#known.delete(this.#known.keys().next().value);
    return found;
  }

  async #fetchImage(name) {
    const blob = await (await fetchBytes(name)).blob();
    const bitmap = await createImageBitmap(blob);
    const { width: columns, height: rows } = bitmap;
    const context = new OffscreenCanvas(columns, rows).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const colours = context.getImageData(0, 0, columns, rows).data;
    const values = new Int16Array(rows * columns);
    for (let i = 0; i < values.length; i++) values[i] = colours[4 * i];
    return { rows, columns, values, ...this.scale };
  }
}

async function fetchHounsfield(name) {
  const response = await fetchBytes(name);
  const rows = Number(response.headers.get("x-rows"));
  const columns = Number(response.headers.get("x-columns"));
  const values = new Int16Array(await response.arrayBuffer());
  return { rows, columns, values, slope: 1, intercept: 0, unit: "HU" };
}
