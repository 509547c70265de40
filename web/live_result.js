// A run as the page knows it: its frames, decoded, and the small canvases drawn from them.

const MAX_FRAMES = 256;

/** A run of one node; frames are ordered by evaluation. */
export class Result {
  constructor({ graph, node, run, prompt }) {
    Object.assign(this, { graph, node, run, prompt });
    this.frames = [];
    this.status = ""; // one line, once the run has ended
    this.active = true; // whether S-CFG was
    this.remedy = ""; // what to do if it was not
  }

  end({ status, active, remedy = "" }) {
    Object.assign(this, { status, active, remedy });
  }

  add(message) {
    const found = this.frames.findIndex((frame) => frame.index >= message.index);
    const known = found >= 0 && this.frames[found].index === message.index;
    this.frames.splice(found < 0 ? this.frames.length : found, known ? 1 : 0, new Frame(message));
    if (this.frames.length > MAX_FRAMES) this.frames = this.frames.filter((_, i) => i % 2 === 0);
  }

  /**
   * Texts and colours of the words of all frames, with their area in `frame`: those that own something there first;
   * within both parts the largest total area first, so that the order is the same at every step.
   */
  words(frame) {
    const byText = new Map();
    for (const frame of this.frames) {
      for (const { text, colour, area } of frame.words) {
        const word = byText.get(text) ?? { text, colour, area: 0 };
        word.area += area;
        byText.set(text, word);
      }
    }
    const here = new Map(frame.words.map(({ text, area }) => [text, area]));
    const words = [...byText.values()].sort((a, b) => b.area - a.area);
    for (const word of words) word.area = here.get(word.text) ?? 0;
    return [...words.filter(({ area }) => area), ...words.filter(({ area }) => !area)];
  }
}

/** One evaluation; nodes/frames.py documents its fields. */
export class Frame {
  constructor(message) {
    Object.assign(this, message);
    [this.height, this.width] = message.grid;
    this.labels = decode(message.labels);
    this.followed = message.followed.map(({ mask, ...words }) => ({ ...words, inside: decode(mask).map((share) => Number(share >= 500)) }));
    this.ratios = Float32Array.from(decode(message.ratios), (thousandths) => thousandths / 1000);
    this.previewImage = null;
  }

  /** Whether the preview has loaded; if not, `whenReady` is called once it has. */
  ready(whenReady) {
    if (!this.preview || this.previewImage?.complete) return true;
    this.previewImage ??= new Image();
    this.previewImage.onload = this.previewImage.onerror = whenReady;
    if (!this.previewImage.src) this.previewImage.src = this.preview;
    return this.previewImage.complete;
  }

  /** The predicted image, or null. */
  image() {
    return this.previewImage?.naturalWidth ? this.previewImage : null;
  }

  /** Index of the cell at (x, y), both in 0…1. */
  cell(x, y) {
    const row = Math.min(this.height - 1, Math.floor(y * this.height));
    return row * this.width + Math.min(this.width - 1, Math.floor(x * this.width));
  }

  wordAt(cell) {
    return this.words[this.labels[cell]];
  }

  /** A small canvas in the colours of the words; if `solo` is a word, the others are transparent. */
  regions(solo) {
    return this.#paint((cell) => {
      const word = this.wordAt(cell);
      return [...word.colour, !solo || word.text === solo ? 255 : 0];
    });
  }

  /** A small canvas of the scales; if `solo` is a word, the others are faint. */
  scales(solo) {
    return this.#paint((cell) => {
      const position = Math.log(Math.max(this.ratios[cell], 1e-3)) / this.span;
      return [...this.rampColour(position), !solo || this.wordAt(cell).text === solo ? 255 : 40];
    });
  }

  /** Colour at a position −1…1 of the ramp. */
  rampColour(position) {
    const at = ((Math.min(1, Math.max(-1, position)) + 1) / 2) * (this.ramp.length - 1);
    const low = Math.min(Math.floor(at), this.ramp.length - 2);
    return this.ramp[low].map((value, i) => value + (this.ramp[low + 1][i] - value) * (at - low));
  }

  #paint(colourOf) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.width, this.height];
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(this.width, this.height);
    for (let cell = 0; cell < this.labels.length; cell++) pixels.data.set(colourOf(cell), 4 * cell);
    context.putImageData(pixels, 0, 0);
    return canvas;
  }
}

/** base64 of little-endian uint16 → Uint16Array. */
function decode(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
}
