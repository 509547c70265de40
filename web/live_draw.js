// Draws the parts of the live view on its canvas; clickable parts return an area {kind, box: [x, y, w, h], …}.
// Words are drawn as text, never as markup.

export const LINE = 17;
const FONT = "12px Inter, Arial, sans-serif";
const SMALL = "10px Inter, Arial, sans-serif";
const OVERLAY = 0.65;
const MAX_WORD_WIDTH = 110;
const SWATCH = 11;
const SMOOTH_ABOVE = 64; // previews up to this width are shown as sharp pixels

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

export const describe = (word) => `${percent(word.area)} · mean γ ${word.scale.toFixed(2)}`;

/** A cleared 2D context in CSS pixels, with its origin `inset` pixels from the corner. */
export function clearedContext(canvas, width, height, inset, sharpness, ink) {
  const size = [Math.round(width * sharpness), Math.round(height * sharpness)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(inset, inset);
  return Object.assign(context, { font: FONT, textBaseline: "middle", textAlign: "left", fillStyle: ink });
}

export function drawPlaceholder(context, text, width, height) {
  context.save();
  Object.assign(context, { globalAlpha: 0.6, textAlign: "center" });
  context.fillText(text, width / 2, height / 2, width);
  context.restore();
}

/** The regions of the words over the predicted image. */
export function drawRegions(context, frame, preview, solo, box) {
  context.save();
  if (preview) {
    context.imageSmoothingEnabled = preview.naturalWidth > SMOOTH_ABOVE;
    context.filter = "grayscale(1)";
    context.drawImage(preview, ...box);
    context.filter = "none";
  }
  context.imageSmoothingEnabled = false;
  context.globalAlpha = preview ? OVERLAY : 1;
  context.drawImage(frame.regions(solo), ...box);
  context.globalAlpha = 0.9;
  drawBorders(context, frame, box);
  context.restore();
  return drawOutline(context, box);
}

/** White lines between the words. */
function drawBorders(context, { labels, width, height }, [left, top, w, h]) {
  const [cw, ch] = [w / width, h / height];
  context.beginPath();
  for (let cell = 0; cell < labels.length; cell++) {
    const [x, y] = [left + (cell % width) * cw, top + Math.floor(cell / width) * ch];
    if (cell % width && labels[cell] !== labels[cell - 1]) context.rect(x - 0.5, y - 0.5, 1, ch + 1);
    if (cell >= width && labels[cell] !== labels[cell - width]) context.rect(x - 0.5, y - 0.5, cw + 1, 1);
  }
  context.fillStyle = "#fff";
  context.fill();
}

export function drawScales(context, frame, solo, box) {
  context.imageSmoothingEnabled = false;
  context.drawImage(frame.scales(solo), ...box);
  return drawOutline(context, box);
}

function drawOutline(context, box) {
  context.save();
  Object.assign(context, { globalAlpha: 0.4, strokeStyle: context.fillStyle });
  context.strokeRect(...box);
  context.restore();
  return { kind: "image", box };
}

/** Word, area and scales under the pointer; without a pointer, the title of the image above. */
export function drawReadout(context, hovered, solo, left, top, width) {
  if (!hovered) {
    context.globalAlpha = 0.6;
    context.fillText(solo ? "click the word again to show all" : "regions", left, top + LINE / 2, width);
    context.globalAlpha = 1;
    return;
  }
  drawSwatch(context, hovered.word.colour, left, top + LINE / 2);
  context.fillText(ellipsis(context, hovered.word.text, width - 16), left + 16, top + LINE / 2);
  context.font = SMALL;
  context.fillText(`${describe(hovered.word)} · here ${hovered.scale.toFixed(2)}`, left, top + 1.4 * LINE, width);
  context.font = FONT;
}

/** The colour ramp with the minimum scale, the sampler's CFG scale and the maximum scale. */
export function drawRamp(context, frame, left, top, width) {
  const gradient = context.createLinearGradient(left, 0, left + width, 0);
  frame.ramp.forEach((colour, i) => gradient.addColorStop(i / (frame.ramp.length - 1), `rgb(${colour})`));
  context.save();
  context.fillStyle = gradient;
  context.fillRect(left, top + 4, width, 8);
  context.restore();
  context.font = SMALL;
  for (const [position, align] of [[-1, "left"], [0, "center"], [1, "right"]]) {
    context.textAlign = align;
    const scale = (frame.scale * Math.exp(position * frame.span)).toFixed(2);
    context.fillText(position ? scale : `γ ${scale}`, left + ((position + 1) / 2) * width, top + 1.4 * LINE);
  }
  Object.assign(context, { font: FONT, textAlign: "left" });
}

/** The step slider; `position` 0…1 is that of its knob. */
export function drawSlider(context, frame, position, focused, top, width) {
  const labelWidth = context.measureText(`step ${frame.steps} of ${frame.steps}`).width + 12;
  const [left, length, middle] = [8, width - labelWidth - 16, top + LINE / 2];
  context.globalAlpha = 0.35;
  context.fillRect(left, middle - 1.5, length, 3);
  context.globalAlpha = 1;
  context.fillRect(left, middle - 1.5, length * position, 3);
  context.beginPath();
  context.arc(left + length * position, middle, focused ? 7 : 6, 0, 2 * Math.PI);
  context.fill();
  if (focused) drawFocusRing(context, left + length * position, middle);
  context.textAlign = "right";
  context.fillText(`step ${frame.step + 1} of ${frame.steps}`, width, middle);
  context.textAlign = "left";
  return { kind: "slider", box: [left, top, length, LINE] };
}

function drawFocusRing(context, x, y) {
  context.save();
  Object.assign(context, { globalAlpha: 0.5, strokeStyle: context.fillStyle, lineWidth: 1.5 });
  context.beginPath();
  context.arc(x, y, 9.5, 0, 2 * Math.PI);
  context.stroke();
  context.restore();
}

/** Swatch, word and area of as many words as fit between `top` and `bottom`, then the number of the others. */
export function drawLegend(context, frame, words, solo, top, width, bottom) {
  const areaOf = new Map(frame.words.map((word) => [word.text, word.area]));
  const areas = [];
  let [x, y] = [0, top];
  for (const [index, { text, colour }] of words.entries()) {
    const [label, share] = [ellipsis(context, text, MAX_WORD_WIDTH), percent(areaOf.get(text) ?? 0)];
    const labelWidth = context.measureText(label).width;
    const entryWidth = 21 + labelWidth + context.measureText(share).width;
    const isLastRow = y + 2 * LINE > bottom;
    const reserved = isLastRow && index < words.length - 1 ? 34 : 0; // for “+n”
    if (x && x + entryWidth + reserved > width) {
      if (isLastRow) {
        context.globalAlpha = 0.6;
        context.fillText(`+${words.length - index}`, x, y + LINE / 2);
        context.globalAlpha = 1;
        return areas;
      }
      [x, y] = [0, y + LINE];
    }
    context.globalAlpha = (solo && solo !== text) || !areaOf.get(text) ? 0.4 : 1;
    drawSwatch(context, colour, x, y + LINE / 2);
    context.fillText(label, x + 16, y + LINE / 2);
    context.globalAlpha *= 0.65;
    context.fillText(share, x + 21 + labelWidth, y + LINE / 2);
    context.globalAlpha = 1;
    areas.push({ kind: "word", text, box: [x, y, entryWidth, LINE] });
    x += entryWidth + 12;
  }
  return areas;
}

function drawSwatch(context, colour, left, middle) {
  context.save();
  context.fillStyle = `rgb(${colour})`;
  context.fillRect(left, middle - SWATCH / 2, SWATCH, SWATCH);
  context.restore();
}

/** The text, shortened to a width. */
function ellipsis(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > width) letters.pop();
  return `${letters.join("")}…`;
}
