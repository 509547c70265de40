// The live view: one canvas that shows a run's regions and scales, a step slider, and a legend to click.

import * as parts from "./live_draw.js";

const HEIGHT = 270;
const PAD = 8;
const INSET = 4;
const SHARPNESS = 2;

export class LiveView {
  /** Least height that it needs. */
  static height = HEIGHT;

  /** `find` gives the Result to show, or null; `isOn` says whether frames are wanted. */
  constructor(find, isOn) {
    this.find = find;
    this.isOn = isOn;
    this.frame = null; // evaluation index that the user chose; null follows the newest
    this.solo = null; // text of a word
    this.pointer = null; // [x, y] on the canvas
    this.areas = []; // what can be pointed at, in the drawing: {kind, box: [x, y, w, h], …}
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

  /** Draw at the next chance; many calls make one drawing. */
  refresh() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  // ---- what the user does

  #listen() {
    const on = (name, act) => this.canvas.addEventListener(name, act);
    on("pointerdown", (event) => this.#press(event));
    on("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) on(end, () => (this.dragged = false));
    on("pointerleave", () => this.#point(null));
    on("keydown", (event) => this.#key(event));
    on("focus", () => this.refresh());
    on("blur", () => this.refresh());
  }

  /** Where an event is in the drawing, in its own pixels: the graph may be zoomed. */
  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const zoom = this.canvas.clientWidth / box.width || 1;
    return [(event.clientX - box.left) * zoom - INSET, (event.clientY - box.top) * zoom - INSET];
  }

  #under([x, y]) {
    return this.areas.find(({ box: [left, top, w, h] }) => x >= left && x < left + w && y >= top && y < top + h);
  }

  #press(event) {
    if (event.button !== 0) return;
    const place = this.#place(event);
    const area = this.#under(place);
    if (area?.kind === "word") {
      this.solo = this.solo === area.text ? null : area.text;
      this.refresh();
    } else if (area?.kind === "slider") {
      this.dragged = true;
      this.canvas.setPointerCapture(event.pointerId);
      this.#slide(place[0]);
    }
  }

  #move(event) {
    const place = this.#place(event);
    if (this.dragged) this.#slide(place[0]);
    this.#point(place);
  }

  #point(place) {
    this.pointer = place;
    const kind = place && this.#under(place)?.kind;
    this.canvas.style.cursor = kind === "picture" ? "crosshair" : kind ? "pointer" : "default";
    this.refresh();
  }

  #slide(x) {
    const [left, , width] = this.areas.find(({ kind }) => kind === "slider").box;
    this.#choose(Math.round(Math.min(1, Math.max(0, (x - left) / width)) * (this.#frames().length - 1)));
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !this.#frames().length) return;
    event.preventDefault();
    event.stopPropagation();
    this.#choose(this.#number() + step);
  }

  /** Show the number-th frame; the last one means: follow the run. */
  #choose(number) {
    const frames = this.#frames();
    const place = Math.min(frames.length - 1, Math.max(0, number));
    this.frame = place === frames.length - 1 ? null : frames[place].index;
    this.refresh();
  }

  #frames() {
    return this.result?.frames ?? [];
  }

  #number() {
    const chosen = this.#frames().findLastIndex((each) => each.index <= this.frame);
    return this.frame === null || chosen < 0 ? this.#frames().length - 1 : chosen;
  }

  // ---- drawing

  draw() {
    const size = [this.element.clientWidth, this.element.clientHeight];
    const [width, height] = size.map((each) => each - 2 * INSET);
    if (width <= 0 || height <= 0) return;
    this.result = this.find();
    if (this.result?.run !== this.run) [this.run, this.frame] = [this.result?.run, null];
    const frame = this.#frames()[this.#number()];
    if (frame && !frame.ready(() => this.refresh())) return; // what is there stays until the picture has come
    const sharpness = SHARPNESS * (window.devicePixelRatio || 1);
    const ink = getComputedStyle(this.element).color;
    const context = parts.prepared(this.canvas, ...size, INSET, sharpness, ink);
    this.element.dataset.frames = this.#frames().length;
    if (!frame) {
      this.areas = [];
      const text = this.isOn() ? "Run: regions and scales appear here" : "The live view is off in the settings";
      parts.drawInvitation(context, text, width, height);
      this.#say(text);
      return;
    }
    const told = this.#told(frame);
    this.#drawFrame(context, frame, told, width, height);
    this.#say(spoken(frame, told), frame);
  }

  /** To those who hear the page: an image, or with a frame a slider over the steps. */
  #say(text, frame) {
    const say = (name, value) => this.canvas.setAttribute(name, value);
    say("role", frame ? "slider" : "img");
    say("aria-label", text);
    if (!frame) return;
    say("aria-valuemin", 1);
    say("aria-valuemax", frame.steps);
    say("aria-valuenow", frame.step + 1);
    say("aria-valuetext", text);
  }

  /** From top to bottom: both pictures, what they tell, the slider, the legend. */
  #drawFrame(context, frame, told, width, height) {
    const words = this.result.words();
    if (!words.some(({ text }) => text === this.solo)) this.solo = null;
    const shown = frame.image();
    const aspect = shown ? shown.naturalWidth / shown.naturalHeight : frame.width / frame.height;
    const below = 5 * parts.LINE + 3 * PAD;
    const side = Math.min((width - PAD) / 2, (height - below) * aspect);
    const [left, right, tall] = [(width - PAD) / 2 - side, (width + PAD) / 2, side / aspect];
    const regions = parts.drawRegions(context, frame, shown, this.solo, [left, 0, side, tall]);
    const scales = parts.drawScales(context, frame, this.solo, [right, 0, side, tall]);
    let top = tall + PAD / 2;
    parts.drawReadout(context, told, this.solo, left, top, side);
    parts.drawRamp(context, frame, right, top, side);
    top += 2 * parts.LINE;
    const last = this.#frames().length - 1;
    const focused = document.activeElement === this.canvas;
    const slider = parts.drawSlider(context, frame, last ? this.#number() / last : 1, focused, top, width);
    top += parts.LINE + PAD;
    const legend = parts.drawLegend(context, frame, words, this.solo, top, width, height);
    this.areas = [regions, scales, slider, ...legend];
  }

  /** What is told of the place that is pointed at. */
  #told(frame) {
    const area = this.pointer && this.#under(this.pointer);
    if (area?.kind !== "picture") return null;
    const [left, top, w, h] = area.box;
    const cell = frame.cell((this.pointer[0] - left) / w, (this.pointer[1] - top) / h);
    return { word: frame.wordAt(cell), here: frame.ratios[cell] * frame.scale };
  }
}

/** The frame for those who hear it. */
function spoken(frame, told) {
  const step = `S-CFG, step ${frame.step + 1} of ${frame.steps}`;
  if (told) return `${step}. Here ${told.word.text}: ${parts.spelled(told.word)}`;
  return `${step}. ${frame.words.map((each) => `${each.text}: ${parts.spelled(each)}`).join("; ")}`;
}
