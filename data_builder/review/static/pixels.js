// Fetches slices as numbers, and keeps the latest in memory.

import { fetchBytes } from "./api.js";

const KEPT = 160; // slices of half a megabyte

export class Pixels {
  #slices = new Map(); // name -> promise of a slice; the one used last comes last

  /** `mode` and `windowHu` of the cleaning define the unit of a cleaned slice's grays. */
  constructor(mode, windowHu) {
    this.scale =
      mode === "paper"
        ? { slope: 1, intercept: 0, unit: "gray" }
        : { slope: (windowHu[1] - windowHu[0]) / 255, intercept: windowHu[0], unit: "HU" };
  }

  /** Promises {rows, columns, values (Int16Array), slope, intercept, unit}. */
  get(key, hounsfield) {
    const name = `${hounsfield ? "hu" : "image"}/${encodeURIComponent(key)}`;
    let slice = this.#slices.get(name);
    if (slice) this.#slices.delete(name); // set again below, as the latest
    else {
      slice = hounsfield ? fetchHounsfield(name) : this.#fetchImage(name);
      slice.catch(() => this.#slices.delete(name));
    }
    this.#slices.set(name, slice);
    if (this.#slices.size > KEPT) this.#slices.delete(this.#slices.keys().next().value);
    return slice;
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
