// The live view: a canvas with a run's regions and scales and a step slider; below it, as text of the page, a legend
// to click on, and a line about the run or about the place under the pointer.

import * as parts from "./live_draw.js";
import { Legend, describe, readout } from "./live_legend.js";

const HEIGHT = 300;
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
    this.areas = []; // parts of the drawing that react to the pointer: {kind, box: [x, y, w, h]}
    this.run = null;
    this.element = make("div", "scfg-live");
    this.element.style.minHeight = `${HEIGHT}px`;
    const images = (this.images = make("div", "scfg-images"));
    this.canvas = make("canvas", "");
    this.canvas.tabIndex = 0;
    this.empty = make("div", "scfg-empty");
    images.append(this.canvas, this.empty);
    this.legend = new Legend((text) => this.#choose(text));
    this.status = make("div", "scfg-status");
    this.element.append(images, this.legend.element, this.status);
    this.#listen();
    new ResizeObserver(() => this.refresh()).observe(images);
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
    if (this.#areaAt(position)?.kind !== "slider") return;
    this.dragging = true;
    this.canvas.setPointerCapture(event.pointerId);
    this.#slide(position[0]);
  }

  /** Show only this word, or all again. */
  #choose(text) {
    this.solo = this.solo === text ? null : text;
    this.refresh();
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
    const size = [this.canvas.clientWidth, this.canvas.clientHeight];
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
    if (frame) {
      this.#drawFrame(context, frame, width, height);
    } else {
      this.#drawNothing();
    }
  }

  /** Without a frame: why there is none. */
  #drawNothing() {
    const inactive = this.result && !this.result.active;
    const off = this.isOn() ? "Run to see regions and scales here" : "The live view is turned off in the settings";
    const text = inactive ? [this.result.status, this.result.remedy].filter(Boolean).join(". ") : off;
    this.areas = [];
    this.legend.clear();
    this.empty.textContent = text;
    this.status.textContent = inactive ? "" : (this.result?.status ?? "");
    this.status.title = "";
    this.#announce(text);
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

  /** From top to bottom: both images, the step and the colour ramp, the slider, the legend, the status. */
  #drawFrame(context, frame, width, height) {
    const words = this.result.words(frame);
    if (!words.some(({ text }) => text === this.solo)) this.solo = null;
    const preview = frame.image();
    const aspect = preview ? preview.naturalWidth / preview.naturalHeight : frame.width / frame.height;
    const below = 3 * parts.LINE + PAD / 2;
    this.images.style.flexBasis = `${(width - PAD) / 2 / aspect + below + 2 * INSET}px`;
    const side = Math.min((width - PAD) / 2, (height - below) * aspect);
    const [left, right, tall] = [(width - PAD) / 2 - side, (width + PAD) / 2, side / aspect];
    const regions = parts.drawRegions(context, frame, preview, this.solo, [left, 0, side, tall]);
    const scales = parts.drawScales(context, frame, this.solo, [right, 0, side, tall]);
    for (const box of [regions.box, scales.box]) parts.drawFollowed(context, frame, box);
    const under = tall + PAD / 2;
    parts.drawStep(context, frame, left, under, side);
    parts.drawRamp(context, frame, right, under, side);
    const last = this.#frames().length - 1;
    const position = last ? this.#current() / last : 1;
    const focused = document.activeElement === this.canvas;
    const slider = parts.drawSlider(context, position, focused, under + 2 * parts.LINE, width);
    this.areas = [regions, scales, slider];
    this.empty.textContent = "";
    this.legend.show(words, this.solo);
    this.#drawStatus(frame);
  }

  /** The word under the pointer, else how the run ended. */
  #drawStatus(frame) {
    const hovered = this.#hovered(frame);
    if (hovered) {
      this.status.replaceChildren(readout(hovered.word, hovered.scale));
    } else {
      this.status.textContent = this.solo ? "Click the word again to show all." : this.result.status;
    }
    this.status.title = this.result.status;
    this.#announce(description(frame, hovered?.word), frame);
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
  if (hovered) return `${step}. Here ${describe(hovered)}`;
  return `${step}. ${frame.words.map(describe).join("; ")}`;
}

function make(kind, name) {
  const element = document.createElement(kind);
  element.className = name;
  return element;
}
