// The live view: a canvas with a run's regions and scales, a step slider and a clickable legend.

import * as parts from "./live_draw.js";

const HEIGHT = 270;
const PAD = 8;
const INSET = 4;
const OVERSAMPLING = 2;

export class LiveView {
  /** Minimum height in pixels. */
  static height = HEIGHT;

  /** `find` returns the Result to show, or null; `isOn` whether the live view is switched on. */
  constructor(find, isOn) {
    this.find = find;
    this.isOn = isOn;
    this.selected = null; // evaluation index chosen by the user; null follows the run
    this.solo = null; // text of the only word shown, or null
    this.pointer = null; // [x, y] on the canvas
    this.areas = []; // clickable parts of the drawing: {kind, box: [x, y, w, h], …}
    this.run = null;
    this.element = document.createElement("div");
    this.element.className = "scfg-live";
    this.canvas = document.createElement("canvas");
    Object.assign(this.element.style, {
      position: "relative",
      minHeight: `${HEIGHT - 2 * PAD}px`,
      overflow: "hidden",
      color: "var(--input-text, #ddd)",
    });
    Object.assign(this.canvas.style, { position: "absolute", inset: "0", width: "100%", height: "100%" });
    Object.assign(this.canvas.style, { touchAction: "none", outline: "none" }); // the slider's knob shows the focus
    this.canvas.tabIndex = 0;
    this.element.append(this.canvas);
    this.#listen();
    new ResizeObserver(() => this.refresh()).observe(this.element);
  }

  /** Draw with the next animation frame, once for any number of calls. */
  refresh() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  // ---- input

  #listen() {
    const on = (name, handler) => this.canvas.addEventListener(name, handler);
    on("pointerdown", (event) => this.#press(event));
    on("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) on(end, () => (this.dragging = false));
    on("pointerleave", () => this.#point(null));
    on("keydown", (event) => this.#key(event));
    on("focus", () => this.refresh());
    on("blur", () => this.refresh());
  }

  /** Position of an event in the drawing, in its pixels: the graph may be zoomed. */
  #position(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = this.canvas.clientWidth / box.width || 1;
    return [(event.clientX - box.left) * zoom - INSET, (event.clientY - box.top) * zoom - INSET];
  }

  #areaAt([x, y]) {
    return this.areas.find(({ box: [left, top, w, h] }) => x >= left && x < left + w && y >= top && y < top + h);
  }

  #press(event) {
    if (event.button !== 0) return;
    const position = this.#position(event);
    const area = this.#areaAt(position);
    if (area?.kind === "word") {
      this.solo = this.solo === area.text ? null : area.text;
      this.refresh();
    } else if (area?.kind === "slider") {
      this.dragging = true;
      this.canvas.setPointerCapture(event.pointerId);
      this.#slide(position[0]);
    }
  }

