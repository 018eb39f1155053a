// Draws one slice: window and level, zoom and pan.

export const PRESETS = {
  brain: { width: 80, level: 40 },
  subdural: { width: 215, level: 75 },
  stroke: { width: 8, level: 32 },
  bone: { width: 2800, level: 600 },
};

export class Viewer {
  #slice = null;
  #picture = new OffscreenCanvas(1, 1);
  #table = new Uint32Array(65536);

  /** Called when window, level or zoom have changed. */
  onChange = () => {};

  constructor(canvas) {
    this.canvas = canvas;
    this.window = { ...PRESETS.brain };
    this.zoom = 1;
    this.pan = { x: 0, y: 0 };
    new ResizeObserver(() => this.#fitCanvas()).observe(canvas);
    this.#listen();
  }

  /** Draws a slice of Pixels. */
  show(slice) {
    this.#slice = slice;
    this.#paint();
  }

  setWindow(width, level) {
    this.window = {
      width: Math.min(5000, Math.max(1, Math.round(width))),
      level: Math.min(3100, Math.max(-1100, Math.round(level))),
    };
    this.#paint();
    this.onChange();
  }

  /** Zooms about a point of the canvas, by default its middle. */
  zoomBy(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const before = this.zoom;
    this.zoom = Math.min(16, Math.max(1, before * factor));
    const ratio = this.zoom / before;
    const [middleX, middleY] = [this.canvas.width / 2, this.canvas.height / 2];
    this.pan.x = (this.pan.x - (x - middleX)) * ratio + (x - middleX);
    this.pan.y = (this.pan.y - (y - middleY)) * ratio + (y - middleY);
    if (this.zoom === 1) this.pan = { x: 0, y: 0 };
    this.#draw();
    this.onChange();
  }

  panBy(x, y) {
    this.pan.x += x;
    this.pan.y += y;
    this.#draw();
  }

  fit() {
    this.zoom = 1;
    this.pan = { x: 0, y: 0 };
    this.#draw();
    this.onChange();
  }

  /** Maps values to grays through a table, so that a new window costs one pass over the slice. */
  #paint() {
    const slice = this.#slice;
    if (!slice) return;
    const { width, level } = this.window;
    const { rows, columns, values } = slice;
    for (let i = 0; i < 65536; i++) {
      const unit = (i - 32768) * slice.slope + slice.intercept;
      const gray = Math.min(255, Math.max(0, Math.round(((unit - level) / width + 0.5) * 255)));
      this.#table[i] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
    }
    if (this.#picture.width !== columns || this.#picture.height !== rows)
      this.#picture = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const table = this.#table;
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[values[i] + 32768];
    this.#picture.getContext("2d").putImageData(image, 0, 0);
    this.#draw();
  }

  #draw() {
    const { canvas, zoom, pan } = this;
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.#slice) return;
    const { width, height } = this.#picture;
    const scale = Math.min(canvas.width / width, canvas.height / height) * zoom;
    const [w, h] = [width * scale, height * scale];
    context.imageSmoothingEnabled = scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(
      this.#picture,
      (canvas.width - w) / 2 + pan.x,
      (canvas.height - h) / 2 + pan.y,
      w,
      h,
    );
  }

  #fitCanvas() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.#draw();
  }

  #listen() {
    const canvas = this.canvas;
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.panning = event.button !== 0 || event.shiftKey;
      canvas.focus();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      const ratio = devicePixelRatio || 1;
      if (this.panning) this.panBy(event.movementX * ratio, event.movementY * ratio);
      else {
        const step = Math.max(0.25, this.window.width / 400); // wide windows move faster
        const { width, level } = this.window;
        this.setWindow(width + event.movementX * step * 2, level - event.movementY * step);
      }
    });
  }
}
