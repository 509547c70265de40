// The parts of the live view, drawn on its canvas; what can be pointed at is returned as areas {kind, box: [x, y, w, h], …}.
// Words are drawn as text; nothing here is ever markup.

export const LINE = 17;
const FONT = "12px Inter, Arial, sans-serif";
const SMALL = "10px Inter, Arial, sans-serif";
const OVERLAY = 0.65;
const WIDEST_WORD = 110;
const SWATCH = 11;
const SMOOTH_FROM = 64; // smaller previews are shown as the pixels they are

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

export const spelled = (word) => `${percent(word.area)} · mean γ ${word.scale.toFixed(2)}`;

/** A cleared context of a canvas, whose unit is one CSS pixel and whose origin is `inset` from the corner. */
export function prepared(canvas, width, height, inset, sharpness, ink) {
  const size = [Math.round(width * sharpness), Math.round(height * sharpness)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const context = canvas.getContext("2d");
  context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
  context.clearRect(0, 0, width, height);
  context.translate(inset, inset);
  return Object.assign(context, { font: FONT, textBaseline: "middle", textAlign: "left", fillStyle: ink });
}

export function drawInvitation(context, text, width, height) {
  context.save();
  Object.assign(context, { globalAlpha: 0.6, textAlign: "center" });
  context.fillText(text, width / 2, height / 2, width);
  context.restore();
}

/** The words' regions over the predicted picture. */
export function drawRegions(context, frame, shown, solo, box) {
  context.save();
  if (shown) {
    context.imageSmoothingEnabled = shown.naturalWidth > SMOOTH_FROM;
    context.filter = "grayscale(1)";
    context.drawImage(shown, ...box);
    context.filter = "none";
  }
  context.imageSmoothingEnabled = false;
  context.globalAlpha = shown ? OVERLAY : 1;
  context.drawImage(frame.regions(solo), ...box);
  context.globalAlpha = 0.9;
  drawBorders(context, frame, box);
  context.restore();
  return framed(context, box);
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
  return framed(context, box);
}

function framed(context, box) {
  context.save();
  Object.assign(context, { globalAlpha: 0.4, strokeStyle: context.fillStyle });
  context.strokeRect(...box);
  context.restore();
  return { kind: "picture", box };
}

/** Word, area and scales of the place that is pointed at, or what the picture above is. */
export function drawReadout(context, told, solo, left, top, width) {
  if (!told) {
    context.globalAlpha = 0.6;
    context.fillText(solo ? "click the word again for all" : "regions", left, top + LINE / 2, width);
    context.globalAlpha = 1;
    return;
  }
  drawSwatch(context, told.word.colour, left, top + LINE / 2);
  context.fillText(fitted(context, told.word.text, width - 16), left + 16, top + LINE / 2);
  context.font = SMALL;
  context.fillText(`${spelled(told.word)} · here ${told.here.toFixed(2)}`, left, top + 1.4 * LINE, width);
  context.font = FONT;
}

/** The colours of the scales, with the least, the sampler's own and the greatest. */
export function drawRamp(context, frame, left, top, width) {
  const gradient = context.createLinearGradient(left, 0, left + width, 0);
  frame.ramp.forEach((each, i) => gradient.addColorStop(i / (frame.ramp.length - 1), `rgb(${each})`));
  context.save();
  context.fillStyle = gradient;
  context.fillRect(left, top + 4, width, 8);
  context.restore();
  context.font = SMALL;
  for (const [place, align] of [[-1, "left"], [0, "center"], [1, "right"]]) {
    context.textAlign = align;
    const scale = (frame.scale * Math.exp(place * frame.span)).toFixed(2);
    context.fillText(place ? scale : `γ ${scale}`, left + ((place + 1) / 2) * width, top + 1.4 * LINE);
  }
  Object.assign(context, { font: FONT, textAlign: "left" });
}

/** The step slider; `share` 0…1 is where its knob stands. */
export function drawSlider(context, frame, share, focused, top, width) {
  const room = context.measureText(`step ${frame.steps} of ${frame.steps}`).width + 12;
  const [left, length, middle] = [8, width - room - 16, top + LINE / 2];
  context.globalAlpha = 0.35;
  context.fillRect(left, middle - 1.5, length, 3);
  context.globalAlpha = 1;
  context.fillRect(left, middle - 1.5, length * share, 3);
  context.beginPath();
  context.arc(left + length * share, middle, focused ? 7 : 6, 0, 2 * Math.PI);
  context.fill();
  if (focused) drawRing(context, left + length * share, middle);
  context.textAlign = "right";
  context.fillText(`step ${frame.step + 1} of ${frame.steps}`, width, middle);
  context.textAlign = "left";
  return { kind: "slider", box: [left, top, length, LINE] };
}

function drawRing(context, x, y) {
  context.save();
  Object.assign(context, { globalAlpha: 0.5, strokeStyle: context.fillStyle, lineWidth: 1.5 });
  context.beginPath();
  context.arc(x, y, 9.5, 0, 2 * Math.PI);
  context.stroke();
  context.restore();
}

/** Swatch, word and area of as many words as there is room for between `top` and `bottom`; then how many more. */
export function drawLegend(context, frame, words, solo, top, width, bottom) {
  const areaOf = new Map(frame.words.map((each) => [each.text, each.area]));
  const areas = [];
  let [x, y] = [0, top];
  for (const [number, { text, colour }] of words.entries()) {
    const [label, share] = [fitted(context, text, WIDEST_WORD), percent(areaOf.get(text) ?? 0)];
    const wide = context.measureText(label).width;
    const room = 21 + wide + context.measureText(share).width;
    const isLastRow = y + 2 * LINE > bottom;
    const forMore = isLastRow && number < words.length - 1 ? 34 : 0;
    if (x && x + room + forMore > width) {
      if (isLastRow) {
        context.globalAlpha = 0.6;
        context.fillText(`+${words.length - number}`, x, y + LINE / 2);
        context.globalAlpha = 1;
        return areas;
      }
      [x, y] = [0, y + LINE];
    }
    context.globalAlpha = (solo && solo !== text) || !areaOf.get(text) ? 0.4 : 1;
    drawSwatch(context, colour, x, y + LINE / 2);
    context.fillText(label, x + 16, y + LINE / 2);
    context.globalAlpha *= 0.65;
    context.fillText(share, x + 21 + wide, y + LINE / 2);
    context.globalAlpha = 1;
    areas.push({ kind: "word", text, box: [x, y, room, LINE] });
    x += room + 12;
  }
  return areas;
}

function drawSwatch(context, colour, left, middle) {
  context.save();
  context.fillStyle = `rgb(${colour})`;
  context.fillRect(left, middle - SWATCH / 2, SWATCH, SWATCH);
  context.restore();
}

/** The text, cut to a width. */
function fitted(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > width) letters.pop();
  return `${letters.join("")}…`;
}