  #move(event) {
    const position = this.#position(event);
    if (this.dragging) this.#slide(position[0]);
    this.#point(position);
  }

  #point(position) {
    this.pointer = position;
    const kind = position && this.#areaAt(position)?.kind;
    this.canvas.style.cursor = kind === "image" ? "crosshair" : kind ? "pointer" : "default";
    this.refresh();
  }

  #slide(x) {
    const [left, , width] = this.areas.find(({ kind }) => kind === "slider").box;
    this.#select(Math.round(Math.min(1, Math.max(0, (x - left) / width)) * (this.#frames().length - 1)));
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.#frames().length) return;
    event.preventDefault();
    event.stopPropagation();
    this.#select(this.#current() + step);
  }

  /** Show the frame at `position` in the list; the last frame means: follow the run. */
  #select(position) {
    const frames = this.#frames();
    const index = Math.min(frames.length - 1, Math.max(0, position));
    this.selected = index === frames.length - 1 ? null : frames[index].index;
    this.refresh();
  }

  #frames() {
    return this.result?.frames ?? [];
  }

  /** Position of the shown frame in the list. */
  #current() {
    const found = this.#frames().findLastIndex((frame) => frame.index <= this.selected);
    return this.selected === null || found < 0 ? this.#frames().length - 1 : found;
  }

  // ---- drawing

  draw() {
    const size = [this.element.clientWidth, this.element.clientHeight];
    const [width, height] = size.map((length) => length - 2 * INSET);
    if (width <= 0 || height <= 0) return;
    this.result = this.find();
    if (this.result?.run !== this.run) [this.run, this.selected] = [this.result?.run, null];
    const frame = this.#frames()[this.#current()];
    if (frame && !frame.ready(() => this.refresh())) return; // keep the old drawing until the preview has loaded
    const pixelRatio = OVERSAMPLING * (window.devicePixelRatio || 1);
    const ink = getComputedStyle(this.element).color;
    const context = parts.clearedContext(this.canvas, ...size, INSET, pixelRatio, ink);
    this.element.dataset.frames = this.#frames().length;
    if (!frame) {
      this.areas = [];
      const text = this.isOn() ? "Run to see regions and scales here" : "The live view is turned off in the settings";
      parts.drawPlaceholder(context, text, width, height);
      this.#announce(text);
      return;
    }
    const hovered = this.#hovered(frame);
    this.#drawFrame(context, frame, hovered, width, height);
    this.#announce(description(frame, hovered), frame);
  }

  /** For screen readers: an image, or with a frame a slider over the steps. */
  #announce(text, frame) {
    const set = (name, value) => this.canvas.setAttribute(name, value);
    set("role", frame ? "slider" : "img");
    set("aria-label", text);
    if (!frame) return;
    set("aria-valuemin", 1);
    set("aria-valuemax", frame.steps);
    set("aria-valuenow", frame.step + 1);
    set("aria-valuetext", text);
  }

  /** From top to bottom: both images, their readouts, the slider, the legend. */
  #drawFrame(context, frame, hovered, width, height) {
    const words = this.result.words();
    if (!words.some(({ text }) => text === this.solo)) this.solo = null;
    const preview = frame.image();
    const aspect = preview ? preview.naturalWidth / preview.naturalHeight : frame.width / frame.height;
    const below = 5 * parts.LINE + 3 * PAD;
    const side = Math.min((width - PAD) / 2, (height - below) * aspect);
    const [left, right, tall] = [(width - PAD) / 2 - side, (width + PAD) / 2, side / aspect];
    const regions = parts.drawRegions(context, frame, preview, this.solo, [left, 0, side, tall]);
    const scales = parts.drawScales(context, frame, this.solo, [right, 0, side, tall]);
    let top = tall + PAD / 2;
    parts.drawReadout(context, hovered, this.solo, left, top, side);
    parts.drawRamp(context, frame, right, top, side);
    top += 2 * parts.LINE;
    const last = this.#frames().length - 1;
    const focused = document.activeElement === this.canvas;
    const slider = parts.drawSlider(context, frame, last ? this.#current() / last : 1, focused, top, width);
    top += parts.LINE + PAD;
    const legend = parts.drawLegend(context, frame, words, this.solo, top, width, height);
    this.areas = [regions, scales, slider, ...legend];
  }

  /** Word and scale under the pointer, or null. */
  #hovered(frame) {
    const area = this.pointer && this.#areaAt(this.pointer);
    if (area?.kind !== "image") return null;
    const [left, top, w, h] = area.box;
    const cell = frame.cell((this.pointer[0] - left) / w, (this.pointer[1] - top) / h);
    return { word: frame.wordAt(cell), scale: frame.ratios[cell] * frame.scale };
  }
}

/** A frame in words, for screen readers. */
function description(frame, hovered) {
  const step = `S-CFG, step ${frame.step + 1} of ${frame.steps}`;
  const entry = (word) => `${word.text}: ${parts.describe(word)}`;
  if (hovered) return `${step}. Here ${entry(hovered.word)}`;
  return `${step}. ${frame.words.map(entry).join("; ")}`;
}
