// What the page knows of a run: its frames, unpacked, and the small pictures made of them.

const MOST_FRAMES = 256;

/** A run of one node; frames are in the order of their evaluations. */
export class Result {
  constructor({ graph, node, run }) {
    this.graph = graph;
    this.node = node;
    this.run = run;
    this.frames = [];
  }

  add(message) {
    const place = this.frames.findIndex((each) => each.index >= message.index);
    const known = place >= 0 && this.frames[place].index === message.index;
    this.frames.splice(place < 0 ? this.frames.length : place, known ? 1 : 0, new Frame(message));
    if (this.frames.length > MOST_FRAMES) this.frames = this.frames.filter((_, i) => i % 2 === 0);
  }

  /** Texts and colours of all words of all frames, those that own most first: one order for every step. */
  words() {
    const found = new Map();
    for (const frame of this.frames) {
      for (const { text, colour, area } of frame.words) {
        const word = found.get(text) ?? { text, colour, area: 0 };
        word.area += area;
        found.set(text, word);
      }
    }
    return [...found.values()].sort((a, b) => b.area - a.area);
  }
}

/** One evaluation; its fields are told in nodes/frames.py. */
export class Frame {
  constructor(message) {
    Object.assign(this, message);
    [this.height, this.width] = message.grid;
    this.labels = unpacked(message.labels);
    this.ratios = Float32Array.from(unpacked(message.ratios), (each) => each / 1000);
    this.picture = null;
  }

  /** Whether it can be drawn; if not, `whenReady` is called once it can. */
  ready(whenReady) {
    if (!this.preview || this.picture?.complete) return true;
    this.picture ??= new Image();
    this.picture.onload = this.picture.onerror = whenReady;
    if (!this.picture.src) this.picture.src = this.preview;
    return this.picture.complete;
  }

  /** The predicted picture, or null where there is none. */
  image() {
    return this.picture?.naturalWidth ? this.picture : null;
  }

  /** Number of the cell at (x, y), both in 0…1. */
  cell(x, y) {
    const row = Math.min(this.height - 1, Math.floor(y * this.height));
    return row * this.width + Math.min(this.width - 1, Math.floor(x * this.width));
  }

  wordAt(cell) {
    return this.words[this.labels[cell]];
  }

  /** A small canvas in the words' colours; where `solo` is a word, the others are left out. */
  regions(solo) {
    return this.#drawn((cell) => {
      const word = this.wordAt(cell);
      return [...word.colour, !solo || word.text === solo ? 255 : 0];
    });
  }

  /** A small canvas of the scales; where `solo` is a word, the others are faint. */
  scales(solo) {
    return this.#drawn((cell) => {
      const place = Math.log(Math.max(this.ratios[cell], 1e-3)) / this.span;
      return [...this.rampColour(place), !solo || this.wordAt(cell).text === solo ? 255 : 40];
    });
  }

  /** Colour of a place −1…1 of the ramp. */
  rampColour(place) {
    const at = ((Math.min(1, Math.max(-1, place)) + 1) / 2) * (this.ramp.length - 1);
    const low = Math.min(Math.floor(at), this.ramp.length - 2);
    return this.ramp[low].map((value, i) => value + (this.ramp[low + 1][i] - value) * (at - low));
  }

  #drawn(colourOf) {
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
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
}
